//! Publishing a verdict on the Node: one server-side apply of labels, annotation and condition, and none where nothing changed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use policies::{
    names::{AGENT_MANAGER, CONDITION, DOMAIN, annotation, label},
    rails,
    report::{self, Condition},
    roles::Role,
};
use serde_json::{Value, json};

use crate::survey::Survey;

/// What the Node shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// All our labels.
    pub labels: BTreeMap<String, String>,
    /// All our annotations.
    pub annotations: BTreeMap<String, String>,
    /// Our condition.
    pub condition: Condition,
}

/// What the Node says now, as far as it is ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    /// Labels under our prefix.
    pub labels: BTreeMap<String, String>,
    /// Annotations under our prefix.
    pub annotations: BTreeMap<String, String>,
    /// Our condition and the time of its last transition (RFC 3339).
    pub condition: Option<(Condition, Option<String>)>,
}

impl Current {
    /// Reads it from a Node.
    pub fn of(node: &Node) -> Self {
        let prefix = format!("{DOMAIN}/");
        let ours = |map: &Option<BTreeMap<String, String>>| {
            // Under our prefix, and a person's: who asks for a self-test.
            let ours = |key: &str| key.starts_with(&prefix) && key != annotation::SELFTEST_REQUESTED;
            let entries = map.iter().flatten().filter(|(key, _)| ours(key));
            entries.map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        let condition = conditions.into_iter().flatten().find(|condition| condition.type_ == CONDITION);
        Self {
            labels: ours(&node.metadata.labels),
            annotations: ours(&node.metadata.annotations),
            condition: condition.map(|condition| {
                let plain = Condition {
                    status: condition.status.clone(),
                    reason: condition.reason.clone().unwrap_or_default(),
                    message: condition.message.clone().unwrap_or_default(),
                };
                (plain, condition.last_transition_time.as_ref().map(|time| time.0.to_string()))
            }),
        }
    }
}

/// What a survey makes the Node say. A label whose fact could not be read keeps its current value.
pub fn publication(survey: &Survey, current: &Current) -> Publication {
    let nics = report::nics(&survey.facts, &survey.verdict);
    let rails = rails::find(&survey.facts, &survey.verdict.ports);
    let found = [
        (annotation::NICS, Some(nics).filter(|lines| !lines.is_empty())),
        (annotation::NET_DEVICES, rails.net_devices.value),
        (annotation::ROCE_SUBNETS, rails.roce_subnets.value),
    ];
    let fastest = survey.selftest.as_ref().and_then(|shown| shown.status.fastest_set.clone());
    let fastest = fastest.map(|set| (annotation::FASTEST_SET.to_owned(), set));
    // As for labels: what could not be read in full stays as it is.
    let partial =
        survey.facts.devices.known().is_none() || survey.verdict.ports.iter().any(|port| port.role == Role::Unreadable);
    let annotations = found.into_iter().filter_map(|(key, value)| {
        let kept = || current.annotations.get(key).filter(|_| partial).cloned();
        Some((key.to_owned(), value.or_else(kept)?))
    });
    let mut labels = survey.verdict.labels_on(&current.labels);
    if let Some(shown) = &survey.selftest {
        labels.insert(label::SELFTEST.into(), shown.status.verdict.as_str().into());
    }
    Publication { labels, annotations: annotations.chain(fastest).collect(), condition: survey.condition() }
}

/// Whether the Node already says it.
pub fn is_published(wanted: &Publication, current: &Current) -> bool {
    wanted.labels == current.labels
        && wanted.annotations == current.annotations
        && current.condition.as_ref().is_some_and(|(condition, _)| *condition == wanted.condition)
}

/// The object to apply. `now` is RFC 3339.
pub fn object(name: &str, wanted: &Publication, current: &Current, now: &str) -> Value {
    let kept = current.condition.as_ref().filter(|(condition, _)| condition.status == wanted.condition.status);
    let transition = kept.and_then(|(_, time)| time.clone()).unwrap_or_else(|| now.to_owned());
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": wanted.labels, "annotations": wanted.annotations },
        "status": { "conditions": [{
            "type": CONDITION,
            "status": wanted.condition.status,
            "reason": wanted.condition.reason,
            "message": wanted.condition.message,
            "lastTransitionTime": transition,
            "lastHeartbeatTime": now,
        }] },
    })
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The Node said it already.
    Unchanged,
    /// Written. Carries the condition before and after.
    Written {
        /// Before; `None` where there was none.
        before: Option<Condition>,
        /// After.
        after: Condition,
    },
}

/// Makes the Node, last read as `node`, say what the survey found.
///
/// # Errors
/// The API server's, as they are: the caller retries.
pub async fn publish(nodes: &Api<Node>, name: &str, node: &Node, survey: &Survey, now: &str) -> kube::Result<Outcome> {
    let current = Current::of(node);
    let wanted = publication(survey, &current);
    if is_published(&wanted, &current) {
        return Ok(Outcome::Unchanged);
    }
    // One write of nodes/status carries labels and annotations too, and cannot touch spec.
    let params = PatchParams::apply(AGENT_MANAGER).force();
    nodes.patch_status(name, &params, &Patch::Apply(object(name, &wanted, &current, now))).await?;
    Ok(Outcome::Written { before: current.condition.map(|(condition, _)| condition), after: wanted.condition })
}
