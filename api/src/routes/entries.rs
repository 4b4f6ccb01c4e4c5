//! Remote entry: what became of the tokens of a sale or an order on their way into the meter, in the
//! words of STS.

use meter::CommandOutcome;
use serde::Serialize;
use storage::registry::CommandRow;
use sts::meter::ResultCode;
use utoipa::ToSchema;

use crate::json::Instant;

/// A token on its way into the meter.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EntryView {
    /// Which token: `credit`, `order`, or `key_change_N_of_M`.
    kind: String,
    /// The command that carries it.
    command: u64,
    attempts: u32,
    /// `waiting`, `taken`, `received` (the meter has not processed it yet), `refused`, `expired` or
    /// `withdrawn`.
    state: &'static str,
    /// The meter's result in the words of STS: `accept`, `used`, `old`, `crc`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    result: Option<&'static str>,
    /// Of an expired entry: whether the meter may have taken the token all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    may_have_acted: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    ended_at: Option<Instant>,
}

impl EntryView {
    pub(super) fn of(kind: &str, command: &CommandRow) -> Self {
        let outcome = command.ended.map(|(outcome, _)| outcome);
        let (state, result) = outcome.map_or(("waiting", None), told);
        let may_have_acted = match outcome {
            Some(CommandOutcome::Expired { sent }) => Some(sent),
            _ => None,
        };
        Self {
            kind: kind.to_owned(),
            command: command.id.0,
            attempts: command.attempts,
            state,
            result,
            may_have_acted,
            ended_at: command.ended.map(|(_, at)| Instant(at)),
        }
    }
}

/// The state of an entry and the meter's result. The status of the token gateway says whether the
/// token was taken; the STS result beside it says why not.
fn told(outcome: CommandOutcome) -> (&'static str, Option<&'static str>) {
    match outcome {
        CommandOutcome::Token { status, data, entered_again } => {
            let code = u8::try_from(data).ok().and_then(ResultCode::from_number);
            if entered_again && code == Some(ResultCode::Used) {
                // The first entry, whose answer was lost, is the one that counts.
                return ("taken", Some(ResultCode::Accept.name()));
            }
            let state = match status {
                0..=3 => "taken",
                8 => "received",
                _ => "refused",
            };
            let by_status = match status {
                4 => Some("format"),
                5 => Some("authentication"),
                6 => Some("validation"),
                7 => Some("execution"),
                _ => None,
            };
            (state, code.map(ResultCode::name).or(by_status))
        }
        // The association was good; the meter has no token gateway, or denies it.
        CommandOutcome::Refused { .. } => ("refused", Some("function")),
        CommandOutcome::Expired { .. } => ("expired", None),
        CommandOutcome::Withdrawn => ("withdrawn", None),
        // No answer to a token; it is shown as it came.
        CommandOutcome::Relay { .. } => ("refused", None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_read_as_results_of_the_standard() {
        let token =
            |status, data, entered_again| CommandOutcome::Token { status, data, entered_again };
        let check = |outcome, want| assert_eq!(told(outcome), want, "{outcome:?}");
        check(token(3, 1, false), ("taken", Some("accept")));
        check(token(3, 2, false), ("taken", Some("first_key_change_token")));
        check(token(3, 0, false), ("taken", None));
        check(token(6, 10, false), ("refused", Some("used")));
        check(token(6, 10, true), ("taken", Some("accept")));
        check(token(6, 9, true), ("refused", Some("old")));
        check(token(5, 13, false), ("refused", Some("crc")));
        check(token(7, 4, false), ("refused", Some("overflow")));
        check(token(6, 999, false), ("refused", Some("validation")));
        check(token(8, 0, false), ("received", None));
        check(CommandOutcome::Refused { code: 4 }, ("refused", Some("function")));
        check(CommandOutcome::Expired { sent: true }, ("expired", None));
    }
}
