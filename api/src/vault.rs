//! The vault of vending keys behind the API, and the tokens it makes for sales and orders.
//!
//! **Invariant:** no key leaves it, neither in an answer nor in an error; the identifier of a token
//! is the next free one after the meter's last, which is committed with the token.

use std::sync::{Mutex, MutexGuard};

use meter::{Money, UnixSeconds};
use storage::registry::{
    IssuedTokens, KeySetting, Refusal, Registry, RegistryError, SoldToken, TokenIssuer, TokenMeter,
    TokenOrder,
};
use sts::{
    BaseDate, CurrencyAmount, EncryptionAlgorithm, GroupNotice, IdentityError, IssueRequest,
    KeyAttributes, KeyChangeRequest, KeyRevisionNumber, KeyType, MasterKey, MeterConfig, Order,
    Rnd, Sale, SchemeRegistry, SecurityModule as _, Service, SoftModule, Sta, SupplyGroupCode,
    TariffIndex, Tid, TokenNumber, TransferAmount, VaultError, VendingKeyId,
};
use thiserror::Error;

/// Why the vault does not open.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// The registry does not answer.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The trail was changed.
    #[error("{0}; restore the registry from a backup, and find out who did it")]
    Audit(#[from] sts::AuditError),
    /// A key does not open.
    #[error("{0}; restore the registry and its master key from one backup")]
    Seal(#[from] sts::SealError),
}

/// The vault.
pub(crate) struct Vault {
    module: Mutex<SoftModule>,
    schemes: SchemeRegistry,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault(***)")
    }
}

impl Vault {
    /// Opens the vault with the keys that the registry holds, sealed.
    pub(crate) async fn open(registry: &Registry) -> Result<Self, OpenError> {
        let (keys, trail) = registry.vault().await?;
        let master = MasterKey::new(*registry.vending_master());
        let mut module = SoftModule::open("registry", master, Sta::production(), &trail)?;
        for key in &keys {
            module.load(key)?;
        }
        Ok(Self { module: Mutex::new(module), schemes: SchemeRegistry::new() })
    }

    /// The module; it is never held while something is waited for.
    pub(crate) fn module(&self) -> MutexGuard<'_, SoftModule> {
        self.module.lock().expect("nothing panics while it holds the vault")
    }

    /// Attributes of a key.
    pub(crate) fn attributes(&self, key: KeySetting) -> Result<KeyAttributes, Refusal> {
        let id = key_id(key).map_err(|error| identity(&error))?;
        self.module().attributes(id).map_err(|error| refusal(&error))
    }

    /// Whether a scheme of this name is there.
    pub(crate) fn has_scheme(&self, name: &str) -> bool {
        self.schemes.schemes().any(|scheme| scheme.id() == name)
    }

    /// Makes a token for one meter, the change of its key first where that is due.
    pub(crate) fn make(
        &self,
        meter: &TokenMeter,
        order: Option<Order>,
        at: UnixSeconds,
    ) -> Result<IssuedTokens, Refusal> {
        let now_s = u64::from(at.0);
        let module = self.module();
        let mut meter = meter.clone();
        let mut tokens = change_key(&module, &mut meter, now_s)?;
        if let Some(order) = order {
            let base = BaseDate::from_year(meter.base_year).map_err(VaultError::from);
            let base = base.map_err(|error| refusal(&error))?;
            let last = meter.last_tid.map(Tid::new).transpose();
            let tid = last.and_then(|last| Tid::next_free(base, now_s, last));
            let tid = tid.map_err(|error| refusal(&error.into()))?;
            let request = IssueRequest { meter: config(&meter)?, tid, order };
            let number = module.issue(&request, now_s).map_err(|error| refusal(&error))?;
            meter.last_tid = Some(tid.value());
            let kind = if matches!(order, Order::Management { .. }) { "order" } else { "credit" };
            tokens.push(token(kind.to_owned(), number, Some(tid), meter.base_year));
        }
        Ok(IssuedTokens { tokens, meter })
    }
}

impl TokenIssuer for Vault {
    fn issue(&self, order: &TokenOrder<'_>) -> Result<IssuedTokens, Refusal> {
        let TokenOrder { meter, energy, money, rnd, at } = *order;
        let scheme = self.schemes.schemes().find(|scheme| scheme.id() == meter.scheme);
        let scheme = scheme.ok_or_else(|| {
            let hint = "give the meter the scheme sts or cts";
            vending("token_scheme_unknown", format!("no scheme {:?}", meter.scheme), hint)
        })?;
        let too_large = |error: sts::AmountError| {
            let hint = "sell it in several purchases";
            vending("token_amount_too_large", error.to_string(), hint)
        };
        let tenths = u32::try_from(energy.wh().div_ceil(WH_PER_STEP)).unwrap_or(u32::MAX);
        let sale = Sale {
            service: Service::Electricity,
            units: TransferAmount::from_units(tenths).map_err(too_large)?,
            money: CurrencyAmount::from_steps(steps(money)).map_err(too_large)?,
        };
        self.make(meter, Some(scheme.credit(&sale, Rnd::from_low_bits(rnd))), at)
    }
}

/// The change of a meter's key, where it is to hold another one, or the one it holds has another
/// expiry or base date by now. The meter then stands as after the change.
fn change_key(
    module: &SoftModule,
    meter: &mut TokenMeter,
    now_s: u64,
) -> Result<Vec<SoldToken>, Refusal> {
    let to = key_id(meter.to).map_err(|error| identity(&error))?;
    let attributes = module.attributes(to).map_err(|error| refusal(&error))?;
    let (ken, base_year) = (attributes.ken.0, attributes.base_date.year());
    let is_same = meter.known == meter.to && meter.ken == ken && meter.base_year == base_year;
    if is_same {
        return Ok(Vec::new());
    }
    let tells_group = meter.known.sgc != meter.to.sgc;
    let request = KeyChangeRequest {
        meter: config(meter)?,
        to,
        to_ti: TariffIndex::new(meter.to.ti).map_err(|error| identity(&error))?,
        group: if tells_group { GroupNotice::Told } else { GroupNotice::Silent },
    };
    let numbers = module.change_key(&request, now_s).map_err(|error| refusal(&error))?;
    if meter.base_year != base_year {
        meter.last_tid = None;
    }
    let old_year = meter.base_year;
    (meter.known, meter.ken, meter.base_year) = (meter.to, ken, base_year);
    let count = numbers.len();
    let section = |(index, number)| {
        token(format!("key_change_{}_of_{count}", index + 1), number, None, old_year)
    };
    Ok(numbers.into_iter().enumerate().map(section).collect())
}

fn token(kind: String, number: TokenNumber, tid: Option<Tid>, base_year: u16) -> SoldToken {
    SoldToken { kind, digits: format!("{number:#}"), tid: tid.map(Tid::value), base_year }
}

/// The settings of a meter as the vault takes them.
pub(crate) fn config(meter: &TokenMeter) -> Result<MeterConfig, Refusal> {
    let read = || -> Result<MeterConfig, IdentityError> {
        Ok(MeterConfig {
            pan: meter.pan.parse()?,
            ea: EncryptionAlgorithm::from_code(meter.ea)?,
            key: key_id(meter.known)?,
            ti: TariffIndex::new(meter.known.ti)?,
        })
    };
    read().map_err(|error| identity(&error))
}

pub(crate) fn key_id(key: KeySetting) -> Result<VendingKeyId, IdentityError> {
    Ok(VendingKeyId {
        sgc: SupplyGroupCode::new(key.sgc)?,
        kt: KeyType::from_code(key.kt)?,
        krn: KeyRevisionNumber::new(key.krn)?,
    })
}

pub(crate) fn identity(error: &IdentityError) -> Refusal {
    let hint = "correct the token settings; identifiers are on the meter's plate";
    vending("invalid_token_settings", error.to_string(), hint)
}

/// Why the vault makes no token; each reason has a code of its own.
pub(crate) fn refusal(error: &VaultError) -> Refusal {
    let (code, hint) = match error {
        VaultError::UnknownKey(_) => ("vending_key_unknown", "import the vending key first"),
        VaultError::NotActive { .. } | VaultError::IssueEnded(_) => {
            ("vending_key_not_active", "give the meter a key that is active")
        }
        VaultError::KeyExpired { .. } => ("vending_key_expired", "change the meter's key first"),
        VaultError::Limit { .. } => ("token_amount_too_large", "sell it in several purchases"),
        VaultError::CreditUnderDefaultKey => {
            ("default_key", "set a unique key in the meter's token settings")
        }
        VaultError::Tid(_) | VaultError::ReservedTid(_) => {
            ("token_identifier", "change to a vending key with a later base date")
        }
        VaultError::KeyType { .. } => ("key_type_order", "choose another key type"),
        VaultError::Derive(_) | VaultError::KeyChange(_) | VaultError::Refused(_) | _ => {
            ("token_refused", "check the meter's token settings and its vending key")
        }
    };
    vending(code, error.to_string(), hint)
}

pub(crate) fn vending(code: &'static str, reason: String, hint: &'static str) -> Refusal {
    Refusal::Vending { code, reason, hint }
}

/// Steps of 10⁻⁵ currency unit, rounded up for the customer.
fn steps(money: Money) -> i128 {
    let ticks = i128::from(money.ticks());
    ticks.div_euclid(TICKS_PER_STEP) + i128::from(ticks.rem_euclid(TICKS_PER_STEP) > 0)
}

const WH_PER_STEP: u64 = 100;
const TICKS_PER_STEP: i128 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    use meter::{Energy, MeterId};
    use proptest::prelude::*;
    use sts::{KeyExpiryNumber, TokenLimit, VendingKey};

    fn vault() -> Vault {
        let master = MasterKey::new([7; 32]);
        let mut module = SoftModule::open("test", master, Sta::sample(), "").unwrap();
        for (krn, ken) in [(1, 255), (2, 200)] {
            let attributes = KeyAttributes {
                id: key_id(setting(krn)).unwrap(),
                base_date: BaseDate::Base2014,
                ken: KeyExpiryNumber(ken),
                active_from_s: 0,
                active_until_s: u64::MAX,
                issued_until_s: u64::MAX,
                limit: TokenLimit { units: 10_000, currency: 10_000 },
            };
            let key = VendingKey::from_bytes(&[krn; 20]).unwrap();
            let check = module.propose("one", key, attributes, 0).unwrap();
            module.confirm("two", attributes.id, check, 0).unwrap();
        }
        Vault { module: Mutex::new(module), schemes: SchemeRegistry::new() }
    }

    const fn setting(krn: u8) -> KeySetting {
        KeySetting { sgc: 201_457, kt: 2, krn, ti: 1 }
    }

    fn meter() -> TokenMeter {
        TokenMeter {
            meter: MeterId(1),
            pan: "600727000000000009".to_owned(),
            scheme: "sts".to_owned(),
            ea: 7,
            known: setting(1),
            ken: 255,
            base_year: 2014,
            to: setting(1),
            last_tid: None,
            entry: storage::registry::TokenEntry::Keypad,
        }
    }

    fn sell(vault: &Vault, meter: &TokenMeter, at: u32) -> Result<IssuedTokens, Refusal> {
        let (energy, money) = (Energy::from_wh(25_640), Money::from_ticks(1));
        vault.issue(&TokenOrder { meter, energy, money, rnd: 5, at: UnixSeconds(at) })
    }

    const NOW: u32 = 1_790_000_000;

    #[test]
    fn a_changed_key_goes_in_front() {
        let vault = vault();
        let first = sell(&vault, &meter(), NOW).unwrap();
        assert_eq!(first.tokens.len(), 1);
        let marked = TokenMeter { to: setting(2), ..first.meter };
        let second = sell(&vault, &marked, NOW).unwrap();
        let kinds: Vec<&str> = second.tokens.iter().map(|t| t.kind.as_str()).collect();
        assert_eq!(kinds, ["key_change_1_of_2", "key_change_2_of_2", "credit"]);
        assert_eq!((second.meter.known.krn, second.meter.ken), (2, 200));
        // Rounded up to a tenth: 25.7 kWh, read with the new key.
        let number = second.tokens[2].digits.parse().unwrap();
        let read = vault.module().verify(&config(&second.meter).unwrap(), number).unwrap();
        assert!(matches!(read, sts::Token::Credit { amount, .. } if amount.units() == 257));
        assert!(sell(&vault, &second.meter, NOW).is_ok_and(|third| third.tokens.len() == 1));
    }

    #[test]
    fn refusals_have_codes_and_no_keys() {
        let vault = vault();
        let check = |meter: TokenMeter, want: &str| {
            let refusal = sell(&vault, &meter, NOW).unwrap_err();
            assert_eq!(refusal.code(), want, "{refusal}");
            assert!(!refusal.to_string().contains("0101"), "{refusal}");
        };
        check(TokenMeter { to: setting(3), ..meter() }, "vending_key_unknown");
        check(TokenMeter { scheme: "none".into(), ..meter() }, "token_scheme_unknown");
        check(TokenMeter { pan: "600727000000000008".into(), ..meter() }, "invalid_token_settings");
        check(TokenMeter { last_tid: Some(0xFF_FFFF), ..meter() }, "token_identifier");
    }

    proptest! {
        /// Sales at any instants, the clock going back too, with the process killed before or
        /// after the commit: what was committed never repeats an identifier.
        #[test]
        fn identifiers_are_unique_over_kills(steps in prop::collection::vec((0_u32..180, any::<bool>(), any::<bool>()), 1..60)) {
            let vault = vault();
            let mut committed = meter();
            let mut seen = std::collections::BTreeSet::new();
            let mut at = NOW;
            for (step, back, killed) in steps {
                at = if back { at.saturating_sub(step) } else { at + step };
                let issued = sell(&vault, &committed, at).unwrap();
                if killed {
                    // Nobody saw the token: neither it nor the identifier was committed.
                    continue;
                }
                let tid = issued.tokens.last().unwrap().tid.unwrap();
                prop_assert!(seen.insert(tid), "{tid} twice");
                committed = issued.meter;
            }
        }
    }
}
