//! Bulk import: fast, all or nothing, and every bad line named.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use bytes::Bytes;
use meter::{Change, CurrencyCode, Entry, MeterId, OutboxId, PlanId, SystemTitle, TariffVersion};
use storage::registry::{
    Config, Counts, DeviceKeys, DeviceRev, IMPORT_COLUMNS, ImportError, ImportFormat, ImportLimits,
    ImportReport, LineError, NewGateway, OutboxRow, Registry,
};
use tokio::sync::mpsc;

const NOW: meter::UnixSeconds = meter::UnixSeconds(1_790_000_000);

const LIMITS: ImportLimits = ImportLimits { rows_max: 200_000, errors_max: 1000 };

async fn open(folder: &Path) -> Registry {
    let config = Config {
        path: folder.join("registry.sqlite"),
        master_key_path: folder.join("master.key"),
        readers: 2,
    };
    let registry = Registry::open(&config).await.unwrap();
    let cny = CurrencyCode::parse("CNY").unwrap();
    let plan = registry.add_plan("residential", "", cny).await.unwrap().id;
    registry.add_version(&version(plan), NOW).await.unwrap();
    registry
}

fn version(plan: PlanId) -> TariffVersion {
    let json = format!(
        r#"{{"plan":{},"valid_from":"2026-01-01","currency":"CNY","prices":[5283],
        "seasons":[{{"from":{{"month":1,"day":1}},"to":{{"month":12,"day":31}},
        "workday":[{{"quarter":0,"rate":1}}],"weekend":[{{"quarter":0,"rate":1}}],
        "holiday":[{{"quarter":0,"rate":1}}]}}],"calendar":null,
        "blocks":[{{"from_kwh":0,"adder":0}}],"block_period":"month","standing_per_day":0,
        "standing_per_month":0,"tax_bp":0,"fee":0}}"#,
        plan.0
    );
    serde_json::from_str(&json).unwrap()
}

async fn import(
    registry: &Registry,
    format: ImportFormat,
    limits: ImportLimits,
    body: &str,
) -> Result<ImportReport, ImportError> {
    let (sender, receiver) = mpsc::channel(4);
    let chunks: Vec<Bytes> =
        body.as_bytes().chunks(16 * 1024).map(Bytes::copy_from_slice).collect();
    let send = async move {
        for chunk in chunks {
            // The reader may stop early; then the rest is not wanted.
            if sender.send(Ok::<_, io::Error>(chunk)).await.is_err() {
                break;
            }
        }
    };
    let (report, ()) = tokio::join!(registry.import(format, limits, receiver), send);
    report
}

async fn csv(registry: &Registry, body: &str) -> Result<ImportReport, ImportError> {
    import(registry, ImportFormat::Csv, LIMITS, body).await
}

fn header() -> String {
    IMPORT_COLUMNS.iter().map(|column| column.name).collect::<Vec<_>>().join(",")
}

/// The example of the documentation, made unique by `number`.
fn line(number: u32) -> String {
    let cell = |name: &str, example: &str| match name {
        "serial" => format!("S{number}"),
        "system_title" => format!("4D545230{number:08X}"),
        "account" => format!("A{number}"),
        "customer" => format!("C{}", number / 2),
        "transformer" => format!("TR-{}", number % 10),
        _ => example.to_owned(),
    };
    IMPORT_COLUMNS.iter().map(|c| cell(c.name, c.example)).collect::<Vec<_>>().join(",")
}

fn body(numbers: std::ops::Range<u32>) -> String {
    let mut body = header();
    for number in numbers {
        write!(body, "\n{}", line(number)).unwrap();
    }
    body + "\n"
}

/// The first line of `body` with other cells.
fn with(cells: &[(&str, &str)]) -> String {
    let cell = |(column, old): (&storage::registry::Column, &str)| {
        cells.iter().find(|(name, _)| *name == column.name).map_or(old, |(_, new)| new).to_owned()
    };
    let line = line(1);
    IMPORT_COLUMNS.iter().zip(line.split(',')).map(cell).collect::<Vec<_>>().join(",")
}

fn errors(result: Result<ImportReport, ImportError>) -> (Vec<LineError>, u64) {
    match result {
        Err(ImportError::Lines { errors, total, .. }) => (errors, total),
        other => panic!("expected bad lines, got {other:?}"),
    }
}

async fn changes(registry: &Registry) -> Vec<Change> {
    let (mut all, mut after) = (Vec::new(), OutboxId(0));
    loop {
        let rows = registry.next_outbox(after, 100_000).await.unwrap();
        let Some(last) = rows.last() else { return all };
        after = last.id;
        assert!(rows.iter().all(|row| row.changes.len() <= 1000));
        let mut entries = Vec::new();
        for OutboxRow { id: outbox, changes } in rows {
            all.extend_from_slice(&changes);
            Entry::Changes { outbox, changes }.encode(&mut entries);
        }
        assert!(entries.len() < 1 << 19, "{} bytes for one commit of the log", entries.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::disallowed_methods, reason = "the test prints how long the import takes")]
async fn a_hundred_thousand_rows() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let text = body(0..100_000);
    let begin = std::time::Instant::now();
    let report = csv(&registry, &text).await.unwrap();
    let took = begin.elapsed();
    println!("import of 100000 rows ({} MB of CSV) took {took:?}", text.len() / 1_000_000);
    let want = Counts {
        rows: 100_000,
        meters: 100_000,
        customers: 50_000,
        accounts: 100_000,
        transformers: 10,
        installations: 100_000,
    };
    assert_eq!(report.counts, want);
    let begin = std::time::Instant::now();
    let mut devices = 0_u32;
    registry.devices_since(DeviceRev::default(), |_| devices += 1).await.unwrap();
    println!("reading the keys of {devices} devices took {:?}", begin.elapsed());
    assert_eq!(devices, 100_000);
    // Policy and tariff; then meter, account, opening balance and installation of each row.
    let changes = changes(&registry).await;
    assert_eq!(changes.len(), 2 + 400_000);
    let last = report.outbox.unwrap();
    assert_eq!(registry.next_outbox(OutboxId(last.0 - 1), 10).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_line_among_many_changes_nothing_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let before = (registry.ids().await.unwrap(), changes(&registry).await);
    let mut lines: Vec<String> = body(0..100_000).lines().map(str::to_owned).collect();
    lines[77_777] = lines[77_777].replace("Asia/Shanghai", "Asia/Peking");
    let (errors, total) = errors(csv(&registry, &lines.join("\n")).await);
    assert_eq!(total, 1);
    assert_eq!((errors[0].line, errors[0].row), (77_778, 77_777));
    assert_eq!(errors[0].column, "zone");
    assert!(errors[0].problem.contains("Asia/Peking"), "{:?}", errors[0]);
    assert_eq!((registry.ids().await.unwrap(), changes(&registry).await), before);
    assert!(registry.meter(MeterId(1)).await.is_err());
}

#[tokio::test]
async fn every_kind_of_bad_line_is_told_with_its_column() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    csv(&registry, &body(500..501)).await.unwrap();
    let before = registry.ids().await.unwrap();
    let check = async |cells: &[(&str, &str)], column: &str, problem: &str| {
        let (errors, _) = errors(csv(&registry, &format!("{}\n{}\n", header(), with(cells))).await);
        let error = &errors[0];
        assert_eq!((error.line, error.column.as_str()), (2, column), "{cells:?}: {error:?}");
        assert!(error.problem.contains(problem), "{cells:?}: {error:?}");
        assert!(!error.hint.is_empty(), "{error:?}");
    };
    check(&[("serial", "")], "serial", "empty").await;
    check(&[("serial", "S500")], "serial", "exists already").await;
    check(&[("system_title", "4D545230000001F4")], "system_title", "exists already").await;
    check(&[("system_title", "4D")], "system_title", "does not read").await;
    check(&[("system_title", "")], "model", "system_title is empty").await;
    check(&[("encryption_key", "00")], "encryption_key", "does not read").await;
    check(&[("phases", "2")], "phases", "1 or 3").await;
    check(&[("register_digits", "x")], "register_digits", "does not read").await;
    check(&[("current_max_a", "60.1234")], "current_max_a", "does not read").await;
    check(&[("role", "boss")], "role", "does not read").await;
    check(&[("role", "supply")], "account", "serves none").await;
    check(&[("gateway", "4757000000000001")], "gateway", "no gateway").await;
    check(&[("installed_at", "yesterday")], "installed_at", "does not read").await;
    check(&[("installed_at", "2025-01-01T00:00:00Z")], "installed_at", "no prices").await;
    check(&[("account", "A500")], "account", "exists already").await;
    check(&[("plan", "nothing")], "plan", "no plan").await;
    check(&[("customer", "C9"), ("customer_name", "")], "customer_name", "no name").await;
    check(&[("mode", "later")], "mode", "does not read").await;
    check(&[("overdraft", "-1")], "overdraft", "0 to").await;
    check(&[("low_level_1", "1"), ("low_level_2", "2")], "low_level_2", "second").await;
    check(&[("opening_balance", "1e3")], "opening_balance", "does not read").await;
    let key_text = "0123456789";
    let line = with(&[("encryption_key", key_text)]);
    let (errors, _) = errors(csv(&registry, &format!("{}\n{line}\n", header())).await);
    assert!(!format!("{errors:?}").contains(key_text), "a key is not repeated");
    assert_eq!(registry.ids().await.unwrap(), before);
}

#[tokio::test]
async fn broken_bodies_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let check = async |format, body: &str, line: u64, problem: &str| {
        let (errors, _) = errors(import(&registry, format, LIMITS, body).await);
        assert_eq!(errors[0].line, line, "{errors:?}");
        assert!(errors[0].problem.contains(problem), "{errors:?}");
    };
    let (head, row) = (header(), line(1));
    check(ImportFormat::Csv, &format!("{head},colour\n{row},red\n"), 1, "no column").await;
    check(ImportFormat::Csv, &format!("{head},serial\n{row},1\n"), 1, "twice").await;
    check(ImportFormat::Csv, &format!("{head}\n{row}\n{row},x\n"), 3, "fields").await;
    check(ImportFormat::Csv, &format!("{head}\n{row}\n{row}\n"), 3, "stands in row 1").await;
    let open_quote = format!("{head}\n\"{}", "x".repeat(200_000));
    check(ImportFormat::Csv, &open_quote, 2, "longer than").await;
    check(ImportFormat::Json, "[{\"serial\":\"1\"},\n{\"serial\":true}]", 1, "neither").await;
    check(ImportFormat::Json, "[\n\n7]", 3, "not an object").await;
    check(ImportFormat::Json, "[{\"color\":\"1\"}]", 1, "no column").await;
    check(ImportFormat::Json, "[{\"serial\":", 1, "EOF").await;
    check(ImportFormat::Json, "[]x", 1, "trailing").await;
    for empty in ["", &head] {
        let result = csv(&registry, empty).await;
        assert!(matches!(result, Err(ImportError::Empty)), "{result:?}");
    }
    let few = ImportLimits { rows_max: 2, errors_max: 1 };
    let result = import(&registry, ImportFormat::Csv, few, &body(0..3)).await;
    assert!(matches!(result, Err(ImportError::TooManyRows { rows_max: 2 })), "{result:?}");
    let bad = format!("{head}\n{}\n{}\n", with(&[("phases", "9")]), with(&[("phases", "9")]));
    let (named, total) = errors(import(&registry, ImportFormat::Csv, few, &bad).await);
    assert_eq!((named.len(), total), (1, 2), "named up to the bound, counted in full");
}

#[tokio::test]
async fn a_body_that_breaks_off_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let before = registry.ids().await.unwrap();
    let (sender, receiver) = mpsc::channel(4);
    sender.send(Ok(Bytes::from(body(0..10)))).await.unwrap();
    sender.send(Err(io::Error::other("reset"))).await.unwrap();
    drop(sender);
    let result = registry.import(ImportFormat::Csv, LIMITS, receiver).await;
    assert!(matches!(result, Err(ImportError::Body(_))), "{result:?}");
    assert_eq!(registry.ids().await.unwrap(), before);
}

#[tokio::test]
async fn json_and_csv_say_the_same() {
    let objects: Vec<String> = (0..3)
        .map(|number| {
            let line = line(number);
            let pairs = IMPORT_COLUMNS.iter().zip(line.split(','));
            let pairs = pairs.map(|(column, cell)| format!("{:?}:{cell:?}", column.name));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        })
        .collect();
    let array = format!("[{}]", objects.join(",\n"));
    let lines = objects.join("\n") + "\n\n";
    let mut told = Vec::new();
    for (format, body) in
        [(ImportFormat::Csv, body(0..3)), (ImportFormat::Json, array), (ImportFormat::Json, lines)]
    {
        let folder = tempfile::tempdir().unwrap();
        let registry = open(folder.path()).await;
        import(&registry, format, LIMITS, &body).await.unwrap();
        told.push(changes(&registry).await);
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0], told[2]);
}

#[tokio::test]
async fn meters_first_and_installations_later() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    let gateway = NewGateway {
        title: SystemTitle(*b"GTW00001"),
        name: String::new(),
        template: "meterd-batch".to_owned(),
        keys: DeviceKeys { encryption: [1; 16], authentication: [2; 16] },
    };
    registry.add_gateway(&gateway).await.unwrap();
    let meters = "serial,system_title,model,template,encryption_key,authentication_key,gateway,\
        current_max_a,voltage_nominal_v,phases,register_digits,period_s\n\
        S1,4D54523000000001,m,obis,000102030405060708090A0B0C0D0E0F,\
        D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF,4754573030303031,60,230,1,6,900\n";
    let report = csv(&registry, meters).await.unwrap();
    assert_eq!((report.counts.meters, report.counts.installations), (1, 0));
    let installations = "serial,installed_at,start_kwh,account,customer,customer_name,plan,zone,\
        mode\nS1,2026-02-01T00:00:00+08:00,1.5,A1,C1,Li Wei,residential,Asia/Shanghai,prepaid\n";
    let report = csv(&registry, installations).await.unwrap();
    assert_eq!((report.counts.meters, report.counts.installations), (0, 1));
    let periods = registry.installations_of_meter(MeterId(1)).await.unwrap();
    assert_eq!(periods[0].start, Some(meter::Energy::from_wh(1500)));
    let (again, _) = errors(csv(&registry, installations).await);
    assert_eq!(again[0].column, "installed_at");
}
