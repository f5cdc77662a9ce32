//! Tests that need a cluster. They share one, because a start costs seconds: run them with `cargo test`, which keeps
//! a binary's tests in one process.

#![allow(clippy::unwrap_used, reason = "all of it is tests, helpers included")]

mod admit;
mod cli;
mod decision;
mod doctor;
mod engine;
mod fabric;
mod fail_open;
mod golden;
mod group;
mod guard;
mod label;
mod own_profiles;
mod page;
mod profile;
mod quota;
mod selftest;
mod smoke;
mod stage;

use harness::{Cluster, Options};
use tokio::sync::OnceCell;

/// The shared cluster, started by the first test that asks. One that does not start fails every test, once.
async fn cluster() -> &'static Cluster {
    static SHARED: OnceCell<Result<Cluster, String>> = OnceCell::const_new();
    let started = SHARED.get_or_init(async || {
        Cluster::start(Options { audit: true, ..Options::default() }).await.map_err(|err| format!("{err:#}"))
    });
    started.await.as_ref().unwrap_or_else(|err| panic!("{err}"))
}
