//! The profiles in force: those that ship in the binary, and the cluster's own in their place.

use std::sync::Arc;

use policies::profile::Profiles;
use tokio::sync::watch;

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
}
