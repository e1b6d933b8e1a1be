#!/bin/bash
# Runs inside the box of the real Claude Code: one service for each trial, with its own broker, against the fake API.
# Leaves in /out/NAME what was published, the log, the credentials file, and which processes were left.
. /opt/trial/inside.sh
PATH=$PATH:/usr/sbin
printf 'listener 1883 127.0.0.1\nallow_anonymous true\n' > /tmp/mosquitto.conf

as_me() { # as_me COMMAND...: like me, in place of the shell
  exec setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs env -i $CLEAN "$@"
}

ours() { # ours COMMAND [VARIABLE=VALUE...]: our program, as the user, in place of the shell
  local command=$1
  shift
  as_me MQTT_HOST=127.0.0.1 CLAUDE_CODE_COMMAND=/opt/cc/claude CLAUDE_API_URL=http://127.0.0.1:8080 POLL_INTERVAL=1 \
    CLAUDE_CODE_OAUTH_TOKEN= "$@" "$VENV/bin/python" -m claude_usage_mqtt $command
}

old_cache() { # Claude Code's last fetch was ten minutes ago
  "$PY/bin/python3" -I - <<'X'
import json, os
path = os.environ["CFG"] + "/.claude.json"
document = json.load(open(path))
document["cachedUsageUtilization"]["fetchedAtMs"] -= 600_000
json.dump(document, open(path, "w"))
X
  chown 1000:1000 $CFG/.claude.json
}

left() { # what of Claude Code is running
  for link in /proc/[0-9]*/exe; do
    case $(readlink "$link") in /opt/cc/*) echo "$link" ;; esac
  done
}

own_things() { # settings of the user: programs that would leave a trace in ran, and what hides the login or the usage
  local run='echo $0 >> /home/me/ran'
  cat > $CFG/settings.json <<X
{"hooks": {"SessionStart": [{"hooks": [{"type": "command", "command": "$run"}]}],
           "SessionEnd": [{"hooks": [{"type": "command", "command": "$run"}]}]},
 "env": {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"},
 "apiKeyHelper": "$run", "otelHeadersHelper": "$run", "statusLine": {"type": "command", "command": "$run"}}
X
  "$PY/bin/python3" -I - <<'X'
import json, os
path = os.environ["CFG"] + "/.claude.json"
document = json.load(open(path))
document["mcpServers"] = {"mine": {"type": "stdio", "command": "/bin/sh", "args": ["-c", "echo mcp >> /home/me/ran"]}}
json.dump(document, open(path, "w"))
X
  chown -R 1000:1000 $CFG
}

trial() { # trial NAME PATTERN [VARIABLE=VALUE...]: a service until a message has the pattern
  local name=$1 pattern=$2 broker listener service
  shift 2
  mkdir -p /out/$name
  (as_me "$(command -v mosquitto)" -c /tmp/mosquitto.conf) > /out/$name/broker 2>&1 &
  broker=$!
  for _ in $(seq 100); do mosquitto_sub -t x -E > /dev/null 2>&1 && break; sleep 0.05; done
  mosquitto_sub -t '#' -v > /out/$name/messages &
  listener=$!
  (ours run CLAUDE_SOURCE=claude-code LOG_LEVEL=debug "$@") > /out/$name/log 2>&1 &
  service=$!
  for _ in $(seq 300); do grep -qE "$pattern" /out/$name/messages && break; sleep 0.1; done
  kill $service
  wait $service
  left > /out/$name/left
  cp $CFG/.credentials.json /out/$name/credentials 2> /dev/null
  cp /out/requests.jsonl /out/$name/requests
  : > /out/requests.jsonl
  kill $listener $broker
  wait $listener $broker 2> /dev/null
}

login; own_things; mode '{}'
trial numbers 'health .*"status":"ok"'
(ours "once --json" CLAUDE_SOURCE=claude-code) > /out/once 2>&1
(ours check CLAUDE_SOURCE=claude-code) > /out/check 2>&1
cp /home/me/ran /out/ran 2> /dev/null || : > /out/ran

echo Hello | me timeout 20 claude -p > /dev/null 2>&1 # as usual they are run
cp /home/me/ran /out/ran_as_usual
rm $CFG/settings.json

login -60; mode '{}'
trial expired 'health .*"status":"ok"'

login -60; mode '{}'
trial oauth_expired '"source":"oauth"' CLAUDE_SOURCE=oauth

login -60; mode '{"token_status": 400}'
trial refused 'health .*"status":"no_credentials"'

login; mode '{"usage_status": 429}'
trial limited 'health .*"status":"rate_limited"'

login; mode '{}'; ask > /dev/null; old_cache; mode '{"usage_status": 500}'
trial failing 'health .*"status":"rate_limited"'

login; mode '{}'; rm $CFG/.credentials.json
trial logged_out 'health .*"status":"no_credentials"'
kill $FAKE
