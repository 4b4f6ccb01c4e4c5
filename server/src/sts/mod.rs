//! `meterd sts`: tokens of IEC 62055-41 on the command line, one file a noun.
//!
//! **Invariant:** a key that came by option, file or environment is never printed, neither in
//! answers nor in errors; only `derive --show-key` shows the key it derived.

mod conformance;
mod decode;
mod derive;
mod encode;
mod explain;
mod keychange;
mod keypad;
mod keys;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use sts::{
    AmountError, ContentError, DeriveError, IdentityError, KeyChangeError, KeyError, NumberError,
    TidError, VaultError,
};
use thiserror::Error;

pub use conformance::Conformance;
pub use decode::Decode;
pub use derive::Derive;
pub use encode::Encode;
pub use explain::Explain;
pub use keychange::Keychange;
pub use keypad::Keypad;

/// `meterd sts`.
#[derive(Debug, Subcommand)]
pub enum StsCommand {
    /// Make a token and print its 20 digits.
    Encode(Encode),
    /// Say what a token carries, as a line of JSON; exit code 3 when it is no token for this key.
    Decode(Decode),
    /// Derive a meter's key and print its check value.
    Derive(Derive),
    /// Make the tokens that bring a meter another key.
    Keychange(Keychange),
    /// Print every step from 20 digits to their meaning.
    Explain(Explain),
    /// Check vectors; exit code 3 when a row fails.
    Conformance(Conformance),
    /// Type tokens into a virtual meter that lives in a file.
    Keypad(Keypad),
}

/// Why a command of `meterd sts` ends. No variant holds a byte of a key.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StsError {
    /// A file does not read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not write.
    #[error("{}: cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key that is none.
    #[error("{origin}: {source}")]
    Key {
        /// Option, environment or file.
        origin: String,
        /// What is wrong with it.
        source: KeyError,
    },
    /// An option that is needed here.
    #[error("{what} is needed: {why}")]
    Missing {
        /// Which.
        what: &'static str,
        /// What for.
        why: &'static str,
    },
    /// Options that contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
    /// A value that is none.
    #[error("{option}: {reason}")]
    Value {
        /// Which option.
        option: &'static str,
        /// What it must be.
        reason: String,
    },
    /// The file is no vectors.
    #[error("{}: {source}", path.display())]
    Vectors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: sts::conformance::ReadError,
    },
    /// The file of a virtual meter is damaged.
    #[error("{}:{line}: {reason}", path.display())]
    Keypad {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// What is typed is no token.
    #[error("token: {0}")]
    Number(#[from] NumberError),
    /// An amount that no token carries.
    #[error("amount: {0}")]
    Amount(#[from] AmountError),
    /// An identifier that is none.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A field that does not fit.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The instant has no token identifier.
    #[error(transparent)]
    Tid(#[from] TidError),
    /// The key cannot be derived.
    #[error(transparent)]
    Derive(#[from] DeriveError),
    /// The new key does not go with the number of tokens.
    #[error(transparent)]
    KeyChange(#[from] KeyChangeError),
    /// What a point of sale refuses.
    #[error(transparent)]
    Refused(#[from] VaultError),
    /// Standard output is gone.
    #[error("cannot print")]
    Print(#[from] io::Error),
}

/// Runs `meterd sts`.
///
/// # Errors
/// [`StsError`].
pub fn run(command: &StsCommand) -> anyhow::Result<ExitCode> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let code = match command {
        StsCommand::Encode(args) => args.run(&mut out),
        StsCommand::Decode(args) => args.run(&mut out),
        StsCommand::Derive(args) => args.run(&mut out),
        StsCommand::Keychange(args) => args.run(&mut out),
        StsCommand::Explain(args) => args.run(&mut out),
        StsCommand::Conformance(args) => args.run(&mut out),
        StsCommand::Keypad(args) => args.run(&mut out),
    };
    let flushed = code.and_then(|code| out.flush().map(|()| code).map_err(StsError::from));
    match flushed {
        // Whoever read the lines has seen enough of them.
        Err(StsError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::SUCCESS)
        }
        other => Ok(other?),
    }
}

/// The exit code of a check that failed.
fn failed() -> ExitCode {
    ExitCode::from(3)
}
