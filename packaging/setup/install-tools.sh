#!/usr/bin/env bash
# Installs what `make run`, `make cluster`, `make package`, `make test` or `make coverage` needs and this
# machine lacks. Says nothing when nothing is missing; starts no service and asks no question.
set -euo pipefail

purpose=${1:-}
case $purpose in
run | cluster | test | package | coverage) ;;
*)
    echo "usage: install-tools.sh run|cluster|test|package|coverage" >&2
    exit 64
    ;;
esac

# The oldest Node that runs the official client's tests.
node_at_least=18

have() { command -v "$1" >/dev/null 2>&1; }

have cargo || {
    echo "error: Rust is missing; hint: install it from your distribution or with rustup, 1.89 or newer" >&2
    exit 69
}

missing=()
have cc || missing+=(gcc libc6-dev)
if [ "$purpose" != package ] && ! have initdb && ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && ! compgen -G '/usr/pgsql-*/bin/initdb' >/dev/null; then
    missing+=(postgresql)
fi
if [ "$purpose" = cluster ] || [ "$purpose" = test ]; then
    # The broker's own script: what Debian puts on PATH is a wrapper that changes the user.
    have rabbitmq-server || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || missing+=(rabbitmq-server)
    have redis-server || missing+=(redis-server)
    have curl || missing+=(curl)
    have python3 || missing+=(python3)
fi
if [ "$purpose" = test ]; then
    have node || missing+=(nodejs)
    # The load balancers of packaging/balancer.
    for balancer in nginx haproxy; do
        have "$balancer" || [ -x "/usr/sbin/$balancer" ] || missing+=("$balancer")
    done
    have npm || missing+=(npm)
    # The manual's example for Java is compiled.
    have javac || missing+=(default-jdk-headless)
    have promtool || missing+=(prometheus)
    have amtool || missing+=(prometheus-alertmanager)
    # A terminal for the dashboard.
    have tmux || missing+=(tmux)
    # A browser, and another client's language, for the tests of the hub.
    have chromium || have chromium-browser || have google-chrome || missing+=(chromium)
    { have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; } || missing+=(python3 python3-venv)
    # Packages are checked, and tried in a bare Debian behind the filters of their units.
    for tool in lintian rpmlint debootstrap; do
        have "$tool" || [ -x "/usr/sbin/$tool" ] || missing+=("$tool")
    done
    have systemd-analyze || missing+=(systemd)
    /usr/bin/python3 -c 'import seccomp' 2>/dev/null || missing+=(python3-seccomp)
fi
if [ "$purpose" = test ] || [ "$purpose" = package ]; then
    have dpkg-shlibdeps || missing+=(dpkg-dev)
    have rpmbuild || missing+=(rpm)
fi

if [ "$purpose" = coverage ]; then
    # The tools that read the compiler's profiles have to be of its own LLVM.
    llvm=llvm-$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    [ -x "/usr/bin/${llvm/llvm/llvm-cov}" ] || missing+=("$llvm")
fi

root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# Without a terminal sudo could only wait for a password that nobody types.
may_be_root() {
    [ "$(id -u)" -eq 0 ] || { have sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; }
}

# What is put down for the installation only, taken away however it ends.
policy=/usr/sbin/policy-rc.d
policy_is_ours=
tidy() {
    if [ -n "$policy_is_ours" ]; then root rm -f "$policy"; fi
}
trap tidy EXIT

if [ "${#missing[@]}" -gt 0 ]; then
    if ! have apt-get || ! may_be_root; then
        echo "error: missing: ${missing[*]}; hint: as root: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 69
    fi
    echo "Installing ${missing[*]} …"
    # The package would otherwise start a server of its own on port 5432, which nobody here needs.
    if [ ! -e "$policy" ]; then
        policy_is_ours=yes
        printf '#!/bin/sh\nexit 101\n' | root tee "$policy" >/dev/null
        root chmod 755 "$policy"
    fi
    # Nor the cluster that such a server would serve. An administrator's own choice stays.
    cluster=/etc/postgresql-common/createcluster.conf
    if [[ " ${missing[*]} " == *" postgresql "* && ! -e $cluster ]]; then
        root mkdir -p "${cluster%/*}"
        echo 'create_main_cluster = false' | root tee "$cluster" >/dev/null
    fi
    root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    # The package compares the file above with its own by ucf, which would ask which to keep.
    root env DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1 \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ "$purpose" = test ]; then
    version=$(node --version)
    major=${version#v}
    major=${major%%.*}
    if [ "$major" -lt "$node_at_least" ]; then
        echo "error: Node is $version; hint: install $node_at_least or newer" >&2
        exit 69
    fi
fi

# The test runner, in a version that the oldest compiler we support builds, without optimisation: it is
# compiled in a fraction of the time and only waits for tests.
if [ "$purpose" = test ] && ! cargo nextest --version >/dev/null 2>&1; then
    echo "Installing cargo-nextest …"
    cargo install --quiet --locked --debug --no-default-features --features default-no-update \
        --version 0.9.128 cargo-nextest
fi
# esh3ar never runs as root: started by root, it goes on as this user.
if [ "$(id -u)" -eq 0 ] && ! id esh3ar >/dev/null 2>&1; then
    if have useradd; then
        useradd --system --user-group --home-dir /var/lib/esh3ar --no-create-home --shell /usr/sbin/nologin esh3ar
    else
        adduser --quiet --system --group --home /var/lib/esh3ar --no-create-home esh3ar
    fi
fi
