//! Ten idle minutes: what agents ask of the API server while nothing changes, from its own audit log. `make idle` runs it.

#![allow(clippy::unwrap_used, reason = "all of it is a test")]

use std::{collections::BTreeMap, time::Duration};

use harness::{Cluster, Options, scene::MACHINES};
use serde_json::Value;

#[tokio::test]
#[ignore = "takes ten minutes: make idle"]
async fn nothing_is_written_in_ten_idle_minutes() {
    let cluster = Cluster::start(Options { audit: true, ..Options::default() }).await.unwrap();
    cluster.install_identities().await.unwrap();
    let mut agents = Vec::new();
    for machine in MACHINES {
        // Every five seconds, twelve times as often as in production.
        cluster.add_node(machine.spec()).await.unwrap();
        let mut agent = cluster.spawn_agent(machine.node, &machine.root(), "5").await.unwrap();
        agent.ready().await.unwrap();
        agents.push(agent);
    }
    // The one with probes writes a second time when they have answered.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let requests = |cluster: &Cluster| -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        let agents = |event: &&Value| {
            event["stage"] == "ResponseComplete"
                && event["user"]["username"] == "system:serviceaccount:railbind-system:railbind-agent"
        };
        for event in cluster.audit().unwrap().iter().filter(agents) {
            let object = &event["objectRef"];
            let part = object["subresource"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
            let what = format!("{} {}{part}", event["verb"].as_str().unwrap(), object["resource"].as_str().unwrap());
            *counts.entry(what).or_insert(0) += 1;
        }
        counts
    };
    let before = requests(&cluster);
    tokio::time::sleep(Duration::from_mins(10)).await;
    let after = requests(&cluster);
    println!("{} agents, a survey every 5 s, ten minutes", agents.len());
    let (mut written, mut lists) = (0, 0);
    for (what, count) in &after {
        let new = count - before.get(what).copied().unwrap_or(0);
        println!("  {what:<28} {:>5} at the start, {new:>5} in ten idle minutes", count - new);
        match what.split_once(' ') {
            Some(("get", _)) => {}
            Some(("list", "transportprofiles")) => lists += new,
            _ => written += new,
        }
    }
    assert_eq!(written, 0);
    // One in ten minutes each, give or take the spread.
    assert!(lists <= 2 * agents.len(), "{lists} lists of the cluster's profiles by {} agents", agents.len());
    for agent in agents {
        assert!(agent.metric("railbind_agent_surveys", "").await.unwrap() > 100.0, "the agents did not survey");
    }
    cluster.stop().await.unwrap();
}
