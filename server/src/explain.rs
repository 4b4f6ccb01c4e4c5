//! `meterd explain`: a balance line by line, from a running node.

use std::process::ExitCode;

use anyhow::Context;

use crate::cli::Explain;
use crate::http::{self, Call};

/// Prints what a balance follows from; exit code 3 when the lines do not give the booked balance.
///
/// # Errors
/// No token, no node, or what the node refused.
pub fn run(options: &Explain) -> anyhow::Result<ExitCode> {
    let token = match &options.token_file {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the token in {}", path.display()))?,
        None => std::env::var("METERD_TOKEN")
            .context("no token: give --token-file, or set METERD_TOKEN")?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(explain(options, token.trim()))
}

#[expect(clippy::print_stdout, reason = "the command line's own voice")]
async fn explain(options: &Explain, token: &str) -> anyhow::Result<ExitCode> {
    let path = format!("/v1/accounts/{}/balance/explanation", options.account);
    let bearer = format!("Bearer {token}");
    let accept = if options.json { "application/json" } else { "text/plain" };
    let headers = [("authorization", bearer.as_str()), ("accept", accept)];
    let call = Call { method: "GET", path: &path, headers: &headers, body: Vec::new() };
    let answer = http::send(options.api, call).await?;
    let text = String::from_utf8_lossy(&answer);
    println!("{}", text.trim_end());
    let agrees =
        text.contains("difference 0.0000000") || text.contains("\"difference\":\"0.0000000\"");
    Ok(ExitCode::from(if agrees { 0 } else { 3 }))
}
