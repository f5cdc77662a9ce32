//! The parts, one after the other, and the table that comes of them.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use harness::{Cluster, Options, free_port, outage::signal, railbind::Daemon, until};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    agents::Agents,
    measure::{self, Durations},
    objects,
    pods::{Came, Creating, NAMESPACE},
};

/// How much, and for how long.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    /// Pods a second.
    pub(crate) rate: u32,
    /// How long the load goes on with nothing happening, and around what happens.
    pub(crate) steady: Duration,
    pub(crate) etcd_away: Duration,
    /// The agents' `--start-jitter`; `None`: no agents, and the Nodes have their labels from the start.
    pub(crate) agents: Option<Duration>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Story {
    rows: Vec<(String, String)>,
    /// What should not have been. The rest is gone through all the same: the whole takes minutes.
    wrong: Vec<String>,
}

/// Waits that are long on a machine that everything is on.
const LIMIT: Duration = Duration::from_mins(5);

struct Scene<'a> {
    plan: &'a Plan,
    cluster: Cluster,
    listen: String,
    story: Story,
}

impl Story {
    pub(crate) async fn of(plan: &Plan) -> Result<Self> {
        // No controllers: they would find that no kubelet answers, and write that on every node.
        let cluster = Cluster::start(Options { bare: true, ..Options::default() }).await?;
        cluster.install_identities().await?;
        let listen = format!("127.0.0.1:{}", free_port()?);
        let mut scene = Scene { plan, cluster, listen, story: Self::default() };
        scene.nodes().await?;
        let agents = match plan.agents {
            Some(jitter) => Some(scene.agents(jitter).await?),
            None => None,
        };
        let webhook = scene.cold_start().await?;
        scene.steady_load(&webhook).await?;
        let webhook = scene.webhook_killed(webhook).await?;
        scene.api_server_killed(&webhook).await?;
        scene.etcd_stopped(&webhook).await?;
        scene.nothing_lost(agents.as_ref()).await?;
        drop(webhook);
        scene.cluster.stop().await?;
        Ok(scene.story)
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &str> {
        self.rows.iter().map(|(what, _)| what.as_str())
    }

    /// What should not have been.
    pub(crate) fn wrong(&self) -> &[String] {
        &self.wrong
    }

    fn expect(&mut self, right: bool, otherwise: impl FnOnce() -> String) {
        if !right {
            self.wrong.push(otherwise());
        }
    }

    /// Said at once too: the whole takes minutes.
    fn add(&mut self, what: impl Into<String>, came: impl Into<String>) {
        let (what, came) = (what.into(), came.into());
        println!("{what}: {came}");
        self.rows.push((what, came));
    }
}

/// As a table of Markdown.
impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n| what | figure |\n|---|---|")?;
        self.rows.iter().try_for_each(|(what, came)| writeln!(f, "| {what} | {came} |"))
    }
}

impl Scene<'_> {
    async fn nodes(&mut self) -> Result<()> {
        let client = self.cluster.client().await?;
        let (nodes, post) = (Api::<Node>::all(client.clone()), PostParams::default());
        let started = Instant::now();
        let create = (0..self.plan.nodes).map(|number| {
            let (nodes, post) = (&nodes, &post);
            let node = if self.plan.agents.is_some() { bare(number) } else { objects::node(number) };
            async move { nodes.create(post, &serde_json::from_value(node)?).await.context("create a node") }
        });
        stream::iter(create).buffer_unordered(16).try_for_each(|_| async { Ok(()) }).await?;
        let took = started.elapsed().as_secs_f64();
        self.story.add(format!("{} Nodes of 50 labels and 40 images created", self.plan.nodes), format!("{took:.0} s"));
        let object = json!({"metadata": {"name": NAMESPACE, "labels": {"railbind.dev/inject": "enabled"}}});
        Api::<Namespace>::all(client.clone()).create(&post, &serde_json::from_value(object)?).await?;
        // What the controller manager would do.
        let accounts: Api<ServiceAccount> = Api::namespaced(client, NAMESPACE);
        accounts.create(&post, &serde_json::from_value(json!({"metadata": {"name": "default"}}))?).await?;
        Ok(())
    }

    async fn agents(&mut self, jitter: Duration) -> Result<Agents> {
        let started = Instant::now();
        let agents = Agents::new(&self.cluster).await?;
        let api_server = self.cluster.component_id("kube-apiserver")?;
        let count = self.plan.nodes;
        println!("{count} tokens in {:.0} s", started.elapsed().as_secs_f64());
        // It follows the nodes meanwhile.
        let (mut following, _) = self.webhook("webhook-0").await?;
        let webhook = following.process.id()?;
        let followed = measure::processor(webhook)?;
        let (before, busy) = (measure::answers(&self.cluster).await?, measure::processor(api_server)?);
        let mut round = agents.round(jitter).await?;
        let after = measure::answers(&self.cluster).await?;
        let (written, sent_away) = (after.taken - before.taken, after.sent_away - before.sent_away);
        let followed = measure::processor(webhook)? - followed;
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        let per_agent = |figure: f64| figure / count as f64;
        self.story.add(
            format!("start of {count} agents within {} s", jitter.as_secs()),
            format!(
                "all nodes labelled, with NodeFabric and Event, after {:.0} s; one agent p50 {:.1} s, p99 {:.1} s; {} objects written in {written:.0} writes ({:.1} an agent, the API server's count), which sent {sent_away:.0} requests away (429) and had them again; {} turns failed and were taken again; {:.1} ms of the API server's processor an agent; it has {:.0} MiB; {followed:.1} s of the processor for the webhook that follows, which has {:.0} MiB",
                round.took.as_secs_f64(),
                measure::at(&mut round.each, 0.5) / 1000.0,
                measure::at(&mut round.each, 0.99) / 1000.0,
                round.written,
                per_agent(written),
                round.again,
                per_agent(measure::processor(api_server)? - busy) * 1000.0,
                measure::resident(api_server)?,
                measure::resident(webhook)?,
            ),
        );
        following.process.stop().await?;
        self.story
            .expect(round.written >= 2 * count, || format!("agents that wrote nothing: {} written", round.written));
        self.sizes().await?;

        // A Node is read from the API server's cache, which is behind after a storm of writes; agents look again a minute later.
        let nodes: Api<Node> = Api::all(self.cluster.client().await?);
        until("the API server's cache to catch up", LIMIT, || async {
            let cached = ListParams::default().labels("railbind.dev/profile").match_any();
            let labelled = nodes.list_metadata(&cached).await?.items.len();
            ensure!(labelled == count, "{labelled} of {count} are labelled in it");
            Ok(())
        })
        .await?;
        let (before, busy) = (measure::answers(&self.cluster).await?, measure::processor(api_server)?);
        let round = agents.round(jitter).await?;
        let written = measure::answers(&self.cluster).await?.taken - before.taken;
        let busy = measure::processor(api_server)? - busy;
        self.story.add(
            format!("idle period of {count} agents"),
            format!(
                "{} objects written, {written:.0} writes; {:.2} ms of the API server's processor an agent and period",
                round.written,
                per_agent(busy) * 1000.0
            ),
        );
        let idle = round.written == 0 && written < 0.5;
        self.story.expect(idle, || format!("idle agents wrote {} objects in {written} writes", round.written));
        Ok(agents)
    }

    async fn sizes(&mut self) -> Result<()> {
        let mut each = Vec::new();
        for number in 0..4 {
            let name = format!("node-{number:05}");
            let node = measure::bytes(&self.cluster, &format!("/api/v1/nodes/{name}")).await?;
            let fabric =
                measure::bytes(&self.cluster, &format!("/apis/railbind.dev/v1alpha1/nodefabrics/{name}")).await?;
            each.push(format!("{} + {}", node / 1000, fabric / 1000));
        }
        let database = measure::database(&self.cluster).await? / f64::from(1 << 20);
        let text = format!("{}; etcd's database has {database:.0} MiB in use", each.join(", "));
        self.story.add("Node + NodeFabric in kB of JSON: InfiniBand, RoCE, EFA, none", text);
        Ok(())
    }

    async fn webhook(&self, name: &str) -> Result<(Daemon, Duration)> {
        let url = format!("https://{}", self.listen);
        let more = ["--drain-seconds", "1", "--binding-engine", "webhook"];
        let started = Instant::now();
        let webhook = self.cluster.spawn_webhook_at(name, &self.listen, &url, &more).await?;
        Ok((webhook, started.elapsed()))
    }

    async fn cold_start(&mut self) -> Result<Daemon> {
        let (webhook, took) = self.webhook("webhook-1").await?;
        let known = webhook.metric("railbind_webhook_node_map_nodes", "").await?;
        let memory = measure::resident(webhook.process.id()?)?;
        self.story.add(
            "webhook's start with an idle API server",
            format!("ready after {:.2} s with {known:.0} nodes; {memory:.0} MiB", took.as_secs_f64()),
        );
        // The API server takes its time to see a new registration.
        let pods: Api<Pod> = Api::namespaced(self.cluster.client().await?, NAMESPACE);
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        until("the registration to be in force", LIMIT, || async {
            let pod = pods.create(&dry, &serde_json::from_value(objects::worker(NAMESPACE, "dry"))?).await?;
            let annotations = pod.metadata.annotations.unwrap_or_default();
            ensure!(annotations.contains_key("railbind.dev/decision"), "not patched");
            Ok(())
        })
        .await?;
        Ok(webhook)
    }

    async fn load(&self, prefix: &'static str) -> Result<Creating> {
        Ok(Creating::start(self.cluster.client().await?, prefix, self.plan.rate))
    }

    async fn steady_load(&mut self, webhook: &Daemon) -> Result<()> {
        let (process, api_server) = (webhook.process.id()?, self.cluster.component_id("kube-apiserver")?);
        let before = Durations::of(webhook).await?;
        let busy = (measure::processor(process)?, measure::processor(api_server)?);
        let (started, creating) = (Instant::now(), self.load("steady").await?);
        sleep(self.plan.steady).await;
        let mut came = creating.end().await?;
        let lasted = started.elapsed().as_secs_f64();
        let after = Durations::of(webhook).await?;
        let cores = (
            (measure::processor(process)? - busy.0) / lasted * 100.0,
            (measure::processor(api_server)? - busy.1) / lasted * 100.0,
        );
        let text = format!(
            "{}; creation p50 {:.0} ms, p99 {:.0} ms; the webhook's part p50 ≤ {} ms, p99 ≤ {} ms; {:.0}% of a core for the webhook, {:.0}% for the API server; webhook {:.0} MiB with {:.0} workers",
            counts(&came),
            came.at(0.5),
            came.at(0.99),
            after.since(&before, 0.5),
            after.since(&before, 0.99),
            cores.0,
            cores.1,
            measure::resident(process)?,
            webhook.metric("railbind_webhook_workers", "").await?,
        );
        self.story.add(format!("steady load, {} pods/s asked for, {:.0}/s reached", self.plan.rate, came.rate()), text);
        ensure!(came.created > 0, "nothing was created");
        Ok(())
    }

    async fn webhook_killed(&mut self, mut webhook: Daemon) -> Result<Daemon> {
        let creating = self.load("webhook").await?;
        sleep(self.plan.steady / 3).await;
        webhook.process.kill().await?;
        let (webhook, took) = self.webhook("webhook-2").await?;
        sleep(self.plan.steady / 3).await;
        let came = creating.end().await?;
        let text = format!("cold cache, ready after {:.2} s; {}", took.as_secs_f64(), counts(&came));
        self.story.add(format!("webhook killed and started under {:.0} pods/s", came.rate()), text);
        Ok(webhook)
    }

    async fn api_server_killed(&mut self, webhook: &Daemon) -> Result<()> {
        let creating = self.load("server").await?;
        sleep(self.plan.steady / 3).await;
        self.cluster.kill_component("kube-apiserver").await?;
        let started = Instant::now();
        self.cluster.revive("kube-apiserver").await?;
        let ready = started.elapsed().as_secs_f64();
        let first = self.first_after(&creating, started).await?;
        sleep(self.plan.steady / 3).await;
        let came = creating.end().await?;
        let (status, report) = webhook.get("/readyz").await?;
        ensure!(status == 200, "{report}");
        let text = format!("ready after {ready:.1} s, the first pod after {first:.1} s; {}", counts(&came));
        self.story.add("API server killed and started under load", text);
        Ok(())
    }

    async fn etcd_stopped(&mut self, webhook: &Daemon) -> Result<()> {
        let etcd = self.cluster.component_id("etcd")?;
        let creating = self.load("etcd").await?;
        sleep(self.plan.steady / 3).await;
        signal(etcd, "STOP")?;
        sleep(self.plan.etcd_away).await;
        let (status, report) = webhook.get("/readyz").await?;
        ensure!(status == 200, "{report}");
        signal(etcd, "CONT")?;
        let first = self.first_after(&creating, Instant::now()).await?;
        sleep(self.plan.steady / 3).await;
        let came = creating.end().await?;
        let text =
            format!("webhook ready all the time; the first pod {first:.1} s after its return; {}", counts(&came));
        self.story.add(format!("etcd stopped for {} s under load", self.plan.etcd_away.as_secs()), text);
        Ok(())
    }

    /// Seconds until one more pod is created.
    async fn first_after(&self, creating: &Creating, since: Instant) -> Result<f64> {
        let before = creating.so_far();
        until("a pod to be created", LIMIT, || async {
            ensure!(creating.so_far() > before, "none yet");
            Ok(since.elapsed().as_secs_f64())
        })
        .await
    }

    /// Every node still says what it said, and no agent has anything to add.
    async fn nothing_lost(&mut self, agents: Option<&Agents>) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.cluster.client().await?);
        let labelled = nodes.list_metadata(&ListParams::default().labels("railbind.dev/profile")).await?.items.len();
        let count = self.plan.nodes;
        let mut text = vec![format!("{labelled} of {count} nodes labelled")];
        self.story.expect(labelled == count, || format!("{labelled} of {count} nodes are labelled"));
        if let (Some(agents), Some(jitter)) = (agents, self.plan.agents) {
            let written = agents.round(jitter).await?.written;
            text.push(format!("a period of all agents wrote {written} objects"));
            self.story.expect(written == 0, || format!("after it all, agents wrote {written} objects"));
        }
        self.story.add("after all of that", text.join("; "));
        Ok(())
    }
}

/// A Node before its agent has said anything.
fn bare(number: usize) -> serde_json::Value {
    let mut node = objects::node(number);
    for part in ["labels", "annotations"] {
        if let Some(map) = node["metadata"][part].as_object_mut() {
            map.retain(|key, _| !key.starts_with("railbind.dev/"));
        }
    }
    node
}

fn counts(came: &Came) -> String {
    format!(
        "{} created, 0 refused, {} unpatched, {} while the API server did not answer",
        came.created, came.unpatched, came.away
    )
}
