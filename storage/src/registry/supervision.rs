//! What people decide of the running system: the policy of the rules, settled quarantine,
//! acknowledged alarms.

use meter::{
    AccountId, AlarmCode, Change, Decision, GatewayId, MeterId, OutboxId, Policy, Resolution, Seq,
    Subject, TransformerId, UnixSeconds,
};
use sqlx::Row as _;

use super::place::{check_text, is_taken};
use super::row::{json, to_i64, to_u64, u32_of};
use super::{Refusal, Registry, RegistryError};

/// Who has taken charge of an alarm.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Acknowledgement {
    /// About whom the alarm is.
    pub subject: Subject,
    /// What.
    pub code: AlarmCode,
    /// The entry that raised it.
    pub raised: Seq,
    /// When it was taken charge of.
    pub at: UnixSeconds,
    /// The person who looks after it.
    pub responsible: String,
}

/// A settled reading on record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settlement {
    /// Its log position.
    pub seq: Seq,
    /// What was decided.
    pub decision: Decision,
    /// When.
    pub at: UnixSeconds,
}

impl Registry {
    /// Gives a new registry the standard policy, so that the log says from the start what holds.
    pub(super) async fn ensure_policy(&self) -> Result<(), RegistryError> {
        let known: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM policy").fetch_one(&self.readers).await?;
        if known == 0 {
            self.set_policy(Policy::standard()).await?;
        }
        Ok(())
    }

    /// The policy in force.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn policy(&self) -> Result<Policy, RegistryError> {
        let body: String = sqlx::query_scalar("SELECT body FROM policy WHERE id = 1")
            .fetch_one(&self.readers)
            .await?;
        json(&body)
    }

    /// Replaces the policy.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a limit out of range or a pair that clears beyond where it raises.
    pub async fn set_policy(&self, policy: Policy) -> Result<OutboxId, RegistryError> {
        check_policy(&policy)?;
        let body = serde_json::to_string(&policy).expect("a policy has string keys only");
        let mut write = self.write().await?;
        sqlx::query(
            "INSERT INTO policy (id, body) VALUES (1, $1) \
             ON CONFLICT (id) DO UPDATE SET body = excluded.body",
        )
        .bind(body)
        .execute(write.sql())
        .await?;
        write.tell(Change::Policy(policy)).await?;
        write.commit_told().await
    }

    /// Settles a quarantined reading, once.
    ///
    /// # Errors
    /// [`Refusal::Resolved`], [`Refusal::NotFound`] (meter).
    pub async fn resolve(
        &self,
        resolution: Resolution,
        now: UnixSeconds,
        actor: u32,
    ) -> Result<OutboxId, RegistryError> {
        self.meter(resolution.meter).await?;
        let mut write = self.write().await?;
        write.tell(Change::Resolve(resolution)).await?;
        let outbox = write.flush().await?.expect("a change was told before");
        sqlx::query(
            "INSERT INTO resolution (seq, meter, taken_at, decision, at, actor, outbox) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(to_i64(resolution.seq.0)?)
        .bind(i64::from(resolution.meter.0))
        .bind(i64::from(resolution.taken_at.0))
        .bind(match resolution.decision {
            Decision::Reject => "reject",
            Decision::NewEpoch => "new_epoch",
        })
        .bind(i64::from(now.0))
        .bind(i64::from(actor))
        .bind(to_i64(outbox.0)?)
        .execute(write.sql())
        .await
        .map_err(|error| match is_taken(&error) {
            true => Refusal::Resolved { seq: resolution.seq.0 }.into(),
            false => RegistryError::from(error),
        })?;
        write.commit_told().await
    }

    /// How a quarantined reading was settled, if it was.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn settlement(&self, seq: Seq) -> Result<Option<Settlement>, RegistryError> {
        let row = sqlx::query("SELECT decision, at FROM resolution WHERE seq = $1")
            .bind(to_i64(seq.0)?)
            .fetch_optional(&self.readers)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let decision = match row.try_get(0)? {
            "reject" => Decision::Reject,
            _ => Decision::NewEpoch,
        };
        Ok(Some(Settlement { seq, decision, at: UnixSeconds(u32_of(&row, 1)?) }))
    }

    /// Records who looks after an alarm; the newest entry counts.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub async fn acknowledge(
        &self,
        acknowledgement: &Acknowledgement,
        actor: u32,
    ) -> Result<(), RegistryError> {
        check_text("responsible", &acknowledgement.responsible, 200)?;
        let (kind, id) = acknowledgement.subject.kind_and_id();
        let mut write = self.write().await?;
        sqlx::query(
            "INSERT INTO acknowledgement (subject_kind, subject_id, code, raised_seq, at, \
             responsible, actor) VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (subject_kind, subject_id, code, raised_seq) DO UPDATE \
             SET at = excluded.at, responsible = excluded.responsible, actor = excluded.actor",
        )
        .bind(i64::from(kind))
        .bind(i64::from(id))
        .bind(i64::from(acknowledgement.code.code()))
        .bind(to_i64(acknowledgement.raised.0)?)
        .bind(i64::from(acknowledgement.at.0))
        .bind(&acknowledgement.responsible)
        .bind(i64::from(actor))
        .execute(write.sql())
        .await?;
        write.commit().await?;
        Ok(())
    }

    /// Every acknowledgement of an alarm raised at `since` or later: read once at start.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn acknowledgements(
        &self,
        since: Seq,
    ) -> Result<Vec<Acknowledgement>, RegistryError> {
        let rows = sqlx::query(
            "SELECT subject_kind, subject_id, code, raised_seq, at, responsible \
             FROM acknowledgement WHERE raised_seq >= $1 ORDER BY raised_seq",
        )
        .bind(to_i64(since.0)?)
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let (kind, id, code) = (u32_of(row, 0)?, u32_of(row, 1)?, u32_of(row, 2)?);
                let damaged = || RegistryError::Damaged(format!("alarm {kind} {id} {code}"));
                let code = u8::try_from(code).ok().and_then(AlarmCode::from_code);
                Ok(Acknowledgement {
                    subject: subject_of(kind, id).ok_or_else(damaged)?,
                    code: code.ok_or_else(damaged)?,
                    raised: Seq(to_u64(row.try_get(3)?)?),
                    at: UnixSeconds(u32_of(row, 4)?),
                    responsible: row.try_get(5)?,
                })
            })
            .collect()
    }
}

/// The subject of a kind and number, the inverse of [`Subject::kind_and_id`].
fn subject_of(kind: u32, id: u32) -> Option<Subject> {
    match kind {
        1 => Some(Subject::Meter(MeterId(id))),
        2 => Some(Subject::Gateway(GatewayId(id))),
        3 => Some(Subject::Account(AccountId(id))),
        4 => Some(Subject::Transformer(TransformerId(id))),
        _ => None,
    }
}

fn check_policy(policy: &Policy) -> Result<(), Refusal> {
    const DAY_S: u32 = 86_400;
    let alarms = &policy.alarms;
    let rules = [
        ("future_s_max", policy.future_s_max <= DAY_S, "must be at most 86400"),
        (
            "horizon_s",
            (DAY_S..=400 * DAY_S).contains(&policy.horizon_s),
            "must be 86400 to 34560000",
        ),
        ("gap_grace_s", policy.gap_grace_s <= 7 * DAY_S, "must be at most 604800"),
        ("silent_periods", (1..=10_000).contains(&policy.silent_periods), "must be 1 to 10000"),
        (
            "over_voltage_clear",
            alarms.over_voltage_clear <= alarms.over_voltage_raise,
            "must not be above over_voltage_raise",
        ),
        (
            "under_voltage_clear",
            alarms.under_voltage_clear >= alarms.under_voltage_raise,
            "must not be below under_voltage_raise",
        ),
        (
            "overload_clear",
            alarms.overload_clear <= alarms.overload_raise,
            "must not be above overload_raise",
        ),
        ("loss_clear", alarms.loss_clear <= alarms.loss_raise, "must not be above loss_raise"),
        (
            "unusual_clear",
            alarms.unusual_clear <= alarms.unusual_raise,
            "must not be above unusual_raise",
        ),
    ];
    match rules.into_iter().find(|(_, is_good, _)| !is_good) {
        Some((field, _, reason)) => Err(Refusal::invalid(field, reason)),
        None => Ok(()),
    }
}
