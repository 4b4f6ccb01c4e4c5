//! The node: everything is made here, in the order of the data's way, and stopped in that order.

pub(crate) mod clickhouse;
mod devices;
pub(crate) mod dimensions;
pub(crate) mod open;
mod report;
mod secrets;
mod web;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow};
use crossbeam_channel::{Receiver, bounded};
use ingest::{Directory, Ingest};
use meter::wire::dlms::Templates;
use meter::{Entry, Seq, SystemTitle};
use storage::log::{Committed, Origin, Outcome, Submission, Writer, WriterConfig};
use storage::registry::{self, DeviceRev, Registry};
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{error, info};

use crate::archive::Keeper;
use crate::books::{Books, BooksError};
use crate::cli::Serve;
use crate::clock::{self, Now};
use crate::config::Settings;
use crate::journal::Journal;
use crate::ports::ShardLog;
use crate::relay::Relayed;
use crate::sink::Pump;
use crate::watchdog::Watchdog;
use crate::{commands, orders, recall, relay, ticks};

/// Submissions that wait for the log.
const SUBMISSIONS_MAX: usize = 256;
/// Submissions of one shard without an answer.
const IN_FLIGHT_MAX: usize = 64;
/// Committed groups that wait for the books.
const COMMITTED_MAX: usize = 16;
/// Answers to asynchronous callers that wait.
const ANSWERS_MAX: usize = 4096;
/// How long the sockets may take to stop, waiting for the log's answers.
const INGEST_PATIENCE: Duration = Duration::from_secs(10);
/// How long the Web API may take to end its requests.
const API_PATIENCE: Duration = Duration::from_secs(10);

/// `meterd serve`.
///
/// # Errors
/// Whatever stopped the node.
pub fn serve(options: &Serve) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(options.config.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("tokio")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let served = runtime.block_on(run(settings, options.token_file.as_deref()));
    // A task that hangs on a dead peer must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    served.map(|()| ExitCode::SUCCESS)
}

/// `meterd check-config`.
///
/// # Errors
/// What is wrong with the file.
#[expect(clippy::print_stdout, reason = "the command line's own voice")]
pub fn check_config(file: &Path) -> anyhow::Result<ExitCode> {
    Settings::load(Some(file))?;
    println!("{}: good", file.display());
    Ok(ExitCode::SUCCESS)
}

/// Runs a node until a signal or a failure.
async fn run(settings: Settings, token_file: Option<&Path>) -> anyhow::Result<()> {
    let now = settings.clock().source();
    open::data_folder(&settings)?;
    let registry = open_registry(&settings).await?;
    // Before the API listens: who sees the node ready finds the token.
    announce_token(&registry, token_file, settings.clock().now()).await?;
    // Before it serves, too: who sees the node ready may stop it, and it ends cleanly.
    let mut terminate = unix::signal(SignalKind::terminate())?;
    let mut node = Node::start(&settings, now, Arc::clone(&registry)).await?;
    node.announce();
    let ended = tokio::select! {
        signal = stop_signal(&mut terminate) => signal,
        failure = node.failed() => Err(failure),
    };
    if let Err(failure) = &ended {
        error!(error = format!("{failure:#}"), "the node stops");
    }
    let stopped = node.stop().await;
    registry.close().await;
    ended.and(stopped)
}

pub(crate) async fn open_registry(settings: &Settings) -> anyhow::Result<Arc<Registry>> {
    let config = registry::Config {
        path: open::within(settings, "registry.sqlite"),
        master_key_path: open::within(settings, "master.key"),
        readers: 4,
    };
    let registry = Registry::open(&config).await.context("cannot open the registry")?;
    Ok(Arc::new(registry))
}

/// Prints the first administrator's token, or puts it into a file; only at the first start.
#[expect(clippy::print_stdout, reason = "the one time the token is shown")]
async fn announce_token(
    registry: &Registry,
    file: Option<&Path>,
    now: meter::UnixSeconds,
) -> anyhow::Result<()> {
    let Some(token) = registry.first_token(now).await? else { return Ok(()) };
    match file {
        Some(path) => secrets::write_private(path, &token.secret)
            .with_context(|| format!("cannot write the token to {}", path.display())),
        None => {
            println!("administrator's token, shown this once: {}", token.secret);
            Ok(())
        }
    }
}

async fn stop_signal(terminate: &mut unix::Signal) -> anyhow::Result<()> {
    tokio::select! {
        _ = terminate.recv() => info!("asked to stop (SIGTERM)"),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            info!("asked to stop (SIGINT)");
        }
    }
    Ok(())
}

/// Opens the data folder, and reads the registry's devices beside it.
async fn open_all(
    settings: &Settings,
    outlets: open::Outlets,
    registry: &Registry,
) -> anyhow::Result<(open::Opened, Arc<Directory>, DeviceRev)> {
    let settings = settings.clone();
    let opened = tokio::task::spawn_blocking(move || open::open(&settings, outlets));
    let (directory, through) = devices::directory(registry).await?;
    let opened = opened.await??;
    devices::restore_windows(&directory, &opened.windows);
    Ok((opened, directory, through))
}

type BooksThread = JoinHandle<Result<(), BooksError>>;
type LogThread = JoinHandle<Result<(), storage::log::Error>>;

type ArchiveThread = (crossbeam_channel::Sender<()>, JoinHandle<()>);

/// A running node.
struct Node {
    ingest: ingest::Running,
    log: LogThread,
    books: BooksThread,
    /// Relay, ticks, recalls, devices, answers: they hold the journal, hence the log's input.
    tasks: JoinSet<()>,
    web: web::Web,
    sink: clickhouse::SinkTask,
    archive: Option<ArchiveThread>,
    engine: Option<storage::engine::Supervisor>,
    stop: watch::Sender<bool>,
    failures: mpsc::UnboundedReceiver<anyhow::Error>,
    /// Watches over the books until they have ended.
    watchdog: Watchdog,
}

impl Node {
    async fn start(settings: &Settings, now: Now, registry: Arc<Registry>) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (fail, failures) = mpsc::unbounded_channel();
        let engine = clickhouse::start_engine(settings)?;

        let (recalls, questions) = mpsc::unbounded_channel();
        let (apply, applied) = watch::channel(Seq(0));
        let (tell, told) = mpsc::unbounded_channel();
        let stuck_max = Duration::from_secs(settings.books.stuck_s_max.into());
        let (watchdog, pulse) = Watchdog::start(stuck_max)?;
        let outlets = open::Outlets { recalls, orders: tell, applied: apply, pulse };
        let (opened, directory, through) = open_all(settings, outlets, &registry).await?;

        let wires = Wires::new(shards(settings));
        let journal = Journal::new(wires.journal_origin(), wires.submit.clone(), applied);
        let socket_tier = bind_ingest(settings, &now, Arc::clone(&directory), &wires)?;
        let (commands, socket_tier) = with_commands(socket_tier, &registry, &now);

        let answers = Arc::new(Notify::new());
        let log_progress = opened.log.progress();
        let (outcomes, wires) = (wires.journal_outcomes.clone(), wires);
        let (committed, log) =
            wires.spawn_log(settings, opened.log, &socket_tier, &answers, fail.clone())?;
        let books = spawn_books(opened.books, committed, fail.clone())?;

        let mut tasks = JoinSet::new();
        let (relayed_tx, relayed) =
            watch::channel(Relayed::before(&registry, &log_progress).await?);
        tasks.spawn(Arc::clone(&journal).deliver(outcomes, answers));
        tasks.spawn(relay::run(Arc::clone(&registry), Arc::clone(&journal), relayed_tx));
        let tick = Duration::from_millis(settings.node.tick_ms);
        tasks.spawn(ticks::run(tick, Arc::clone(&now), opened.ticked, Arc::clone(&journal)));
        tasks.spawn(devices::follow(Arc::clone(&registry), directory, through));
        let relays = Arc::new(orders::Mailbox::new(Arc::clone(&registry), Arc::clone(&now)));
        tasks.spawn(orders::run(told, Arc::clone(&registry), relays, Arc::clone(&now)));

        let pump = Pump::new(
            clickhouse::pump_config(settings),
            opened.sink.cursor,
            opened.sink.place,
            opened.sink.reader,
            Arc::clone(&opened.sink.progress),
        );
        let sink = clickhouse::SinkTask::spawn(settings, pump, &registry, stopped.clone(), fail)?;
        let (history, sunk) = (sink.opening().wait(), Arc::clone(&opened.sink.progress));
        tasks.spawn(recall::run(questions, history, Arc::clone(&journal), sunk));

        let archive = opened.keeper.map(spawn_archive).transpose()?;
        let ingest = socket_tier.spawn()?;
        let report = report::Report {
            ingest: ingest.meters(),
            commands: commands.counts(),
            verdicts: Arc::clone(&opened.readers.verdicts),
            journal: Arc::clone(&journal),
            sunk: opened.sink.progress,
            spool: opened.sink.spool,
            log: log_progress,
            sink: sink.opening(),
            engine: engine.as_ref().map(storage::engine::Supervisor::state),
        };
        tasks.spawn(commands.run());
        let handles = web::Handles {
            registry,
            readers: opened.readers,
            applied: web::Applied { relayed, journal },
            history: sink.opening(),
            report,
            now,
        };
        let web = web::start(settings, handles, stopped).await?;
        Ok(Self { ingest, log, books, tasks, web, sink, archive, engine, stop, failures, watchdog })
    }

    /// Says where the node listens and what the system granted.
    fn announce(&self) {
        let bound = self.ingest.bound();
        info!(
            udp = %bound.udp,
            tcp = %bound.tcp,
            api = %self.web.address,
            clickhouse = self.sink.url,
            receive_buffer_bytes = bound.udp_receive_buffer_bytes,
            open_files = bound.open_files.soft,
            connections_max = bound.connections_max,
            "ready"
        );
    }

    /// The first failure of a part that the node cannot do without.
    async fn failed(&mut self) -> anyhow::Error {
        self.failures.recv().await.unwrap_or_else(|| anyhow!("all parts of the node are gone"))
    }

    /// Stops in the order of the data's way, so that each part finishes what it was given.
    async fn stop(self) -> anyhow::Result<()> {
        let ingest = self.ingest;
        let stats = tokio::task::spawn_blocking(move || ingest.shutdown(INGEST_PATIENCE)).await?;
        info!(entries = stats.entries, acks = stats.acks, "sockets closed");
        self.stop.send_replace(true);
        self.web.stop(API_PATIENCE).await;
        let mut tasks = self.tasks;
        tasks.shutdown().await;
        // With the last journal gone the log's inputs close, and log and books run dry.
        let (log, books) = (self.log, self.books);
        let (log, books) = tokio::task::spawn_blocking(move || (log.join(), books.join())).await?;
        drop(self.watchdog);
        self.sink.stop().await;
        if let Some((stop, thread)) = self.archive {
            drop(stop);
            let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
            ended.map_err(|_| anyhow!("the archive's thread broke"))?;
        }
        if let Some(engine) = self.engine {
            engine.stop().await;
        }
        log.map_err(|_| anyhow!("the log's thread broke"))??;
        books.map_err(|_| anyhow!("the books' thread broke"))??;
        info!("stopped");
        Ok(())
    }
}

/// The channels between shards, journal, log and books.
struct Wires {
    submit: crossbeam_channel::Sender<Submission<Entry>>,
    submissions: Receiver<Submission<Entry>>,
    shards: Vec<Wire>,
    journal: Wire,
    journal_outcomes: Receiver<Outcome>,
}

/// One origin's channels.
struct Wire {
    outcomes: (crossbeam_channel::Sender<Outcome>, Receiver<Outcome>),
    buffers: (crossbeam_channel::Sender<Vec<Entry>>, Receiver<Vec<Entry>>),
}

impl Wire {
    fn new(answers_max: usize) -> Self {
        Self { outcomes: bounded(answers_max), buffers: bounded(IN_FLIGHT_MAX) }
    }
}

impl Wires {
    fn new(shards: u16) -> Self {
        let (submit, submissions) = bounded(SUBMISSIONS_MAX);
        let journal = Wire::new(ANSWERS_MAX);
        let journal_outcomes = journal.outcomes.1.clone();
        let shards = (0..shards).map(|_| Wire::new(IN_FLIGHT_MAX)).collect();
        Self { submit, submissions, shards, journal, journal_outcomes }
    }

    fn journal_origin(&self) -> u16 {
        u16::try_from(self.shards.len()).expect("shards are counted in 16 bits")
    }

    fn shard_logs(&self) -> Vec<Box<dyn ingest::Log>> {
        let log = |wire: &Wire| -> Box<dyn ingest::Log> {
            Box::new(ShardLog {
                submissions: self.submit.clone(),
                outcomes: wire.outcomes.1.clone(),
                buffers: wire.buffers.1.clone(),
            })
        };
        self.shards.iter().map(log).collect()
    }

    /// Spawns the log's thread; what it commits comes out of the first part of the result.
    fn spawn_log(
        self,
        settings: &Settings,
        log: storage::log::SegmentLog,
        ingest: &Ingest,
        answers: &Arc<Notify>,
        fail: mpsc::UnboundedSender<anyhow::Error>,
    ) -> anyhow::Result<(BooksInput, LogThread)> {
        let config = WriterConfig {
            group_entries_max: settings.log.commit_entries_max as usize,
            group_bytes_max: settings.log.commit_bytes_max as usize,
            kind: 1,
            slot_group: 0,
            housekeeping_interval: Duration::from_millis(100),
        };
        let mut origins: Vec<Origin<Entry>> = self
            .shards
            .iter()
            .zip(ingest.wakers())
            .map(|(wire, waker)| Origin {
                outcomes: wire.outcomes.0.clone(),
                buffers: wire.buffers.0.clone(),
                wake: Arc::new(move || waker.wake()),
            })
            .collect();
        let answers = Arc::clone(answers);
        origins.push(Origin {
            outcomes: self.journal.outcomes.0,
            buffers: self.journal.buffers.0,
            wake: Arc::new(move || answers.notify_one()),
        });
        let (commit, committed) = bounded(COMMITTED_MAX);
        let (groups, used) = bounded(COMMITTED_MAX);
        let writer = Writer::new(log, config, vec![self.submissions], origins, commit, used)?;
        let run = move || writer.run().map(|_| ());
        let thread = spawn_thread("log", run, fail)?;
        Ok((BooksInput { committed, groups }, thread))
    }
}

/// What the books take in, and where they give buffers back.
struct BooksInput {
    committed: Receiver<Committed<Entry>>,
    groups: crossbeam_channel::Sender<Vec<Entry>>,
}

fn spawn_books(
    books: Books,
    input: BooksInput,
    fail: mpsc::UnboundedSender<anyhow::Error>,
) -> anyhow::Result<BooksThread> {
    spawn_thread("books", move || books.run(&input.committed, &input.groups), fail)
}

/// Spawns the archive's thread; dropping the sender stops it.
fn spawn_archive(keeper: Keeper) -> anyhow::Result<ArchiveThread> {
    let (stop, stopped) = bounded(0);
    let thread = std::thread::Builder::new()
        .name("archive".to_owned())
        .spawn(move || keeper.run(&stopped))
        .context("cannot start the thread \"archive\"")?;
    Ok((stop, thread))
}

/// Spawns a thread that the node cannot do without: its failure stops the node.
fn spawn_thread<E>(
    name: &str,
    work: impl FnOnce() -> Result<(), E> + Send + 'static,
    fail: mpsc::UnboundedSender<anyhow::Error>,
) -> anyhow::Result<JoinHandle<Result<(), E>>>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let part = name.to_owned();
    let run = move || {
        let result = work();
        if let Err(error) = &result {
            // The node may be stopping already.
            fail.send(anyhow!("{part}: {error}")).ok();
        }
        result
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .with_context(|| format!("cannot start the thread {name:?}"))
}

fn shards(settings: &Settings) -> u16 {
    match settings.ingest.shards {
        0 => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            u16::try_from(cores / 2).unwrap_or(u16::MAX).max(1)
        }
        count => count,
    }
}

/// The service that carries commands to meters, and the socket tier that it speaks through.
fn with_commands(tier: Ingest, registry: &Arc<Registry>, now: &Now) -> (commands::Service, Ingest) {
    let (port, errands) = commands::ports(tier.wakers());
    let patience = commands::Patience::standard();
    let service = commands::Service::new(Arc::clone(registry), port, Arc::clone(now), patience);
    (service, tier.with_errands(errands))
}

fn bind_ingest(
    settings: &Settings,
    now: &Now,
    directory: Arc<Directory>,
    wires: &Wires,
) -> anyhow::Result<Ingest> {
    let ingest = &settings.ingest;
    let title: [u8; 8] = registry::parse_hex(&ingest.system_title)
        .context("ingest.system_title must be 16 hex digits")?;
    let per_minute = ingest.failures_per_minute_max;
    let config = ingest::Config {
        udp_listen: ingest.udp_listen,
        tcp_listen: ingest.tcp_listen,
        shards: shards(settings),
        head_end_title: SystemTitle(title),
        command_title: commands::title(SystemTitle(title)),
        udp_receive_buffer_bytes: ingest.receive_buffer_bytes as usize,
        udp_coalesce: true,
        frame_bytes_max: ingest.frame_bytes_max as usize,
        entries_max: ingest.entries_max as usize,
        age_ms_max: u64::from(ingest.age_ms_max),
        batches_in_flight_max: IN_FLIGHT_MAX,
        connections_max: ingest.connections_max,
        files_reserved: 512,
        sessions_max: ingest.connections_max,
        failures: ingest::FailureLimit { burst: per_minute, per_s: per_minute.div_ceil(60) },
        hello_ms_max: u64::from(ingest.hello_s) * 1000,
        frame_age_ms_max: u64::from(ingest.partial_frame_s) * 1000,
        idle_ms_max: u64::from(ingest.idle_s) * 1000,
        out_bytes_max: 1 << 20,
    };
    let began = clock::instant();
    let clocks =
        ingest::Clock { wall: Arc::clone(now), monotonic: Arc::new(move || began.elapsed()) };
    let templates = Arc::new(Templates::built_in());
    Ok(Ingest::bind(config, directory, templates, clocks, wires.shard_logs())?)
}
