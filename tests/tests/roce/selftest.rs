//! The self-test over real RoCE: two agents move data over `rc_verbs`, lose the path in the middle of it, and are told from one that is
//! forced to TCP while it has RDMA.
//!
//! They speak to each other over a network of its own, as on a cluster with a management network: it stays when the fabric is cut.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{
    Cluster, Options, free_port,
    guest::{End, HOST, Image},
    railbind::binary,
    until,
};
use serde_json::Value;

use crate::machine::Machine;

/// Where the agents listen in the guests.
const PORT: u16 = 9466;
/// An emulated machine moves little: small sizes, and time to start.
const FLAGS: &str = "--profiles=/profiles --selftest=on --selftest-slot=15 --selftest-recovery=8 --selftest-seconds=0.5 \
    --selftest-sizes=4K,64K --selftest-deadline=60 --selftest-stall=6 --log-level=info,node_agent=debug";
/// Soft-RoCE as a profile: no profile that ships allows it. UCX's wire-up goes over UD, which finds its way here with the link-local GID.
const PROFILE: &str = r#"apiVersion: railbind.dev/v1alpha1
kind: TransportProfile
metadata: {name: soft-roce}
spec:
  set: guide
  priority: 900
  description: soft-RoCE, for tests
  when: {fabric: [roce], soft: true}
  env:
    - {name: UCX_TLS, value: "{tls}", source: test}
    - {name: UCX_NET_DEVICES, value: "{devices}", source: test}
    - {name: UCX_IB_GID_INDEX, value: "0", source: test}
  needs: {}
  expect:
    transports: [rc_verbs]
    ttftOverhead: {value: none, source: test}
"#;
const SOON: Duration = Duration::from_mins(4);

#[tokio::test]
#[ignore = "needs qemu and a guest image: make test-roce"]
async fn a_self_test_goes_over_roce_and_sees_what_breaks() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let image = Image::with(&binary("railbind-agent").unwrap(), cluster.path()).await.unwrap();
    let ports = [free_port().unwrap(), free_port().unwrap()];
    let [one, two] = [
        Machine::switched_on_with(&cluster, "roce-tests-1", "192.168.77.1", End::A, &image, (ports[0], PORT))
            .await
            .unwrap(),
        Machine::switched_on_with(&cluster, "roce-tests-2", "192.168.77.2", End::B, &image, (ports[1], PORT))
            .await
            .unwrap(),
    ];
    cluster.install_identities().await.unwrap();
    if let Err(error) = story(&cluster, [(&one, ports[0]), (&two, ports[1])]).await {
        panic!("{error:#}\n{}\n{}", one.guest.console(60), two.guest.console(60));
    }
    for mut guest in [one.guest, two.guest] {
        guest.process.kill().await.unwrap();
    }
    cluster.stop().await.unwrap();
}

async fn story(cluster: &Cluster, [one, two]: [(&Machine<'_>, u16); 2]) -> Result<()> {
    tokio::try_join!(one.0.boot(), two.0.boot())?;
    for (machine, port) in [one, two] {
        start(machine, port, "rc", "all").await?;
    }
    let [one, two] = [one, two].map(|(machine, port)| Tested { cluster, machine, port });
    for tested in [&one, &two] {
        let status = tested.says("passed", "over RoCE").await?;
        let last = &status["last"];
        ensure!(last["transport"] == "rc_verbs/rxe0:1" && last["integrity"] == "ok", "{status:#}");
    }
    one.show("over RoCE").await?;

    // In the middle of a transfer that a person asked for, the path is gone: both ports stay up, and no fact changes.
    one.ask("before-the-cut").await?;
    one.transfers().await?;
    cluster.cut(true)?;
    println!("the path is cut in the middle of a transfer");
    for tested in [&one, &two] {
        let status = tested.says("failed", "after the cut").await?;
        ensure!(status["last"]["verdict"] == "failed", "{status:#}");
        let fabric = tested.machine.fabric().await?["status"]["fabric"].clone();
        ensure!(fabric == "roce", "its facts changed: {fabric}");
    }
    one.show("after the path was cut").await?;
    for tested in [&one, &two] {
        tested.is_alone().await?;
    }

    cluster.cut(false)?;
    for tested in [&one, &two] {
        tested.says("passed", "after the path was mended").await?;
    }

    // One may use TCP alone, the other what people write: RDMA or TCP. UCX says no word of it.
    for (tested, tls, devices) in [(&one, "tcp", "eth0"), (&two, "rc,tcp", "rxe0:1,eth0")] {
        tested
            .machine
            .guest
            .run("kill $(cat /agent.pid); while kill -0 $(cat /agent.pid) 2>/dev/null; do sleep 0.1; done")
            .await?;
        start(tested.machine, tested.port, tls, devices).await?;
    }
    one.ask("forced").await?;
    // The other one is not to blame for a partner that fails.
    let status = one.says("failed", "where it is forced to TCP").await?;
    ensure!(status["last"]["code"] == "FabricFallback", "{status:#}");
    one.show("where it is forced to TCP").await
}

async fn start(machine: &Machine<'_>, port: u16, tls: &str, devices: &str) -> Result<()> {
    machine.guest.run("mkdir -p /profiles").await?;
    let profile = PROFILE.replace("{tls}", tls).replace("{devices}", devices);
    machine.guest.write("/profiles/soft-roce.yaml", &profile).await?;
    machine.start(3, &format!("{FLAGS} --selftest-address={HOST}:{port}")).await
}

struct Tested<'a> {
    cluster: &'a Cluster,
    machine: &'a Machine<'a>,
    port: u16,
}

impl Tested<'_> {
    /// Waits until label and NodeFabric say so.
    async fn says(&self, verdict: &str, when: &str) -> Result<Value> {
        let (started, node) = (Instant::now(), self.machine.node);
        let status = until(format_args!("{node} to be {verdict} {when}"), SOON, || async {
            let label = "jsonpath={.metadata.labels.railbind\\.dev/selftest}";
            let label = self.cluster.kubectl(&["get", "node", node, "-o", label]).await?;
            let status = self.machine.fabric().await?["status"]["selftest"].clone();
            ensure!(label == verdict && status["verdict"] == verdict, "it is {label:?}: {status}");
            Ok(status)
        })
        .await?;
        println!("{node} is {verdict} {when}, {:.1} s later", started.elapsed().as_secs_f64());
        Ok(status)
    }

    /// As a person does.
    async fn ask(&self, word: &str) -> Result<()> {
        let asked = format!("railbind.dev/selftest-requested={word}");
        self.cluster.kubectl(&["annotate", "--overwrite", "node", self.machine.node, &asked]).await.map(drop)
    }

    /// Waits until its child moves data: its RDMA device sends.
    async fn transfers(&self) -> Result<()> {
        let sent = async || -> Result<u64> {
            let text = self.machine.guest.run("cat /sys/class/infiniband/rxe0/ports/1/hw_counters/sent_pkts").await?;
            text.trim().parse().context("sent_pkts")
        };
        let before = sent().await?;
        until(format_args!("{} to transfer", self.machine.node), SOON, || async {
            let now = sent().await?;
            ensure!(now > before + 50, "{before} packets, then {now}");
            Ok(())
        })
        .await
    }

    /// No child is left once nothing is tested.
    async fn is_alone(&self) -> Result<()> {
        until(format_args!("{} to have no child", self.machine.node), SOON, || async {
            let children = self.machine.guest.run("ps | grep -c '[b]ench child' || true").await?;
            ensure!(children.trim() == "0", "{children}");
            Ok(())
        })
        .await
    }

    async fn show(&self, when: &str) -> Result<()> {
        println!("\n══ {} {when} ══\n{}", self.machine.node, self.machine.described().await?);
        let metrics = "wget -qO- http://127.0.0.1:9465/metrics | grep '^railbind_selftest'";
        println!("{}\n", self.machine.guest.run(metrics).await?);
        Ok(())
    }
}
