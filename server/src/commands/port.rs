//! The border between the command service and the shards of ingest: bounded channels, a waker, and
//! nothing in between. At most one attempt of each open command is out, so a report always has room.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use ingest::{Errand, ErrandReport, Errands, Waker};
use tokio::sync::Notify;

use super::OPEN_MAX;

/// Errands that one shard has not taken yet.
const ERRANDS_MAX: usize = 2 * OPEN_MAX;

/// The service's side.
#[derive(Debug)]
pub struct ErrandPort {
    errands: Vec<Sender<Errand>>,
    wakers: Vec<Waker>,
    reports: Receiver<ErrandReport>,
    reported: Arc<Notify>,
}

/// A shard's side.
#[derive(Debug)]
pub struct ShardErrands {
    errands: Receiver<Errand>,
    reports: Sender<ErrandReport>,
    reported: Arc<Notify>,
}

/// The two sides, for as many shards as there are wakers.
#[must_use]
pub fn ports(wakers: Vec<Waker>) -> (ErrandPort, Vec<Box<dyn Errands>>) {
    let (report, reports) = bounded(ERRANDS_MAX);
    let reported = Arc::new(Notify::new());
    let mut port = ErrandPort { errands: Vec::new(), wakers, reports, reported };
    let mut shards = Vec::<Box<dyn Errands>>::new();
    for _ in &port.wakers {
        let (errand, errands) = bounded(ERRANDS_MAX);
        port.errands.push(errand);
        let (reports, reported) = (report.clone(), Arc::clone(&port.reported));
        shards.push(Box::new(ShardErrands { errands, reports, reported }));
    }
    (port, shards)
}

impl ErrandPort {
    /// Gives an errand to every shard. A shard that is so far behind that its queue is full misses
    /// it; where that was the meter's, the command expires.
    pub(super) fn give(&self, errand: &Errand) {
        for errands in &self.errands {
            errands.try_send(errand.clone()).unwrap_or_default();
        }
    }

    /// Wakes the shards.
    pub(super) fn wake(&self) {
        self.wakers.iter().for_each(Waker::wake);
    }

    /// The next report.
    pub(super) fn report(&self) -> Option<ErrandReport> {
        self.reports.try_recv().ok()
    }

    /// Waits until something was reported.
    pub(super) async fn reported(&self) {
        self.reported.notified().await;
    }
}

impl Errands for ShardErrands {
    fn next(&mut self) -> Option<Errand> {
        self.errands.try_recv().ok()
    }

    fn report(&mut self, report: ErrandReport) {
        // Full only when the service is gone: then nobody waits.
        self.reports.try_send(report).unwrap_or_default();
        self.reported.notify_one();
    }
}
