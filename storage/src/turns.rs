//! Short turns on the processor, for threads that others wait for.
//!
//! A thread that wakes up waits until the one before it has had its turn, some milliseconds on a
//! busy machine. A purchase wakes five threads one after another, so that it waited for turns longer
//! than for the disk. Linux (6.12 and later) lets a thread ask for shorter turns and in exchange puts
//! it on sooner; its share of the processor stays what it was.

#![expect(unsafe_code, reason = "the system call that no safe crate offers")]

/// A turn: ten times the cost of a change of threads, and far below a commit.
const TURN_NS: u64 = 200_000;

/// Asks for short turns for the thread that calls, and those that it starts. Where the system does
/// not know them, everything stays as it is.
pub fn take_short_turns() {
    let Ok(nice) = rustix::process::getpriority_process(None) else { return };
    let size = size_of::<libc::sched_attr>();
    let attributes = libc::sched_attr {
        size: u32::try_from(size).expect("the structure is small"),
        sched_policy: libc::SCHED_OTHER.cast_unsigned(),
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: TURN_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the structure is whole, says its size, and outlives the call, which only reads it.
    let _refused = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The turn of the calling thread, where the system tells it.
    fn turn_ns() -> u64 {
        // SAFETY: all of its fields are numbers.
        let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
        let size = size_of::<libc::sched_attr>();
        // SAFETY: the call writes at most `size` bytes of the structure.
        let result =
            unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
        assert_eq!(result, 0);
        attributes.sched_runtime
    }

    #[test]
    fn a_thread_and_those_it_starts_take_short_turns() {
        let child = || std::thread::spawn(turn_ns).join().expect("it only asks");
        let (before, nice) = (turn_ns(), rustix::process::getpriority_process(None));
        take_short_turns();
        // Before Linux 6.12 a thread of the ordinary kind has no turn of its own, and 0 is told.
        let want = if before == 0 { 0 } else { TURN_NS };
        assert_eq!((turn_ns(), child()), (want, want));
        assert_eq!(rustix::process::getpriority_process(None), nice, "and no other rank");
    }
}
