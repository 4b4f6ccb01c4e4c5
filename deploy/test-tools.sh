#!/bin/sh
# Installs what `make test` needs beyond Rust, a C compiler and npm: Debian's ClickHouse 18.16, the
# oldest server that the schema supports. Does nothing where it is there. Where it cannot be
# installed, says so; the tests then say which part did not run.
set -eu
command -v clickhouse-server >/dev/null && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  echo "installing from Debian: clickhouse-server clickhouse-common"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    clickhouse-server clickhouse-common >/dev/null
  exit 0
fi
echo "no clickhouse-server here (Debian: apt install clickhouse-server): the tests against 18.16 do not run"
