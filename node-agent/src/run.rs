//! `railbind-agent run`: a turn on start, on change and at a period; what failed is tried again.

use std::{
    hash::{BuildHasher, RandomState},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use daemon::{Check, Readiness, Shutdown, admin};
use kube::{Api, Client};
use prometheus_client::registry::Registry;

use crate::{
    args::{RunArgs, SelftestArgs},
    events::Events,
    metrics::Metrics,
    profiles::{self, InForce},
    selftest::{
        self,
        duty::Callee,
        gate::Gate,
        members::Members,
        session::{Identity, Listener},
        tester::Tester,
    },
    survey,
    tell::Teller,
    turn::{Agent, Turn, Why},
};

/// Events come in bursts: a link going down is a dozen of them.
const SETTLE: Duration = Duration::from_millis(500);
/// After an event that changed something: firmware commits a GID some time after the address was announced.
const SECOND_LOOK: Duration = Duration::from_secs(3);
/// Drivers and libraries do not change often.
const PROBE_PERIOD: Duration = Duration::from_hours(1);
/// An API server that says nothing for so long is asked again, over another connection: where packets are dropped, nobody tells that
/// the one before is dead, and the kernel gives it up only after a quarter of an hour.
const SILENCE: Duration = Duration::from_secs(30);
/// First and longest wait after a failed write.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Runs until told to stop.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let RunArgs {
        node_name,
        root,
        period,
        start_jitter,
        probes,
        ucx_folders,
        profiles,
        profiles_period,
        selftest,
        admin,
        log: _,
    } = args;
    let shutdown = Shutdown::on_signals()?;
    let readiness = Readiness::default();
    let published = readiness.check("published");
    published.not_ready("the first survey has not been published yet");
    let story = readiness.check("nodefabric");
    let taken = readiness.check("profiles");
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let tested = selftest::metrics::Metrics::default();
    if selftest.selftest {
        tested.register(&mut registry);
    }
    admin::serve(&admin, admin::router(readiness, Arc::new(registry))).await?;

    let client = client().await.context("finding the API server: set KUBECONFIG, or run in a pod")?;
    let shipped = profiles::shipped(profiles.as_deref())?;
    let profiles = InForce::following(shipped, client.clone(), profiles_period, taken, metrics.clone());
    let testing = if selftest.selftest {
        Some(start(&selftest, &node_name, (&root, &ucx_folders), &profiles, &client, tested).await?)
    } else {
        None
    };
    let agent = Agent {
        nodes: Api::all(client.clone()),
        fabrics: Api::all(client.clone()),
        teller: Teller::new(client, &node_name),
        name: node_name,
        root: Arc::new(survey::open(&root)?),
        profiles: profiles.clone(),
        kept: Arc::default(),
        metrics,
        story,
        tester: testing.as_ref().map(|(_, tester)| Arc::clone(tester)),
    };
    let probing = probes.then_some(ucx_folders);
    tokio::select! {
        () = keep(&agent, &published, period, start_jitter, probing) => Ok(()),
        () = test(testing) => Ok(()),
        () = profiles.keep(random) => Ok(()),
        () = shutdown.requested() => Ok(()),
    }
}

async fn client() -> anyhow::Result<Client> {
    let mut config = kube::Config::infer().await?;
    config.read_timeout = Some(SILENCE);
    // From when something was asked, not from the last answer.
    config.reset_reader_on_write = true;
    Ok(Client::try_from(config)?)
}

/// The self-test's listener, and what it works with.
async fn start(
    args: &SelftestArgs,
    node: &str,
    (root, ucx_folders): (&Path, &[PathBuf]),
    profiles: &InForce,
    client: &Client,
    metrics: selftest::metrics::Metrics,
) -> anyhow::Result<(Listener, Arc<Tester>)> {
    let (identity, gate) = (Identity::generate()?, Gate::default());
    let listener = Listener::bind(args.listen, &identity, gate.clone(), metrics.refusals.clone()).await;
    let listener = listener.with_context(|| {
        format!(
            "listening for self-tests on {}: give another address with --selftest-listen, or --selftest off",
            args.listen
        )
    })?;
    let listening = listener.address().context("the self-test's own address")?;
    let listening = args.address.unwrap_or(listening);
    tracing::info!(address = %listening, certificate = %identity.fingerprint(), "listening for self-tests");
    let config = args.config(node, root, ucx_folders);
    let members = Members::new(client.clone());
    let tester = Tester::new(config, profiles.clone(), identity, members, listening, gate, metrics);
    Ok((listener, Arc::new(tester)))
}

/// Tests, and lets itself be called, for ever.
async fn test(testing: Option<(Listener, Arc<Tester>)>) {
    let Some((listener, tester)) = testing else { return std::future::pending().await };
    tokio::select! {
        () = listener.serve(Arc::new(Callee(Arc::clone(&tester)))) => {}
        () = tester.keep() => {}
    }
}

async fn keep(
    agent: &Agent,
    published: &Check,
    period: Duration,
    start_jitter: Duration,
    probing: Option<Vec<PathBuf>>,
) {
    let events = Events::subscribe();
    tokio::time::sleep(start_jitter.mul_f64(random())).await;
    // The first labels go by the cluster's own profiles, where it says which they are.
    agent.profiles.look().await;
    let mut profiles = agent.profiles.changes();
    let (mut failures, mut why, mut last_probe) = (0_u32, Why::Period, None::<Instant>);
    // Events come between two periods and never put one off, however many there are.
    let mut due = Instant::now();
    loop {
        let other_devices = match agent.take(why).await {
            Ok(Turn { changed, other_devices }) => {
                failures = 0;
                published.ready();
                due = match why {
                    // A little spread keeps agents that started together from staying together.
                    Why::Period => Instant::now() + period.mul_f64(0.9 + 0.2 * random()),
                    Why::Event if changed => due.min(Instant::now() + SECOND_LOOK),
                    Why::Event | Why::Selftest | Why::Profiles => due,
                };
                other_devices
            }
            Err(error) => {
                let wait = backoff(failures);
                failures = failures.saturating_add(1);
                let error = format!("{error:#}");
                published.not_ready(format!("publishing failed {failures} times, next try in {wait:.0?}: {error}"));
                tracing::warn!(error, ?wait, failures, "could not publish; the survey is repeated");
                due = Instant::now() + wait;
                false
            }
        };
        // After the first labels: they do not wait for foreign code.
        let ask = other_devices || last_probe.is_none_or(|last| last.elapsed() >= PROBE_PERIOD);
        if let (Some(folders), true) = (&probing, ask) {
            last_probe = Some(Instant::now());
            if agent.probe(folders.clone()).await && failures == 0 {
                why = Why::Event;
                continue;
            }
        }
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => why = Why::Period,
            // Events do not shorten a back-off: an API server in trouble does not get more calls because a link flaps.
            () = events.changed(), if failures == 0 => {
                tokio::time::sleep(SETTLE).await;
                why = Why::Event;
            }
            () = news(agent), if failures == 0 => why = Why::Selftest,
            Ok(()) = profiles.changed(), if failures == 0 => why = Why::Profiles,
        }
    }
}

/// Returns when the self-test has something to say.
async fn news(agent: &Agent) {
    match &agent.tester {
        Some(tester) => tester.news.notified().await,
        None => std::future::pending().await,
    }
}

/// 1 s, 2 s, 4 s … 60 s, each less up to a half at random.
pub fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let full = first.saturating_mul(1_u32.checked_shl(failures.min(16)).unwrap_or(u32::MAX)).min(longest);
    full.mul_f64(0.5 + 0.5 * random())
}

/// A number in 0..1, good enough to spread agents.
#[expect(clippy::cast_precision_loss, reason = "53 bits are kept on purpose")]
fn random() -> f64 {
    (RandomState::new().hash_one(0_u8) >> 11) as f64 / (1_u64 << 53) as f64
}
