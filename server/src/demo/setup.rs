//! What the demonstration registers, through the Web API as an integrator would: transformer,
//! gateways, tariff plan with its versions, and an import of meters, customers and accounts.

use loadgen::feeder::{Feeder, PLAN, TRANSFORMER_CODE};
use meter::{BlockPeriod, DayProfile, MonthDay, Season, TariffVersion};
use serde_json::{Value, json};

use super::client::Api;

/// The demonstration's clock runs up to tens of thousands of times as fast as the real one: a
/// process that waits 30 ms for a processor is minutes behind its meters, which is no fault of their
/// clocks.
const FUTURE_S_MAX: u32 = 7200;

/// Registers everything.
///
/// # Errors
/// What the API refused.
pub(crate) async fn register(api: &Api, feeder: &Feeder) -> anyhow::Result<()> {
    let mut policy = api.get("/v1/policy").await?;
    policy["future_s_max"] = json!(FUTURE_S_MAX);
    api.put("/v1/policy", &policy).await?;
    api.post("/v1/transformers", &json!({ "code": TRANSFORMER_CODE, "name": "630 kVA" })).await?;
    for row in feeder.gateway_rows() {
        let gateway = json!({
            "system_title": row.system_title,
            "name": row.name,
            "template": row.template,
            "encryption_key": row.encryption_key,
            "authentication_key": row.authentication_key,
        });
        api.post("/v1/gateways", &gateway).await?;
    }
    let plan = json!({ "code": PLAN, "name": "residential, time of use", "currency": "CNY" });
    let plan = api.post("/v1/plans", &plan).await?;
    for tariff in feeder.versions() {
        let path = format!("/v1/plans/{}/versions", plan["id"]);
        api.post(&path, &version(tariff)).await?;
    }
    api.post_as("/v1/imports/meters", "text/csv", feeder.import_csv()).await?;
    Ok(())
}

/// A tariff version as the API takes it.
pub(crate) fn version(tariff: &TariffVersion) -> Value {
    let blocks = tariff.blocks.iter();
    json!({
        "valid_from": tariff.valid_from.to_string(),
        "prices": tariff.prices.iter().map(|price| price.to_decimal()).collect::<Vec<_>>(),
        "seasons": tariff.seasons.iter().map(season).collect::<Vec<_>>(),
        "blocks": blocks
            .map(|block| json!({ "from_kwh": block.from_kwh, "adder": block.adder.to_decimal() }))
            .collect::<Vec<_>>(),
        "block_period": match tariff.block_period {
            BlockPeriod::Month => "month",
            BlockPeriod::Year => "year",
        },
        "standing_per_day": tariff.standing_per_day.to_decimal(),
        "standing_per_month": tariff.standing_per_month.to_decimal(),
        "tax_bp": tariff.tax_bp,
        "fee": tariff.fee.to_decimal(),
    })
}

fn season(season: &Season) -> Value {
    let day = |date: MonthDay| format!("{:02}-{:02}", date.month, date.day);
    json!({
        "from": day(season.from),
        "to": day(season.to),
        "workday": profile(&season.workday),
        "weekend": profile(&season.weekend),
        "holiday": profile(&season.holiday),
    })
}

fn profile(day: &DayProfile) -> Value {
    let switch = |switch: &meter::Switch| {
        let (hour, minute) = (switch.quarter / 4, switch.quarter % 4 * 15);
        json!({ "at": format!("{hour:02}:{minute:02}"), "rate": switch.rate })
    };
    day.0.iter().map(switch).collect()
}
