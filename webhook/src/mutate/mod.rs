//! The mutation of one pod: a typed view decides, the raw object is patched. Pure: object and context in, patch and reasons out.

use std::collections::BTreeMap;

use json_patch::Patch;
use policies::{
    names::{annotation, label},
    node_map::NodeMap,
    plan::{self, Plan},
    profile::Profiles,
};
use serde_json::{Value, json};

mod affinity;
mod builder;
mod env;
mod memory;
mod read;
mod resources;
mod security;

use builder::Builder;
pub(crate) use read::{Reading, read};

use crate::{
    bounds::Bounds,
    workers::{self, Workers},
};

/// What a decision needs beside the pod.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Labels of the pod's namespace; empty where they are not known.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// Annotations of the pod's namespace; empty where they are not known.
    pub namespace_annotations: &'a BTreeMap<String, String>,
    /// Every node of the cluster.
    pub nodes: &'a NodeMap,
    /// The profiles in force.
    pub profiles: &'a Profiles,
    /// The namespace's name; empty where it is not known.
    pub namespace: &'a str,
    /// The workers that are there, if they are known.
    pub workers: Option<&'a Workers>,
    /// The namespace's quotas and limits, if they are known.
    pub bounds: Option<&'a Bounds>,
    /// What a decision made now is to be called ([`decision_id`]); `None` where it is not to be told from others.
    pub decision: Option<&'a str>,
}

/// What was decided.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Whether the pod is ours at all.
    pub managed: bool,
    /// What the decision in force is called: this one, or an earlier pass's over the same pod.
    pub decision: Option<String>,
    /// Profile chosen.
    pub profile: Option<String>,
    /// Operations; empty means no patch.
    pub patch: Patch,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
    /// What a person should act on.
    pub warnings: Vec<String>,
    /// Why the pod is refused: only where its owner or its namespace asked for that.
    pub deny: Option<String>,
}

/// A pod that cannot be patched, because part of it is not what the API would accept.
#[derive(Debug, thiserror::Error)]
#[error("{path}: expected {expected}; the pod is left alone")]
pub struct Malformed {
    /// JSON pointer.
    pub path: String,
    /// What should be there.
    pub expected: &'static str,
}

/// Decides what `pod` gets.
///
/// Applying the outcome's patch and asking again gives an empty patch.
///
/// # Errors
/// A part of the pod that must be an object or a list is not.
pub fn pod(pod: &Value, context: &Context<'_>) -> Result<Outcome, Malformed> {
    let Reading { mut intent, targets, why } = match read(pod, context)? {
        Ok(reading) => reading,
        Err(why) => return Ok(Outcome { reasons: vec![why], ..Outcome::default() }),
    };
    let id = earlier(pod).or_else(|| context.decision.map(str::to_owned));
    let mut outcome = Outcome { managed: true, decision: id, reasons: vec![why], ..Outcome::default() };
    if targets.is_empty() {
        outcome.warnings.push(format!(
            "railbind: no container requests a GPU; name those that take part in the annotation {}",
            annotation::CONTAINERS
        ));
        return Ok(outcome);
    }
    if let (Some(workers), Some(group)) = (context.workers, &intent.group) {
        intent.siblings = workers::siblings(workers, context.namespace, group, &intent);
    }
    let plan = plan::plan(context.profiles, context.nodes, &intent);
    outcome.profile.clone_from(&plan.profile);
    outcome.reasons.extend(plan.reasons.iter().cloned());
    outcome.warnings.extend(plan.warnings.iter().cloned());
    outcome.deny.clone_from(&plan.deny);
    if outcome.deny.is_some() {
        return Ok(outcome);
    }
    if plan.profile.is_none() {
        return Ok(outcome);
    }
    let preset = intent
        .node_name
        .as_ref()
        .and_then(|name| context.nodes.get(name))
        .map(|node| plan::bind_values(context.profiles, &node.kind))
        .unwrap_or_default();

    let mut builder = Builder::new(pod);
    // Defaults before the variables that refer to them: a reference to a missing annotation is an empty variable, not an unset one.
    env::annotations(&mut builder, &plan, &preset)?;
    for target in &targets {
        env::variables(&mut builder, target, &plan)?;
        security::capabilities(&mut builder, target, &plan)?;
        if let Some((name, count)) = plan.resources.get(&target.name) {
            resources::extended(&mut builder, target, name, *count)?;
        }
    }
    if let Some(size) = &plan.shared_memory {
        memory::shared(&mut builder, &targets, size)?;
    }
    affinity::pin(&mut builder, &plan)?;
    affinity::company(&mut builder, &plan)?;
    decision(&mut builder, &plan, &outcome)?;
    outcome.patch = builder.finish();
    Ok(outcome)
}

/// A container of the pod, by place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    /// `containers` or `initContainers`.
    list: &'static str,
    /// Index in that list.
    index: usize,
    /// Name.
    name: String,
}

impl Target {
    /// JSON pointer of `path` in the container.
    fn at(&self, path: &str) -> String {
        format!("/spec/{}/{}{path}", self.list, self.index)
    }
}

/// What was decided and why, on the pod itself. Written once: a later pass finds it and keeps to it.
fn decision(builder: &mut Builder, plan: &Plan, outcome: &Outcome) -> Result<(), Malformed> {
    if builder.annotation(annotation::DECISION).is_some() {
        return Ok(());
    }
    let mut decision = json!({ "profile": plan.profile, "reasons": outcome.reasons });
    if let Some(id) = &outcome.decision {
        decision["id"] = json!(id);
    }
    builder.set_annotation(annotation::DECISION, &decision.to_string())
}

/// The profile that an earlier pass wrote down for this pod.
fn decided(annotations: &BTreeMap<String, String>) -> Option<String> {
    let decision: Value = serde_json::from_str(annotations.get(annotation::DECISION)?).ok()?;
    decision.get("profile")?.as_str().map(str::to_owned)
}

/// The longest name of a decision.
const MAX_ID: usize = 13;

/// What a decision about the review with this uid is called: the start of the uid, so that the API server's own mentions of the
/// review find it. Of a UUID that is twelve hexadecimal digits: one in a hundred million pods shares it with another.
pub fn decision_id(uid: &str) -> Option<&str> {
    let id = uid.get(..MAX_ID.min(uid.len()))?.trim_end_matches('-');
    is_id(id).then_some(id)
}

fn is_id(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= MAX_ID && text.bytes().all(known)
}

/// What a decision in this annotation is called. The pod's owner could write anything there.
pub(crate) fn id_in(decision: &str) -> Option<String> {
    let decision: Value = serde_json::from_str(decision).ok()?;
    decision.get("id")?.as_str().filter(|id| is_id(id)).map(str::to_owned)
}

/// What an earlier pass over this pod called its decision.
fn earlier(pod: &Value) -> Option<String> {
    id_in(pod.get("metadata")?.get("annotations")?.get(annotation::DECISION)?.as_str()?)
}

/// Whether a label says `enabled` or `disabled`.
fn inject(labels: &BTreeMap<String, String>) -> Option<bool> {
    match labels.get(label::INJECT)?.as_str() {
        "enabled" => Some(true),
        "disabled" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{decision_id, id_in};

    #[test]
    fn a_decision_is_called_by_the_start_of_its_reviews_uid() {
        assert_eq!(decision_id("1b4e28ba-2fa1-11d2-883f-0016d3cca427"), Some("1b4e28ba-2fa1"));
        assert_eq!(decision_id("u-1"), Some("u-1"));
        for odd in ["", "-", "A", "a b", "\n", "é", "123456789012é"] {
            assert_eq!(decision_id(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn what_a_pods_owner_wrote_there_goes_no_further() {
        assert_eq!(id_in(r#"{"id":"1b4e28ba-2fa1","profile":"tcp"}"#).as_deref(), Some("1b4e28ba-2fa1"));
        for odd in ["", "{}", r#"{"id":1}"#, r#"{"id":"a\nb"}"#, r#"{"id":"12345678901234"}"#, r#"{"id":"<b>"}"#] {
            assert_eq!(id_in(odd), None, "{odd}");
        }
    }
}
