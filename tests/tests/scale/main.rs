//! How far it goes: thousands of nodes, hundreds of pods a second, and what fails meanwhile. `make scale` runs it in full; a small one
//! is always run, so that it stays true.
//!
//! Real are the API server, etcd and the webhook, and each agent's requests: they are made by the agent's own code, over a connection
//! and with a token of its own. Not real are the agents' processes and their own surveys (one survey of a fixture serves all nodes of
//! its kind), and the kubelets, scheduler and controllers, of which there are none: pods are created and stay where they are.

#![allow(clippy::unwrap_used, reason = "all of it is tests, helpers included")]

mod agents;
mod measure;
#[allow(dead_code, reason = "the benchmark's; here only nodes and workers")]
#[path = "../../benches/webhook/objects.rs"]
mod objects;
mod pods;
mod story;

use std::time::Duration;

use story::{Plan, Story};

/// A figure of the environment, for `make scale`.
fn given(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes and the whole machine: make scale"]
async fn thousands_of_nodes() {
    let plan = Plan {
        nodes: given("SCALE_NODES", 5000),
        rate: u32::try_from(given("SCALE_RATE", 500)).unwrap(),
        steady: Duration::from_secs(30),
        etcd_away: Duration::from_mins(1),
        // Off: the webhook's part alone, in a fraction of the time.
        agents: (given("SCALE_AGENTS", 1) > 0).then_some(Duration::from_secs(10)),
    };
    let story = Story::of(&plan).await.unwrap();
    println!("{story}");
    assert!(story.wrong().is_empty(), "{:?}", story.wrong());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_one() {
    let plan = Plan {
        nodes: 48,
        rate: 40,
        steady: Duration::from_secs(3),
        etcd_away: Duration::from_secs(3),
        agents: Some(Duration::from_secs(1)),
    };
    let story = Story::of(&plan).await.unwrap();
    println!("{story}");
    assert!(story.wrong().is_empty(), "{:?}", story.wrong());
    for what in ["start of 48 agents", "idle", "steady load", "webhook killed", "API server killed", "etcd stopped"] {
        assert!(story.rows().any(|row| row.starts_with(what)), "no row about {what}");
    }
}
