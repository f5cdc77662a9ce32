//! Pods that are created all the time while something happens, and what came of them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

/// Workers being created.
pub(crate) struct Creating {
    pods: Api<Pod>,
    prefix: &'static str,
    stop: Arc<AtomicBool>,
    task: JoinHandle<(usize, Vec<String>, f64)>,
}

impl Creating {
    /// So many a second, with names that start so, until [`Self::end`].
    pub(crate) fn start(pods: Api<Pod>, prefix: &'static str, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(create(pods.clone(), prefix, rate, stop.clone()));
        Self { pods, prefix, stop, task }
    }

    /// How many were created, and how many of them without us. None may have failed.
    pub(crate) async fn end(self, what: &str) -> Result<(usize, usize)> {
        self.stop.store(true, Ordering::Relaxed);
        let (created, failed, rate) = self.task.await?;
        let missed = unpatched(&self.pods, self.prefix).await?;
        println!("{what}: {created} created at {rate:.0}/s, {} failed, {missed} unpatched", failed.len());
        ensure!(failed.is_empty(), "{:?}", failed.first());
        Ok((created, missed))
    }
}

/// Creates so many pods a second until told to stop; gives how many, what failed, and the rate that came of it.
async fn create(pods: Api<Pod>, prefix: &'static str, rate: u32, stop: Arc<AtomicBool>) -> (usize, Vec<String>, f64) {
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
async fn unpatched(pods: &Api<Pod>, prefix: &str) -> Result<usize> {
    let found = pods.list(&ListParams::default()).await?.items;
    let ours = found.iter().filter(|pod| pod.metadata.name.as_deref().is_some_and(|name| name.starts_with(prefix)));
    let none = BTreeMap::new();
    let patched = |pod: &&Pod| pod.metadata.annotations.as_ref().unwrap_or(&none).contains_key("railbind.dev/decision");
    Ok(ours.filter(|pod| !patched(pod)).count())
}
