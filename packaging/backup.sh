#!/bin/sh
# What esh3ar-backup.service runs: one backup with its time in its name, then only the newest are kept.
#   ESH3AR_BACKUP_DIR   where to (/var/backups/esh3ar)
#   ESH3AR_BACKUP_KEEP  how many (48)
set -eu

folder=${ESH3AR_BACKUP_DIR:-/var/backups/esh3ar}
keep=${ESH3AR_BACKUP_KEEP:-48}
esh3ar=${ESH3AR_BINARY:-/usr/bin/esh3ar}
case $keep in
'' | *[!0-9]* | 0)
    echo "error: ESH3AR_BACKUP_KEEP must be a whole number above 0, not '$keep'" >&2
    exit 78
    ;;
esac

name=$folder/esh3ar-$(date -u +%Y%m%dT%H%M%SZ).backup
# Under another name until it is whole: what a crash left is no backup.
half=$name.half
trap 'rm -f "$half"' EXIT
rm -f "$folder"/esh3ar-*.backup.half
"$esh3ar" backup "$half"
mv "$half" "$name"
echo "$name is written"

# Only after the new one is there. Names sort by time.
number=0
for old in $(printf '%s\n' "$folder"/esh3ar-*.backup | sort -r); do
    number=$((number + 1))
    [ "$number" -le "$keep" ] || rm -f "$old"
done
