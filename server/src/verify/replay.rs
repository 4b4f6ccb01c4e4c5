//! The whole log through a fresh dataflow: no snapshot, no spool, no clock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use anyhow::{Context, bail};
use dataflow::{Config, Engine};
use meter::{AccountId, Effects, Entry, LedgerRow, MeterId, Money, OutboxId, Seq};
use storage::log::{Batches, Disk};

use super::tally::{Broken, Tally};

/// Entries that go through the dataflow together, at least.
const GROUP: usize = 8192;
/// Groups on their way.
const PENDING_MAX: usize = 3;

/// What a replay found.
#[derive(Debug, Default)]
pub struct Replayed {
    /// The first entry.
    pub first: Seq,
    /// The entry after the last one.
    pub next: Seq,
    /// Batches of the log.
    pub batches: u64,
    /// What the ledger comes to.
    pub tally: Tally,
    /// The first movement that does not follow from the one before.
    pub broken: Option<Box<Broken>>,
    /// The newest change of the registry in the log.
    pub outbox: OutboxId,
    /// How it stood at the places asked for.
    pub stops: BTreeMap<Seq, Stop>,
    /// Movements of the account that is looked at.
    pub movements: Vec<LedgerRow>,
}

/// How the books stood before an entry.
#[derive(Debug, Default)]
pub struct Stop {
    /// What the ledger came to.
    pub tally: Tally,
    /// Balances as shown to people.
    pub balances: BTreeMap<AccountId, (Money, MeterId)>,
    /// The dataflow's state, where it was asked for.
    pub state: Option<Vec<u8>>,
}

/// What to look at on the way.
#[derive(Debug, Default)]
pub struct Look {
    /// Stop before these entries.
    pub stops: BTreeSet<Seq>,
    /// At which of them to save the dataflow's state.
    pub state_at: Option<Seq>,
    /// Keep the movements of this account.
    pub account: Option<AccountId>,
}

/// Replays the log in `disk` with so many workers.
///
/// # Errors
/// The log is damaged, does not begin with entry 1, holds what no entry is, or the dataflow broke.
pub fn replay(disk: &dyn Disk, workers: usize, look: &Look) -> anyhow::Result<Replayed> {
    let mut run = Run::new(workers, look)?;
    let mut batches = Batches::open(disk)?;
    while let Some(batch) = batches.next() {
        let header = batch?.header;
        if run.found.batches == 0 && header.first != Seq(1) {
            bail!(
                "the log begins at entry {}: the entries before it are neither in the log's folder \
                 nor in the archive; name the archive with [archive] in the settings, or restore \
                 its files",
                header.first
            );
        }
        if header.first != run.next() {
            bail!("entry {} is missing: the log goes on at {}", run.next(), header.first);
        }
        run.found.batches += 1;
        let mut payload = batches.payload();
        for seq in header.first.0..header.next().0 {
            let entry = Entry::decode(&mut payload)
                .with_context(|| format!("entry {seq} of the log does not read"))?;
            run.take(Seq(seq), entry)?;
        }
    }
    run.finish()
}

struct Run<'a> {
    look: &'a Look,
    engine: Engine,
    /// The first entry of the group that gathers.
    first: Seq,
    group: Vec<Entry>,
    /// Groups on their way through the dataflow.
    submitted: VecDeque<(Seq, Arc<Vec<Entry>>)>,
    effects: Effects,
    balances: BTreeMap<AccountId, (Money, MeterId)>,
    found: Replayed,
}

impl<'a> Run<'a> {
    fn new(workers: usize, look: &'a Look) -> anyhow::Result<Self> {
        let engine = Engine::start(&Config { workers }, None)?;
        let found = Replayed { first: Seq(1), next: Seq(1), ..Replayed::default() };
        Ok(Self {
            look,
            engine,
            first: Seq(1),
            group: Vec::with_capacity(GROUP),
            submitted: VecDeque::new(),
            effects: Effects::default(),
            balances: BTreeMap::new(),
            found,
        })
    }

    fn next(&self) -> Seq {
        Seq(self.first.0 + self.group.len() as u64)
    }

    fn take(&mut self, seq: Seq, entry: Entry) -> anyhow::Result<()> {
        if self.look.stops.contains(&seq) {
            self.stop(seq)?;
        }
        if let Entry::Changes { outbox, .. } = &entry {
            self.found.outbox = self.found.outbox.max(*outbox);
        }
        self.group.push(entry);
        if self.group.len() >= GROUP {
            self.submit()?;
        }
        Ok(())
    }

    fn submit(&mut self) -> anyhow::Result<()> {
        if !self.group.is_empty() {
            let next = self.next();
            let group = std::mem::replace(&mut self.group, Vec::with_capacity(GROUP));
            let group = Arc::new(group);
            self.engine.submit(self.first, &group)?;
            self.submitted.push_back((self.first, group));
            self.first = next;
        }
        while self.engine.pending() >= PENDING_MAX {
            self.receive()?;
        }
        Ok(())
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        self.submit()?;
        while self.engine.pending() > 0 {
            self.receive()?;
        }
        Ok(())
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        self.effects.clear();
        self.engine.receive(&mut self.effects)?;
        let (first, entries) =
            self.submitted.pop_front().expect("effects are of what was handed in");
        let rows = self.effects.rows(first, &entries);
        for row in rows.ledger() {
            if let Err(broken) = self.found.tally.enter(&row) {
                self.found.broken.get_or_insert(broken);
            }
            if self.look.account == Some(row.account) {
                self.found.movements.push(row);
            }
        }
        if !self.look.stops.is_empty() {
            for row in rows.balances().filter(|row| row.account.is_some()) {
                self.balances.insert(row.account, (row.balance, row.meter));
            }
        }
        Ok(())
    }

    fn stop(&mut self, seq: Seq) -> anyhow::Result<()> {
        self.drain()?;
        let wants_state = self.look.state_at == Some(seq);
        let state = if wants_state { Some(self.engine.snapshot()?) } else { None };
        let (tally, balances) = (self.found.tally.clone(), self.balances.clone());
        self.found.stops.insert(seq, Stop { tally, balances, state });
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<Replayed> {
        let next = self.next();
        if self.look.stops.contains(&next) {
            self.stop(next)?;
        }
        self.drain()?;
        self.found.next = next;
        Ok(self.found)
    }
}
