#!/usr/bin/env bash
# Installs what the build, the tests and the benchmarks need beside Rust, on Debian or Ubuntu.
# As root it installs what is missing with apt-get; otherwise it names it and fails.
# Quiet and fast when nothing is missing.
set -euo pipefail

# Without these the build or a test fails.
required=(
    build-essential # C compiler and linker: glommio's liburing, the C plugins
    git             # glommio's build script calls it
    haproxy         # peer in tests and benchmarks
    nginx-light     # peer and HTTP backend
    libnginx-mod-stream
    wrk             # HTTP load
    iperf3          # throughput
    curl
    openssl
    python3-socks     # SOCKS client in tests, and what it asks
    python3-dnspython
    dnsmasq-base      # DNS server in tests
    socat
    prometheus      # promtool, and a real one that scrapes arus
    python3-venv    # schemathesis, PySocks and python-socks, from PyPI
    libpam0g        # PAM, with the modules that its tests call
    libpam-modules
    netcat-openbsd  # SOCKS clients in tests
    dante-client
    iproute2        # ip, ss: network namespaces in tests
    nftables        # packet loss in tests
    procps
    util-linux      # taskset, unshare
)
# Missing ones are installed with the others, but nothing fails without them.
optional=(
    dante-server # SOCKS peers in benchmarks
    microsocks
    chromium     # the test of the dashboard, which is left out without it
    openssh-server # sshd, which a test reaches through netcat
    openssh-client
    libpam0g-dev # headers for whoever writes PAM modules
)

is_installed() {
    [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

if ! command -v dpkg-query >/dev/null; then
    echo "install-deps: not a Debian system; what is needed is what these packages hold:" >&2
    echo "    ${required[*]}" >&2
    exit 1
fi

missing=()
for package in "${required[@]}"; do
    is_installed "$package" || missing+=("$package")
done
missing_optional=()
for package in "${optional[@]}"; do
    is_installed "$package" || missing_optional+=("$package")
done

if ((${#missing[@]} == 0)) && { ((${#missing_optional[@]} == 0)) || ((EUID != 0)); }; then
    exit 0
fi
if ((EUID != 0)); then
    echo "install-deps: these packages are missing; install them as root with" >&2
    echo "    apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

# A package's service must not start by itself: the tests start their own.
policy=/usr/sbin/policy-rc.d
log=$(mktemp)
made_policy=
cleanup() {
    [[ -z $made_policy ]] || rm -f "$policy"
    rm -f "$log"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
if [[ ! -e $policy ]]; then
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "$@" >"$log" 2>&1
}

echo "install-deps: installing ${missing[*]} ${missing_optional[*]}" >&2
# Package lists may be there already; fetch them only when they are not enough.
if ((${#missing[@]})) && ! apt_install "${missing[@]}"; then
    apt-get update --quiet >"$log" 2>&1 || true
    if ! apt_install "${missing[@]}"; then
        cat "$log" >&2
        echo "install-deps: apt-get failed" >&2
        exit 1
    fi
fi
if ((${#missing_optional[@]})) && ! apt_install "${missing_optional[@]}"; then
    echo "install-deps: going on without ${missing_optional[*]}" >&2
fi
