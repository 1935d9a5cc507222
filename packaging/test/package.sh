#!/usr/bin/env bash
# Builds both packages from a binary that is there already and takes them through their life in a bare
# Debian: checked, installed, begun, served as the unit would, upgraded, removed, purged.
#
#   packaging/test/package.sh [BINARY]        target/debug/esh3ar
#
# Needs root, for a chroot. The bare system is made once, in target/package/root, by this machine's own
# sources of packages. KEEP=1 keeps what was tried.
set -euo pipefail
cd "$(dirname "$0")/../.."

binary=${1:-target/debug/esh3ar}
if [ "$(id -u)" -ne 0 ]; then
    echo "The package is tried in a chroot, as root."
    command -v sudo >/dev/null || { echo "error: there is no sudo; hint: run $0 as root" >&2; exit 69; }
    exec sudo -- "$0" "$binary"
fi
[ -x "$binary" ] || { echo "error: $binary is not there; hint: make build" >&2; exit 69; }

base=target/package/root
mkdir -p target/package
try=$(mktemp -d "$PWD/target/package/try.XXXXXX")
root=$try/root
chmod 755 "$try"
ours=()
end() {
    local pid
    for pid in "${ours[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${ours[@]}"; do wait "$pid" 2>/dev/null || true; done
    # What dpkg mounted nothing of: only what this script did.
    for place in proc dev/shm dev; do umount -q "$root/$place" 2>/dev/null || true; done
    if [ -n "${KEEP:-}" ] || mountpoint -q "$root/dev"; then echo "Kept: $try"; else rm -rf --one-file-system "$try"; fi
}
trap end EXIT
trap 'exit 130' INT TERM
begun=$SECONDS
step() { printf '%3d s  %s\n' $((SECONDS - begun)) "$*"; }
fail() {
    echo "error: $*" >&2
    tail -n 20 "$try"/*.log >&2 2>/dev/null || true
    exit 1
}
# Waits for a condition.
until_it() {
    local what=$1 left=600
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || fail "waited in vain for $what"
        sleep 0.1
    done
}
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "${more[@]}" "$@"; }
more=()
apt() { inside apt-get -qq -y -o Dpkg::Options::=--force-unsafe-io "$@" </dev/null >>"$try/apt.log" 2>&1 || fail "apt-get $*"; }

if [ ! -e "$base/.complete" ]; then
    step "making a bare Debian, once"
    rm -rf --one-file-system "$base"
    . /etc/os-release
    read -r mirror < <(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' "Created-By: Packages" |
        sed -n "s/ $VERSION_CODENAME main$//p")
    debootstrap --variant=minbase "$VERSION_CODENAME" "$base" "$mirror" >"$try/debootstrap.log" 2>&1 || fail "debootstrap"
    # What is recommended is only fetched, so that its installation is part of what is tried.
    chroot "$base" env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --download-only adduser ca-certificates 'postgresql' \
        >"$try/download.log" 2>&1 || fail "fetching Postgres for the bare system"
    touch "$base/.complete"
fi

step "building two versions of both packages"
# Nobody loads these from anywhere.
export COMPRESSION=none
strip --strip-unneeded -o "$try/esh3ar" "$binary"
for version in 0.0.1~before 0.0.1; do
    packaging/build.sh --binary "$try/esh3ar" --version "$version" --out "$try/packages" >>"$try/build.log" 2>&1 || fail "packaging/build.sh"
done
architecture=$(dpkg --print-architecture)
old=$try/packages/esh3ar_0.0.1~before_$architecture.deb new=$try/packages/esh3ar_0.0.1_$architecture.deb
old_rpm=$try/packages/esh3ar-0.0.1~before-1.$(uname -m).rpm new_rpm=$try/packages/esh3ar-0.0.1-1.$(uname -m).rpm

step "lintian and rpmlint"
uncompressed=uses-no-compression-for-control-tarball,uses-no-compression-for-data-tarball
lintian --allow-root --tag-display-limit 0 --fail-on error,warning --suppress-tags "$uncompressed" "$new" >"$try/lintian.log" 2>&1 || fail "lintian: $(cat "$try/lintian.log")"
rpmlint --config packaging/rpm/rpmlint.toml "$new_rpm" >"$try/rpmlint.log" 2>&1 || fail "rpmlint: $(cat "$try/rpmlint.log")"

step "installing the older one in a bare Debian"
cp -a "$base" "$root"
mount --bind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t proc proc "$root/proc"
cp "$old" "$new" "$root/root/"
# As on every machine without systemd: nothing can be started, so nothing may depend on it.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
apt install "/root/${old##*/}"
inside test -x /usr/lib/postgresql/*/bin/initdb || fail "the recommended Postgres was not installed with it"
grep -q 'Begin with: esh3ar init' "$try/apt.log" || fail "the installation does not say how to go on"
[ ! -e "$root/etc/esh3ar/esh3ar.toml" ] || fail "the installation wrote a configuration"
[ "$(inside stat -c '%a %U' /var/lib/esh3ar)" = '700 esh3ar' ] || fail "the data folder is not esh3ar's own"
[ -z "$(ls -A "$root/var/lib/esh3ar")" ] || fail "the installation made data"
[ ! -e "$root/etc/systemd/system/multi-user.target.wants/esh3ar.service" ] || fail "the installation enabled the unit"
for file in /usr/share/man/man1/{esh3ar,esh3ar-serve,esh3ar-message-explain}.1.gz /usr/share/zsh/vendor-completions/_esh3ar \
    /usr/share/bash-completion/completions/esh3ar /usr/share/fish/vendor_completions.d/esh3ar.fish /etc/esh3ar/esh3ar.toml.example \
    /lib/systemd/system/esh3ar{,-worker,-backup}.service /lib/systemd/system/esh3ar-backup.timer; do
    [ -s "$root$file" ] || fail "$file is not in the package"
done
examples=$root/usr/share/doc/esh3ar/examples
promtool check rules "$examples/esh3ar.rules.yml" >"$try/examples.log" 2>&1 || fail "the rules for Prometheus"
amtool check-config "$examples/alertmanager.yml" >"$try/examples.log" 2>&1 || fail "the example for Alertmanager"
[ "$(inside esh3ar --version)" = "$("$binary" --version)" ] || fail "it does not run"

step "esh3ar init"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# Other tests of this machine may have the usual one.
more=(ESH3AR__METRICS__LISTEN=127.0.0.1:0)
field() { sed -n "s/.*\"$1\": \"\\([^\"]*\\)\".*/\\1/p"; }
made=$(inside esh3ar init --listen "127.0.0.1:$port" --default-region YE -o json 2>"$try/init.log") || fail "esh3ar init"
[[ $(field token <<<"$made") == esh_* ]] || fail "init made no token: $made"
[ "$(inside stat -c '%a %U %G' /etc/esh3ar/esh3ar.toml)" = '640 root esh3ar' ] || fail "the configuration has the wrong owner or mode"
before=$(md5sum <"$root/etc/esh3ar/esh3ar.toml")
again=$(inside esh3ar init --listen "127.0.0.1:$port" -o json 2>>"$try/init.log") || fail "esh3ar init, repeated"
[ -z "$(field token <<<"$again")" ] || fail "init, repeated, made another token"
inside esh3ar init --listen 127.0.0.1:1 >>"$try/init.log" 2>&1 && fail "init took an option that the file does not say"
[ "$before" = "$(md5sum <"$root/etc/esh3ar/esh3ar.toml")" ] || fail "init, repeated, changed the file"
inside esh3ar doctor >"$try/doctor.log" 2>&1 || fail "esh3ar doctor"

step "serving as the unit does, and a message"
packaging/test/notify.py "$root/run/notify" "$try/notify.log" &
ours+=($!)
until_it "the socket of a service manager" test -S "$root/run/notify"
serve() {
    : >"$try/notify.log"
    env -i PATH=/usr/bin:/bin NOTIFY_SOCKET=/run/notify WATCHDOG_USEC=3000000 "${more[@]}" \
        packaging/test/confine.py systemd/esh3ar.service "$root" /var/lib/esh3ar /usr/bin/esh3ar serve >>"$try/serve.log" 2>&1 &
    serving=$!
    ours+=("$serving")
    until_it "READY=1" grep -q READY=1 "$try/notify.log"
}
stop() {
    kill "$serving"
    wait "$serving" || fail "serve did not end well"
    grep -q STOPPING=1 "$try/notify.log" || fail "the stop was not told"
    [ ! -e "$root/var/lib/esh3ar/postgres/postmaster.pid" ] || fail "a Postgres was left behind"
}
serve
until_it "signs of life" grep -q WATCHDOG=1 "$try/notify.log"
for line in 'Seccomp:.2' 'NoNewPrivs:.1' 'CapBnd:.0000000000000000'; do
    grep -q "$line" "/proc/$serving/status" || fail "what serves is not confined: no $line"
done
inside esh3ar -q user add Shop --permission SendMessages >/dev/null
inside esh3ar -q mobile add 771234567 --verified >/dev/null
shop=$(inside esh3ar -q token create --user Shop -o json | field token)
phone=$(inside esh3ar -q token create --mobile +967771234567 -o json | field token)
inside esh3ar listen --url "http://127.0.0.1:$port" --token "$phone" --count 1 >"$try/phone.log" 2>&1 &
listener=$!
ours+=("$listener")
until_it "the phone's connection" grep -q connected "$try/phone.log"
id=$(curl -sf "http://127.0.0.1:$port/api/v1/messages" -H "Authorization: Bearer $shop" -H 'Content-Type: application/json' \
    -d '{"to": "+967771234567", "content": "Hello from a package"}' | sed 's/.*"id":"\([^"]*\)".*/\1/')
wait "$listener" || fail "the phone"
grep -q 'Hello from a package' "$try/phone.log" || fail "the message did not arrive"
status() { inside esh3ar -q message show "$id" -o json | field status | head -n 1; }
is_delivered() { [ "$(status)" = delivered ]; }
until_it "the acknowledgement" is_delivered
kill -HUP "$serving"
until_it "RELOADING=1" grep -q RELOADING=1.*MONOTONIC_USEC "$try/notify.log"
until_it "READY=1 after it" grep -q READY=1 <(sed 1,/RELOADING/d "$try/notify.log")

step "upgrading under it, and restarting"
apt install "/root/${new##*/}"
grep -q 'was upgraded from 0.0.1~before' "$try/apt.log" || fail "the upgrade says nothing"
kill -0 "$serving" || fail "the upgrade stopped what serves"
curl -sf "http://127.0.0.1:$port/health/ready" >/dev/null || fail "what serves does not go on through the upgrade"
[ "$before" = "$(md5sum <"$root/etc/esh3ar/esh3ar.toml")" ] || fail "the upgrade changed the configuration"
stop
serve
is_delivered || fail "the message is not there after the upgrade"
stop

step "removing, purging"
apt remove esh3ar
[ ! -e "$root/usr/bin/esh3ar" ] || fail "the program is still there"
[ -e "$root/etc/esh3ar/esh3ar.toml" ] && [ -d "$root/var/lib/esh3ar/postgres" ] || fail "removing took the configuration or the data"
apt purge esh3ar
[ ! -e "$root/etc/esh3ar" ] || fail "purging left a configuration"
[ -d "$root/var/lib/esh3ar/postgres" ] || fail "purging took the data"
grep -q 'data in /var/lib/esh3ar is kept' "$try/apt.log" || fail "purging does not say where the data are"
apt install "/root/${new##*/}"
inside esh3ar -q message show "$id" >/dev/null || fail "the data are of no use to a new installation"
more+=(ESH3AR_PURGE_DATA=yes)
apt purge esh3ar
[ ! -e "$root/var/lib/esh3ar" ] || fail "purging left data that it was told to delete"
inside getent passwd esh3ar >/dev/null && fail "the user is still there"

step "the rpm"
more=()
rpms() { rpm --root "$root" --dbpath /var/lib/rpm --nodeps "$@" >>"$try/rpm.log" 2>&1 || fail "rpm $*"; }
rpms -i "$old_rpm"
[ "$(inside stat -c '%a %U' /var/lib/esh3ar)" = '700 esh3ar' ] || fail "the rpm's data folder is not esh3ar's own"
grep -q 'Begin with: esh3ar init' "$try/rpm.log" || fail "the rpm does not say how to go on"
# Without any configuration, and with the database made inside the unit's walls.
more=(ESH3AR__METRICS__LISTEN=127.0.0.1:0 ESH3AR__HTTP__LISTEN=127.0.0.1:0)
serve
stop
more=()
made=$(inside esh3ar init --listen "127.0.0.1:$port" -o json 2>>"$try/init.log") || fail "esh3ar init from the rpm"
[[ $(field token <<<"$made") == esh_* ]] || fail "init made no token: $made"
rpms -U "$new_rpm"
inside esh3ar -q user show admin >/dev/null || fail "the rpm's upgrade lost data"
rpms -e esh3ar
[ ! -e "$root/usr/bin/esh3ar" ] || fail "the rpm's program is still there"
[ -d "$root/var/lib/esh3ar/postgres" ] && [ -e "$root/etc/esh3ar/esh3ar.toml" ] || fail "removing the rpm took data"

step "all of the package's life is well"
