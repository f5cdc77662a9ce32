//! The scene that the end-to-end tests share: the demo's machines with their agents, and the webhook.

use std::{collections::BTreeMap, process::Command};

use anyhow::{Context, Result};
use harness::{
    railbind::{Daemon, binary},
    scene::MACHINES,
};
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::cluster;

/// What runs beside the shared cluster.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Agents by node.
    pub(crate) agents: BTreeMap<&'static str, Daemon>,
    /// The webhook, held so that it lives as long as the stage.
    pub(crate) webhook: Daemon,
}

/// The stage, set by the first test that asks.
pub(crate) async fn stage() -> &'static Stage {
    static SHARED: OnceCell<Result<Stage, String>> = OnceCell::const_new();
    let set = SHARED.get_or_init(async || set().await.map_err(|err| format!("{err:?}")));
    set.await.as_ref().unwrap_or_else(|err| panic!("{err}"))
}

async fn set() -> Result<Stage> {
    let cluster = cluster().await;
    cluster.install_identities().await?;
    let mut agents = BTreeMap::new();
    for machine in MACHINES {
        agents.insert(machine.node, cluster.add_machine(machine).await?);
    }
    Ok(Stage { agents, webhook: cluster.spawn_webhook("webhook").await? })
}

/// The machine-readable survey of a tree.
pub(crate) fn survey(root: &std::path::Path) -> Result<Value> {
    let output = Command::new(binary("railbind-agent")?).args(["survey", "--json", "--root"]).arg(root).output()?;
    serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}
