//! One review: from its body to its answer. Whatever goes wrong in here, the object is admitted as it came.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Bytes,
    extract::{FromRequest as _, Request},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use json_patch::Patch;
use tokio::time::timeout_at;

use crate::{
    binding,
    metrics::{Hook, Outcome},
    mutate::{self, Context},
    review::{self, Answer},
    self_apply::{self, AllowList, patch_checked},
    state::State,
    workers,
};

/// What the API server waits where it does not say, and the longest it ever does.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// How far our watch of namespaces may be behind the API server's before a pod is admitted as it is.
const PATIENCE: Duration = Duration::from_millis(250);

/// Answers a review.
pub async fn review(state: Arc<State>, hook: Hook, request: Request) -> Response {
    let started = Instant::now();
    let (response, outcome) = answer(&state, hook, request, started).await;
    state.metrics.answered(hook, outcome, started.elapsed());
    response
}

async fn answer(state: &State, hook: Hook, request: Request, started: Instant) -> (Response, Outcome) {
    let deadline = started + time_limit(request.uri().query().unwrap_or_default());
    let body = match timeout_at(deadline.into(), Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => body,
        Ok(Err(rejection)) => {
            let too_large = rejection.status() == StatusCode::PAYLOAD_TOO_LARGE;
            let outcome = if too_large { Outcome::TooLarge } else { Outcome::Malformed };
            return (rejection.into_response(), outcome);
        }
        Err(_) => return (refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"), Outcome::TimedOut),
    };
    let request = match review::decode(&body) {
        Ok(request) => request,
        Err(error) => {
            tracing::warn!(hook = hook.as_str(), %error, "malformed review");
            return (refuse(StatusCode::BAD_REQUEST, &error.to_string()), Outcome::Malformed);
        }
    };
    let (answer, outcome) = match hook {
        Hook::Pods => pod(state, &request, deadline).await,
        Hook::Bindings => bind(state, &request),
    };
    match answer.to_json() {
        Ok(json) => (([(CONTENT_TYPE, "application/json")], json).into_response(), outcome),
        Err(error) => (refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()), outcome),
    }
}

/// A plain text error: the API server shows it, and goes by `failurePolicy`.
fn refuse(status: StatusCode, why: &str) -> Response {
    // It can quote the request, which is up to 8 MiB.
    (status, format!("railbind-webhook: {}\n", review::cut(why, review::MAX_REFUSAL))).into_response()
}

async fn pod(state: &State, request: &review::Request, deadline: Instant) -> (Answer, Outcome) {
    let answer = Answer::allow(&request.uid);
    if !is_creation(request, "Pod", &[("pods", "")]) {
        return (answer, Outcome::Skipped);
    }
    let name = request.namespace.as_deref().unwrap_or_default();
    let Some(nodes) = state.nodes.snapshot() else {
        return not_ready(answer, "the cluster's nodes are not known yet");
    };
    // An answer that comes too late is none.
    let patience = PATIENCE.min(deadline.saturating_duration_since(Instant::now()));
    let Some(namespace) = state.namespaces.find(name, patience).await else {
        return not_ready(answer, "its namespace is not known yet");
    };
    let workers = state.workers.snapshot();
    let profiles = state.profiles.current();
    let bounds = state.bounds.of(name);
    guarded(Hook::Pods, request, || {
        let context = Context {
            namespace_labels: &namespace.labels,
            namespace_annotations: &namespace.annotations,
            nodes: nodes.index(),
            profiles: &profiles,
            namespace: name,
            workers: workers.as_deref(),
            bounds: Some(&bounds),
            decision: mutate::decision_id(&request.uid),
        };
        match (state.mutate)(&request.object, &context) {
            Ok(decided) => pod_answer(answer, request, decided),
            Err(odd) => {
                tracing::warn!(namespace = request.namespace, uid = request.uid, %odd, "pod");
                (answer.warn(&format!("railbind: {odd}")), Outcome::Odd)
            }
        }
    })
}

fn pod_answer(answer: Answer, request: &review::Request, decided: mutate::Outcome) -> (Answer, Outcome) {
    let mutate::Outcome { patch, warnings, reasons, managed, decision, profile, deny } = decided;
    let (decision, profile) = (decision.unwrap_or_default(), profile.unwrap_or_default());
    let answer = answer.audit("decision", &decision).audit("profile", &profile).audit("reasons", &reasons.join("; "));
    let (answer, mut outcome) = match deny {
        Some(why) => (answer.audit("denied", &why).deny(&why), Outcome::Denied),
        None => checked(answer, Hook::Pods, request, patch, self_apply::POD),
    };
    // What is said about the change comes after what is said about its failing: there is room for three.
    let answer = warnings.iter().fold(answer, |answer, text| answer.warn(text));
    if !managed && outcome == Outcome::Unchanged {
        outcome = Outcome::Skipped;
    }
    if outcome == Outcome::Skipped {
        tracing::debug!(uid = request.uid, "not a worker");
    } else {
        tracing::info!(
            namespace = request.namespace,
            pod = pod_name(request),
            uid = request.uid,
            decision,
            dry_run = request.dry_run.unwrap_or_default(),
            outcome = outcome.as_str(),
            profile,
            ?warnings,
            "pod"
        );
    }
    (answer, outcome)
}

/// Its name, or what its name will start with.
fn pod_name(request: &review::Request) -> Option<&str> {
    let metadata = |field: &str| request.object.get("metadata").and_then(|metadata| metadata.get(field)?.as_str());
    request
        .name
        .as_deref()
        .filter(|name| !name.is_empty())
        .or_else(|| metadata("name"))
        .or_else(|| metadata("generateName"))
}

/// Nothing is said on this way: the scheduler, not a person, would hear it.
fn bind(state: &State, request: &review::Request) -> (Answer, Outcome) {
    let answer = Answer::allow(&request.uid);
    let ours = is_creation(request, "Binding", &[("pods", "binding"), ("bindings", "")]);
    // Called while nobody knows which engine is in use, as by an earlier registration: both write the same.
    let here = state.binding.borrow().is_none_or(|choice| choice.hook);
    let (true, true, Some(node)) = (ours, here, binding::target(&request.object)) else {
        return (answer, Outcome::Skipped);
    };
    let Some(nodes) = state.nodes.snapshot() else {
        return (answer, Outcome::NotReady);
    };
    let Some(node) = nodes.get(node) else {
        tracing::debug!(node, uid = request.uid, "binding to a node that is not known");
        return (answer, Outcome::Skipped);
    };
    guarded(Hook::Bindings, request, || {
        let values = (state.bind_values)(&state.profiles.current(), &node.kind);
        told_of_binding(state, request, &node.name, values.len());
        match binding::patch(&request.object, &values) {
            Ok(patch) => checked(answer, Hook::Bindings, request, patch, self_apply::BINDING),
            Err(error) => {
                tracing::error!(node = node.name, uid = request.uid, %error, "binding keeps its defaults");
                (answer, Outcome::SelfCheckFailed)
            }
        }
    })
}

/// The auditor tells of every bound worker, whoever bound it. Here its decision must be looked for among all workers of the
/// namespace, which the scheduler would wait for: only where somebody wants to know.
fn told_of_binding(state: &State, request: &review::Request, node: &str, values: usize) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        let (namespace, pod) =
            (request.namespace.as_deref().unwrap_or_default(), pod_name(request).unwrap_or_default());
        let workers = state.workers.snapshot();
        let decision = workers.and_then(|workers| workers::find(&workers, namespace, pod)?.decision.clone());
        tracing::debug!(namespace, pod, node, uid = request.uid, decision, values, "binding");
    }
}

fn is_creation(request: &review::Request, kind: &str, resources: &[(&str, &str)]) -> bool {
    let resource = (request.resource.resource.as_str(), request.sub_resource.as_deref().unwrap_or_default());
    let core = request.kind.group.is_empty() && request.resource.group.is_empty();
    core && request.operation == "CREATE"
        && request.kind.kind == kind
        && resources.contains(&resource)
        && request.object.is_object()
}

fn not_ready(answer: Answer, why: &str) -> (Answer, Outcome) {
    let text = format!("railbind: {why} to the webhook; admitted as it is. A worker should be created anew");
    (answer.warn(&text), Outcome::NotReady)
}

/// Puts a patch into the answer if it passes our own check.
fn checked(answer: Answer, hook: Hook, request: &review::Request, patch: Patch, allow: AllowList) -> (Answer, Outcome) {
    match patch_checked(&request.object, patch, allow) {
        Ok(Some(patch)) => (answer.patched(patch), Outcome::Patched),
        Ok(None) => (answer, Outcome::Unchanged),
        Err(error) => {
            tracing::error!(hook = hook.as_str(), uid = request.uid, %error, "patch kept back");
            let answer = answer.warn(&format!("railbind: admitted as it is, by a fault of the webhook: {error}"));
            (answer, Outcome::SelfCheckFailed)
        }
    }
}

/// Decides, and admits the object as it is where that panics.
fn guarded(hook: Hook, request: &review::Request, decide: impl FnOnce() -> (Answer, Outcome)) -> (Answer, Outcome) {
    // Nothing that is shared is written while deciding, so nothing can be left half-done.
    catch_unwind(AssertUnwindSafe(decide)).unwrap_or_else(|_| {
        tracing::error!(hook = hook.as_str(), uid = request.uid, "panic while deciding; admitted as it is");
        let text = "railbind: admitted as it is, by a fault of the webhook (panic; see its log)";
        (Answer::allow(&request.uid).warn(text), Outcome::Panicked)
    })
}

/// `timeout=3s` of the query, the way Go prints durations.
fn time_limit(query: &str) -> Duration {
    let given = query.split('&').find_map(|pair| pair.strip_prefix("timeout=")).and_then(go_duration);
    given.unwrap_or(DEFAULT_TIMEOUT).min(MAX_TIMEOUT)
}

fn go_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = text[..digits].parse().ok()?;
    let seconds = match &text[digits..] {
        "ms" => number / 1000.0,
        "s" => number,
        "m" | "m0s" => number * 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::{Duration, time_limit};

    #[test]
    fn limits() {
        let limit = |query| time_limit(query).as_millis();
        assert_eq!(limit("timeout=3s"), 3000);
        assert_eq!(limit("a=b&timeout=1.5s"), 1500);
        assert_eq!(limit("timeout=500ms"), 500);
        assert_eq!(limit("timeout=2m0s"), 30_000);
        for odd in ["", "timeout=", "timeout=3", "timeout=-3s", "timeout=xs", "timeout=1h", "timeout=...s"] {
            assert_eq!(time_limit(odd), Duration::from_secs(10), "{odd}");
        }
    }
}
