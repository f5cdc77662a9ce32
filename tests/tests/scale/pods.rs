//! Workers created at a rate, whether those before are answered or not, and what came of them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::PostParams};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{measure, objects};

/// Namespace of all of them.
pub(crate) const NAMESPACE: &str = "serving";
/// Creations at a time at most. The API server takes 200 that change something, by default.
const AT_ONCE: usize = 200;
/// As the client of a controller.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of them.
#[derive(Debug, Default)]
pub(crate) struct Came {
    /// Those that the API server took.
    pub(crate) created: usize,
    /// Those of them that went without us.
    pub(crate) unpatched: usize,
    /// Creations that did not come about because the API server was away or out of breath.
    pub(crate) away: usize,
    /// The API server said no.
    refused: Vec<String>,
    took: Vec<Duration>,
    lasted: Duration,
}

enum One {
    Created(Duration, bool),
    Away,
    Refused(String),
}

/// Creating, until [`Self::end`].
pub(crate) struct Creating {
    stop: Arc<AtomicUsize>,
    created: Arc<AtomicUsize>,
    task: JoinHandle<Came>,
}

impl Creating {
    pub(crate) fn start(client: Client, prefix: &'static str, rate: u32) -> Self {
        let (stop, created) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let task =
            tokio::spawn(create(Api::namespaced(client, NAMESPACE), prefix, rate, stop.clone(), created.clone()));
        Self { stop, created, task }
    }

    /// How many there are so far.
    pub(crate) fn so_far(&self) -> usize {
        self.created.load(Ordering::Relaxed)
    }

    /// Ends it; none may have been refused.
    pub(crate) async fn end(self) -> Result<Came> {
        self.stop.store(1, Ordering::Relaxed);
        let came = self.task.await?;
        ensure!(came.refused.is_empty(), "{} refused: {:?}", came.refused.len(), came.refused.first());
        Ok(came)
    }
}

impl Came {
    /// Creations a second.
    pub(crate) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "thousands")]
        let created = self.created as f64;
        created / self.lasted.as_secs_f64()
    }

    /// The time, in milliseconds, that this share of the creations did not exceed.
    pub(crate) fn at(&mut self, share: f64) -> f64 {
        measure::at(&mut self.took, share)
    }
}

async fn create(
    pods: Api<Pod>,
    prefix: &'static str,
    rate: u32,
    stop: Arc<AtomicUsize>,
    created: Arc<AtomicUsize>,
) -> Came {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let started = Instant::now();
    let (mut tasks, mut came) = (JoinSet::new(), Came::default());
    let mut number = 0;
    while stop.load(Ordering::Relaxed) == 0 {
        ticks.tick().await;
        while tasks.len() >= AT_ONCE {
            came.take(tasks.join_next().await);
        }
        while let Some(done) = tasks.try_join_next() {
            came.take(Some(done));
        }
        tasks.spawn(one(pods.clone(), format!("{prefix}-{number}"), created.clone()));
        number += 1;
    }
    came.lasted = started.elapsed();
    while let Some(done) = tasks.join_next().await {
        came.take(Some(done));
    }
    came
}

impl Came {
    fn take(&mut self, done: Option<std::result::Result<One, tokio::task::JoinError>>) {
        match done {
            Some(Ok(One::Created(took, patched))) => {
                self.created += 1;
                self.unpatched += usize::from(!patched);
                self.took.push(took);
            }
            Some(Ok(One::Away)) => self.away += 1,
            Some(Ok(One::Refused(why))) => self.refused.push(why),
            Some(Err(error)) => self.refused.push(error.to_string()),
            None => {}
        }
    }
}

async fn one(pods: Api<Pod>, name: String, created: Arc<AtomicUsize>) -> One {
    let pod: Pod = serde_json::from_value(objects::worker(NAMESPACE, &name)).expect("a worker is a pod");
    let begun = Instant::now();
    match timeout(PATIENCE, pods.create(&PostParams::default(), &pod)).await {
        Ok(Ok(pod)) => {
            created.fetch_add(1, Ordering::Relaxed);
            let annotations = pod.metadata.annotations.unwrap_or_default();
            One::Created(begun.elapsed(), annotations.contains_key("railbind.dev/decision"))
        }
        // An answer that was lost: it was made, and the client asked again.
        Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => One::Away,
        Ok(Err(kube::Error::Api(status)))
            if [429, 500, 503, 504].contains(&status.code) && !status.message.contains("webhook") =>
        {
            One::Away
        }
        Ok(Err(kube::Error::Api(status))) => One::Refused(format!("{}: {}", status.code, status.message)),
        Ok(Err(_)) | Err(_) => One::Away,
    }
}
