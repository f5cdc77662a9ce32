//! The profiles in force: those that ship in the binary, and the cluster's own in their place, taken over as they change.
//!
//! An object that makes no sense changes nothing: the last good one of its name stays, else the embedded one.

use std::{collections::BTreeSet, sync::Arc};

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
use policies::profile::{Objects, Profiles};
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

/// The cluster's own profiles, as a watch tells of them.
#[derive(Debug)]
pub struct Watched {
    objects: Objects,
    /// Names in a list that is not complete.
    listing: Option<BTreeSet<String>>,
}

impl Watched {
    /// None yet.
    pub fn new(embedded: Profiles) -> Self {
        Self { objects: Objects::new(embedded), listing: None }
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
                self.objects.only(&self.listing.take().unwrap_or_default());
                true
            }
            Event::Apply(object) => {
                self.take(&object);
                true
            }
            Event::Delete(object) => {
                self.objects.forget(&object.metadata.name.unwrap_or_default());
                true
            }
        }
    }

    fn take(&mut self, object: &DynamicObject) -> String {
        // Of an object that cannot be written as JSON nothing is known, not even its name.
        let name = self.objects.take(&serde_json::to_value(object).unwrap_or_default());
        if let Some(why) = self.objects.wrong().get(&name) {
            tracing::warn!(profile = name, why, "a transport profile that makes no sense");
        }
        name
    }

    /// What they are.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }
}

/// Follows the cluster's own profiles for ever. A cluster without the CRD has none.
pub async fn follow_profiles(
    client: Client,
    sender: watch::Sender<Arc<Profiles>>,
    watched: Watched,
    check: Check,
    metrics: Metrics,
) {
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("railbind.dev", "v1alpha1", "TransportProfile"),
        "transportprofiles",
    );
    let events = watcher(Api::<DynamicObject>::all_with(client, &resource), nodes::cached());
    follow(events, sender, watched, check, metrics).await;
}

async fn follow(
    events: impl Stream<Item = Result<Event<DynamicObject>, Error>> + Send,
    sender: watch::Sender<Arc<Profiles>>,
    mut watched: Watched,
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
                if watched.apply(event) {
                    let objects = watched.objects();
                    sender.send_replace(Arc::new(objects.in_force()));
                    metrics.profiles(objects.good(), objects.wrong().len());
                    check.ready_but(&objects.note());
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

    use super::{Event, Watched};

    fn object(name: &str, change: impl FnOnce(&mut Value)) -> DynamicObject {
        let embedded = Profiles::embedded().unwrap();
        let mut profile = serde_json::to_value(embedded.get("tcp").unwrap()).unwrap();
        profile["metadata"] = json!({"name": name, "resourceVersion": "7"});
        change(&mut profile["spec"]);
        serde_json::from_value(profile).unwrap()
    }

    #[test]
    fn events_change_what_is_in_force_and_a_list_is_shown_when_it_is_complete() {
        let mut watched = Watched::new(Profiles::embedded().unwrap());
        let description = |watched: &Watched| watched.objects().in_force().get("tcp").unwrap().spec.description.clone();
        let embedded = description(&watched);
        assert!(!watched.apply(Event::Init) && watched.apply(Event::InitDone));
        assert!(watched.apply(Event::Apply(object("tcp", |spec| spec["description"] = json!("ours")))));
        assert_eq!(description(&watched), "ours");
        watched.apply(Event::Apply(object("tcp", |spec| spec["colour"] = json!("red"))));
        assert_eq!((description(&watched).as_str(), watched.objects().wrong().len()), ("ours", 1));
        // A new list without it: it is gone, and with it what was wrong.
        let own = || object("own", |spec| spec["set"] = json!("own"));
        assert!(!watched.apply(Event::Init) && !watched.apply(Event::InitApply(own())));
        assert_eq!(description(&watched), "ours");
        assert!(watched.apply(Event::InitDone) && watched.objects().in_force().has_set("own"));
        assert_eq!((description(&watched), watched.objects().wrong().len()), (embedded, 0));
        watched.apply(Event::Delete(own()));
        assert!(!watched.objects().in_force().has_set("own"));
    }
}
