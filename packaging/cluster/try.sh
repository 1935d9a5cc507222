#!/usr/bin/env bash
# A whole cluster on this machine, for trying: Postgres, RabbitMQ and Redis of its own, gateways and
# workers. Everything is below one folder and on free ports; ^C ends and removes it.
#
#   packaging/cluster/try.sh                 two gateways, two workers, until ^C
#   GATEWAYS=3 WORKERS=1 packaging/cluster/try.sh
#   packaging/cluster/try.sh --once          shows a message crossing from one gateway to another, and ends
#   ESH3AR=target/release/esh3ar packaging/cluster/try.sh --measure '--senders 384' '--rate 5000'
#                                            what esh3ar bench finds with each of these, and what a message
#                                            costs in every part, in microseconds of CPU
set -euo pipefail

gateways=${GATEWAYS:-2}
workers=${WORKERS:-2}
once= measure=
[ "${1:-}" = --once ] && once=yes
[ "${1:-}" = --measure ] && measure=yes && shift
esh3ar=${ESH3AR:-$(cd "$(dirname "$0")/../.." && pwd)/target/debug/esh3ar}
[ -x "$esh3ar" ] || { echo "error: $esh3ar is not there; hint: make build" >&2; exit 69; }

for tool in redis-server /usr/lib/rabbitmq/bin/rabbitmq-server curl; do
    command -v "$tool" >/dev/null || { echo "error: $tool is missing; hint: packaging/setup/install-tools.sh cluster" >&2; exit 69; }
done
shopt -s nullglob
postgres=$(printf '%s\n' /usr/lib/postgresql/*/bin /usr/pgsql-*/bin | sort -V | tail -n 1)
[ -n "$postgres" ] || { echo "error: Postgres is missing; hint: packaging/setup/install-tools.sh cluster" >&2; exit 69; }

folder=$(mktemp -d /tmp/esh3ar-cluster.XXXXXX)
chmod 755 "$folder"
user=
if [ "$(id -u)" -eq 0 ]; then
    # Postgres never runs as root, and neither does esh3ar.
    user=esh3ar
    chown "$user" "$folder"
fi
as_user() { if [ -n "$user" ]; then setpriv --reuid "$user" --regid "$user" --clear-groups env HOME="$folder" "$@"; else "$@"; fi; }
# For what goes on in the background: its process is the one that is told to end, and no shell before it.
become() { if [ -n "$user" ]; then exec setpriv --reuid "$user" --regid "$user" --clear-groups env HOME="$folder" "$@"; else exec "$@"; fi; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

pids=() ours=()
end() {
    trap - EXIT INT TERM
    echo
    echo "Ending the cluster …"
    # First who uses the engines, then the engines.
    for pid in "${ours[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${ours[@]}"; do wait "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    [ -z "${epmd:-}" ] || env ERL_EPMD_PORT="$epmd" epmd -kill >/dev/null 2>&1 || true
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    [ -n "${KEEP:-}" ] && echo "Kept: $folder" || rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT TERM

# Waits for a condition, and says what did not come.
until_it() {
    local what=$1 left=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || { echo "error: $what did not come up; hint: see $folder (KEEP=1 keeps it)" >&2; exit 69; }
        sleep 0.5
    done
}

echo "Starting in $folder …"
pg=$(free_port)
as_user "$postgres/initdb" -D "$folder/postgres" -U esh3ar --auth=trust -E UTF8 --locale=C -k >"$folder/initdb.log" 2>&1
become "$postgres/postgres" -D "$folder/postgres" -p "$pg" -k "$folder" -h 127.0.0.1 -c max_connections=200 >"$folder/postgres.log" 2>&1 &
pids+=($!)
until_it Postgres 60 "$postgres/pg_isready" -q -h 127.0.0.1 -p "$pg"
"$postgres/createdb" -h 127.0.0.1 -p "$pg" -U esh3ar esh3ar

redis=$(free_port)
redis-server --port "$redis" --bind 127.0.0.1 --save '' --dir "$folder" >"$folder/redis.log" 2>&1 &
pids+=($!)
until_it Redis 60 redis-cli -p "$redis" ping

amqp=$(free_port) dist=$(free_port) epmd=$(free_port)
mkdir -p "$folder/rabbit"
printf '%s\n' "listeners.tcp.1 = 127.0.0.1:$amqp" 'loopback_users = none' 'log.console = true' 'log.file = false' \
    'vm_memory_high_watermark.absolute = 512MiB' 'disk_free_limit.absolute = 50MB' >"$folder/rabbit/rabbitmq.conf"
echo '[].' >"$folder/rabbit/enabled_plugins"
env HOME="$folder/rabbit" RABBITMQ_NODENAME="try$amqp@localhost" RABBITMQ_MNESIA_BASE="$folder/rabbit/mnesia" \
    RABBITMQ_LOG_BASE="$folder/rabbit/log" RABBITMQ_PID_FILE="$folder/rabbit/pid" \
    RABBITMQ_CONFIG_FILE="$folder/rabbit/rabbitmq.conf" RABBITMQ_CONF_ENV_FILE="$folder/rabbit/none" \
    RABBITMQ_ADVANCED_CONFIG_FILE="$folder/rabbit/none.config" RABBITMQ_ENABLED_PLUGINS_FILE="$folder/rabbit/enabled_plugins" \
    RABBITMQ_DIST_PORT="$dist" ERL_EPMD_PORT="$epmd" ERL_EPMD_ADDRESS=127.0.0.1 \
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}' \
    /usr/lib/rabbitmq/bin/rabbitmq-server >"$folder/rabbit.log" 2>&1 &
pids+=($!)
until_it RabbitMQ 240 grep -q 'Server startup complete' "$folder/rabbit.log"

if [ -n "$measure" ]; then
    # What the load would run into.
    limits=$(printf '[limits]\nmessages_per_minute = 0\nmessages_per_hour = 0\nmessages_per_second = 0\nqueue_depth = 0\nconnects_per_user_per_minute = 0\nconnects_per_business_user_per_minute = 0\nconversations_per_user_per_hour = 0\nconversations_per_business_user_per_hour = 0\nwrites_per_user_per_minute = 0\nwrites_per_business_user_per_minute = 0\nadmin_requests_per_minute = 0\n[log]\nlevel = "warn"')
fi
cat >"$folder/esh3ar.toml" <<EOF
[database]
url = "postgres://esh3ar@127.0.0.1:$pg/esh3ar"
[queue]
url = "amqp://guest:guest@127.0.0.1:$amqp"
[cache]
url = "redis://127.0.0.1:$redis"
[metrics]
listen = "127.0.0.1:0"
${limits:-}
EOF
chmod 644 "$folder/esh3ar.toml"

bases=()
for n in $(seq "$gateways"); do
    port=$(free_port)
    become "$esh3ar" --config "$folder/esh3ar.toml" --data-dir "$folder/gateway$n" serve --listen "127.0.0.1:$port" >"$folder/gateway$n.log" 2>&1 &
    ours+=($!)
    bases+=("http://127.0.0.1:$port")
    until_it "gateway $n" 60 curl -sf "http://127.0.0.1:$port/health/ready"
done
for n in $(seq "$workers"); do
    become "$esh3ar" --config "$folder/esh3ar.toml" --data-dir "$folder/worker$n" worker >"$folder/worker$n.log" 2>&1 &
    ours+=($!)
done
# CPU of a process and all that it started, in hundredths of a second.
spent() {
    local all=$1 next
    next=$all
    while next=$(pgrep -d ' ' -P "${next// /,}"); do all="$all $next"; done
    local pid sum=0
    for pid in $all; do
        # One that ends meanwhile is in what its parent has spent.
        sum=$((sum + $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | awk '{ n = $12 + $13 + $14 + $15 } END { print n + 0 }')))
    done
    echo "$sum"
}
costs() {
    local at=0 part
    for part in postgres redis rabbitmq; do
        echo "$part $(spent "${pids[at]}")"
        at=$((at + 1))
    done
    for at in "${!ours[@]}"; do
        [ "$at" -lt "$gateways" ] && part=gateways || part=workers
        echo "$part $(spent "${ours[at]}")"
    done
}
stored() { "$postgres/psql" -h 127.0.0.1 -p "$pg" -U esh3ar -d esh3ar -Atc 'SELECT count(*) FROM messages'; }
if [ -n "$measure" ]; then
    urls=$(IFS=,; echo "${bases[*]}")
    for arguments in "$@"; do
        sleep 2
        before=$(costs) count=$(stored)
        # shellcheck disable=SC2086 # several words
        as_user "$esh3ar" --config "$folder/esh3ar.toml" --data-dir "$folder/command" -o json bench --url "$urls" $arguments >"$folder/bench.json"
        count=$(($(stored) - count))
        printf '%s\n%s\n' "$before" "$(costs)" | python3 -c '
import json, sys
figures = json.load(open(sys.argv[1]))
lines = [line.split() for line in sys.stdin]
spent = {}
for place, (part, hundredths) in enumerate(lines):
    spent[part] = spent.get(part, 0) + int(hundredths) * (1 if place >= len(lines) // 2 else -1)
print("== esh3ar bench " + sys.argv[2])
print(json.dumps(figures))
count = int(sys.argv[3])
parts = {part: round(hundredths * 10_000 / count, 1) for part, hundredths in spent.items()}
print("CPU a message, in microseconds:", ", ".join(f"{part} {cost}" for part, cost in parts.items()), "| in all", round(sum(parts.values()), 1))
' "$folder/bench.json" "$arguments" "$count"
    done
    exit 0
fi
run() { as_user "$esh3ar" -q --config "$folder/esh3ar.toml" --data-dir "$folder/command" "$@"; }
number() { sed -n "s/.*\"$1\": \"\\([^\"]*\\)\".*/\\1/p"; }
run user add Shop --permission SendMessages,Chat,Admin >/dev/null
run mobile add +967771234567 --verified >/dev/null
shop=$(run token create --user Shop -o json | number token)
phone=$(run token create --mobile +967771234567 -o json | number token)

echo
for n in $(seq "$gateways"); do echo "  gateway $n  ${bases[n - 1]}"; done
echo "  workers    $workers"
echo "  commands   $esh3ar --config $folder/esh3ar.toml"
echo
first=${bases[0]} last=${bases[$((gateways - 1))]}
echo "The phone +967771234567 listens at the last gateway, $last; the shop sends through the first, $first."
become "$esh3ar" --config "$folder/esh3ar.toml" --data-dir "$folder/command" listen --url "$last" --token "$phone" ${once:+--count 1} >"$folder/phone.log" 2>&1 &
listener=$!
[ -n "$once" ] || ours+=("$listener")
until_it "the phone's connection" 60 grep -q connected "$folder/phone.log"
sent=$(curl -s "$first/api/v1/messages" -H "Authorization: Bearer $shop" -H 'Content-Type: application/json' \
    -d '{"to": "+967771234567", "content": "Hello across the cluster"}')
echo "  $sent"
until_it "the message" 60 grep -q 'Hello across the cluster' "$folder/phone.log"
sed 's/^/  phone: /' "$folder/phone.log"
if [ -n "$once" ]; then
    wait "$listener"
    exit 0
fi
cat <<EOF

Another one:

  curl -s $first/api/v1/messages -H 'Authorization: Bearer $shop' -H 'Content-Type: application/json' \\
       -d '{"to": "+967771234567", "content": "Another one"}'

What the phone gets:   tail -f $folder/phone.log
Logs:                  $folder/*.log
^C ends the cluster and removes the folder.
EOF
wait
