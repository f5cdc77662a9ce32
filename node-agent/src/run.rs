//! `railbind-agent run`: survey on start, on change and at a period; publish what changed; retry what failed.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use daemon::{Check, Readiness, Shutdown, admin};
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::{Api, Client};
use policies::{names::k8s, profile::Profiles};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use sysfs::Root;

use crate::{
    args::RunArgs,
    events::Events,
    publish,
    survey::{self, Survey},
};

/// Events come in bursts: a link going down is a dozen of them.
const SETTLE: Duration = Duration::from_millis(500);
/// First and longest wait after a failed write.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

#[derive(Debug, Default)]
struct Metrics {
    writes: Family<[(&'static str, &'static str); 1], Counter>,
    surveys: Counter,
    problems: Gauge,
}

impl Metrics {
    fn register(&self, registry: &mut Registry) {
        registry.register("railbind_agent_node_writes", "Writes of the Node object, by result", self.writes.clone());
        registry.register("railbind_agent_surveys", "Surveys of this node", self.surveys.clone());
        registry.register("railbind_agent_problems", "Problems that the last survey found", self.problems.clone());
    }
}

/// Runs until told to stop.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let RunArgs { node_name, root, period, start_jitter, admin, log: _ } = args;
    let shutdown = Shutdown::on_signals()?;
    let readiness = Readiness::default();
    let published = readiness.check("published");
    published.not_ready("the first survey has not been published yet");
    let metrics = Metrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    admin::serve(&admin, admin::router(readiness, Arc::new(registry))).await?;

    let client = Client::try_default().await.context("finding the API server: set KUBECONFIG, or run in a pod")?;
    let agent = Agent {
        nodes: Api::all(client),
        name: node_name,
        root: Arc::new(survey::open(&root)?),
        profiles: Arc::new(Profiles::embedded()?),
        metrics,
        published,
    };
    tokio::select! {
        () = agent.keep(period, start_jitter) => Ok(()),
        () = shutdown.requested() => Ok(()),
    }
}

struct Agent {
    nodes: Api<Node>,
    name: String,
    root: Arc<Root>,
    profiles: Arc<Profiles>,
    metrics: Metrics,
    published: Check,
}

impl Agent {
    async fn keep(&self, period: Duration, start_jitter: Duration) {
        let events = Events::subscribe();
        tokio::time::sleep(start_jitter.mul_f64(random())).await;
        let mut failures = 0_u32;
        loop {
            let wait = match self.once().await {
                Ok(()) => {
                    failures = 0;
                    self.published.ready();
                    // A little spread keeps agents that started together from staying together.
                    period.mul_f64(0.9 + 0.2 * random())
                }
                Err(error) => {
                    let wait = backoff(failures);
                    failures = failures.saturating_add(1);
                    self.published
                        .not_ready(format!("publishing failed {failures} times, next try in {wait:.0?}: {error:#}"));
                    tracing::warn!(
                        error = format!("{error:#}"),
                        ?wait,
                        failures,
                        "could not publish; the survey is repeated"
                    );
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // Events do not shorten a back-off: an API server in trouble does not get more calls because a link flaps.
                () = events.changed(), if failures == 0 => tokio::time::sleep(SETTLE).await,
            }
        }
    }

    async fn once(&self) -> anyhow::Result<()> {
        let node = self.nodes.get(&self.name).await.with_context(|| format!("reading Node {}", self.name))?;
        let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(k8s::ZONE).cloned());
        let started = Instant::now();
        let survey = self.survey(zone).await?;
        self.metrics.surveys.inc();
        self.metrics.problems.set(i64::try_from(survey.problems.len()).unwrap_or(i64::MAX));
        let result = publish::publish(&self.nodes, &self.name, &node, &survey, &Timestamp::now().to_string()).await;
        let outcome = match &result {
            Ok(true) => "written",
            Ok(false) => "unchanged",
            Err(_) => "failed",
        };
        self.metrics.writes.get_or_create(&[("result", outcome)]).inc();
        let written = result.with_context(|| format!("writing Node {}", self.name))?;
        if written {
            tracing::info!(
                fabric = ?survey.verdict.fabric,
                profile = survey.verdict.profile,
                problems = survey.problems.len(),
                survey_and_write_ms = started.elapsed().as_millis(),
                "published"
            );
        }
        Ok(())
    }

    async fn survey(&self, zone: Option<String>) -> anyhow::Result<Survey> {
        let (root, profiles) = (Arc::clone(&self.root), Arc::clone(&self.profiles));
        let task = tokio::task::spawn_blocking(move || survey::survey(&root, &profiles, zone.as_deref()));
        task.await.context("the survey panicked: report it with the output of `railbind-agent survey --json`")
    }
}

/// 1 s, 2 s, 4 s … 60 s, each less up to a half at random.
fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let full = first.saturating_mul(1_u32.checked_shl(failures.min(16)).unwrap_or(u32::MAX)).min(longest);
    full.mul_f64(0.5 + 0.5 * random())
}

/// A number in 0..1, good enough to spread agents.
#[expect(clippy::cast_precision_loss, reason = "53 bits are kept on purpose")]
fn random() -> f64 {
    (RandomState::new().hash_one(0_u8) >> 11) as f64 / (1_u64 << 53) as f64
}
