//! Replicas come and go under load: no creation fails, and it is known how many pods went unpatched.

use std::time::Duration;

use anyhow::ensure;
use harness::{Balancer, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::time::sleep;

use crate::creating::Creating;

/// Creations a second.
const RATE: u32 = 200;
const DRAIN: [&str; 2] = ["--drain-seconds", "4"];
/// What it takes a cluster to take an end out of a Service.
const PROPAGATION: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_and_a_killed_replica_fail_no_creation() {
    let (_alone, cluster) = crate::cluster().await;
    let balancer = Balancer::start().await.unwrap();
    let (mut one, one_at) = cluster.spawn_replica("replica-1", &balancer, &DRAIN).await.unwrap();
    let (mut two, two_at) = cluster.spawn_replica("replica-2", &balancer, &DRAIN).await.unwrap();
    with_namespace(&cluster, &[("railbind.dev/inject", "enabled")], async |namespace| {
        let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
        let creating = Creating::start(pods.clone(), "rolling", RATE);
        sleep(Duration::from_secs(2)).await;
        // As a Deployment does it: a new one is ready before an old one is asked to end.
        let (mut three, three_at) = cluster.spawn_replica("replica-3", &balancer, &DRAIN).await?;
        let ((), ended) = tokio::join!(leave(&balancer, one_at), one.process.stop());
        ensure!(ended?.code() == Some(0), "{}", one.process.tail(20));
        let (_four, _) = cluster.spawn_replica("replica-4", &balancer, &DRAIN).await?;
        let ((), ended) = tokio::join!(leave(&balancer, two_at), two.process.stop());
        ensure!(ended?.code() == Some(0), "{}", two.process.tail(20));
        sleep(Duration::from_secs(2)).await;
        let (created, missed) = creating.end("rolling restart").await?;
        ensure!(missed == 0, "{missed} of {created} went unpatched in the rolling restart");

        let creating = Creating::start(pods.clone(), "killed", RATE);
        sleep(Duration::from_secs(2)).await;
        three.process.kill().await?;
        sleep(PROPAGATION).await;
        balancer.remove(three_at);
        sleep(Duration::from_secs(3)).await;
        creating.end("killed replica").await?;
        Ok(())
    })
    .await;
    cluster.stop().await.unwrap();
}

async fn leave(balancer: &Balancer, end: std::net::SocketAddr) {
    sleep(PROPAGATION).await;
    balancer.remove(end);
}
