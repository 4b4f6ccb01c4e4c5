#!/bin/sh
# Fetches libchdb.so, the library of the embedded ClickHouse, into a folder:
#   deploy/fetch-libchdb.sh .meterd/lib
# The npm package is pinned by version and digest; nothing of it is installed or run. Where the
# right library is there already, nothing happens. Needs npm, openssl and tar.
set -eu

VERSION=26.7.3-stable.1
PACKAGE="@chdb/lib-linux-x64-gnu@$VERSION"
# As `npm view` states it; storage::engine has the same, and a test compares the two.
INTEGRITY="sha512-XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw=="
LIBRARY_BYTES=566330096

fail() {
    echo "fetch-libchdb: $1" >&2
    exit 1
}

[ $# -eq 1 ] || fail "name the folder, for example .meterd/lib"
folder=$1
case "$(uname -s)-$(uname -m)" in
Linux-x86_64) ;;
*) fail "only Linux on x86-64 has a pinned library; name another in METERD_CHDB_LIB, or use a ClickHouse server" ;;
esac
mkdir -p "$folder"
# The stamp is written last, so a fetch that was cut short is done again.
if [ "$(cat "$folder/libchdb.integrity" 2>/dev/null)" = "$INTEGRITY" ] &&
    [ "$(wc -c 2>/dev/null <"$folder/libchdb.so")" -eq "$LIBRARY_BYTES" ]; then
    echo "libchdb $VERSION is in $folder already"
    exit 0
fi

work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM
echo "fetching $PACKAGE (170 MB) …"
command -v npm >/dev/null || fail "needs npm (Debian: apt-get install npm)"
(cd "$work" && npm pack --silent "$PACKAGE" >/dev/null) || fail "npm cannot fetch $PACKAGE"

echo "checking its digest …"
digest="sha512-$(openssl dgst -sha512 -binary "$work"/*.tgz | openssl base64 -A)"
[ "$digest" = "$INTEGRITY" ] || fail "$PACKAGE has digest $digest, not $INTEGRITY; not used"

echo "unpacking libchdb.so …"
tar -xzf "$work"/*.tgz -C "$work" package/libchdb.so
[ "$(wc -c <"$work/package/libchdb.so")" -eq "$LIBRARY_BYTES" ] || fail "libchdb.so has another size"
chmod 755 "$work/package/libchdb.so"
mv "$work/package/libchdb.so" "$folder/libchdb.so"
echo "$INTEGRITY" >"$folder/libchdb.integrity"
echo "libchdb $VERSION is in $folder"
