//! `meterd sts keychange`: the tokens that bring a meter another key.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use sts::{
    BaseDate, Deriver, EncryptionAlgorithm, KeyChange, KeyExpiryNumber, KeyRevisionNumber, KeyType,
    MeterConfig, Rollover, SupplyGroupCode, TariffIndex, VaultError, VendingKey, VendingKeyId,
    encode,
};

use super::StsError;
use super::keys::{KeyArgs, Secret, base_date, key_type, secret};
use crate::clock::Clock;

/// `meterd sts keychange`. What is not given stays as it is.
#[derive(Args, Debug)]
pub struct Keychange {
    /// The new vending key; the present one when absent.
    #[arg(long, value_name = "HEX", env = "METERD_STS_NEW_VENDING_KEY", hide_env_values = true)]
    new_vending_key: Option<Secret>,
    /// File with the new vending key's digits.
    #[arg(long, value_name = "FILE")]
    new_vending_key_file: Option<PathBuf>,
    /// New supply group code.
    #[arg(long, value_name = "DIGITS")]
    new_sgc: Option<SupplyGroupCode>,
    /// New key type.
    #[arg(long, value_name = "CODE", value_parser = key_type)]
    new_kt: Option<KeyType>,
    /// New key revision number.
    #[arg(long, value_name = "DIGIT")]
    new_krn: Option<KeyRevisionNumber>,
    /// New tariff index.
    #[arg(long, value_name = "DIGITS")]
    new_ti: Option<TariffIndex>,
    /// New key expiry number.
    #[arg(long, value_name = "NUMBER")]
    new_ken: Option<u8>,
    /// New base year; identifiers start afresh when it differs.
    #[arg(long, value_name = "YEAR", value_parser = base_date)]
    new_base_year: Option<BaseDate>,
    /// Tell an EA07 meter its supply group with a third token. EA11 meters are always told.
    #[arg(long)]
    tell_group: bool,
    #[command(flatten)]
    keys: KeyArgs,
}

impl Keychange {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, StsError> {
        let old = &self.keys.meter;
        let from = old.config()?;
        let to = MeterConfig {
            key: VendingKeyId {
                sgc: self.new_sgc.unwrap_or(from.key.sgc),
                kt: self.new_kt.unwrap_or(from.key.kt),
                krn: self.new_krn.unwrap_or(from.key.krn),
            },
            ti: self.new_ti.unwrap_or(from.ti),
            ..from
        };
        if !from.key.kt.may_become(to.key.kt) {
            let (from, to) = (from.key.kt, to.key.kt);
            return Err(VaultError::KeyType { from, to }.into());
        }
        let base = self.new_base_year.unwrap_or(old.base_year);
        let ken = self.new_ken.unwrap_or(old.ken);
        let mut attributes = old.attributes(to.key);
        (attributes.base_date, attributes.ken) = (base, KeyExpiryNumber(ken));
        attributes.check_new_key(Clock::System.now().0.into())?;
        let tells_group = self.tell_group || from.ea == EncryptionAlgorithm::Ea11;
        let change = KeyChange {
            key: Deriver::new(&self.new_key()?).derive(base, &to)?,
            kt: to.key.kt,
            krn: to.key.krn,
            ken: KeyExpiryNumber(ken),
            ti: to.ti,
            rollover: if base == old.base_year { Rollover::Keep } else { Rollover::Clear },
            sgc: tells_group.then_some(to.key.sgc),
        };
        // The meter reads them with the key it holds now.
        let cipher = self.keys.needed_cipher()?;
        for token in change.tokens()? {
            writeln!(out, "{}", encode(&token, &cipher))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn new_key(&self) -> Result<VendingKey, StsError> {
        let given = secret(
            "new vending key",
            "--new-vending-key",
            self.new_vending_key.as_ref(),
            self.new_vending_key_file.as_deref(),
            VendingKey::from_hex,
        )?;
        match given {
            Some(key) => Ok(key),
            None => self.keys.vending_key()?.ok_or(StsError::Missing {
                what: "a vending key",
                why: "the new key is made from it: give --new-vending-key-file",
            }),
        }
    }
}
