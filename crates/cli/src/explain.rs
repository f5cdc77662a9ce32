//! `explain`: what a pod would get, or what a living pod got, and why, as a diff.

use std::{collections::BTreeMap, fmt::Write as _};

use policies::{
    names::{annotation, k8s},
    node_map::NodeMap,
    profile::Profiles,
    raw,
    reference::Reference,
};
use serde::{Deserialize as _, Serialize};
use serde_json::{Map, Value, json};
use webhook::{
    explain::{machine, people, read_nodes, read_pods},
    lean::LeanNode,
    mutate::{self, Context, Outcome},
    nodes::view,
};

use crate::{
    args::{ExplainArgs, Output},
    cluster::{Cluster, Trouble},
    exit::{Ended, Exit, Result},
    gather, out,
};

/// A namespace as far as decisions read it.
#[derive(Debug, Default)]
struct Namespace {
    name: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

/// With nodes from a file; no cluster is asked.
///
/// # Errors
/// A file that makes no sense.
pub fn offline(args: &ExplainArgs) -> Result<Exit> {
    let (Some(file), Some(nodes)) = (&args.file, &args.nodes) else {
        return Err(Ended::usage("give -f and --nodes"));
    };
    let profiles = Profiles::embedded().map_err(|error| Ended::new(Exit::Failed, error.to_string()))?;
    let nodes = read_nodes(nodes).map_err(|error| Ended::usage(format!("{error:#}")))?;
    let pods = read_pods(file).map_err(|error| Ended::usage(format!("{error:#}")))?;
    let namespace = Namespace { name: args.namespace.clone().unwrap_or_default(), ..Namespace::default() };
    let mut found = Vec::new();
    for (name, pod) in pods {
        found.push(decided(name, pod, &namespace, &nodes, &profiles)?);
    }
    print(&found, args.output)?;
    Ok(if found.iter().any(|one| one.outcome.deny.is_some()) { Exit::Findings } else { Exit::Healthy })
}

/// With the cluster's nodes, profiles and namespaces.
///
/// # Errors
/// A file that makes no sense, a pod that is not there, nodes that cannot be listed.
pub async fn run(cluster: &Cluster, args: &ExplainArgs) -> Result<Exit> {
    let profiles = gather::profiles(cluster).await?;
    let nodes = cluster.list(gather::NODES).await.map_err(|trouble| gather::needed("nodes", &trouble))?;
    let nodes: NodeMap = nodes.into_iter().filter_map(|node| LeanNode::deserialize(node).ok()).map(view).collect();
    if let Some(name) = &args.name {
        return living(cluster, args, name, &nodes, &profiles).await;
    }
    let file = args.file.as_ref().ok_or_else(|| Ended::usage("give a pod's name, or -f"))?;
    let mut found = Vec::new();
    for (name, pod) in read_pods(file).map_err(|error| Ended::usage(format!("{error:#}")))? {
        let own = pod["metadata"]["namespace"].as_str().map(str::to_owned);
        let place = args.namespace.clone().or(own).unwrap_or_else(|| cluster.namespace.clone());
        let namespace = namespace(cluster, &place).await;
        found.push(decided(name, pod, &namespace, &nodes, &profiles)?);
        scope(cluster, &namespace);
    }
    print(&found, args.output)?;
    Ok(cluster.end(found.iter().any(|one| one.outcome.deny.is_some())))
}

/// The webhook is called only for namespaces in scope: elsewhere the decision is made by nobody.
fn scope(cluster: &Cluster, namespace: &Namespace) {
    let inject = namespace.labels.get(policies::names::label::INJECT).map(String::as_str);
    if inject != Some("enabled") && cluster.missing().is_empty() {
        out::say(&format!(
            "note: namespace {} does not carry railbind.dev/inject=enabled, so its pods are not patched",
            namespace.name
        ));
    }
}

async fn namespace(cluster: &Cluster, name: &str) -> Namespace {
    let found = match cluster.get("/api/v1/namespaces", name).await {
        Ok(found) => found,
        Err(trouble) => {
            cluster.miss(trouble.exit(), format!("namespace {name}: {}; decided without its labels", trouble.text()));
            Value::Null
        }
    };
    Namespace {
        name: name.into(),
        labels: raw::strings(&found["metadata"]["labels"]),
        annotations: raw::strings(&found["metadata"]["annotations"]),
    }
}

/// A pod, and what was decided about it.
struct Explained {
    name: String,
    pod: Value,
    outcome: Outcome,
}

fn decided(name: String, pod: Value, namespace: &Namespace, nodes: &NodeMap, profiles: &Profiles) -> Result<Explained> {
    let context = Context {
        namespace_labels: &namespace.labels,
        namespace_annotations: &namespace.annotations,
        nodes,
        profiles,
        namespace: &namespace.name,
        workers: None,
        bounds: None,
        decision: None,
    };
    let outcome = mutate::pod(&pod, &context).map_err(|error| Ended::usage(format!("{name}: {error}")))?;
    Ok(Explained { name, pod, outcome })
}

fn print(found: &[Explained], output: Output) -> Result<()> {
    let all: Vec<Value> = found.iter().map(|one| machine(&one.outcome)).collect();
    let value = if let [one] = all.as_slice() { one.clone() } else { Value::Array(all) };
    let reference = Reference::guide().map_err(|error| Ended::new(Exit::Failed, error))?;
    out::answer(output, &value, || {
        found
            .iter()
            .map(|one| {
                // The operations are shown as a diff; what is said of them comes first.
                let said = people(
                    &one.name,
                    &Outcome { patch: json_patch::Patch::default(), ..one.outcome.clone() },
                    &reference,
                );
                out::clean(&said) + "\n" + &diff(&one.pod, &patched(&one.pod, &one.outcome))
            })
            .collect()
    })
}

fn patched(pod: &Value, outcome: &Outcome) -> Value {
    let mut after = pod.clone();
    // A patch that does not apply is never sent either.
    match json_patch::patch(&mut after, &outcome.patch) {
        Ok(()) => after,
        Err(_) => pod.clone(),
    }
}

/// A unified diff of what people write of a pod.
fn diff(before: &Value, after: &Value) -> String {
    let text = |pod: &Value| serde_saphyr::to_string(&written(pod)).unwrap_or_default();
    let (before, after) = (text(before), text(after));
    if before == after {
        return "  (nothing changes)\n".into();
    }
    let diff = similar::TextDiff::from_lines(&before, &after);
    let mut shown = String::new();
    for line in out::clean(&diff.unified_diff().context_radius(2).to_string()).lines() {
        let style = match line.as_bytes().first() {
            Some(b'+') => Some(out::GOOD),
            Some(b'-') => Some(out::BAD),
            Some(b'@') => Some(out::DIM),
            _ => None,
        };
        shown += &style.map_or_else(|| line.to_owned(), |style| out::paint(style, line));
        shown.push('\n');
    }
    shown
}

/// Labels, annotations and spec.
fn written(pod: &Value) -> Value {
    let mut metadata = Map::new();
    for key in ["labels", "annotations"] {
        if let Some(map) = pod["metadata"][key].as_object() {
            let mut map = map.clone();
            map.remove("kubectl.kubernetes.io/last-applied-configuration");
            metadata.insert(key.into(), Value::Object(map));
        }
    }
    json!({"metadata": metadata, "spec": pod["spec"]})
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Living {
    managed: bool,
    decision: Option<String>,
    profile: Option<String>,
    reasons: Vec<String>,
    warnings: Vec<String>,
    patch: Value,
    original: &'static str,
    node: Option<String>,
    values: BTreeMap<String, String>,
}

/// A living pod: its own record of the decision, and the difference to what its owner wrote.
async fn living(
    cluster: &Cluster,
    args: &ExplainArgs,
    name: &str,
    nodes: &NodeMap,
    profiles: &Profiles,
) -> Result<Exit> {
    let place = args.namespace.clone().unwrap_or_else(|| cluster.namespace.clone());
    let pod = cluster.get(&format!("/api/v1/namespaces/{place}/pods"), name).await;
    let pod = pod.map_err(|trouble| gather::needed(&format!("pod {place}/{name}"), &trouble))?;
    let annotations = raw::strings(&pod["metadata"]["annotations"]);
    let namespace = namespace(cluster, &place).await;
    let decision: Option<Value> =
        annotations.get(annotation::DECISION).and_then(|text| serde_json::from_str(text).ok());
    let (original, source) = original(cluster, &pod, &place).await;
    // Asked again with the profile that was chosen then, so that today's nodes change nothing.
    let mut asked = original.clone();
    if let Some(decision) = annotations.get(annotation::DECISION).filter(|_| decision.is_some()) {
        annotate(&mut asked, annotation::DECISION, decision);
    }
    let again = decided(format!("pod {place}/{name}"), asked, &namespace, nodes, profiles)?;
    let mut after = patched(&again.pod, &again.outcome);
    let values: BTreeMap<String, String> = annotations
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(annotation::ENV_PREFIX)?.to_owned(), value.clone())))
        .collect();
    for (key, value) in annotations.iter().filter(|(key, _)| key.starts_with(annotation::ENV_PREFIX)) {
        annotate(&mut after, key, value);
    }
    let texts = |key: &str| -> Vec<String> {
        let list = decision.as_ref().and_then(|decision| decision[key].as_array()).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let told = Living {
        managed: decision.is_some(),
        decision: decision.as_ref().and_then(|decision| decision["id"].as_str()).map(str::to_owned),
        profile: decision.as_ref().and_then(|decision| decision["profile"].as_str()).map(str::to_owned),
        reasons: texts("reasons"),
        warnings: again.outcome.warnings.clone(),
        patch: json!(again.outcome.patch),
        original: source,
        node: pod["spec"]["nodeName"].as_str().map(str::to_owned),
        values,
    };
    out::answer(args.output, &told, || {
        let mut text = format!("pod {place}/{name}: ");
        if !told.managed {
            let why = again.outcome.reasons.join("; ");
            let _ = writeln!(text, "Railbind decided nothing about it (no annotation {})", annotation::DECISION);
            let _ = writeln!(text, "  {}", out::clean(&why));
            if again.outcome.managed {
                text += "\nMade again in a namespace that Railbind serves, it would get:\n\n";
                text += &diff(&original, &after);
            }
            return text;
        }
        let _ = write!(text, "profile {}", told.profile.as_deref().unwrap_or("none"));
        let _ = match &told.decision {
            Some(id) => writeln!(text, ", decision {}", out::clean(id)),
            None => writeln!(text),
        };
        for reason in &told.reasons {
            let _ = writeln!(text, "  - {}", out::clean(reason));
        }
        for warning in &told.warnings {
            let _ = writeln!(text, "  ! {}", out::clean(warning));
        }
        if let Some(node) = told.node.as_ref().filter(|_| !told.values.is_empty()) {
            let _ = writeln!(text, "\nGiven when it was bound to {}", out::clean(node));
            for (variable, value) in &told.values {
                let _ = writeln!(text, "  {variable}={}", out::clean(value));
            }
        }
        let _ = writeln!(text, "\nDifference to {source}\n");
        text + &diff(&original, &after)
    })?;
    Ok(cluster.end(false))
}

/// What the pod's owner wrote: its controller's template, what `kubectl apply` keeps, or the pod without what is ours.
async fn original(cluster: &Cluster, pod: &Value, namespace: &str) -> (Value, &'static str) {
    let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let owner = owners.into_iter().find(|owner| owner["controller"] == true);
    if let Some(owner) = owner {
        let path = match owner["kind"].as_str().unwrap_or_default() {
            "ReplicaSet" => Some("/apis/apps/v1/namespaces/{}/replicasets"),
            "StatefulSet" => Some("/apis/apps/v1/namespaces/{}/statefulsets"),
            "DaemonSet" => Some("/apis/apps/v1/namespaces/{}/daemonsets"),
            "Job" => Some("/apis/batch/v1/namespaces/{}/jobs"),
            _ => None,
        };
        if let Some(path) = path {
            let name = owner["name"].as_str().unwrap_or_default();
            match cluster.get(&path.replace("{}", namespace), name).await {
                Ok(found) => return (found["spec"]["template"].clone(), "its controller's template"),
                Err(Trouble::NotFound(_)) => {}
                Err(trouble) => {
                    cluster.miss(trouble.exit(), format!("the pod's controller {name}: {}", trouble.text()));
                }
            }
        }
    }
    let applied = pod["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str();
    if let Some(applied) = applied.and_then(|text| serde_json::from_str::<Value>(text).ok()) {
        return (applied, "what was applied");
    }
    (without_ours(pod), "the pod without what carries our marks")
}

/// The pod without what only Railbind writes.
fn without_ours(pod: &Value) -> Value {
    let mut pod = pod.clone();
    let late = |entry: &Value| {
        let path = entry["valueFrom"]["fieldRef"]["fieldPath"].as_str().unwrap_or_default();
        path.starts_with(&format!("metadata.annotations['{}", annotation::ENV_PREFIX))
    };
    if let Some(Value::Object(annotations)) = pod.pointer_mut("/metadata/annotations") {
        annotations.retain(|key, _| key != annotation::DECISION && !key.starts_with(annotation::ENV_PREFIX));
    }
    let ours = |entry: &Value| entry["name"] == "railbind-shm";
    retain(pod.pointer_mut("/spec/volumes"), |volume| !ours(volume));
    for list in ["containers", "initContainers"] {
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            retain(container.get_mut("env"), |entry| {
                !late(entry) && !entry["name"].as_str().is_some_and(|name| name.starts_with("UCX_"))
            });
            retain(container.get_mut("volumeMounts"), |mount| !ours(mount));
            retain(container.pointer_mut("/securityContext/capabilities/add"), |name| name != k8s::IPC_LOCK);
        }
    }
    pod
}

/// Takes entries out of a list, where it is one.
fn retain(list: Option<&mut Value>, keep: impl Fn(&Value) -> bool) {
    if let Some(items) = list.and_then(Value::as_array_mut) {
        items.retain(|item| keep(item));
    }
}

/// Sets an annotation of a pod that may have none.
fn annotate(pod: &mut Value, key: &str, value: &str) {
    let Some(pod) = pod.as_object_mut() else { return };
    let metadata = pod.entry("metadata").or_insert_with(|| json!({}));
    let Some(metadata) = metadata.as_object_mut() else { return };
    if let Value::Object(annotations) = metadata.entry("annotations").or_insert_with(|| json!({})) {
        annotations.insert(key.into(), json!(value));
    }
}
