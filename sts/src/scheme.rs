//! Which kind of token a type of meter takes: the registry of token schemes.
//!
//! Two are built in. `sts` credits units (kWh, m³, minutes). `cts` is **our reading** of a name
//! that no published standard has: "currency transfer", the standard's own currency tokens (class
//! 0, subclasses 4 to 7) under the same keys. A maker's private scheme needs its document and an
//! implementation of [`TokenScheme`]; none is invented here. See `docs/sts.md`.

use std::collections::BTreeMap;
use std::fmt;

use thiserror::Error;

use crate::amount::{CurrencyAmount, TransferAmount};
use crate::token::{Rnd, Service, Token};
use crate::vault::Order;

/// What a purchase came to, in both measures: the scheme takes the one its meters count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sale {
    /// What was bought.
    pub service: Service,
    /// How much of it.
    pub units: TransferAmount,
    /// For how much money.
    pub money: CurrencyAmount,
}

/// A kind of token.
pub trait TokenScheme: Send + Sync {
    /// The name it is bound by.
    fn id(&self) -> &'static str;

    /// One line for people.
    fn about(&self) -> &'static str;

    /// The order that credits a sale.
    fn credit(&self, sale: &Sale, rnd: Rnd) -> Order;

    /// Whether meters of this scheme take such a token.
    fn admits(&self, token: &Token) -> bool;
}

/// Why a binding is refused.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum SchemeError {
    /// No scheme of this name.
    #[error("no token scheme {0:?}; there are: {1}")]
    Unknown(String, String),
    /// A second scheme of one name.
    #[error("token scheme {0:?} is there already")]
    Present(&'static str),
}

/// Schemes by name, and the meter types bound to them.
pub struct SchemeRegistry {
    schemes: BTreeMap<&'static str, Box<dyn TokenScheme>>,
    by_meter_type: BTreeMap<String, &'static str>,
}

impl SchemeRegistry {
    /// The built-in schemes; every meter type is `sts` until it is bound.
    #[must_use]
    pub fn new() -> Self {
        let built_in: [Box<dyn TokenScheme>; 2] = [Box::new(Sts), Box::new(Cts)];
        let schemes = built_in.into_iter().map(|scheme| (scheme.id(), scheme)).collect();
        Self { schemes, by_meter_type: BTreeMap::new() }
    }

    /// Adds a scheme.
    ///
    /// # Errors
    /// [`SchemeError::Present`].
    pub fn add(&mut self, scheme: Box<dyn TokenScheme>) -> Result<(), SchemeError> {
        let id = scheme.id();
        if self.schemes.contains_key(id) {
            return Err(SchemeError::Present(id));
        }
        self.schemes.insert(id, scheme);
        Ok(())
    }

    /// Binds a meter type to a scheme, in place of an earlier binding.
    ///
    /// # Errors
    /// [`SchemeError::Unknown`] names the schemes there are.
    pub fn bind(&mut self, meter_type: &str, scheme: &str) -> Result<(), SchemeError> {
        let Some((id, _)) = self.schemes.get_key_value(scheme) else {
            let known = self.schemes.keys().copied().collect::<Vec<_>>().join(", ");
            return Err(SchemeError::Unknown(scheme.to_owned(), known));
        };
        self.by_meter_type.insert(meter_type.to_owned(), id);
        Ok(())
    }

    /// The scheme of a meter type: `sts` unless bound otherwise.
    #[must_use]
    pub fn of_meter_type(&self, meter_type: &str) -> &dyn TokenScheme {
        let id = self.by_meter_type.get(meter_type).copied().unwrap_or(STS);
        self.schemes.get(id).expect("schemes are never removed").as_ref()
    }

    /// All schemes, by name.
    pub fn schemes(&self) -> impl Iterator<Item = &dyn TokenScheme> {
        self.schemes.values().map(Box::as_ref)
    }
}

impl Default for SchemeRegistry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SchemeRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.by_meter_type).finish()
    }
}

/// `sts`: credit in units.
#[derive(Debug)]
struct Sts;

impl TokenScheme for Sts {
    fn id(&self) -> &'static str {
        STS
    }

    fn about(&self) -> &'static str {
        "IEC 62055-41: credit in kWh, m³ or minutes"
    }

    fn credit(&self, sale: &Sale, rnd: Rnd) -> Order {
        Order::Credit { service: sale.service, amount: sale.units, rnd }
    }

    fn admits(&self, token: &Token) -> bool {
        !matches!(token, Token::CurrencyCredit { .. })
    }
}

/// `cts`: credit in currency.
#[derive(Debug)]
struct Cts;

impl TokenScheme for Cts {
    fn id(&self) -> &'static str {
        "cts"
    }

    fn about(&self) -> &'static str {
        "our reading, \"currency transfer\": IEC 62055-41 class 0 subclasses 4 to 7"
    }

    fn credit(&self, sale: &Sale, _rnd: Rnd) -> Order {
        Order::CurrencyCredit { service: sale.service, amount: sale.money }
    }

    fn admits(&self, token: &Token) -> bool {
        !matches!(token, Token::Credit { .. })
    }
}

const STS: &str = "sts";

#[cfg(test)]
mod tests {
    use super::*;

    use crate::tid::Tid;

    #[test]
    fn a_meter_type_decides_what_a_sale_becomes() {
        let sale = Sale {
            service: Service::Water,
            units: TransferAmount::parse("25.6", 1).unwrap(),
            money: CurrencyAmount::parse("100").unwrap(),
        };
        let mut registry = SchemeRegistry::new();
        registry.bind("W-7", "cts").unwrap();
        let check = |meter_type: &str, id: &str, class: (u8, u8)| {
            let scheme = registry.of_meter_type(meter_type);
            let token = scheme.credit(&sale, Rnd::default()).token(Tid::MIN);
            assert_eq!((scheme.id(), token.class()), (id, class), "{meter_type}");
            for other in registry.schemes() {
                assert_eq!(other.admits(&token), other.id() == id, "{} {token:?}", other.id());
            }
        };
        check("anything", "sts", (0, 1));
        check("W-7", "cts", (0, 5));
    }

    #[test]
    fn names() {
        let mut registry = SchemeRegistry::new();
        let error = registry.bind("X", "private").unwrap_err();
        assert_eq!(error.to_string(), "no token scheme \"private\"; there are: cts, sts");
        assert_eq!(registry.add(Box::new(Cts)), Err(SchemeError::Present("cts")));
    }
}
