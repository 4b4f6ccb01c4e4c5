#!/bin/sh
# Fuzzes each decoder for the given seconds. Needs `cargo install cargo-fuzz` and a nightly
# toolchain; says so where they are missing. Stops at the first crash, with its input's path.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
command -v cargo-fuzz >/dev/null || {
  echo "installing cargo-fuzz"
  cargo install --locked cargo-fuzz
}
for target in dlms_frame datagram sts_decode log_entry; do
  echo "fuzz $target for $seconds s"
  cargo +nightly fuzz run "$target" -- -max_total_time="$seconds" -max_len=4096 -print_final_stats=1
done
