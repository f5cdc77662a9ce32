//! `railbind-agent run`: survey on start, on change and at a period; publish what changed; retry what failed.

use std::{
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use api::NodeFabric;
use daemon::{Check, Readiness, Shutdown, admin};
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::{Api, Client, api::GetParams};
use policies::{names::k8s, profile::Profiles, report};
use prometheus_client::registry::Registry;
use sysfs::{Cache, Root};

use crate::{
    args::{CudaProbeArgs, RunArgs, UcxProbeArgs},
    events::Events,
    metrics::Metrics,
    node_fabric, probe,
    publish::{self, Outcome},
    survey::{self, Probes, Survey},
    tell::Teller,
};

/// Events come in bursts: a link going down is a dozen of them.
const SETTLE: Duration = Duration::from_millis(500);
/// Drivers and libraries do not change often, and a change comes with an event or a reboot.
const PROBE_PERIOD: Duration = Duration::from_hours(1);
/// A UCX that takes longer hangs; CUDA takes seconds for each GPU where persistence mode is off.
const UCX_DEADLINE: Duration = Duration::from_secs(10);
const CUDA_DEADLINE: Duration = Duration::from_secs(30);
/// First and longest wait after a failed write.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Runs until told to stop.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    let RunArgs { node_name, root, period, start_jitter, probes, ucx_folders, admin, log: _ } = args;
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
        nodes: Api::all(client.clone()),
        fabrics: Api::all(client.clone()),
        teller: Teller::new(client, &node_name),
        name: node_name,
        root: Arc::new(survey::open(&root)?),
        profiles: Arc::new(Profiles::embedded()?),
        kept: Arc::default(),
        metrics,
        published,
    };
    let probing = probes.then_some(ucx_folders);
    tokio::select! {
        () = agent.keep(period, start_jitter, probing) => Ok(()),
        () = shutdown.requested() => Ok(()),
    }
}

struct Agent {
    nodes: Api<Node>,
    fabrics: Api<NodeFabric>,
    teller: Teller,
    name: String,
    root: Arc<Root>,
    profiles: Arc<Profiles>,
    kept: Arc<Mutex<Kept>>,
    metrics: Metrics,
    published: Check,
}

/// What one survey leaves for the next.
#[derive(Debug, Default)]
struct Kept {
    cache: Cache,
    probes: Probes,
}

impl Agent {
    async fn keep(&self, period: Duration, start_jitter: Duration, probing: Option<Vec<PathBuf>>) {
        let mut next_probe = probing.is_some().then(Instant::now);
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
            // After the first labels: they do not wait for foreign code.
            if let (Some(folders), true) = (&probing, next_probe.is_some_and(|due| due <= Instant::now())) {
                next_probe = Some(Instant::now() + PROBE_PERIOD);
                if self.probe(folders.clone()).await && failures == 0 {
                    continue;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // Events do not shorten a back-off: an API server in trouble does not get more calls because a link flaps.
                () = events.changed(), if failures == 0 => tokio::time::sleep(SETTLE).await,
            }
        }
    }

    async fn once(&self) -> anyhow::Result<()> {
        // From the API server's cache: the object is compared, and a write that turns out needless changes nothing.
        let node = self.nodes.get_with(&self.name, &GetParams::any()).await;
        let node = node.with_context(|| format!("reading Node {}", self.name))?;
        let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(k8s::ZONE).cloned());
        let started = Instant::now();
        let survey = self.survey(zone).await?;
        self.metrics.surveyed(&survey, started.elapsed());
        // Both are tried whatever comes of the other: labels matter without NodeFabric, and the other way round.
        let labels = self.publish_node(&node, &survey).await;
        let story = self.publish_fabric(&node, &survey).await;
        labels.and(story)
    }

    async fn publish_node(&self, node: &Node, survey: &Survey) -> anyhow::Result<()> {
        let result = publish::publish(&self.nodes, &self.name, node, survey, &Timestamp::now().to_string()).await;
        self.metrics.wrote(
            "node",
            match &result {
                Ok(Outcome::Written { .. }) => "written",
                Ok(Outcome::Unchanged) => "unchanged",
                Err(_) => "failed",
            },
        );
        if let Outcome::Written { before, after } = result.with_context(|| format!("writing Node {}", self.name))? {
            tracing::info!(status = after.status, reason = after.reason, message = after.message, "published");
            if let Some(announcement) = report::announcement(before.as_ref(), &after) {
                self.teller.tell(node, &announcement).await;
            }
        }
        Ok(())
    }

    async fn publish_fabric(&self, node: &Node, survey: &Survey) -> anyhow::Result<()> {
        let result = node_fabric::publish(&self.fabrics, node, &survey.status()).await;
        self.metrics.wrote(
            "nodefabric",
            match &result {
                Ok(node_fabric::Outcome::Written) => "written",
                Ok(node_fabric::Outcome::Unchanged) => "unchanged",
                Ok(node_fabric::Outcome::NoKind) => "no-kind",
                Err(_) => "failed",
            },
        );
        if result.with_context(|| format!("writing NodeFabric {}", self.name))? == node_fabric::Outcome::NoKind {
            tracing::debug!("no NodeFabric kind in this cluster: labels and condition only");
        }
        Ok(())
    }

    /// Asks UCX and CUDA; says whether they said anything new.
    async fn probe(&self, folders: Vec<PathBuf>) -> bool {
        let task = tokio::task::spawn_blocking(move || Probes {
            ucx: Some(probe::ucx(&UcxProbeArgs { folders, deadline: UCX_DEADLINE, json: false })),
            cuda: Some(probe::cuda(&CudaProbeArgs { deadline: CUDA_DEADLINE, json: false })),
        });
        let Ok(found) = task.await.inspect_err(|error| tracing::warn!(%error, "a probe panicked")) else {
            return false;
        };
        let mut kept = lock(&self.kept);
        let news = kept.probes != found;
        kept.probes = found;
        news
    }

    async fn survey(&self, zone: Option<String>) -> anyhow::Result<Survey> {
        let (root, profiles, kept) = (Arc::clone(&self.root), Arc::clone(&self.profiles), Arc::clone(&self.kept));
        let task = tokio::task::spawn_blocking(move || {
            let Kept { cache, probes } = &mut *lock(&kept);
            survey::survey_with(&root, cache, probes, &profiles, zone.as_deref())
        });
        task.await.context("the survey panicked: report it with the output of `railbind-agent survey --json`")
    }
}

/// A survey that panicked left a cache of what it had read: true as far as it goes.
fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
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
