//! Tokens: derive a meter's key and issue, and derive and decode, on one core.
//!
//! Sketch: DKGA04 is two SHA-256 blocks (about 150 ns each), EA07 16 rounds of 16 look-ups (about
//! 300 ns), EA11 a key schedule and 8 rounds (about 150 ns): 1 to 2 million a second. Hardware
//! modules make about 83 a second (5,000 a minute, a vendor's figure).
#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::time::Instant;

use sts::{
    BaseDate, EncryptionAlgorithm, IssueRequest, KeyAttributes, KeyExpiryNumber, KeyRevisionNumber,
    KeyType, MasterKey, MeterConfig, MeterPan, Order, Rnd, SecurityModule as _, Service,
    SoftModule, Sta, SupplyGroupCode, TariffIndex, Tid, TokenLimit, TokenNumber, TransferAmount,
    VendingKey, VendingKeyId,
};

/// Each figure is the median of so many runs.
const RUNS: usize = 5;
/// 2026-11-22T00:00:00Z.
const NOW_S: u64 = 1_795_305_600;

/// What one way took.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Which way.
    pub name: &'static str,
    /// Tokens a second.
    pub rate: f64,
    /// What it must be at least.
    pub must: f64,
}

/// Issues and decodes `count` tokens, each for another meter and with its key derived anew.
///
/// # Panics
/// When a token does not read as what was ordered.
#[must_use]
pub fn run(count: usize) -> Vec<Figure> {
    let module = module();
    let meters = meters(count);
    let mut figures = Vec::new();
    for (ea, must, names) in [
        (EncryptionAlgorithm::Ea07, 5e5, ["tokens_ea07_issue", "tokens_ea07_decode"]),
        (EncryptionAlgorithm::Ea11, 1e6, ["tokens_ea11_issue", "tokens_ea11_decode"]),
    ] {
        let mut numbers = Vec::new();
        let issue = median(|| {
            let start = Instant::now();
            numbers = meters.iter().map(|pan| issue(&module, config(*pan, ea))).collect();
            start.elapsed().as_secs_f64()
        });
        let decode = median(|| {
            let start = Instant::now();
            for (pan, number) in meters.iter().zip(&numbers) {
                let token = module.verify(&config(*pan, ea), *number).expect("it was issued");
                assert!(token.tid().is_some());
            }
            start.elapsed().as_secs_f64()
        });
        let rate = |seconds: f64| count as f64 / seconds;
        figures.push(Figure { name: names[0], rate: rate(issue), must });
        figures.push(Figure { name: names[1], rate: rate(decode), must });
    }
    figures
}

fn issue(module: &SoftModule, meter: MeterConfig) -> TokenNumber {
    let order = Order::Credit {
        service: Service::Electricity,
        amount: TransferAmount::from_units(256).expect("it has a code"),
        rnd: Rnd::from_low_bits(5),
    };
    let tid = Tid::at(BaseDate::Base2014, NOW_S).expect("the base date reaches it");
    module.issue(&IssueRequest { meter, tid, order }, NOW_S).expect("the key allows it")
}

fn module() -> SoftModule {
    let mut module = SoftModule::open("bench", MasterKey::new([7; 32]), Sta::production(), "")
        .expect("an empty trail");
    let attributes = KeyAttributes {
        id: key(),
        base_date: BaseDate::Base2014,
        ken: KeyExpiryNumber::NEVER,
        active_from_s: 0,
        active_until_s: u64::MAX,
        issued_until_s: u64::MAX,
        limit: TokenLimit { units: u32::MAX, currency: u32::MAX },
    };
    let secret = VendingKey::from_bytes(&[0xAB; 20]).expect("20 bytes");
    let check = module.propose("one", secret, attributes, 0).expect("a good key");
    module.confirm("two", key(), check, 0).expect("its check value");
    module
}

fn key() -> VendingKeyId {
    VendingKeyId {
        sgc: SupplyGroupCode::new(201_457).expect("6 digits"),
        kt: KeyType::Unique,
        krn: KeyRevisionNumber::new(1).expect("1 to 9"),
    }
}

fn config(pan: MeterPan, ea: EncryptionAlgorithm) -> MeterConfig {
    MeterConfig { pan, ea, key: key(), ti: TariffIndex::new(1).expect("2 digits") }
}

/// So many meters, each with its own number.
fn meters(count: usize) -> Vec<MeterPan> {
    let pan = |index: usize| {
        let drn = sts::Drn::with_check_digit(&format!("07{index:08}")).expect("10 digits");
        MeterPan::of(&drn)
    };
    (0..count).map(pan).collect()
}

fn median(mut run: impl FnMut() -> f64) -> f64 {
    let mut seconds: Vec<f64> = (0..RUNS).map(|_| run()).collect();
    seconds.sort_by(f64::total_cmp);
    seconds[RUNS / 2]
}
