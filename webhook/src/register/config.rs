//! What we register.

use k8s_openapi::{
    ByteString,
    api::admissionregistration::v1::{
        MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference, WebhookClientConfig,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
};
use kube::core::ObjectMeta;
use policies::names::label;
use serde_json::Value;

use crate::{args::BindingEngine, server};

/// What to register.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Name of the configuration.
    pub name: String,
    /// Where the API server finds us.
    pub place: Place,
    /// Our own namespace: left alone, or our own pods would wait for us.
    pub namespace: String,
    /// Whether we are called for Bindings.
    pub binding: BindingEngine,
}

/// Where the API server finds us.
#[derive(Debug, Clone)]
pub enum Place {
    /// At a URL.
    Url(String),
    /// Behind a Service.
    Service {
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
        /// Its port.
        port: u16,
    },
}

/// The configuration. Every field that matters is written out, also where it is the API's default. Without `ca_bundle` (PEM) that field is
/// left to somebody else.
pub fn configuration(wanted: &Wanted, ca_bundle: Option<&str>) -> MutatingWebhookConfiguration {
    let mut webhooks = vec![pods(wanted, ca_bundle)];
    match wanted.binding {
        BindingEngine::Webhook => webhooks.push(bindings(wanted, ca_bundle)),
        BindingEngine::Policy | BindingEngine::Auto | BindingEngine::Off => {}
    }
    MutatingWebhookConfiguration {
        // No labels: they belong to whoever installed it.
        metadata: ObjectMeta { name: Some(wanted.name.clone()), ..ObjectMeta::default() },
        webhooks: Some(webhooks),
    }
}

fn pods(wanted: &Wanted, ca_bundle: Option<&str>) -> MutatingWebhook {
    MutatingWebhook {
        name: "pods.railbind.dev".into(),
        client_config: client_config(&wanted.place, server::PODS, ca_bundle),
        rules: Some(vec![rule(&["pods"])]),
        // Another webhook may add containers after us.
        reinvocation_policy: Some("IfNeeded".into()),
        timeout_seconds: Some(3),
        // No match condition: for any, the API server converts the whole pod first (a quarter of what it spends on us).
        ..common(wanted)
    }
}

fn bindings(wanted: &Wanted, ca_bundle: Option<&str>) -> MutatingWebhook {
    MutatingWebhook {
        name: "bindings.railbind.dev".into(),
        client_config: client_config(&wanted.place, server::BINDINGS, ca_bundle),
        rules: Some(vec![rule(&["pods/binding", "bindings"])]),
        reinvocation_policy: Some("Never".into()),
        timeout_seconds: Some(1),
        ..common(wanted)
    }
}

fn common(wanted: &Wanted) -> MutatingWebhook {
    MutatingWebhook {
        admission_review_versions: vec!["v1".into()],
        // Never another: our trouble must not be the cluster's.
        failure_policy: Some("Ignore".into()),
        match_policy: Some("Equivalent".into()),
        side_effects: "None".into(),
        namespace_selector: Some(scope(&wanted.namespace)),
        ..MutatingWebhook::default()
    }
}

pub(crate) fn scope(own: &str) -> LabelSelector {
    let requirement = |key: &str, operator: &str, values: &[&str]| LabelSelectorRequirement {
        key: key.into(),
        operator: operator.into(),
        values: Some(values.iter().map(|&value| value.into()).collect()),
    };
    let mut excluded = vec!["kube-system", "kube-node-lease"];
    if !excluded.contains(&own) {
        excluded.push(own);
    }
    LabelSelector {
        match_expressions: Some(vec![
            requirement(label::INJECT, "In", &["enabled"]),
            requirement("kubernetes.io/metadata.name", "NotIn", &excluded),
        ]),
        match_labels: None,
    }
}

fn rule(resources: &[&str]) -> RuleWithOperations {
    RuleWithOperations {
        api_groups: Some(vec![String::new()]),
        api_versions: Some(vec!["v1".into()]),
        operations: Some(vec!["CREATE".into()]),
        resources: Some(resources.iter().map(|&resource| resource.into()).collect()),
        scope: Some("Namespaced".into()),
    }
}

fn client_config(place: &Place, path: &str, ca_bundle: Option<&str>) -> WebhookClientConfig {
    let ca_bundle = ca_bundle.map(|pem| ByteString(pem.into()));
    match place {
        Place::Url(base) => WebhookClientConfig { ca_bundle, service: None, url: Some(format!("{base}{path}")) },
        Place::Service { name, namespace, port } => WebhookClientConfig {
            ca_bundle,
            service: Some(ServiceReference {
                name: name.clone(),
                namespace: namespace.clone(),
                path: Some(path.into()),
                port: Some(i32::from(*port)),
            }),
            url: None,
        },
    }
}

/// Whether the live configuration is as wanted. What others add in places of their own is left alone: labels, and further
/// conditions that narrow the scope, as AKS adds them; to fight over those would be a write in every round.
pub(super) fn as_wanted(live: &MutatingWebhookConfiguration, wanted: &MutatingWebhookConfiguration) -> bool {
    match (serde_json::to_value(live), serde_json::to_value(wanted)) {
        (Ok(live), Ok(wanted)) => covers("", &live, &wanted),
        _ => false,
    }
}

fn covers(key: &str, live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| live.get(key).is_some_and(|live| covers(key, live, wanted)))
        }
        (Value::Array(live), Value::Array(wanted)) if matches!(key, "matchExpressions" | "matchConditions") => {
            wanted.iter().all(|wanted| live.iter().any(|live| covers("", live, wanted)))
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| covers("", live, wanted))
        }
        (live, wanted) => live == wanted,
    }
}
