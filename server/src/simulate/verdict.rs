//! What the node and ClickHouse say at the end, against the fleet's truth.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use loadgen::World;
use loadgen::fleet::{
    Fleet, MeterTruth, Truth, UnitTruth, account_code, serial, supply_serial, unit_code,
};
use meter::{Money, UnixSeconds};

use super::drive::Shot;
use super::target::Target;
use super::{pause, say};
use crate::clock;
use crate::demo::check::Checks;
use crate::demo::client::{Api, Sql};

/// How long the last rows may take: late readings wait for their neighbours from ClickHouse.
const SETTLE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_secs(1);
/// Accounts whose balance is also asked of the API, evenly over the fleet.
const BY_API: usize = 200;

/// Compares, until all holds or ClickHouse has had time enough.
///
/// # Errors
/// The node or ClickHouse does not answer.
pub(super) async fn settle(
    target: &Target,
    fleet: &Fleet,
    world: World,
    sent: &Shot,
) -> anyhow::Result<Checks> {
    let through = target.clock.now();
    let truth = {
        let fleet = fleet.clone();
        tokio::task::spawn_blocking(move || units(&fleet, world, through)).await?
    };
    let names = Names::ask(&target.api).await?;
    let began = clock::instant();
    loop {
        let checks = compare(target, fleet, &truth, &names, sent).await;
        let is_over = began.elapsed() > SETTLE;
        match checks {
            Ok(checks) if checks.hold() || is_over => return Ok(checks),
            Err(error) if is_over => return Err(error),
            Ok(_) | Err(_) => pause(POLL).await,
        }
    }
}

/// The truth of all transformers, on all processors.
fn units(fleet: &Fleet, world: World, through: UnixSeconds) -> Vec<UnitTruth> {
    let all: Vec<u32> = fleet.units().collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let truth = &Truth::new(fleet, world, through);
    std::thread::scope(|scope| {
        let workers: Vec<_> = all
            .chunks(all.len().div_ceil(cores).max(1))
            .map(|chunk| {
                scope.spawn(move || chunk.iter().map(|unit| truth.unit(*unit)).collect::<Vec<_>>())
            })
            .collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, Vec<UnitTruth>>| {
            worker.join().expect("the truth of a good fleet is computed")
        };
        workers.into_iter().flat_map(join).collect()
    })
}

/// The registry's ids by the fleet's names.
struct Names {
    meters: BTreeMap<String, u64>,
    accounts: BTreeMap<String, u64>,
    transformers: BTreeMap<String, u64>,
}

impl Names {
    async fn ask(api: &Api) -> anyhow::Result<Self> {
        Ok(Self {
            meters: api.ids("/v1/meters", "serial").await?,
            accounts: api.ids("/v1/accounts", "code").await?,
            transformers: api.ids("/v1/transformers", "code").await?,
        })
    }
}

async fn compare(
    target: &Target,
    fleet: &Fleet,
    truth: &[UnitTruth],
    names: &Names,
    sent: &Shot,
) -> anyhow::Result<Checks> {
    let mut checks = Checks::default();
    let all = meters(fleet, truth);
    let taken: u64 = all.map(|(_, meter)| meter.accepted + meter.quarantined).sum();
    checks.equal("readings acknowledged, each once", taken, sent.report.acknowledged);
    if let Some(sql) = &target.sql {
        readings(&mut checks, sql, fleet, truth, names).await?;
        intervals(&mut checks, sql, fleet, truth, names).await?;
        ledgers(&mut checks, sql, truth, names).await?;
        losses(&mut checks, sql, fleet, truth, names).await?;
    }
    balances(&mut checks, &target.api, truth, names).await?;
    Ok(checks)
}

/// A meter's truth with its serial.
fn meters<'t>(
    fleet: &Fleet,
    truth: &'t [UnitTruth],
) -> impl Iterator<Item = (String, &'t MeterTruth)> {
    fleet.units().zip(truth).flat_map(|(unit, truth)| {
        let consumers = truth.consumers.iter().map(|meter| (serial(meter.ordinal), meter));
        let successors = truth.successors.iter().map(|meter| (serial(meter.ordinal), meter));
        consumers.chain(successors).chain(std::iter::once((supply_serial(unit), &truth.supply)))
    })
}

async fn readings(
    checks: &mut Checks,
    sql: &Sql,
    fleet: &Fleet,
    truth: &[UnitTruth],
    names: &Names,
) -> anyhow::Result<()> {
    // A reading put aside that was sent again under a new counter may stand there twice.
    let counts = format!(
        "SELECT meter_id, concat(toString(countIf(outcome = 'accepted')), ' + ', \
         toString(uniqExactIf(taken_at, outcome != 'accepted'))) FROM readings FINAL \
         WHERE taken_at >= toDateTime({}, 'UTC') GROUP BY meter_id",
        fleet.earliest().0
    );
    let counts = sql.map(&counts).await?;
    let rows = meters(fleet, truth).map(|(serial, meter)| {
        let want = format!("{} + {}", meter.accepted, meter.quarantined);
        let got = names.meters.get(&serial).and_then(|id| counts.get(&id.to_string())).cloned();
        (serial, want, got)
    });
    checks.each("readings stored of each meter, accepted + put aside", rows);
    Ok(())
}

async fn intervals(
    checks: &mut Checks,
    sql: &Sql,
    fleet: &Fleet,
    truth: &[UnitTruth],
    names: &Names,
) -> anyhow::Result<()> {
    let sums = format!(
        "SELECT meter_id, concat(toString(sum(energy_wh)), ' in ', toString(count())) \
         FROM intervals FINAL WHERE start >= toDateTime({}, 'UTC') GROUP BY meter_id",
        fleet.earliest().0
    );
    let sums = sql.map(&sums).await?;
    let with_rows = meters(fleet, truth).filter(|(_, meter)| meter.intervals > 0);
    let rows = with_rows.map(|(serial, meter)| {
        let want = format!("{} in {}", meter.energy_wh, meter.intervals);
        let got = names.meters.get(&serial).and_then(|id| sums.get(&id.to_string())).cloned();
        (serial, want, got)
    });
    let rows: Vec<_> = rows.collect();
    match rows.is_empty() {
        true => say("  no whole quarter hour in the run: energy and line loss are not compared"),
        false => checks.each("energy of each meter, Wh in quarter hours", rows),
    }
    let want: u64 = meters(fleet, truth).map(|(_, meter)| meter.energy_wh).sum();
    let total = format!(
        "SELECT sum(energy_wh) FROM intervals FINAL WHERE start >= toDateTime({}, 'UTC')",
        fleet.earliest().0
    );
    if fleet.units().len() == all_units(fleet) {
        checks.equal("energy of the fleet, Wh", want, sql.value(&total).await?);
    }
    Ok(())
}

fn all_units(fleet: &Fleet) -> usize {
    let spec = fleet.spec();
    usize::try_from(spec.meters.div_ceil(spec.meters_per_transformer)).unwrap_or(usize::MAX)
}

async fn ledgers(
    checks: &mut Checks,
    sql: &Sql,
    truth: &[UnitTruth],
    names: &Names,
) -> anyhow::Result<()> {
    let sums = "SELECT account_id, sum(amount_ticks) FROM ledger FINAL GROUP BY account_id";
    let sums = sql.map(sums).await?;
    let rows = truth.iter().flat_map(|unit| &unit.consumers).map(|meter| {
        let code = account_code(meter.ordinal);
        let got = names.accounts.get(&code).and_then(|id| sums.get(&id.to_string())).cloned();
        (code, meter.balance_ticks.to_string(), got)
    });
    checks.each("ledger of each account, ticks", rows);
    Ok(())
}

async fn losses(
    checks: &mut Checks,
    sql: &Sql,
    fleet: &Fleet,
    truth: &[UnitTruth],
    names: &Names,
) -> anyhow::Result<()> {
    let sums = format!(
        "SELECT transformer_id, concat(toString(sum(supply_wh)), ' - ', \
         toString(sum(delivered_wh)), ' in ', toString(count())) FROM line_loss FINAL \
         WHERE expected = actual AND start >= toDateTime({}, 'UTC') GROUP BY transformer_id",
        fleet.span().first.0
    );
    let sums = sql.map(&sums).await?;
    let units = fleet.units().zip(truth).filter(|(_, truth)| truth.complete > 0);
    let rows: Vec<_> = units
        .map(|(unit, truth)| {
            let want =
                format!("{} - {} in {}", truth.supply_wh, truth.delivered_wh, truth.complete);
            let id = names.transformers.get(&unit_code(unit));
            (unit_code(unit), want, id.and_then(|id| sums.get(&id.to_string())).cloned())
        })
        .collect();
    if !rows.is_empty() {
        checks.each("line loss of each transformer, Wh", rows);
    }
    Ok(())
}

async fn balances(
    checks: &mut Checks,
    api: &Api,
    truth: &[UnitTruth],
    names: &Names,
) -> anyhow::Result<()> {
    let all: Vec<&MeterTruth> = truth.iter().flat_map(|unit| &unit.consumers).collect();
    let mut rows = Vec::new();
    for meter in all.iter().step_by(all.len().div_ceil(BY_API).max(1)) {
        let code = account_code(meter.ordinal);
        let id = names.accounts.get(&code).with_context(|| format!("no account {code}"))?;
        let answer = api.get(&format!("/v1/accounts/{id}/balance")).await?;
        let want = Money::from_ticks(meter.balance_ticks).to_decimal();
        rows.push((code, want, answer["balance"].as_str().map(str::to_owned)));
    }
    checks.each("balance by the API, one account in many", rows);
    Ok(())
}
