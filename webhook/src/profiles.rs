//! The profiles in force: those that ship in the binary, and the cluster's own in their place, taken over as they change.
//!
//! An object that makes no sense changes nothing: the last good one of its name stays, else the embedded one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use daemon::Check;
use futures::{Stream, StreamExt as _, pin_mut};
use kube::{
    Api, Client,
    core::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{
        WatchStreamExt as _,
        watcher::{Error, Event, watcher},
    },
};
use policies::profile::{ProfileError, Profiles, TransportProfile};
use serde_json::json;
use tokio::sync::watch;

use crate::{metrics::Metrics, nodes};

/// The readers' side. Clones read the same.
#[derive(Debug, Clone)]
pub struct InForce(watch::Receiver<Arc<Profiles>>);

impl InForce {
    /// These, until the sender says otherwise.
    pub fn new(profiles: Profiles) -> (watch::Sender<Arc<Profiles>>, Self) {
        let (sender, receiver) = watch::channel(Arc::new(profiles));
        (sender, Self(receiver))
    }

    /// What is in force now.
    pub fn current(&self) -> Arc<Profiles> {
        self.0.borrow().clone()
    }

    /// Waits for other profiles. Never comes back once nothing can change any more.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The cluster's own profiles, as far as they make sense.
#[derive(Debug)]
pub struct Objects {
    embedded: Profiles,
    good: BTreeMap<String, TransportProfile>,
    wrong: BTreeMap<String, String>,
    /// Names in a list that is not complete.
    listing: Option<BTreeSet<String>>,
}

impl Objects {
    /// None yet.
    pub fn new(embedded: Profiles) -> Self {
        Self { embedded, good: BTreeMap::new(), wrong: BTreeMap::new(), listing: None }
    }

    /// Takes one event; true where readers should see what came of it.
    pub fn apply(&mut self, event: Event<DynamicObject>) -> bool {
        match event {
            Event::Init => {
                self.listing = Some(BTreeSet::new());
                false
            }
            Event::InitApply(object) => {
                let name = self.take(&object);
                self.listing.get_or_insert_default().insert(name);
                false
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                self.good.retain(|name, _| listed.contains(name));
                self.wrong.retain(|name, _| listed.contains(name));
                true
            }
            Event::Apply(object) => {
                self.take(&object);
                true
            }
            Event::Delete(object) => {
                let name = object.metadata.name.unwrap_or_default();
                self.good.remove(&name);
                self.wrong.remove(&name);
                true
            }
        }
    }

    fn take(&mut self, object: &DynamicObject) -> String {
        let name = object.metadata.name.clone().unwrap_or_default();
        match read(object) {
            Ok(profile) => {
                self.wrong.remove(&name);
                self.good.insert(name.clone(), profile);
            }
            Err(error) => {
                let kept =
                    if self.good.contains_key(&name) { "the last good one" } else { "the embedded one, if any," };
                tracing::warn!(profile = name, %error, "no profile that makes sense; {kept} stays in force");
                self.wrong.insert(name.clone(), error.to_string());
            }
        }
        name
    }

    /// What is in force.
    pub fn in_force(&self) -> Profiles {
        self.embedded.overridden_by(self.good.values().cloned())
    }

    /// Those that make no sense, with why.
    pub fn wrong(&self) -> &BTreeMap<String, String> {
        &self.wrong
    }
}

fn read(object: &DynamicObject) -> Result<TransportProfile, ProfileError> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let types = object.types.clone().unwrap_or_default();
    let plain = json!({
        "apiVersion": types.api_version,
        "kind": types.kind,
        "metadata": {"name": name},
        "spec": object.data["spec"],
    });
    let profile: TransportProfile = serde_json::from_value(plain)
        .map_err(|error| ProfileError::Syntax { file: name.clone(), cause: error.to_string() })?;
    profile.check(&name)?;
    Ok(profile)
}

/// Follows the cluster's own profiles for ever. A cluster without the CRD has none.
pub async fn follow_profiles(
    client: Client,
    sender: watch::Sender<Arc<Profiles>>,
    objects: Objects,
    check: Check,
    metrics: Metrics,
) {
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("railbind.dev", "v1alpha1", "TransportProfile"),
        "transportprofiles",
    );
    let events = watcher(Api::<DynamicObject>::all_with(client, &resource), nodes::cached());
    follow(events, sender, objects, check, metrics).await;
}

async fn follow(
    events: impl Stream<Item = Result<Event<DynamicObject>, Error>> + Send,
    sender: watch::Sender<Arc<Profiles>>,
    mut objects: Objects,
    check: Check,
    metrics: Metrics,
) {
    let events = events.default_backoff();
    pin_mut!(events);
    // The embedded ones are good enough to serve by, also where the cluster has no such objects or does not say.
    check.ready();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if objects.apply(event) {
                    sender.send_replace(Arc::new(objects.in_force()));
                    metrics.profiles(objects.good.len(), objects.wrong.len());
                    let wrong: Vec<String> =
                        objects.wrong.iter().map(|(name, why)| format!("{name} is not in force: {why}")).collect();
                    check.ready_but(&wrong.join("; "));
                }
            }
            Err(error) => tracing::debug!(error = nodes::why(error), "transport profiles; going on with those known"),
        }
    }
    tracing::error!("the watch of transport profiles ended");
}

#[cfg(test)]
mod tests {
    use kube::core::DynamicObject;
    use policies::profile::Profiles;
    use serde_json::{Value, json};

    use super::{Event, Objects};

    fn object(name: &str, change: impl FnOnce(&mut Value)) -> DynamicObject {
        let embedded = Profiles::embedded().unwrap();
        let mut profile = serde_json::to_value(embedded.get("tcp").unwrap()).unwrap();
        profile["metadata"]["name"] = json!(name);
        change(&mut profile["spec"]);
        serde_json::from_value(profile).unwrap()
    }

    #[test]
    fn objects_override_by_name_and_the_last_good_one_stays() {
        let mut objects = Objects::new(Profiles::embedded().unwrap());
        let description = |objects: &Objects| objects.in_force().get("tcp").unwrap().spec.description.clone();
        let embedded = description(&objects);
        assert!(!objects.apply(Event::Init) && objects.apply(Event::InitDone));

        assert!(objects.apply(Event::Apply(object("tcp", |spec| spec["description"] = json!("ours")))));
        assert_eq!(description(&objects), "ours");
        assert!(objects.apply(Event::Apply(object("tcp", |spec| spec["env"][0]["name"] = json!("ucx-tls")))));
        assert_eq!(description(&objects), "ours");
        assert!(objects.wrong()["tcp"].contains("spec.env[0]"), "{:?}", objects.wrong());
        objects.apply(Event::Apply(object("tcp", |spec| spec["colour"] = json!("red"))));
        assert!(objects.wrong()["tcp"].contains("colour"), "{:?}", objects.wrong());

        objects.apply(Event::Apply(object("own", |spec| spec["set"] = json!("own"))));
        assert!(objects.in_force().has_set("own"));
        // A new list without them: they are gone, and with them what was wrong.
        for event in [Event::Init, Event::InitApply(object("own", |spec| spec["set"] = json!("own"))), Event::InitDone]
        {
            objects.apply(event);
        }
        assert_eq!((description(&objects), objects.wrong().len()), (embedded, 0));
        objects.apply(Event::Delete(object("own", |_| {})));
        assert!(!objects.in_force().has_set("own"));
    }
}
