#!/bin/sh
# Fuzzes each decoder for the given seconds, on the toolchain of the project. Stops at the first
# crash, with its input's path. TARGETS="sts_decode" takes some of them only.
#
# A stable compiler takes the flags of coverage under RUSTC_BOOTSTRAP; sanitizers need a nightly
# standard library, and this code has next to no unsafe: overflow checks and debug assertions stay
# on, so what matters here is found without.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
command -v cargo-fuzz >/dev/null || {
  echo "installing cargo-fuzz"
  cargo install --locked cargo-fuzz
}
for target in ${TARGETS:-dlms_frame datagram sts_decode log_entry}; do
  echo "fuzz $target for $seconds s"
  RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none "$target" -- \
    -max_total_time="$seconds" -max_len=4096 -print_final_stats=1
done
