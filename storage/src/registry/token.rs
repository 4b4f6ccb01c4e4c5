//! API tokens: 256 random bits, shown once, kept as their SHA-256.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aes_gcm::aead::Generate as _;
use meter::UnixSeconds;
use sha2::{Digest as _, Sha256};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqlitePool};
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::master::hex;
use super::place::check_text;
use super::row::{parsed, u32_of};
use super::{Refusal, Registry, RegistryError};

/// What a token may do; see the API's table of rights.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum ApiRole {
    /// Everything.
    Admin,
    /// Runs the site: imports, installs, configures, settles.
    Operator,
    /// Sells: sees accounts, takes top-ups.
    Vendor,
    /// Reads.
    Reader,
}

/// A token without its secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ApiToken {
    /// The number, named by what the token did.
    pub id: u32,
    /// Who or what uses it.
    pub name: String,
    /// What it may do.
    pub role: ApiRole,
    /// Since when.
    pub created_at: UnixSeconds,
    /// Since when no longer.
    pub revoked_at: Option<UnixSeconds>,
}

/// A token with its secret, right after it was made. The secret cannot be read again.
#[derive(Clone, ZeroizeOnDrop)]
pub struct NewToken {
    /// The token.
    #[zeroize(skip)]
    pub token: ApiToken,
    /// What the caller sends as `Authorization: Bearer …`.
    pub secret: String,
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken").field("token", &self.token).finish_non_exhaustive()
    }
}

/// Tokens in force, by hash.
pub(super) type TokenTable = BTreeMap<[u8; 32], ApiToken>;

const PREFIX: &str = "meterd_";

impl ApiRole {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Operator, Self::Vendor, Self::Reader];

    /// The name in JSON and SQL.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Vendor => "vendor",
            Self::Reader => "reader",
        }
    }
}

impl Registry {
    /// The administrator's token, made at first start only: `None` when any token was ever made.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn first_token(&self, now: UnixSeconds) -> Result<Option<NewToken>, RegistryError> {
        if super::last_of(&self.readers, "api_token").await? > 0 {
            return Ok(None);
        }
        self.add_token("first start", ApiRole::Admin, now).await.map(Some)
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub async fn add_token(
        &self,
        name: &str,
        role: ApiRole,
        now: UnixSeconds,
    ) -> Result<NewToken, RegistryError> {
        check_text("name", name, 100)?;
        let random = Zeroizing::new(<[u8; 32]>::generate());
        let secret = format!("{PREFIX}{}", hex(&*random).to_lowercase());
        let mut write = self.write().await?;
        let id = write.next_id("api_token").await?;
        sqlx::query(
            "INSERT INTO api_token (id, name, role, hash, created_at) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(i64::from(id))
        .bind(name)
        .bind(role.name())
        .bind(&hash(&secret)[..])
        .bind(i64::from(now.0))
        .execute(write.sql())
        .await?;
        write.commit().await?;
        let token = ApiToken { id, name: name.to_owned(), role, created_at: now, revoked_at: None };
        self.change_tokens(|table| drop(table.insert(hash(&secret), token.clone())));
        Ok(NewToken { token, secret })
    }

    /// Ends a token; ending it twice changes nothing.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::LastAdministrator`] when nobody could administer.
    pub async fn revoke_token(&self, id: u32, now: UnixSeconds) -> Result<(), RegistryError> {
        let mut write = self.write().await?;
        let tokens = sqlx::query(TOKENS_IN_FORCE).fetch_all(write.sql()).await?;
        let tokens = tokens.iter().map(token_of).collect::<Result<Vec<_>, _>>()?;
        let is_admin = |token: &&ApiToken| token.role == ApiRole::Admin;
        let mut admins = tokens.iter().filter(is_admin).map(|token| token.id);
        if admins.next() == Some(id) && admins.next().is_none() {
            return Err(Refusal::LastAdministrator.into());
        }
        let done =
            sqlx::query("UPDATE api_token SET revoked_at = COALESCE(revoked_at, $1) WHERE id = $2")
                .bind(i64::from(now.0))
                .bind(i64::from(id))
                .execute(write.sql())
                .await?;
        if done.rows_affected() == 0 {
            return Err(Refusal::not_found("token", id).into());
        }
        write.commit().await?;
        self.change_tokens(|table| table.retain(|_, token| token.id != id));
        Ok(())
    }

    /// All tokens after `after`, by number, without secrets.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn tokens(&self, after: u32, limit: u32) -> Result<Vec<ApiToken>, RegistryError> {
        sqlx::query(
            "SELECT id, name, role, created_at, revoked_at, hash FROM api_token \
             WHERE id > $1 ORDER BY id LIMIT $2",
        )
        .bind(i64::from(after))
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?
        .iter()
        .map(token_of)
        .collect()
    }

    /// The token in force that has this secret. No I/O: tokens in force are held in memory.
    #[must_use]
    pub fn token_by_secret(&self, secret: &str) -> Option<ApiToken> {
        // The map is ordered by hash: how long the search takes tells nothing of the secret.
        self.token_table().get(&hash(secret)).cloned()
    }

    fn token_table(&self) -> Arc<TokenTable> {
        Arc::clone(&self.tokens.read().expect("no holder of this lock panics"))
    }

    fn change_tokens(&self, change: impl FnOnce(&mut TokenTable)) {
        let mut table = self.tokens.write().expect("no holder of this lock panics");
        change(Arc::make_mut(&mut table));
    }
}

const TOKENS_IN_FORCE: &str = "SELECT id, name, role, created_at, revoked_at, hash \
     FROM api_token WHERE revoked_at IS NULL ORDER BY id";

/// Reads the tokens in force.
pub(super) async fn load(pool: &SqlitePool) -> Result<TokenTable, RegistryError> {
    let rows = sqlx::query(TOKENS_IN_FORCE).fetch_all(pool).await?;
    let entry = |row: &SqliteRow| {
        let hash: &[u8] = row.try_get(5)?;
        let hash = hash.try_into();
        let hash = hash.map_err(|_| RegistryError::Damaged("hash of a token".to_owned()))?;
        Ok((hash, token_of(row)?))
    };
    rows.iter().map(entry).collect()
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

fn token_of(row: &SqliteRow) -> Result<ApiToken, RegistryError> {
    let name: &str = row.try_get(2)?;
    let role = ApiRole::ALL.into_iter().find(|role| role.name() == name);
    let revoked: Option<i64> = row.try_get(4)?;
    Ok(ApiToken {
        id: u32_of(row, 0)?,
        name: row.try_get(1)?,
        role: parsed(name, role)?,
        created_at: UnixSeconds(u32_of(row, 3)?),
        revoked_at: revoked.map(|_| u32_of(row, 4).map(UnixSeconds)).transpose()?,
    })
}
