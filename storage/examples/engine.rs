//! The engine's child process alone, for the tests: `meterd engine` without the rest of `meterd`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Err(error) = storage::engine::run_child();
    // The supervisor reads stderr; the code tells it the kind.
    drop(std::io::Write::write_all(&mut std::io::stderr(), format!("{error}\n").as_bytes()));
    ExitCode::from(error.exit_code())
}
