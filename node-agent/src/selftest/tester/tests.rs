use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use policies::{
    fabric::Fact,
    profile::Profiles,
    select::NodeView,
    selftest::{NvmlFacts, NvmlGpu, Sweep, Trigger},
};

use super::*;
use crate::selftest::{
    duty::Callee,
    session::{Fingerprint, Host as _, Listener, Reason},
};

/// A GPU with so many processes; `None`: no NVML.
fn nvml(processes: Option<u32>) -> NvmlFacts {
    let Some(processes) = processes else { return NvmlFacts { driver: Fact::Known(None), ..NvmlFacts::default() } };
    let gpu = NvmlGpu {
        compute_processes: Fact::Known(processes),
        utilisation_percent: Fact::Known(0),
        memory_used: Fact::Known(0),
    };
    NvmlFacts { driver: Fact::Known(Some("580".into())), gpus: Fact::Known(vec![gpu]) }
}

type Endpoints<'a> = &'a [(&'a str, SocketAddr, Fingerprint)];

/// A node of the domain `tcp` with GPUs, and these members.
fn node(name: &str, identity: Identity, gate: Gate, members: Endpoints<'_>) -> Tester {
    let config = Config {
        node: name.into(),
        settings: Settings { recovery_seconds: 300.0, ..Settings::default() },
        limits: Limits { deadline_seconds: 4.0, stall_seconds: 4.0, ..Limits::default() },
        sizes: vec![4096],
        devices: Devices::of(Path::new("/")),
        ucx_folders: Vec::new(),
    };
    let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
    let member = |(name, address, certificate): &(&str, SocketAddr, Fingerprint)| {
        let endpoint = Some((*address, *certificate));
        ((*name).to_owned(), Member { standing: Standing::Untested, domain: "tcp".into(), endpoint })
    };
    let mut tester = Tester::new(
        config,
        InForce::fixed(Profiles::embedded().unwrap()),
        identity,
        Members::known_as("tcp", members.iter().map(member).collect(), client),
        "127.0.0.1:9466".parse().unwrap(),
        gate,
        Metrics::default(),
    );
    tester.program = "/bin/true".into();
    let labels = [(label::FABRIC, "tcp"), (label::PROFILE, "tcp")];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let own = Own {
        view: NodeView { name: name.into(), labels, ..NodeView::default() },
        domain: "tcp".into(),
        soft: false,
        gpu_direct: false,
        gpus: true,
        gpu: Ok(1),
        kernel: None,
        rates: BTreeMap::new(),
        ucx: None,
        facts: "facts".into(),
        requested: None,
        shut_out: None,
        since: Instant::now().checked_sub(Duration::from_mins(1)).unwrap(),
    };
    {
        let mut state = tester.state();
        (state.own, state.remembered) = (Some(Arc::new(own)), true);
    }
    tester
}

/// The node `me`, whose NVML says `processes`, and how often it was asked.
fn tester(partners: &[&str], processes: Option<u32>) -> (Arc<Tester>, Arc<AtomicU32>) {
    let endpoint = |name| (name, "10.0.0.1:9466".parse().unwrap(), "ab".repeat(32).parse().unwrap());
    let members: Vec<_> = partners.iter().copied().chain(["me"]).map(endpoint).collect();
    let mut tester = node("me", Identity::generate().unwrap(), Gate::default(), &members);
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    tester.gpus = Gpus::asking(move || {
        count.fetch_add(1, Ordering::SeqCst);
        nvml(processes)
    });
    (Arc::new(tester), asked)
}

fn change(tester: &Tester, change: impl FnOnce(&mut Own)) {
    let mut state = tester.state();
    let mut own = (**state.own.as_ref().unwrap()).clone();
    change(&mut own);
    state.own = Some(Arc::new(own));
}

/// What a partner hears who calls for a profile that there is not: whoever gets that far is let in.
async fn refused(tester: &Arc<Tester>, caller: &str) -> (Reason, String) {
    let terms = tester.terms("no-such-profile", Memory::Host);
    Callee(Arc::clone(tester)).answer(caller, &terms, "00").await.err().unwrap()
}

#[tokio::test]
async fn busy_gpus_let_nobody_in_and_strangers_have_nobody_asked() {
    let (tester, asked) = tester(&["a"], Some(2));
    assert_eq!(refused(&tester, "stranger").await.0, Reason::UnknownNode);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    let (reason, why) = refused(&tester, "a").await;
    assert_eq!((reason, why.as_str()), (Reason::NotNow, "GPUs compute here: GPU 0: 2 compute processes, 0 %, 0 MiB"));
    // A request for this node counts for more, and only for this node's run.
    change(&tester, |own| own.requested = Some("now".into()));
    tester.state().status = SelftestStatus {
        facts: Some("facts".into()),
        sweep: Some(Sweep {
            since: Timestamp::now(),
            trigger: Trigger::Period,
            tests: 1,
            ended: Some(Timestamp::now()),
        }),
        ..SelftestStatus::default()
    };
    assert_eq!(refused(&tester, "a").await.0, Reason::Terms);
}

#[tokio::test]
async fn idle_and_unknown_gpus_keep_nobody_out_and_none_are_not_asked_for() {
    let (idle, _) = tester(&["a"], Some(0));
    assert_eq!(refused(&idle, "a").await.0, Reason::Terms);
    let (unknown, asked) = tester(&["a"], None);
    assert_eq!((refused(&unknown, "a").await.0, asked.load(Ordering::SeqCst)), (Reason::Terms, 1));
    let (none, asked) = tester(&["a"], Some(9));
    change(&none, |own| own.gpus = false);
    assert_eq!((refused(&none, "a").await.0, asked.load(Ordering::SeqCst)), (Reason::Terms, 0));
}

#[tokio::test]
async fn a_container_without_the_devices_tests_nothing_and_lets_nobody_in() {
    let (tester, asked) = tester(&["a"], Some(0));
    change(&tester, |own| own.shut_out = Some("no /dev/infiniband".into()));
    tester.step().await;
    assert_eq!((tester.status().sweep, asked.load(Ordering::SeqCst)), (None, 0));
    assert_eq!(refused(&tester, "a").await.0, Reason::NotNow);
}

#[tokio::test]
async fn a_node_with_busy_gpus_tests_nothing_and_asks_again_later() {
    let (tester, asked) = tester(&[], Some(1));
    let wait = tester.step().await;
    assert!((Duration::from_secs(55)..=Duration::from_mins(1)).contains(&wait), "{wait:?}");
    assert_eq!((asked.load(Ordering::SeqCst), tester.status().last), (1, None));
    assert!(!tester.gate.is_busy());
    let mut registry = prometheus_client::registry::Registry::default();
    tester.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("railbind_selftest_gpus_busy 1\n"), "{text}");
}

/// `me` with RoCE and GPUDirect.
fn gpu_direct(own: &mut Own) {
    let labels = [(label::FABRIC, "roce"), (label::GPUDIRECT, "dmabuf"), (label::PROFILE, "roce-gpudirect")];
    own.view.labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    own.gpu_direct = true;
}

#[tokio::test]
async fn a_buffer_is_on_the_gpu_where_both_have_one_and_a_reason_goes_with_the_hosts() {
    let (tester, _) = tester(&["a"], Some(0));
    change(&tester, gpu_direct);
    let callee = Callee(Arc::clone(&tester));
    let secret = "0123456789abcdef0123456789abcdef";
    let answered = callee.answer("a", &tester.terms("roce-gpudirect", Memory::Cuda(7)), secret).await.unwrap();
    assert_eq!((answered.terms.memory, tester.lent()), (Memory::Cuda(1), None), "its own GPU, not the caller's");
    let answered = callee.answer("a", &tester.terms("roce-gpudirect", Memory::Host), secret).await.unwrap();
    assert_eq!(answered.terms.memory, Memory::Host);
    assert_eq!(tester.lent().as_deref(), Some("the other side has host memory"));
    change(&tester, |own| own.gpu = Err("there is no CUDA driver here".into()));
    let answered = callee.answer("a", &tester.terms("roce-gpudirect", Memory::Cuda(7)), secret).await.unwrap();
    assert_eq!(answered.terms.memory, Memory::Host);
    assert_eq!(tester.lent().as_deref(), Some("there is no CUDA driver here"));
}

/// Why a loopback of a node like this is one of host memory.
async fn loopback_reason(processes: Option<u32>, like: impl FnOnce(&mut Own)) -> String {
    let (tester, _) = tester(&[], processes);
    change(&tester, like);
    tester.step().await;
    let last = tester.status().last.unwrap();
    assert_eq!((last.partner.as_str(), last.local_memory.as_str()), ("me", "host"));
    last.host_memory_reason.unwrap()
}

#[tokio::test]
async fn a_loopback_says_why_it_is_of_host_memory() {
    assert_eq!(loopback_reason(None, |own| own.gpus = false).await, "the node has no GPU");
    let roce_without = |own: &mut Own| {
        gpu_direct(own);
        own.gpus = false;
    };
    assert_eq!(loopback_reason(None, roce_without).await, "the node has no GPU");
    let no_cuda = |own: &mut Own| {
        gpu_direct(own);
        own.gpu = Err("there is no CUDA driver here".into());
    };
    assert_eq!(loopback_reason(Some(0), no_cuda).await, "there is no CUDA driver here");
    assert!(loopback_reason(Some(0), |_| {}).await.starts_with("without GPUDirect (tcp)"));
    assert!(loopback_reason(None, gpu_direct).await.contains("not known"), "no NVML");
    assert_eq!(loopback_reason(Some(0), gpu_direct).await, "a loopback of GPU memory would not leave the GPU");
}

#[tokio::test]
async fn a_session_with_gpu_memory_ends_when_somebody_computes_and_another_does_not() {
    // Two processes: the session's child and somebody's.
    let (tester, asked) = tester(&["a"], Some(2));
    change(&tester, gpu_direct);
    let callee = Callee(Arc::clone(&tester));
    let soon = Duration::from_secs(4);
    let stop = |memory| {
        let (callee, terms) = (&callee, tester.terms("roce-gpudirect", memory));
        async move { tokio::time::timeout(soon, callee.stop(&terms)).await }
    };
    let why = stop(Memory::Cuda(0)).await.unwrap();
    assert_eq!(why, "GPUs compute here: GPU 0: 2 compute processes, 0 %, 0 MiB");
    let before = asked.load(Ordering::SeqCst);
    assert!(stop(Memory::Host).await.is_err());
    assert_eq!(asked.load(Ordering::SeqCst), before, "nobody is asked for host memory");
}

/// What comes of a call by a node on whose GPUs somebody begins to compute during the session: what the caller says of it, how long it
/// took, and both nodes.
async fn called(trigger: Trigger) -> (bool, Duration, Arc<Tester>, Arc<Tester>) {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/ucx/fakes/silent.sh");
    let (caller, target) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let gate = Gate::default();
    let (nowhere, refusals) = ("127.0.0.1:0".parse().unwrap(), Metrics::default().refusals);
    let listener = Listener::bind(nowhere, &target, gate.clone(), refusals).await.unwrap();
    let members = [("a", nowhere, caller.fingerprint()), ("b", listener.address().unwrap(), target.fingerprint())];
    let mut a = node("a", caller, Gate::default(), &members);
    let mut b = node("b", target, gate, &members);
    let asked = AtomicU32::new(0);
    // Nobody before the session; in it the own child and another process. On the other side the own child alone.
    a.gpus = Gpus::asking(move || nvml(Some(2 * asked.fetch_add(1, Ordering::SeqCst))));
    let asked = AtomicU32::new(0);
    b.gpus = Gpus::asking(move || nvml(Some(asked.fetch_add(1, Ordering::SeqCst).min(1))));
    for node in [&mut a, &mut b] {
        node.program = program.into();
        change(node, gpu_direct);
    }
    let (a, b) = (Arc::new(a), Arc::new(b));
    let serving = tokio::spawn(listener.serve(Arc::new(Callee(Arc::clone(&b)))));
    let (own, seen) = (a.own().unwrap(), Seen(a.members.last()));
    let gpu_use = a.gpu_use(&own).await;
    let started = Instant::now();
    let met = a.call_under(&own, &seen, ("b", trigger), "roce-gpudirect", &gpu_use).await;
    let took = started.elapsed();
    while b.gate.is_busy() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    serving.abort();
    (met, took, a, b)
}

#[tokio::test]
async fn a_call_ends_when_somebody_computes_and_speaks_of_nobody() {
    let (met, took, a, b) = Box::pin(called(Trigger::Facts)).await;
    assert!(!met && took < Duration::from_secs(4), "{took:?}");
    assert_eq!((a.status().last, a.pace().refusals), (None, 1));
    let status = b.status();
    let last = status.last.unwrap();
    assert!(last.message.contains("GPUs compute here: GPU 0: 2 compute processes"), "{last:?}");
    assert_eq!((last.local_memory.as_str(), last.host_memory_reason), ("cuda:1", None));
    assert_eq!((status.verdict, status.partners.len()), (Standing::Untested, 0), "counted for nobody");
}

#[tokio::test]
async fn a_call_that_somebody_asked_for_goes_on_to_its_end() {
    let (met, took, a, _) = Box::pin(called(Trigger::Requested)).await;
    assert!(met && took >= Duration::from_secs(4), "{took:?}");
    assert_eq!(a.status().last.map(|last| last.local_memory).as_deref(), Some("cuda:1"));
}
