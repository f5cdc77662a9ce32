//! What a self-test session costs beside its traffic, phase by phase: two agents' ends of the control channel in this process, over TLS
//! on loopback, with the agent's own children. `scripts/bench-transfer.sh` runs it.
//!
//! `session AGENT ROUNDS NAME UCX_TLS [UCX_FOLDER]`: a row for each phase, medians with the smallest and the largest.

use std::{
    collections::BTreeMap,
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, bail};
use node_agent::selftest::{
    child::Transfer,
    gate::Gate,
    session::{Answer, Child, Dial, Fingerprint, Host, Identity, Listener, Reason, Refusals, Served, call},
};
use policies::selftest::{
    FailureKind, Integrity, Limits, Measurement, Memory, MemoryPair, Op, Report, Role, Said, Terms, UcxUsed,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Notify,
};

/// As the agent proposes by default.
const OPS: [Op; 4] = [Op::Put, Op::Get, Op::Tag, Op::Latency];
const SIZES: [u64; 2] = [1 << 20, 32 << 20];
const SECONDS_EACH: f64 = 0.2;
/// What a child without UCX says for its worker's address: as much as UCX 1.22's over TCP with one interface.
const WORD: usize = 300;

/// When things happened, in seconds since the call, in the order of the phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    /// The called side knows the caller by its certificate: TLS and the hello are over.
    Known,
    /// The caller has heard that it is accepted.
    Accepted,
    /// The caller's child has heard the other one's address.
    Met,
    /// The caller's child reports.
    Reported,
    /// The call is over.
    Over,
}

#[derive(Debug, Clone)]
struct Clock(Arc<(Instant, Mutex<BTreeMap<Mark, f64>>)>);

impl Clock {
    fn start() -> Self {
        Self(Arc::new((Instant::now(), Mutex::default())))
    }

    /// The first time counts.
    fn mark(&self, mark: Mark) {
        let now = self.0.0.elapsed().as_secs_f64();
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner).entry(mark).or_insert(now);
    }

    fn at(&self, mark: Mark) -> Option<f64> {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner).get(&mark).copied()
    }
}

/// A transfer, or a child that exchanges addresses and reports at once: what is left is the channel's.
enum Work {
    Real(Box<Transfer>),
    Idle { word: Option<String>, told: Arc<Notify> },
}

struct Timed {
    work: Work,
    /// The caller's.
    clock: Option<Clock>,
}

impl Timed {
    fn start(kind: &Kind, clock: Option<Clock>, order: policies::selftest::Order) -> Self {
        let work = match kind {
            Kind::Transfer { agent, ucx, .. } => Work::Real(Box::new(Transfer::start_with(agent, order, ucx))),
            Kind::Channel => Work::Idle { word: Some("x".repeat(WORD)), told: Arc::default() },
        };
        Self { work, clock }
    }

    fn mark(&self, mark: Mark) {
        if let Some(clock) = &self.clock {
            clock.mark(mark);
        }
    }
}

impl Child for Timed {
    async fn say(&mut self, from_peer: String) {
        self.mark(Mark::Met);
        match &mut self.work {
            Work::Real(transfer) => transfer.say(from_peer).await,
            Work::Idle { told, .. } => told.notify_one(),
        }
    }

    async fn next(&mut self) -> Said {
        let said = match &mut self.work {
            Work::Real(transfer) => transfer.next().await,
            Work::Idle { word, told } => {
                if let Some(word) = word.take() {
                    Said::ToPeer(word)
                } else {
                    told.notified().await;
                    Said::Report(Box::new(report()))
                }
            }
        };
        if matches!(said, Said::Report(_)) {
            self.mark(Mark::Reported);
        }
        said
    }

    async fn fail(self, kind: FailureKind, message: String) -> Report {
        match self.work {
            Work::Real(transfer) => transfer.fail(kind, message).await,
            Work::Idle { .. } => report(),
        }
    }
}

fn report() -> Report {
    Report {
        transport: None,
        lanes: Vec::new(),
        evidence: Vec::new(),
        memory: MemoryPair { local: Memory::Host, remote: Memory::Host },
        integrity: Integrity::Ok,
        sizes: Vec::new(),
        counters: Vec::new(),
        ucx: UcxUsed::default(),
        seconds: 0.0,
        failure: None,
    }
}

/// What is measured.
#[derive(Debug, Clone)]
enum Kind {
    /// The channel alone.
    Channel,
    /// A transfer over it.
    Transfer { agent: PathBuf, ucx: Vec<PathBuf>, tls: String },
}

impl Kind {
    fn env(&self) -> BTreeMap<String, String> {
        match self {
            Self::Channel => BTreeMap::new(),
            Self::Transfer { tls, .. } => BTreeMap::from([("UCX_TLS".to_owned(), tls.clone())]),
        }
    }
}

struct Called {
    kind: Kind,
    caller: Fingerprint,
    clock: Mutex<Clock>,
}

impl Called {
    fn clock(&self) -> Clock {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Host for Called {
    type Child = Timed;

    fn name(&self) -> &'static str {
        "called"
    }

    async fn certificate(&self, _: &str, _: bool) -> Option<Fingerprint> {
        self.clock().mark(Mark::Known);
        Some(self.caller)
    }

    async fn answer(&self, _: &str, terms: &Terms, secret: &str) -> Result<Answer<Timed>, (Reason, String)> {
        let order = terms.order(Role::Target, secret, Memory::Host, self.kind.env());
        Ok(Answer { child: Timed::start(&self.kind, None, order), terms: terms.clone() })
    }

    async fn stop(&self, _: &Terms) -> String {
        std::future::pending().await
    }

    async fn served(&self, _: Served) {}
}

/// Nanoseconds that this thread, which has both agents' ends, was on a processor.
fn on_processor() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").context("reading /proc/thread-self/schedstat")?;
    let first = text.split(' ').next().context("/proc/thread-self/schedstat is empty")?;
    Ok(first.parse::<f64>()? / 1e9)
}

/// One session's figures by phase: seconds, and bytes.
struct Session {
    phases: Vec<(&'static str, f64)>,
    bytes: u64,
    processor: f64,
}

/// Passes a session on, counting its bytes both ways.
async fn counted(from: &TcpListener, to: SocketAddr) -> anyhow::Result<u64> {
    let (mut one, _) = from.accept().await?;
    let mut other = TcpStream::connect(to).await?;
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    let (up, down) = copy_bidirectional(&mut one, &mut other).await?;
    Ok(up + down)
}

/// Seconds of measured traffic; what warms up before it, fills, checks and compares is not in it.
#[expect(clippy::cast_precision_loss, reason = "a share is shown")]
fn traffic(sizes: &[Measurement]) -> f64 {
    let each = |size: &Measurement| match size.op {
        Op::Latency => 2e-6 * size.usec * size.iterations as f64,
        Op::Put | Op::Get | Op::Tag => size.bytes as f64 * size.iterations as f64 / (size.gbytes_per_s * 1e9),
    };
    sizes.iter().map(each).sum()
}

async fn session(kind: &Kind, through: Option<&TcpListener>) -> anyhow::Result<Session> {
    let (own, target) = (Identity::generate()?, Identity::generate()?);
    let listener = Listener::bind("127.0.0.1:0".parse()?, &target, Gate::default(), Refusals::default()).await?;
    let address = listener.address()?;
    let host = Called { kind: kind.clone(), caller: own.fingerprint(), clock: Mutex::new(Clock::start()) };
    let host = Arc::new(host);
    let serving = tokio::spawn(listener.serve(Arc::clone(&host)));
    let dialled = through.map_or(Ok(address), TcpListener::local_addr)?;
    let dial = Dial { me: "caller".into(), to: "called".into(), address: dialled, certificate: target.fingerprint() };
    let limits = Limits { seconds_each: SECONDS_EACH, ..Limits::default() };
    let terms = Terms { profile: "tcp".into(), memory: Memory::Host, ops: OPS.to_vec(), sizes: SIZES.to_vec(), limits };

    let clock = Clock::start();
    *host.clock.lock().unwrap_or_else(PoisonError::into_inner) = clock.clone();
    let start = |terms: &Terms, secret: &str| {
        clock.mark(Mark::Accepted);
        let order = terms.order(Role::Initiator, secret, Memory::Host, kind.env());
        Ok(Timed::start(kind, Some(clock.clone()), order))
    };
    let before = on_processor()?;
    let counting = async {
        match through {
            Some(proxy) => counted(proxy, address).await,
            None => Ok(0),
        }
    };
    let calling = async {
        let met = call(&own, &dial, &terms, start, std::future::pending()).await;
        clock.mark(Mark::Over);
        met
    };
    let (met, bytes) = tokio::join!(calling, counting);
    let processor = on_processor()? - before;
    serving.abort();
    let report = met?.reports.own;
    if let Some(failure) = report.failure {
        bail!("the transfer failed: {}", failure.message);
    }
    let at = |mark: Mark| clock.at(mark).with_context(|| format!("the session had no {mark:?}"));
    let marks = [
        ("TCP, TLS 1.3 and hello", 0.0, at(Mark::Known)?),
        ("accepted", at(Mark::Known)?, at(Mark::Accepted)?),
        ("addresses exchanged", at(Mark::Accepted)?, at(Mark::Met)?),
        ("until the report", at(Mark::Met)?, at(Mark::Reported)?),
        ("reports and goodbye", at(Mark::Reported)?, at(Mark::Over)?),
        ("whole", 0.0, at(Mark::Over)?),
    ];
    let phases = marks.into_iter().map(|(name, from, to)| (name, to - from));
    let measured = (!report.sizes.is_empty()).then(|| ("of it measured traffic", traffic(&report.sizes)));
    let phases = phases.chain(measured).collect();
    Ok(Session { phases, bytes: bytes?, processor })
}

fn row(name: &str, of: &str, phase: &str, unit: &str, mut values: Vec<f64>) {
    values.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (values.first(), values.last()) else { return };
    let spread = format!("{least:.2}–{most:.2}");
    println!("{name:<7} {of:<14} {phase:<24} {unit:>4} {:>9.2} {spread:>19}", values[values.len() / 2]);
}

async fn table(name: &str, of: &str, kind: &Kind, rounds: usize) -> anyhow::Result<()> {
    let proxy = TcpListener::bind("127.0.0.1:0").await?;
    #[expect(clippy::cast_precision_loss, reason = "kilobytes")]
    let bytes = session(kind, Some(&proxy)).await?.bytes as f64;
    let mut phases: BTreeMap<usize, (&str, Vec<f64>)> = BTreeMap::new();
    let mut processor = Vec::new();
    for _ in 0..rounds {
        let found = session(kind, None).await?;
        processor.push(found.processor * 1e3);
        for (place, (phase, seconds)) in found.phases.into_iter().enumerate() {
            phases.entry(place).or_insert_with(|| (phase, Vec::new())).1.push(seconds * 1e3);
        }
    }
    for (phase, values) in phases.into_values() {
        row(name, of, phase, "ms", values);
    }
    row(name, of, "processor, both agents", "ms", processor);
    row(name, of, "bytes, both ways", "kB", vec![bytes / 1e3]);
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    daemon::install_crypto()?;
    let args: Vec<String> = env::args().skip(1).collect();
    let [agent, rounds, name, tls, ucx @ ..] = args.as_slice() else {
        bail!("usage: session AGENT ROUNDS NAME UCX_TLS [UCX_FOLDER]");
    };
    let rounds = rounds.parse().context("ROUNDS is a number")?;
    let kind = Kind::Transfer {
        agent: Path::new(agent).canonicalize().with_context(|| format!("finding {agent}"))?,
        ucx: ucx.iter().map(PathBuf::from).collect(),
        tls: tls.clone(),
    };
    if tls == "none" {
        return table(name, "channel alone", &Kind::Channel, rounds).await;
    }
    table(name, tls, &kind, rounds).await
}
