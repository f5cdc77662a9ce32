//! Tests that create hundreds of pods a second and count what went by without us. Alone on the machine, one after the other: an API
//! server that is out of breath fails open, as it should, and would be counted as our miss.

#![allow(clippy::unwrap_used, reason = "all of it is tests, helpers included")]

mod certificates;
mod creating;
mod rolling;
mod upgrade;

use harness::{Cluster, Options};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

/// A cluster with one InfiniBand node, for the test that holds the guard: one runs at a time.
async fn cluster() -> (MutexGuard<'static, ()>, Cluster) {
    static ONE: Mutex<()> = Mutex::const_new(());
    let alone = ONE.lock().await;
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.install_identities().await.unwrap();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "ib-1", "labels": {
        "railbind.dev/fabric": "infiniband", "railbind.dev/profile": "infiniband-gpudirect"}}});
    cluster.apply(&node.to_string()).await.unwrap();
    (alone, cluster)
}
