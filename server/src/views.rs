//! What the API reads without asking the books: the newest values of each meter, the standing of
//! each account, the alarms that are on, and counts of verdicts. One writer: the books' thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::{ActiveAlarms, Board, BoardWriter, Latest, Standing};
use meter::{Effects, Entry, Outcome, Reading, Seq, Stored};
use tracing::warn;

/// Ids a board may hold; memory is taken as they are used.
const IDS_MAX: u32 = 1 << 24;

/// How many readings met which verdict since the start of the process.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// In the books.
    pub accepted: AtomicU64,
    /// Known already.
    pub duplicate: AtomicU64,
    /// Kept aside.
    pub quarantined: AtomicU64,
    /// Waiting for their neighbours; also counted once settled.
    pub parked: AtomicU64,
}

/// The readers' side.
#[derive(Clone, Debug)]
pub struct Readers {
    /// Newest values by meter.
    pub meters: Arc<Board<Latest>>,
    /// Standing by account.
    pub accounts: Arc<Board<Standing>>,
    /// Alarms that are on.
    pub alarms: Arc<ActiveAlarms>,
    /// Verdicts.
    pub verdicts: Arc<Verdicts>,
}

/// The writer's side.
#[derive(Debug)]
pub struct Views {
    meters: BoardWriter<Latest>,
    accounts: BoardWriter<Standing>,
    readers: Readers,
}

impl Views {
    /// Empty views that hold at most `alarms_max` alarms.
    #[must_use]
    pub fn new(alarms_max: usize) -> (Self, Readers) {
        let (meters, meter_board) = Board::<Latest>::create(IDS_MAX);
        let (accounts, account_board) = Board::<Standing>::create(IDS_MAX);
        let readers = Readers {
            meters: meter_board,
            accounts: account_board,
            alarms: Arc::new(ActiveAlarms::new(alarms_max)),
            verdicts: Arc::default(),
        };
        (Self { meters, accounts, readers: readers.clone() }, readers)
    }

    /// Takes over what followed from a batch of entries.
    pub fn apply(&mut self, first: Seq, entries: &[Entry], effects: &Effects) {
        let mut counts = Counts::default();
        let rows = effects.rows(first, entries);
        for (verdict, reading) in rows.verdicts() {
            counts.add(verdict.outcome);
            if verdict.outcome == Outcome::Accepted {
                self.reading(reading);
            }
        }
        for settled in &effects.settled {
            counts.add(settled.outcome);
            if settled.outcome == Outcome::Accepted {
                self.reading(&settled.reading);
            }
        }
        for row in rows.balances() {
            if let Err(error) = self.accounts.balance(&row) {
                warn!(account = %row.account, %error, "a balance cannot be shown");
            }
        }
        for row in &effects.ledger {
            if let Err(error) = self.accounts.movement(row) {
                warn!(account = %row.account, %error, "a debt cannot be shown");
            }
        }
        if !effects.alarms.is_empty() {
            self.readers.alarms.apply(&effects.alarms);
        }
        counts.publish(&self.readers.verdicts);
    }

    /// The state for a snapshot.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (mut meters, mut accounts, mut alarms) = (Vec::new(), Vec::new(), Vec::new());
        self.readers.meters.encode(&mut meters);
        self.readers.accounts.encode(&mut accounts);
        self.readers.alarms.encode(&mut alarms);
        let mut out = Vec::new();
        [meters, accounts, alarms].iter().for_each(|section| section.put(&mut out));
        out
    }

    /// Takes over the state of a snapshot; `None` when it does not read.
    pub fn restore(&mut self, mut bytes: &[u8]) -> Option<()> {
        let (meters, accounts, alarms) = (
            Vec::<u8>::take(&mut bytes)?,
            Vec::<u8>::take(&mut bytes)?,
            Vec::<u8>::take(&mut bytes)?,
        );
        self.meters.decode(&meters).ok()?;
        self.accounts.decode(&accounts).ok()?;
        self.readers.alarms.decode(&alarms).ok()
    }

    fn reading(&mut self, reading: &Reading) {
        if let Err(error) = self.meters.reading(reading) {
            warn!(meter = %reading.meter, %error, "newest values cannot be shown");
        }
    }
}

/// Verdicts of one batch, added to the shared counts once.
#[derive(Debug, Default)]
struct Counts {
    accepted: u64,
    duplicate: u64,
    quarantined: u64,
    parked: u64,
}

impl Counts {
    const fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Accepted => self.accepted += 1,
            Outcome::Duplicate => self.duplicate += 1,
            Outcome::Quarantined(_) => self.quarantined += 1,
            Outcome::Parked => self.parked += 1,
        }
    }

    fn publish(&self, verdicts: &Verdicts) {
        // Relaxed: counts for people, nothing follows from them.
        verdicts.accepted.fetch_add(self.accepted, Ordering::Relaxed);
        verdicts.duplicate.fetch_add(self.duplicate, Ordering::Relaxed);
        verdicts.quarantined.fetch_add(self.quarantined, Ordering::Relaxed);
        verdicts.parked.fetch_add(self.parked, Ordering::Relaxed);
    }
}
