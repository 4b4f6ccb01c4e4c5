//! What the node must say at the end of the week, against what the simulator knows.

use std::collections::{BTreeMap, BTreeSet};

use loadgen::feeder::{AlarmSubject, Expected};
use loadgen::report::Stats;
use meter::{AlarmCode, Money};

use super::check::Checks;
use super::client::{Api, Sql};

/// What the simulator counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// Readings that were to be sent.
    pub(super) readings: u64,
    /// Readings acknowledged, each once.
    pub(super) acknowledged: u64,
}

impl Sent {
    /// The sum over fleets.
    #[must_use]
    pub(super) fn of(stats: [&Stats; 2]) -> Self {
        Self {
            readings: stats.iter().map(|stats| stats.expected).sum(),
            acknowledged: stats.iter().map(|stats| stats.acknowledged).sum(),
        }
    }
}

/// Asks the node and ClickHouse, and compares.
///
/// # Errors
/// One of them does not answer.
pub(super) async fn checks(
    api: &Api,
    sql: &Sql,
    expected: &Expected,
    sent: Sent,
) -> anyhow::Result<Checks> {
    let mut checks = Checks::default();
    checks.equal("readings to be sent", expected.readings, sent.readings);
    checks.equal("readings acknowledged", expected.readings, sent.acknowledged);
    let stored = "SELECT count() FROM readings FINAL WHERE outcome = 'accepted'";
    checks.equal("readings stored, each once", expected.readings, sql.value(stored).await?);
    let aside = "SELECT count() FROM readings FINAL WHERE outcome != 'accepted'";
    checks.equal("readings in quarantine", expected.quarantined, sql.value(aside).await?);
    let counts = "SELECT count(), countIf(quality = 'actual') FROM intervals FINAL";
    let counts = sql.rows(counts).await?.concat().join(" with actual: ");
    let want = format!("{0} with actual: {0}", expected.intervals);
    checks.equal("15-minute rows, all complete", want, counts);

    let meters = api.ids("/v1/meters", "serial").await?;
    energy(&mut checks, sql, expected, &meters).await?;
    balances(&mut checks, api, sql, expected).await?;
    losses(&mut checks, sql, expected).await?;
    alarms(&mut checks, api, sql, expected, &meters).await?;
    Ok(checks)
}

async fn energy(
    checks: &mut Checks,
    sql: &Sql,
    expected: &Expected,
    meters: &BTreeMap<String, u64>,
) -> anyhow::Result<()> {
    let sums = "SELECT meter_id, sum(energy_wh) FROM intervals FINAL GROUP BY meter_id";
    let sums = sql.map(sums).await?;
    let rows = expected.energy.iter().map(|(serial, energy)| {
        let got = meters.get(serial).and_then(|id| sums.get(&id.to_string())).cloned();
        (serial.clone(), energy.wh().to_string(), got)
    });
    checks.each("energy of each meter, Wh", rows);
    Ok(())
}

async fn balances(
    checks: &mut Checks,
    api: &Api,
    sql: &Sql,
    expected: &Expected,
) -> anyhow::Result<()> {
    let accounts = api.ids("/v1/accounts", "code").await?;
    let sums = "SELECT account_id, sum(amount_ticks) FROM ledger FINAL GROUP BY account_id";
    let sums = sql.map(sums).await?;
    let (mut by_api, mut by_ledger) = (Vec::new(), Vec::new());
    for (code, balance) in &expected.balances {
        let want = balance.to_decimal();
        let id = accounts.get(code).copied().unwrap_or_default();
        let answer = api.get(&format!("/v1/accounts/{id}/balance")).await?;
        let got = answer["balance"].as_str().map(str::to_owned);
        by_api.push((code.clone(), want.clone(), got));
        let sum = sums.get(&id.to_string()).and_then(|ticks| ticks.parse().ok());
        let got = sum.map(|ticks| Money::from_ticks(ticks).to_decimal());
        by_ledger.push((code.clone(), want, got));
    }
    checks.each("balance of each account, to the tick", by_api);
    checks.each("sum of each ledger in ClickHouse", by_ledger);
    Ok(())
}

async fn losses(checks: &mut Checks, sql: &Sql, expected: &Expected) -> anyhow::Result<()> {
    let rows = "SELECT toUInt32(start), concat(toString(supply_wh), ' - ', \
                toString(delivered_wh)) FROM line_loss FINAL WHERE expected = actual";
    let rows = sql.map(rows).await?;
    let each = expected.losses.iter().map(|(start, loss)| {
        let want = format!("{} - {}", loss.supply.wh(), loss.delivered.wh());
        (start.to_string(), want, rows.get(&start.0.to_string()).cloned())
    });
    checks.each("line loss of each interval, Wh", each);
    let total = expected.total_loss();
    let (supply, delivered) = (total.supply.wh(), total.delivered.wh());
    let sums = "SELECT sum(supply_wh), sum(delivered_wh) FROM line_loss FINAL";
    let want = format!("{supply} - {delivered} = {} Wh", supply - delivered);
    let got = match sql.rows(sums).await?.concat().as_slice() {
        [supply, delivered] => {
            let lost = supply.parse::<i64>()? - delivered.parse::<i64>()?;
            format!("{supply} - {delivered} = {lost} Wh")
        }
        other => format!("{other:?}"),
    };
    checks.equal("line loss of the week", want, got);
    Ok(())
}

/// Of codes that follow from the data alone, exactly the expected alarms; of others, at least.
async fn alarms(
    checks: &mut Checks,
    api: &Api,
    sql: &Sql,
    expected: &Expected,
    meters: &BTreeMap<String, u64>,
) -> anyhow::Result<()> {
    let accounts = api.ids("/v1/accounts", "code").await?;
    let gateways = api.ids("/v1/gateways", "system_title").await?;
    let raised = "SELECT DISTINCT toUInt8(code), toString(subject), subject_id FROM alarms FINAL \
                  WHERE state = 'raised'";
    let raised: BTreeSet<(u8, String, u64)> = sql
        .rows(raised)
        .await?
        .into_iter()
        .filter_map(|row| match row.as_slice() {
            [code, subject, id] => Some((code.parse().ok()?, subject.clone(), id.parse().ok()?)),
            _ => None,
        })
        .collect();
    let wanted: BTreeSet<(u8, String, u64)> = expected
        .alarms
        .iter()
        .map(|alarm| {
            let (kind, id) = match &alarm.subject {
                AlarmSubject::Meter(serial) => ("meter", meters.get(serial)),
                AlarmSubject::Account(code) => ("account", accounts.get(code)),
                AlarmSubject::Gateway(title) => ("gateway", gateways.get(title)),
            };
            (alarm.code.code(), kind.to_owned(), id.copied().unwrap_or_default())
        })
        .collect();
    let name = |alarm: &(u8, String, u64)| match AlarmCode::from_code(alarm.0) {
        Some(code) => format!("{code:?} of {} {}", alarm.1, alarm.2),
        None => format!("{alarm:?}"),
    };
    let missing = wanted.difference(&raised).map(|alarm| format!("missing {}", name(alarm)));
    let is_decisive = |alarm: &&(u8, String, u64)| {
        AlarmCode::from_code(alarm.0).is_some_and(|code| Expected::DECISIVE.contains(&code))
    };
    let extra = raised.difference(&wanted).filter(is_decisive);
    let extra = extra.map(|alarm| format!("unexpected {}", name(alarm)));
    let mut differences: Vec<String> = missing.chain(extra).collect();
    differences.truncate(5);
    let want = format!("{} raised, none else", wanted.len());
    let got = if differences.is_empty() { want.clone() } else { differences.join("; ") };
    checks.equal("alarms", want, got);
    Ok(())
}
