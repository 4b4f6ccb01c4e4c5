//! The table of checks: what was wanted, what was found.

use std::fmt::{self, Display};

use serde::Serialize;

/// One line of the table.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Check {
    /// What was checked.
    pub(crate) name: String,
    /// Whether it holds.
    pub(crate) ok: bool,
    /// What was wanted.
    pub(crate) want: String,
    /// What was found.
    pub(crate) got: String,
}

/// All lines.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Checks(pub(crate) Vec<Check>);

impl Checks {
    /// Adds a line: `want` and `got` must print the same.
    pub(crate) fn equal(&mut self, name: &str, want: impl Display, got: impl Display) {
        let (want, got) = (want.to_string(), got.to_string());
        self.0.push(Check { name: name.to_owned(), ok: want == got, want, got });
    }

    /// Adds a line for many pairs of a key, what was wanted of it and what was found; shows the
    /// count, and the first that differ.
    pub(crate) fn each<W: Display + PartialEq<G>, G: Display>(
        &mut self,
        name: &str,
        rows: impl IntoIterator<Item = (String, W, Option<G>)>,
    ) {
        let (mut right, mut total, mut wrong) = (0_usize, 0_usize, Vec::new());
        for (key, want, got) in rows {
            total += 1;
            match got {
                Some(got) if want == got => right += 1,
                Some(got) => wrong.push(format!("{key}: {got} instead of {want}")),
                None => wrong.push(format!("{key}: nothing instead of {want}")),
            }
        }
        wrong.truncate(3);
        let got = match wrong.is_empty() {
            true => format!("{right} equal"),
            false => format!("{right} equal; {}", wrong.join("; ")),
        };
        let (want, ok) = (format!("{total} equal"), wrong.is_empty() && total > 0);
        self.0.push(Check { name: name.to_owned(), ok, want, got });
    }

    /// Whether all hold, and there are any.
    #[must_use]
    pub(crate) fn hold(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|check| check.ok)
    }
}

impl Display for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|check| check.name.len()).max().unwrap_or_default();
        for Check { name, ok, want, got } in &self.0 {
            let mark = if *ok { '✓' } else { '✗' };
            write!(f, "  {mark} {name:width$}  {got}")?;
            if want != got {
                write!(f, "  (wanted {want})")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_differs() {
        let mut checks = Checks::default();
        assert!(!checks.hold(), "no checks prove nothing");
        checks.equal("count", 3, 3);
        checks.each("each", [("a".to_owned(), 1, Some(1)), ("b".to_owned(), 2, Some(2))]);
        assert!(checks.hold(), "{checks}");
        checks.each("bad", [("a".to_owned(), 1, Some(2)), ("b".to_owned(), 2, None)]);
        assert!(!checks.hold());
        let text = checks.to_string();
        assert!(text.contains("✗ bad"), "{text}");
        assert!(text.contains("a: 2 instead of 1; b: nothing instead of 2"), "{text}");
    }
}
