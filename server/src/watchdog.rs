//! The watchdog: ends the process when the books hang.
//!
//! A worker of the dataflow that panics says so, and the node stops in order. One that neither ends
//! nor goes on holds the books' thread, and no thread can be stopped from outside. Then the process
//! aborts, which is as safe as SIGKILL, and whoever supervises it starts it again; its core shows
//! where the worker hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tracing::error;

use crate::clock;

/// What the books' thread is about, told to the watchdog.
#[derive(Clone, Debug)]
pub struct Pulse {
    made: Instant,
    /// Milliseconds after `made` when the work under way began, plus 1; 0 while there is none.
    began: Arc<AtomicU64>,
}

/// Work under way, until it is dropped.
#[derive(Debug)]
pub struct Busy(Arc<AtomicU64>);

/// The watching thread; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { made: clock::instant(), began: Arc::new(AtomicU64::new(0)) }
    }
}

impl Pulse {
    /// Work begins that does not take long, whatever it is.
    #[must_use]
    pub fn busy(&self) -> Busy {
        // Relaxed: the number carries no other memory with it.
        self.began.store(self.now_ms() + 1, Ordering::Relaxed);
        Busy(Arc::clone(&self.began))
    }

    /// How long the work under way has taken.
    fn age(&self) -> Duration {
        match self.began.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            began => Duration::from_millis((self.now_ms() + 1).saturating_sub(began)),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl Watchdog {
    /// Watches over the work told to the pulse: what takes longer than `patience` ends the process.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(patience: Duration) -> anyhow::Result<(Self, Pulse)> {
        let (pulse, (stop, stopped)) = (Pulse::default(), bounded(0));
        let watched = pulse.clone();
        let thread = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || watch(&watched, patience, &stopped))
            .context("cannot start the thread \"watchdog\"")?;
        Ok((Self { stop: Some(stop), thread: Some(thread) }, pulse))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            thread.join().unwrap_or_default();
        }
    }
}

fn watch(pulse: &Pulse, patience: Duration, stop: &Receiver<()>) {
    let look = (patience / 10).min(Duration::from_secs(1));
    while stop.recv_timeout(look) == Err(RecvTimeoutError::Timeout) {
        let age = pulse.age();
        if age > patience {
            error!(
                seconds = age.as_secs(),
                "the books hang: the process ends, and replays when it is started again; keep its \
                 core, and raise books.stuck_s_max where a batch may take so long"
            );
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_work_under_way_ages() {
        let (watchdog, pulse) = Watchdog::start(Duration::MAX).expect("a thread starts");
        assert_eq!(pulse.age(), Duration::ZERO);
        let busy = pulse.busy();
        while pulse.age() == Duration::ZERO {
            std::thread::yield_now();
        }
        drop(busy);
        assert_eq!(pulse.age(), Duration::ZERO);
        drop(watchdog);
    }
}
