//! The first account that differs, movement by movement as the log gives them.

use std::fmt::Write as _;

use meter::{Cause, LedgerRow};
use storage::log::Disk;

use super::compare::Difference;
use super::replay::{Look, Replayed, replay};
use super::units;

/// Movements printed at most: the last ones.
const LINES_MAX: usize = 40;

/// Replays once more and prints the account's movements.
pub(super) fn account(
    log: &dyn Disk,
    workers: usize,
    difference: &Difference,
    replayed: &Replayed,
) -> anyhow::Result<String> {
    let Some(id) = difference.account else { return Ok(String::new()) };
    let look = Look { account: Some(id), ..Look::default() };
    let movements = replay(log, workers, &look)?.movements;
    let mut text = format!("account {id} by the log, {} movements\n", movements.len());
    if let Some(account) = replayed.tally.account(id) {
        for kind in meter::LedgerKind::ALL {
            let (count, ticks) = account.kind(*kind);
            if count > 0 {
                writeln!(text, "  {:<16} {count:>10}  {:>20}", kind.name(), units(ticks.into()))?;
            }
        }
    }
    let left_out = movements.len().saturating_sub(LINES_MAX);
    if left_out > 0 {
        writeln!(text, "  … the first {left_out} are left out")?;
    }
    for row in movements.iter().skip(left_out) {
        writeln!(text, "  {}", line(row))?;
    }
    Ok(text)
}

fn line(row: &LedgerRow) -> String {
    let cause = match row.cause {
        Cause::Readings { meter, from, to } => format!("meter {meter} from {from} to {to}"),
        Cause::Period(start) => format!("period from {start}"),
        Cause::Purchase(purchase) => format!("purchase {purchase}"),
        Cause::Person(seq) => format!("a person, entry {seq}"),
        Cause::Meter { meter, at } => format!("meter {meter} at {at}"),
        Cause::Movement { number, seq } => {
            format!("a person, entry {seq}, corrects movement {number}")
        }
    };
    format!(
        "{:>6} {} {:<14} {:>18} {:>18}  entry {}, {cause}",
        row.number,
        row.at,
        row.kind.name(),
        row.amount.to_decimal(),
        row.balance.to_decimal(),
        row.seq
    )
}
