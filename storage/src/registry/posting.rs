//! What sales leave in the tables: their rows and tokens, and what changed about accounts, token
//! meters, debts and vending points.

use rusqlite::params;

use super::RegistryError;
use super::agent::PUT_DEBT;
use super::drawer::Writing;
use super::sale::{NewSale, SaleRow, SoldToken};
use super::shelf::{AccountState, AgentState};
use super::token_meter::{INSERT_TOKEN, PUT_TOKEN_METER, TokenMeter};

/// Writes a sale and its tokens.
pub(super) fn write_sale(
    write: &Writing<'_>,
    new: &NewSale,
    row: &SaleRow,
) -> Result<(), RegistryError> {
    let meter = row.meter.map(|meter| meter.0);
    write.run(
        "INSERT INTO sale (id, idempotency_key, body_hash, kind, account, meter, agent, actor, at, \
         paid, detail, tokens, reason, state, outbox) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        params![
            row.id.0.cast_signed(),
            row.key,
            new.body_hash,
            row.kind.name(),
            row.account.0,
            meter,
            row.agent,
            new.actor,
            row.at.0,
            row.split.paid.ticks(),
            text(&row.split),
            text(&row.tokens),
            row.reason,
            row.state.name(),
            row.outbox.0.cast_signed(),
        ],
    )?;
    for token in &row.tokens {
        let SoldToken { kind, digits, tid, base_year } = token;
        write.run(
            INSERT_TOKEN,
            params![
                meter,
                row.id.0.cast_signed(),
                kind,
                base_year,
                tid,
                digits,
                new.actor,
                row.at.0
            ],
        )?;
    }
    Ok(())
}

/// Writes what the sales of the batch changed about an account.
pub(super) fn write_account(
    write: &Writing<'_>,
    id: u32,
    account: &AccountState,
) -> Result<(), RegistryError> {
    if let Some((before, meter)) = account.meter_before.as_ref().zip(account.meter.as_ref())
        // Nearly always the identifier alone has moved on, and that follows from the tokens.
        && *before != (TokenMeter { last_tid: before.last_tid, ..meter.clone() })
    {
        let [ea, sgc, kt, krn, ti, ken, year, to_sgc, to_kt, to_krn, to_ti] = meter.numbers();
        let (pan, scheme, entry) = (&meter.pan, &meter.scheme, meter.entry.name());
        write.run(
            PUT_TOKEN_METER,
            params![
                meter.meter.0,
                pan,
                scheme,
                entry,
                ea,
                sgc,
                kt,
                krn,
                ti,
                ken,
                year,
                to_sgc,
                to_kt,
                to_krn,
                to_ti
            ],
        )?;
    }
    for period in &account.bought_changed {
        // But for the first sale of a period the row is there: an update is half the work.
        let bought = (account.bought[period].cast_signed(), id, period);
        let update = "UPDATE energy_bought SET wh = $1 WHERE account = $2 AND period = $3";
        if write.run(update, bought)? == 0 {
            let insert = "INSERT INTO energy_bought (wh, account, period) VALUES ($1, $2, $3)";
            write.run(insert, bought)?;
        }
    }
    if account.debt_changed
        && let Some(debt) = &account.debt
    {
        let (left, recovered) = (debt.left.ticks(), debt.recovered.ticks());
        write.run(PUT_DEBT, (left, &debt.month, recovered, debt.id))?;
    }
    Ok(())
}

/// Writes what the sales of the batch came to at a vending point.
pub(super) fn write_agent(write: &Writing<'_>, agent: &AgentState) -> Result<(), RegistryError> {
    for (day, (sales, paid)) in &agent.days {
        write.run(
            "INSERT INTO agent_day (agent, day, sales, paid, taken_back) \
             VALUES ($1, $2, $3, $4, 0) ON CONFLICT (agent, day) DO UPDATE SET \
             sales = agent_day.sales + excluded.sales, paid = agent_day.paid + excluded.paid",
            (agent.id, day, sales, paid),
        )?;
    }
    write.run("UPDATE agent SET owed = $1 WHERE id = $2", (agent.owed.ticks(), agent.id))?;
    Ok(())
}

/// JSON of a value of ours.
fn text<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("its keys are strings")
}
