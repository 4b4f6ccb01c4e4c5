//! Instants in UTC as text, `2014-03-01T13:00:00Z`, from 1970 to 2199.

/// Seconds since 1970 of an instant in text; `None` when it does not read.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    if !YEARS.contains(&year) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let month_index = usize::try_from(month.checked_sub(1)?).ok()?;
    let months = months(year);
    if day == 0 || day > *months.get(month_index)? {
        return None;
    }
    let years: u64 = (YEARS.start..year).map(days_in).sum();
    let before: u64 = months.iter().take(month_index).sum();
    let days = years.checked_add(before)?.checked_add(day)?.checked_sub(1)?;
    let hours = days.checked_mul(24)?.checked_add(hour)?;
    hours.checked_mul(60)?.checked_add(minute)?.checked_mul(60)?.checked_add(second)
}

/// The text of an instant; `None` past the last year.
#[must_use]
pub fn format(at_s: u64) -> Option<String> {
    let mut days = at_s / DAY_S;
    let mut year = YEARS.start;
    while days >= days_in(year) {
        days = days.saturating_sub(days_in(year));
        year = year.saturating_add(1);
        if !YEARS.contains(&year) {
            return None;
        }
    }
    let mut month = 1_u32;
    for length in months(year) {
        if days < length {
            break;
        }
        days = days.saturating_sub(length);
        month = month.saturating_add(1);
    }
    let day = days.saturating_add(1);
    let (hour, minute, second) = (at_s % DAY_S / 3_600, at_s % 3_600 / 60, at_s % 60);
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"))
}

fn numbers(text: &str, mark: char) -> Option<[u64; 3]> {
    let parts: Option<Vec<u64>> = text.split(mark).map(|part| part.parse().ok()).collect();
    parts?.try_into().ok()
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

const fn days_in(year: u64) -> u64 {
    if is_leap(year) { 366 } else { 365 }
}

const fn months(year: u64) -> [u64; 12] {
    let february = if is_leap(year) { 29 } else { 28 };
    [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
}

const YEARS: std::ops::Range<u64> = 1970..2200;
const DAY_S: u64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Option<u64>) {
        assert_eq!(parse(text), want, "{text}");
        if let Some(at_s) = want {
            assert_eq!(format(at_s).as_deref(), Some(text));
        }
    }

    #[test]
    fn instants() {
        check("1970-01-01T00:00:00Z", Some(0));
        check("2004-02-29T13:55:00Z", Some(1_078_062_900));
        check("2014-03-01T13:00:00Z", Some(1_393_678_800));
        check("2066-11-24T20:15:59Z", Some(3_057_855_359));
        for bad in [
            "",
            "2014-03-01",
            "2014-03-01T13:00:00",
            "2014-13-01T13:00:00Z",
            "2013-02-29T00:00:00Z",
            "2014-00-01T00:00:00Z",
            "2014-01-00T00:00:00Z",
            "2014-01-01T24:00:00Z",
            "1969-01-01T00:00:00Z",
            "9999999-01-01T00:00:00Z",
        ] {
            check(bad, None);
        }
        assert_eq!(format(u64::MAX), None);
    }

    proptest::proptest! {
        #[test]
        fn text_round_trips(at_s in 0_u64..7_258_118_400) {
            proptest::prop_assert_eq!(parse(&format(at_s).unwrap()), Some(at_s));
        }
    }
}
