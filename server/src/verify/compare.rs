//! The comparisons: what each of the others says, beside what the log says at the same position.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use anyhow::Context;
use meter::{AccountId, LedgerKind, Money, Seq, Stored};
use storage::clickhouse::{LedgerSum, Sink};
use storage::log::{Directory, Disk, WritePath};
use storage::registry::{Audit, MADE_BY_PEOPLE, MoneyRow};
use storage::snapshot::Snapshots;

use super::replay::Replayed;
use super::tally::Tally;
use super::{below, units};
use crate::books::{SECTION_BOOKS, SECTION_VIEWS};
use crate::config::{Engine, Settings};
use crate::cursor::Cursor;
use crate::node::clickhouse::{start_engine, target};
use crate::node::open::ALARMS_MAX;
use crate::views::Views;

/// One comparison.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Side {
    /// With what.
    pub name: &'static str,
    /// What was compared, or why nothing was.
    pub what: String,
    /// The first difference.
    pub difference: Option<Difference>,
}

/// A difference.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// The account, where it is about one.
    pub account: Option<AccountId>,
    /// What differs.
    pub what: String,
}

impl Side {
    pub(super) fn left_out(name: &'static str, why: &str) -> Self {
        Self { name, what: format!("not compared: {why}"), difference: None }
    }

    fn of(name: &'static str, what: String, difference: Option<Difference>) -> Self {
        Self { name, what, difference }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<11} {}", self.name, self.what)?;
        match &self.difference {
            None => Ok(()),
            Some(difference) => write!(f, ": {difference}"),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.account {
            Some(account) => write!(f, "DIFFERENT, account {account} first: {}", self.what),
            None => write!(f, "DIFFERENT: {}", self.what),
        }
    }
}

/// The ledger of the replay itself: each movement follows from the one before.
pub(super) fn ledger(replayed: &Replayed) -> Side {
    let difference = replayed.broken.as_ref().map(|broken| Difference {
        account: Some(broken.row.account),
        what: format!(
            "entry {} makes movement {} with balance {}; {} and {} would follow",
            broken.row.seq,
            broken.row.number,
            broken.row.balance.to_decimal(),
            broken.number,
            broken.balance.to_decimal()
        ),
    });
    Side::of("ledger", "numbers without holes, balances = sums of movements".to_owned(), difference)
}

/// What a snapshot holds.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) next: Seq,
    state: Vec<u8>,
    balances: BTreeMap<AccountId, Money>,
}

impl Shown {
    /// The newest sound snapshot, `None` if there is none.
    pub(super) fn load(settings: &Settings) -> anyhow::Result<Option<Self>> {
        let path = settings.node.data_dir.join("snapshots");
        if !path.is_dir() {
            return Ok(None);
        }
        let disk: Arc<dyn Disk> = Arc::new(Directory::open(&path, WritePath::Buffered)?);
        let Some(loaded) = Snapshots::new(disk).load()? else { return Ok(None) };
        let (mut views, readers) = Views::new(ALARMS_MAX);
        views
            .restore(&loaded.snapshot.section(SECTION_VIEWS)?)
            .context("the views in the snapshot do not read")?;
        let mut encoded = Vec::new();
        readers.accounts.encode(&mut encoded);
        let shown = ids_of(&encoded).into_iter().filter_map(|id| {
            let standing = readers.accounts.read(id)?;
            Some((AccountId(id), standing.balance))
        });
        let state = loaded.snapshot.section(SECTION_BOOKS)?;
        Ok(Some(Self { next: loaded.snapshot.next, state, balances: shown.collect() }))
    }
}

/// The ids in an encoded board: format byte, count, then id and seven words each.
fn ids_of(board: &[u8]) -> Vec<u32> {
    let slots = board.get(5..).unwrap_or_default().chunks_exact(4 + 7 * 8);
    slots.filter_map(|mut slot| u32::take(&mut slot)).collect()
}

/// The snapshot: the dataflow's state, and what people are shown.
pub(super) fn snapshot(replayed: &Replayed, shown: Option<&Shown>) -> Side {
    let Some(shown) = shown else { return Side::left_out("snapshot", "there is none yet") };
    let Some(stop) = replayed.stops.get(&shown.next) else {
        let what = format!(
            "it stands at entry {}, the log ends at {}",
            below(shown.next),
            below(replayed.next)
        );
        let difference = Difference { account: None, what };
        return Side::of("snapshot", "position".to_owned(), Some(difference));
    };
    let mut difference = None;
    for (account, (want, _)) in &stop.balances {
        let found = shown.balances.get(account);
        if found != Some(want) {
            let what = format!(
                "the log gives {}, the API shows {}",
                want.to_decimal(),
                found.map_or_else(|| "nothing".to_owned(), |found| found.to_decimal())
            );
            difference = Some(Difference { account: Some(*account), what });
            break;
        }
    }
    for (account, tally) in stop.tally.accounts() {
        let shown = stop.balances.get(&account).map(|(balance, _)| balance.ticks());
        if difference.is_none() && shown != Some(tally.balance_ticks) {
            let what = "its balance is not that of its last movement".to_owned();
            difference = Some(Difference { account: Some(account), what });
        }
    }
    if difference.is_none() && stop.state.as_deref() != Some(&shown.state[..]) {
        let what = "the dataflow's state differs, the balances do not; a snapshot of another \
                    version, or damage: move snapshots/ away to compute it again"
            .to_owned();
        difference = Some(Difference { account: None, what });
    }
    let what = format!(
        "through entry {}: {} bytes of state, {} balances as the API shows them",
        below(shown.next),
        shown.state.len(),
        stop.balances.len()
    );
    Side::of("snapshot", what, difference)
}

/// The registry: what people made, by account and kind, and what is left of debts.
pub(super) async fn registry(settings: &Settings, replayed: &Replayed) -> anyhow::Result<Side> {
    let path = settings.node.data_dir.join("registry.sqlite");
    let mut audit = Audit::open(&path).await?;
    audit.check_version().await?;
    let (accounts, rows) = (audit.accounts().await?, audit.money(replayed.outbox).await?);
    let mut difference = differs_from_registry(&replayed.tally, &accounts, &rows);
    let debts = audit.debts().await?;
    // Debts are kept as they stand now: they are those of the log only where it has every change.
    let has_all = audit.newest_outbox().await? == replayed.outbox;
    if has_all {
        difference = difference.or_else(|| differs_in_debts(&replayed.tally, &debts));
    }
    let mut what = format!("through change {}: {} accounts", replayed.outbox, accounts.len());
    for kind in MADE_BY_PEOPLE {
        let of_kind = rows.iter().filter(|row| row.kind == kind);
        let movements: u64 = of_kind.map(|row| row.movements).sum();
        if movements > 0 {
            let plural = if movements == 1 { "" } else { "s" };
            what += &format!(", {movements} {}{plural}", kind.name().replace('_', " "));
        }
    }
    if has_all && !debts.is_empty() {
        what += &format!(", debts of {} accounts", debts.len() / 2);
    }
    Ok(Side::of("registry", what, difference))
}

/// The first account of whose debts the log and the registry do not leave the same. What a switch of
/// mode made a debt the registry learns when it next needs it, and is compared from then on.
fn differs_in_debts(tally: &Tally, debts: &[MoneyRow]) -> Option<Difference> {
    let ours = |row: &MoneyRow| {
        let account = tally.account(AccountId(row.account));
        account.map_or(0, |account| account.kind(row.kind).1)
    };
    debts.chunks_exact(2).find_map(|rows| {
        let [agreed, recovered] = rows else { return None };
        if ours(agreed) != agreed.ticks || ours(recovered) == recovered.ticks {
            return None;
        }
        let (ours, theirs) = (units(ours(recovered).into()), units(recovered.ticks.into()));
        let what = format!("of its debt {ours} recovered by the log, {theirs} by the registry");
        Some(Difference { account: Some(AccountId(recovered.account)), what })
    })
}

fn differs_from_registry(tally: &Tally, accounts: &[u32], rows: &[MoneyRow]) -> Option<Difference> {
    let stranger = tally.accounts().find(|(id, _)| accounts.binary_search(&id.0).is_err());
    if let Some((account, _)) = stranger {
        let what = "it has movements, and the registry does not know it".to_owned();
        return Some(Difference { account: Some(account), what });
    }
    let theirs: BTreeMap<(u32, u8), (u64, i64)> = rows
        .iter()
        .map(|row| ((row.account, row.kind.code()), (row.movements, row.ticks)))
        .collect();
    differs("the registry", &sums_by_kind(tally, &MADE_BY_PEOPLE), &theirs)
}

/// Count and sum of movements by account and kind, those without one left out.
fn sums_by_kind(tally: &Tally, kinds: &[LedgerKind]) -> BTreeMap<(u32, u8), (u64, i64)> {
    tally
        .accounts()
        .flat_map(|(id, account)| {
            kinds.iter().map(move |kind| ((id.0, kind.code()), account.kind(*kind)))
        })
        .filter(|(_, (count, _))| *count > 0)
        .collect()
}

/// The first account and kind of which the log and somebody else do not say the same.
fn differs(
    who: &str,
    ours: &BTreeMap<(u32, u8), (u64, i64)>,
    theirs: &BTreeMap<(u32, u8), (u64, i64)>,
) -> Option<Difference> {
    let keys = ours.keys().chain(theirs.keys());
    let key = keys.filter(|key| ours.get(key) != theirs.get(key)).min()?;
    let [ours, theirs] = [ours, theirs].map(|side| side.get(key).copied().unwrap_or_default());
    let what = match LedgerKind::from_code(key.1) {
        Some(kind) => sums(who, kind, ours, theirs),
        None => format!("a movement of the unknown kind {}", key.1),
    };
    Some(Difference { account: Some(AccountId(key.0)), what })
}

fn sums(who: &str, kind: LedgerKind, ours: (u64, i64), theirs: (u64, i64)) -> String {
    format!(
        "{}: {} movements of {} by the log, {} of {} by {who}",
        kind.name(),
        ours.0,
        units(ours.1.into()),
        theirs.0,
        units(theirs.1.into())
    )
}

/// Below this entry ClickHouse has everything.
pub(super) fn sunk(settings: &Settings) -> anyhow::Result<Seq> {
    let place = Cursor::new(&settings.node.data_dir).load();
    Ok(place.context("cannot read the sink's cursor")?.next)
}

/// ClickHouse's ledger, by account and kind.
pub(super) async fn clickhouse(
    settings: &Settings,
    replayed: &Replayed,
    sunk: Seq,
) -> anyhow::Result<Side> {
    let Some(stop) = replayed.stops.get(&sunk) else {
        let what = format!(
            "it has rows through entry {}, the log ends at {}",
            below(sunk),
            below(replayed.next)
        );
        let difference = Difference { account: None, what };
        return Ok(Side::of("clickhouse", "position".to_owned(), Some(difference)));
    };
    let rows = ledger_sums(settings, sunk).await.context(
        "ClickHouse cannot be asked; start it, or leave it out with --without-clickhouse",
    )?;
    let movements: u64 = rows.iter().map(|row| row.movements).sum();
    let what = format!("through entry {}: {movements} movements", below(sunk));
    Ok(Side::of("clickhouse", what, differs_from_rows(&stop.tally, &rows)))
}

/// Asks ClickHouse; starts the embedded engine where nothing answers.
async fn ledger_sums(settings: &Settings, below: Seq) -> anyhow::Result<Vec<LedgerSum>> {
    let target = target(settings)?;
    if let Ok(sink) = Sink::open(target.clone()).await {
        return Ok(sink.history().ledger_sums(below).await?);
    }
    if settings.clickhouse.engine == Engine::Server {
        return Ok(Sink::open(target).await?.history().ledger_sums(below).await?);
    }
    let engine = start_engine(settings)?.context("the settings want no embedded engine")?;
    let answer = async {
        engine.ready().await?;
        anyhow::Ok(Sink::open(target).await?.history().ledger_sums(below).await?)
    };
    let rows = answer.await;
    engine.stop().await;
    rows
}

fn differs_from_rows(tally: &Tally, rows: &[LedgerSum]) -> Option<Difference> {
    let theirs: BTreeMap<(u32, u8), (u64, i64)> = rows
        .iter()
        .map(|row| ((row.account_id, row.kind), (row.movements, row.amount_ticks)))
        .collect();
    differs("ClickHouse", &sums_by_kind(tally, LedgerKind::ALL), &theirs)
}

#[cfg(test)]
mod tests {
    use meter::{Cause, LedgerRow, UnixSeconds};

    use super::*;

    fn row(number: u64, kind: LedgerKind, amount: i64, balance: i64) -> LedgerRow {
        LedgerRow {
            account: AccountId(3),
            number,
            kind,
            amount: Money::from_ticks(amount),
            balance: Money::from_ticks(balance),
            at: UnixSeconds(1),
            cause: Cause::Person(Seq(1)),
            seq: Seq(1),
        }
    }

    fn tally() -> Tally {
        let mut tally = Tally::default();
        tally.enter(&row(1, LedgerKind::Purchase, 100, 100)).unwrap();
        tally.enter(&row(2, LedgerKind::Energy, -7, 93)).unwrap();
        tally
    }

    #[test]
    fn every_difference_to_clickhouse_is_seen() {
        let row = |account_id, kind: LedgerKind, movements, amount_ticks| LedgerSum {
            account_id,
            kind: kind.code(),
            movements,
            amount_ticks,
        };
        let good = [row(3, LedgerKind::Energy, 1, -7), row(3, LedgerKind::Purchase, 1, 100)];
        assert_eq!(differs_from_rows(&tally(), &good), None);
        let check = |rows: &[LedgerSum], want: u32| {
            let found = differs_from_rows(&tally(), rows).and_then(|found| found.account);
            assert_eq!(found, Some(AccountId(want)), "{rows:?}");
        };
        check(&good[..1], 3);
        check(&[good[0], row(3, LedgerKind::Purchase, 1, 101)], 3);
        check(&[good[0], row(3, LedgerKind::Purchase, 2, 100)], 3);
        check(&[good[0], good[1], row(4, LedgerKind::Tax, 1, -1)], 4);
    }

    #[test]
    fn every_difference_to_the_registry_is_seen() {
        let row = |account, kind, movements, ticks| MoneyRow { account, kind, movements, ticks };
        let bought = row(3, LedgerKind::Purchase, 1, 100);
        let check = |accounts: &[u32], rows: &[MoneyRow], want: Option<u32>| {
            let found = differs_from_registry(&tally(), accounts, rows);
            let account = found.and_then(|found| found.account).map(|account| account.0);
            assert_eq!(account, want, "{accounts:?} {rows:?}");
        };
        check(&[2, 3], &[bought], None);
        check(&[2, 4], &[bought], Some(3));
        check(&[3], &[], Some(3));
        check(&[3], &[MoneyRow { movements: 2, ..bought }], Some(3));
        check(&[3], &[MoneyRow { ticks: 99, ..bought }], Some(3));
        check(&[2, 3], &[row(2, LedgerKind::Reversal, 1, -100), bought], Some(2));
        for kind in MADE_BY_PEOPLE.into_iter().filter(|kind| *kind != LedgerKind::Purchase) {
            check(&[3], &[bought, row(3, kind, 1, -1)], Some(3));
        }
    }

    #[test]
    fn every_difference_of_a_debt_is_seen() {
        let mut tally = tally();
        tally.enter(&row(3, LedgerKind::DebtAgreed, 50, 143)).unwrap();
        tally.enter(&row(4, LedgerKind::DebtRecovery, -20, 123)).unwrap();
        let check = |agreed, left, want: bool| {
            let row = |kind, ticks| MoneyRow { account: 3, kind, movements: 1, ticks };
            let recovered = row(LedgerKind::DebtRecovery, left - agreed);
            let rows = [row(LedgerKind::DebtAgreed, agreed), recovered];
            let found = differs_in_debts(&tally, &rows);
            assert_eq!(found.is_some(), want, "{agreed} {left}: {found:?}");
        };
        check(50, 30, false);
        check(50, 31, true);
        check(50, 0, true);
        // A switch made a further debt, which the registry did not take note of yet.
        check(40, 20, false);
    }

    #[test]
    fn a_board_tells_its_ids() {
        let (mut writer, board) = api::Board::<api::Standing>::create(9);
        writer.publish(5, api::Standing::default()).unwrap();
        writer.publish(2, api::Standing::default()).unwrap();
        let mut bytes = Vec::new();
        board.encode(&mut bytes);
        assert_eq!(ids_of(&bytes), [2, 5]);
    }
}
