//! The twenty questions, on each engine, against the page and against the simulator.

use std::collections::BTreeMap;
use std::time::Instant;

use loadgen::feeder::AlarmSubject;
use meter::AlarmCode;
use storage::clickhouse::Sink;

use crate::page::{self, Question};
use crate::support::{Server, ask};
use crate::week;

/// Asks in the database `week`, as an analyst where there is one.
fn answer(server: &Server, sql: &str) -> String {
    let answer = ask(server, "week", &format!("{sql}\nFORMAT TabSeparatedWithNames"));
    assert_eq!(answer.status, 200, "{}: {sql}\n{}", server.name(), answer.body);
    answer.body
}

#[tokio::test(flavor = "multi_thread")]
async fn every_question_has_the_answer_of_the_page() {
    let questions = page::questions();
    assert_eq!(questions.len(), 20);
    for server in Server::all().await {
        let sink = Sink::open(server.fresh("week").await).await.unwrap();
        // Twice, as after a crash: also the questions without FINAL count a row once.
        week::load(&sink).await;
        week::load(&sink).await;
        if std::env::var_os("METERD_WRITE_ANSWERS").is_some() {
            let answers: Vec<String> =
                questions.iter().map(|question| answer(&server, &question.sql)).collect();
            page::write(&answers);
            return;
        }
        let mut differing = Vec::new();
        for Question { title, sql, answer: want } in &questions {
            #[expect(clippy::disallowed_methods, reason = "the time is shown, not used")]
            let began = Instant::now();
            let got = answer(&server, sql);
            let ms = began.elapsed().as_millis();
            println!("{:9} {ms:5} ms  {title}", server.name());
            if got != *want {
                differing.push(format!("{title}\nwant\n{want}got\n{got}"));
            }
        }
        assert!(differing.is_empty(), "{}:\n{}", server.name(), differing.join("\n"));
        agree_with_the_simulator(&server);
        server.stop().await;
    }
}

/// The page's answers came from ClickHouse; these come from what the simulator knows.
fn agree_with_the_simulator(server: &Server) {
    let feeder = week::feeder();
    let expected = feeder.expected(week::tick());
    let pairs = |sql: &str| -> BTreeMap<String, i64> {
        let text = answer(server, sql);
        let rows = text.lines().skip(1).map(|line| line.split_once('\t').unwrap());
        rows.map(|(key, value)| (key.to_owned(), value.parse().unwrap())).collect()
    };
    let energy = pairs(
        "SELECT serial, wh FROM (SELECT meter_id, sum(energy_wh) AS wh FROM intervals FINAL \
         WHERE start < '2026-06-08 00:00:00' GROUP BY meter_id) AS used ALL INNER JOIN \
         (SELECT meter_id, serial FROM meters FINAL) AS plate USING (meter_id)",
    );
    let truth: BTreeMap<String, i64> = expected
        .energy
        .iter()
        .map(|(serial, energy)| (serial.clone(), energy.wh() as i64))
        .collect();
    assert_eq!(energy, truth, "{}: energy", server.name());

    let balances = pairs(
        "SELECT account_id, argMax(balance_ticks, number) AS balance FROM ledger FINAL \
         GROUP BY account_id",
    );
    for (code, balance) in &expected.balances {
        let account: u32 = code.trim_start_matches("A-").parse().unwrap();
        assert_eq!(balances[&account.to_string()], balance.ticks(), "{} {code}", server.name());
    }

    let loss = expected.total_loss();
    let sums = answer(server, "SELECT sum(supply_wh), sum(delivered_wh) FROM line_loss FINAL");
    let want = format!("{}\t{}", loss.supply.wh(), loss.delivered.wh());
    assert_eq!(sums.lines().nth(1), Some(want.as_str()), "{}: loss", server.name());

    let high = AlarmCode::OverVoltage;
    let subject = |alarm: &loadgen::feeder::ExpectedAlarm| match &alarm.subject {
        AlarmSubject::Meter(serial) if alarm.code == high => Some(serial.clone()),
        AlarmSubject::Meter(_) | AlarmSubject::Account(_) | AlarmSubject::Gateway(_) => None,
    };
    let truth: Vec<String> = expected.alarms.iter().filter_map(subject).collect();
    let got = answer(
        server,
        "SELECT DISTINCT concat('UR6-', if(subject_id < 100, '0', ''), toString(subject_id)) AS s \
         FROM alarms FINAL WHERE code = 'over_voltage' ORDER BY s",
    );
    assert_eq!(got.lines().skip(1).collect::<Vec<_>>(), truth, "{}: alarms", server.name());
}
