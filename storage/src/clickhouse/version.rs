//! Which ClickHouse we talk to, and what it can do. One line between old and new suffices: below
//! it the product uses only what Debian's 18.16 has, above it what makes storage smaller and
//! replays cheaper. Nothing is sent that a server might not know: an unknown setting is an error.

use std::fmt;

/// A server's version, `year.month`, as in `26.7`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion {
    /// Year of the release, without century.
    pub year: u32,
    /// Release of that year.
    pub release: u32,
}

impl ServerVersion {
    /// The oldest that is supported: what Debian ships.
    pub const OLDEST: Self = Self { year: 18, release: 16 };
    /// From here on codecs, TTL, LowCardinality, deduplication tokens are all there.
    const MODERN: Self = Self { year: 22, release: 8 };

    /// Reads what `SELECT version()` says: `26.7.2.1`, `18.16.1`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.');
        let mut number = || parts.next()?.parse().ok();
        Some(Self { year: number()?, release: number()? })
    }

    /// What this server understands.
    pub fn dialect(self) -> Dialect {
        if self < Self::MODERN { Dialect::Portable } else { Dialect::Modern }
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.year, self.release)
    }
}

/// What a server understands beyond the portable subset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Only the subset that 18.16 has.
    Portable,
    /// Codecs, TTL, LowCardinality, deduplication tokens.
    Modern,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_decide_the_dialect() {
        for (text, want) in [
            ("18.16.1", Some(Dialect::Portable)),
            ("22.3.20.29", Some(Dialect::Portable)),
            ("22.8.1.1", Some(Dialect::Modern)),
            ("26.7.2.1\n", Some(Dialect::Modern)),
            ("100.1", Some(Dialect::Modern)),
            ("", None),
            ("26", None),
            ("v26.7", None),
        ] {
            assert_eq!(ServerVersion::parse(text).map(ServerVersion::dialect), want, "{text:?}");
        }
    }
}
