//! Self-tests between real agents on the real control plane: their transfers run over this machine's UCX and its TCP.
//!
//! Each agent reads the tree of another machine, so that what the machine promises and what UCX finds here differ: a machine with RDMA
//! whose transfers cannot go over RDMA must fail, and one that promises no more than TCP must not.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use harness::{
    Cluster, LIMIT, NodeSpec, free_port,
    railbind::{Daemon, repository},
    until,
};
use serde_json::Value;

use crate::{cluster, stage::stage};

/// Whatever this machine's TCP gives, a node is tested again only when somebody asks.
const SELDOM: [&str; 1] = ["--selftest-recovery=3600"];

fn machine(fixture: &str) -> PathBuf {
    repository().join("tests/fixtures").join(fixture)
}

/// A node, and its agent with the self-test on.
pub(crate) async fn tester(cluster: &Cluster, node: &str, root: &Path, more: &[&str]) -> Result<Daemon> {
    cluster.add_node(NodeSpec::new(node)).await?;
    let listen = format!("127.0.0.1:{}", free_port()?);
    let flags = [
        "--selftest=on",
        "--selftest-listen",
        &listen,
        "--selftest-slot=3",
        "--selftest-seconds=0.05",
        "--selftest-sizes=64K,1M",
        "--selftest-deadline=20",
        "--period=2",
        "--log-level=info,node_agent=debug",
    ];
    let mut agent =
        cluster.spawn_agent_flags(&format!("agent-{node}"), node, root, &[&flags[..], more].concat()).await?;
    agent.ready().await?;
    Ok(agent)
}

async fn object(cluster: &Cluster, kind: &str, name: &str) -> Result<Value> {
    Ok(serde_json::from_str(&cluster.kubectl(&["get", kind, name, "-o", "json"]).await?)?)
}

/// Waits until the Node says so, and gives its NodeFabric's part.
pub(crate) async fn says(cluster: &Cluster, agent: &Daemon, node: &str, verdict: &[&str]) -> Result<Value> {
    let waited = until(format_args!("{node} to be {verdict:?}"), LIMIT, || async {
        let found = object(cluster, "node", node).await?;
        let label = found["metadata"]["labels"]["railbind.dev/selftest"].as_str().unwrap_or("absent").to_owned();
        let status = object(cluster, "nodefabric", node).await?["status"]["selftest"].clone();
        ensure!(verdict.contains(&label.as_str()), "it is {label}: {status}");
        ensure!(status["verdict"] == label.as_str(), "NodeFabric says {}", status["verdict"]);
        Ok(status)
    })
    .await;
    waited.with_context(|| agent.process.tail(40))
}

#[tokio::test]
async fn machines_that_promise_tcp_prove_it_and_are_idle_afterwards() {
    stage().await;
    let cluster = cluster().await;
    let root = machine("tcp-only");
    let one = tester(cluster, "proves-tcp-1", &root, &SELDOM).await.unwrap();
    let two = tester(cluster, "proves-tcp-2", &root, &SELDOM).await.unwrap();
    let both = [(&one, "proves-tcp-1", "proves-tcp-2"), (&two, "proves-tcp-2", "proves-tcp-1")];
    for (agent, node, _) in both {
        says(cluster, agent, node, &["passed", "slow"]).await.unwrap();
        // The first may have been alone in its domain until the second came, and tested itself.
        cluster.kubectl(&["annotate", "node", node, "railbind.dev/selftest-requested=together"]).await.unwrap();
    }
    for (agent, node, other) in both {
        let status = until(format_args!("{node} to be tested with {other}"), LIMIT, || async {
            let status = object(cluster, "nodefabric", node).await?["status"]["selftest"].clone();
            ensure!(status["requested"] == "together" && status["last"]["partner"] == other, "{status}");
            Ok(status)
        })
        .await
        .with_context(|| agent.process.tail(40))
        .unwrap();
        let last = &status["last"];
        assert_eq!(last["integrity"], "ok", "{status:#}");
        assert!(last["transport"].as_str().unwrap().starts_with("tcp/"), "{status:#}");
        let condition = object(cluster, "nodefabric", node).await.unwrap()["status"]["ready"]["message"].clone();
        assert!(condition.as_str().unwrap().contains(&format!("to {other} over tcp")), "{condition}");
        assert!(agent.metric("railbind_selftest_bandwidth_gbytes_per_second", other).await.unwrap() > 0.0);
        assert!(agent.metric("railbind_selftest_verdict", "untested").await.unwrap() < 0.5);
    }
    let described = cluster.kubectl(&["describe", "node", "proves-tcp-1"]).await.unwrap();
    assert!(described.contains("SelfTest"), "{described}");
    println!("{described}");

    // Asked again by a person: answered, and then nothing is written any more.
    let asked = "railbind.dev/selftest-requested=now";
    cluster.kubectl(&["annotate", "--overwrite", "node", "proves-tcp-1", asked]).await.unwrap();
    until("the answer to the annotation", LIMIT, || async {
        let status = object(cluster, "nodefabric", "proves-tcp-1").await?["status"]["selftest"].clone();
        ensure!(status["requested"] == "now", "{status}");
        Ok(())
    })
    .await
    .with_context(|| one.process.tail(40))
    .unwrap();
    let transfers = async || one.metric("railbind_selftest_transfers", "").await.unwrap();
    until("both to have no more to test", LIMIT, || async {
        let before = transfers().await;
        tokio::time::sleep(Duration::from_secs(7)).await;
        let now = transfers().await;
        ensure!((now - before).abs() < 0.1, "{before}, then {now} transfers");
        Ok(())
    })
    .await
    .unwrap();
    let written = async || one.metric("railbind_agent_writes", "result=\"written\"").await.unwrap();
    let unchanged = async || one.metric("railbind_agent_writes", "result=\"unchanged\"").await.unwrap();
    let (before, looks) = (written().await, unchanged().await);
    until("two more turns", LIMIT, || async {
        ensure!(unchanged().await >= looks + 4.0, "not yet");
        Ok(())
    })
    .await
    .unwrap();
    assert!((written().await - before).abs() < 0.1, "written without news:\n{}", one.process.tail(40));
    gone(cluster, [(one, "proves-tcp-1"), (two, "proves-tcp-2")]).await;
}

#[tokio::test]
async fn machines_with_rdma_whose_transfers_do_not_go_over_it_have_failed() {
    stage().await;
    let cluster = cluster().await;
    let root = machine("roce-gid5");
    let profiles = tempfile::tempdir().unwrap();
    // The silent one: a list that allows TCP beside RDMA, as people write it.
    let yaml = std::fs::read_to_string(repository().join("policies/profiles/guide/roce-gpudirect.yaml")).unwrap();
    let tls = "rc_x,rc,dc_x,dc,cuda_copy,cuda_ipc";
    assert!(yaml.contains(tls));
    std::fs::write(profiles.path().join("roce-gpudirect.yaml"), yaml.replace(tls, "rc_x,tcp")).unwrap();
    let more = ["--selftest-recovery=4", "--profiles", profiles.path().to_str().unwrap()];
    let one = tester(cluster, "falls-back-1", &root, &more).await.unwrap();
    let two = tester(cluster, "falls-back-2", &root, &more).await.unwrap();
    let status = says(cluster, &one, "falls-back-1", &["failed"]).await.unwrap();
    assert_eq!(status["last"]["code"], "FabricFallback", "{status:#}");
    println!("{status:#}");
    let described = cluster.kubectl(&["describe", "node", "falls-back-1"]).await.unwrap();
    println!("{described}");
    assert!(described.contains("SelfTestFailed"), "{described}");
    assert!((one.metric("railbind_selftest_verdict", "failed").await.unwrap() - 1.0).abs() < 0.1);
    gone(cluster, [(one, "falls-back-1"), (two, "falls-back-2")]).await;
}

async fn gone<const N: usize>(cluster: &Cluster, agents: [(Daemon, &str); N]) {
    for (mut agent, node) in agents {
        agent.process.stop().await.unwrap();
        cluster.remove_node(node).await.unwrap();
    }
}
