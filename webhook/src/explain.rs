//! `railbind-webhook explain`: what a pod would get, and why, from files alone.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{self, Read as _, Write as _},
    path::Path,
    slice,
};

use anyhow::{Context as _, bail};
use policies::{
    node_map::NodeMap,
    profile::{Profiles, TransportProfile},
    reference::Reference,
};
use serde_json::{Value, json};

use crate::{
    args::{ExplainArgs, Output},
    lean::LeanNode,
    mutate::{self, Outcome},
    nodes,
};

/// Prints what each pod of a file would get.
///
/// # Errors
/// A file that cannot be read or holds no pod; the text says which and what to give.
pub fn run(args: &ExplainArgs) -> anyhow::Result<()> {
    let shipped = Profiles::embedded()?;
    let profiles = match &args.profiles {
        Some(file) => shipped.overridden_by(read_profiles(file)?),
        None => shipped,
    };
    let nodes = match &args.nodes {
        Some(file) => read_nodes(file)?,
        None => NodeMap::default(),
    };
    let mut found = Vec::new();
    for (name, pod) in read_pods(&args.file)? {
        let none = BTreeMap::new();
        let context = mutate::Context {
            namespace_labels: &none,
            namespace_annotations: &none,
            nodes: &nodes,
            profiles: &profiles,
            namespace: "",
            workers: None,
            bounds: None,
            decision: None,
        };
        let outcome = mutate::pod(&pod, &context).with_context(|| format!("{}: {name}", args.file.display()))?;
        found.push((name, outcome));
    }
    let text = match args.output {
        Output::Json => {
            let all: Vec<Value> = found.iter().map(|(_, outcome)| machine(outcome)).collect();
            let value = if let [one] = all.as_slice() { one.clone() } else { Value::Array(all) };
            serde_json::to_string_pretty(&value)? + "\n"
        }
        Output::Text => {
            let reference = Reference::guide().map_err(anyhow::Error::msg)?;
            found.iter().map(|(name, outcome)| people(name, outcome, &reference)).collect()
        }
    };
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("writing to standard output"),
    }
}

/// The machine-readable form of a decision.
pub fn machine(outcome: &Outcome) -> Value {
    let mut decision = json!({
        "managed": outcome.managed,
        "profile": outcome.profile,
        "patch": outcome.patch,
        "reasons": outcome.reasons,
        "warnings": outcome.warnings,
    });
    if let Some(why) = &outcome.deny {
        decision["denied"] = json!(why);
    }
    decision
}

/// The form of a decision for people.
pub fn people(name: &str, outcome: &Outcome, reference: &Reference) -> String {
    let mut text = format!("{name}: ");
    let _ = match (&outcome.profile, outcome.managed) {
        (Some(profile), _) => writeln!(text, "profile {profile}"),
        (None, true) => writeln!(text, "a worker, left as it is"),
        (None, false) => writeln!(text, "not ours, left as it is"),
    };
    if let Some(why) = &outcome.deny {
        let _ = writeln!(text, "  refused: {why}");
    }
    for warning in &outcome.warnings {
        let _ = writeln!(text, "  ! {warning}");
    }
    for reason in &outcome.reasons {
        let _ = writeln!(text, "  - {reason}");
    }
    for operation in outcome.patch.iter() {
        let operation = json!(operation);
        let path = operation["path"].as_str().unwrap_or_default();
        // A list that the pod did not have is made at once; people read it by element.
        let (path, added) = match &operation["value"] {
            Value::Array(elements) => (format!("{path}/-"), elements.as_slice()),
            one => (path.to_owned(), slice::from_ref(one)),
        };
        for value in added {
            let _ = writeln!(text, "  + {path}  {value}");
            if let (Some(name), Some(value)) = (value["name"].as_str(), value["value"].as_str()) {
                for meaning in reference.explain(name, value) {
                    let _ = writeln!(text, "      {meaning}");
                }
            }
        }
    }
    text
}

/// Nodes of a file, as `kubectl get nodes -o yaml` prints them.
///
/// # Errors
/// A file that cannot be read, or holds something else.
pub fn read_nodes(file: &Path) -> anyhow::Result<NodeMap> {
    let mut found = Vec::new();
    for object in objects(file)? {
        let kind = object["kind"].as_str().unwrap_or("Node");
        if kind != "Node" {
            bail!("{}: a {kind}, not a Node", file.display());
        }
        let node: LeanNode =
            serde_json::from_value(object).with_context(|| format!("{}: not a Node", file.display()))?;
        found.push(nodes::view(node));
    }
    Ok(found.into_iter().collect())
}

/// Profiles of a file, as `kubectl get transportprofiles -o yaml` prints them.
fn read_profiles(file: &Path) -> anyhow::Result<Vec<TransportProfile>> {
    let objects = objects(file)?;
    let read = objects.iter().map(TransportProfile::of_object).collect::<Result<_, _>>();
    read.with_context(|| file.display().to_string())
}

/// Pods of a file: bare ones, and the pods that a workload would make.
///
/// # Errors
/// A file that cannot be read, or holds no pod.
pub fn read_pods(file: &Path) -> anyhow::Result<Vec<(String, Value)>> {
    let mut found = Vec::new();
    for object in objects(file)? {
        let kind = object["kind"].as_str().unwrap_or("Pod").to_owned();
        let name = format!("{kind}/{}", object["metadata"]["name"].as_str().unwrap_or("?"));
        let template =
            ["/spec/template", "/spec/jobTemplate/spec/template", "/spec/leaderWorkerTemplate/workerTemplate"]
                .iter()
                .find_map(|pointer| object.pointer(pointer));
        match template {
            Some(template) => found.push((name, template.clone())),
            None if object["spec"]["containers"].is_array() => found.push((name, object)),
            None => {}
        }
    }
    if found.is_empty() {
        bail!("{}: no Pod and no workload with a pod template in it", file.display());
    }
    Ok(found)
}

/// Objects of a YAML or JSON file: one, several documents, or a List.
fn objects(file: &Path) -> anyhow::Result<Vec<Value>> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("reading standard input")?;
        text
    } else {
        fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?
    };
    // `kubectl get nodes -o json` of a large cluster is beyond what the YAML reader takes.
    let documents: Vec<Value> = match serde_json::from_str(&text) {
        Ok(document) => vec![document],
        Err(_) => serde_saphyr::from_multiple(&text)
            .with_context(|| format!("{}: not YAML or JSON, or too large for YAML: try `-o json`", file.display()))?,
    };
    let lists = documents.into_iter().filter(|document| !document.is_null());
    Ok(lists
        .flat_map(|document| match document["items"].as_array() {
            Some(items) => items.clone(),
            None => vec![document],
        })
        .collect())
}
