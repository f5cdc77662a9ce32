//! Reading a pod: is it a worker, which of its containers take part, and what do they want.

use std::collections::{BTreeMap, BTreeSet};

use policies::{
    intent::{ContainerIntent, Placement, PodIntent},
    lint::Conflicts,
    names::annotation,
    quantity,
    raw::{self, extended, non_root, strings},
    room::Charged,
    workers,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Context, Malformed, Target};

/// A worker, read.
pub(crate) struct Reading {
    pub(crate) intent: PodIntent,
    pub(super) targets: Vec<Target>,
    pub(super) why: String,
}

/// The pod as a worker, or the reason why it is none of ours.
pub(crate) fn read(pod: &Value, context: &Context<'_>) -> Result<Result<Reading, String>, Malformed> {
    let labels = strings(&pod["metadata"]["labels"]);
    let annotations = strings(&pod["metadata"]["annotations"]);
    if annotations.contains_key(annotation::MIRROR) {
        return Ok(Err("mirror pod: only its kubelet may change it".into()));
    }
    let containers = containers(pod)?;
    let why = match worker(&labels, context, &containers) {
        Ok(why) => why,
        Err(why) => return Ok(Err(why)),
    };
    let named: BTreeSet<&str> = annotations
        .get(annotation::CONTAINERS)
        .map_or_else(BTreeSet::new, |list| list.split(',').map(str::trim).collect());
    let taking_part: Vec<&Container<'_>> =
        containers.iter().filter(|container| container.takes_part() || named.contains(container.name)).collect();
    let asked = |key| annotations.get(key).or_else(|| context.namespace_annotations.get(key)).map(String::as_str);
    let spec = &pod["spec"];
    let pod_non_root = non_root(&spec["securityContext"]);
    let intent = PodIntent {
        engine: taking_part.iter().find_map(|container| workers::engine(&labels, container.image, &container.words)),
        containers: taking_part
            .iter()
            .map(|container| ContainerIntent {
                name: container.name.into(),
                gpus: if container.by_claim() { 1 } else { container.gpus() },
                by_claim: container.by_claim(),
                env: environment(container.raw),
                resources: container.resources.clone(),
                non_root: non_root(&container.raw["securityContext"]).or(pod_non_root).unwrap_or(false),
                words: container.words.iter().map(|&word| word.to_owned()).collect(),
                memory: memory(container.raw).into_iter().chain(memory(spec)).min(),
            })
            .collect(),
        node_selector: strings(&spec["nodeSelector"]),
        terms: typed(
            &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"],
            "/spec/affinity/nodeAffinity",
        )?,
        tolerations: typed(&spec["tolerations"], "/spec/tolerations")?,
        node_name: spec["nodeName"].as_str().filter(|name| !name.is_empty()).map(str::to_owned),
        placement: match annotations.get(annotation::PLACEMENT).map(String::as_str) {
            Some("preferred") => Placement::Preferred,
            Some("none") => Placement::None,
            _ => Placement::Required,
        },
        profile_set: asked(annotation::PROFILE_SET).map(str::to_owned),
        decided: super::decided(&annotations),
        ucx: annotations.get(annotation::UCX_VERSION).and_then(|version| version.parse().ok()),
        has_shm: taking_part.iter().any(|container| raw::has_shm(container.raw)),
        refuses_ipc_lock: context
            .namespace_labels
            .get("pod-security.kubernetes.io/enforce")
            .filter(|level| matches!(level.as_str(), "baseline" | "restricted"))
            .cloned(),
        opaque_env: taking_part.iter().flat_map(|container| env_from(container.raw)).collect(),
        conflicts: match asked(annotation::CONFLICTS) {
            Some("override") => Conflicts::Override,
            Some("deny") => Conflicts::Deny,
            _ => Conflicts::Warn,
        },
        // A namespace's refusal is not for a pod to lift.
        refuses_tcp: [&annotations, context.namespace_annotations]
            .iter()
            .any(|annotations| annotations.get(annotation::NO_RDMA).is_some_and(|value| value == "deny")),
        group: workers::group(&labels),
        role: workers::role_of(&labels),
        room: context
            .bounds
            .filter(|bounds| !bounds.is_empty())
            .map(|bounds| bounds.room(&charged(spec, &containers)))
            .unwrap_or_default(),
        siblings: Vec::new(),
    };
    let targets = taking_part
        .iter()
        .map(|container| Target { list: container.list, index: container.index, name: container.name.into() })
        .collect();
    Ok(Ok(Reading { intent, targets, why }))
}

/// Why this pod is a worker, or why not: its own label, a role label, arguments, or an RDMA resource, the last three with a GPU.
fn worker(
    labels: &BTreeMap<String, String>,
    context: &Context<'_>,
    containers: &[Container<'_>],
) -> Result<String, String> {
    match super::inject(labels) {
        Some(true) => return Ok("the pod's own label asks for it".into()),
        Some(false) => return Err("the pod's own label says disabled".into()),
        None => {}
    }
    if super::inject(context.namespace_labels) == Some(false) {
        return Err("the namespace's label says disabled".into());
    }
    if !containers.iter().any(Container::takes_part) {
        return Err("no container requests a GPU".into());
    }
    let words = containers.iter().map(|container| &container.words);
    let resources = containers.iter().flat_map(|container| container.resources.keys());
    workers::recognise(labels, words, resources)
        .ok_or_else(|| "a GPU pod without a worker's role label, arguments or RDMA resource".into())
}

struct Container<'a> {
    raw: &'a Value,
    list: &'static str,
    index: usize,
    name: &'a str,
    image: &'a str,
    words: Vec<&'a str>,
    resources: BTreeMap<String, u64>,
}

impl Container<'_> {
    fn gpus(&self) -> u64 {
        raw::gpus(&self.resources)
    }

    /// Requests a GPU, by extended resource or by claim.
    fn takes_part(&self) -> bool {
        self.gpus() > 0 || self.by_claim()
    }

    fn by_claim(&self) -> bool {
        self.gpus() == 0 && self.raw["resources"]["claims"].as_array().is_some_and(|claims| !claims.is_empty())
    }
}

/// Containers that run beside the workload: plain ones, and init containers that are sidecars.
fn containers(pod: &Value) -> Result<Vec<Container<'_>>, Malformed> {
    let mut found = Vec::new();
    for list in ["initContainers", "containers"] {
        let items = match &pod["spec"][list] {
            Value::Null => continue,
            Value::Array(items) => items,
            _ => return Err(Malformed { path: format!("/spec/{list}"), expected: "a list" }),
        };
        for (index, raw) in items.iter().enumerate() {
            if !raw.is_object() {
                return Err(Malformed { path: format!("/spec/{list}/{index}"), expected: "an object" });
            }
            if list == "initContainers" && raw["restartPolicy"] != "Always" {
                continue;
            }
            let words =
                ["command", "args"].iter().filter_map(|key| raw[*key].as_array()).flatten().filter_map(Value::as_str);
            found.push(Container {
                raw,
                list,
                index,
                name: raw["name"].as_str().unwrap_or_default(),
                image: raw["image"].as_str().unwrap_or_default(),
                words: words.collect(),
                resources: extended(raw),
            });
        }
    }
    Ok(found)
}

/// Bytes of memory that a container, or a pod, may have.
fn memory(limited: &Value) -> Option<u64> {
    match &limited["resources"]["limits"]["memory"] {
        Value::String(text) => quantity::floor(text),
        number => number.as_u64(),
    }
}

/// What quotas look at.
fn charged(spec: &Value, side_by_side: &[Container<'_>]) -> Charged {
    let mut requests = BTreeMap::new();
    for (name, count) in side_by_side.iter().flat_map(|container| &container.resources) {
        let sum: &mut u64 = requests.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*count);
    }
    let lists = ["containers", "initContainers"].into_iter().filter_map(|list| spec[list].as_array()).flatten();
    let computes = |part: &Value| {
        let amounts =
            ["requests", "limits"].into_iter().flat_map(|kind| ["cpu", "memory"].map(|name| &part[kind][name]));
        amounts.into_iter().any(|amount| match amount {
            Value::String(text) => !text.trim_matches(|c: char| !matches!(c, '1'..='9')).is_empty(),
            amount => amount.as_f64().is_some_and(|amount| amount > 0.0),
        })
    };
    let affinity = &spec["affinity"];
    let terms = ["podAffinity", "podAntiAffinity"].into_iter().flat_map(|kind| {
        let lists =
            ["requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"];
        lists.into_iter().filter_map(move |list| affinity[kind][list].as_array()).flatten()
    });
    let elsewhere = |term: &Value| {
        term["namespaces"].as_array().is_some_and(|names| !names.is_empty()) || term["namespaceSelector"].is_object()
    };
    Charged {
        terminating: spec["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0),
        best_effort: !lists.chain([spec]).any(|part| computes(&part["resources"])),
        priority_class: spec["priorityClassName"].as_str().filter(|name| !name.is_empty()).map(str::to_owned),
        crosses_namespaces: terms.into_iter().any(|term| elsewhere(term) || elsewhere(&term["podAffinityTerm"])),
        requests,
    }
}

fn environment(container: &Value) -> BTreeMap<String, Option<String>> {
    let entries = container["env"].as_array().into_iter().flatten();
    entries
        .filter_map(|entry| {
            let literal = entry.get("valueFrom").is_none_or(Value::is_null);
            let value = literal.then(|| entry["value"].as_str().unwrap_or_default().to_owned());
            Some((entry["name"].as_str()?.to_owned(), value))
        })
        .collect()
}

fn env_from(container: &Value) -> impl Iterator<Item = String> {
    container["envFrom"].as_array().into_iter().flatten().filter_map(|source| {
        [("configMapRef", "ConfigMap"), ("secretRef", "Secret")]
            .into_iter()
            .find_map(|(key, kind)| source[key]["name"].as_str().map(|name| format!("{kind} {name}")))
    })
}

fn typed<T: for<'de> Deserialize<'de>>(list: &Value, path: &str) -> Result<Vec<T>, Malformed> {
    if list.is_null() {
        return Ok(Vec::new());
    }
    Vec::deserialize(list).map_err(|_| Malformed { path: path.into(), expected: "what the API defines" })
}
