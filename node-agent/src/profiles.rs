//! The profiles in force on this node: those that ship, those of `--profiles`, and the cluster's own in their place.
//!
//! The cluster's are listed, not watched: thousands of agents would hold as many watches for objects that hardly ever change, and where
//! the kind is missing would try again without end. A list is asked for at the start, every ten minutes, and before a self-test where the
//! last one is older than a minute, from the API server's cache. Whatever the API server says or does not say, what was in force stays.

use std::{
    fs,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use daemon::Check;
use kube::Client;
use policies::profile::{Objects, Profiles, TransportProfile};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::{Mutex, watch},
    time::{sleep, timeout},
};

use crate::metrics::Metrics;

/// From the API server's cache; one request, however many there are.
const PATH: &str = "/apis/railbind.dev/v1alpha1/transportprofiles?resourceVersion=0";
/// How old the list may be when a self-test begins: its caller and the called want the same.
const FRESH: Duration = Duration::from_mins(1);
/// For an answer. A session and the first survey wait for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The profiles that ship in the program, and those of a folder in the place of those that have their names.
pub fn shipped(folder: Option<&Path>) -> anyhow::Result<Profiles> {
    let embedded = Profiles::embedded()?;
    let Some(folder) = folder else { return Ok(embedded) };
    let reading = || format!("reading the profiles in {}", folder.display());
    let mut own = Vec::new();
    for entry in fs::read_dir(folder).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            own.push(TransportProfile::parse(&path.display().to_string(), &text)?);
        }
    }
    Ok(embedded.overridden_by(own))
}

/// The profiles in force, for all who read them, and who asks for the cluster's own. Clones share them.
#[derive(Clone)]
pub struct InForce(Arc<Shared>);

struct Shared {
    now: RwLock<Arc<Profiles>>,
    /// How often others came into force.
    changes: watch::Sender<u64>,
    /// `None`: the cluster has no say.
    cluster: Option<Cluster>,
}

struct Cluster {
    client: Client,
    /// Between two lists while nothing is tested.
    period: Duration,
    kept: Mutex<Kept>,
    check: Check,
    metrics: Metrics,
}

struct Kept {
    objects: Objects,
    asked: Option<Instant>,
    /// What is wrong with the rest that the API server sent or did not send.
    trouble: Option<Trouble>,
}

/// Why there was no list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The cluster has no such kind.
    NoKind,
    /// This agent may not list them.
    Forbidden,
    /// No answer, or one that is none.
    Failed,
}

impl Trouble {
    fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 404 => Self::NoKind,
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => Self::Forbidden,
            _ => Self::Failed,
        }
    }

    /// The label of the metric.
    const fn word(self) -> &'static str {
        match self {
            Self::NoKind => "no-kind",
            Self::Forbidden => "forbidden",
            Self::Failed => "failed",
        }
    }

    /// What a person should know; nothing where that is how a cluster may be.
    const fn note(self) -> &'static str {
        match self {
            Self::NoKind => "",
            Self::Forbidden => {
                "the cluster's TransportProfiles may not be listed: apply the ClusterRole railbind-agent of this version; those known stay in force"
            }
            Self::Failed => {
                "the cluster's TransportProfiles could not be listed; those known stay in force, and it is tried again"
            }
        }
    }
}

#[derive(Deserialize)]
struct List {
    items: Vec<Value>,
}

impl std::fmt::Debug for InForce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InForce")
    }
}

impl InForce {
    /// These, for ever.
    pub fn fixed(profiles: Profiles) -> Self {
        Self::of(profiles, None)
    }

    /// These, and the cluster's own in their place once it has been asked.
    pub fn following(profiles: Profiles, client: Client, period: Duration, check: Check, metrics: Metrics) -> Self {
        // They are good enough to go by.
        check.ready();
        metrics.profiles(0, 0);
        let kept = Mutex::new(Kept { objects: Objects::new(profiles.clone()), asked: None, trouble: None });
        Self::of(profiles, Some(Cluster { client, period, kept, check, metrics }))
    }

    fn of(profiles: Profiles, cluster: Option<Cluster>) -> Self {
        let shared = Shared { now: RwLock::new(Arc::new(profiles)), changes: watch::Sender::new(0), cluster };
        Self(Arc::new(shared))
    }

    /// What is in force now.
    pub fn current(&self) -> Arc<Profiles> {
        self.0.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells of others, from now on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Asks the API server, unless it was asked a short time ago; says whether others are in force now.
    pub async fn look(&self) -> bool {
        let Some(cluster) = &self.0.cluster else { return false };
        // Who comes while somebody asks goes by his answer.
        let mut kept = cluster.kept.lock().await;
        if kept.asked.is_some_and(|asked| asked.elapsed() < FRESH.min(cluster.period / 2)) {
            return false;
        }
        kept.asked = Some(Instant::now());
        let answer = match timeout(PATIENCE, list(&cluster.client)).await {
            Ok(Ok(items)) => Ok(items),
            Ok(Err(error)) => {
                tracing::debug!(%error, "listing the cluster's TransportProfiles");
                Err(Trouble::of(&error))
            }
            Err(_) => {
                tracing::debug!(after = ?PATIENCE, "listing the cluster's TransportProfiles: no answer");
                Err(Trouble::Failed)
            }
        };
        self.take(cluster, &mut kept, answer)
    }

    fn take(&self, cluster: &Cluster, kept: &mut Kept, answer: Result<Vec<Value>, Trouble>) -> bool {
        cluster.metrics.listed_profiles(answer.as_ref().map_or_else(|trouble| trouble.word(), |_| "listed"));
        kept.trouble = answer.as_ref().err().copied();
        if let Ok(items) = answer {
            kept.objects.replace(&items);
        }
        // Logged where it is another note than before, so once.
        let notes = [kept.trouble.map(|trouble| trouble.note().to_owned()), Some(kept.objects.note())];
        let notes: Vec<String> = notes.into_iter().flatten().filter(|note| !note.is_empty()).collect();
        cluster.check.ready_but(&notes.join("; "));
        cluster.metrics.profiles(kept.objects.good(), kept.objects.wrong().len());
        let found = kept.objects.in_force();
        if *self.current() == found {
            return false;
        }
        tracing::info!(own = kept.objects.good(), "other transport profiles are in force");
        *self.0.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
        self.0.changes.send_modify(|changes| *changes += 1);
        true
    }

    /// Asks at a slow period, for ever. `spread`: gives a number in 0..1 each time.
    pub async fn keep(&self, spread: impl Fn() -> f64) {
        let Some(cluster) = &self.0.cluster else { return std::future::pending().await };
        loop {
            sleep(cluster.period.mul_f64(0.9 + 0.2 * spread())).await;
            self.look().await;
        }
    }
}

async fn list(client: &Client) -> kube::Result<Vec<Value>> {
    let request = http::Request::get(PATH).body(Vec::new()).map_err(kube::Error::HttpError)?;
    Ok(client.request::<List>(request).await?.items)
}

#[cfg(test)]
mod tests {
    use daemon::Readiness;
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    struct Asked {
        in_force: InForce,
        readiness: Readiness,
        metrics: Metrics,
    }

    impl Asked {
        fn new() -> Self {
            let client = Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
            let (readiness, metrics) = (Readiness::default(), Metrics::default());
            let (check, embedded) = (readiness.check("profiles"), Profiles::embedded().unwrap());
            let in_force = InForce::following(embedded, client, Duration::from_mins(10), check, metrics.clone());
            Self { in_force, readiness, metrics }
        }

        /// The API server answers so.
        async fn with(&self, answer: Result<Vec<Value>, Trouble>) -> bool {
            let cluster = self.in_force.0.cluster.as_ref().unwrap();
            let mut kept = cluster.kept.lock().await;
            self.in_force.take(cluster, &mut kept, answer)
        }

        fn description(&self) -> String {
            self.in_force.current().get("tcp").unwrap().spec.description.clone()
        }

        fn says(&self) -> String {
            let mut registry = prometheus_client::registry::Registry::default();
            self.metrics.register(&mut registry);
            let mut text = self.readiness.report();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        }
    }

    fn object(name: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut profile = serde_json::to_value(Profiles::embedded().unwrap().get("tcp").unwrap()).unwrap();
        profile["metadata"] = json!({"name": name, "resourceVersion": "7"});
        change(&mut profile["spec"]);
        profile
    }

    fn refused(code: u16) -> Trouble {
        let status: Status = serde_json::from_value(json!({"code": code, "message": "no"})).unwrap();
        Trouble::of(&kube::Error::Api(Box::new(status)))
    }

    #[tokio::test]
    async fn no_answer_takes_anything_away_and_each_is_said() {
        let asked = Asked::new();
        let embedded = asked.description();
        assert!(!asked.with(Ok(Vec::new())).await, "the embedded ones were in force already");
        assert!(asked.with(Ok(vec![object("tcp", |spec| spec["description"] = json!("ours"))])).await);
        assert_eq!(asked.description(), "ours");
        for (code, word, note) in [
            (404, "no-kind", "[+] profiles\n"),
            (403, "forbidden", "apply the ClusterRole railbind-agent"),
            (503, "failed", "could not be listed"),
        ] {
            assert!(!asked.with(Err(refused(code))).await);
            let says = asked.says();
            assert!(says.contains(note), "{says}");
            assert!(says.contains(&format!("profile_lists_total{{result=\"{word}\"}} 1")), "{says}");
            assert_eq!(asked.description(), "ours");
        }
        assert!(asked.with(Ok(Vec::new())).await, "a list without it");
        assert_eq!(asked.description(), embedded);
        assert!(asked.says().starts_with("[+] profiles\n"));
    }

    #[tokio::test]
    async fn a_bad_object_leaves_the_last_good_one_and_is_named() {
        let asked = Asked::new();
        let mut changes = asked.in_force.changes();
        asked.with(Ok(vec![object("tcp", |spec| spec["description"] = json!("ours"))])).await;
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let bad = object("tcp", |spec| spec["env"][0]["name"] = json!("ucx-tls"));
        assert!(!asked.with(Ok(vec![bad])).await && !changes.has_changed().unwrap());
        assert_eq!(asked.description(), "ours");
        let says = asked.says();
        assert!(says.contains("tcp is not in force") && says.contains("spec.env[0]"), "{says}");
        assert!(says.contains("transport_profiles{state=\"wrong\"} 1"), "{says}");
    }

    #[tokio::test]
    async fn an_api_server_that_is_not_there_is_asked_once_in_a_while() {
        let asked = Asked::new();
        for _ in 0..3 {
            assert!(!asked.in_force.look().await);
        }
        let says = asked.says();
        assert!(says.contains("profile_lists_total{result=\"failed\"} 1"), "{says}");
        assert!(!InForce::fixed(Profiles::embedded().unwrap()).look().await);
    }
}
