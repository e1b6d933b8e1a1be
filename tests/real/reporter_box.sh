#!/bin/bash
# Runs inside the box of the real Claude Code: a reporter next to it, and a service that has no login, against the fake API.
# Leaves in /out/NAME what was published by anybody, both logs, and which of Claude Code's processes were left.
. /opt/trial/inside.sh
PATH=$PATH:/usr/sbin
printf 'user root\nlistener 1883 127.0.0.1\nallow_anonymous true\n' > /tmp/mosquitto.conf

ours() { # ours COMMAND [VARIABLE=VALUE...]: our program, as the user
  local command=$1
  shift
  me MQTT_HOST=127.0.0.1 CLAUDE_CODE_COMMAND=/opt/cc/claude CLAUDE_API_URL=http://127.0.0.1:8080 POLL_INTERVAL=5 \
    MACHINE_NAME=laptop "$@" "$VENV/bin/python" -m claude_usage_mqtt $command
}

left() { # what of Claude Code is running
  for link in /proc/[0-9]*/exe; do
    case $(readlink "$link") in /opt/cc/*) echo "$link" ;; esac
  done
}

until_seen() { # until_seen NAME PATTERN: wait until a message has the pattern
  for _ in $(seq 300); do grep -qE "$2" "/out/$1/messages" && break; sleep 0.1; done
}

trial() { # trial NAME PATTERN [VARIABLE=VALUE...]: until a message has the pattern, then the machine loses its power
  local name=$1 pattern=$2 broker listener
  shift 2
  mkdir -p /out/$name
  mosquitto -c /tmp/mosquitto.conf > /dev/null 2>&1 &
  broker=$!
  for _ in $(seq 100); do mosquitto_sub -t x -E > /dev/null 2>&1 && break; sleep 0.05; done
  mosquitto_sub -t '#' -v > /out/$name/messages &
  listener=$!
  ours run CLAUDE_SOURCE=reporter CLAUDE_CONFIG_DIR=/home/me/nothing > /out/$name/service 2>&1 &
  ours report LOG_LEVEL=debug "$@" > /out/$name/reporter 2>&1 &
  until_seen $name "$pattern"
  for _ in $(seq 100); do left > /out/$name/left; [ -s /out/$name/left ] || break; sleep 0.1; done
  pkill -KILL -f 'claude_usage_mqtt report'
  until_seen $name '"status":"no_reporter","detail":"No machine'
  pkill -f 'claude_usage_mqtt run'
  cp $CFG/.credentials.json /out/$name/credentials
  cp /out/requests.jsonl /out/$name/requests
  : > /out/requests.jsonl
  kill $listener $broker
  wait $(jobs -p | grep -vx $FAKE) 2> /dev/null
}

login; mode '{}'
trial claude_code 'health ."status":"ok"' CLAUDE_SOURCE=claude-code

login -60; mode '{}'
trial expired 'health ."status":"ok"' CLAUDE_SOURCE=claude-code

login -60; mode '{}'
trial oauth 'health ."status":"ok"' CLAUDE_SOURCE=oauth
kill $FAKE
