//! Limits that strangers run into: failed authentications by source, connections and sessions of
//! the whole node, open files of the process.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What one source may get wrong. A token bucket: full at `burst`, refilled with `per_s` tokens a
/// second, one token spent for each failure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FailureLimit {
    /// Failures in a row that are borne.
    pub burst: u32,
    /// Failures a second that are borne for ever.
    pub per_s: u32,
}

/// Token buckets of sources that failed of late, in a table of fixed size. A source that is not in
/// it has a full bucket; when a set of the table is full, the bucket touched longest ago is
/// forgotten, so that a flood of made-up sources makes the node lenient and nothing else.
#[derive(Debug)]
pub(crate) struct FailureTable {
    limit: FailureLimit,
    buckets: Box<[[Bucket; WAYS]]>,
    /// No bucket is empty from here on; spares the look-up while nobody is limited.
    clear_from: Duration,
}

const WAYS: usize = 4;
const SETS: usize = 1024;
const MILLI: u64 = 1000;

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    source: u64,
    /// Thousandths of a token at `touched`.
    tokens_milli: u64,
    touched: Duration,
}

impl FailureTable {
    pub(crate) fn new(limit: FailureLimit) -> Self {
        let buckets = vec![[Bucket::default(); WAYS]; SETS].into_boxed_slice();
        Self { limit, buckets, clear_from: Duration::ZERO }
    }

    /// Whether this source has failed too often of late.
    pub(crate) fn is_limited(&self, source: Source, now: Duration) -> bool {
        now < self.clear_from
            && self
                .set(source)
                .iter()
                .find(|bucket| bucket.source == source.0)
                .is_some_and(|bucket| self.tokens_milli(bucket, now) < MILLI)
    }

    /// Notes a failure.
    pub(crate) fn failed(&mut self, source: Source, now: Duration) {
        let set = self.set(source);
        let known = set.iter().position(|bucket| bucket.source == source.0);
        let oldest = || (0..WAYS).min_by_key(|way| set[*way].touched).unwrap_or(0);
        let way = known.unwrap_or_else(oldest);
        let before = match known {
            Some(way) => self.tokens_milli(&set[way], now),
            None => u64::from(self.limit.burst) * MILLI,
        };
        let tokens_milli = before.saturating_sub(MILLI);
        if tokens_milli < MILLI {
            let wait_ms = match self.limit.per_s {
                0 => u64::MAX,
                per_s => (MILLI - tokens_milli).div_ceil(u64::from(per_s)),
            };
            let clear = now.saturating_add(Duration::from_millis(wait_ms));
            self.clear_from = self.clear_from.max(clear);
        }
        self.buckets[source.set()][way] = Bucket { source: source.0, tokens_milli, touched: now };
    }

    fn set(&self, source: Source) -> &[Bucket; WAYS] {
        &self.buckets[source.set()]
    }

    fn tokens_milli(&self, bucket: &Bucket, now: Duration) -> u64 {
        let waited_ms = u64::try_from(now.saturating_sub(bucket.touched).as_millis());
        let gained = waited_ms.unwrap_or(u64::MAX).saturating_mul(u64::from(self.limit.per_s));
        bucket.tokens_milli.saturating_add(gained).min(u64::from(self.limit.burst) * MILLI)
    }
}

/// Digest of where something came from. An attacker who finds a collision shares a bucket with his
/// victim; he could as well forge the victim's address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Source(u64);

impl Source {
    /// Address and port: what a datagram claims. Behind one address translation stand many honest
    /// meters, so they are told apart by port.
    pub(crate) fn of_datagram(from: SocketAddr) -> Self {
        Self::digest(from.ip(), u64::from(from.port()))
    }

    /// The address alone: what a connection proves. Of an IPv6 address the network counts.
    pub(crate) fn of_connection(from: SocketAddr) -> Self {
        Self::digest(from.ip(), 1 << 16)
    }

    /// 32 bits of it, never 0.
    pub(crate) const fn short(self) -> u32 {
        (self.0 >> 32) as u32 | 1
    }

    fn digest(address: IpAddr, salt: u64) -> Self {
        let bits = match address {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => u64::from(v4.to_bits()),
                None => (v6.to_bits() >> 64) as u64,
            },
        };
        let mixed = (bits ^ salt << 40 ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self((mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) | 1)
    }

    const fn set(self) -> usize {
        (self.0 >> 20) as usize % SETS
    }
}

/// A count with a limit, shared by the shards.
#[derive(Debug)]
pub(crate) struct Quota {
    used: AtomicU32,
    max: u32,
}

impl Quota {
    pub(crate) const fn new(max: u32) -> Self {
        Self { used: AtomicU32::new(0), max }
    }

    /// Takes one of the quota; whether there was one left. Relaxed: only the count matters.
    pub(crate) fn take(&self) -> bool {
        let more = |used| (used < self.max).then_some(used + 1);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    pub(crate) fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8, port: u16) -> Source {
        Source::of_datagram(SocketAddr::from(([10, 0, 0, last], port)))
    }

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_source_is_limited_after_its_burst_and_recovers() {
        let mut table = FailureTable::new(FailureLimit { burst: 3, per_s: 2 });
        let (bad, good) = (source(1, 1000), source(1, 1001));
        for _ in 0..3 {
            assert!(!table.is_limited(bad, ms(1000)));
            table.failed(bad, ms(1000));
        }
        assert!(table.is_limited(bad, ms(1000)));
        assert!(!table.is_limited(good, ms(1000)));
        assert!(table.is_limited(bad, ms(1499)));
        assert!(!table.is_limited(bad, ms(1500)));
        table.failed(bad, ms(1500));
        assert!(table.is_limited(bad, ms(1501)));
        assert!(!table.is_limited(bad, ms(9000)));
    }

    #[test]
    fn a_flood_of_sources_forgets_the_oldest_and_stays_in_its_table() {
        let mut table = FailureTable::new(FailureLimit { burst: 1, per_s: 1 });
        for port in 0..60_000 {
            table.failed(source(2, port), ms(1000 + u64::from(port)));
        }
        let limited = (0..60_000).filter(|port| table.is_limited(source(2, *port), ms(61_000)));
        assert!((1..=SETS * WAYS).contains(&limited.count()));
    }

    #[test]
    fn sources() {
        let connection = |text: &str| Source::of_connection(text.parse().unwrap());
        assert_eq!(connection("10.0.0.1:5"), connection("10.0.0.1:6"));
        assert_eq!(connection("[::ffff:10.0.0.1]:5"), connection("10.0.0.1:5"));
        assert_eq!(connection("[2001:db8::1]:5"), connection("[2001:db8::2]:5"));
        assert_ne!(connection("[2001:db8::1]:5"), connection("[2001:db8:0:1::1]:5"));
        assert_ne!(source(1, 5), source(1, 6));
        assert_ne!(source(1, 5), source(2, 5));
    }

    #[test]
    fn a_quota_holds() {
        let quota = Quota::new(2);
        assert!(quota.take() && quota.take() && !quota.take());
        quota.give_back();
        assert_eq!(quota.used(), 1);
        assert!(quota.take());
    }
}
