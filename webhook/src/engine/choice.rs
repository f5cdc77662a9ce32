//! Which engine is in use. `auto` follows the API server's version, which may be unknown at the start and change later.

use std::time::Duration;

use kube::{Client, api::ListParams};
use tokio::sync::watch;

use super::objects;
use crate::{
    args::BindingEngine,
    retry::{ApiError, Backoff, call},
};

/// How often the API server is asked for its version.
const LOOK_EVERY: Duration = Duration::from_mins(1);
/// While a control plane is upgraded its API servers answer in turn, old and new: the policy has to be offered so often in a row
/// before the webhook gives way.
const IN_A_ROW: u32 = 3;

/// What is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// `policy`, `webhook` or `off`.
    pub engine: BindingEngine,
    /// Whether the API server calls us for Bindings. Where the policy takes over it does for a while longer: both write the same,
    /// and a policy takes a moment to come into force.
    pub hook: bool,
}

/// The readers' side; `None` while the API server has not said anything yet.
pub type Chosen = watch::Receiver<Option<Choice>>;

impl Choice {
    fn of(engine: BindingEngine) -> Self {
        Self { engine, hook: engine == BindingEngine::Webhook }
    }
}

/// Always this one.
pub fn fixed(engine: BindingEngine) -> Chosen {
    watch::channel(Some(Choice::of(engine)).filter(|choice| choice.engine != BindingEngine::Auto)).1
}

/// Comes to the choice, look by look.
#[derive(Debug)]
pub struct Chooser {
    current: Option<Choice>,
    in_a_row: u32,
}

impl Chooser {
    /// What was asked for; `auto` is nothing yet.
    pub fn new(asked: BindingEngine) -> Self {
        let fixed = (asked != BindingEngine::Auto).then(|| Choice::of(asked));
        Self { current: fixed, in_a_row: 0 }
    }

    /// What is in use now.
    pub fn current(&self) -> Option<Choice> {
        self.current
    }

    /// What is in use after the API server has offered this.
    pub fn look(&mut self, offered: BindingEngine) -> Choice {
        let policy = offered == BindingEngine::Policy;
        self.in_a_row = if policy { self.in_a_row.saturating_add(1) } else { 0 };
        let next = match self.current {
            None => Choice::of(offered),
            // Without a policy nobody but the webhook is there: at once.
            Some(_) if !policy => Choice::of(offered),
            Some(Choice { engine: BindingEngine::Policy, .. }) => Choice::of(BindingEngine::Policy),
            Some(_) if self.in_a_row >= IN_A_ROW => Choice { engine: BindingEngine::Policy, hook: true },
            Some(current) => current,
        };
        self.current = Some(next);
        next
    }
}

/// Chooses, and goes on looking, for ever. What was asked for by name is never looked at again.
pub async fn follow(client: Client, asked: BindingEngine, chosen: watch::Sender<Option<Choice>>) {
    let mut chooser = Chooser::new(asked);
    chosen.send_replace(chooser.current());
    if asked != BindingEngine::Auto {
        std::future::pending::<()>().await;
    }
    let mut backoff = Backoff::default();
    loop {
        let wait = match offered(&client).await {
            Ok(engine) => {
                let before = chooser.current();
                let now = chooser.look(engine);
                if before != Some(now) {
                    tracing::info!(engine = ?now.engine, hook = now.hook, "binding engine");
                    chosen.send_replace(Some(now));
                }
                backoff.reset();
                LOOK_EVERY
            }
            Err(error) => {
                tracing::debug!(%error, "the API server does not say what it can");
                backoff.wait()
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// What this API server can: the policy from Kubernetes 1.36 on, where it is on by default, if its parameters' kind is there.
///
/// # Errors
/// It does not answer.
async fn offered(client: &Client) -> Result<BindingEngine, ApiError> {
    let version = match call(client.apiserver_version()).await {
        Ok(version) => version,
        Err(error @ ApiError::Unavailable(_)) => return Err(error),
        Err(error) => {
            tracing::warn!(%error, "the API server does not say its version: bindings by webhook");
            return Ok(BindingEngine::Webhook);
        }
    };
    if !is_new(&version.major, &version.minor) {
        return Ok(BindingEngine::Webhook);
    }
    // Without its parameters' kind (an older installation's manifests) there is no policy.
    match call(objects(client, "BindingValues").list_metadata(&ListParams::default().limit(1))).await {
        Ok(_) => Ok(BindingEngine::Policy),
        Err(error @ ApiError::Unavailable(_)) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "no BindingValues: bindings by webhook");
            Ok(BindingEngine::Webhook)
        }
    }
}

/// Providers write `36+`.
fn is_new(major: &str, minor: &str) -> bool {
    let number = |text: &str| text.trim_end_matches('+').parse::<u32>().unwrap_or_default();
    (number(major), number(minor)) >= (1, 36)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{BindingEngine, Choice, Chooser, Duration, IN_A_ROW, LOOK_EVERY, follow, is_new, watch};
    use crate::testing::ApiServer;

    const VALUES: &str = "/apis/railbind.dev/v1alpha1/bindingvalues";
    const POLICY: Choice = Choice { engine: BindingEngine::Policy, hook: false };
    const WEBHOOK: Choice = Choice { engine: BindingEngine::Webhook, hook: true };

    #[test]
    fn versions() {
        for (major, minor, new) in
            [("1", "36", true), ("1", "36+", true), ("1", "35", false), ("2", "0", true), ("", "x", false)]
        {
            assert_eq!(is_new(major, minor), new, "{major}.{minor}");
        }
    }

    #[test]
    fn the_webhook_gives_way_only_to_a_policy_that_stays_and_not_before_it_is_there() {
        let mut chooser = Chooser::new(BindingEngine::Auto);
        assert_eq!(chooser.current(), None);
        assert_eq!(chooser.look(BindingEngine::Webhook), WEBHOOK);
        // An upgrade: old and new answer in turn.
        for _ in 0..4 {
            assert_eq!(chooser.look(BindingEngine::Policy), WEBHOOK);
            assert_eq!(chooser.look(BindingEngine::Webhook), WEBHOOK);
        }
        for _ in 1..IN_A_ROW {
            assert_eq!(chooser.look(BindingEngine::Policy), WEBHOOK);
        }
        assert_eq!(chooser.look(BindingEngine::Policy), Choice { hook: true, ..POLICY }, "both, for a while");
        assert_eq!(chooser.look(BindingEngine::Policy), POLICY);
        assert_eq!(chooser.look(BindingEngine::Policy), POLICY);
        assert_eq!(chooser.look(BindingEngine::Webhook), WEBHOOK, "back at once");
        assert_eq!(Chooser::new(BindingEngine::Auto).look(BindingEngine::Policy), POLICY, "nobody to take over from");
    }

    fn version(server: &ApiServer, minor: &str) {
        let text = |value: &str| json!(value);
        server.put("/version", json!({
            "major": "1", "minor": minor, "gitVersion": text("v"), "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": "",
        }));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_comes_late_and_is_upgraded() {
        let server = ApiServer::start();
        server.fail_with(Some(503));
        let (sender, chosen) = watch::channel(None);
        let _task = tokio::spawn(follow(server.client(), BindingEngine::Auto, sender));
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert_eq!(*chosen.borrow(), None, "nothing is chosen for good while it is away");

        version(&server, "35");
        server.fail_with(None);
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(*chosen.borrow(), Some(WEBHOOK));
        // New, and without the manifests of this version.
        version(&server, "36+");
        tokio::time::sleep(10 * LOOK_EVERY).await;
        assert_eq!(*chosen.borrow(), Some(WEBHOOK));
        server.put(VALUES, json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "items": []}));
        tokio::time::sleep(10 * LOOK_EVERY).await;
        assert_eq!(*chosen.borrow(), Some(POLICY));
        // Away for a while: nothing changes.
        server.fail_with(Some(503));
        tokio::time::sleep(10 * LOOK_EVERY).await;
        assert_eq!(*chosen.borrow(), Some(POLICY));
        server.fail_with(None);
        version(&server, "35");
        tokio::time::sleep(2 * LOOK_EVERY).await;
        assert_eq!(*chosen.borrow(), Some(WEBHOOK));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_for_by_name_is_not_looked_at() {
        let server = ApiServer::start();
        for (asked, choice) in [
            (BindingEngine::Policy, POLICY),
            (BindingEngine::Webhook, WEBHOOK),
            (BindingEngine::Off, Choice { engine: BindingEngine::Off, hook: false }),
        ] {
            let (sender, mut chosen) = watch::channel(None);
            let task = tokio::spawn(follow(server.client(), asked, sender));
            assert_eq!(*chosen.wait_for(Option::is_some).await.unwrap(), Some(choice));
            tokio::time::sleep(10 * LOOK_EVERY).await;
            assert_eq!((*chosen.borrow(), server.count("GET")), (Some(choice), 0));
            task.abort();
        }
    }
}
