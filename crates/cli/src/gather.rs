//! What the cluster says, as the values that decisions take.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, future::ready, stream};
use policies::{
    doctor::{NodeScene, PodScene},
    fabric::Fact,
    matrix::SelftestView,
    names::{CONDITION, label},
    node_fabric::NodeFabricStatus,
    profile::{Objects, Profiles},
    raw::strings,
    report::Condition,
    workers,
};
use serde::Deserialize as _;
use serde_json::Value;
use webhook::{lean::LeanNode, nodes::view};

use crate::{
    cluster::{Cluster, Trouble},
    exit::{Ended, Exit, Result},
};

/// Requests at once.
const AT_ONCE: usize = 8;
/// Path of the nodes.
pub const NODES: &str = "/api/v1/nodes";
/// Path of the NodeFabrics.
pub const NODE_FABRICS: &str = "/apis/railbind.dev/v1alpha1/nodefabrics";
/// Path of the cluster's own profiles.
pub const PROFILES: &str = "/apis/railbind.dev/v1alpha1/transportprofiles";

/// All nodes with their stories.
///
/// # Errors
/// The nodes themselves cannot be listed.
pub async fn nodes(cluster: &Cluster) -> Result<Vec<NodeScene>> {
    let (nodes, fabrics) = tokio::join!(cluster.list(NODES), cluster.list(NODE_FABRICS));
    let nodes = nodes.map_err(|trouble| needed("nodes", &trouble))?;
    let fabrics = fabrics.map(|all| {
        let named = all.into_iter().filter_map(|one| Some((one["metadata"]["name"].as_str()?.to_owned(), one)));
        named.collect::<BTreeMap<String, Value>>()
    });
    let labelled = nodes.iter().any(|node| node["metadata"]["labels"].get(label::FABRIC).is_some());
    if let Err(trouble) = &fabrics {
        no_fabrics(cluster, trouble, labelled);
    }
    let scenes: Vec<NodeScene> = nodes
        .into_iter()
        .map(|node| {
            let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let fabric = match &fabrics {
                Ok(all) => Ok(all.get(&name)),
                Err(trouble) => Err(trouble.text()),
            };
            scene(cluster, node, fabric)
        })
        .collect();
    if matches!(&fabrics, Ok(all) if all.is_empty()) && !labelled && !scenes.is_empty() {
        cluster.miss(
            Exit::NoRailbind,
            "Railbind's kinds are there, and no agent reports: is the DaemonSet railbind-agent installed and running?",
        );
    }
    Ok(scenes)
}

/// These nodes with their stories; one that cannot be read is left out, and written down.
pub async fn named(cluster: &Cluster, names: &BTreeSet<String>) -> Vec<NodeScene> {
    let read = stream::iter(names).map(|name| one(cluster, name)).buffered(AT_ONCE);
    read.filter_map(ready).collect().await
}

async fn one(cluster: &Cluster, name: &str) -> Option<NodeScene> {
    let (node, fabric) = tokio::join!(cluster.get(NODES, name), cluster.get(NODE_FABRICS, name));
    let node = match node {
        Ok(node) => node,
        Err(trouble) => {
            cluster.miss(trouble.exit(), format!("node {name}: {}", trouble.text()));
            return None;
        }
    };
    let labelled = node["metadata"]["labels"].get(label::FABRIC).is_some();
    let fabric = match fabric {
        Ok(fabric) => Ok(Some(fabric)),
        // Of one object, "not found" is an answer, unless it is the kind.
        Err(Trouble::NotFound(text)) if text.contains("nodefabrics") => Ok(None),
        Err(trouble) => {
            no_fabrics(cluster, &trouble, labelled);
            Err(trouble.text().to_owned())
        }
    };
    let told = match &fabric {
        Ok(fabric) => Ok(fabric.as_ref()),
        Err(why) => Err(why.as_str()),
    };
    Some(scene(cluster, node, told))
}

fn no_fabrics(cluster: &Cluster, trouble: &Trouble, labelled: bool) {
    match (trouble, labelled) {
        (Trouble::NotFound(_), false) => cluster.miss(Exit::NoRailbind, "Railbind is not installed here: there is no kind NodeFabric (railbind.dev/v1alpha1) and no node is labelled"),
        (Trouble::NotFound(_), true) => cluster.miss(Exit::OtherVersion, "nodes are labelled by Railbind, and there is no kind NodeFabric (railbind.dev/v1alpha1): an older Railbind; apply the CRDs of this version"),
        (trouble, _) => cluster.miss(trouble.exit(), format!("NodeFabrics: {}", trouble.text())),
    }
}

/// A failure that leaves nothing to do.
pub fn needed(what: &str, trouble: &Trouble) -> Ended {
    let exit = match trouble {
        Trouble::Refused(_) => Exit::NoPermission,
        Trouble::Unreachable(_) => Exit::NoCluster,
        Trouble::Slow(_) | Trouble::Other(_) => Exit::Partial,
        Trouble::NotFound(_) => Exit::Usage,
    };
    Ended::new(exit, format!("{what}: {}", trouble.text()))
}

fn scene(cluster: &Cluster, node: Value, fabric: Result<Option<&Value>, &str>) -> NodeScene {
    let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let status = |kind: &str| {
        let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().find(|condition| condition["type"] == kind)
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let condition = status(CONDITION).map(|condition| Condition {
        status: text(&condition["status"]),
        reason: text(&condition["reason"]),
        message: text(&condition["message"]),
    });
    let (story, selftest) = match fabric {
        Ok(None) => (Fact::Known(None), None),
        Ok(Some(object)) => told(cluster, &name, &object["status"]),
        Err(why) => (Fact::Unknown(why.to_owned()), None),
    };
    NodeScene {
        ready: status("Ready").map(|condition| condition["status"] == "True"),
        kernel: node["status"]["nodeInfo"]["kernelVersion"].as_str().map(str::to_owned),
        condition,
        fabric: story,
        selftest,
        view: match LeanNode::deserialize(node) {
            Ok(node) => view(node),
            Err(error) => {
                cluster.miss(Exit::Partial, format!("node {name}: {error}"));
                policies::select::NodeView { name, ..Default::default() }
            }
        },
    }
}

/// A NodeFabric's status, whoever wrote it.
fn told(cluster: &Cluster, name: &str, status: &Value) -> (Fact<Option<NodeFabricStatus>>, Option<SelftestView>) {
    if status.is_null() {
        return (Fact::Known(None), None);
    }
    let other = |why: String| {
        cluster.miss(
            Exit::OtherVersion,
            format!("NodeFabric {name} is of another version of Railbind ({why}): use the kubectl-railbind of that version, or update the agents"),
        );
    };
    let selftest = SelftestView::of_status(status).unwrap_or_else(|why| {
        other(why);
        None
    });
    match NodeFabricStatus::deserialize(status) {
        Ok(story) => {
            let lacking = [("ready", story.ready.is_none()), ("facts", story.facts.is_null())];
            let lacking: Vec<&str> = lacking.iter().filter(|(_, lacks)| *lacks).map(|(field, _)| *field).collect();
            if !lacking.is_empty() {
                other(format!("no status.{}", lacking.join(", status.")));
            }
            (Fact::Known(Some(story)), selftest)
        }
        Err(error) => {
            other(error.to_string());
            (Fact::Unknown(error.to_string()), selftest)
        }
    }
}

/// For the matrix: name, fabric domain, self-test.
pub fn matrix_rows(nodes: &[NodeScene]) -> Vec<(String, String, Option<SelftestView>)> {
    let reporting = nodes.iter().filter(|node| node.view.labels.contains_key(label::FABRIC));
    reporting.map(|node| (node.view.name.clone(), domain(node), node.selftest.clone())).collect()
}

/// The fabric domain, else the fabric.
pub fn domain(node: &NodeScene) -> String {
    let labels = &node.view.labels;
    labels.get(label::FABRIC_DOMAIN).or_else(|| labels.get(label::FABRIC)).cloned().unwrap_or_else(|| "no agent".into())
}

/// The profiles in force.
///
/// # Errors
/// Never but for a broken binary.
pub async fn profiles(cluster: &Cluster) -> Result<Profiles> {
    let embedded = Profiles::embedded().map_err(|error| Ended::new(Exit::Failed, error.to_string()))?;
    match cluster.list(PROFILES).await {
        Ok(objects) => {
            let mut own = Objects::new(embedded);
            own.replace(&objects);
            for (name, why) in own.wrong() {
                cluster.miss(Exit::Partial, format!("TransportProfile {name} is not used: {why}"));
            }
            Ok(own.in_force())
        }
        // An installation without the kind uses the embedded ones.
        Err(Trouble::NotFound(_)) => Ok(embedded),
        Err(trouble) => {
            cluster.miss(trouble.exit(), format!("TransportProfiles: {}; the built-in ones are used", trouble.text()));
            Ok(embedded)
        }
    }
}

/// Workers among pods, with the labels of their namespaces.
pub async fn workers(cluster: &Cluster, pods: &[Value], asked: bool) -> Vec<PodScene> {
    let ended = |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let mut scenes: Vec<PodScene> = pods
        .iter()
        .filter(|pod| asked || !ended(pod))
        .map(PodScene::read)
        .filter(|pod| pod.worker.is_some() || asked)
        .collect();
    let names: BTreeSet<String> = scenes.iter().map(|pod| pod.namespace.clone()).collect();
    let read = stream::iter(names).map(async |name| {
        let fact = match cluster.get("/api/v1/namespaces", &name).await {
            Ok(namespace) => Fact::Known(strings(&namespace["metadata"]["labels"])),
            Err(trouble) => {
                cluster.miss(trouble.exit(), format!("namespace {name}: {}", trouble.text()));
                Fact::Unknown(trouble.text().to_owned())
            }
        };
        (name, fact)
    });
    let labels: BTreeMap<String, Fact<BTreeMap<String, String>>> = read.buffered(AT_ONCE).collect().await;
    for pod in &mut scenes {
        if let Some(fact) = labels.get(&pod.namespace) {
            pod.namespace_labels = fact.clone();
        }
    }
    scenes
}

/// Whether a pod is a worker.
pub fn is_worker(pod: &Value) -> bool {
    PodScene::read(pod).worker.is_some()
}

/// The value of a pod's group label.
pub fn group(pod: &Value) -> Option<String> {
    workers::group(&strings(&pod["metadata"]["labels"])).map(|group| group.value)
}
