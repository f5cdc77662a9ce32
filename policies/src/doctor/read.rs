//! A pod of the API as a scene.

use std::collections::BTreeMap;

use serde_json::Value;

use super::scene::{ContainerScene, EnvScene, PodScene};
use crate::{
    fabric::Fact,
    names::annotation,
    raw::{extended, gpus, has_shm, non_root, strings},
    workers,
};

impl PodScene {
    /// Reads a pod. Nothing in it is trusted to be there, or to be what it should.
    pub fn read(pod: &Value) -> Self {
        let (metadata, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let annotations = strings(&metadata["annotations"]);
        let labels = strings(&metadata["labels"]);
        let named: Vec<&str> = annotations
            .get(annotation::CONTAINERS)
            .map(|list| list.split(',').map(str::trim).collect())
            .unwrap_or_default();
        let sidecars = list(&spec["initContainers"]).filter(|raw| raw["restartPolicy"] == "Always");
        let containers: Vec<ContainerScene> = sidecars
            .chain(list(&spec["containers"]))
            .filter(|raw| {
                let claims = raw["resources"]["claims"].as_array().is_some_and(|claims| !claims.is_empty());
                gpus(&extended(raw)) > 0 || claims || raw["name"].as_str().is_some_and(|name| named.contains(&name))
            })
            .map(|raw| container(raw, spec, status, &annotations))
            .collect();
        let conditions = list(&status["conditions"]);
        let unscheduled = conditions
            .filter(|condition| condition["type"] == "PodScheduled" && condition["status"] == "False")
            .map(|condition| text(&condition["message"]))
            .next();
        let worker = if containers.is_empty() { None } else { worker(&labels, &containers) };
        Self {
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
            node: spec["nodeName"].as_str().map(str::to_owned),
            phase: text(&status["phase"]),
            unscheduled,
            namespace_labels: Fact::Unknown("not asked".into()),
            worker,
            claims: spec["resourceClaims"].as_array().is_some_and(|claims| !claims.is_empty()),
            host_devices: list(&spec["volumes"])
                .any(|volume| volume["hostPath"]["path"].as_str().is_some_and(|path| path.starts_with("/dev"))),
            labels,
            annotations,
            containers,
        }
    }
}

fn worker(labels: &BTreeMap<String, String>, containers: &[ContainerScene]) -> Option<String> {
    if labels.get(crate::names::label::INJECT).is_some_and(|value| value == "enabled") {
        return Some("its own label asks for Railbind".into());
    }
    let words = containers.iter().map(|container| container.words.iter().map(String::as_str).collect::<Vec<_>>());
    let resources = containers.iter().flat_map(|container| container.resources.keys());
    workers::recognise(labels, words, resources)
}

fn container(raw: &Value, spec: &Value, status: &Value, annotations: &BTreeMap<String, String>) -> ContainerScene {
    let name = raw["name"].as_str().unwrap_or_default();
    let security = &raw["securityContext"];
    let statuses = ["containerStatuses", "initContainerStatuses"];
    let mine = statuses.iter().flat_map(|key| list(&status[*key])).find(|status| status["name"] == name);
    let resources = extended(raw);
    ContainerScene {
        name: name.into(),
        gpus: gpus(&resources),
        env: list(&raw["env"]).filter_map(|entry| variable(entry, annotations)).collect(),
        resources,
        capabilities: list(&security["capabilities"]["add"])
            .filter_map(Value::as_str)
            .map(|name| name.trim_start_matches("CAP_").to_ascii_uppercase())
            .collect(),
        privileged: security["privileged"] == true,
        non_root: non_root(security).or(non_root(&spec["securityContext"])).unwrap_or(false),
        image: raw["image"].as_str().unwrap_or_default().into(),
        words: ["command", "args"]
            .iter()
            .flat_map(|key| list(&raw[*key]))
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        has_shm: has_shm(raw),
        begun: mine.is_none_or(begun),
        restarts: mine.and_then(|mine| mine["restartCount"].as_u64()).unwrap_or(0),
        trouble: mine.and_then(trouble),
        logs: Fact::Unknown("not asked".into()),
    }
}

/// Whether it runs, or ran.
fn begun(status: &Value) -> bool {
    let ran = ["state", "lastState"].iter().any(|key| status[*key]["terminated"].is_object());
    ran || !status["state"]["waiting"].is_object() || status["restartCount"].as_u64().unwrap_or(0) > 0
}

/// Why it does not run, or how it ended last.
fn trouble(status: &Value) -> Option<String> {
    let waiting = &status["state"]["waiting"];
    if let Some(reason) =
        waiting["reason"].as_str().filter(|reason| *reason != "ContainerCreating" && *reason != "PodInitializing")
    {
        let message: String = waiting["message"].as_str().unwrap_or_default().chars().take(200).collect();
        return Some(format!("{reason} {message}").trim_end().to_owned());
    }
    let ended = ["state", "lastState"].iter().map(|key| &status[*key]["terminated"]).find(|ended| ended.is_object())?;
    let code = ended["exitCode"].as_i64().filter(|code| *code != 0)?;
    Some(format!("exited with {code} ({})", ended["reason"].as_str().unwrap_or("no reason")))
}

fn variable(entry: &Value, annotations: &BTreeMap<String, String>) -> Option<(String, EnvScene)> {
    let name = entry["name"].as_str()?.to_owned();
    let from = &entry["valueFrom"];
    if from.is_null() {
        return Some((name, EnvScene::Value(entry["value"].as_str().unwrap_or_default().into())));
    }
    let path = from["fieldRef"]["fieldPath"].as_str().unwrap_or_default();
    let key = path.strip_prefix("metadata.annotations['").and_then(|rest| rest.strip_suffix("']"));
    let value = match key {
        Some(key) => EnvScene::Late { annotation: key.into(), value: annotations.get(key).cloned() },
        None => EnvScene::Elsewhere,
    };
    Some((name, value))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
