//! Which settings of a request reach the engine: a list of harmless ones for all, and bounds
//! that a reader can lower but not raise.

use super::EngineLimits;
use super::failure::{Failure, code};
use super::request::Role;

/// What everyone starts with. Versions of a row lie in one month, as its key tells the month: what
/// is merged already need not be merged again for FINAL.
pub(super) const DEFAULTS: &[(&str, &str)] =
    &[("do_not_merge_across_partitions_select_final", "1")];

/// Accepted from everyone, value unchanged.
const PLAIN: &[&str] = &[
    "any_join_distinct_right_table_keys",
    "cast_string_to_dynamic_use_inference",
    "date_time_input_format",
    "date_time_output_format",
    "describe_include_subcolumns",
    "distinct_overflow_mode",
    "do_not_merge_across_partitions_select_final",
    "enable_analyzer",
    "extremes",
    "final",
    "group_by_overflow_mode",
    "insert_deduplicate",
    "insert_deduplication_token",
    "join_algorithm",
    "join_default_strictness",
    "join_use_nulls",
    "limit",
    "max_block_size",
    "max_insert_block_size",
    "min_insert_block_size_bytes",
    "min_insert_block_size_rows",
    "mutations_sync",
    "offset",
    "optimize_move_to_prewhere",
    "prefer_column_name_to_alias",
    "priority",
    "read_overflow_mode",
    "result_overflow_mode",
    "session_timezone",
    "timeout_overflow_mode",
    "totals_mode",
    "union_default_mode",
    "use_skip_indexes",
];

/// Families accepted from everyone.
const PREFIXES: &[&str] = &["input_format_", "output_format_", "format_"];

/// Members of the families that name files.
const NAMES_FILES: &[&str] = &["output_format_schema", "format_schema", "format_template"];

/// Sent by clients, without meaning here: the engine's own value stands.
const IGNORED: &[&str] = &[
    "allow_experimental_analyzer",
    "async_insert",
    "http_write_exception_in_output_format",
    "log_comment",
    "log_queries",
    "readonly",
    "wait_for_async_insert",
];

/// One setting of a request: the value to set, or nothing.
///
/// # Errors
/// Unknown (115) or, for a reader's bound, no number (36).
pub(super) fn accept(
    role: Role,
    limits: &EngineLimits,
    name: &str,
    value: &str,
) -> Result<Option<String>, Failure> {
    let unknown = || {
        let what =
            format_args!("setting {name} is not known or cannot be set on the embedded engine");
        Err(Failure::new(code::UNKNOWN_SETTING, what))
    };
    // Names go into a SET as they are: anything but a plain word would be SQL.
    if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    {
        return unknown();
    }
    if IGNORED.contains(&name) {
        return Ok(None);
    }
    if let Some(bound) = bound(limits, name) {
        return match role {
            Role::Writer => Ok(Some(value.to_owned())),
            Role::Reader => clamp(name, value, bound).map(Some),
        };
    }
    let known = PLAIN.contains(&name)
        || (PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            && !NAMES_FILES.iter().any(|prefix| name.starts_with(prefix)));
    if known { Ok(Some(value.to_owned())) } else { unknown() }
}

/// What each reader starts with.
pub(super) fn reader_defaults(limits: &EngineLimits) -> Vec<(&'static str, String)> {
    BOUNDED.iter().filter_map(|&name| Some((name, bound(limits, name)?.to_string()))).collect()
}

/// The settings that [`bound`] knows.
const BOUNDED: &[&str] = &[
    "max_execution_time",
    "max_memory_usage",
    "max_rows_to_read",
    "max_result_rows",
    "max_result_bytes",
    "max_threads",
];

fn bound(limits: &EngineLimits, name: &str) -> Option<u64> {
    match name {
        "max_execution_time" => Some(u64::from(limits.reader_duration_s_max)),
        "max_memory_usage" => Some(limits.reader_memory_bytes_max),
        "max_rows_to_read" | "max_result_rows" => Some(limits.reader_rows_max),
        "max_result_bytes" => Some(limits.reader_result_bytes_max),
        "max_threads" => Some(u64::from(limits.reader_threads_max)),
        _ => None,
    }
}

/// A reader's value, at most the bound; 0 means "no limit" to the engine, so it is the bound.
fn clamp(name: &str, value: &str, bound: u64) -> Result<String, Failure> {
    // A decimal part (`max_execution_time=2.5`) is cut off: a bound may be lower, not higher.
    let digits = value.split_once('.').map_or(value, |(whole, _)| whole);
    let asked: u64 = digits.parse().map_err(|_| {
        Failure::new(code::BAD_ARGUMENTS, format_args!("setting {name} = '{value}' is no number"))
    })?;
    Ok((if asked == 0 { bound } else { asked.min(bound) }).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(role: Role, name: &str, value: &str, want: Result<Option<&str>, u16>) {
        let got = accept(role, &EngineLimits::SMALL, name, value);
        let got = got.as_ref().map(Option::as_deref).map_err(|failure| failure.code);
        assert_eq!(got, want, "{role:?} {name}={value}");
    }

    #[test]
    fn readers_lower_bounds_and_never_raise_them() {
        check(Role::Reader, "max_threads", "1", Ok(Some("1")));
        check(Role::Reader, "max_threads", "64", Ok(Some("2")));
        check(Role::Reader, "max_threads", "0", Ok(Some("2")));
        check(Role::Writer, "max_threads", "64", Ok(Some("64")));
        check(Role::Reader, "max_execution_time", "2.5", Ok(Some("2")));
        check(Role::Reader, "max_memory_usage", "-1", Err(36));
        check(Role::Reader, "max_memory_usage", "90000000000", Ok(Some("1073741824")));
        check(Role::Reader, "join_use_nulls", "1", Ok(Some("1")));
        check(Role::Reader, "async_insert", "1", Ok(None));
        check(Role::Reader, "readonly", "0", Ok(None));
        check(Role::Reader, "output_format_json_quote_64bit_integers", "0", Ok(Some("0")));
        check(Role::Reader, "output_format_schema", "/tmp/x", Err(115));
        check(Role::Writer, "format_schema", "x", Err(115));
        check(Role::Writer, "dialect", "prql", Err(115));
        check(Role::Reader, "param", "x", Err(115));
        check(Role::Reader, "format_x = 1, max_memory_usage", "0", Err(115));
    }
}
