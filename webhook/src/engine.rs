//! The binding engine `policy`: a MutatingAdmissionPolicy inside the API server, whose parameters (node → values) the leader
//! keeps true. No webhook is in the scheduler's way.

mod choice;
mod shards;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use policies::{names::WEBHOOK_MANAGER, node_map::SharedNode, plan::bind_values, profile::Profiles};
use serde_json::{Value, json};
use tokio::sync::watch;

pub use choice::{Choice, Chooser, Chosen, fixed, follow};
pub use shards::{Shard, policy, shards, variables};

use crate::{
    args::BindingEngine,
    metrics::Metrics,
    mirror::Mirror,
    profiles::InForce,
    register,
    retry::{ApiError, Backoff, call},
};

/// Name of the policy, and what the names of its bindings and parameters start with.
pub const POLICY: &str = "railbind-bindings";
/// Label of the parameters, so that a shard that is not needed any more is found.
const SHARD: &str = "railbind.dev/binding-shard";
/// Changes of nodes come in bursts.
const SETTLE: Duration = Duration::from_millis(200);
/// How often all of it is looked at: someone may delete or change it.
const CHECK_EVERY: Duration = Duration::from_mins(1);

/// Keeps the policy and its parameters as they should be, where this replica leads.
pub struct Keeper {
    /// The API server.
    pub client: Client,
    /// Our own namespace: left alone.
    pub namespace: String,
    /// The engine in use; with another one than `policy` the policy is taken away.
    pub engine: Chosen,
    /// The nodes.
    pub nodes: Mirror<SharedNode>,
    /// The profiles.
    pub profiles: InForce,
    /// Whether this replica leads.
    pub leads: watch::Receiver<bool>,
    /// What is counted.
    pub metrics: Metrics,
}

impl Keeper {
    /// Runs for ever.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut written: Option<(Vec<Shard>, Value)> = None;
        loop {
            if !*self.leads.borrow_and_update() {
                written = None;
                if self.leads.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let chosen = *self.engine.borrow_and_update();
            // While nobody knows which engine is in use, nothing is taken away.
            let Some(Choice { engine, .. }) = chosen else {
                if self.engine.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let wait = match self.round(engine, &mut written).await {
                Ok(()) => {
                    backoff.reset();
                    CHECK_EVERY
                }
                Err(error) => {
                    tracing::warn!(%error, "binding policy");
                    written = None;
                    backoff.wait()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => written = None,
                () = self.nodes.changed() => tokio::time::sleep(SETTLE).await,
                () = self.profiles.changed() => {}
                _ = self.leads.changed() => {}
                Ok(()) = self.engine.changed() => {}
            }
        }
    }

    /// Writes what differs from what was written last; everything, where nothing was.
    async fn round(&self, engine: BindingEngine, written: &mut Option<(Vec<Shard>, Value)>) -> Result<(), ApiError> {
        if engine != BindingEngine::Policy {
            *written = None;
            self.metrics.binding_shards(0);
            return self.remove().await;
        }
        let Some(nodes) = self.nodes.snapshot() else { return Ok(()) };
        let profiles = self.profiles.current();
        let variables = variables(&profiles);
        let wanted = shards(&variables, values(&profiles, nodes.all()));
        let policy = policy(&variables, &register::scope(&self.namespace));
        let before = written.take().unwrap_or_default();
        let maps = self.objects("BindingValues");
        let apply = PatchParams::apply(WEBHOOK_MANAGER).force();
        // Parameters first: a binding without its parameter does nothing, and says so in the API server's log.
        for (number, shard) in wanted.iter().enumerate() {
            if before.0.get(number) != Some(shard) {
                let name = format!("{POLICY}-{number}");
                let map = json!({
                    "apiVersion": "railbind.dev/v1alpha1", "kind": "BindingValues",
                    "metadata": {"name": name, "labels": {SHARD: number.to_string()}},
                    "data": shard,
                });
                call(maps.patch(&name, &apply, &Patch::Apply(map))).await?;
            }
        }
        if before.1 != policy {
            call(self.objects("MutatingAdmissionPolicy").patch(POLICY, &apply, &Patch::Apply(&policy))).await?;
        }
        if before.0.len() != wanted.len() || before.1 != policy {
            for number in 0..wanted.len() {
                let name = format!("{POLICY}-{number}");
                let binding = shards::binding(&name);
                let bindings = self.objects("MutatingAdmissionPolicyBinding");
                call(bindings.patch(&name, &apply, &Patch::Apply(&binding))).await?;
            }
            self.prune(wanted.len()).await?;
        }
        self.metrics.binding_shards(wanted.len());
        *written = Some((wanted, policy));
        Ok(())
    }

    fn objects(&self, kind: &str) -> Api<DynamicObject> {
        objects(&self.client, kind)
    }

    /// Takes away the shards beyond this many.
    async fn prune(&self, count: usize) -> Result<(), ApiError> {
        let maps = self.objects("BindingValues");
        let needed: BTreeSet<String> = (0..count).map(|number| format!("{POLICY}-{number}")).collect();
        let listed = match call(maps.list(&ListParams::default().labels(SHARD))).await {
            // Without the kind there are none.
            Err(ApiError::NotFound(_)) => return Ok(()),
            listed => listed?,
        };
        for name in listed.iter().map(kube::ResourceExt::name_any).filter(|name| !needed.contains(name)) {
            gone(call(self.objects("MutatingAdmissionPolicyBinding").delete(&name, &DeleteParams::default())).await)?;
            gone(call(maps.delete(&name, &DeleteParams::default())).await)?;
        }
        Ok(())
    }

    /// Another engine is in use: two would both write, and one of them old values.
    async fn remove(&self) -> Result<(), ApiError> {
        self.prune(0).await?;
        gone(call(self.objects("MutatingAdmissionPolicy").delete(POLICY, &DeleteParams::default())).await)
    }
}

fn objects(client: &Client, kind: &str) -> Api<DynamicObject> {
    let (group, version, plural) = match kind {
        "BindingValues" => ("railbind.dev", "v1alpha1", "bindingvalues"),
        "MutatingAdmissionPolicy" => ("admissionregistration.k8s.io", "v1", "mutatingadmissionpolicies"),
        _ => ("admissionregistration.k8s.io", "v1", "mutatingadmissionpolicybindings"),
    };
    let gvk = GroupVersionKind::gvk(group, version, kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&gvk, plural))
}

/// Whatever is not there, or not even known to the API server, is gone.
fn gone<T>(result: Result<T, ApiError>) -> Result<(), ApiError> {
    match result {
        Ok(_) | Err(ApiError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn values<'a>(
    profiles: &'a Profiles,
    nodes: &'a [Arc<SharedNode>],
) -> impl Iterator<Item = (&'a str, std::collections::BTreeMap<String, String>)> {
    nodes.iter().map(|node| (node.name.as_str(), bind_values(profiles, &node.kind)))
}
