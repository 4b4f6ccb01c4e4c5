//! Opening the data folder: log, spool, snapshot, books; the replay that makes them agree.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use dataflow::{Engine, EngineError, SNAPSHOT_VERSION, SnapshotError, Windows};
use meter::{Effects, OrderRow, Recall, Seq, Stored, UnixSeconds};
use storage::log::{self, Directory, Durability, Reader, SegmentLog, WritePath};
use storage::snapshot::{self, Snapshots};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::archive::{self, Keeper, Retire};
use crate::books::{
    Books, Cadence, LastSnapshot, SECTION_BOOKS, SECTION_RECALLS, SECTION_TICK, SECTION_VIEWS,
};
use crate::clock;
use crate::config::Settings;
use crate::cursor::{Cursor, Place};
use crate::sink;
use crate::spool::Spool;
use crate::views::{Readers, Views};
use crate::watchdog::Pulse;

/// Alarms that may be on at a time.
pub(crate) const ALARMS_MAX: usize = 1_000_000;
/// Retired segments kept for use again.
const SPARES_MAX: usize = 4;

/// What an opened data folder gives.
pub(super) struct Opened {
    pub(super) log: SegmentLog,
    pub(super) books: Books,
    /// The newest tick of the log.
    pub(super) ticked: UnixSeconds,
    pub(super) readers: Readers,
    pub(super) windows: Windows,
    pub(super) sink: SinkPlace,
    pub(super) keeper: Option<Keeper>,
}

/// Where the sink goes on.
pub(super) struct SinkPlace {
    pub(super) cursor: Cursor,
    pub(super) place: Place,
    pub(super) reader: Reader,
    pub(super) progress: Arc<sink::Progress>,
    pub(super) spool: Arc<log::Progress>,
}

/// Where the books tell what they did and do.
pub(super) struct Outlets {
    pub(super) recalls: UnboundedSender<Recall>,
    pub(super) orders: UnboundedSender<OrderRow>,
    pub(super) applied: watch::Sender<Seq>,
    pub(super) pulse: Pulse,
}

/// Makes the data folder, with a message that names it where that fails.
pub(super) fn data_folder(settings: &Settings) -> anyhow::Result<()> {
    let folder = &settings.node.data_dir;
    fs::create_dir_all(folder).with_context(|| {
        let shown = folder.display();
        format!("cannot make the data folder {shown}; check its rights, or set node.data_dir")
    })
}

/// Opens everything of the data folder but the registry, and replays the log.
pub(super) fn open(settings: &Settings, outlets: Outlets) -> anyhow::Result<Opened> {
    let folder = &settings.node.data_dir;
    let log = open_log(settings, "log", Durability::Synced)?;
    let spool = open_log(settings, "spool", Durability::Lazy)?;
    let disk = Directory::open(&folder.join("snapshots"), WritePath::Buffered)
        .context("cannot open the snapshots' folder")?;
    let snapshots = Snapshots::new(Arc::new(disk));
    let (mut views, readers) = Views::new(ALARMS_MAX);
    let Restored { engine, next, ticked, unanswered } =
        restore(workers(settings), &snapshots, &mut views)?;

    let cursor = Cursor::new(folder);
    let place = cursor.load().context("cannot read the sink's cursor")?;
    let progress = sink::Progress::new(place.next);
    let sink = SinkPlace {
        cursor,
        place,
        reader: spool.read_from(place.next),
        progress: Arc::clone(&progress),
        spool: spool.progress(),
    };
    let retire = Retire::new(log.progress(), archived_at_start(settings));
    let archive = archive::open(settings)?;
    // Where no snapshot reaches what the log still has, the archive has the rest.
    let reader = match &archive {
        Some(archive) if next < log.first() => {
            warn!(from = next.0, "the books are computed again from the archive; it takes longer");
            log.read_through(Arc::new(archive.before(log.disk())), next)
        }
        Some(_) | None => log.read_from(next),
    };
    let keeper = archive.map(|archive| Keeper::new(archive, settings, log.disk(), &retire));
    let mut books = Books {
        engine,
        next,
        ticked,
        spool: Spool::new(spool),
        snapshots,
        views,
        recalls: outlets.recalls,
        orders: outlets.orders,
        unanswered: unanswered.into_iter().map(|recall| (recall.meter, recall)).collect(),
        applied: outlets.applied,
        sunk: progress,
        retire,
        pulse: outlets.pulse,
        cadence: Cadence {
            entries: settings.node.snapshot_entries,
            age: Duration::from_secs(settings.node.snapshot_s),
        },
        last: LastSnapshot { next, at: clock::instant() },
        saving: None,
        under_way: VecDeque::new(),
        effects: Effects::default(),
    };
    books.replay(reader)?;
    let (windows, ticked) = (books.engine.windows(), books.ticked);
    Ok(Opened { log, books, ticked, readers, windows, sink, keeper })
}

/// With an archive nothing is given up before the archive's thread has looked.
fn archived_at_start(settings: &Settings) -> Seq {
    if archive::is_wanted(settings) { Seq(0) } else { Seq(u64::MAX) }
}

/// The dataflow as of a snapshot.
pub(crate) struct Restored {
    pub(crate) engine: Engine,
    pub(crate) next: Seq,
    pub(crate) ticked: UnixSeconds,
    pub(crate) unanswered: Vec<Recall>,
}

/// The dataflow and the views as of the newest good snapshot, or empty.
pub(crate) fn restore(
    workers: usize,
    snapshots: &Snapshots,
    views: &mut Views,
) -> anyhow::Result<Restored> {
    let config = dataflow::Config { workers };
    let empty = || {
        let engine = Engine::start(&config, None)?;
        let (next, ticked) = (Seq(1), UnixSeconds::default());
        anyhow::Ok(Restored { engine, next, ticked, unanswered: Vec::new() })
    };
    let Some(loaded) = snapshots.load()? else { return empty() };
    for error in &loaded.passed_over {
        warn!(%error, "a damaged snapshot is passed over; the replay is longer");
    }
    let snapshot = loaded.snapshot;
    let books = snapshot.section(SECTION_BOOKS)?;
    let engine = match Engine::start(&config, Some(&books[..])) {
        Err(EngineError::Snapshot(SnapshotError::Version { found }))
            if found < SNAPSHOT_VERSION =>
        {
            warn!(found, "an older version wrote the snapshot; the books are computed again");
            return empty();
        }
        started => started?,
    };
    views
        .restore(&snapshot.section(SECTION_VIEWS)?)
        .context("the views in the snapshot do not read; move the folder snapshots/ away")?;
    let unanswered = Stored::take(&mut &snapshot.section(SECTION_RECALLS)?[..])
        .context("the recalls in the snapshot do not read; move the folder snapshots/ away")?;
    let ticked = match snapshot.section(SECTION_TICK) {
        Ok(tick) => Stored::take(&mut &tick[..])
            .context("the tick in the snapshot does not read; move the folder snapshots/ away")?,
        Err(snapshot::Error::NoSection { .. }) => UnixSeconds::default(),
        Err(error) => return Err(error.into()),
    };
    info!(next = snapshot.next.0, "snapshot loaded");
    Ok(Restored { engine, next: snapshot.next, ticked, unanswered })
}

fn open_log(settings: &Settings, name: &str, durability: Durability) -> anyhow::Result<SegmentLog> {
    let path = settings.node.data_dir.join(name);
    let disk = Directory::open(&path, write_path(durability))
        .with_context(|| format!("cannot open {}; check its rights", path.display()))?;
    let config = log::Config {
        segment_size_bytes: settings.log.segment_bytes,
        reserve_segments: usize::try_from(
            settings.log.reserve_bytes.div_ceil(settings.log.segment_bytes),
        )
        .unwrap_or(1),
        spares_max: SPARES_MAX,
        durability,
        node: 1,
        epoch: 1,
    };
    let opened_at_s = clock::unix_ms() / 1000;
    let (log, recovery) = SegmentLog::open(Arc::new(disk), config, opened_at_s)
        .with_context(|| format!("cannot open {}", path.display()))?;
    info!(name, first = recovery.first.0, next = recovery.next.0, "opened");
    Ok(log)
}

/// Direct writes where each commit is synced: faster than buffered ones in five of six runs on ext4,
/// and the file system that cannot do them falls back by itself.
const fn write_path(durability: Durability) -> WritePath {
    match durability {
        Durability::Synced => WritePath::Direct,
        Durability::Lazy => WritePath::Buffered,
    }
}

fn workers(settings: &Settings) -> usize {
    match settings.books.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => usize::from(count),
    }
}

/// The path of a file in the data folder.
pub(super) fn within(settings: &Settings, name: &str) -> std::path::PathBuf {
    Path::new(&settings.node.data_dir).join(name)
}
