//! Who may make tokens: the one interface in front of vending keys.
//!
//! A vending key goes into a module and never comes out. Whoever sells names the key
//! ([`VendingKeyId`]), the meter and the order; the module derives the meter's key, checks what its
//! key's attributes allow, and answers with digits. [`crate::SoftModule`] keeps the keys itself; a
//! hardware module answers the same calls (`docs/sts.md` has the mapping).
//!
//! The identifier of a token is the caller's: it has to be unique per meter and to survive a
//! crash, which needs storage ([`Tid::next_free`] with the key's base date, kept before issuing).

use thiserror::Error;

use crate::amount::{CurrencyAmount, TransferAmount};
use crate::codec::Refusal;
use crate::codes::KeyType;
use crate::derive::{DeriveError, MeterConfig, VendingKeyId};
use crate::identity::{KeyExpiryNumber, TariffIndex};
use crate::key::KeyCheckValue;
use crate::key_change::KeyChangeError;
use crate::number::TokenNumber;
use crate::tid::{BaseDate, Tid, TidError};
use crate::token::{Management, Rnd, Service, Token};

/// Makes and checks tokens with keys it does not give away.
pub trait SecurityModule: Send + Sync {
    /// The name that stands beside each token in the ledger.
    fn name(&self) -> &str;

    /// What a vending key may be used for, and the base date its identifiers count from.
    ///
    /// # Errors
    /// [`VaultError::UnknownKey`].
    fn attributes(&self, key: VendingKeyId) -> Result<KeyAttributes, VaultError>;

    /// Derives a meter's key and tells its check value: whether two sides hold the same key.
    ///
    /// # Errors
    /// [`VaultError`].
    fn derive(&self, meter: &MeterConfig) -> Result<KeyCheckValue, VaultError>;

    /// Makes a credit or management token.
    ///
    /// # Errors
    /// [`VaultError`].
    fn issue(&self, request: &IssueRequest, now_s: u64) -> Result<TokenNumber, VaultError>;

    /// Makes the tokens that bring a meter another key.
    ///
    /// # Errors
    /// [`VaultError`].
    fn change_key(
        &self,
        request: &KeyChangeRequest,
        now_s: u64,
    ) -> Result<Vec<TokenNumber>, VaultError>;

    /// Reads a token as its meter would; what a section of a key change holds stays hidden.
    ///
    /// # Errors
    /// [`VaultError`].
    fn verify(&self, meter: &MeterConfig, number: TokenNumber) -> Result<Token, VaultError>;
}

/// What a vending key may be used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyAttributes {
    /// Its name.
    pub id: VendingKeyId,
    /// What its identifiers count from.
    pub base_date: BaseDate,
    /// Tokens made later than this are refused by meters, hence not made.
    pub ken: KeyExpiryNumber,
    /// Not used before this instant.
    pub active_from_s: u64,
    /// Not used from this instant on, but to change a meter's key away from it.
    pub active_until_s: u64,
    /// No token is issued after this instant, but to change a meter's key away from it.
    pub issued_until_s: u64,
    /// The most one token may carry.
    pub limit: TokenLimit,
}

/// The most one token may carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TokenLimit {
    /// In tenths of kWh, m³ or minutes.
    pub units: u32,
    /// In whole units of the base currency, either sign.
    pub currency: u32,
}

/// An order for one token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IssueRequest {
    /// The meter and the key it holds now.
    pub meter: MeterConfig,
    /// The identifier, never used before for this meter and key.
    pub tid: Tid,
    /// What the token is to say.
    pub order: Order,
}

/// What a token is to say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// Credit in units.
    Credit {
        /// Of what.
        service: Service,
        /// How much.
        amount: TransferAmount,
        /// Random bits.
        rnd: Rnd,
    },
    /// Credit in currency.
    CurrencyCredit {
        /// For what.
        service: Service,
        /// How much.
        amount: CurrencyAmount,
    },
    /// An order to the meter.
    Management {
        /// Which.
        action: Management,
        /// Random bits.
        rnd: Rnd,
    },
}

impl Order {
    /// The token that says this.
    #[must_use]
    pub const fn token(self, tid: Tid) -> Token {
        match self {
            Self::Credit { service, amount, rnd } => Token::Credit { service, rnd, tid, amount },
            Self::CurrencyCredit { service, amount } => {
                Token::CurrencyCredit { service, tid, amount }
            }
            Self::Management { action, rnd } => Token::Management { rnd, tid, action },
        }
    }
}

/// An order for a set of key-change tokens.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyChangeRequest {
    /// The meter and the key it holds now.
    pub meter: MeterConfig,
    /// The vending key behind its new key.
    pub to: VendingKeyId,
    /// Its new tariff index.
    pub to_ti: TariffIndex,
    /// Whether an EA07 meter is told its supply group, with a third token. EA11 always is.
    pub group: GroupNotice,
}

/// Whether the meter is told its supply group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GroupNotice {
    /// Two tokens; the meter does not learn its group.
    Silent,
    /// Three tokens.
    Told,
}

/// Why a module makes no token.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum VaultError {
    /// The vault has no such key.
    #[error(
        "no vending key for supply group {}, type {}, revision {}",
        .0.sgc, .0.kt.code(), .0.krn
    )]
    UnknownKey(VendingKeyId),
    /// Before or after its active time.
    #[error("the vending key is active from {from_s} until {until_s} (seconds since 1970)")]
    NotActive {
        /// First instant.
        from_s: u64,
        /// First instant after.
        until_s: u64,
    },
    /// After the last instant of issue.
    #[error("the vending key issues nothing after {0} (seconds since 1970)")]
    IssueEnded(u64),
    /// Meters would refuse the token.
    #[error("identifier {} lies in block {}, the key expires after block {}", .tid.value(), .tid.expiry_block(), .ken.0)]
    KeyExpired {
        /// The identifier.
        tid: Tid,
        /// The key's expiry.
        ken: KeyExpiryNumber,
    },
    /// More than one token of this key may carry.
    #[error("amount {amount} is above {limit}, the key's limit for one token")]
    Limit {
        /// As ordered: tenths, or 10⁻⁵ of the currency unit.
        amount: i128,
        /// As allowed, in the same unit.
        limit: i128,
    },
    /// Credit for a meter with a default key.
    #[error("a default key (KT 1) takes no credit: change the meter's key first")]
    CreditUnderDefaultKey,
    /// The minute 00:01 is set apart.
    #[error("identifier {} is the reserved minute of its day", .0.value())]
    ReservedTid(Tid),
    /// The base date of the key does not reach the present.
    #[error(transparent)]
    Tid(#[from] TidError),
    /// A key type that must not follow the present one.
    #[error("key type {} must not follow key type {}", .to.code(), .from.code())]
    KeyType {
        /// Of the present key.
        from: KeyType,
        /// Of the ordered one.
        to: KeyType,
    },
    /// The decoder key cannot be derived.
    #[error(transparent)]
    Derive(#[from] DeriveError),
    /// The key does not go with the number of tokens.
    #[error(transparent)]
    KeyChange(#[from] KeyChangeError),
    /// The number is no token for this meter.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl KeyAttributes {
    /// Checks that `token` may be made under this key at `now_s`.
    ///
    /// # Errors
    /// [`VaultError`]: which attribute forbids it.
    //= IEC 62055-41 §6.5.2.6: the point of sale refuses tokens past the key expiry number.
    pub fn check_issue(&self, token: &Token, now_s: u64) -> Result<(), VaultError> {
        self.check_live(now_s)?;
        if let Some(tid) = token.tid() {
            self.check_tid(tid)?;
        }
        let (amount, limit) = match token {
            Token::Credit { amount, .. } => (amount.units().into(), self.limit.units.into()),
            Token::CurrencyCredit { amount, .. } => {
                let steps = i128::from(self.limit.currency).saturating_mul(STEPS_PER_UNIT);
                (amount.steps(), steps)
            }
            Token::Management { .. }
            | Token::MeterTest(_)
            | Token::ExtendedRead(_)
            | Token::KeyChange(_) => return Ok(()),
        };
        if self.id.kt == KeyType::Default {
            return Err(VaultError::CreditUnderDefaultKey);
        }
        if amount.unsigned_abs() > limit.unsigned_abs() {
            return Err(VaultError::Limit { amount, limit });
        }
        Ok(())
    }

    /// Checks that meters may be given keys from this one at `now_s`.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn check_new_key(&self, now_s: u64) -> Result<(), VaultError> {
        self.check_live(now_s)?;
        self.check_tid(Tid::at(self.base_date, now_s)?)
    }

    /// Checks that meters may leave this key at `now_s`: being expired is no hindrance.
    ///
    /// # Errors
    /// [`VaultError::NotActive`] before its first instant.
    pub const fn check_old_key(&self, now_s: u64) -> Result<(), VaultError> {
        if now_s < self.active_from_s {
            return Err(self.not_active());
        }
        Ok(())
    }

    const fn check_live(&self, now_s: u64) -> Result<(), VaultError> {
        if now_s < self.active_from_s || now_s >= self.active_until_s {
            return Err(self.not_active());
        }
        if now_s > self.issued_until_s {
            return Err(VaultError::IssueEnded(self.issued_until_s));
        }
        Ok(())
    }

    const fn check_tid(&self, tid: Tid) -> Result<(), VaultError> {
        if tid.is_reserved() {
            return Err(VaultError::ReservedTid(tid));
        }
        if tid.expiry_block() > self.ken.0 {
            return Err(VaultError::KeyExpired { tid, ken: self.ken });
        }
        Ok(())
    }

    const fn not_active(&self) -> VaultError {
        VaultError::NotActive { from_s: self.active_from_s, until_s: self.active_until_s }
    }
}

/// Currency amounts count in 10⁻⁵.
const STEPS_PER_UNIT: i128 = 100_000;
