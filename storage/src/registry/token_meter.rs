//! Token meters: what is known of their keys, the tokens they were given, and orders for
//! engineering tokens, which one person gives and another approves.

use meter::{MeterId, UnixSeconds};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::entry::TokenEntry;
use super::place::{check_text, is_taken};
use super::row::{Columns, nullable, parsed, to_i64, to_u64, u32_of};
use super::sale::SoldToken;
use super::till::IssuedTokens;
use super::write::Write;
use super::{Refusal, Registry, RegistryError};

/// Makes the tokens of an approved order, from the meter's settings and the order's action.
pub type Issue<'a> = dyn Fn(&TokenMeter, &str) -> Result<IssuedTokens, Refusal> + Sync + 'a;

/// Which key a meter holds, or is to hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeySetting {
    /// Supply group code.
    pub sgc: u32,
    /// Key type.
    pub kt: u8,
    /// Key revision number.
    pub krn: u8,
    /// Tariff index.
    pub ti: u8,
}

/// A meter that takes tokens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenMeter {
    /// The meter.
    pub meter: MeterId,
    /// Its primary account number, unique.
    pub pan: String,
    /// Its token scheme, `sts` or `cts`.
    pub scheme: String,
    /// Its encryption algorithm.
    pub ea: u8,
    /// The key it holds, as far as is known.
    pub known: KeySetting,
    /// Expiry number of that key, as the meter was told.
    pub ken: u8,
    /// Year that its identifiers count from.
    pub base_year: u16,
    /// The key it is to hold: with the next sale it gets the change first.
    pub to: KeySetting,
    /// The last identifier it was given under this base year; it follows from its tokens.
    pub last_tid: Option<u32>,
    /// How its tokens come to it.
    pub entry: TokenEntry,
}

/// A token that a meter was given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuedToken {
    /// Its number among the meter's tokens, from 1.
    pub number: u64,
    /// The sale it belongs to, or 0.
    pub sale: u64,
    /// The token.
    pub token: SoldToken,
    /// Number of the API token that asked for it.
    pub actor: u32,
    /// When.
    pub at: UnixSeconds,
}

/// An engineering token, ordered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenOrderRow {
    /// The id.
    pub id: u32,
    /// For which meter.
    pub meter: MeterId,
    /// What it is to do, as JSON of the API's.
    pub action: String,
    /// Why.
    pub reason: String,
    /// Number of the work order.
    pub work_order: String,
    /// `waiting`, `approved` or `refused`.
    pub state: String,
    /// Who ordered it.
    pub ordered_by: u32,
    /// When.
    pub ordered_at: UnixSeconds,
    /// Who decided, 0 while nobody has.
    pub decided_by: u32,
    /// The digits, once approved.
    pub digits: Option<String>,
}

/// How many meters share these settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CensusRow {
    /// Year that identifiers count from.
    pub base_year: u16,
    /// Encryption algorithm.
    pub ea: u8,
    /// The key.
    pub sgc: u32,
    /// Its type.
    pub kt: u8,
    /// Its revision.
    pub krn: u8,
    /// Its expiry number.
    pub ken: u8,
    /// Meters.
    pub meters: u64,
    /// Those that are to get another key.
    pub to_change: u64,
}

/// The last identifier is that of the last token, so that there is nothing to keep in step.
pub(super) const METER_COLUMNS: &str = "SELECT meter, pan, scheme, ea, sgc, kt, krn, ti, ken, \
     base_year, to_sgc, to_kt, to_krn, to_ti, (SELECT tid FROM meter_token i \
     WHERE i.meter = token_meter.meter AND i.base_year = token_meter.base_year \
     AND i.tid IS NOT NULL ORDER BY number DESC LIMIT 1), entry FROM token_meter ";

/// Its values are meter, sale, kind, base year, identifier, digits, who asked and when.
pub(super) const INSERT_TOKEN: &str = "INSERT INTO meter_token (meter, number, sale, kind, \
     base_year, tid, digits, actor, at) VALUES ($1, (SELECT COALESCE(MAX(number), 0) + 1 \
     FROM meter_token WHERE meter = $1), $2, $3, $4, $5, $6, $7, $8)";

/// Its values are meter, pan, scheme, entry and [`TokenMeter::numbers`].
pub(super) const PUT_TOKEN_METER: &str = "INSERT INTO token_meter (meter, pan, scheme, entry, ea, \
     sgc, kt, krn, ti, ken, base_year, to_sgc, to_kt, to_krn, to_ti) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
     ON CONFLICT (meter) DO UPDATE SET pan = excluded.pan, scheme = excluded.scheme, \
     entry = excluded.entry, ea = excluded.ea, sgc = excluded.sgc, kt = excluded.kt, \
     krn = excluded.krn, ti = excluded.ti, ken = excluded.ken, base_year = excluded.base_year, \
     to_sgc = excluded.to_sgc, to_kt = excluded.to_kt, to_krn = excluded.to_krn, \
     to_ti = excluded.to_ti";

const ORDER_COLUMNS: &str = "SELECT id, meter, action, reason, work_order, state, ordered_by, \
     ordered_at, decided_by, digits FROM token_order ";

impl TokenMeter {
    /// The columns from `ea` to `to_ti`.
    pub(super) fn numbers(&self) -> [i64; 11] {
        let Self { ea, known, ken, base_year, to, .. } = self;
        let key = |key: &KeySetting| [key.sgc, key.kt.into(), key.krn.into(), key.ti.into()];
        let ([sgc, kt, krn, ti], [to_sgc, to_kt, to_krn, to_ti]) = (key(known), key(to));
        let (ea, ken, base_year) = (u32::from(*ea), u32::from(*ken), u32::from(*base_year));
        [ea, sgc, kt, krn, ti, ken, base_year, to_sgc, to_kt, to_krn, to_ti].map(i64::from)
    }

    /// Whether it counts energy; else its credit is money.
    #[must_use]
    pub fn counts_energy(&self) -> bool {
        self.scheme == "sts"
    }
}

impl Registry {
    /// Records what is known of a meter's token settings, in place of what was. Its last
    /// identifier is the highest it was ever given under this base year.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Exists`] when another meter has this number.
    pub async fn set_token_meter(&self, new: &TokenMeter) -> Result<TokenMeter, RegistryError> {
        let mut write = self.write().await?;
        let known: Option<i64> = sqlx::query_scalar("SELECT id FROM meter WHERE id = $1")
            .bind(i64::from(new.meter.0))
            .fetch_optional(write.sql())
            .await?;
        known.ok_or_else(|| Refusal::not_found("meter", new.meter))?;
        write.put_token_meter(new).await.map_err(|error| {
            if let RegistryError::Database(cause) = &error
                && is_taken(cause)
            {
                let (kind, field) = ("token meter", "pan");
                return Refusal::Exists { kind, field, value: new.pan.clone() }.into();
            }
            error
        })?;
        let meter = write.token_meter(new.meter).await?;
        write.commit().await?;
        Ok(meter.expect("it was written before"))
    }

    /// The token settings of a meter.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn token_meter(&self, meter: MeterId) -> Result<TokenMeter, RegistryError> {
        let sql = format!("{METER_COLUMNS} WHERE meter = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(i64::from(meter.0));
        let row = row.fetch_optional(&self.readers).await?;
        token_meter_of(&row.ok_or_else(|| Refusal::not_found("token meter", meter))?)
    }

    /// Tokens that a meter was given after `after`, by number.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn issued_tokens(
        &self,
        meter: MeterId,
        after: u64,
        limit: u32,
    ) -> Result<Vec<IssuedToken>, RegistryError> {
        sqlx::query(
            "SELECT number, sale, kind, digits, tid, base_year, actor, at FROM meter_token \
             WHERE meter = $1 AND number > $2 ORDER BY number LIMIT $3",
        )
        .bind(i64::from(meter.0))
        .bind(to_i64(after)?)
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?
        .iter()
        .map(|row| {
            let tid: Option<i64> = row.try_get(4)?;
            let sale: Option<i64> = row.try_get(1)?;
            let token = SoldToken {
                kind: row.try_get(2)?,
                digits: row.try_get(3)?,
                tid: tid.map(|_| u32_of(row, 4)).transpose()?,
                base_year: u16_of(row, 5)?,
            };
            Ok(IssuedToken {
                number: to_u64(row.try_get(0)?)?,
                sale: to_u64(sale.unwrap_or_default())?,
                token,
                actor: u32_of(row, 6)?,
                at: UnixSeconds(u32_of(row, 7)?),
            })
        })
        .collect()
    }

    /// Meters by base year, algorithm and key.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn token_census(&self) -> Result<Vec<CensusRow>, RegistryError> {
        sqlx::query(
            "SELECT base_year, ea, sgc, kt, krn, ken, COUNT(*), SUM(CASE WHEN sgc <> to_sgc OR \
             kt <> to_kt OR krn <> to_krn OR ti <> to_ti THEN 1 ELSE 0 END) FROM token_meter \
             GROUP BY base_year, ea, sgc, kt, krn, ken ORDER BY base_year, ea, sgc, kt, krn, ken",
        )
        .fetch_all(&self.readers)
        .await?
        .iter()
        .map(|row| {
            Ok(CensusRow {
                base_year: u16_of(row, 0)?,
                ea: u8_of(row, 1)?,
                sgc: u32_of(row, 2)?,
                kt: u8_of(row, 3)?,
                krn: u8_of(row, 4)?,
                ken: u8_of(row, 5)?,
                meters: to_u64(row.try_get(6)?)?,
                to_change: to_u64(row.try_get(7)?)?,
            })
        })
        .collect()
    }

    /// Orders an engineering token.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Invalid`].
    pub async fn order_token(&self, order: &TokenOrderRow) -> Result<TokenOrderRow, RegistryError> {
        check_text("reason", &order.reason, 200)?;
        check_text("work_order", &order.work_order, 64)?;
        let mut write = self.write().await?;
        let known = write.token_meter(order.meter).await?;
        known.ok_or_else(|| Refusal::not_found("token meter", order.meter))?;
        let id = write.next_id("token_order").await?;
        sqlx::query(
            "INSERT INTO token_order (id, meter, action, reason, work_order, state, ordered_by, \
             ordered_at) VALUES ($1, $2, $3, $4, $5, 'waiting', $6, $7)",
        )
        .bind(i64::from(id))
        .bind(i64::from(order.meter.0))
        .bind(&order.action)
        .bind(&order.reason)
        .bind(&order.work_order)
        .bind(i64::from(order.ordered_by))
        .bind(i64::from(order.ordered_at.0))
        .execute(write.sql())
        .await?;
        write.commit().await?;
        Ok(TokenOrderRow { id, ..order.clone() })
    }

    /// Decides an order: another person than who gave it. An approved one makes its token, which also
    /// goes to the meter where that has remote entry.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Vending`] `same_person`, `already_decided`; what `issue`
    /// refuses.
    pub async fn decide_token(
        &self,
        id: u32,
        approve: Option<&Issue<'_>>,
        actor: u32,
        now: UnixSeconds,
    ) -> Result<TokenOrderRow, RegistryError> {
        let mut write = self.write().await?;
        let sql = format!("{ORDER_COLUMNS} WHERE id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(i64::from(id));
        let row = row.fetch_optional(write.sql()).await?;
        let order = order_of(&row.ok_or_else(|| Refusal::not_found("token order", id))?)?;
        if order.state != "waiting" {
            let reason = format!("the order is {} already", order.state);
            let hint = "nothing is left to do; read the order";
            return Err(Refusal::vending("already_decided", reason, hint).into());
        }
        if order.ordered_by == actor {
            let reason = "who ordered an engineering token does not approve it";
            let hint = "let another person decide, with a token of their own";
            return Err(Refusal::vending("same_person", reason, hint).into());
        }
        let mut decided = TokenOrderRow { decided_by: actor, ..order };
        decided.state = "refused".to_owned();
        let mut is_sent = false;
        if let Some(issue) = approve {
            let meter = write.token_meter(decided.meter).await?;
            let meter = meter.ok_or_else(|| Refusal::not_found("token meter", decided.meter))?;
            let issued = issue(&meter, &decided.action)?;
            write.put_token_meter(&issued.meter).await?;
            for token in &issued.tokens {
                write.add_issued(decided.meter, token, actor, now).await?;
            }
            let digits: Vec<&str> = issued.tokens.iter().map(|t| t.digits.as_str()).collect();
            (decided.state, decided.digits) = ("approved".to_owned(), Some(digits.join(" ")));
            if meter.entry == TokenEntry::Remote {
                write.enter_order(&decided, &issued.tokens, now).await?;
                is_sent = true;
            }
        }
        sqlx::query(
            "UPDATE token_order SET state = $1, decided_by = $2, decided_at = $3, digits = $4 \
             WHERE id = $5",
        )
        .bind(&decided.state)
        .bind(i64::from(actor))
        .bind(i64::from(now.0))
        .bind(&decided.digits)
        .bind(i64::from(id))
        .execute(write.sql())
        .await?;
        write.commit().await?;
        if is_sent {
            self.commands.send_modify(|turn| *turn += 1);
        }
        Ok(decided)
    }

    /// Orders for engineering tokens after `after`, by id.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn token_orders(
        &self,
        after: u32,
        limit: u32,
    ) -> Result<Vec<TokenOrderRow>, RegistryError> {
        let sql = format!("{ORDER_COLUMNS} WHERE id > $1 ORDER BY id LIMIT $2");
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(i64::from(after))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(order_of)
            .collect()
    }
}

impl Write<'_> {
    pub(super) async fn token_meter(
        &mut self,
        meter: MeterId,
    ) -> Result<Option<TokenMeter>, RegistryError> {
        let sql = format!("{METER_COLUMNS} WHERE meter = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(i64::from(meter.0));
        row.fetch_optional(self.sql()).await?.as_ref().map(token_meter_of).transpose()
    }

    /// Writes a meter, a new one or a known one.
    pub(super) async fn put_token_meter(
        &mut self,
        meter: &TokenMeter,
    ) -> Result<(), RegistryError> {
        let query = sqlx::query(PUT_TOKEN_METER).bind(i64::from(meter.meter.0)).bind(&meter.pan);
        let query = query.bind(&meter.scheme).bind(meter.entry.name());
        let query = meter.numbers().into_iter().fold(query, sqlx::query::Query::bind);
        query.execute(self.sql()).await?;
        Ok(())
    }

    async fn add_issued(
        &mut self,
        meter: MeterId,
        token: &SoldToken,
        actor: u32,
        now: UnixSeconds,
    ) -> Result<(), RegistryError> {
        let query = sqlx::query(INSERT_TOKEN).bind(nullable(meter.0)).bind(None::<i64>);
        let query = query.bind(&token.kind).bind(i64::from(token.base_year));
        let query = query.bind(token.tid.map(i64::from)).bind(&token.digits);
        query.bind(i64::from(actor)).bind(i64::from(now.0)).execute(self.sql()).await?;
        Ok(())
    }
}

pub(super) fn token_meter_of(row: &impl Columns) -> Result<TokenMeter, RegistryError> {
    let tid = row.integer(14)?;
    let entry = row.text(15)?;
    let setting = |at: usize| -> Result<KeySetting, RegistryError> {
        Ok(KeySetting {
            sgc: u32_of(row, at)?,
            kt: u8_of(row, at + 1)?,
            krn: u8_of(row, at + 2)?,
            ti: u8_of(row, at + 3)?,
        })
    };
    Ok(TokenMeter {
        meter: MeterId(u32_of(row, 0)?),
        pan: row.text(1)?.to_owned(),
        scheme: row.text(2)?.to_owned(),
        ea: u8_of(row, 3)?,
        known: setting(4)?,
        ken: u8_of(row, 8)?,
        base_year: u16_of(row, 9)?,
        to: setting(10)?,
        last_tid: tid.map(|_| u32_of(row, 14)).transpose()?,
        entry: parsed(entry, TokenEntry::from_name(entry))?,
    })
}

fn order_of(row: &SqliteRow) -> Result<TokenOrderRow, RegistryError> {
    Ok(TokenOrderRow {
        id: u32_of(row, 0)?,
        meter: MeterId(u32_of(row, 1)?),
        action: row.try_get(2)?,
        reason: row.try_get(3)?,
        work_order: row.try_get(4)?,
        state: row.try_get(5)?,
        ordered_by: u32_of(row, 6)?,
        ordered_at: UnixSeconds(u32_of(row, 7)?),
        decided_by: u32_of(row, 8)?,
        digits: row.try_get(9)?,
    })
}

pub(super) fn u8_of(row: &impl Columns, column: usize) -> Result<u8, RegistryError> {
    let value = u32_of(row, column)?;
    u8::try_from(value).map_err(|_| RegistryError::Damaged(format!("{value} is over 8 bits")))
}

fn u16_of(row: &impl Columns, column: usize) -> Result<u16, RegistryError> {
    let value = u32_of(row, column)?;
    u16::try_from(value).map_err(|_| RegistryError::Damaged(format!("{value} is over 16 bits")))
}
