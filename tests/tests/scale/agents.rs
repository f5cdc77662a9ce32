//! Thousands of agents in one process: each with its own token and connection, and with the agent's own code for what it asks and writes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use api::NodeFabric;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use harness::{Cluster, railbind::repository};
use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::GetParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use node_agent::{node_fabric, publish, run, survey, survey::Survey, tell::Teller};
use policies::{profile::Profiles, report};
use tokio::task::JoinSet;

/// Machines, in the order in which objects.rs makes nodes.
const MACHINES: [&str; 4] = ["ib-ndr-gdr", "roce-gid3", "efa-k68", "tcp-only"];

/// One agent.
struct Agent {
    name: String,
    nodes: Api<Node>,
    fabrics: Api<NodeFabric>,
    teller: Teller,
    survey: Arc<Survey>,
}

/// All of them.
pub(crate) struct Agents(Vec<Arc<Agent>>);

/// What a round of all came to.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// From the first agent's start to the last one's end.
    pub(crate) took: Duration,
    /// Of each agent, from its own start until everything was said.
    pub(crate) each: Vec<Duration>,
    /// Objects that were written.
    pub(crate) written: usize,
    /// Attempts that failed and were made again.
    pub(crate) again: usize,
}

impl Agents {
    /// One for each node, with its token; nothing is asked yet.
    pub(crate) async fn new(cluster: &Cluster) -> Result<Self> {
        let profiles = Profiles::embedded()?;
        let mut surveys = Vec::new();
        for machine in MACHINES {
            let root = survey::open(&repository().join("tests/fixtures").join(machine))?;
            surveys.push(Arc::new(survey::survey(&root, &profiles, None)));
        }
        let nodes = Api::<Node>::all(cluster.client().await?).list_metadata(&kube::api::ListParams::default()).await?;
        let agents = nodes.items.into_iter().enumerate().map(|(number, node)| {
            let survey = surveys[number % surveys.len()].clone();
            async move {
                let name = node.name_any();
                let node = Node { metadata: node.metadata, ..Node::default() };
                let kubeconfig = Kubeconfig::read_from(cluster.identity("railbind-agent", Some(&node)).await?)?;
                let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
                let client = Client::try_from(config).context("an agent's client")?;
                let (nodes, fabrics) = (Api::all(client.clone()), Api::all(client.clone()));
                let teller = Teller::new(client, &name);
                anyhow::Ok(Arc::new(Agent { name, nodes, fabrics, teller, survey }))
            }
        });
        Ok(Self(stream::iter(agents).buffered(16).try_collect().await?))
    }

    /// All take a turn, started at random within `jitter`; each tries until it is through, as the agent does.
    pub(crate) async fn round(&self, jitter: Duration) -> Result<Round> {
        let started = Instant::now();
        let mut tasks = JoinSet::new();
        let count = u32::try_from(self.0.len())?;
        for (number, agent) in (0_u32..).zip(&self.0) {
            let agent = agent.clone();
            // Spread evenly, as many random waits are.
            let wait = jitter * number / count;
            tasks.spawn(async move {
                tokio::time::sleep(wait).await;
                let (begun, mut failures) = (Instant::now(), 0);
                loop {
                    if let Ok(written) = agent.turn().await {
                        return (begun.elapsed(), written, failures);
                    }
                    tokio::time::sleep(run::backoff(failures)).await;
                    failures += 1;
                }
            });
        }
        let mut round = Round::default();
        while let Some(done) = tasks.join_next().await {
            let (took, written, failures) = done?;
            round.each.push(took);
            round.written += written;
            round.again += usize::try_from(failures)?;
        }
        round.took = started.elapsed();
        Ok(round)
    }
}

impl Agent {
    /// What the agent does at each period, without its survey; gives how many objects were written.
    async fn turn(&self) -> kube::Result<usize> {
        let node = self.nodes.get_with(&self.name, &GetParams::any()).await?;
        let now = Timestamp::now().to_string();
        let mut written = 0;
        if let publish::Outcome::Written { before, after } =
            publish::publish(&self.nodes, &self.name, &node, &self.survey, &now).await?
        {
            written += 1;
            if let Some(announcement) = report::announcement(before.as_ref(), &after) {
                self.teller.tell(&node, &announcement).await;
                written += 1;
            }
        }
        let told = node_fabric::publish(&self.fabrics, &node, &self.survey.status()).await?;
        Ok(written + usize::from(told == node_fabric::Outcome::Written))
    }
}
