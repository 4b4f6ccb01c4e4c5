//! Commands to meters: from the registry's mailbox, through the sockets, to their outcome.
//!
//! Whoever has a command puts it into the registry ([`Registry::command`]) and waits there
//! ([`Registry::command_outcome`]). This service hands attempts to the shards of ingest, one of a
//! meter at a time, and writes down what came of them. **Invariants:** an attempt is noted before
//! anything is sent, so that after a crash the next one looks first; after an attempt that may have
//! come through nothing is repeated blindly; no invocation counter is used twice; a command that
//! was asked for ends exactly once.

mod port;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ingest::{Claim, Errand, ErrandEnd, ErrandReport};
use meter::wire::dlms::DIALOGUE_COUNTERS;
use meter::{CommandId, CommandOutcome, MeterId, SystemTitle, UnixSeconds};
use storage::registry::{self, CommandRow, Registry, RegistryError};
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::clock::Now;

pub use port::{ErrandPort, ShardErrands, ports};

/// Commands that the service holds at a time; more wait in the registry.
const OPEN_MAX: usize = 10_000;
/// How often deadlines are looked at while commands are open.
const LOOK: Duration = Duration::from_millis(250);
/// Pause after the registry did not answer.
const RETRY: Duration = Duration::from_secs(1);
/// Dialogues' counters taken from the registry at once.
const LEASE_DIALOGUES: u32 = 256;

/// The title that commands are sealed under: the head-end's with the highest bit of its last byte
/// turned over. The counters of acknowledgements are those of the meter; these are our own, and the
/// two must not meet under one title.
#[must_use]
pub const fn title(head_end: SystemTitle) -> SystemTitle {
    let [a, b, c, d, e, f, g, last] = head_end.0;
    SystemTitle([a, b, c, d, e, f, g, last ^ 0x80])
}

/// How long the service waits for meters.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For each answer.
    pub answer_max: Duration,
    /// Before a silent meter is tried again unasked; doubled each time.
    pub pause_first: Duration,
    /// The longest of these pauses.
    pub pause_max: Duration,
}

impl Patience {
    /// For meters on mobile networks.
    #[must_use]
    pub const fn standard() -> Self {
        Self {
            answer_max: Duration::from_secs(5),
            pause_first: Duration::from_secs(2),
            pause_max: Duration::from_secs(64),
        }
    }
}

/// What became of commands since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Attempts handed to the sockets.
    pub attempts: AtomicU64,
    /// Commands that the meter carried out or answered.
    pub answered: AtomicU64,
    /// Commands that the meter refused.
    pub refused: AtomicU64,
    /// Commands that expired.
    pub expired: AtomicU64,
    /// Commands that were withdrawn.
    pub withdrawn: AtomicU64,
    /// Commands held now.
    pub open: AtomicU64,
}

/// The service.
#[derive(Debug)]
pub struct Service {
    registry: Arc<Registry>,
    changes: watch::Receiver<u64>,
    port: ErrandPort,
    now: Time,
    patience: Patience,
    counts: Arc<Counts>,
    /// Commands of each meter in order; the first is the one being attempted.
    queues: BTreeMap<MeterId, VecDeque<Open>>,
    /// The newest command taken from the registry.
    newest: CommandId,
    held: usize,
    /// Meters whose first command is to be attempted.
    due: BTreeSet<MeterId>,
    /// Attempts with the shards.
    out: BTreeMap<u64, MeterId>,
    expiries: BTreeSet<(UnixSeconds, CommandId, MeterId)>,
    /// Ends that are not in the registry yet.
    ends: Vec<(CommandId, CommandOutcome)>,
    next_errand: u64,
    lease: std::ops::Range<u32>,
}

/// A command that has not ended.
#[derive(Debug)]
struct Open {
    row: CommandRow,
    /// Whether something that changes the meter may have been sent.
    may_have_acted: bool,
    is_withdrawn: bool,
    failures: u32,
    is_near: bool,
    attempt: Option<(u64, Arc<Claim>)>,
}

/// The clock, so that the service can be printed.
struct Time(Now);

impl std::fmt::Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Time")
    }
}

impl Service {
    /// A service over a registry and the shards' ports.
    #[must_use]
    pub fn new(registry: Arc<Registry>, port: ErrandPort, now: Now, patience: Patience) -> Self {
        Self {
            changes: registry.watch_commands(),
            registry,
            port,
            now: Time(now),
            patience,
            counts: Arc::default(),
            queues: BTreeMap::new(),
            newest: CommandId(0),
            held: 0,
            due: BTreeSet::new(),
            out: BTreeMap::new(),
            expiries: BTreeSet::new(),
            ends: Vec::new(),
            next_errand: 1,
            lease: 0..0,
        }
    }

    /// The counts, for metrics.
    #[must_use]
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Serves until it is dropped.
    pub async fn run(mut self) {
        loop {
            self.changes.borrow_and_update();
            if let Err(error) = self.round().await {
                warn!(error = &error as &dyn std::error::Error, "commands wait for the registry");
                tokio::time::sleep(RETRY).await;
                continue;
            }
            // Relaxed: counts for people, nothing follows from them.
            self.counts.open.store(self.held as u64, Ordering::Relaxed);
            tokio::select! {
                changed = self.changes.changed() => if changed.is_err() { return },
                () = self.port.reported() => {}
                () = tokio::time::sleep(LOOK), if self.held > 0 => {}
            }
        }
    }

    /// Everything that can be done now.
    async fn round(&mut self) -> Result<(), RegistryError> {
        while let Some(report) = self.port.report() {
            self.take_report(report);
        }
        self.take_new().await?;
        self.take_withdrawn().await?;
        self.expire();
        // Ends make room for what waits behind them.
        self.write_ends().await?;
        let has_due = !self.due.is_empty();
        while let Some(meter) = self.due.pop_first() {
            if let Err(error) = self.attempt(meter).await {
                self.due.insert(meter);
                return Err(error);
            }
        }
        if has_due {
            self.port.wake();
        }
        self.write_ends().await
    }

    async fn take_new(&mut self) -> Result<(), RegistryError> {
        let room = u32::try_from(OPEN_MAX.saturating_sub(self.held)).unwrap_or(0);
        if room == 0 {
            return Ok(());
        }
        for row in self.registry.open_commands(self.newest, room).await? {
            self.newest = row.id;
            self.held += 1;
            self.expiries.insert((row.expires_at, row.id, row.meter));
            let meter = row.meter;
            let open = Open {
                // The node that attempted it is gone, and nobody knows how far it came.
                may_have_acted: row.attempts > 0,
                is_withdrawn: row.is_withdrawn,
                failures: 0,
                is_near: true,
                attempt: None,
                row,
            };
            let queue = self.queues.entry(meter).or_default();
            queue.push_back(open);
            if queue.len() == 1 {
                self.due.insert(meter);
            }
        }
        Ok(())
    }

    async fn take_withdrawn(&mut self) -> Result<(), RegistryError> {
        if self.held == 0 {
            return Ok(());
        }
        for (id, meter) in self.registry.withdrawn_commands().await? {
            let queue = self.queues.get_mut(&meter);
            if let Some(open) = queue.and_then(|queue| queue.iter_mut().find(|o| o.row.id == id)) {
                open.is_withdrawn = true;
                self.give_up(meter, id);
            }
        }
        Ok(())
    }

    fn expire(&mut self) {
        let now = (self.now.0)();
        let past: Vec<_> =
            self.expiries.iter().take_while(|(at, ..)| *at <= now).copied().collect();
        for (at, id, meter) in past {
            self.expiries.remove(&(at, id, meter));
            self.give_up(meter, id);
        }
    }

    /// Ends a command, unless a shard carries it just now: then its report will.
    fn give_up(&mut self, meter: MeterId, id: CommandId) {
        let queue = self.queues.get(&meter);
        let Some(open) = queue.and_then(|queue| queue.iter().find(|open| open.row.id == id)) else {
            return;
        };
        let attempt = open.attempt.as_ref();
        let is_carried = attempt.is_some_and(|(_, claim)| !claim.withdraw());
        if !is_carried {
            let outcome = open.given_up();
            self.end(meter, id, outcome);
        }
    }

    async fn attempt(&mut self, meter: MeterId) -> Result<(), RegistryError> {
        let now = (self.now.0)();
        let Some(open) = self.queues.get(&meter).and_then(VecDeque::front) else { return Ok(()) };
        let id = open.row.id;
        if open.is_withdrawn || open.row.expires_at <= now {
            let outcome = open.given_up();
            self.end(meter, id, outcome);
            return Ok(());
        }
        let route = self.registry.command_route(meter).await?;
        let counter = self.take_counters().await?;
        self.registry.command_attempted(id).await?;
        let number = self.next_errand;
        self.next_errand += 1;
        let open = self.queues.get_mut(&meter).and_then(VecDeque::front_mut);
        let open = open.expect("nobody else takes from the queue");
        let claim = Arc::<Claim>::default();
        open.attempt = Some((number, Arc::clone(&claim)));
        let errand = Errand {
            id: number,
            meter: route.meter,
            via: route.via,
            command: open.row.command,
            check_first: open.may_have_acted,
            counter,
            challenge: registry::fresh_challenge(),
            pause: open.pause(self.patience),
            answer_max: self.patience.answer_max,
            claim,
        };
        self.counts.attempts.fetch_add(1, Ordering::Relaxed);
        self.out.insert(number, meter);
        self.port.give(&errand);
        Ok(())
    }

    fn take_report(&mut self, ErrandReport { id: number, end }: ErrandReport) {
        let Some(meter) = self.out.remove(&number) else { return };
        let Some(open) = self.queues.get_mut(&meter).and_then(VecDeque::front_mut) else { return };
        open.attempt = None;
        let id = open.row.id;
        match end {
            ErrandEnd::Answered(outcome) => self.end(meter, id, outcome),
            ErrandEnd::Failed { failure, has_acted, is_near } => {
                debug!(command = id.0, ?failure, has_acted, "attempt failed");
                open.may_have_acted |= has_acted;
                open.is_near = is_near;
                open.failures = open.failures.saturating_add(1);
                self.due.insert(meter);
            }
        }
    }

    /// Lets the next command of the meter have its turn; the registry is told in the same round.
    fn end(&mut self, meter: MeterId, id: CommandId, outcome: CommandOutcome) {
        let Some(queue) = self.queues.get_mut(&meter) else { return };
        let Some(at) = queue.iter().position(|open| open.row.id == id) else { return };
        let open = queue.remove(at).expect("just found");
        self.expiries.remove(&(open.row.expires_at, id, meter));
        if let Some((number, _)) = open.attempt {
            self.out.remove(&number);
        }
        self.held -= 1;
        if queue.is_empty() {
            self.queues.remove(&meter);
        } else if at == 0 {
            self.due.insert(meter);
        }
        let counts = &self.counts;
        let counter = match outcome {
            CommandOutcome::Relay { .. } | CommandOutcome::Token { .. } => &counts.answered,
            CommandOutcome::Refused { .. } => &counts.refused,
            CommandOutcome::Expired { .. } => &counts.expired,
            CommandOutcome::Withdrawn => &counts.withdrawn,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.ends.push((id, outcome));
    }

    async fn write_ends(&mut self) -> Result<(), RegistryError> {
        while let Some((id, outcome)) = self.ends.first().copied() {
            self.registry.command_ended(id, outcome, (self.now.0)()).await?;
            self.ends.remove(0);
        }
        Ok(())
    }

    /// Counters for one dialogue.
    async fn take_counters(&mut self) -> Result<u32, RegistryError> {
        if self.lease.is_empty() {
            let count = LEASE_DIALOGUES * DIALOGUE_COUNTERS;
            let first = self.registry.lease_command_counters(count).await?;
            self.lease = first..first + count;
        }
        let first = self.lease.start;
        self.lease.start += DIALOGUE_COUNTERS;
        Ok(first)
    }
}

impl Open {
    /// How long to wait before the device is tried unasked.
    fn pause(&self, patience: Patience) -> Duration {
        if self.is_near {
            return Duration::ZERO;
        }
        let doubled = 1 << self.failures.saturating_sub(1).min(16);
        patience.pause_first.saturating_mul(doubled).min(patience.pause_max)
    }

    /// The outcome of a command that nobody answered.
    const fn given_up(&self) -> CommandOutcome {
        if self.is_withdrawn && !self.may_have_acted {
            CommandOutcome::Withdrawn
        } else {
            CommandOutcome::Expired { sent: self.may_have_acted }
        }
    }
}
