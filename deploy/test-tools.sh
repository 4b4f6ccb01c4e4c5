#!/bin/sh
# Installs what `make test` needs beyond Rust, a C compiler and npm, where it is not there yet:
#   clickhouse-server  Debian's 18.16, the oldest server that the schema supports
#   promtool           Debian's prometheus, which checks the alert rules
#   clickhouse-connect the newest from PyPI, in .meterd/python
#   moto               the newest from PyPI, there too: an S3 server for the archive
# What cannot be installed is said here, and the tests say which part of them did not run.
set -u
cd "$(dirname "$0")/.." || exit 1

debian() { # command, packages
  command -v "$1" >/dev/null && return
  shift
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "installing from Debian: $*"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
      --no-install-recommends "$@" >/dev/null && return
  fi
  echo "not here: $* (Debian: apt install $*); the tests that need it do not run"
}

debian clickhouse-server clickhouse-server clickhouse-common
debian promtool prometheus

pypi() { # module, packages
  .meterd/python/bin/python -c "import $1" 2>/dev/null && return
  module=$1
  shift
  echo "installing from PyPI: $*"
  { python3 -m venv .meterd/python && .meterd/python/bin/pip -q install "$@"; } ||
    echo "not here: $module (needs python3 with venv); its test does not run"
}

pypi clickhouse_connect clickhouse-connect
pypi moto.server 'moto[s3]' flask flask-cors
