//! The node on simulated disks: the real log, books, spool, snapshots and archive, and no thread,
//! socket or clock of its own but the dataflow's workers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use meter::{Effects, Entry, MeterId, OrderRow, Recall, Seq, UnixSeconds};
use storage::archive::Archive;
use storage::log::sim::SimDisk;
use storage::log::{Config, Disk, Durability, Error, NewBatch, Reader, SegmentLog, Urgency};
use storage::snapshot::Snapshots;
use tokio::sync::{mpsc, watch};

use super::options::Dice;
use crate::archive::Retire;
use crate::books::{Books, Cadence, LastSnapshot};
use crate::clock;
use crate::cursor::Place;
use crate::node::open::{Restored, restore};
use crate::sink;
use crate::spool::Spool;
use crate::views::Views;
use crate::watchdog::Pulse;

const SEGMENT: u64 = 128 << 10;

/// The disks of a node.
#[derive(Clone, Debug)]
pub(super) struct Disks {
    pub(super) log: SimDisk,
    pub(super) spool: SimDisk,
    pub(super) snapshots: SimDisk,
    pub(super) archive: SimDisk,
}

impl Disks {
    pub(super) fn new(dice: &mut Dice) -> Self {
        let mut disk = || SimDisk::new(dice.below(u64::MAX));
        Self { log: disk(), spool: disk(), snapshots: disk(), archive: disk() }
    }

    pub(super) fn all(&self) -> [&SimDisk; 4] {
        [&self.log, &self.spool, &self.snapshots, &self.archive]
    }

    /// Log and archive as one.
    pub(super) fn whole_log(&self) -> storage::log::Layers {
        Archive::new(Arc::new(self.archive.clone())).before(Arc::new(self.log.clone()))
    }
}

/// A running node.
pub(super) struct Machine {
    log: SegmentLog,
    archive: Archive,
    retire: Arc<Retire>,
    books: Books,
    recalls: mpsc::UnboundedReceiver<Recall>,
    orders: mpsc::UnboundedReceiver<OrderRow>,
    sunk: Arc<sink::Progress>,
    pub(super) spool: Reader,
}

impl Machine {
    /// Starts on these disks, as `meterd serve` does.
    pub(super) fn start(
        disks: &Disks,
        place: Place,
        workers: usize,
        now: UnixSeconds,
    ) -> anyhow::Result<Self> {
        let open = |disk: &SimDisk, durability| {
            let config = Config {
                segment_size_bytes: SEGMENT,
                reserve_segments: 1,
                spares_max: 2,
                durability,
                node: 1,
                epoch: 1,
            };
            SegmentLog::open(Arc::new(disk.clone()), config, now.0.into())
        };
        let (log, _) = open(&disks.log, Durability::Synced)?;
        let (spool, _) = open(&disks.spool, Durability::Lazy)?;
        let snapshots = Snapshots::new(Arc::new(disks.snapshots.clone()));
        let (mut views, _) = Views::new(100_000);
        let Restored { engine, next, ticked, unanswered } =
            restore(workers, &snapshots, &mut views)?;
        let sunk = sink::Progress::new(place.next);
        let reader = spool.read_from(place.next);
        let (recalls, asked) = mpsc::unbounded_channel();
        let (orders, ordered) = mpsc::unbounded_channel();
        let (applied, _) = watch::channel(Seq(0));
        let retire = Retire::new(log.progress(), Seq(0));
        let mut books = Books {
            engine,
            next,
            ticked,
            spool: Spool::new(spool),
            snapshots,
            views,
            recalls,
            orders,
            unanswered: unanswered.into_iter().map(|recall| (recall.meter, recall)).collect(),
            applied,
            sunk: Arc::clone(&sunk),
            retire: Arc::clone(&retire),
            pulse: Pulse::default(),
            // Snapshots are taken when the story says so.
            cadence: Cadence { entries: u64::MAX, age: Duration::MAX },
            last: LastSnapshot { next, at: clock::instant() },
            saving: None,
            under_way: VecDeque::new(),
            effects: Effects::default(),
        };
        books.replay(log.read_from(next))?;
        let archive = Archive::new(Arc::new(disks.archive.clone()) as Arc<dyn Disk>);
        let (recalls, orders) = (asked, ordered);
        Ok(Self { log, archive, retire, books, recalls, orders, sunk, spool: reader })
    }

    /// Makes entries durable. `None`: the disk is full and they were refused.
    pub(super) fn commit(
        &mut self,
        entries: &[Entry],
        urgency: Urgency,
    ) -> anyhow::Result<Option<Seq>> {
        let mut payload = Vec::new();
        entries.iter().for_each(|entry| entry.encode(&mut payload));
        let count = u32::try_from(entries.len()).expect("few entries");
        let batch = NewBatch { count, payload: &payload, kind: 1, slot_group: 0, urgency };
        let first = match self.log.append(batch) {
            Err(Error::Full) => return Ok(None),
            appended => appended?,
        };
        self.log.commit()?;
        self.log.prepare_ahead(payload.len() as u64)?;
        Ok(Some(first))
    }

    /// Takes durable entries into the books and returns what followed.
    pub(super) fn apply(&mut self, first: Seq, entries: Vec<Entry>) -> anyhow::Result<&Effects> {
        self.books.take(first, entries)?;
        Ok(&self.books.effects)
    }

    /// The newest tick.
    pub(super) const fn ticked(&self) -> UnixSeconds {
        self.books.ticked
    }

    /// Questions that wait for their answers.
    pub(super) fn questions(&mut self) -> Vec<Recall> {
        let mut questions = Vec::new();
        while let Ok(recall) = self.recalls.try_recv() {
            questions.push(recall);
        }
        questions
    }

    /// Steps of orders to relays.
    pub(super) fn orders(&mut self) -> Vec<OrderRow> {
        let mut orders = Vec::new();
        while let Ok(row) = self.orders.try_recv() {
            orders.push(row);
        }
        orders
    }

    /// ClickHouse has everything below this.
    pub(super) fn sunk(&self, next: Seq) {
        self.sunk.advance(next);
    }

    pub(super) fn snapshot(&mut self) -> anyhow::Result<()> {
        self.books.snapshot().context("snapshot")
    }

    /// What the writer and the archive's thread do when there is time.
    pub(super) fn keep_house(&mut self) -> anyhow::Result<()> {
        // An archive that fails keeps the log and is tried again.
        if let Ok(next) = self.archive.take(self.log.disk().as_ref()) {
            self.retire.archived(next);
        }
        self.log.retire(self.log.progress().retire_requested())?;
        if self.log.is_full() {
            match self.log.replenish() {
                Ok(()) | Err(Error::Full) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The highest invocation counter known of each meter.
    pub(super) fn counters(&self) -> BTreeMap<MeterId, u32> {
        let windows = self.books.engine.windows();
        windows.meters.iter().map(|(meter, window)| (*meter, window.highest)).collect()
    }
}
