#!/bin/sh
# The long forms of the fault tests, each a simulation whose checks must hold; prints their figures.
#   deploy/soak.sh [METERS] [SECONDS]
# Disk full (F4) and the memory bound (F17) need root and are skipped without. Seeds are printed.
set -eu

meters=${1:-100000}
seconds=${2:-60}
meterd=${METERD:-./target/release/meterd}
place=$(mktemp -d)
trap 'umount "$place/disk" 2>/dev/null || true; rm -rf "$place"' EXIT

run() { # NAME ARGUMENTS…
    printf '\n== %s: meterd simulate' "$1"
    shift
    printf ' %s' "$@"
    printf '\n'
    RUST_LOG=error "$meterd" simulate --plain --data-dir "${disk:-$place/node}" "$@" > "$place/said" ||
        { tail -40 "$place/said"; exit 3; }
    grep -v '^ *[0-9]* s  sent' "$place/said"
}

run 'F1 killed while meters send' --meters "$meters" --seconds "$seconds" --kill 10
run 'F9 lost, doubled, overtaken, late' --meters "$meters" --seconds "$seconds" \
    --loss 50 --duplicate 50 --reorder 50 --delay 20
run 'F11 hostile frames beside honest ones' --meters "$meters" --seconds "$seconds" \
    --wrong-key 300 --replay 100 --garbage 100
run 'all at once, and three kills' --meters "$meters" --seconds "$seconds" --kill 3 \
    --loss 20 --duplicate 20 --reorder 50 --wrong-key 5 --replay 3 --garbage 2
run 'F15 storm' --shape storm --meters "$meters" --seconds "$seconds"
run 'F16 aligned burst' --shape aligned --meters "$meters" --pace 900 --seconds 2

# F4: the disk fills in the middle of the run, and space returns.
mkdir "$place/disk"
if mount -t tmpfs -o size=3g tmpfs "$place/disk" 2>/dev/null; then
    (
        sleep $((seconds / 2))
        fallocate -l "$(df -B1 --output=avail "$place/disk" | tail -1)" "$place/disk/filler" || true
        sleep 10
        rm -f "$place/disk/filler"
    ) &
    filler=$!
    disk=$place/disk/node
    run 'F4 disk full for 10 s' --meters $((meters / 10)) --seconds $((seconds + 20))
    disk=
    wait "$filler"
else
    printf '\n== F4 skipped: no right to mount a disk of its own\n'
fi

# F17: node and engine in a control group.
group=/sys/fs/cgroup/memory/meterd-soak-$$
if mkdir "$group" 2>/dev/null; then
    echo $((${MEMORY_MIB:-2048} << 20)) > "$group/memory.limit_in_bytes"
    (
        # The shell of these brackets, and so what it starts.
        sh -c 'echo $PPID' > "$group/cgroup.procs"
        run "F17 within ${MEMORY_MIB:-2048} MiB" --meters "$meters" --seconds "$seconds" \
            --loss 50 --duplicate 50
    )
    printf 'most memory: %s MiB\n' $(($(cat "$group/memory.max_usage_in_bytes") >> 20))
    rmdir "$group"
else
    printf '\n== F17 skipped: no right to make a control group\n'
fi
