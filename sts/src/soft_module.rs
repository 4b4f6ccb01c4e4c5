//! A security module in software: vending keys in memory, sealed at rest, imported by two people.
//!
//! It touches no file: [`SoftModule::open`] takes the audit trail and [`SoftModule::load`] each
//! sealed key as bytes, and [`SoftModule::confirm`] gives the sealed bytes back for the caller to
//! keep. After every call that may have done something, [`SoftModule::take_audit`] has the lines
//! to append to the trail, of refusals too.
//!
//! For tests, trials and keys an operator makes for itself; keys of a key management centre belong
//! into a hardware module.

use std::collections::BTreeMap;
use std::fmt;

use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::audit::{AuditError, AuditTrail, Deed};
use crate::codec::{TokenCipher, decode, encode};
use crate::codes::{EncryptionAlgorithm, KeyDerivation, KeyType};
use crate::derive::{Deriver, MeterConfig, VendingKeyId};
use crate::key::{DecoderKey, KeyCheckValue, KeyError, VendingKey};
use crate::key_change::{KeyChange, Rollover};
use crate::number::TokenNumber;
use crate::sealed::{MasterKey, SealError};
use crate::sta::Sta;
use crate::token::Token;
use crate::vault::{
    GroupNotice, IssueRequest, KeyAttributes, KeyChangeRequest, SecurityModule, VaultError,
};

/// Why a key is not imported.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum ImportError {
    /// A DES key with a byte of even parity.
    #[error(transparent)]
    Parity(#[from] KeyError),
    /// The vault has a key of this name.
    #[error("the vault already holds a vending key of this group, type and revision")]
    Present,
    /// Type 0, or type 3 with a 160-bit key.
    #[error("no meter key can be derived from a key of this type and length")]
    KeyType,
    /// It would never be active.
    #[error("the key would be active from {from_s} until {until_s}: never")]
    NeverActive {
        /// First instant.
        from_s: u64,
        /// First instant after.
        until_s: u64,
    },
    /// The name is empty, too long, or has control characters.
    #[error("an operator's name has 1 to {OPERATOR_MAX} characters and no control characters")]
    Operator,
    /// Too many wait for confirmation.
    #[error("{PROPOSALS_MAX} imports wait for confirmation: confirm or withdraw one")]
    TooMany,
    /// No such import waits, or not any more.
    #[error("no import of this key waits for confirmation (one waits for a day)")]
    NotProposed,
    /// One person is not two.
    #[error("{0} proposed this import: another operator must confirm it")]
    SameOperator(String),
    /// The second operator holds another key.
    #[error("the check value does not fit: the two operators hold different keys")]
    CheckValue,
}

/// A security module in software.
pub struct SoftModule {
    name: String,
    master: MasterKey,
    sta: &'static Sta,
    keys: BTreeMap<VendingKeyId, StoredKey>,
    proposals: BTreeMap<VendingKeyId, Proposal>,
    trail: AuditTrail,
    audit: String,
}

struct StoredKey {
    attributes: KeyAttributes,
    deriver: Deriver,
}

/// An import that waits for the second operator.
struct Proposal {
    operator: String,
    at_s: u64,
    attributes: KeyAttributes,
    key: VendingKey,
}

impl SoftModule {
    /// An empty module that goes on with the audit trail `trail` (empty for a new one).
    ///
    /// # Errors
    /// [`AuditError`] when the trail is not as this module wrote it.
    pub fn open(
        name: &str,
        master: MasterKey,
        sta: &'static Sta,
        trail: &str,
    ) -> Result<Self, AuditError> {
        let trail = AuditTrail::resume(&master, trail)?;
        Ok(Self {
            name: name.to_owned(),
            master,
            sta,
            keys: BTreeMap::new(),
            proposals: BTreeMap::new(),
            trail,
            audit: String::new(),
        })
    }

    /// Takes in a key that [`SoftModule::confirm`] sealed.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn load(&mut self, blob: &[u8]) -> Result<KeyAttributes, SealError> {
        let (attributes, key) = self.master.open(blob)?;
        self.keys.insert(attributes.id, StoredKey { attributes, deriver: Deriver::new(&key) });
        Ok(attributes)
    }

    /// Attributes of all keys, by name.
    pub fn keys(&self) -> impl Iterator<Item = &KeyAttributes> {
        self.keys.values().map(|stored| &stored.attributes)
    }

    /// Imports that wait for confirmation: who proposed, when, and what.
    pub fn proposals(&self) -> impl Iterator<Item = (&str, u64, &KeyAttributes)> {
        self.proposals.values().map(|p| (p.operator.as_str(), p.at_s, &p.attributes))
    }

    /// The first operator brings a key. Returns the check value to be compared with the sender's.
    ///
    /// # Errors
    /// [`ImportError`]; nothing is kept then.
    pub fn propose(
        &mut self,
        operator: &str,
        key: VendingKey,
        attributes: KeyAttributes,
        now_s: u64,
    ) -> Result<KeyCheckValue, ImportError> {
        self.forget_stale(now_s);
        check_operator(operator)?;
        key.check_parity()?;
        check_attributes(&key, &attributes)?;
        if self.keys.contains_key(&attributes.id) {
            return Err(ImportError::Present);
        }
        let replaces = self.proposals.contains_key(&attributes.id);
        if self.proposals.len() >= PROPOSALS_MAX && !replaces {
            return Err(ImportError::TooMany);
        }
        let check_value = key.check_value();
        self.log(now_s, operator, Deed::Proposed, attributes.id, check_value);
        let operator = operator.to_owned();
        let id = attributes.id;
        self.proposals.insert(id, Proposal { operator, at_s: now_s, attributes, key });
        Ok(check_value)
    }

    /// A second operator confirms an import with the check value from the sender's paper. Returns
    /// the sealed key: the caller must keep it before saying so.
    ///
    /// # Errors
    /// [`ImportError`]; the import goes on waiting.
    pub fn confirm(
        &mut self,
        operator: &str,
        id: VendingKeyId,
        check_value: KeyCheckValue,
        now_s: u64,
    ) -> Result<Vec<u8>, ImportError> {
        self.forget_stale(now_s);
        check_operator(operator)?;
        let proposal = self.proposals.get(&id).ok_or(ImportError::NotProposed)?;
        let held = proposal.key.check_value();
        let refusal = if proposal.operator == operator {
            Some(ImportError::SameOperator(operator.to_owned()))
        } else if !bool::from(held.0.ct_eq(&check_value.0)) {
            Some(ImportError::CheckValue)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.log(now_s, operator, Deed::ConfirmationRefused, id, held);
            return Err(refusal);
        }
        let proposal = self.proposals.remove(&id).ok_or(ImportError::NotProposed)?;
        let Proposal { attributes, key, .. } = proposal;
        let blob = self.master.seal(&attributes, &key);
        self.keys.insert(id, StoredKey { attributes, deriver: Deriver::new(&key) });
        self.log(now_s, operator, Deed::Confirmed, id, held);
        Ok(blob)
    }

    /// Drops an import that waits; any operator may.
    ///
    /// # Errors
    /// [`ImportError::NotProposed`], [`ImportError::Operator`].
    pub fn withdraw(
        &mut self,
        operator: &str,
        id: VendingKeyId,
        now_s: u64,
    ) -> Result<(), ImportError> {
        check_operator(operator)?;
        let proposal = self.proposals.remove(&id).ok_or(ImportError::NotProposed)?;
        self.log(now_s, operator, Deed::Withdrawn, id, proposal.key.check_value());
        Ok(())
    }

    /// Lines for the audit trail since the last call.
    #[must_use]
    pub fn take_audit(&mut self) -> String {
        std::mem::take(&mut self.audit)
    }

    fn log(&mut self, at_s: u64, operator: &str, deed: Deed, id: VendingKeyId, kcv: KeyCheckValue) {
        let line = self.trail.append(at_s, operator, deed, id, kcv);
        self.audit.push_str(&line);
    }

    fn forget_stale(&mut self, now_s: u64) {
        self.proposals.retain(|_, p| now_s.saturating_sub(p.at_s) <= PROPOSAL_TIMEOUT_S);
    }

    fn stored(&self, id: VendingKeyId) -> Result<&StoredKey, VaultError> {
        self.keys.get(&id).ok_or(VaultError::UnknownKey(id))
    }

    fn decoder_key(&self, meter: &MeterConfig) -> Result<DecoderKey, VaultError> {
        let stored = self.stored(meter.key)?;
        Ok(stored.deriver.derive(stored.attributes.base_date, meter)?)
    }

    fn cipher(&self, meter: &MeterConfig) -> Result<TokenCipher, VaultError> {
        Ok(TokenCipher::new(&self.decoder_key(meter)?, self.sta))
    }
}

impl SecurityModule for SoftModule {
    fn name(&self) -> &str {
        &self.name
    }

    fn attributes(&self, key: VendingKeyId) -> Result<KeyAttributes, VaultError> {
        Ok(self.stored(key)?.attributes)
    }

    fn derive(&self, meter: &MeterConfig) -> Result<KeyCheckValue, VaultError> {
        Ok(self.cipher(meter)?.check_value())
    }

    fn issue(&self, request: &IssueRequest, now_s: u64) -> Result<TokenNumber, VaultError> {
        let IssueRequest { meter, tid, order } = request;
        let token = order.token(*tid);
        self.stored(meter.key)?.attributes.check_issue(&token, now_s)?;
        Ok(encode(&token, &self.cipher(meter)?))
    }

    fn change_key(
        &self,
        request: &KeyChangeRequest,
        now_s: u64,
    ) -> Result<Vec<TokenNumber>, VaultError> {
        let from = request.meter;
        let to = MeterConfig { key: request.to, ti: request.to_ti, ..from };
        let (old, new) = (self.stored(from.key)?.attributes, self.stored(to.key)?.attributes);
        if !from.key.kt.may_become(to.key.kt) {
            return Err(VaultError::KeyType { from: from.key.kt, to: to.key.kt });
        }
        old.check_old_key(now_s)?;
        new.check_new_key(now_s)?;
        let tells_group =
            from.ea == EncryptionAlgorithm::Ea11 || request.group == GroupNotice::Told;
        // As every published vector has it: exactly when the base date changes.
        let rollover =
            if old.base_date == new.base_date { Rollover::Keep } else { Rollover::Clear };
        let change = KeyChange {
            key: self.decoder_key(&to)?,
            kt: to.key.kt,
            krn: to.key.krn,
            ken: new.ken,
            ti: to.ti,
            rollover,
            sgc: tells_group.then_some(to.key.sgc),
        };
        // The meter reads them with the key it holds now.
        let cipher = self.cipher(&from)?;
        Ok(change.tokens()?.iter().map(|token| encode(token, &cipher)).collect())
    }

    fn verify(&self, meter: &MeterConfig, number: TokenNumber) -> Result<Token, VaultError> {
        Ok(decode(number, &self.cipher(meter)?)?)
    }
}

impl fmt::Debug for SoftModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftModule({}, {} keys)", self.name, self.keys.len())
    }
}

fn check_operator(operator: &str) -> Result<(), ImportError> {
    let count = operator.chars().count();
    if count == 0 || count > OPERATOR_MAX || operator.chars().any(char::is_control) {
        return Err(ImportError::Operator);
    }
    Ok(())
}

fn check_attributes(key: &VendingKey, attributes: &KeyAttributes) -> Result<(), ImportError> {
    match (attributes.id.kt, key.derivation()) {
        (KeyType::Initialisation, _) | (KeyType::Common, KeyDerivation::Dkga04) => {
            return Err(ImportError::KeyType);
        }
        (KeyType::Default | KeyType::Unique | KeyType::Common, _) => {}
    }
    let (from_s, until_s) = (attributes.active_from_s, attributes.active_until_s);
    if from_s >= until_s {
        return Err(ImportError::NeverActive { from_s, until_s });
    }
    Ok(())
}

const OPERATOR_MAX: usize = 100;
const PROPOSALS_MAX: usize = 16;
const PROPOSAL_TIMEOUT_S: u64 = 86_400;
