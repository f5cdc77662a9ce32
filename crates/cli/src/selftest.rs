//! `selftest`: asks nodes for a self-test, and shows how it goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _};
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::{WatchStreamExt as _, watcher},
};
use policies::{
    matrix::SelftestView,
    names::{annotation, label},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    args::{Output, SelftestArgs},
    cluster::Cluster,
    exit::{Ended, Exit, Result},
    gather, out,
};

/// An agent that runs self-tests has taken up a request by then.
const TAKEN_UP: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Progress {
    node: String,
    state: State,
    tests: u32,
    verdict: Option<String>,
    bandwidth: Option<String>,
    reasons: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    #[default]
    Asked,
    Running,
    Done,
}

/// Asks and waits.
///
/// # Errors
/// A node that is not there, or may not be asked.
pub async fn run(cluster: &Cluster, args: &SelftestArgs) -> Result<Exit> {
    let names = names(cluster, &args.nodes).await?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let request = format!("kubectl-railbind-{}.{:09}", now.as_secs(), now.subsec_nanos());
    let mut progress = BTreeMap::new();
    for name in &names {
        ask(cluster, name, &request).await?;
        progress.insert(name.clone(), Progress { node: name.clone(), ..Progress::default() });
    }
    out::say(&format!("asked {} for a self-test", count(names.len())));
    let begun = tokio::time::Instant::now();
    let deadline = begun + Duration::from_secs(args.wait);
    let kind = GroupVersionKind::gvk("railbind.dev", "v1alpha1", "NodeFabric");
    let fabrics = Api::<DynamicObject>::all_with(
        cluster.client.clone(),
        &ApiResource::from_gvk_with_plural(&kind, "nodefabrics"),
    );
    let events = watcher(fabrics, watcher::Config::default()).default_backoff().touched_objects();
    let mut events = std::pin::pin!(events.into_stream());
    let taken_up = begun + TAKEN_UP.min(Duration::from_secs(args.wait));
    let mut refused = None;
    while progress.values().any(|one| one.state != State::Done) {
        let asked = progress.values().all(|one| one.state == State::Asked);
        let until = if asked { taken_up } else { deadline };
        match tokio::time::timeout_at(until, events.next()).await {
            Ok(Some(Ok(object))) => {
                let name = object.metadata.name.clone().unwrap_or_default();
                if let Some(one) = progress.get_mut(&name) {
                    take(one, &object, &request);
                }
            }
            Ok(Some(Err(error))) => refused = Some(error.to_string()),
            Ok(None) | Err(_) => break,
        }
    }
    let all: Vec<Progress> = progress.into_values().collect();
    out::answer(args.output, &all, || table(&all))?;
    for one in all.iter().filter(|one| one.state == State::Asked) {
        let why = refused.clone().map(|why| format!(" (watching NodeFabrics: {why})")).unwrap_or_default();
        cluster.miss(Exit::OtherVersion, format!("node {}: its agent does not take up the request: is it running, and does this version run self-tests?{why}", one.node));
    }
    for one in all.iter().filter(|one| one.state == State::Running) {
        cluster.miss(
            Exit::Partial,
            format!("node {}: not over after {} s (--wait); the agent goes on", one.node, args.wait),
        );
    }
    if args.output == Output::Text {
        out::say("kubectl railbind matrix shows who measured what with whom");
    }
    Ok(cluster.end(all.iter().any(|one| matches!(one.verdict.as_deref(), Some("failed" | "slow")))))
}

async fn names(cluster: &Cluster, given: &[String]) -> Result<BTreeSet<String>> {
    if !given.is_empty() {
        return Ok(given.iter().cloned().collect());
    }
    let nodes = gather::nodes(cluster).await?;
    let with_agent =
        nodes.iter().filter(|node| node.view.labels.get(label::FABRIC).is_some_and(|fabric| fabric != "tcp"));
    let names: BTreeSet<String> = with_agent.map(|node| node.view.name.clone()).collect();
    if names.is_empty() {
        return Err(Ended::new(
            Exit::NoRailbind,
            "no node with RDMA carries Railbind's labels: is railbind-agent installed and running?",
        ));
    }
    Ok(names)
}

async fn ask(cluster: &Cluster, name: &str, request: &str) -> Result<()> {
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(cluster.client.clone());
    let patch = Patch::Merge(json!({"metadata": {"annotations": {annotation::SELFTEST_REQUESTED: request}}}));
    let asked = cluster.call(nodes.patch_metadata(name, &PatchParams::default(), &patch)).await;
    asked.map(|_| ()).map_err(|trouble| gather::needed(&format!("annotating node {name}"), &trouble))
}

fn take(one: &mut Progress, object: &DynamicObject, request: &str) {
    let Ok(Some(test)) = SelftestView::of_status(&object.data["status"]) else { return };
    if test.requested.as_deref() != Some(request) {
        return;
    }
    let sweep = test.sweep.unwrap_or_default();
    let state = if sweep.ended.is_some() { State::Done } else { State::Running };
    if (state, sweep.tests) == (one.state, one.tests) {
        return;
    }
    one.state = state;
    one.tests = sweep.tests;
    one.verdict = Some(test.verdict);
    one.bandwidth = test.bandwidth;
    one.reasons = test.reasons;
    let verdict = match state {
        State::Done => {
            format!("{} {}", one.verdict.as_deref().unwrap_or_default(), one.bandwidth.as_deref().unwrap_or_default())
        }
        State::Asked | State::Running => "running".into(),
    };
    out::say(&format!("{}: {} transfers, {}", out::clean(&one.node), one.tests, out::clean(verdict.trim_end())));
}

fn table(all: &[Progress]) -> String {
    let cell = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let rows = all.iter().map(|one| {
        let state = match one.state {
            State::Asked => "not taken up",
            State::Running => "running",
            State::Done => "done",
        };
        let why = one.reasons.first().cloned().unwrap_or_default();
        vec![one.node.clone(), state.into(), one.tests.to_string(), cell(&one.verdict), cell(&one.bandwidth), why]
    });
    out::table(&["NODE", "STATE", "TRANSFERS", "VERDICT", "BANDWIDTH", "WHY"], rows.collect())
}

fn count(nodes: usize) -> String {
    if nodes == 1 { "1 node".into() } else { format!("{nodes} nodes") }
}
