//! Certificates: a CA that all replicas share through a Secret, and a leaf of each replica's own, in memory only.

mod ca;
mod secret;

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use axum_server::tls_rustls::RustlsConfig;
use daemon::Check;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use tokio::sync::watch;

pub use ca::{Authority, CertError, Leaf};
pub use secret::{SECRET, SecretError, ensure};

use crate::{metrics::Metrics, retry::Backoff};

/// How often the Secret is looked at: someone may delete it, or put another CA into it.
const CHECK_EVERY: Duration = Duration::from_mins(1);

/// Keeps the serving certificate valid and in step with the Secret.
#[derive(Debug)]
pub struct Keeper {
    secrets: Api<Secret>,
    names: Vec<String>,
    tls: RustlsConfig,
    bundle: watch::Sender<Option<String>>,
    check: Check,
    metrics: Metrics,
    clock: fn() -> SystemTime,
}

/// What the server serves with, and whom the API server must trust, once that is known.
#[derive(Debug, Clone)]
pub struct Serving {
    /// For the server; changes by itself.
    pub tls: RustlsConfig,
    /// PEM for `caBundle`; `None` until the Secret is there.
    pub bundle: watch::Receiver<Option<String>>,
}

impl Keeper {
    /// A keeper for these DNS names and addresses. Until the Secret is there the server has a certificate that nobody trusts:
    /// it answers, and says by `check` what it waits for.
    pub fn new(
        secrets: Api<Secret>,
        names: Vec<String>,
        check: Check,
        metrics: Metrics,
    ) -> Result<(Self, Serving), CertError> {
        let now = SystemTime::now();
        let leaf = Authority::generate(now)?.issue(&names, now)?;
        let tls = RustlsConfig::from_config(leaf.config);
        let (bundle, receiver) = watch::channel(None);
        let serving = Serving { tls: tls.clone(), bundle: receiver };
        Ok((Self { secrets, names, tls, bundle, check, metrics, clock: SystemTime::now }, serving))
    }

    /// Keeps at it. Ends only with an error that no waiting mends: a Secret that we may not use or that makes no sense,
    /// before there ever was a good one. Later, the good one stays in use.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        let mut current: Option<(Authority, Leaf)> = None;
        loop {
            let now = (self.clock)();
            let wait = match ensure(&self.secrets, current.as_ref().map(|(authority, _)| authority), now).await {
                Ok(news) => {
                    if let Some(authority) = news {
                        let leaf = self.install(&authority, now)?;
                        current = Some((authority, leaf));
                    }
                    backoff.reset();
                    CHECK_EVERY
                }
                Err(error) if current.is_some() => {
                    tracing::warn!(%error, "going on with the CA that was there");
                    backoff.wait()
                }
                Err(error) if error.is_final() => return Err(error).context("certificate"),
                Err(error) => {
                    self.check.not_ready(error.to_string());
                    backoff.wait()
                }
            };
            if let Some((authority, leaf)) = &mut current
                && leaf.renew_at <= now
            {
                *leaf = self.install(authority, now)?;
            }
            tokio::time::sleep(wait).await;
        }
    }

    fn install(&self, authority: &Authority, now: SystemTime) -> anyhow::Result<Leaf> {
        let leaf = authority.issue(&self.names, now).context("serving certificate")?;
        self.tls.reload_from_config(leaf.config.clone());
        self.metrics.certificate(leaf.not_after);
        self.bundle.send_if_modified(|bundle| {
            let new = Some(authority.bundle_pem().to_owned());
            let changed = *bundle != new;
            *bundle = new;
            changed
        });
        self.check.ready();
        tracing::info!(names = ?self.names, "serving certificate");
        Ok(leaf)
    }
}

impl Serving {
    /// Waits until the API server can be told whom to trust; gives that.
    pub async fn trusted(&mut self) -> Option<String> {
        let receiver = &mut self.bundle;
        receiver.wait_for(Option::is_some).await.ok().and_then(|bundle| bundle.clone())
    }

    /// Waits for another CA. Never returns where there can be none any more.
    pub async fn changed(&mut self) {
        if self.bundle.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, LazyLock};

    use daemon::Readiness;
    use prometheus_client::registry::Registry;
    use serde_json::json;
    use tokio::time::Instant;

    use super::{Duration, Keeper, Metrics, Serving, SystemTime};
    use crate::testing::ApiServer;

    const SECRET: &str = "/api/v1/namespaces/railbind/secrets/railbind-webhook-ca";
    const DAY: Duration = Duration::from_hours(24);

    /// Follows tokio's clock, which the tests below stop.
    fn clock() -> SystemTime {
        static START: LazyLock<(SystemTime, Instant)> = LazyLock::new(|| (SystemTime::now(), Instant::now()));
        START.0 + START.1.elapsed()
    }

    fn keeper(server: &ApiServer, readiness: &Readiness) -> (Keeper, Serving) {
        let metrics = Metrics::register(&mut Registry::default());
        let names = vec!["a.railbind.svc".to_owned()];
        let (keeper, serving) =
            Keeper::new(server.namespaced("railbind"), names, readiness.check("certificate"), metrics).unwrap();
        (Keeper { clock, ..keeper }, serving)
    }

    #[tokio::test(start_paused = true)]
    async fn serves_from_the_start_and_is_trusted_when_the_api_server_is_back() {
        let (server, readiness) = (ApiServer::start(), Readiness::default());
        let (keeper, mut serving) = keeper(&server, &readiness);
        let before = serving.tls.get_inner();
        server.fail_with(Some(503));
        let task = tokio::spawn(keeper.run());
        tokio::time::sleep(DAY).await;
        assert!(serving.bundle.borrow().is_none() && readiness.report().contains("the test wants 503"));
        assert!(Arc::ptr_eq(&before, &serving.tls.get_inner()));

        server.fail_with(None);
        let trusted = serving.trusted().await.unwrap();
        assert!(readiness.is_ready());
        assert!(!Arc::ptr_eq(&before, &serving.tls.get_inner()));

        // Trouble with the Secret, of whatever kind, takes nothing away any more.
        server.put(SECRET, json!({"metadata": {"name": "railbind-webhook-ca"}}));
        tokio::time::sleep(DAY).await;
        server.fail_with(Some(403));
        tokio::time::sleep(DAY).await;
        assert!(!task.is_finished() && readiness.is_ready());
        assert_eq!(serving.trusted().await.unwrap(), trusted);
    }

    #[tokio::test(start_paused = true)]
    async fn renewed_in_time_with_and_without_the_api_server() {
        let (server, readiness) = (ApiServer::start(), Readiness::default());
        let (keeper, mut serving) = keeper(&server, &readiness);
        let _task = tokio::spawn(keeper.run());
        let trusted = serving.trusted().await.unwrap();
        for code in [None, Some(503)] {
            server.fail_with(code);
            let before = serving.tls.get_inner();
            tokio::time::sleep(4 * DAY).await;
            assert!(Arc::ptr_eq(&before, &serving.tls.get_inner()), "not before its time");
            tokio::time::sleep(DAY).await;
            assert!(!Arc::ptr_eq(&before, &serving.tls.get_inner()));
        }
        assert_eq!(serving.trusted().await.unwrap(), trusted);
        assert_eq!(server.count("POST"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_we_may_not_read_is_the_end() {
        let (server, readiness) = (ApiServer::start(), Readiness::default());
        let (keeper, _serving) = keeper(&server, &readiness);
        server.fail_with(Some(403));
        let error = format!("{:#}", keeper.run().await.unwrap_err());
        assert!(
            error.starts_with("certificate: cannot read Secret railbind-webhook-ca: the test wants 403 ("),
            "{error}"
        );
    }
}
