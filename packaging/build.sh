#!/usr/bin/env bash
# Builds the deb and the rpm from a binary that is there already:
#   packaging/build.sh [--binary FILE] [--version VERSION] [--out FOLDER] [deb] [rpm]
# VERSION is the binary's own unless it is said; FOLDER is target/package. Needs dpkg-dev and rpm, no
# network and no root. The binary is stripped in the packages only. COMPRESSION=none is quick, for tests.
set -euo pipefail
cd "$(dirname "$0")/.."

binary=target/dist/esh3ar out=target/package version= wanted=()
while [ $# -gt 0 ]; do
    case $1 in
    --binary) binary=$2 && shift 2 ;;
    --version) version=$2 && shift 2 ;;
    --out) out=$2 && shift 2 ;;
    deb | rpm) wanted+=("$1") && shift ;;
    *)
        echo "usage: packaging/build.sh [--binary FILE] [--version VERSION] [--out FOLDER] [deb] [rpm]" >&2
        exit 2
        ;;
    esac
done
[ "${#wanted[@]}" -gt 0 ] || wanted=(deb rpm)
[ -x "$binary" ] || { echo "error: $binary is not there; hint: make package builds it" >&2; exit 69; }
binary=$(realpath "$binary")
: "${version:=$("$binary" --version | cut -d' ' -f2)}"
# The same input gives the same packages.
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.toml)}"
export SOURCE_DATE_EPOCH
mkdir -p "$out"
out=$(realpath "$out")
work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
umask 022

# The files of both packages, laid out as they will be installed. $1: the folder of zsh's completions.
stage() {
    local root=$1 zsh=$2 shared=$1/usr/share doc=$1/usr/share/doc/esh3ar
    install -Dm755 "$work/esh3ar" "$root/usr/bin/esh3ar"
    for unit in systemd/*; do install -Dm644 "$unit" "$root/usr/lib/systemd/system/${unit##*/}"; done
    install -Dm644 "$work/esh3ar.toml" "$root/etc/esh3ar/esh3ar.toml.example"
    install -Dm644 "$work/esh3ar.bash" "$shared/bash-completion/completions/esh3ar"
    install -Dm644 "$work/esh3ar.zsh" "$shared/zsh/$zsh/_esh3ar"
    install -Dm644 "$work/esh3ar.fish" "$shared/fish/vendor_completions.d/esh3ar.fish"
    mkdir -p "$shared/man/man1" "$doc/examples" "$doc/docs/operations"
    for page in "$work"/man/*.1; do gzip -9n <"$page" >"$shared/man/man1/${page##*/}.gz"; done
    chmod 644 "$shared"/man/man1/*
    install -m644 README.md CHANGELOG.md "$doc/"
    install -m644 docs/*.md "$doc/docs/"
    install -m644 docs/operations/*.md "$doc/docs/operations/"
    install -m644 "$work/esh3ar.toml" "$doc/examples/"
    install -m644 packaging/balancer/* packaging/prometheus/esh3ar.rules.yml packaging/alertmanager/alertmanager.yml \
        packaging/cluster/patroni.yml "$doc/examples/"
    install -m644 packaging/grafana/esh3ar.json "$doc/examples/grafana.json"
    install -m644 packaging/copyright "$doc/copyright"
}

cp "$binary" "$work/esh3ar"
strip --strip-unneeded "$work/esh3ar"
"$binary" config default >"$work/esh3ar.toml"
for shell in bash zsh fish; do "$binary" completions "$shell" >"$work/esh3ar.$shell"; done
"$binary" man --dir "$work/man"

deb() {
    local root=$work/deb architecture depends
    architecture=$(dpkg --print-architecture)
    stage "$root" vendor-completions
    # Debian merges the folders of units only in later releases.
    mkdir -p "$root/lib/systemd"
    mv "$root/usr/lib/systemd/system" "$root/lib/systemd/system"
    rmdir "$root/usr/lib/systemd" "$root/usr/lib"
    sed "s/@VERSION@/$version/; s/@DATE@/$(date -u -R -d "@$SOURCE_DATE_EPOCH")/" packaging/deb/changelog |
        gzip -9n >"$root/usr/share/doc/esh3ar/changelog.gz"
    install -Dm644 packaging/deb/lintian-overrides "$root/usr/share/lintian/overrides/esh3ar"
    install -d -m755 "$root/DEBIAN"
    install -m755 packaging/deb/{postinst,prerm,postrm} "$root/DEBIAN/"
    echo /etc/esh3ar/esh3ar.toml.example >"$root/DEBIAN/conffiles"
    # Which libraries the binary needs, by Debian's own tool.
    mkdir -p "$work/shlibs/debian"
    printf 'Source: esh3ar\n\nPackage: esh3ar\nArchitecture: any\n' >"$work/shlibs/debian/control"
    depends=$(cd "$work/shlibs" && dpkg-shlibdeps -O -e"$root/usr/bin/esh3ar" | sed -n 's/^shlibs:Depends=//p')
    sed "s/@VERSION@/$version/; s/@ARCHITECTURE@/$architecture/; s/@LIBRARIES@/$depends/; \
        s/@SIZE@/$(du -sk --exclude=DEBIAN "$root" | cut -f1)/" packaging/deb/control >"$root/DEBIAN/control"
    (cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
    find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group ${COMPRESSION:+-Z"$COMPRESSION"} --build "$root" "$out/esh3ar_${version}_$architecture.deb" >/dev/null
    echo "$out/esh3ar_${version}_$architecture.deb"
}

rpm() {
    local root=$work/rpm architecture
    architecture=$(uname -m)
    stage "$root" site-functions
    # A tilde sorts before everything in both worlds.
    rpmbuild -bb --quiet --nodeps --target "$architecture" \
        --define "_topdir $work/rpmbuild" --define "_rpmdir $out" --define "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
        --define "staged $root" --define "version_given $version" \
        --define "changelog_date $(LC_ALL=C date -u -d "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')" \
        --define "_buildhost localhost" --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
        --define "_binary_payload $([ "${COMPRESSION:-}" = none ] && echo w.ufdio || echo w6.xzdio)" \
        packaging/rpm/esh3ar.spec >"$work/rpm.log" 2>&1 || { cat "$work/rpm.log" >&2; exit 1; }
    echo "$out/esh3ar-$version-1.$architecture.rpm"
}

for kind in "${wanted[@]}"; do "$kind"; done
