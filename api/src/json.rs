//! Scalars as JSON carries them: money and prices as decimal strings, instants as RFC 3339, days
//! as dates, system titles and keys as hexadecimal digits.

use std::fmt;

use meter::{LocalDate, Money, Price, SystemTitle, UnixSeconds};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use storage::registry::parse_hex;
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// Money: a decimal string of at most 7 decimals; answers have all 7.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ToSchema)]
#[schema(value_type = String, example = "12.3400000", pattern = r"^-?[0-9]+(\.[0-9]{1,7})?$")]
pub(crate) struct Amount(pub(crate) Money);

/// A price per kWh: a decimal string of at most 4 decimals.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ToSchema)]
#[schema(value_type = String, example = "0.5283", pattern = r"^-?[0-9]+(\.[0-9]{1,4})?$")]
pub(crate) struct PriceText(pub(crate) Price);

/// An instant, RFC 3339; answers are in UTC.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-22T10:15:00Z")]
pub(crate) struct Instant(pub(crate) UnixSeconds);

/// A local day.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ToSchema)]
#[schema(value_type = String, format = Date, example = "2026-11-22")]
pub(crate) struct Day(pub(crate) LocalDate);

/// A DLMS system title: 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ToSchema)]
#[schema(value_type = String, example = "4D54523062810001", pattern = "^[0-9A-Fa-f]{16}$")]
pub(crate) struct Title(pub(crate) SystemTitle);

/// A 128-bit key: 32 hexadecimal digits, taken in and never given out.
#[derive(Clone, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9A-Fa-f]{32}$")]
pub(crate) struct Key(pub(crate) Zeroizing<[u8; 16]>);

impl Instant {
    /// The instant, unless it is the zero that stands for "none".
    pub(crate) fn known(at: UnixSeconds) -> Option<Self> {
        (at.0 != 0).then_some(Self(at))
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let instant: jiff::Timestamp = text.parse().ok()?;
        u32::try_from(instant.as_second()).ok().map(|second| Self(UnixSeconds(second)))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

macro_rules! text {
    ($name:ident, $want:literal, $parse:expr, $show:expr) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let parse: fn(&str) -> Option<Self> = $parse;
                parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is not {}", $want)))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let show: fn(&Self) -> String = $show;
                serializer.serialize_str(&show(self))
            }
        }
    };
}

text!(
    Amount,
    "an amount with at most 7 decimals, written as a string",
    |text| Money::parse_decimal(text).ok().map(Self),
    |amount| amount.0.to_decimal()
);
text!(
    PriceText,
    "a price with at most 4 decimals, written as a string",
    |text| Price::parse_decimal(text).ok().map(Self),
    |price| price.0.to_decimal()
);
text!(Instant, "an RFC 3339 instant", Self::parse, |instant| instant.0.to_string());
text!(Day, "a date YYYY-MM-DD", |text| LocalDate::parse(text).map(Self), |day| day.0.to_string());
text!(
    Title,
    "16 hexadecimal digits",
    |text| parse_hex(text).map(|title| Self(SystemTitle(title))),
    |title| title.0.to_string()
);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        // The text of a key is never repeated.
        let key = parse_hex(&text).ok_or_else(|| D::Error::custom("not 32 hexadecimal digits"));
        key.map(|key| Self(Zeroizing::new(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Serialize + serde::de::DeserializeOwned>(json: &str, want: Option<&str>) {
        let value = serde_json::from_str::<T>(json).ok();
        let shown = value.map(|value| serde_json::to_string(&value).unwrap());
        assert_eq!(shown.as_deref(), want, "json={json}");
    }

    #[test]
    fn scalars_both_ways() {
        check::<Amount>("\"1.5\"", Some("\"1.5000000\""));
        check::<Amount>("1.5", None);
        check::<Amount>("\"1.00000001\"", None);
        check::<PriceText>("\"0.5283\"", Some("\"0.5283\""));
        check::<PriceText>("\"0.52831\"", None);
        check::<Instant>("\"2026-11-22T18:15:00+08:00\"", Some("\"2026-11-22T10:15:00Z\""));
        check::<Instant>("\"2026-11-22\"", None);
        check::<Instant>("\"1969-12-31T00:00:00Z\"", None);
        check::<Day>("\"2026-02-28\"", Some("\"2026-02-28\""));
        check::<Day>("\"2026-02-29\"", None);
        check::<Title>("\"4d54523062810001\"", Some("\"4D54523062810001\""));
    }

    #[test]
    fn keys_are_not_repeated() {
        let error = serde_json::from_str::<Key>("\"0011\"").unwrap_err().to_string();
        assert!(!error.contains("0011"), "{error}");
    }
}
