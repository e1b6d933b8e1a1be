#!/bin/bash
# Runs inside the box of the real Claude Code: its terminal program with our status line, and a service with no other source.
# Leaves in /out what was published and when, what the line showed after each step, the log, and which processes were left.
. /opt/trial/inside.sh
PATH=$PATH:/usr/sbin
printf 'user root\nlistener 1883 127.0.0.1\nallow_anonymous true\n' > /tmp/mosquitto.conf

shows() { # shows NAME PATTERN: the bottom of the screen once it has the pattern; keeps what it is after 15 s otherwise
  for _ in $(seq 150); do tui_bottom 4 > /out/$1; grep -qE "$2" /out/$1 && break; sleep 0.1; done
}

mosquitto -c /tmp/mosquitto.conf > /dev/null 2>&1 &
for _ in $(seq 100); do mosquitto_sub -t x -E > /dev/null 2>&1 && break; sleep 0.05; done
mosquitto_sub -t '#' -F '%U %t %p' > /out/messages &
listener=$!
login; mode '{"headers": false}'
me MQTT_HOST=127.0.0.1 CLAUDE_SOURCE=statusline LOG_LEVEL=debug "$VENV/bin/python" -m claude_usage_mqtt run > /out/log 2>&1 &
cat > $CFG/settings.json <<X
{"env": {"MQTT_HOST": "127.0.0.1"},
 "statusLine": {"type": "command", "refreshInterval": 1,
   "command": "echo >> /home/me/runs; $VENV/bin/python -m claude_usage_mqtt statusline"}}
X
chown -R 1000:1000 $CFG
runs() { wc -l < /home/me/runs; }
until_rerun() { # until the command has run so many times more: Claude Code repeats the numbers each second
  local until=$(($(runs) + $1))
  for _ in $(seq 300); do [ "$(runs)" -ge $until ] && break; sleep 0.1; done
}

tui_start
shows before '5h –'
mode '{"u5": 0.8012, "u7": 0.95}'
tui_say "Say hello" 0
shows first '95%'
until_rerun 5
mode '{"u5": 0.1, "u7": 0.951}'
tui_say "Once more" 0
shows second '10%'
until_rerun 5
tui_stop
for _ in $(seq 100); do
  for each in /proc/[0-9]*; do
    tr '\0' ' ' 2> /dev/null < $each/cmdline | grep -E '^/opt/cc|statusline'
  done > /out/left
  [ -s /out/left ] || break
  sleep 0.1
done
pkill -f 'claude_usage_mqtt run'
for _ in $(seq 50); do grep -q '/status offline' /out/messages && break; sleep 0.1; done
runs > /out/runs
kill $listener $FAKE
