//! OBIS codes: six value groups that name what a value is.

use std::fmt;

/// An OBIS code, A to F; shown as `1-0:1.8.0.255`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Obis(pub [u8; 6]);

impl Obis {
    /// Parses `1.0.1.8.0.255` or `1-0:1.8.0.255`; a missing F is 255.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut groups = [0, 0, 0, 0, 0, 255];
        let mut count = 0;
        for part in text.split(['.', '-', ':']) {
            *groups.get_mut(count)? = part.parse().ok()?;
            count = count.saturating_add(1);
        }
        (count >= 5).then_some(Self(groups))
    }

    /// The code without its channel (group B set to 0): meters disagree on B for the same value.
    #[must_use]
    pub const fn channel_free(self) -> Self {
        let Self([a, _, c, d, e, f]) = self;
        Self([a, 0, c, d, e, f])
    }
}

impl fmt::Display for Obis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self([a, b, c, d, e, g]) = self;
        write!(f, "{a}-{b}:{c}.{d}.{e}.{g}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_cases() {
        let register = Some(Obis([1, 0, 1, 8, 0, 255]));
        for (text, want) in [
            ("1.0.1.8.0.255", register),
            ("1-0:1.8.0.255", register),
            ("1-0:1.8.0", register),
            ("1.0.1.8", None),
            ("1.0.1.8.0.255.1", None),
            ("1.0.1.8.0.256", None),
            ("", None),
        ] {
            assert_eq!(Obis::parse(text), want, "{text}");
        }
        assert_eq!(Obis([1, 1, 1, 8, 0, 255]).channel_free(), Obis([1, 0, 1, 8, 0, 255]));
        assert_eq!(Obis([1, 1, 1, 8, 0, 255]).to_string(), "1-1:1.8.0.255");
    }
}
