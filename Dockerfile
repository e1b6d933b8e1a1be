# claude-usage-mqtt, for amd64, arm64 and arm/v7: everything with machine code in it (pydantic-core) has wheels for these.
FROM python:3.13-slim AS build
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m venv --without-pip /app \
 && python -m pip --python /app/bin/python install --no-cache-dir --no-compile --only-binary :all: --no-binary claude-usage-mqtt .
# Bytecode that is never compared with its source: the image's files do not change, and their times say nothing.
RUN /app/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /app/lib


FROM python:3.13-slim
LABEL org.opencontainers.image.title="claude-usage-mqtt" \
      org.opencontainers.image.description="Publishes the usage of Claude subscriptions over MQTT, for Home Assistant and Node-RED." \
      org.opencontainers.image.url="https://github.com/claude-usage-mqtt/claude-usage-mqtt" \
      org.opencontainers.image.licenses="MIT"
# Nothing is installed when it runs: what would only add attack surface is removed.
RUN rm -rf /usr/local/bin/pip* /usr/local/lib/python3.*/ensurepip /usr/local/lib/python3.*/site-packages/pip*
COPY --from=build /app /app

# Claude Code's folder goes here, read-only. Only their owner can read the credentials, so the container has to run as
# that user: 1000 is the first user of most systems, and `--user` (compose: `user:`) takes any other.
# One heap for all threads: with one for each, the C library keeps the largest use of each one forever. Large blocks are
# returned to the system at once: by default, the library keeps twice the largest block it ever saw.
ENV CLAUDE_CONFIG_DIR=/claude \
    MALLOC_ARENA_MAX=1 \
    MALLOC_MMAP_THRESHOLD_=131072 \
    MALLOC_TRIM_THRESHOLD_=131072 \
    PYTHONDONTWRITEBYTECODE=1
USER 1000:1000

# It is process 1 itself, stops at SIGTERM within 3 s, writes one small file to /dev/shm and nothing else.
HEALTHCHECK --interval=60s --timeout=10s --start-period=20s --retries=2 CMD ["/app/bin/claude-usage-mqtt", "healthcheck"]
ENTRYPOINT ["/app/bin/claude-usage-mqtt"]
CMD ["run"]
