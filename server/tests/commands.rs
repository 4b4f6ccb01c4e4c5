//! Commands on their whole way: registry, service, shards, real sockets, and the simulator's meters,
//! direct over UDP and behind a gateway over TCP, through a network that loses frames.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ingest::{Answer, Batch, Directory, Ingest, NotTaken, Registration, Running, Verdict, Waker};
use loadgen::driver::{Clocks, DriverConfig, TcpFleet, UdpFleet};
use loadgen::faults::FaultPlan;
use loadgen::profile::Load;
use loadgen::{Identity, MeterClock, MeterPlan, Retry, Seed, VirtualGateway, VirtualMeter, World};
use meter::wire::dlms::Templates;
use meter::{
    Command, CommandOutcome, ControlState, Current, Energy, Entry, GatewayId, MeterId, MeterRecord,
    Role, SystemTitle, TokenDigits, TransformerId, UnixSeconds, Voltage,
};
use server::commands::{self, Patience, Service};
use storage::registry::{Config, DeviceKeys, NewCommand, NewGateway, NewMeter, Registry};
use sts::{
    DecoderKey, KeyExpiryNumber, KeyRevisionNumber, KeyType, MeterConfig, Rnd, Sta,
    SupplyGroupCode, TariffIndex, Tid, Token, TokenCipher, TransferAmount, VendingKeyId, encode,
};

const START: UnixSeconds = UnixSeconds(1_790_000_100);
const HEAD_END: SystemTitle = SystemTitle(*b"MTDHEAD1");
/// Long enough for every retry of a test.
const EXPIRES_IN_S: u32 = 100_000_000;
const DECODER_KEY: &str = "87f3ecbb2e46b48f";

/// A log that finds everything durable at once.
#[derive(Default)]
struct InstantLog {
    answers: VecDeque<Answer>,
    waker: Arc<OnceLock<Waker>>,
    entries: Arc<Mutex<Vec<Entry>>>,
}

impl ingest::Log for InstantLog {
    fn submit(&mut self, batch: Batch) -> Result<(), NotTaken> {
        self.answers.push_back(Answer { ticket: batch.ticket, verdict: Verdict::Durable });
        self.entries.lock().unwrap().extend(batch.entries);
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
        Ok(())
    }

    fn answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    fn recycled(&mut self) -> Option<Vec<Entry>> {
        None
    }
}

/// The simulator on a thread of its own; gives the meters back when it stops.
struct Fleet {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(UdpFleet, TcpFleet)>,
}

#[expect(clippy::disallowed_methods, reason = "tests keep the time of the simulator")]
fn clocks() -> Clocks {
    let began = Instant::now();
    // A minute a second, so that meters speak all the time.
    let fast_ms = move || u64::try_from(began.elapsed().as_millis()).unwrap() * 60;
    Clocks {
        time_ms: Arc::new(move || u64::from(START.0) * 1000 + fast_ms()),
        wall: Arc::new(move || began.elapsed()),
    }
}

fn world() -> World {
    let retry = Retry { first: Duration::from_millis(50), max: Duration::from_millis(200) };
    World { seed: Seed(5), retry, window: 4, pace: 60 }
}

fn plan(ordinal: u32) -> MeterPlan {
    MeterPlan {
        ordinal,
        load: Load { site: 31, days_ahead: 0, scale_milli: 1000 },
        phases: 1,
        first: START,
        last: START.plus(86_400),
        period_s: 60,
        send_delay_s: 0,
        start: Energy::from_wh(0),
        register_digits: 6,
        clock: MeterClock::default(),
    }
}

/// A meter by its ordinal; the second has a token meter.
fn meter(ordinal: u32) -> VirtualMeter {
    let mut meter = VirtualMeter::new(&world(), plan(ordinal));
    if ordinal == 2 {
        meter.fit_token_meter(token_meter());
    }
    meter
}

impl Fleet {
    /// Meters 1 and 2 direct; 3 (read by the gateway) and 4 (passed through) behind gateway 1.
    fn start(udp: SocketAddr, tcp: SocketAddr, clocks: Clocks, faults: FaultPlan) -> Self {
        let config = DriverConfig {
            node: udp,
            sockets: 1,
            receive_buffer_bytes: 1 << 18,
            faults_up: faults,
            faults_down: faults,
            smear_ms: 0,
            reconnect: Duration::from_millis(20),
        };
        let direct = vec![meter(1), meter(2)];
        let mut udp = UdpFleet::new(&config, world(), direct, clocks.clone()).unwrap();
        let gateway = VirtualGateway::new(&world(), 1, vec![meter(3), meter(4)], 1);
        let config = DriverConfig { node: tcp, ..config };
        let mut tcp = TcpFleet::new(&config, world(), vec![gateway], clocks).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                udp.step(Duration::from_millis(1)).unwrap();
                tcp.step(Duration::from_millis(1)).unwrap();
            }
            (udp, tcp)
        });
        Self { stop, thread }
    }

    /// Commands that changed something, by ordinal of the meter.
    fn changes(self) -> Vec<(u32, u32)> {
        self.stop.store(true, Ordering::Relaxed);
        let (udp, tcp) = self.thread.join().unwrap();
        let behind = tcp.gateways().flat_map(VirtualGateway::meters);
        let all = udp.meters().iter().chain(behind);
        all.map(|meter| (meter.plan().ordinal, meter.changes())).collect()
    }
}

struct Node {
    registry: Arc<Registry>,
    running: Running,
    service: tokio::task::JoinHandle<()>,
    clocks: Clocks,
}

impl Node {
    async fn start(folder: &Path) -> Self {
        let config = Config {
            path: folder.join("registry.sqlite"),
            master_key_path: folder.join("master.key"),
            readers: 2,
        };
        let registry = Arc::new(Registry::open(&config).await.unwrap());
        let directory = Arc::new(Directory::new(16));
        register(&registry, &directory).await;
        let clocks = clocks();
        let (time, steady) = (clocks.clone(), Arc::clone(&clocks.wall));
        let wall: server::clock::Now = Arc::new(move || time.now().clock);
        let clock = ingest::Clock { wall: Arc::clone(&wall), monotonic: steady };
        let log = InstantLog::default();
        let waker = Arc::clone(&log.waker);
        let templates = Arc::new(Templates::built_in());
        let tier = Ingest::bind(ingest_config(), directory, templates, clock, vec![Box::new(log)]);
        let tier = tier.unwrap();
        waker.set(tier.wakers().remove(0)).unwrap();
        let (port, errands) = commands::ports(tier.wakers());
        let running = tier.with_errands(errands).spawn().unwrap();
        let patience = Patience {
            answer_max: Duration::from_millis(150),
            pause_first: Duration::from_millis(20),
            pause_max: Duration::from_millis(100),
        };
        let service = Service::new(Arc::clone(&registry), port, wall, patience);
        Self { registry, running, service: tokio::spawn(service.run()), clocks }
    }

    fn fleet(&self, faults: FaultPlan) -> Fleet {
        let bound = self.running.bound();
        Fleet::start(bound.udp, bound.tcp, self.clocks.clone(), faults)
    }

    async fn command(&self, key: &str, meter: u32, command: Command) -> CommandOutcome {
        let at = START;
        let new = NewCommand {
            key: key.to_owned(),
            meter: MeterId(meter),
            command,
            at,
            expires_at: at.plus(EXPIRES_IN_S),
            actor: 0,
        };
        let row = self.registry.command(&new).await.unwrap();
        let outcome = self.registry.command_outcome(row.id);
        tokio::time::timeout(Duration::from_secs(60), outcome).await.unwrap().unwrap()
    }

    async fn stop(self) -> ingest::Stats {
        self.service.abort();
        let running = self.running;
        tokio::task::spawn_blocking(move || running.shutdown(Duration::from_secs(5))).await.unwrap()
    }
}

fn keys(identity: &Identity) -> DeviceKeys {
    let keys = identity.keys();
    DeviceKeys { encryption: *keys.encryption, authentication: *keys.authentication }
}

async fn register(registry: &Registry, directory: &Directory) {
    let templates = Templates::built_in();
    let template = |name| templates.find(name).unwrap().0;
    let gateway = Identity::of_gateway(Seed(5), 1);
    let new = NewGateway {
        title: gateway.title(),
        name: String::new(),
        template: Templates::BATCH.to_owned(),
        keys: keys(&gateway),
    };
    registry.add_gateway(&new).await.unwrap();
    let device = |identity: &Identity, device, name, behind| Registration {
        title: identity.title(),
        encryption_key: *identity.keys().encryption,
        authentication_key: *identity.keys().authentication,
        device,
        template: template(name),
        behind,
    };
    let kind = ingest::Device::Gateway(GatewayId(1));
    directory.register(&device(&gateway, kind, Templates::BATCH, GatewayId::NONE)).unwrap();
    for ordinal in 1..=4 {
        let identity = Identity::of_meter(Seed(5), ordinal);
        let behind = if ordinal > 2 { GatewayId(1) } else { GatewayId::NONE };
        let new = NewMeter {
            serial: ordinal.to_string(),
            title: identity.title(),
            model: "MTD-1".to_owned(),
            template: Templates::SINGLE.to_owned(),
            record: MeterRecord {
                meter: MeterId::NONE,
                role: Role::Consumer,
                transformer: TransformerId::NONE,
                gateway: behind,
                current_max: Current::from_ma(60_000),
                voltage_nominal: Voltage::from_mv(230_000),
                phases: 1,
                register_digits: 6,
                period_s: 60,
            },
            keys: keys(&identity),
        };
        let (row, _) = registry.add_meter(&new).await.unwrap();
        let kind = ingest::Device::Meter(row.record.meter);
        directory.register(&device(&identity, kind, Templates::SINGLE, behind)).unwrap();
    }
}

fn ingest_config() -> ingest::Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    ingest::Config {
        udp_listen: any,
        tcp_listen: any,
        shards: 1,
        head_end_title: HEAD_END,
        command_title: commands::title(HEAD_END),
        udp_receive_buffer_bytes: 1 << 20,
        udp_coalesce: true,
        frame_bytes_max: 8192,
        entries_max: 64,
        age_ms_max: 5,
        batches_in_flight_max: 64,
        connections_max: 100,
        files_reserved: 64,
        sessions_max: 100,
        failures: ingest::FailureLimit { burst: 1000, per_s: 1000 },
        hello_ms_max: 60_000,
        frame_age_ms_max: 60_000,
        idle_ms_max: 60_000,
        out_bytes_max: 1 << 16,
    }
}

fn token_meter() -> sts::meter::VirtualMeter {
    let key = decoder_key();
    let config = sts::meter::Config {
        meter: MeterConfig {
            pan: "600727000000000009".parse().unwrap(),
            ea: key.algorithm(),
            key: VendingKeyId {
                sgc: SupplyGroupCode::new(201_457).unwrap(),
                kt: KeyType::Unique,
                krn: KeyRevisionNumber::new(1).unwrap(),
            },
            ti: TariffIndex::new(1).unwrap(),
        },
        ken: KeyExpiryNumber::NEVER,
        service: sts::Service::Electricity,
        sta: Sta::sample(),
        tid_count: 50,
        start: Tid::new(1000).unwrap(),
        units_max: 1_000_000,
        currency_steps_max: 1_000_000,
        key_change_timeout_s: 600,
        lockout: None,
    };
    sts::meter::VirtualMeter::new(config, key)
}

fn decoder_key() -> DecoderKey {
    DecoderKey::from_hex(DECODER_KEY).unwrap()
}

/// A credit token for the token meter.
fn token(minute: u32) -> TokenDigits {
    let token = Token::Credit {
        service: sts::Service::Electricity,
        rnd: Rnd::from_low_bits(5),
        tid: Tid::new(minute).unwrap(),
        amount: TransferAmount::parse("12.5", 1).unwrap(),
    };
    let cipher = TokenCipher::new(&decoder_key(), Sta::sample());
    TokenDigits::new(encode(&token, &cipher).digits()).unwrap()
}

const OPEN: CommandOutcome = CommandOutcome::Relay { state: ControlState::Disconnected };
const CLOSED: CommandOutcome = CommandOutcome::Relay { state: ControlState::Connected };

#[tokio::test(flavor = "multi_thread")]
async fn commands_reach_meters_on_every_way() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path()).await;
    let fleet = node.fleet(FaultPlan::default());
    for meter in 1..=4 {
        let key = |what| format!("{what}-{meter}");
        assert_eq!(node.command(&key("cut"), meter, Command::Disconnect).await, OPEN, "{meter}");
        assert_eq!(node.command(&key("read"), meter, Command::ReadRelay).await, OPEN, "{meter}");
        assert_eq!(node.command(&key("mend"), meter, Command::Reconnect).await, CLOSED, "{meter}");
        // The same key is the same command.
        assert_eq!(node.command(&key("cut"), meter, Command::Disconnect).await, OPEN, "{meter}");
    }
    let entered = |status, data| CommandOutcome::Token { status, data, entered_again: false };
    let token = Command::Token(token(2000));
    assert_eq!(node.command("token", 2, token).await, entered(3, 1), "accepted");
    assert_eq!(node.command("again", 2, token).await, entered(6, 10), "used");
    // A meter without token gateway.
    assert_eq!(node.command("none", 1, token).await, CommandOutcome::Refused { code: 4 });
    assert_eq!(fleet.changes(), [(1, 2), (2, 4), (3, 2), (4, 2)]);
    let stats = node.stop().await;
    assert!(stats.requests > 0 && stats.outcome(ingest::Outcome::Answered) > 0, "{stats:?}");
}

/// A quarter of the frames is lost each way, so most attempts break off, many of them between the
/// switching and its answer: each command must still be carried out exactly once.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_is_looked_up_and_not_done_twice() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path()).await;
    let fleet = node.fleet(FaultPlan { loss: 250, ..FaultPlan::default() });
    for round in 0..2 {
        let key = |what| format!("{what}-{round}");
        assert_eq!(node.command(&key("cut"), 2, Command::Disconnect).await, OPEN);
        assert_eq!(node.command(&key("mend"), 2, Command::Reconnect).await, CLOSED);
        let token = Command::Token(token(3000 + round));
        let outcome = node.command(&key("token"), 2, token).await;
        let is_taken = matches!(outcome, CommandOutcome::Token { status: 3, .. });
        assert!(is_taken, "{outcome:?}");
    }
    assert_eq!(fleet.changes()[1], (2, 6), "two disconnects, reconnects and tokens");
    node.stop().await;
}

/// A meter that sleeps: the command waits, is reached when the meter speaks, and can be withdrawn
/// or expires before.
#[tokio::test(flavor = "multi_thread")]
async fn the_mailbox_waits_for_the_meter() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path()).await;
    let new = |key: &str, meter, expires_in_s| NewCommand {
        key: key.to_owned(),
        meter: MeterId(meter),
        command: Command::Disconnect,
        at: node.clocks.now().clock,
        expires_at: node.clocks.now().clock.plus(expires_in_s),
        actor: 0,
    };
    let kept = node.registry.command(&new("kept", 1, EXPIRES_IN_S)).await.unwrap();
    let void = node.registry.command(&new("void", 2, EXPIRES_IN_S)).await.unwrap();
    let short = node.registry.command(&new("short", 3, 30)).await.unwrap();
    node.registry.withdraw_command(void.id).await.unwrap();
    let outcome = node.registry.command_outcome(void.id).await.unwrap();
    assert_eq!(outcome, CommandOutcome::Withdrawn);
    let outcome = node.registry.command_outcome(short.id).await.unwrap();
    assert_eq!(outcome, CommandOutcome::Expired { sent: false });
    assert_eq!(node.registry.command_by_id(kept.id).await.unwrap().ended, None);
    let fleet = node.fleet(FaultPlan::default());
    assert_eq!(node.registry.command_outcome(kept.id).await.unwrap(), OPEN);
    assert_eq!(fleet.changes(), [(1, 1), (2, 0), (3, 0), (4, 0)]);
    node.stop().await;
}
