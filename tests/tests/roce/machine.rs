//! A guest with its Node and its agent.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use harness::{
    Cluster, NodeSpec,
    guest::{End, Guest, HOST, Image},
    until,
};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::says::{Fabric, expected, found, gids, routable};

/// Seconds between two surveys where nothing tells of a change: more than the whole test takes.
const PERIOD: u32 = 900;
/// How long a change may take to show. The agent itself waits half a second for the burst of messages to end.
const SOON: Duration = Duration::from_secs(30);
/// How long an agent must have had nothing to do before the next change is made: a link that comes up has an IPv6 address
/// announced after two seconds more, and a change that nobody announced must not be found by such a message.
const QUIET: Duration = Duration::from_millis(2500);
/// What the kernel has after the link came up: the fabric's interface, its address, and the RDMA device on it.
const FABRIC_UP: &str =
    "ip link set eth0 up\nip address add {address}/24 dev eth0\nrdma link add rxe0 type rxe netdev eth0";
/// As its DaemonSet runs it: root without capabilities, and the node's trees below /host.
const AGENT: &str = "capsh --drop=all --shell=/bin/sh -- -c 'exec railbind-agent run --root=/host \
    --admin-listen=127.0.0.1:9465 --start-jitter=0 --node-name={node} --period={period} {flags}' > /dev/ttyS0 2>&1 &\n\
    echo $! > /agent.pid";
/// The agent's metrics.
const METRICS: &str = "wget -qO- http://127.0.0.1:9465/metrics";
/// The start of the port's GID table as its kernel has it; the rest of its 1024 entries are empty here. A type of an empty
/// entry cannot be read.
const GIDS: &str = "cd /sys/class/infiniband/rxe0/ports/1 && grep . gids/[0-9] gid_attrs/types/[0-9] 2>/dev/null; true";

/// A guest with its Node.
pub(crate) struct Machine<'a> {
    cluster: &'a Cluster,
    pub(crate) node: &'static str,
    pub(crate) address: &'static str,
    pub(crate) guest: Guest,
}

impl<'a> Machine<'a> {
    pub(crate) async fn switched_on(
        cluster: &'a Cluster,
        node: &'static str,
        address: &'static str,
        end: End,
        image: &Image,
    ) -> Result<Self> {
        Ok(Self { cluster, node, address, guest: cluster.switch_on(node, end, image).await? })
    }

    /// The same with a port of this machine that leads to one of its own.
    pub(crate) async fn switched_on_with(
        cluster: &'a Cluster,
        node: &'static str,
        address: &'static str,
        end: End,
        image: &Image,
        forwarded: (u16, u16),
    ) -> Result<Self> {
        Ok(Self { cluster, node, address, guest: cluster.switch_on_with(node, end, image, Some(forwarded)).await? })
    }

    /// Its Node, its fabric, and its agent.
    pub(crate) async fn join(&self) -> Result<()> {
        self.boot().await?;
        self.start(PERIOD, "").await
    }

    /// All but its agent.
    pub(crate) async fn boot(&self) -> Result<()> {
        self.cluster.add_node(NodeSpec::new(self.node)).await?;
        let node: Node = Api::all(self.cluster.client().await?).get(self.node).await?;
        let kubeconfig = std::fs::read_to_string(self.cluster.identity("railbind-agent", Some(&node)).await?)?;
        self.guest.booted().await?;
        println!("{} booted: {}", self.node, self.guest.run("uname -rv").await?);
        self.guest.run(&FABRIC_UP.replace("{address}", self.address)).await?;
        self.guest.write("/ca.crt", self.cluster.authority().certificate()).await?;
        self.guest.write("/kubeconfig", &seen_from_inside(&kubeconfig)?).await?;
        Ok(())
    }

    /// Its agent.
    pub(crate) async fn start(&self, period: u32, flags: &str) -> Result<()> {
        let agent =
            AGENT.replace("{node}", self.node).replace("{period}", &period.to_string()).replace("{flags}", flags);
        self.guest.run(&format!("export KUBECONFIG=/kubeconfig NO_COLOR=1\n{agent}")).await?;
        Ok(())
    }

    /// Changes something, when the last change has no more to say.
    pub(crate) async fn does(&self, script: &str) -> Result<()> {
        self.quiet().await?;
        self.guest.run(script).await?;
        Ok(())
    }

    /// Pulls its cable out of the fabric, or plugs it in, as quietly.
    pub(crate) async fn plug(&self, plugged: bool) -> Result<()> {
        self.quiet().await?;
        self.guest.plug(plugged).await
    }

    /// Waits until the agent has had nothing to do for a while.
    async fn quiet(&self) -> Result<()> {
        let surveys = async || self.guest.run(&format!("{METRICS} | grep ^railbind_agent_surveys")).await;
        until(format_args!("{} to be quiet", self.node), SOON, || async {
            let before = surveys().await?;
            sleep(QUIET).await;
            let now = surveys().await?;
            ensure!(now == before, "{before}, then {now}");
            Ok(())
        })
        .await
    }

    /// What its agent has counted. Fails if it is not the process that was started, or has a capability.
    pub(crate) async fn counts(&self) -> Result<String> {
        let same = "grep -q '^CapEff:.0*$' /proc/$(cat /agent.pid)/status";
        self.guest.run(&format!("{same} && {METRICS} | grep '^railbind_agent_[a-z_]*_total'")).await
    }

    /// Waits until its Node says so, and says how long that took.
    pub(crate) async fn is(&self, when: &str, fabric: Fabric) -> Result<()> {
        let started = Instant::now();
        let nodes: Api<Node> = Api::all(self.cluster.client().await?);
        let what = format!("{} to be {fabric:?} {when}", self.node);
        until(what, SOON, || async {
            // Read anew each time: after a change, the kernel fills the table when it gets to it.
            let gids = if fabric == Fabric::Roce { gids(&self.guest.run(GIDS).await?)? } else { Vec::new() };
            let expected = expected(fabric, self.address, &gids)?;
            let node = serde_json::to_value(nodes.get(self.node).await?)?;
            let found = found(&node, &self.fabric().await?["status"], &expected);
            ensure!(found == expected, "it is {found:#?}\nnot {expected:#?}");
            Ok(())
        })
        .await?;
        println!("{} is {fabric:?} {when}, {:.1} s later", self.node, started.elapsed().as_secs_f64());
        Ok(())
    }

    /// Crosses the wire with the GID index that the Nodes' labels name.
    pub(crate) async fn ping(&self, other: &Machine<'_>) -> Result<String> {
        let own = routable(&gids(&self.guest.run(GIDS).await?)?, self.address)?;
        let others = routable(&gids(&other.guest.run(GIDS).await?)?, other.address)?;
        let server = format!("timeout 60 ibv_rc_pingpong -d rxe0 -g {own} -n 10");
        let client = format!(
            "for try in $(seq 20); do sleep 0.5; timeout 60 ibv_rc_pingpong -d rxe0 -g {others} -n 10 {} && exit; done; exit 1",
            self.address
        );
        let (_, said) = tokio::try_join!(self.guest.run(&server), other.guest.run(&client))?;
        ensure!(said.contains("10 iters in"), "{said}");
        let lines = said.lines().filter(|line| line.contains("address:") || line.contains("iters"));
        Ok(lines.fold(format!("ibv_rc_pingpong from {} to {}:\n", other.node, self.node), |text, line| {
            text + "  " + line.trim() + "\n"
        }))
    }

    /// Its NodeFabric.
    pub(crate) async fn fabric(&self) -> Result<Value> {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("railbind.dev", "v1alpha1", "NodeFabric"));
        let fabrics: Api<DynamicObject> = Api::all_with(self.cluster.client().await?, &kind);
        Ok(serde_json::to_value(fabrics.get(self.node).await?)?)
    }

    /// The transports that its agent's own probe of UCX found, once that has `transport`.
    pub(crate) async fn probed(&self, transport: &str) -> Result<String> {
        until(format_args!("{}'s probe of UCX to find {transport}", self.node), SOON, || async {
            let fabric = self.fabric().await?;
            let probe = &fabric["status"]["ucx"];
            let found = probe["inUse"]["known"].as_array().with_context(|| format!("no transports in {probe}"))?;
            ensure!(found.iter().any(|name| name == transport), "{probe}");
            let names: Vec<&str> = found.iter().filter_map(Value::as_str).collect();
            let version = probe["library"]["known"]["version"].as_str().context("no version")?;
            Ok(format!("UCX {version}: {}", names.join(", ")))
        })
        .await
    }

    /// What an administrator reads: the NodeFabric, but for the raw facts and probes, and our part of `kubectl describe node`.
    pub(crate) async fn described(&self) -> Result<String> {
        let table = self.cluster.kubectl(&["get", "nodefabric", self.node]).await?;
        let mut fabric = self.fabric().await?;
        let status = fabric["status"].as_object_mut().context("a status")?;
        for long in ["facts", "ucx", "cuda"] {
            status.remove(long);
        }
        let status = serde_json::to_string_pretty(status)?;
        let node = self.node_described().await?;
        Ok(format!("$ kubectl get nodefabric {}\n{table}its status, in short: {status}\n\n{node}", self.node))
    }

    async fn node_described(&self) -> Result<String> {
        let all = self.cluster.kubectl(&["describe", "node", self.node]).await?;
        let mut text = format!("$ kubectl describe node {}\n", self.node);
        let mut section = "";
        for line in all.lines() {
            if !line.starts_with(' ') {
                section = line.split(':').next().unwrap_or_default();
            }
            let ours = match section {
                "Name" | "Labels" | "Annotations" | "Events" => true,
                "Conditions" => !line.contains("kubelet"),
                _ => false,
            };
            if ours {
                let _ = writeln!(text, "{line}");
            }
        }
        Ok(text)
    }
}

/// The kubeconfig of an identity, for use in a guest: the API server's certificate does not have the address that it has
/// there, so the name to check is named.
fn seen_from_inside(kubeconfig: &str) -> Result<String> {
    let mut config: Value = serde_json::from_str(kubeconfig)?;
    let cluster = &mut config["clusters"][0]["cluster"];
    let server = cluster["server"].as_str().context("no server")?.replace("127.0.0.1", HOST);
    *cluster = json!({"server": server, "certificate-authority": "/ca.crt", "tls-server-name": "localhost"});
    Ok(config.to_string())
}
