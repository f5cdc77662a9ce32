//! Registration: the MutatingWebhookConfiguration, written when the server answers, and looked after.

mod config;

use std::time::{Duration, SystemTime};

use axum_server::Handle;
use daemon::Check;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use policies::names::WEBHOOK_MANAGER;

pub(crate) use config::scope;
pub use config::{Place, Wanted, configuration};

use crate::{
    args::BindingEngine,
    certs::Serving,
    engine::{Choice, Chosen},
    metrics::Metrics,
    retry::{ApiError, Backoff, call},
};

/// How often the configuration is looked at, at least.
pub const CHECK_EVERY: Duration = Duration::from_secs(30);
/// And while somebody else has to fill `caBundle` in.
const INJECTED_EVERY: Duration = Duration::from_secs(2);

/// Registers, and stays registered.
#[derive(Debug)]
pub struct Registrar {
    /// Where to.
    pub api: Api<MutatingWebhookConfiguration>,
    /// What.
    pub wanted: Wanted,
    /// Which engine binds: whether we are called for Bindings.
    pub engine: Chosen,
    /// Whom the API server is to trust.
    pub serving: Serving,
    /// How often the configuration is looked at: someone may delete it or change it.
    pub every: Duration,
    /// Ready after the first success.
    pub check: Check,
    /// What is counted.
    pub metrics: Metrics,
}

/// What [`ensure`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Nothing: it was as wanted.
    Nothing,
    /// It was written.
    Written,
}

impl Registrar {
    /// Waits for the server to listen and for the CA, then keeps at it. Any replica does: they all want the same.
    pub async fn run(self, server: Handle<std::net::SocketAddr>) {
        self.check.not_ready("waits for the server and its certificate");
        if server.listening().await.is_some() {
            self.keep().await;
        }
    }

    /// Registers as soon as there is a CA, and looks after it.
    pub(crate) async fn keep(mut self) {
        let mut registered = false;
        let mut backoff = Backoff::default();
        while let Some(bundle) = self.serving.trusted().await {
            let Some(choice) = self.chosen().await else { return };
            self.wanted.binding = if choice.hook { BindingEngine::Webhook } else { BindingEngine::Off };
            let done = ensure(&self.api, &configuration(&self.wanted, bundle.pem())).await;
            let wait = match done.map(|(done, live)| (done, bundle.accepted(&live, SystemTime::now()))) {
                // Ours is in place, and the API server does not talk to us yet.
                Ok((_, Err(why))) => {
                    self.metrics.registered(false);
                    if registered {
                        tracing::warn!(why, "webhook configuration");
                    } else {
                        self.check.not_ready(why);
                    }
                    self.every.min(INJECTED_EVERY)
                }
                Ok((done, Ok(()))) => {
                    if done == Done::Written {
                        tracing::info!(name = self.wanted.name, "webhook configuration written");
                    }
                    registered = true;
                    self.serving.registered(bundle.pem().unwrap_or_default(), done == Done::Written);
                    self.check.ready();
                    self.metrics.registered(true);
                    backoff.reset();
                    self.every
                }
                Err(error) => {
                    self.serving.unregistered();
                    self.metrics.registered(false);
                    if registered {
                        tracing::warn!(%error, "webhook configuration");
                    } else {
                        self.check.not_ready(error.to_string());
                    }
                    backoff.wait()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.serving.changed() => {}
                Ok(()) = self.engine.changed() => {}
            }
        }
    }

    /// The engine in use, once that is known: to register for Bindings what a policy does already would put us into the
    /// scheduler's way for nothing.
    async fn chosen(&mut self) -> Option<Choice> {
        if self.engine.borrow().is_none() {
            self.check.not_ready("waits for the API server to say its version");
        }
        *self.engine.wait_for(Option::is_some).await.ok()?
    }
}

/// Makes the configuration as wanted; writes only if it is not. Gives what is there then.
pub async fn ensure(
    api: &Api<MutatingWebhookConfiguration>,
    wanted: &MutatingWebhookConfiguration,
) -> Result<(Done, MutatingWebhookConfiguration), ApiError> {
    let name = wanted.metadata.name.as_deref().unwrap_or_default();
    if let Some(live) = call(api.get_opt(name)).await?.filter(|live| config::as_wanted(live, wanted)) {
        return Ok((Done::Nothing, live));
    }
    let live = call(api.patch(name, &PatchParams::apply(WEBHOOK_MANAGER).force(), &Patch::Apply(wanted))).await?;
    Ok((Done::Written, live))
}

#[cfg(test)]
mod tests;
