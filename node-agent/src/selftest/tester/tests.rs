use std::sync::atomic::{AtomicU32, Ordering};

use policies::{
    fabric::Fact,
    selftest::{NvmlFacts, NvmlGpu},
};

use super::*;
use crate::selftest::{
    duty::Callee,
    session::{Host as _, Reason},
};

/// A node `me` of the domain `tcp` with GPUs, whose NVML says `processes`, and how often it was asked.
fn tester(partners: &[&str], processes: Option<u32>) -> (Arc<Tester>, Arc<AtomicU32>) {
    let settings = Settings { recovery_seconds: 300.0, ..Settings::default() };
    let config =
        Config { node: "me".into(), settings, limits: Limits::default(), sizes: vec![4096], ucx_folders: Vec::new() };
    let client = kube::Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
    let endpoint = ("10.0.0.1:9466".parse().unwrap(), "ab".repeat(32).parse().unwrap());
    let member = |_| Member { standing: Standing::Untested, domain: "tcp".into(), endpoint: Some(endpoint) };
    let list = partners.iter().chain([&"me"]).map(|name| ((*name).to_owned(), member(name))).collect();
    let mut tester = Tester::new(
        config,
        Arc::new(Profiles::embedded().unwrap()),
        Identity::generate().unwrap(),
        Members::known_as("tcp", list, client),
        "127.0.0.1:9466".parse().unwrap(),
        Gate::default(),
        Metrics::default(),
    );
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    tester.gpus = Gpus::asking(move || {
        count.fetch_add(1, Ordering::SeqCst);
        let Some(processes) = processes else { return NvmlFacts { driver: Fact::Known(None), ..NvmlFacts::default() } };
        let gpu = NvmlGpu {
            compute_processes: Fact::Known(processes),
            utilisation_percent: Fact::Known(0),
            memory_used: Fact::Known(0),
        };
        NvmlFacts { driver: Fact::Known(Some("580".into())), gpus: Fact::Known(vec![gpu]) }
    });
    let labels = [(label::FABRIC, "tcp"), (label::PROFILE, "tcp")];
    let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let own = Own {
        view: NodeView { name: "me".into(), labels, ..NodeView::default() },
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
        since: Instant::now().checked_sub(Duration::from_mins(1)).unwrap(),
    };
    {
        let mut state = tester.state();
        (state.own, state.remembered) = (Some(Arc::new(own)), true);
    }
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
        sweep: Some(policies::selftest::Sweep {
            since: Timestamp::now(),
            trigger: policies::selftest::Trigger::Period,
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
async fn a_node_with_busy_gpus_tests_nothing_and_asks_again_later() {
    let (tester, asked) = tester(&[], Some(1));
    let wait = tester.step().await;
    assert!((Duration::from_secs(55)..=Duration::from_mins(1)).contains(&wait), "{wait:?}");
    assert_eq!((asked.load(Ordering::SeqCst), tester.status().last), (1, None));
    assert!(!tester.gate.is_busy());
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
