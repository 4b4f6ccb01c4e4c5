//! Questions of the audit: what the ledger in ClickHouse comes to.

use clickhouse::Row;
use meter::Seq;
use serde::Deserialize;

use super::{ClickhouseError, History};

/// What the movements of one account and kind come to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Row)]
pub struct LedgerSum {
    /// Account.
    pub account_id: u32,
    /// `LedgerKind::from_code`.
    pub kind: u8,
    /// Movements.
    pub movements: u64,
    /// Their sum, ticks.
    pub amount_ticks: i64,
}

impl History {
    /// What the movements that entries below `below` made come to, by account and kind.
    ///
    /// # Errors
    /// What the server or the connection said.
    pub async fn ledger_sums(&self, below: Seq) -> Result<Vec<LedgerSum>, ClickhouseError> {
        let query = self
            .query(&format!(
                "SELECT account_id, toUInt8(kind) AS code, count(), sum(amount_ticks) FROM \
                 {}.ledger FINAL WHERE seq < ? GROUP BY account_id, code ORDER BY account_id, code",
                self.database_name()
            ))
            .bind(below.0);
        self.rows(query).await
    }
}
