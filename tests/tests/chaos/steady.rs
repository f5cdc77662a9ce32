//! A worker is created every tenth of a second, whatever happens, and it is written down what came of each.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use harness::{LIMIT, until};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::stage::{Stage, is_patched, worker};

const EVERY: Duration = Duration::from_millis(100);
/// What a client waits for one creation: longer than the API server waits for a webhook.
const PATIENCE: Duration = Duration::from_secs(8);

pub(crate) struct Steady {
    pods: Api<Pod>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Came>,
}

/// What came of them.
#[derive(Default)]
pub(crate) struct Came {
    /// Names of those that the API server said it has.
    pub(crate) created: BTreeSet<String>,
    /// How many of them went without us.
    pub(crate) unpatched: usize,
    /// The API server was not there, or did not answer in time.
    pub(crate) away: usize,
    /// The API server answered no.
    refused: Vec<String>,
}

impl std::fmt::Debug for Came {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} created, {} unpatched, {} away", self.created.len(), self.unpatched, self.away)
    }
}

impl Steady {
    pub(crate) async fn start(stage: &Stage, namespace: &str) -> Result<Self> {
        let pods: Api<Pod> = Api::namespaced(stage.cluster.client().await?, namespace);
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(create(pods.clone(), stop.clone()));
        Ok(Self { pods, stop, task })
    }

    /// Ends it. None may have been refused, and none that the API server took may be lost.
    pub(crate) async fn end(self, what: &str) -> Result<Came> {
        self.stop.store(true, Ordering::Relaxed);
        let came = self.task.await?;
        println!(
            "{what}: {} created, {} of them unpatched, {} while the API server was away, {} refused",
            came.created.len(),
            came.unpatched,
            came.away,
            came.refused.len()
        );
        ensure!(came.refused.is_empty(), "refused: {:?}", came.refused);
        ensure!(came.created.len() > 2, "nothing was created, so nothing was tried");
        let there =
            until("the list of pods", LIMIT, || async { Ok(self.pods.list(&ListParams::default()).await?) }).await?;
        let there: BTreeSet<String> = there.iter().map(kube::ResourceExt::name_any).collect();
        let lost: Vec<_> = came.created.difference(&there).collect();
        ensure!(lost.is_empty(), "lost: {lost:?}");
        Ok(came)
    }
}

async fn create(pods: Api<Pod>, stop: Arc<AtomicBool>) -> Came {
    let mut came = Came::default();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let pod: Pod = serde_json::from_value(worker(&format!("steady-{number}"), true)).unwrap();
        match timeout(PATIENCE, pods.create(&PostParams::default(), &pod)).await {
            Ok(Ok(pod)) => {
                came.unpatched += usize::from(!is_patched(&pod));
                came.created.insert(pod.name_any());
            }
            Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => {}
            // Out of breath or starting; what comes of a webhook is none of these.
            Ok(Err(kube::Error::Api(status)))
                if [429, 500, 503, 504].contains(&status.code) && !status.message.contains("webhook") =>
            {
                came.away += 1;
            }
            Ok(Err(kube::Error::Api(status))) => came.refused.push(format!("{}: {}", status.code, status.message)),
            Ok(Err(_)) | Err(_) => came.away += 1,
        }
        sleep(EVERY).await;
    }
    came
}
