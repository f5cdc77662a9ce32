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
        Ok((Self { secrets, names, tls, bundle, check, metrics }, serving))
    }

    /// Keeps at it. Ends only with an error that no waiting mends: a Secret that we may not use or that makes no sense,
    /// before there ever was a good one. Later, the good one stays in use.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        let mut current: Option<(Authority, Leaf)> = None;
        loop {
            let now = SystemTime::now();
            let wait = match ensure(&self.secrets, current.as_ref().map(|(authority, _)| authority), now).await {
                Ok(authority) => {
                    let same = current.as_ref().filter(|(before, leaf)| *before == authority && leaf.renew_at > now);
                    if same.is_none() {
                        let leaf = self.install(&authority, now)?;
                        current = Some((authority, leaf));
                    }
                    backoff.reset();
                    CHECK_EVERY
                }
                Err(error) => {
                    match &current {
                        Some((authority, leaf)) => {
                            tracing::warn!(%error, "CA Secret; going on with the CA that was in it");
                            if leaf.renew_at <= now {
                                let leaf = self.install(authority, now)?;
                                current = current.map(|(authority, _)| (authority, leaf));
                            }
                        }
                        None if error.is_final() => return Err(error).context("certificate"),
                        None => self.check.not_ready(error.to_string()),
                    }
                    backoff.wait()
                }
            };
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
