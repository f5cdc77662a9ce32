//! Replicas come and go under load: no creation fails, and it is known how many pods went unpatched.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use harness::{Balancer, Cluster, Options, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Creations a second.
const RATE: u32 = 200;
const DRAIN: [&str; 2] = ["--drain-seconds", "4"];
/// What it takes a cluster to take an end out of a Service.
const PROPAGATION: Duration = Duration::from_millis(500);

/// Creates so many pods a second until told to stop; gives how many, what failed, and the rate that came of it.
pub(crate) async fn load(
    pods: Api<Pod>,
    prefix: &'static str,
    rate: u32,
    stop: Arc<AtomicBool>,
) -> (usize, Vec<String>, f64) {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (created, started) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let (pods, created, name) = (pods.clone(), created.clone(), format!("{prefix}-{number}"));
        number += 1;
        tasks.spawn(async move {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {"llm-d.ai/role": "decode"}},
                "spec": {
                    // The scheduler has nothing to do here.
                    "schedulingGates": [{"name": "test/never"}],
                    "containers": [{"name": "main", "image": "x", "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
                },
            }))
            .map_err(|error| error.to_string())?;
            match pods.create(&PostParams::default(), &pod).await {
                // The client repeats a request that an API server out of breath gave up after the pod was made.
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                made => drop(made.map_err(|error| error.to_string())?),
            }
            created.fetch_add(1, Ordering::Relaxed);
            Ok::<(), String>(())
        });
    }
    let mut failed = Vec::new();
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed.push(error),
            Err(error) => failed.push(error.to_string()),
        }
    }
    let created = created.load(Ordering::Relaxed);
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let rate = created as f64 / started.elapsed().as_secs_f64();
    (created, failed, rate)
}

/// How many pods of this prefix carry no decision of ours.
pub(crate) async fn unpatched(pods: &Api<Pod>, prefix: &str) -> Result<usize> {
    let found = pods.list(&ListParams::default()).await?.items;
    let ours = found.iter().filter(|pod| pod.metadata.name.as_deref().is_some_and(|name| name.starts_with(prefix)));
    let none = BTreeMap::new();
    let patched = |pod: &&Pod| pod.metadata.annotations.as_ref().unwrap_or(&none).contains_key("railbind.dev/decision");
    Ok(ours.filter(|pod| !patched(pod)).count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_and_a_killed_replica_fail_no_creation() {
    let _alone = crate::alone().await;
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install_identities().await.unwrap();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "ib-1", "labels": {
        "railbind.dev/fabric": "infiniband", "railbind.dev/profile": "infiniband-gpudirect"}}});
    cluster.apply(&node.to_string()).await.unwrap();
    let balancer = Balancer::start().await.unwrap();
    let (mut one, one_at) = cluster.spawn_replica("replica-1", &balancer, &DRAIN).await.unwrap();
    let (mut two, two_at) = cluster.spawn_replica("replica-2", &balancer, &DRAIN).await.unwrap();
    with_namespace(&cluster, &[("railbind.dev/inject", "enabled")], async |namespace| {
        let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
        let stop = Arc::new(AtomicBool::new(false));
        let creating = tokio::spawn(load(pods.clone(), "rolling", RATE, stop.clone()));
        sleep(Duration::from_secs(2)).await;
        // As a Deployment does it: a new one is ready before an old one is asked to end.
        let (mut three, three_at) = cluster.spawn_replica("replica-3", &balancer, &DRAIN).await?;
        let ((), ended) = tokio::join!(leave(&balancer, one_at), one.process.stop());
        ensure!(ended?.code() == Some(0), "{}", one.process.tail(20));
        let (_four, _) = cluster.spawn_replica("replica-4", &balancer, &DRAIN).await?;
        let ((), ended) = tokio::join!(leave(&balancer, two_at), two.process.stop());
        ensure!(ended?.code() == Some(0), "{}", two.process.tail(20));
        sleep(Duration::from_secs(2)).await;
        stop.store(true, Ordering::Relaxed);
        let (created, failed, rate) = creating.await?;
        let missed = unpatched(&pods, "rolling").await?;
        println!("rolling restart: {created} created at {rate:.0}/s, {} failed, {missed} unpatched", failed.len());
        ensure!(failed.is_empty(), "{:?}", failed.first());
        ensure!(missed == 0, "{missed} of {created} went unpatched in the rolling restart");

        let stop = Arc::new(AtomicBool::new(false));
        let creating = tokio::spawn(load(pods.clone(), "killed", RATE, stop.clone()));
        sleep(Duration::from_secs(2)).await;
        three.process.kill().await?;
        sleep(PROPAGATION).await;
        balancer.remove(three_at);
        sleep(Duration::from_secs(3)).await;
        stop.store(true, Ordering::Relaxed);
        let (created, failed, rate) = creating.await?;
        let missed = unpatched(&pods, "killed").await?;
        println!("killed replica: {created} created at {rate:.0}/s, {} failed, {missed} unpatched", failed.len());
        ensure!(failed.is_empty(), "{:?}", failed.first());
        Ok(())
    })
    .await;
    cluster.stop().await.unwrap();
}

async fn leave(balancer: &Balancer, end: std::net::SocketAddr) {
    sleep(PROPAGATION).await;
    balancer.remove(end);
}
