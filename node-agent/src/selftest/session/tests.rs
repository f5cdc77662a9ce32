//! Whole sessions over TLS on loopback, with scripted children and peers that do what they should not.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use policies::selftest::{
    Failure, FailureKind, Integrity, Limits, Memory, MemoryPair, Op, Report, Said, Terms, UcxUsed,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    identity::random_hex,
    wire::{Channel, Hello, Message},
    *,
};
use crate::selftest::gate::Gate;

mod faults;

/// A child that says what it is told to: its address, then its report once it has the other's address.
struct Scripted {
    said: mpsc::UnboundedReceiver<Said>,
    told: mpsc::UnboundedSender<String>,
    alive: Arc<AtomicUsize>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Script {
    /// Exchanges addresses and reports.
    Good,
    /// Never reports.
    Hangs,
}

impl Scripted {
    fn start(script: Script, name: &str, alive: &Arc<AtomicUsize>) -> Self {
        let (says, said) = mpsc::unbounded_channel();
        let (told, mut ears) = mpsc::unbounded_channel::<String>();
        let address = format!("address of {name}");
        alive.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let _ = says.send(Said::ToPeer(address));
            let _ = says.send(Said::Progress { step: 1, of: 1, doing: "get 4 KiB".into() });
            let heard = ears.recv().await.unwrap_or_default();
            match script {
                Script::Good => {
                    let _ = says.send(Said::Report(Box::new(report(&heard))));
                    ears.recv().await;
                }
                Script::Hangs => while ears.recv().await.is_some() {},
            }
        });
        Self { said, told, alive: Arc::clone(alive) }
    }
}

impl Child for Scripted {
    async fn say(&mut self, from_peer: String) {
        let _ = self.told.send(from_peer);
    }

    async fn next(&mut self) -> Said {
        match self.said.recv().await {
            Some(said) => said,
            None => std::future::pending().await,
        }
    }

    async fn fail(self, kind: FailureKind, message: String) -> Report {
        Report { failure: Some(Failure { kind, message, remedy: String::new() }), ..report("") }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

fn report(evidence: &str) -> Report {
    Report {
        transport: Some("tcp/eth0".into()),
        lanes: vec!["tcp/eth0".into()],
        evidence: vec![evidence.into()],
        memory: MemoryPair { local: Memory::Host, remote: Memory::Host },
        integrity: Integrity::Ok,
        sizes: Vec::new(),
        counters: Vec::new(),
        ucx: UcxUsed::default(),
        seconds: 0.1,
        failure: None,
    }
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A node that is called `target`, and knows of one caller.
struct Target {
    script: Script,
    known: Mutex<BTreeMap<String, Fingerprint>>,
    asked: AtomicUsize,
    alive: Arc<AtomicUsize>,
    served: mpsc::UnboundedSender<Served>,
    stop: watch::Receiver<bool>,
}

impl Host for Target {
    type Child = Scripted;

    fn name(&self) -> &'static str {
        "target"
    }

    async fn certificate(&self, node: &str, fresh: bool) -> Option<Fingerprint> {
        if fresh {
            self.asked.fetch_add(1, Ordering::SeqCst);
        }
        self.known.lock().unwrap().get(node).copied()
    }

    async fn answer(&self, _: &str, terms: &Terms, secret: &str) -> Result<Answer<Scripted>, (Reason, String)> {
        let own = Limits { buffer_bytes: 1 << 20, deadline_seconds: 3.0, stall_seconds: 1.0, ..Limits::default() };
        let terms = terms.within(&own).map_err(|error| (Reason::Terms, error.to_string()))?;
        assert_eq!(secret.len(), 32);
        let child = Scripted::start(self.script, "target", &self.alive);
        Ok(Answer { terms, child })
    }

    async fn stop(&self, _: &Terms) -> String {
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
        "python3 began to use gpu0".into()
    }

    async fn served(&self, session: Served) {
        let _ = self.served.send(session);
    }
}

struct World {
    caller: Identity,
    dial: Dial,
    host: Arc<Target>,
    served: mpsc::UnboundedReceiver<Served>,
    refusals: Refusals,
    gate: Gate,
    alive: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn world(script: Script) -> World {
    let (caller, target) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let (tell, sessions) = mpsc::unbounded_channel();
    let (stop, stopped) = watch::channel(false);
    let alive = Arc::new(AtomicUsize::new(0));
    let host = Arc::new(Target {
        script,
        known: Mutex::new(BTreeMap::from([("caller".to_owned(), caller.fingerprint())])),
        asked: AtomicUsize::new(0),
        alive: Arc::clone(&alive),
        served: tell,
        stop: stopped,
    });
    let (refusals, gate) = (Refusals::default(), Gate::default());
    let listener =
        Listener::bind("127.0.0.1:0".parse().unwrap(), &target, gate.clone(), refusals.clone()).await.unwrap();
    let dial = Dial {
        me: "caller".into(),
        to: "target".into(),
        address: listener.address().unwrap(),
        certificate: target.fingerprint(),
    };
    let task = tokio::spawn(listener.serve(Arc::clone(&host)));
    World { caller, dial, host, served: sessions, refusals, gate, alive, stop, task }
}

fn terms() -> Terms {
    Terms {
        profile: "tcp".into(),
        memory: Memory::Host,
        ops: vec![Op::Get],
        sizes: vec![4096, 64 << 20],
        limits: Limits { deadline_seconds: 4.0, stall_seconds: 1.0, ..Limits::default() },
    }
}

impl World {
    async fn call(&self, script: Script) -> Result<Called, CallError> {
        self.call_at(&self.dial, script, std::future::pending()).await
    }

    async fn call_at(
        &self,
        dial: &Dial,
        script: Script,
        stop: impl Future<Output = String>,
    ) -> Result<Called, CallError> {
        let start = |_: &Terms, _: &str| Ok(Scripted::start(script, "caller", &self.alive));
        call(&self.caller, dial, &terms(), start, stop).await
    }

    /// A caller's connection up to the greeting, by hand.
    async fn by_hand(&self, identity: &Identity) -> (Channel<tokio_rustls::client::TlsStream<TcpStream>>, String) {
        let config = identity.caller(self.dial.certificate).unwrap();
        let tcp = TcpStream::connect(self.dial.address).await.unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(Identity::name(), tcp).await.unwrap();
        let mut channel = Channel::new(stream);
        match channel.receive().await.unwrap() {
            Message::Greeting(greeting) => (channel, greeting.nonce),
            other => panic!("{other:?}"),
        }
    }

    fn hello(nonce: &str) -> Hello {
        Hello {
            protocol: PROTOCOL,
            node: "caller".into(),
            to: "target".into(),
            nonce: nonce.into(),
            secret: random_hex().unwrap(),
            terms: terms(),
        }
    }

    /// What the called side says to a hello.
    async fn answer(&self, identity: &Identity, change: impl FnOnce(&mut Hello)) -> Message {
        let (mut channel, nonce) = self.by_hand(identity).await;
        let mut hello = Self::hello(&nonce);
        change(&mut hello);
        channel.send(&Message::Hello(Box::new(hello))).await.unwrap();
        channel.receive_within(Duration::from_secs(10)).await.unwrap()
    }

    /// Refused for this reason, counted, and nothing is left of it.
    async fn refuses(&self, identity: &Identity, expected: Reason, change: impl FnOnce(&mut Hello)) {
        let before = self.refusals.count(expected);
        match self.answer(identity, change).await {
            Message::Refused { reason, .. } => assert_eq!(reason, expected),
            other => panic!("{other:?}"),
        }
        assert_eq!(self.refusals.count(expected), before + 1);
        self.is_idle().await;
    }

    /// No child and no session is left, on either side, and the next session works.
    async fn is_idle(&self) {
        let until = Instant::now() + Duration::from_secs(3);
        while self.alive.load(Ordering::SeqCst) > 0 || self.gate.is_busy() {
            assert!(
                Instant::now() < until,
                "{} children, busy: {}",
                self.alive.load(Ordering::SeqCst),
                self.gate.is_busy()
            );
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn failure(report: &Report) -> (FailureKind, &str) {
    let failure = report.failure.as_ref().expect("a failure");
    (failure.kind, failure.message.as_str())
}

#[tokio::test]
async fn two_agents_agree_and_exchange_reports() {
    let mut world = world(Script::Good).await;
    let called = world.call(Script::Good).await.unwrap();
    assert_eq!(called.terms.sizes, [4096], "narrowed to what fits in the other's buffers");
    assert_eq!(called.reports.own.evidence, ["address of target"]);
    assert_eq!(called.reports.peers.unwrap().evidence, ["address of caller"]);
    let served = world.served.recv().await.unwrap();
    assert_eq!(
        (served.from.as_str(), &served.reports.own.evidence[..]),
        ("caller", &["address of target".replace("target", "caller")][..])
    );
    assert!(served.reports.peers.is_some());
    assert_eq!(world.host.asked.load(Ordering::SeqCst), 0, "a known caller costs no request");
    world.is_idle().await;
    world.call(Script::Good).await.unwrap();
}

#[tokio::test]
async fn a_caller_must_be_who_it_says() {
    let world = world(Script::Good).await;
    let stranger = Identity::generate().unwrap();
    world.refuses(&stranger, Reason::Certificate, |_| ()).await;
    assert_eq!(world.host.asked.load(Ordering::SeqCst), 1, "it might have started again: asked once");
    world.refuses(&stranger, Reason::UnknownNode, |hello| hello.node = "nobody".into()).await;
    world.refuses(&world.caller, Reason::NotMe, |hello| hello.to = "other".into()).await;
    // The real one started again, with another certificate that its NodeFabric says by now.
    world.host.known.lock().unwrap().insert("caller".into(), stranger.fingerprint());
    assert!(matches!(world.answer(&stranger, |_| ()).await, Message::Accepted(_)));
}

#[tokio::test]
async fn a_recorded_hello_and_a_used_or_wrong_secret_are_refused() {
    let world = world(Script::Good).await;
    world.refuses(&world.caller, Reason::Nonce, |hello| hello.nonce = random_hex().unwrap()).await;
    for wrong in ["", "secret", "0123456789ABCDEF0123456789ABCDEF"] {
        world.refuses(&world.caller, Reason::Secret, |hello| hello.secret = wrong.into()).await;
    }
    let secret = "0123456789abcdef0123456789abcdef";
    assert!(matches!(world.answer(&world.caller, |hello| hello.secret = secret.into()).await, Message::Accepted(_)));
    world.is_idle().await;
    world.refuses(&world.caller, Reason::Secret, |hello| hello.secret = secret.into()).await;
}

#[tokio::test]
async fn terms_that_make_no_sense_are_refused() {
    let world = world(Script::Good).await;
    world.refuses(&world.caller, Reason::Terms, |hello| hello.terms.ops.clear()).await;
    world.refuses(&world.caller, Reason::Terms, |hello| hello.terms.sizes = vec![u64::MAX]).await;
    world.refuses(&world.caller, Reason::Terms, |hello| hello.terms.limits.deadline_seconds = -1.0).await;
}

#[tokio::test]
async fn another_version_is_told_from_garbage() {
    let world = world(Script::Good).await;
    world.refuses(&world.caller, Reason::Version, |hello| hello.protocol = 2).await;
    let (mut channel, _) = world.by_hand(&world.caller).await;
    channel.send(&Message::Alive).await.unwrap();
    assert!(matches!(channel.receive().await.unwrap(), Message::Refused { reason: Reason::Garbled, .. }));
}

#[tokio::test]
async fn a_called_node_of_another_version_is_told_so() {
    let world = world(Script::Good).await;
    let other = Identity::generate().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dial = Dial { address: socket.local_addr().unwrap(), certificate: other.fingerprint(), ..world.dial.clone() };
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(other.called().unwrap()));
    tokio::spawn(async move {
        let mut stream = acceptor.accept(socket.accept().await.unwrap().0).await.unwrap();
        let text = br#"{"greeting":{"protocol":9}}"#;
        stream.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).await.unwrap();
        stream.write_all(text).await.unwrap();
        stream.flush().await.unwrap();
        sleep(Duration::from_secs(5)).await;
    });
    let error = world.call_at(&dial, Script::Good, std::future::pending()).await.unwrap_err();
    assert_eq!(error, CallError::Version { to: "target".into(), theirs: 9 });
    assert_eq!(world.alive.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn who_answers_must_be_who_was_called() {
    let world = world(Script::Good).await;
    let wrong = Dial { certificate: world.caller.fingerprint(), ..world.dial.clone() };
    let error = world.call_at(&wrong, Script::Good, std::future::pending()).await.unwrap_err();
    assert!(matches!(error, CallError::Stranger { .. }), "{error}");
    let nobody = Dial { address: "127.0.0.1:1".parse().unwrap(), ..world.dial.clone() };
    let error = world.call_at(&nobody, Script::Good, std::future::pending()).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    assert_eq!(world.alive.load(Ordering::SeqCst), 0, "no child before both agree");
}

#[tokio::test]
async fn strangers_bytes_end_at_the_handshake() {
    let world = world(Script::Good).await;
    for bytes in
        [&b"GET / HTTP/1.1\r\nHost: target\r\n\r\n"[..], &[0xff; 4096][..], &[0x16, 0x03, 0x01, 0xff, 0xff][..]]
    {
        let mut stream = TcpStream::connect(world.dial.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("it hangs up");
    }
    // TLS without a client certificate: TLS 1.3 tells the caller with the first answer.
    let mut config = world.caller.caller(world.dial.certificate).unwrap();
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    let tcp = TcpStream::connect(world.dial.address).await.unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(Identity::name(), tcp).await.unwrap();
    assert!(stream.read(&mut [0]).await.is_err());
    world.is_idle().await;
    assert_eq!(world.refusals.count(Reason::Handshake), 4);
    world.call(Script::Good).await.unwrap();
}

#[tokio::test]
async fn callers_that_say_nothing_are_few_and_are_hung_up_on() {
    let world = world(Script::Good).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(world.dial.address).await.unwrap());
    }
    let mut ninth = TcpStream::connect(world.dial.address).await.unwrap();
    let mut byte = [0];
    assert_eq!(timeout(Duration::from_secs(2), ninth.read(&mut byte)).await.expect("at once").unwrap_or(0), 0);
    assert_eq!(world.refusals.count(Reason::Crowded), 1);
    for mut stream in silent {
        let ended = timeout(Duration::from_secs(8), stream.read(&mut byte)).await.expect("in time");
        assert_eq!(ended.unwrap_or(0), 0);
    }
    assert_eq!(world.refusals.count(Reason::Silent), 8);
    world.call(Script::Good).await.unwrap();
}

#[tokio::test]
async fn one_session_at_a_time_and_the_next_is_told_when() {
    let world = world(Script::Hangs).await;
    let (mut channel, nonce) = world.by_hand(&world.caller).await;
    channel.send(&Message::Hello(Box::new(World::hello(&nonce)))).await.unwrap();
    assert!(matches!(channel.receive().await.unwrap(), Message::Accepted(_)));
    match world.call(Script::Good).await.unwrap_err() {
        CallError::Busy { retry_after, .. } => {
            assert!((Duration::from_secs(1)..=Duration::from_secs(4)).contains(&retry_after), "{retry_after:?}");
        }
        other => panic!("{other}"),
    }
    assert_eq!(world.refusals.count(Reason::Busy), 1);
    drop(channel);
    world.is_idle().await;
}
