//! Keys and meter settings from options, files and the environment.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use sts::{
    BaseDate, DecoderKey, Deriver, Drn, EncryptionAlgorithm, KeyAttributes, KeyExpiryNumber,
    KeyRevisionNumber, KeyType, MeterConfig, MeterPan, Sta, SupplyGroupCode, TariffIndex,
    TokenCipher, TokenLimit, VendingKey, VendingKeyId,
};
use zeroize::Zeroizing;

use super::StsError;

/// Text that is never printed.
#[derive(Clone)]
pub(super) struct Secret(Zeroizing<String>);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The key, and the meter it is for. A vending key needs the meter's settings; a decoder key is
/// used as it is.
#[derive(Args, Clone, Debug)]
pub(super) struct KeyArgs {
    /// Vending key: 16 digits (DKGA02) or 40 (DKGA04). Others on this machine may see options.
    #[arg(long, value_name = "HEX", env = "METERD_STS_VENDING_KEY", hide_env_values = true)]
    pub(super) vending_key: Option<Secret>,
    /// File with the vending key's digits.
    #[arg(long, value_name = "FILE")]
    pub(super) vending_key_file: Option<PathBuf>,
    /// Decoder key of the meter: 16 digits (EA07) or 32 (EA11).
    #[arg(long, value_name = "HEX", env = "METERD_STS_DECODER_KEY", hide_env_values = true)]
    pub(super) decoder_key: Option<Secret>,
    /// File with the decoder key's digits.
    #[arg(long, value_name = "FILE")]
    pub(super) decoder_key_file: Option<PathBuf>,
    /// The sample tables of the standard for EA07, which no meter accepts.
    #[arg(long)]
    pub(super) sample_tables: bool,
    /// The meter's settings.
    #[command(flatten)]
    pub(super) meter: MeterArgs,
}

/// A meter's settings.
#[derive(Args, Clone, Debug)]
pub(super) struct MeterArgs {
    /// Meter's primary account number, 18 digits.
    #[arg(long, value_name = "DIGITS", conflicts_with = "drn")]
    pub(super) pan: Option<MeterPan>,
    /// Meter's decoder reference number, 11 or 13 digits.
    #[arg(long, value_name = "DIGITS")]
    pub(super) drn: Option<Drn>,
    /// Supply group code, 6 digits.
    #[arg(long, value_name = "DIGITS")]
    pub(super) sgc: Option<SupplyGroupCode>,
    /// Key type: 1 default, 2 unique, 3 common.
    #[arg(long, value_name = "CODE", default_value = "2", value_parser = key_type)]
    pub(super) kt: KeyType,
    /// Key revision number, 1 to 9.
    #[arg(long, value_name = "DIGIT")]
    pub(super) krn: Option<KeyRevisionNumber>,
    /// Tariff index.
    #[arg(long, value_name = "DIGITS", default_value = "01")]
    pub(super) ti: TariffIndex,
    /// Key expiry number, 0 to 255; 255 never expires.
    #[arg(long, value_name = "NUMBER", default_value_t = 255)]
    pub(super) ken: u8,
    /// Encryption algorithm: 7 (STA) or 11 (MISTY1).
    #[arg(long, value_name = "CODE", default_value = "7", value_parser = algorithm)]
    pub(super) ea: EncryptionAlgorithm,
    /// Year identifiers count from: 1993, 2014 or 2035.
    #[arg(long, value_name = "YEAR", default_value = "2014", value_parser = base_date)]
    pub(super) base_year: BaseDate,
}

impl KeyArgs {
    /// The meter's key, when one is given or can be derived.
    pub(super) fn decoder_key(&self) -> Result<Option<DecoderKey>, StsError> {
        let given = secret(
            "decoder key",
            "--decoder-key",
            self.decoder_key.as_ref(),
            self.decoder_key_file.as_deref(),
            DecoderKey::from_hex,
        )?;
        let Some(vending) = self.vending_key()? else { return Ok(given) };
        let derived = Deriver::new(&vending).derive(self.meter.base_year, &self.meter.config()?)?;
        if given.is_some_and(|given| given != derived) {
            let text = "the decoder key is not the one that the vending key and the meter's \
                        settings give: leave one of the two out, or correct the settings";
            return Err(StsError::Contradiction(text));
        }
        Ok(Some(derived))
    }

    /// The vending key, when one is given.
    pub(super) fn vending_key(&self) -> Result<Option<VendingKey>, StsError> {
        secret(
            "vending key",
            "--vending-key",
            self.vending_key.as_ref(),
            self.vending_key_file.as_deref(),
            VendingKey::from_hex,
        )
    }

    /// The cipher, when a key is given.
    pub(super) fn cipher(&self) -> Result<Option<TokenCipher>, StsError> {
        let tables = self.tables();
        Ok(self.decoder_key()?.map(|key| TokenCipher::new(&key, tables)))
    }

    /// The cipher.
    pub(super) fn needed_cipher(&self) -> Result<TokenCipher, StsError> {
        self.cipher()?.ok_or(NO_KEY)
    }

    /// The tables of EA07.
    pub(super) fn tables(&self) -> &'static Sta {
        if self.sample_tables { Sta::sample() } else { Sta::production() }
    }
}

impl MeterArgs {
    /// The meter's settings, all there.
    pub(super) fn config(&self) -> Result<MeterConfig, StsError> {
        const WHY: &str = "a vending key makes another key for each meter";
        let missing = |what| StsError::Missing { what, why: WHY };
        let pan = self.pan.or_else(|| self.drn.as_ref().map(MeterPan::of));
        Ok(MeterConfig {
            pan: pan.ok_or_else(|| missing("--pan or --drn"))?,
            ea: self.ea,
            key: VendingKeyId {
                sgc: self.sgc.ok_or_else(|| missing("--sgc"))?,
                kt: self.kt,
                krn: self.krn.ok_or_else(|| missing("--krn"))?,
            },
            ti: self.ti,
        })
    }

    /// What a point of sale would know of the vending key, without limits of its own.
    pub(super) fn attributes(&self, id: VendingKeyId) -> KeyAttributes {
        KeyAttributes {
            id,
            base_date: self.base_year,
            ken: KeyExpiryNumber(self.ken),
            active_from_s: 0,
            active_until_s: u64::MAX,
            issued_until_s: u64::MAX,
            limit: TokenLimit { units: u32::MAX, currency: u32::MAX },
        }
    }
}

/// No key, and it is needed.
pub(super) const NO_KEY: StsError = StsError::Missing {
    what: "a key",
    why: "give --vending-key-file with the meter's settings, or --decoder-key-file",
};

/// Reads a key from its file, or else from its option or environment.
pub(super) fn secret<T>(
    what: &'static str,
    option: &str,
    text: Option<&Secret>,
    file: Option<&Path>,
    parse: impl Fn(&str) -> Result<T, sts::KeyError>,
) -> Result<Option<T>, StsError> {
    let fail = |origin| move |source| StsError::Key { origin, source };
    if let Some(path) = file {
        let text = fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|source| StsError::Read { path: path.to_owned(), source })?;
        return parse(&text).map(Some).map_err(fail(path.display().to_string()));
    }
    let origin = format!("{option} (or the {what} in the environment)");
    text.map(|secret| parse(&secret.0)).transpose().map_err(fail(origin))
}

pub(super) fn key_type(text: &str) -> Result<KeyType, String> {
    let code = text.parse().map_err(|_| "expected 1, 2 or 3".to_owned())?;
    KeyType::from_code(code).map_err(|error| error.to_string())
}

pub(super) fn base_date(text: &str) -> Result<BaseDate, String> {
    let year = text.parse().map_err(|_| "expected 1993, 2014 or 2035".to_owned())?;
    BaseDate::from_year(year).map_err(|error| error.to_string())
}

fn algorithm(text: &str) -> Result<EncryptionAlgorithm, String> {
    let code = text.parse().map_err(|_| "expected 7 or 11".to_owned())?;
    EncryptionAlgorithm::from_code(code).map_err(|error| error.to_string())
}
