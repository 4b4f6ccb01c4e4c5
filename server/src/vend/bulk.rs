//! `meterd vend bulk`: many sales from one file into another, with progress, resumed after a break.
//!
//! The answer file grows in the order of the order file, a line a sale, and says how far it is: a
//! run that broke off is started again with the same arguments. A sale whose line was lost is asked
//! for once more under its key and answers as the first time, so nothing is sold twice.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::client::{Refused, Till};

/// The answer file's header.
const HEADER: &str = "key,account,status,energy_wh,tokens,problem";

/// `meterd vend bulk`.
#[derive(Args, Debug)]
pub(super) struct Bulk {
    /// CSV with the header key,account,amount,energy_wh; one of the last two is given.
    orders: PathBuf,
    /// Where the answers go: key,account,status,energy_wh,tokens,problem.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Sales at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=512))]
    at_a_time: u16,
}

/// A line of the order file.
struct Order {
    line: usize,
    key: String,
    account: u32,
    body: Value,
}

impl Bulk {
    pub(super) async fn run(&self, till: &Till) -> anyhow::Result<()> {
        let orders = read_orders(&self.orders)?;
        let (mut out, done) = open_answers(&self.out, &orders)?;
        let total = orders.len();
        let (mut sold, mut refused) = (0_usize, 0_usize);
        let mut next = done;
        while next < total {
            let batch = &orders[next..total.min(next + usize::from(self.at_a_time))];
            let mut sales = tokio::task::JoinSet::new();
            for (index, order) in batch.iter().enumerate() {
                let (till, body) = (till.clone(), order.body.clone());
                let path = format!("/v1/accounts/{}/purchases", order.account);
                let key = order.key.clone();
                sales.spawn(async move { (index, till.post(&path, &body, Some(&key)).await) });
            }
            let mut answers = sales.join_all().await;
            answers.sort_by_key(|(index, _)| *index);
            let mut text = String::new();
            for (order, (_, answer)) in batch.iter().zip(answers) {
                let line = match answer {
                    Ok(receipt) => {
                        sold += 1;
                        answer_line(order, &receipt)
                    }
                    // A refusal is an answer; where nobody knows what became of a sale, the run ends.
                    Err(error) if error.downcast_ref().is_some_and(Refused::is_final) => {
                        refused += 1;
                        let problem = error.to_string().replace(['"', '\n'], "'");
                        format!("{},{},refused,,,\"{problem}\"", order.key, order.account)
                    }
                    Err(error) => {
                        out.write_all(text.as_bytes())?;
                        out.sync_all()?;
                        let line = order.line;
                        return Err(error).with_context(|| {
                            format!("stopped at line {line}; start again to go on there")
                        });
                    }
                };
                text.push_str(&line);
                text.push('\n');
            }
            out.write_all(text.as_bytes())
                .with_context(|| format!("{}: cannot be written", self.out.display()))?;
            next += batch.len();
            progress(next, total, refused);
        }
        out.sync_all()?;
        say(&format!("\n{done} answered before, {sold} sold, {refused} refused"));
        Ok(())
    }
}

fn answer_line(order: &Order, receipt: &Value) -> String {
    let tokens = receipt["tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let digits: Vec<String> = tokens
        .iter()
        .filter_map(|token| token["digits"].as_str())
        .map(|digits| digits.replace(' ', ""))
        .collect();
    let wh = &receipt["energy_wh"];
    format!("{},{},sold,{wh},{},", order.key, order.account, digits.join(" "))
}

fn read_orders(path: &Path) -> anyhow::Result<Vec<Order>> {
    let place = |line: usize| format!("{}:{line}", path.display());
    let file = File::open(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let mut lines = BufReader::new(file).lines();
    let header = lines.next().transpose()?.unwrap_or_default();
    ensure!(
        header.trim() == "key,account,amount,energy_wh",
        "{}: the header must be key,account,amount,energy_wh",
        place(1)
    );
    let mut orders = Vec::new();
    for (index, line) in lines.enumerate() {
        let (line, text) = (index + 2, line?);
        let fields: Vec<&str> = text.split(',').map(str::trim).collect();
        let [key, account, amount, energy_wh] = fields.as_slice() else {
            bail!("{}: 4 fields are needed, there are {}", place(line), fields.len());
        };
        let account = account
            .parse()
            .with_context(|| format!("{}: account {account:?} is no number", place(line)))?;
        let body = match (amount.is_empty(), energy_wh.is_empty()) {
            (false, true) => json!({ "amount": amount }),
            (true, false) => {
                let wh: u64 = energy_wh
                    .parse()
                    .with_context(|| format!("{}: {energy_wh:?} is no number", place(line)))?;
                json!({ "energy_wh": wh })
            }
            _ => bail!("{}: give either amount or energy_wh", place(line)),
        };
        ensure!(!key.is_empty(), "{}: the key is empty", place(line));
        orders.push(Order { line, key: (*key).to_owned(), account, body });
    }
    Ok(orders)
}

/// Opens the answers and says how many orders are answered; a line cut short is cut off.
fn open_answers(path: &Path, orders: &[Order]) -> anyhow::Result<(File, usize)> {
    let fail = || format!("{}: cannot be written", path.display());
    let mut options = OpenOptions::new();
    let mut file = options.read(true).create(true).append(true).open(path).with_context(fail)?;
    let text = std::fs::read_to_string(path).with_context(fail)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    file.set_len(whole.len() as u64).with_context(fail)?;
    if whole.is_empty() {
        writeln!(file, "{HEADER}").with_context(fail)?;
        return Ok((file, 0));
    }
    let mut lines = whole.lines();
    ensure!(lines.next() == Some(HEADER), "{}: not an answer file of ours", path.display());
    let mut done = 0;
    for (index, line) in lines.enumerate() {
        let key = line.split(',').next().unwrap_or_default();
        let is_next = orders.get(index).is_some_and(|order| order.key == key);
        let line = index + 2;
        ensure!(is_next, "{}:{line}: {key:?} is not the order of that line", path.display());
        done += 1;
    }
    Ok((file, done))
}

#[expect(clippy::print_stderr, reason = "the command line's own voice")]
fn progress(done: usize, total: usize, refused: usize) {
    let percent = done * 100 / total.max(1);
    let bar = "#".repeat(percent / 4);
    eprint!("\r[{bar:25}] {percent:3} %  {done} of {total}, {refused} refused");
}

#[expect(clippy::print_stderr, reason = "the command line's own voice")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(text: &str) -> anyhow::Result<Vec<Order>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("orders.csv");
        std::fs::write(&path, text)?;
        read_orders(&path)
    }

    #[test]
    fn bad_orders_are_named_with_their_line() {
        let check = |rows: &str, want: &str| {
            let error = orders(&format!("key,account,amount,energy_wh\n{rows}\n"));
            let error = format!("{:#}", error.err().expect("it is refused"));
            assert!(error.contains(want), "{error}");
        };
        check("a,1,5", "orders.csv:2: 4 fields");
        check("a,1,5,\nb,x,5,", "orders.csv:3: account");
        check("a,1,,", "give either");
        check(",1,5,", "the key is empty");
        assert!(orders("key,account\n").is_err());
    }

    #[test]
    fn a_run_goes_on_after_the_last_whole_line() {
        let orders = orders("key,account,amount,energy_wh\na,1,5,\nb,1,5,\n").expect("good");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.csv");
        assert_eq!(open_answers(&path, &orders).expect("made").1, 0);
        std::fs::write(&path, format!("{HEADER}\na,1,sold,100,123,\nb,1,so")).expect("written");
        assert_eq!(open_answers(&path, &orders).expect("opened").1, 1);
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(text.ends_with("123,\n"), "{text}");
        std::fs::write(&path, format!("{HEADER}\nx,1,sold,100,123,\n")).expect("written");
        assert!(open_answers(&path, &orders).is_err());
    }
}
