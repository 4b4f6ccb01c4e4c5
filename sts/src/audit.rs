//! The trail of what was done with vending keys: one line a deed, each sealed to the one before.
//!
//! ```text
//! number <tab> seconds since 1970 <tab> operator <tab> deed <tab> SGC/KT/KRN <tab> check value <tab> MAC
//! ```
//! The MAC (HMAC-SHA-256 under a key made of the master key) covers the line and the MAC before
//! it: no line can be changed, removed or put in unseen, but for lines cut off the end, which only
//! a copy kept elsewhere shows.

use std::fmt;

use hmac::Mac;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::derive::VendingKeyId;
use crate::key::{KeyCheckValue, hmac_of};
use crate::sealed::MasterKey;

/// Where a trail is broken.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("line {line} of the key audit trail was changed, or lines before it removed or put in")]
pub struct AuditError {
    /// The line, from 1.
    pub line: u64,
}

/// What was done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Deed {
    /// An operator brought a key and its attributes.
    Proposed,
    /// A second operator confirmed it: the key is in the vault.
    Confirmed,
    /// A confirmation was refused.
    ConfirmationRefused,
    /// A proposal was withdrawn.
    Withdrawn,
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proposed => "proposed",
            Self::Confirmed => "confirmed",
            Self::ConfirmationRefused => "confirmation refused",
            Self::Withdrawn => "withdrawn",
        })
    }
}

/// Writes and checks a trail.
pub(crate) struct AuditTrail {
    key: Zeroizing<[u8; 32]>,
    line: u64,
    last: [u8; 32],
}

impl AuditTrail {
    /// Takes up the trail in `lines`; an empty text starts one.
    pub(crate) fn resume(master: &MasterKey, lines: &str) -> Result<Self, AuditError> {
        let mut trail = Self { key: master.subkey(b"audit"), line: 0, last: [0; 32] };
        for text in lines.lines() {
            let (entry, mac) = text.rsplit_once('\t').unwrap_or((text, ""));
            let want = trail.mac(entry);
            let is_next = entry.split('\t').next() == Some(trail.next().to_string().as_str());
            if !is_next || !bool::from(hex(&want).as_bytes().ct_eq(mac.as_bytes())) {
                return Err(AuditError { line: trail.next() });
            }
            (trail.line, trail.last) = (trail.next(), want);
        }
        Ok(trail)
    }

    /// The line of a deed, line break included. `operator` holds no control character.
    pub(crate) fn append(
        &mut self,
        at_s: u64,
        operator: &str,
        deed: Deed,
        key: VendingKeyId,
        check_value: KeyCheckValue,
    ) -> String {
        let VendingKeyId { sgc, kt, krn } = key;
        let kt = kt.code();
        let line = self.next();
        let entry = format!("{line}\t{at_s}\t{operator}\t{deed}\t{sgc}/{kt}/{krn}\t{check_value}");
        (self.line, self.last) = (line, self.mac(&entry));
        format!("{entry}\t{}\n", hex(&self.last))
    }

    fn next(&self) -> u64 {
        self.line.saturating_add(1)
    }

    fn mac(&self, entry: &str) -> [u8; 32] {
        hmac_of(&*self.key)
            .chain_update(self.last)
            .chain_update(entry)
            .finalize()
            .into_bytes()
            .into()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
