//! Keeps the server in step with a folder whose certificate somebody else makes: cert-manager, or a person.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use axum_server::tls_rustls::RustlsConfig;
use daemon::Check;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;
use tokio::sync::watch;

use super::{
    Authority, Bundle, CertError, Clients, Lives, Registered, Serving, ca,
    clock::{self, Clock},
    files::{FilesError, Need, Pair, Texts},
    overlap::{Certified, Overlap},
};
use crate::{
    args::CaBundle,
    metrics::{Files, Metrics},
    retry::{ApiError, Backoff, call},
};

/// How often the folder is looked at, at least: the kubelet itself takes up to two minutes to bring a change there.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// And at most.
const CHECK_NO_MORE: Duration = Duration::from_millis(100);

impl Certified for Pair {
    fn authority(&self) -> &[String] {
        self.authority()
    }

    fn until(&self) -> SystemTime {
        self.validity().until
    }

    fn is_trusted_by(&self, bundle: &str, now: SystemTime) -> bool {
        self.is_trusted_by(bundle, now)
    }
}

/// Where the certificate comes from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The folder with `tls.crt`, `tls.key` and `ca.crt`.
    pub folder: PathBuf,
    /// The host name or address by which the API server calls us.
    pub name: String,
    /// Who fills `caBundle` in.
    pub bundle: CaBundle,
    /// Our configuration: what it trusts when we start, other replicas may be served by.
    pub configuration: String,
}

/// Keeps the server in step with the folder.
#[derive(Debug)]
pub struct Outside {
    source: Source,
    lives: Lives,
    clients: Option<Clients>,
    api: Api<MutatingWebhookConfiguration>,
    tls: RustlsConfig,
    bundle: watch::Sender<Option<Bundle>>,
    registered: watch::Receiver<Option<Registered>>,
    check: Check,
    metrics: Metrics,
    clock: Clock,
}

impl Outside {
    /// A keeper of this folder. Until there is something good in it the server has a certificate that nobody trusts: it answers,
    /// and says by `check` what it waits for.
    pub fn new(
        source: Source,
        lives: Lives,
        clients: Option<Clients>,
        api: Api<MutatingWebhookConfiguration>,
        check: Check,
        metrics: Metrics,
    ) -> Result<(Self, Serving), CertError> {
        let now = SystemTime::now();
        let names = [source.name.clone()];
        let leaf = Authority::generate(now, lives.ca)?.issue(&names, now, lives.leaf, clients.as_ref())?;
        let tls = RustlsConfig::from_config(leaf.config);
        let (serving, bundle, registered) = Serving::new(tls.clone());
        let clock = Clock::new(SystemTime::now);
        Ok((Self { source, lives, clients, api, tls, bundle, registered, check, metrics, clock }, serving))
    }

    /// Keeps at it for ever: what was good once stays in use until something better is there.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut overlap = Overlap::new(self.lives.grace);
        // Whoever is registered already may be called before the API server can be asked.
        if let Ok(Some(pair)) = self.look(&overlap).await? {
            overlap.found(pair, self.clock.now());
            self.serve(&overlap);
        }
        let known = self.known().await;
        overlap.inherit(known, self.clock.now());
        let mut last: Option<FilesError> = None;
        loop {
            let mut found = self.look(&overlap).await?;
            // Our clock may have jumped: the API server's says whether it is that.
            if found.is_err() && self.hear().await {
                found = self.look(&overlap).await?;
            }
            let now = self.clock.now();
            let trouble = match found {
                Ok(Some(pair)) => {
                    overlap.found(pair, now);
                    None
                }
                Ok(None) => None,
                Err(error) => Some(error),
            };
            let again = overlap.step(self.registered_for(&overlap), now);
            self.serve(&overlap);
            self.publish(&overlap);
            self.metrics.files_bad(Files::Serving, trouble.is_some());
            if trouble != last
                && let Some(error) = &trouble
            {
                tracing::error!(folder = %self.source.folder.display(), %error, "certificate");
            }
            match (overlap.serving(), &trouble) {
                (Some(_), None) => self.check.ready(),
                (Some(_), Some(error)) => {
                    self.check.ready_but(&format!("going on with the last good certificate: {}", self.place(error)));
                }
                (None, Some(error)) => self.check.not_ready(self.place(error)),
                (None, None) => {}
            }
            last = trouble;
            let every = self.lives.check_every(CHECK_EVERY);
            let wait = again.unwrap_or(every).clamp(CHECK_NO_MORE, every);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                Ok(()) = self.registered.changed() => {}
            }
        }
    }

    fn place(&self, error: &FilesError) -> String {
        format!("{}/{error}", self.source.folder.display())
    }

    /// What the files hold, if that is not what is in use or waits already.
    async fn look(&self, overlap: &Overlap<Pair>) -> anyhow::Result<Result<Option<Pair>, FilesError>> {
        let folder = self.source.folder.clone();
        let read = tokio::task::spawn_blocking(move || Texts::read(&folder)).await.context("reading files")?;
        let texts = match read {
            Ok(texts) => texts,
            Err(error) => return Ok(Err(error)),
        };
        let now = self.clock.now();
        // What waits, or is over, is judged again: time may have changed it.
        let is_in_use = |pair: &Pair| pair.is_of(&texts) && !pair.validity().is_over(now);
        if !overlap.is_waiting() && overlap.serving().is_some_and(is_in_use) {
            return Ok(Ok(None));
        }
        let need = Need {
            name: &self.source.name,
            authority: self.source.bundle == CaBundle::Directory,
            clients: self.clients.as_ref().map(Clients::verifier),
        };
        Ok(Pair::of(texts, &need, now).map(Some))
    }

    /// Puts what is decided into use, where it is not yet.
    fn serve(&self, overlap: &Overlap<Pair>) {
        let Some(pair) = overlap.serving() else { return };
        if !Arc::ptr_eq(pair.config(), &self.tls.get_inner()) {
            self.tls.reload_from_config(pair.config().clone());
            self.metrics.certificate(pair.validity().until);
            tracing::info!(folder = %self.source.folder.display(), "serving certificate");
        }
    }

    /// Tells whoever registers what is to be trusted.
    fn publish(&self, overlap: &Overlap<Pair>) {
        let Some(pair) = overlap.serving() else { return };
        let new = match self.source.bundle {
            CaBundle::Directory => Bundle::Ours(overlap.bundle()),
            CaBundle::Injected => Bundle::Injected(pair.clone()),
        };
        self.bundle.send_if_modified(|bundle| {
            let changed = bundle.as_ref() != Some(&new);
            *bundle = Some(new);
            changed
        });
    }

    fn registered_for(&self, overlap: &Overlap<Pair>) -> Option<Duration> {
        let registered = self.registered.borrow();
        let registered = registered.as_ref().filter(|registered| registered.bundle == overlap.bundle());
        registered.map(|registered| registered.since.elapsed())
    }

    /// Asks the API server for its time. Whether it is another than ours was taken for.
    async fn hear(&mut self) -> bool {
        let answer = call(clock::get(&self.api, &self.source.configuration)).await;
        answer.is_ok_and(|(_, theirs)| self.clock.heard(theirs))
    }

    /// The CAs that the configuration names now. Waits for the API server: without it nothing can be registered either.
    async fn known(&mut self) -> Vec<String> {
        if self.source.bundle == CaBundle::Injected {
            return Vec::new();
        }
        let mut backoff = Backoff::default();
        loop {
            match call(clock::get(&self.api, &self.source.configuration)).await {
                Ok((live, theirs)) => {
                    self.clock.heard(theirs);
                    return live.map(|live| bundles(&live)).unwrap_or_default();
                }
                // Whoever may not read it may not register; that is said there.
                Err(ApiError::Refused(_)) => return Vec::new(),
                Err(error) => {
                    self.check.not_ready(format!("waits for the API server: {error}"));
                    tokio::time::sleep(backoff.wait()).await;
                }
            }
        }
    }
}

/// The certificates in the bundles of a configuration, PEM each, each once.
fn bundles(live: &MutatingWebhookConfiguration) -> Vec<String> {
    let mut all = Vec::new();
    for hook in live.webhooks.iter().flatten() {
        let bundle = hook.client_config.ca_bundle.as_ref().map(|bytes| String::from_utf8_lossy(&bytes.0));
        for one in ca::certificates(&bundle.unwrap_or_default()).unwrap_or_default() {
            if !all.contains(&one) {
                all.push(one);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests;
