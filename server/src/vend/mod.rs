//! `meterd vend`: a point of sale on the command line, over the API of a node.
//!
//! **Invariant:** every sale has a key of the caller's; repeating a command with the same key sells
//! nothing twice. The API token comes by file or environment and is never printed.

mod bulk;
mod client;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use client::Till;

/// `meterd vend`.
#[derive(Args, Debug)]
pub struct Vend {
    /// The node's API.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", env = "METERD_URL")]
    url: String,
    /// File with the API token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The API token; the file is safer.
    #[arg(long, value_name = "TOKEN", env = "METERD_TOKEN", hide_env_values = true, hide = true)]
    token: Option<client::Secret>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Say what a purchase would come to.
    Quote {
        #[command(flatten)]
        sale: Sale,
    },
    /// Sell, and print the receipt with its tokens.
    Buy {
        #[command(flatten)]
        sale: Sale,
        /// Names this purchase for ever; the same key prints the same receipt.
        #[arg(long)]
        key: String,
    },
    /// Give credit away.
    Free {
        #[command(flatten)]
        sale: Sale,
        /// Names this issue for ever.
        #[arg(long)]
        key: String,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Say how a purchase stands.
    Status {
        /// Its key.
        key: String,
    },
    /// Print a receipt again: the stored tokens, never new ones.
    Receipt {
        /// Its key.
        key: String,
    },
    /// Cancel a purchase before delivery.
    Reverse {
        /// Its key.
        key: String,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Pay credit back after an inspection.
    Refund {
        /// Its key.
        key: String,
        /// Number of the inspection.
        #[arg(long)]
        inspection: String,
        /// How much; all that is left when absent.
        #[arg(long)]
        amount: Option<String>,
    },
    /// Sell to many accounts: a CSV with key, account and amount or energy_wh comes back with
    /// tokens. Started again after a break, it goes on where it stopped.
    Bulk(bulk::Bulk),
}

/// Which account, and how much.
#[derive(Args, Debug)]
struct Sale {
    /// The account's id.
    #[arg(long)]
    account: u32,
    /// What is paid, such as 20.00.
    #[arg(long, required_unless_present = "energy_wh", conflicts_with = "energy_wh")]
    amount: Option<String>,
    /// Energy to be had, Wh; for accounts sold in kWh.
    #[arg(long)]
    energy_wh: Option<u64>,
}

impl Sale {
    fn body(&self) -> Value {
        match (&self.amount, self.energy_wh) {
            (Some(amount), _) => json!({ "amount": amount }),
            (None, energy_wh) => json!({ "energy_wh": energy_wh }),
        }
    }

    fn path(&self, what: &str) -> String {
        format!("/v1/accounts/{}/{what}", self.account)
    }
}

/// Runs `meterd vend`.
///
/// # Errors
/// What the node refused, or why it could not be asked.
pub fn run(args: &Vend) -> anyhow::Result<ExitCode> {
    let till = Till::new(&args.url, args.token.as_ref(), args.token_file.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let answer = runtime.block_on(async {
        match &args.what {
            What::Quote { sale } => till.post(&sale.path("quotes"), &sale.body(), None).await,
            What::Buy { sale, key } => {
                till.post(&sale.path("purchases"), &sale.body(), Some(key)).await
            }
            What::Free { sale, key, reason } => {
                let mut body = sale.body();
                body["reason"] = reason.as_str().into();
                till.post(&sale.path("free-issues"), &body, Some(key)).await
            }
            What::Status { key } => till.get(&purchase(key, "")).await,
            What::Receipt { key } => till.post(&purchase(key, "/copies"), &json!({}), None).await,
            What::Reverse { key, reason } => {
                till.post(&purchase(key, "/reversal"), &json!({ "reason": reason }), None).await
            }
            What::Refund { key, inspection, amount } => {
                let mut body = json!({ "inspection": inspection });
                if let Some(amount) = amount {
                    body["amount"] = amount.as_str().into();
                }
                till.post(&purchase(key, "/refund"), &body, None).await
            }
            What::Bulk(bulk) => bulk.run(&till).await.map(|()| Value::Null),
        }
    })?;
    let mut out = io::stdout().lock();
    match answer.get("text").and_then(Value::as_str) {
        Some(text) => write!(out, "{text}")?,
        None if answer.is_null() => {}
        None => writeln!(out, "{answer:#}")?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The path of a purchase; a key may hold anything.
fn purchase(key: &str, what: &str) -> String {
    format!("/v1/purchases/{}{what}", client::escaped(key))
}
