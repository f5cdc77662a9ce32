//! Which replica does what only one may do: a Lease that its holder renews, and that another takes when it does not.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, api::PostParams, core::ObjectMeta};
use policies::names::WEBHOOK_MANAGER;
use tokio::{sync::watch, time::Instant};

use crate::retry::{ApiError, call};

/// Its name, in our own namespace.
pub const LEASE: &str = "railbind-webhook";
/// Unrenewed for this long, it is anyone's.
const TERM: Duration = Duration::from_secs(15);
/// How often it is renewed, or looked at.
const EVERY: Duration = Duration::from_secs(5);

/// A replica's part in it.
#[derive(Debug)]
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    leads: watch::Sender<bool>,
    /// The last state that was seen, and since when by our own clock: theirs may differ.
    seen: Option<(Lease, Instant)>,
}

impl Candidate {
    /// A candidate of this name, which must be its own; and whether it leads.
    pub fn new(leases: Api<Lease>, name: String) -> (Self, watch::Receiver<bool>) {
        let (leads, receiver) = watch::channel(false);
        (Self { leases, name, leads, seen: None }, receiver)
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        let mut renewed = Instant::now();
        loop {
            let leads = match self.round().await {
                Ok(leads) => {
                    renewed = Instant::now();
                    leads
                }
                // Whoever cannot reach the API server leads until its term is over, and not longer.
                Err(error) => {
                    tracing::debug!(%error, "lease");
                    *self.leads.borrow() && renewed.elapsed() + EVERY < TERM
                }
            };
            if self.leads.send_if_modified(|before| std::mem::replace(before, leads) != leads) {
                tracing::info!(leads, "leader");
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// One look; true if the lease is ours after it.
    async fn round(&mut self) -> Result<bool, ApiError> {
        let Some(lease) = call(self.leases.get_opt(LEASE)).await? else {
            return self.won(call(self.leases.create(&parameters(), &self.wanted(None))).await);
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        let same =
            self.seen.as_ref().filter(|(seen, _)| seen.metadata.resource_version == lease.metadata.resource_version);
        let since = same.map_or_else(Instant::now, |(_, since)| *since);
        let expired = holder.is_empty() || since.elapsed() >= TERM;
        if holder == self.name || expired {
            let wanted = self.wanted(Some(&lease));
            return self.won(call(self.leases.replace(LEASE, &parameters(), &wanted)).await);
        }
        self.seen = Some((lease, since));
        Ok(false)
    }

    fn won(&mut self, result: Result<Lease, ApiError>) -> Result<bool, ApiError> {
        match result {
            Ok(lease) => {
                self.seen = Some((lease, Instant::now()));
                Ok(true)
            }
            // Another was faster.
            Err(ApiError::Conflict(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn wanted(&self, before: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let spec = before.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let ours = spec.holder_identity.as_ref() == Some(&self.name);
        Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.into()),
                resource_version: before.and_then(|lease| lease.metadata.resource_version.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.name.clone()),
                lease_duration_seconds: Some(i32::try_from(TERM.as_secs()).unwrap_or(i32::MAX)),
                acquire_time: spec.acquire_time.filter(|_| ours).or_else(|| Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(spec.lease_transitions.unwrap_or_default() + i32::from(!ours)),
                ..LeaseSpec::default()
            }),
        }
    }
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(WEBHOOK_MANAGER.into()), ..PostParams::default() }
}
