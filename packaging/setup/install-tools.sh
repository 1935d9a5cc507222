#!/usr/bin/env bash
# Installs what `make run` or `make test` needs and this machine lacks. Says nothing when nothing is
# missing; starts no service and asks no question.
set -euo pipefail

purpose=${1:?run or test}
missing=()

have() { command -v "$1" >/dev/null 2>&1; }

have cargo || {
    echo "error: Rust is missing; hint: install it from your distribution or with rustup, 1.89 or newer" >&2
    exit 69
}
have cc || missing+=(gcc libc6-dev)
if ! have initdb && ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && ! compgen -G '/usr/pgsql-*/bin/initdb' >/dev/null; then
    missing+=(postgresql)
fi
if [ "$purpose" = test ]; then
    have node || missing+=(nodejs)
    have npm || missing+=(npm)
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
fi

if [ "${#missing[@]}" -gt 0 ]; then
    if ! have apt-get || { [ "${#as_root[@]}" -gt 0 ] && ! sudo -n true 2>/dev/null && [ ! -t 0 ]; }; then
        echo "error: missing: ${missing[*]}; hint: install these packages, then run make again" >&2
        exit 69
    fi
    echo "Installing ${missing[*]} …"
    # The package would otherwise start a server of its own on port 5432, which nobody here needs.
    policy=/usr/sbin/policy-rc.d
    placed=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
        placed=yes
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    if [ -n "$placed" ]; then
        "${as_root[@]}" rm -f "$policy"
    fi
fi

# esh3ar never runs as root: started by root, it goes on as this user.
if [ "$(id -u)" -eq 0 ] && ! id esh3ar >/dev/null 2>&1; then
    useradd --system --user-group --home-dir /var/lib/esh3ar --no-create-home --shell /usr/sbin/nologin esh3ar
fi
