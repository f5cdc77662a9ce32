//! One turn of the agent: survey, compare, publish what changed.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use api::NodeFabric;
use daemon::Check;
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::{Api, api::GetParams};
use policies::{names::k8s, node_fabric::NodeFabricStatus, report, verdict::Label};
use sysfs::{Cache, Root};

use crate::{
    args::{CudaProbeArgs, UcxProbeArgs},
    metrics::Metrics,
    node_fabric, probe,
    profiles::InForce,
    publish::{self, Outcome},
    selftest::tester::Tester,
    survey::{self, Probes, Survey},
    tell::Teller,
};

/// A UCX that takes longer hangs; CUDA takes seconds for each GPU where persistence mode is off.
const UCX_DEADLINE: Duration = Duration::from_secs(10);
const CUDA_DEADLINE: Duration = Duration::from_secs(30);

/// Why a turn is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The period is over: the objects are looked at too.
    Period,
    /// The kernel said that something changed: the objects are looked at if a survey says so too. A node that starts many pods has
    /// route messages by the hundred.
    Event,
    /// The self-test has something to say.
    Selftest,
    /// Other transport profiles are in force.
    Profiles,
}

/// What a turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    /// The survey differs from the last one that was published.
    pub(crate) changed: bool,
    /// The RDMA devices or GPUs are others than at the last probe.
    pub(crate) other_devices: bool,
}

/// What the agent works on and with.
pub(crate) struct Agent {
    pub(crate) nodes: Api<Node>,
    pub(crate) fabrics: Api<NodeFabric>,
    pub(crate) teller: Teller,
    pub(crate) name: String,
    pub(crate) root: Arc<Root>,
    pub(crate) profiles: InForce,
    pub(crate) kept: Arc<Mutex<Kept>>,
    pub(crate) metrics: Metrics,
    pub(crate) story: Check,
    pub(crate) tester: Option<Arc<Tester>>,
}

/// What one survey leaves for the next.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    cache: Cache,
    probes: Probes,
    zone: Option<String>,
    published: Option<(BTreeMap<String, Label>, NodeFabricStatus)>,
    devices: Vec<String>,
}

impl Agent {
    /// Surveys and makes the cluster say it.
    pub(crate) async fn take(&self, why: Why) -> anyhow::Result<Turn> {
        let mut survey = self.survey().await?;
        // The facts as JSON are the costly part of a turn: made once for each survey, compared and published.
        let says = |survey: &Survey| (survey.verdict.labels.clone(), survey.status());
        let mut story = says(&survey);
        let devices = devices(&survey);
        let other_devices = std::mem::replace(&mut lock(&self.kept).devices, devices.clone()) != devices;
        let changed = lock(&self.kept).published.as_ref() != Some(&story);
        if why == Why::Event && !changed {
            return Ok(Turn { changed, other_devices });
        }
        // From the API server's cache: the object is compared, and a write that turns out needless changes nothing.
        let node = self.nodes.get_with(&self.name, &GetParams::any()).await;
        let node = node.with_context(|| format!("reading Node {}", self.name))?;
        let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(k8s::ZONE).cloned());
        if lock(&self.kept).zone != zone {
            lock(&self.kept).zone = zone;
            survey = self.survey().await?;
            story = says(&survey);
        }
        let mut event = None;
        if let Some(tester) = &self.tester {
            self.remember(tester).await?;
            tester.surveyed(&survey, &node);
            let (shown, announcement) = tester.publication();
            event = announcement;
            if survey.selftest.as_ref() != Some(&shown) {
                survey.selftest = Some(shown);
                story = says(&survey);
            }
        }
        // Labels first: they matter without NodeFabric, and its trouble must not hold them up.
        self.publish_node(&node, &survey).await?;
        if let Some(event) = event {
            self.teller.tell(&node, &event).await;
        }
        let told = self.publish_fabric(&node, &story.1).await;
        lock(&self.kept).published = told.then_some(story);
        Ok(Turn { changed, other_devices })
    }

    /// An agent that starts again goes on where the one before it was: its NodeFabric is all that it has to remember.
    async fn remember(&self, tester: &Tester) -> anyhow::Result<()> {
        if !tester.is_new() {
            return Ok(());
        }
        let left = match self.fabrics.get_opt(&self.name).await {
            Ok(left) => left.and_then(|fabric| fabric.status?.selftest),
            // No such kind yet.
            Err(kube::Error::Api(error)) if error.code == 404 => None,
            Err(error) => return Err(error).with_context(|| format!("reading NodeFabric {}", self.name)),
        };
        tester.remember(left);
        Ok(())
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

    /// Says whether the object says it now; its trouble is told by `/readyz` and the log, and tried again at the next period.
    async fn publish_fabric(&self, node: &Node, status: &NodeFabricStatus) -> bool {
        let result = node_fabric::publish(&self.fabrics, node, status).await;
        self.metrics.wrote(
            "nodefabric",
            match &result {
                Ok(node_fabric::Outcome::Written) => "written",
                Ok(node_fabric::Outcome::Unchanged) => "unchanged",
                Ok(node_fabric::Outcome::NoKind) => "no-kind",
                Err(_) => "failed",
            },
        );
        match result {
            Ok(_) => self.story.ready(),
            Err(error) => {
                let remedy = "labels are written; is the CRD of this version installed?";
                tracing::warn!(%error, remedy, "could not write the NodeFabric");
                self.story.not_ready(format!("writing NodeFabric {}: {error}; {remedy}", self.name));
                return false;
            }
        }
        true
    }

    /// Asks UCX and CUDA; says whether they said anything new.
    pub(crate) async fn probe(&self, folders: Vec<PathBuf>) -> bool {
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

    async fn survey(&self) -> anyhow::Result<Survey> {
        let (root, profiles, kept) = (Arc::clone(&self.root), self.profiles.current(), Arc::clone(&self.kept));
        let started = Instant::now();
        let task = tokio::task::spawn_blocking(move || {
            let Kept { cache, probes, zone, .. } = &mut *lock(&kept);
            survey::survey_with(&root, cache, probes, &profiles, zone.as_deref())
        });
        let found =
            task.await.context("the survey panicked: report it with the output of `railbind-agent survey --json`");
        let mut found = found.inspect(|survey| self.metrics.surveyed(survey, started.elapsed()))?;
        found.selftest = self.tester.as_ref().map(|tester| tester.shown());
        Ok(found)
    }
}

/// Names of the RDMA devices and addresses of the GPUs: what UCX and CUDA were asked about.
fn devices(survey: &Survey) -> Vec<String> {
    let rdma = survey.facts.devices.known().into_iter().flatten().map(|device| device.name.clone());
    let gpus = survey.facts.gpus.known().into_iter().flatten().map(|gpu| gpu.pci.clone());
    rdma.chain(gpus).collect()
}

/// A survey that panicked left a cache of what it had read: true as far as it goes.
fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
