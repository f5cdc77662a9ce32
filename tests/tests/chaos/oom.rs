//! The agent is killed by SIGKILL, which is what the kernel's OOM killer sends, again and again at other moments of its work, while the
//! machine changes.

use std::{collections::BTreeSet, process::Command, time::Duration};

use anyhow::ensure;
use harness::{LIMIT, railbind::binary, tree, until, with_namespace};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    stage::{NODE, OURS, Stage, labels},
    steady::Steady,
};

const KILLS: u32 = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agent_oom_killed() {
    let stage = Stage::new().await;
    let webhook = stage.cluster.spawn_webhook("webhook").await.unwrap();
    let survey = || -> Value {
        let mut command = Command::new(binary("railbind-agent").unwrap());
        let output = command.args(["survey", "--json", "--root"]).arg(stage.root()).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["labels"].clone()
    };
    with_namespace(&stage.cluster, &OURS, async |namespace| {
        // So that there is something to lose from the start.
        stage.agent().await.process.kill().await?;
        let steady = Steady::start(&stage, namespace).await?;
        let (mut index, mut before) = (3, labels(&stage.cluster, NODE).await?);
        let mut seen = BTreeSet::new();
        for kill in 0..KILLS {
            let mut agent = stage.cluster.spawn_agent(NODE, stage.root(), "0.2").await?;
            let truth = survey();
            // From before its first request to well after its last.
            sleep(Duration::from_millis(u64::from(kill) * 40)).await;
            agent.process.kill().await?;
            // All that the machine is or all that it was, and never a part.
            let now = labels(&stage.cluster, NODE).await?;
            ensure!(now == truth || now == before, "{now}\nis neither {truth}\nnor {before}");
            seen.insert(now == truth);
            before = now;
            let next = if index == 3 { 9 } else { 3 };
            tree::move_gids(stage.root(), index, next)?;
            index = next;
        }
        ensure!(seen.len() == 2, "killed only before, or only after, it had written: {seen:?}");
        let mut agent = stage.cluster.spawn_agent(NODE, stage.root(), "0.2").await?;
        agent.ready().await?;
        ensure!(labels(&stage.cluster, NODE).await? == survey(), "{}", labels(&stage.cluster, NODE).await?);
        until("the NodeFabric to say the same", LIMIT, || async {
            let fabric = stage.fabric().await?;
            ensure!(fabric["status"]["gidIndex"] == json!(index), "{}", fabric["status"]["gidIndex"]);
            Ok(())
        })
        .await?;
        stage.given(namespace, &index.to_string()).await?;
        let came = steady.end("agent killed").await?;
        ensure!(came.away == 0 && came.unpatched == 0, "{came:?}\n{}", webhook.process.tail(20));
        agent.process.check()
    })
    .await;
    stage.cluster.stop().await.unwrap();
}
