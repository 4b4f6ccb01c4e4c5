//! Commands: what a meter is told to do, and what came of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Relay;

/// What a meter is told to do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Open the supply relay (disconnect control, class 70, method 1), then read it back.
    Disconnect,
    /// Close the supply relay, or let the customer close it (method 2), then read it back.
    Reconnect,
    /// Read the relay's state (class 70, attribute 3).
    ReadRelay,
    /// Enter a token (token gateway, class 115, method 1), then read its status.
    Token(TokenDigits),
}

/// A token as it is typed: 20 decimal digits. Worth money: `Debug` shows the last four only.
#[derive(Clone, Copy, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenDigits([u8; 20]);

/// The state of disconnect control (class 70, attribute 3).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlState {
    /// 0: the relay is open.
    Disconnected,
    /// 1: the relay is closed.
    Connected,
    /// 2: the relay is open, and the customer may close it.
    ReadyForReconnection,
}

/// What came of a command, told by the meter itself or, where it was never reached, by the node.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum CommandOutcome {
    /// The relay's state, read after the command.
    Relay {
        /// The state read.
        state: ControlState,
    },
    /// The token gateway's status (class 115, attribute 6).
    Token {
        /// 0 to 3: format, authentication, validation, execution good; 4 to 7 the same failed;
        /// 8 received and not processed yet.
        status: u8,
        /// The status' data value: the first up to 32 bits of it. Virtual meters put the STS
        /// result there.
        data: u32,
        /// Whether the token was sent before without an answer and had to be entered again: a
        /// status "used" then means that the first entry was taken.
        entered_again: bool,
    },
    /// The meter refused, on an association that it had proven.
    Refused {
        /// Action result or data access result: 1 hardware fault, 2 temporary failure, 3 access
        /// denied, 4 object undefined, 250 other.
        code: u8,
    },
    /// The command expired before the meter answered. It may have been carried out all the same
    /// when `sent` is true: read the state.
    Expired {
        /// Whether a request that changes something was sent.
        sent: bool,
    },
    /// The command was withdrawn before anything was sent.
    Withdrawn,
}

impl TokenDigits {
    /// Twenty decimal digits in ASCII; `None` for anything else.
    #[must_use]
    pub fn new(digits: [u8; 20]) -> Option<Self> {
        digits.iter().all(u8::is_ascii_digit).then_some(Self(digits))
    }

    /// The digits in ASCII.
    #[must_use]
    pub const fn ascii(&self) -> &[u8; 20] {
        &self.0
    }
}

impl TryFrom<String> for TokenDigits {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.as_bytes().try_into().ok();
        digits.and_then(Self::new).ok_or("a token has 20 decimal digits")
    }
}

impl From<TokenDigits> for String {
    fn from(TokenDigits(digits): TokenDigits) -> Self {
        digits.into_iter().map(char::from).collect()
    }
}

impl fmt::Debug for TokenDigits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [.., a, b, c, d] = self.0.map(char::from);
        write!(f, "TokenDigits(…{a}{b}{c}{d})")
    }
}

impl Command {
    /// Its name in the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Disconnect => "disconnect",
            Self::Reconnect => "reconnect",
            Self::ReadRelay => "read_relay",
            Self::Token(_) => "token",
        }
    }
}

impl ControlState {
    /// The state with this code.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Disconnected),
            1 => Some(Self::Connected),
            2 => Some(Self::ReadyForReconnection),
            _ => None,
        }
    }

    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::Connected => "connected",
            Self::ReadyForReconnection => "ready_for_reconnection",
        }
    }

    /// Its code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Disconnected => 0,
            Self::Connected => 1,
            Self::ReadyForReconnection => 2,
        }
    }

    /// Whether current can flow.
    #[must_use]
    pub const fn relay(self) -> Relay {
        match self {
            Self::Connected => Relay::Closed,
            Self::Disconnected | Self::ReadyForReconnection => Relay::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_masked_and_has_twenty_digits() {
        let token = TokenDigits::new(*b"12345678901234567890").unwrap();
        assert_eq!(format!("{:?}", Command::Token(token)), "Token(TokenDigits(…7890))");
        assert_eq!(TokenDigits::new(*b"1234567890123456789x"), None);
        let json = serde_json::to_string(&Command::Token(token)).unwrap();
        assert_eq!(json, r#"{"token":"12345678901234567890"}"#);
        assert_eq!(serde_json::from_str::<Command>(&json).unwrap(), Command::Token(token));
        assert!(serde_json::from_str::<Command>(r#"{"token":"123"}"#).is_err());
    }

    #[test]
    fn control_states_have_their_codes() {
        for code in 0..3 {
            assert_eq!(ControlState::from_code(code).map(ControlState::code), Some(code));
        }
        assert_eq!(ControlState::from_code(3), None);
        assert_eq!(ControlState::ReadyForReconnection.relay(), Relay::Open);
    }
}
