"""A lean usage endpoint: `python -m benchmarks.endpoint ALIKE ORIGIN SPEED`; prints its port, counts its requests.

ALIKE answers have the same numbers. If that is 1, all numbers change each time; else one of them does, as at night: the
session has not started, the week does not move. `GET /count` returns how many answers were given.
"""

import json
import socket
import sys
from datetime import UTC, datetime, timedelta

from benchmarks.moment import fast_now
from parts.documents import sample_usage


def main(alike: int, origin: float, speed: float) -> None:
    """Answer until killed."""
    count = 0
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                request = b""
                while b"\r\n\r\n" not in request and (more := connection.recv(4096)):
                    request += more
                if request.startswith(b"GET /count"):
                    body = str(count).encode()
                elif request:
                    body = json.dumps(document(fast_now(origin, speed), count // alike, is_night=alike > 1)).encode()
                    count += 1
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
                connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)


def document(now: datetime, number: int, *, is_night: bool) -> dict[str, object]:
    """Return an answer with the `number`th numbers."""
    epoch = datetime(2026, 1, 5, tzinfo=UTC)
    week = epoch + timedelta(days=7) * ((now - epoch) // timedelta(days=7) + 1)
    session = epoch + timedelta(hours=5) * ((now - epoch) // timedelta(hours=5) + 1)
    if is_night:
        return sample_usage(now=now, five_hour=0, resets_at=None, seven_day_resets_at=week, scoped={"Opus": number % 9})
    return sample_usage(
        now=now,
        five_hour=number % 970 / 10,
        resets_at=session,
        seven_day=number % 9700 / 100,
        seven_day_resets_at=week,
        scoped={"Opus": number % 97},
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
