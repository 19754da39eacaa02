#!/usr/bin/env bash
# How long a reload takes while many connections live, and what new connections notice of it.
# Builds in release mode where needed. Everything it starts ends with it.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/reload-bench.sh [--connections N] [--reloads N] [--shards N]
    --connections N   live connections (default 9500; RLIMIT_NOFILE may allow fewer)
    --reloads N       reloads, every second one adds a listener and the next removes it (default 50)
    --shards N        (default 2)
TEXT
}

fail() {
    echo "reload-bench: $*" >&2
    exit 1
}

connections=9500
reloads=50
shards=2
while (($#)); do
    case $1 in
        --connections | --reloads | --shards)
            [[ ${2-} =~ ^[1-9][0-9]{0,5}$ ]] || fail "$1 wants a positive number"
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target_dir=${CARGO_TARGET_DIR:-$root/target}
arus=${ARUS:-$target_dir/release/arus}
bench=${ARUS_BENCH:-$target_dir/release/arus-bench}
if [[ ! -x $arus || ! -x $bench ]]; then
    (cd "$root" && cargo build --release --workspace) || fail "cannot build"
fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/arus-reload.XXXXXX")
pids=()
cleanup() {
    local pid
    trap '' INT TERM HUP
    for pid in "${pids[@]}"; do
        # Still a child of this shell, and so nobody else's.
        if [[ $'\n'$(jobs -pr)$'\n' == *$'\n'"$pid"$'\n'* ]]; then kill -TERM "$pid" 2>/dev/null || true; fi
    done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# await FILE PATTERN: waits for a line, and prints what the pattern's group matched.
await() {
    local file=$1 pattern=$2 line tries
    for ((tries = 0; tries < 3000; tries++)); do
        line=$(grep -Em1 -- "$pattern" "$file" 2>/dev/null || true)
        if [[ $line =~ $pattern ]]; then
            echo "${BASH_REMATCH[1]-}"
            return
        fi
        sleep 0.02
    done
    fail "no line like \"$pattern\" in $(tail -n 5 "$file")"
}

ulimit -n "$(ulimit -Hn)"
"$bench" backend --listen 127.0.0.1:0 >"$dir/backend.log" 2>&1 </dev/null &
pids+=($!)
backend=$(await "$dir/backend.log" 'listening ([0-9.:]+)')

# The file is made beside and moved: the watcher sees each version whole.
configure() {
    cat >"$dir/next.toml" <<TOML
[engine]
shards = $shards
state_dir = "$dir/state"
drain_timeout = "0"
[log]
access = "off"
[[upstream]]
name = "app"
backends = ["$backend"]
[[listener]]
name = "web"
listen = "127.0.0.1:0"
upstream = "app"
$1
TOML
    mv "$dir/next.toml" "$dir/proxy.toml"
}

configure ""
"$arus" --config "$dir/proxy.toml" >/dev/null 2>"$dir/arus.log" </dev/null &
pids+=($!)
await "$dir/arus.log" ' (ready) ' >/dev/null
web=$(await "$dir/arus.log" 'listening listener=web address=([0-9.:]+)')

# Holds its connections until its standard input ends.
mkfifo "$dir/hold"
"$bench" load idle --target "$web" --cpus 0 --before "$connections" --connections 1 --handshake \
    <"$dir/hold" >"$dir/idle.out" 2>&1 &
pids+=($!)
exec 9>"$dir/hold"
await "$dir/idle.out" '(ready)' >/dev/null

live=$("$arus" status --config "$dir/proxy.toml" | sed -nE 's/^connections ([0-9]+) of.*/\1/p')
((live >= connections)) || fail "only $live of $connections connections live"

"$bench" load conn --target "$web" --cpus 0 --in-flight 2 --seconds "$((reloads / 10 + 1))" --warmup 0.1 \
    >"$dir/conn.out" 2>&1 </dev/null &
conn=$!
pids+=("$conn")
for ((n = 1; n <= reloads; n++)); do
    extra=""
    if ((n % 2)); then extra=$'[[listener]]\nname = "extra"\nlisten = "127.0.0.1:0"\nupstream = "app"'; fi
    configure "$extra"
    "$arus" reload --config "$dir/proxy.toml" >/dev/null
    sleep 0.1 # a pace: ten a second
done
wait "$conn" || fail "new connections: $(tail -n 3 "$dir/conn.out")"

still=$("$arus" status --config "$dir/proxy.toml" | sed -nE 's/^connections ([0-9]+) of.*/\1/p')
((still >= connections)) || fail "only $still of $connections connections are left"

grep -oE ' took_ms=[0-9.]+' "$dir/arus.log" | cut -d= -f2 | sort -n >"$dir/took"
at() { sed -n "$(((($(wc -l <"$dir/took") - 1) * $1) / 100 + 1))p" "$dir/took"; }
errors=$(sed -nE 's/.*"errors":([0-9]+).*/\1/p' "$dir/conn.out")
requests=$(sed -nE 's/.*"requests":([0-9]+).*/\1/p' "$dir/conn.out")
worst=$(sed -nE 's/.*"max_us":([0-9.]+).*/\1/p' "$dir/conn.out")
printf '%s live connections, %s shards, %s reloads: median %s ms, p99 %s ms, worst %s ms\n' \
    "$still" "$shards" "$(wc -l <"$dir/took")" "$(at 50)" "$(at 99)" "$(at 100)"
printf 'meanwhile %s new connections, %s failed, slowest exchange %s us\n' "$requests" "$errors" "$worst"
((errors == 0)) || fail "connections failed: $(cat "$dir/conn.out")"
