//! Certificates: a CA that all replicas share through a Secret and replace in time, and a leaf of each replica's own, in memory only;
//! or a folder whose certificate somebody else makes. And who may call.

mod ca;
mod clients;
mod clock;
mod files;
mod outside;
mod overlap;
mod rotation;
mod secret;
mod tls;

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use axum_server::tls_rustls::RustlsConfig;
use daemon::Check;
use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Secret};
use kube::Api;
use tokio::{sync::watch, time::Instant};

pub use ca::{Authority, CertError, Leaf};
pub use clients::{Clients, ClientsError};
pub use files::{FilesError, Pair};
pub use outside::{Outside, Source};
pub use rotation::{Phase, Step, Validity, step};
pub use secret::{Material, SECRET, SecretError, Store};

use self::clock::Clock;
use crate::{metrics::Metrics, retry::Backoff};

/// How often the Secret is looked at, at least: someone may delete it, or put another CA into it.
const CHECK_EVERY: Duration = Duration::from_mins(1);
/// And at most.
const CHECK_NO_MORE: Duration = Duration::from_millis(100);
/// Replicas that change the Secret at the same time: each attempt but one fails.
const ATTEMPTS: usize = 5;

/// How long certificates live.
#[derive(Debug, Clone, Copy)]
pub struct Lives {
    /// The CA; its successor comes when a third of that is left.
    pub ca: Duration,
    /// A serving certificate; the next one comes when a third of that is left.
    pub leaf: Duration,
    /// How long a list of trusted CAs has been registered before it is relied on: API servers learn of it by a watch.
    pub grace: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        Self { ca: Duration::from_hours(24 * 365), leaf: Duration::from_hours(24 * 7), grace: Duration::from_mins(10) }
    }
}

impl Lives {
    /// How often something is looked at that others may change while a rotation goes on: several times within the grace.
    pub fn check_every(self, at_least: Duration) -> Duration {
        (self.grace / 4).clamp(CHECK_NO_MORE, at_least)
    }
}

/// Keeps the serving certificate valid and in step with the Secret.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    names: Vec<String>,
    lives: Lives,
    clients: Option<Clients>,
    tls: RustlsConfig,
    bundle: watch::Sender<Option<Bundle>>,
    registered: watch::Receiver<Option<Registered>>,
    check: Check,
    metrics: Metrics,
    clock: Clock,
}

/// What the server serves with, and whom the API server must trust, once that is known.
#[derive(Debug, Clone)]
pub struct Serving {
    /// For the server; changes by itself.
    pub tls: RustlsConfig,
    /// For `caBundle`; `None` until there is a certificate.
    pub bundle: watch::Receiver<Option<Bundle>>,
    registered: watch::Sender<Option<Registered>>,
}

/// Whom the API server must trust.
#[derive(Debug, Clone, PartialEq)]
pub enum Bundle {
    /// These CAs, PEM, which we register.
    Ours(String),
    /// Whom somebody else fills in: it must be someone who vouches for this certificate.
    Injected(Pair),
}

impl Bundle {
    /// What we register; `None` leaves the field to somebody else.
    pub fn pem(&self) -> Option<&str> {
        match self {
            Self::Ours(pem) => Some(pem),
            Self::Injected(_) => None,
        }
    }

    /// Whether an API server that has been told this accepts us.
    ///
    /// # Errors
    /// Which hook lacks what.
    pub fn accepted(&self, live: &MutatingWebhookConfiguration, now: SystemTime) -> Result<(), String> {
        let Self::Injected(pair) = self else { return Ok(()) };
        for hook in live.webhooks.iter().flatten() {
            let bundle = hook.client_config.ca_bundle.as_ref().map(|bytes| String::from_utf8_lossy(&bytes.0));
            let Some(bundle) = bundle.filter(|bundle| !bundle.is_empty()) else {
                return Err(format!(
                    "{}: waits for somebody to fill caBundle in (cert-manager's cainjector)",
                    hook.name
                ));
            };
            if !pair.is_trusted_by(&bundle, now) {
                return Err(format!("{}: caBundle does not vouch for the certificate that is served", hook.name));
            }
        }
        Ok(())
    }
}

/// What the API server has been told.
#[derive(Debug, Clone)]
struct Registered {
    bundle: String,
    since: Instant,
}

impl Keeper {
    /// A keeper for these DNS names and addresses. Until the Secret is there the server has a certificate that nobody trusts:
    /// it answers, and says by `check` what it waits for.
    pub fn new(
        secrets: Api<Secret>,
        names: Vec<String>,
        lives: Lives,
        clients: Option<Clients>,
        check: Check,
        metrics: Metrics,
    ) -> Result<(Self, Serving), CertError> {
        let now = SystemTime::now();
        let leaf = Authority::generate(now, lives.ca)?.issue(&names, now, lives.leaf, clients.as_ref())?;
        let tls = RustlsConfig::from_config(leaf.config);
        let (serving, bundle, registered) = Serving::new(tls.clone());
        let (store, clock) = (Store::new(secrets), Clock::new(SystemTime::now));
        Ok((Self { store, names, lives, clients, tls, bundle, registered, check, metrics, clock }, serving))
    }

    /// Keeps at it. Ends only with an error that no waiting mends: a Secret that we may not use, before there ever was a good
    /// one. Later, what was there stays in use.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        let mut current: Option<(Material, Leaf)> = None;
        loop {
            let found = self.round(current.as_ref().map(|(material, _)| material)).await;
            let now = self.clock.now();
            let (material, trouble, mut wait) = match found {
                Ok(Found { material, trouble: None, again }) => {
                    backoff.reset();
                    (Some(material), None, again)
                }
                Ok(Found { material, trouble, .. }) => (Some(material), trouble, backoff.wait()),
                Err(error) if current.is_none() && error.is_final() => return Err(error).context("certificate"),
                Err(error) => (None, Some(error), backoff.wait()),
            };
            if let Some(material) = material
                && current.as_ref().is_none_or(|(before, _)| *before != material)
            {
                let leaf = match current.take() {
                    Some((before, leaf)) if before.signing == material.signing => leaf,
                    _ => self.issue(&material, now)?,
                };
                self.publish(&material);
                current = Some((material, leaf));
            }
            if let Some((material, leaf)) = &mut current {
                // One from a time when our clock was ahead is as good as over.
                if (leaf.renew_at <= now || now < leaf.not_before) && material.signing.validity().holds(now) {
                    *leaf = self.issue(material, now)?;
                }
                wait = wait.min(leaf.renew_at.duration_since(now).unwrap_or(wait)).max(CHECK_NO_MORE);
            }
            match (&current, trouble) {
                (Some(_), None) => self.check.ready(),
                (Some(_), Some(error)) => self.check.ready_but(&format!("going on with the CA that is there: {error}")),
                (None, Some(error)) => self.check.not_ready(error.to_string()),
                (None, None) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // Whoever registers may be gone, which ends the process; until then there is no news.
                Ok(()) = self.registered.changed() => {}
            }
        }
    }

    /// Looks at the Secret and takes the step that is due. Where there is none, or it holds nothing usable, it gets what is in
    /// use, if that is still good: then nothing changes for the API server.
    async fn round(&mut self, in_use: Option<&Material>) -> Result<Found, SecretError> {
        for _ in 0..ATTEMPTS {
            let (secret, theirs) = self.store.get().await?;
            self.clock.heard(theirs);
            let now = self.clock.now();
            let fresh = || Authority::generate(now, self.lives.ca);
            let good = in_use.filter(|material| material.signing.validity().holds(now));
            let restored = || good.map_or_else(|| fresh().map(Material::of), |material| Ok(material.clone()));
            let read = match secret.as_ref().map(Material::read) {
                Some(Ok(material)) => Ok(material),
                Some(Err(error)) => Err(Some(error)),
                None => Err(None),
            };
            let material = match read {
                Ok(material) => material,
                Err(why) => {
                    if let Some(error) = why {
                        tracing::warn!(%error, "no usable CA in Secret {SECRET}; putting one there");
                    }
                    // Read back, so that what is used is what everyone else reads.
                    self.store.put(secret, &restored()?).await?;
                    continue;
                }
            };
            self.metrics.authority(material.signing.validity().until);
            let next = match self.step(&material, now) {
                Step::Wait(until) => {
                    let every = self.lives.check_every(CHECK_EVERY);
                    let wait = until.map_or(every, |until| until.duration_since(now).unwrap_or_default());
                    return Ok(Found { material, trouble: None, again: wait.min(every) });
                }
                Step::Announce => material.announcing(fresh()?),
                Step::Switch => material.switched(),
                Step::Retire => material.retired(),
                Step::Replace => restored()?,
            };
            match self.store.put(secret, &next).await {
                Ok(true) => tracing::info!(from = ?material.phase(), to = ?next.phase(), "CA rotation"),
                Ok(false) => {}
                // What is there is good enough to serve by.
                Err(error) => return Ok(Found { material, trouble: Some(error), again: CHECK_EVERY }),
            }
        }
        Err(SecretError::Unavailable("settle", "others change it all the time".into()))
    }

    fn step(&self, material: &Material, now: SystemTime) -> Step {
        let registered = self.registered.borrow();
        let registered = registered.as_ref().filter(|registered| registered.bundle == material.bundle_pem());
        let since = registered.map(|registered| registered.since.elapsed());
        step(material.signing.validity(), material.phase(), since, self.lives.grace, now)
    }

    fn issue(&self, material: &Material, now: SystemTime) -> anyhow::Result<Leaf> {
        let leaf = material
            .signing
            .issue(&self.names, now, self.lives.leaf, self.clients.as_ref())
            .context("serving certificate")?;
        self.tls.reload_from_config(leaf.config.clone());
        self.metrics.certificate(leaf.not_after);
        tracing::info!(names = ?self.names, "serving certificate");
        Ok(leaf)
    }

    fn publish(&self, material: &Material) {
        self.bundle.send_if_modified(|bundle| {
            let new = Some(Bundle::Ours(material.bundle_pem()));
            let changed = *bundle != new;
            *bundle = new;
            changed
        });
    }
}

/// What [`Keeper::round`] found, and did.
#[derive(Debug)]
struct Found {
    material: Material,
    /// Why the step that was due was not taken.
    trouble: Option<SecretError>,
    again: Duration,
}

impl Serving {
    /// Served with this; nobody knows yet whom to trust.
    fn new(tls: RustlsConfig) -> (Self, watch::Sender<Option<Bundle>>, watch::Receiver<Option<Registered>>) {
        let (sender, bundle) = watch::channel(None);
        let (registered, receiver) = watch::channel(None);
        (Self { tls, bundle, registered }, sender, receiver)
    }

    /// Waits until the API server can be told whom to trust; gives that.
    pub async fn trusted(&mut self) -> Option<Bundle> {
        let receiver = &mut self.bundle;
        receiver.wait_for(Option::is_some).await.ok().and_then(|bundle| bundle.clone())
    }

    /// Waits for another CA. Never returns where there can be none any more.
    pub async fn changed(&mut self) {
        if self.bundle.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The API server has been told to trust this: just now, or it was found so.
    pub fn registered(&self, bundle: &str, just_now: bool) {
        self.registered.send_if_modified(|registered| {
            let same = !just_now && registered.as_ref().is_some_and(|registered| registered.bundle == bundle);
            if !same {
                *registered = Some(Registered { bundle: bundle.to_owned(), since: Instant::now() });
            }
            !same
        });
    }

    /// It is not known what the API server has been told.
    pub fn unregistered(&self) {
        self.registered.send_if_modified(|registered| registered.take().is_some());
    }
}

#[cfg(test)]
mod handshake;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
