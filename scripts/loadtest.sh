#!/usr/bin/env bash
# Compares arus with HAProxy and nginx (stream) where they are installed: wrk for requests, iperf3
# for throughput, the same CPUs for every proxy, the other CPUs for load and backends.
# Prints one table. Everything it starts ends with it.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/loadtest.sh [--shards N] [--duration S] [--connections C]
    --shards N        shards, threads or workers of every proxy (default 1)
    --duration S      seconds of each measurement (default 5)
    --connections C   keep-alive connections of wrk (default 64)
TEXT
}

fail() {
    echo "loadtest: $*" >&2
    exit 1
}

shards=1
duration=5
connections=64
while (($#)); do
    case $1 in
        --shards | --duration | --connections)
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
PATH=$PATH:/usr/sbin:/usr/local/sbin
for tool in wrk iperf3 nginx curl ss taskset; do
    if ! command -v "$tool" >/dev/null; then
        "$root/scripts/install-deps.sh"
        break
    fi
done

target_dir=${CARGO_TARGET_DIR:-$root/target}
arus=$target_dir/release/arus
if [[ ! -x $arus ]]; then
    (cd "$root" && cargo build --release) || fail "cannot build arus"
fi

# ---- children: each is ours, known by its PID, and ends with this script ----

dir=$(mktemp -d "${TMPDIR:-/tmp}/arus-loadtest.XXXXXX")
pids=()
cgroups=()

# Whether a PID is still a running child of this shell, and so nobody else's.
is_running() {
    [[ $'\n'$(jobs -pr)$'\n' == *$'\n'"$1"$'\n'* ]]
}

# Ends children: politely, then not.
end_children() {
    local pid tries
    for pid; do
        if is_running "$pid"; then kill -TERM "$pid" 2>/dev/null || true; fi
    done
    for pid; do
        for ((tries = 0; tries < 100; tries++)); do
            is_running "$pid" || break
            sleep 0.02
        done
        if is_running "$pid"; then kill -KILL "$pid" 2>/dev/null || true; fi
        wait "$pid" 2>/dev/null || true
    done
}

cleanup() {
    local pid cgroup tries
    trap '' INT TERM HUP
    end_children "${pids[@]}"
    for cgroup in "${cgroups[@]}"; do
        # A worker may outlive its master by a moment; only our offspring is in here.
        for ((tries = 0; tries < 50; tries++)); do
            rmdir "$cgroup" 2>/dev/null && break
            while read -r pid; do
                kill -KILL "$pid" 2>/dev/null || true
            done <"$cgroup/cgroup.procs"
            sleep 0.02
        done
    done
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME CPUS COMMAND...: sets `started` to the PID.
start() {
    local name=$1 cpus=$2 cgroup
    shift 2
    cgroup=$(make_cgroup "$name")
    [[ -z $cgroup ]] || cgroups+=("$cgroup")
    (
        [[ -z $cgroup ]] || echo "$BASHPID" >"$cgroup/cgroup.procs"
        exec taskset -c "$cpus" "$@"
    ) </dev/null >"$dir/$name.log" 2>&1 &
    started=$!
    pids+=("$started")
}

# Runs a load program to its end, in the background so that a signal is taken at once.
run_load() {
    local name=$1
    shift
    taskset -c "$load_cpus" "$@" </dev/null >"$dir/$name.out" 2>&1 &
    local pid=$!
    pids+=("$pid")
    wait "$pid" || fail "$name failed: $(tail -n 3 "$dir/$name.out")"
    # Reaped: its PID may be somebody else's from now on.
    unset 'pids[-1]'
}

# ---- CPU time of a process tree, in microseconds ----

cgroup_parent=
cgroup_is_v2=
find_cgroup_parent() {
    local candidate
    for candidate in /sys/fs/cgroup/cpuacct /sys/fs/cgroup/cpu,cpuacct; do
        if [[ -f $candidate/cpuacct.usage && -w $candidate ]]; then
            cgroup_parent=$candidate
            return
        fi
    done
    for candidate in /sys/fs/cgroup /sys/fs/cgroup/unified; do
        if [[ -f $candidate/cgroup.controllers && -w $candidate ]]; then
            cgroup_parent=$candidate
            cgroup_is_v2=yes
            return
        fi
    done
}

make_cgroup() {
    local cgroup=$cgroup_parent/arus-loadtest-$$-$1
    if [[ -n $cgroup_parent ]] && mkdir "$cgroup" 2>/dev/null; then
        echo "$cgroup"
    fi
}

# cpu_us NAME PID
cpu_us() {
    local cgroup=$cgroup_parent/arus-loadtest-$$-$1
    if [[ -n $cgroup_parent && -d $cgroup ]]; then
        if [[ -n $cgroup_is_v2 ]]; then
            awk '$1 == "usage_usec" { print $2 }' "$cgroup/cpu.stat"
        else
            echo $(($(<"$cgroup/cpuacct.usage") / 1000))
        fi
        return
    fi
    tree_ticks "$2" | awk -v hz="$(getconf CLK_TCK)" '{ ticks += $1 } END { printf "%d\n", ticks * 1e6 / hz }'
}

# User and system ticks of a process and its descendants, one line each.
tree_ticks() {
    local child
    # The name may hold blanks; the fields after its closing parenthesis do not.
    sed 's/^.*) //' "/proc/$1/stat" 2>/dev/null | awk '{ print $12 + $13 + $14 + $15 }' || true
    for child in $(cat "/proc/$1/task/"*/children 2>/dev/null || true); do
        tree_ticks "$child"
    done
}

# ---- ports and readiness ----

free_port() {
    local port
    while :; do
        # Below the kernel's dialling ports.
        port=$((20000 + RANDOM % 12000))
        if [[ -z $(ss -Hltn "sport = :$port") && " ${used_ports-} " != *" $port "* ]]; then
            used_ports="${used_ports-} $port"
            taken=$port
            return
        fi
    done
}

# wait_accepting NAME PID PORT
wait_accepting() {
    local tries
    for ((tries = 0; tries < 500; tries++)); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$3") 2>/dev/null; then
            return
        fi
        is_running "$2" || break
        sleep 0.02
    done
    fail "$1 does not listen on port $3: $(tail -n 5 "$dir/$1.log")"
}

# ---- backends ----

cpus=$(nproc)
proxy_count=$((cpus / 2 < 1 ? 1 : cpus / 2))
proxy_count=$((shards < proxy_count ? shards : proxy_count))
load_count=$((cpus > proxy_count ? cpus - proxy_count : 1))
proxy_cpus=0-$((proxy_count - 1))
load_cpus=$((cpus - load_count))-$((cpus - 1))
find_cgroup_parent

free_port && http_port=$taken
free_port && iperf_port=$taken
body=$(printf 'x%.0s' {1..1023})
cat >"$dir/backend.conf" <<TEXT
daemon off;
worker_processes $load_count;
worker_rlimit_nofile 65536;
pid $dir/backend.pid;
error_log stderr crit;
$( ((EUID == 0)) && echo 'user root;')
events { worker_connections 8192; }
http {
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    client_body_temp_path $dir/body; proxy_temp_path $dir/proxy; fastcgi_temp_path $dir/fastcgi;
    uwsgi_temp_path $dir/uwsgi; scgi_temp_path $dir/scgi;
    server {
        listen 127.0.0.1:$http_port backlog=4096;
        location / { default_type text/plain; return 200 "$body\n"; }
    }
}
TEXT
start backend "$load_cpus" nginx -c "$dir/backend.conf" -e stderr
wait_accepting backend "$started" "$http_port"
start iperf3 "$load_cpus" iperf3 --server --bind 127.0.0.1 --port "$iperf_port"
iperf3_pid=$started
for ((tries = 0; tries < 250; tries++)); do
    # Looked up, not tried: iperf3 takes every connection for a test.
    [[ -z $(ss -Hltn "sport = :$iperf_port") ]] || break
    is_running "$iperf3_pid" || fail "iperf3: $(<"$dir/iperf3.log")"
    sleep 0.02
done

# ---- proxies: equal buffers, workers, limits and timeouts; no logging ----

configure_arus() {
    cat >"$dir/arus.toml" <<TEXT
[engine]
shards = $shards
state_dir = "$dir/state"
[log]
access = "off"
[admin]
listen = "off"
socket = "$dir/control.sock"
[[listener]]
name = "http"
listen = "127.0.0.1:$1"
service = "tcp"
upstream = "http"
[[listener]]
name = "iperf3"
listen = "127.0.0.1:$2"
service = "tcp"
upstream = "iperf3"
[[upstream]]
name = "http"
backends = ["127.0.0.1:$http_port"]
[[upstream]]
name = "iperf3"
backends = ["127.0.0.1:$iperf_port"]
TEXT
    command=("$arus" run -c "$dir/arus.toml" --shards "$shards")
}

configure_haproxy() {
    cat >"$dir/haproxy.cfg" <<TEXT
global
    nbthread $((shards < 64 ? shards : 64))
    maxconn 9000
    tune.bufsize 16384
defaults
    mode tcp
    maxconn 9000
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen http
    bind 127.0.0.1:$1 backlog 4096
    server backend 127.0.0.1:$http_port
listen iperf3
    bind 127.0.0.1:$2 backlog 4096
    server backend 127.0.0.1:$iperf_port
TEXT
    command=(haproxy -db -f "$dir/haproxy.cfg")
}

nginx_stream=
for modules in /usr/lib/nginx/modules /usr/lib64/nginx/modules; do
    if [[ -f $modules/ngx_stream_module.so ]]; then
        nginx_stream=$modules/ngx_stream_module.so
        break
    fi
done

configure_nginx() {
    cat >"$dir/nginx.conf" <<TEXT
load_module $nginx_stream;
daemon off;
worker_processes $shards;
worker_rlimit_nofile 20000;
pid $dir/nginx.pid;
error_log stderr crit;
$( ((EUID == 0)) && echo 'user root;')
events { worker_connections 9000; }
stream {
    access_log off;
    tcp_nodelay on;
    proxy_buffer_size 16k;
    proxy_connect_timeout 5s;
    proxy_timeout 1h;
    server { listen 127.0.0.1:$1 backlog=4096 reuseport; proxy_pass 127.0.0.1:$http_port; }
    server { listen 127.0.0.1:$2 backlog=4096 reuseport; proxy_pass 127.0.0.1:$iperf_port; }
}
TEXT
    command=(nginx -c "$dir/nginx.conf" -e stderr)
}

# ---- measurements ----

# Turns wrk's "480.00us", "1.02ms" or "1.20s" into microseconds.
to_us() {
    awk -v time="$1" 'BEGIN {
        unit = time; gsub(/[0-9.]/, "", unit)
        print time * (unit == "us" ? 1 : unit == "ms" ? 1e3 : unit == "s" ? 1e6 : 6e7)
    }'
}

threads=$((load_count < connections ? load_count : connections))

# measure NAME PID HTTP_PORT IPERF_PORT: adds a line to the results; direct has no PID.
measure() {
    local name=$1 pid=$2 before after out requests per_second p50 p99 errors bytes bits
    local cpu_request=- cpu_gib=-
    [[ $(curl -fsS --max-time 5 "http://127.0.0.1:$3/" | wc -c) == 1024 ]] || fail "$name does not answer"
    out=$dir/wrk-$name.out
    before=$([[ -z $pid ]] || cpu_us "$name" "$pid")
    run_load "wrk-$name" wrk -t "$threads" -c "$connections" -d "${duration}s" --latency "http://127.0.0.1:$3/"
    after=$([[ -z $pid ]] || cpu_us "$name" "$pid")
    requests=$(awk '/requests in/ { print $1 }' "$out")
    per_second=$(awk '/^Requests\/sec:/ { print $2 }' "$out")
    p50=$(to_us "$(awk '$1 == "50%" { print $2 }' "$out")")
    p99=$(to_us "$(awk '$1 == "99%" { print $2 }' "$out")")
    errors=$(awk '/Socket errors:|Non-2xx/' "$out")
    [[ -z $errors ]] || echo "loadtest: $name: ${errors## }" >&2
    [[ ${requests:-0} -gt 0 ]] || fail "wrk got no answers through $name: $(tail -n 3 "$out")"
    if [[ -n $pid ]]; then
        cpu_request=$(awk -v us=$((after - before)) -v n="$requests" 'BEGIN { print us / n }')
    fi

    out=$dir/iperf3-$name.out
    before=$([[ -z $pid ]] || cpu_us "$name" "$pid")
    run_load "iperf3-$name" iperf3 --client 127.0.0.1 --port "$4" --time "$duration" --json
    after=$([[ -z $pid ]] || cpu_us "$name" "$pid")
    bytes=$(awk -F '[:,]' '/"sum_received"/ { f = 1 } f && /"bytes"/ { printf "%.0f\n", $2; exit }' "$out")
    bits=$(awk -F '[:,]' '/"sum_received"/ { f = 1 } f && /"bits_per_second"/ { print $2 / 1e9; exit }' "$out")
    [[ ${bytes:-0} -gt 0 ]] || fail "iperf3 moved nothing through $name: $(tail -n 3 "$out")"
    if [[ -n $pid ]]; then
        cpu_gib=$(awk -v us=$((after - before)) -v n="$bytes" 'BEGIN { print us / 1e6 / (n / 1024 ^ 3) }')
    fi
    echo "$name $per_second $p50 $p99 $cpu_request $bits $cpu_gib" >>"$dir/results"
}

measure_proxy() {
    local name=$1 http iperf pid
    free_port && http=$taken
    free_port && iperf=$taken
    "configure_$name" "$http" "$iperf"
    start "$name" "$proxy_cpus" "${command[@]}"
    pid=$started
    wait_accepting "$name" "$pid" "$http"
    echo "loadtest: $name" >&2
    measure "$name" "$pid" "$http" "$iperf"
    end_children "$pid"
}

echo "loadtest: direct" >&2
measure direct "" "$http_port" "$iperf_port"
measure_proxy arus
if command -v haproxy >/dev/null; then measure_proxy haproxy; fi
if [[ -n $nginx_stream ]]; then measure_proxy nginx; fi

# ---- the table ----

echo
echo "$shards shard(s) on CPU $proxy_cpus, load and backends on CPU $load_cpus;" \
    "$connections connections, 1 KiB answers, 1 stream, $duration s each"
awk '
    function show(name, a, b, c, d, e, f) {
        printf "%-16s %12s %10s %10s %12s %9s %11s\n", name, a, b, c, d, e, f
    }
    function form(value, format) { return value == "-" ? "-" : sprintf(format, value) }
    function ratio(peer, i) {
        return value["arus", i] == "-" || value[peer, i] + 0 == 0 ? "-" : sprintf("%.2f", value["arus", i] / value[peer, i])
    }
    BEGIN { show("target", "requests/s", "p50 us", "p99 us", "CPU us/req", "Gbit/s", "CPU s/GiB") }
    {
        names[NR] = $1
        for (i = 2; i <= NF; i++) value[$1, i] = $i
        show($1, form($2, "%.0f"), form($3, "%.0f"), form($4, "%.0f"), form($5, "%.2f"), form($6, "%.2f"), form($7, "%.3f"))
    }
    END {
        for (n = 1; n <= NR; n++) {
            peer = names[n]
            if (peer != "arus")
                show("arus / " peer, ratio(peer, 2), ratio(peer, 3), ratio(peer, 4), ratio(peer, 5), ratio(peer, 6), ratio(peer, 7))
        }
    }
' "$dir/results"
