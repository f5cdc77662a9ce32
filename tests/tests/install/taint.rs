//! The taint of a node whose self-test failed: `manifests/examples/node-readiness-rule.yaml` is what the node-readiness-controller takes,
//! and means what it says here. The controller itself is not run: what it does with a rule is its own tests' matter.

use std::{collections::BTreeSet, fs, sync::Arc};

use anyhow::Result;
use harness::{Cluster, LIMIT, Options, railbind::repository, until};
use policies::{
    intent::{PodIntent, Toleration},
    names::CONDITION,
    node_map::{NodeMap, Pool},
    report::{self, Condition},
    roles::Fabric,
    select::{self, NodeView, Taint},
    selftest::{SelftestStatus, Standing},
};
use serde_json::{Value, json};

use crate::render::kustomize;

fn rule() -> Value {
    let text = fs::read_to_string(repository().join("manifests/examples/node-readiness-rule.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

fn taint() -> Taint {
    let taint = &rule()["spec"]["taint"];
    let text = |key: &str| taint[key].as_str().map(str::to_owned);
    Taint { key: text("key").unwrap(), value: text("value"), effect: text("effect").unwrap() }
}

/// The kind with the fields and rules that the controller's own CRD has for the spec (kubernetes-sigs/node-readiness-controller,
/// `api/v1alpha1/nodereadinessrule_types.go` and its chart's CRD, 2026), without words for people and without its status.
fn crd() -> Value {
    let texts = json!({"type": "array", "items": {"type": "string"}});
    let status = json!({"type": "string", "enum": ["True", "False", "Unknown"]});
    let check = |rule: &str, message: &str| json!({"rule": rule, "message": message});
    let spec = json!({
        "type": "object",
        "required": ["conditions", "enforcementMode", "nodeSelector", "taint"],
        "properties": {
            "conditions": {
                "type": "array", "minItems": 1, "maxItems": 32,
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object", "required": ["type", "requiredStatus"],
                    "properties": {
                        "type": {"type": "string", "minLength": 1, "maxLength": 316},
                        "requiredStatus": status, "defaultStatus": status,
                    },
                },
            },
            "conditionPolicy": {"type": "string", "enum": ["allOf", "anyOf"]},
            "dryRun": {"type": "boolean"},
            "enforcementMode": {"type": "string", "enum": ["bootstrap-only", "continuous"]},
            "nodeSelector": {
                "type": "object",
                "properties": {
                    "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
                    "matchExpressions": {"type": "array", "items": {
                        "type": "object", "required": ["key", "operator"],
                        "properties": {"key": {"type": "string"}, "operator": {"type": "string"}, "values": texts},
                    }},
                },
                "x-kubernetes-validations": [check(
                    "(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)",
                    "nodeSelector must not be empty",
                )],
            },
            "taint": {
                "type": "object", "required": ["key", "effect"],
                "properties": {
                    "key": {"type": "string", "maxLength": 253}, "value": {"type": "string", "maxLength": 63}, "effect": {"type": "string"},
                    "timeAdded": {"type": "string", "format": "date-time"},
                },
                "x-kubernetes-validations": [
                    check("self.key.startsWith('readiness.k8s.io/')", "taint key must start with 'readiness.k8s.io/'"),
                    check("self.key.split('/')[1].matches('^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$')", "taint key name"),
                    check("self.effect in ['NoSchedule', 'PreferNoSchedule', 'NoExecute']", "taint effect must be one of"),
                ],
            },
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "nodereadinessrules.readiness.node.x-k8s.io"},
        "spec": {
            "group": "readiness.node.x-k8s.io", "scope": "Cluster",
            "names": {"kind": "NodeReadinessRule", "plural": "nodereadinessrules", "singular": "nodereadinessrule"},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {"spec": spec}}},
            }],
        },
    })
}

async fn create(cluster: &Cluster, rule: &Value) -> Result<String> {
    cluster.kubectl_with(&["create", "--validate=strict", "--dry-run=server", "-f", "-"], &rule.to_string()).await
}

#[tokio::test]
async fn the_example_is_a_rule_that_the_controllers_schema_takes() {
    // A cluster of its own: a further kind would be one more that the tests of rights have to know.
    let cluster = Cluster::start(Options::default()).await.unwrap();
    cluster.apply(&crd().to_string()).await.unwrap();
    until("the kind to be served", LIMIT, || async { create(&cluster, &rule()).await.map(drop) }).await.unwrap();
    // The schema tells a wrong rule from a right one.
    for (pointer, wrong, why) in [
        ("/spec/taint/key", json!("railbind.dev/failed"), "must start with 'readiness.k8s.io/'"),
        ("/spec/taint/effect", json!("Never"), "taint effect"),
        ("/spec/conditions", json!([]), "at least 1 items"),
        ("/spec/conditions/0/requiredStatus", json!("yes"), "Unsupported value"),
        ("/spec/enforcementMode", json!("always"), "Unsupported value"),
        ("/spec/nodeSelector", json!({}), "must not be empty"),
        ("/spec/nodeSelector", json!({"colour": "red"}), "unknown field"),
    ] {
        let mut changed = rule();
        *changed.pointer_mut(pointer).unwrap() = wrong;
        let refused = create(&cluster, &changed).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{pointer}: {refused}");
    }
    cluster.stop().await.unwrap();
}

#[test]
fn the_rule_speaks_of_our_condition_and_of_nodes_that_have_a_fabric() {
    let spec = &rule()["spec"];
    assert_eq!(spec["conditions"], json!([{"type": CONDITION, "requiredStatus": "True"}]));
    assert_eq!(spec["enforcementMode"], "continuous", "a node that passes again loses it");
    let selected = &spec["nodeSelector"]["matchExpressions"][0];
    assert_eq!((&selected["key"], &selected["operator"]), (&json!(policies::names::label::FABRIC), &json!("In")));
    let fabrics: BTreeSet<&str> = selected["values"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    let rdma = [Fabric::InfiniBand, Fabric::Roce, Fabric::Efa].map(Fabric::as_str);
    assert_eq!(fabrics, BTreeSet::from(rdma), "a node that promises no RDMA is not tainted for having none");

    let after = |verdict: Standing| {
        let ready = Condition { status: "True".into(), reason: "Fabric".into(), message: "RoCE".into() };
        report::with_selftest(ready, &SelftestStatus { verdict, ..SelftestStatus::default() }).status
    };
    assert_eq!(after(Standing::Failed), "False");
    for verdict in [Standing::Passed, Standing::Slow, Standing::Untested] {
        assert_eq!(after(verdict), "True", "{verdict:?}: no taint");
    }
}

#[tokio::test]
async fn a_tainted_node_gets_no_workers_and_keeps_its_agent_which_alone_can_clear_it() {
    let taint = taint();
    assert_eq!(taint.effect, "NoSchedule", "pods that run there stay");
    let node = |name: &str, taints: Vec<Taint>| NodeView { name: name.into(), taints, ..NodeView::default() };
    let mut pool = Pool::default();
    let both = [node("good", Vec::new()), node("failed", vec![taint.clone()])];
    let nodes = NodeMap::new(&mut both.into_iter().map(|node| Arc::new(pool.share(node))).collect());
    let names = |intent: &PodIntent| -> Vec<String> {
        let groups = select::candidates(&nodes, intent);
        groups.iter().flat_map(|group| group.nodes().map(|node| node.name.clone())).collect()
    };
    assert_eq!(names(&PodIntent::default()), ["good"]);
    let tolerates =
        Toleration { key: Some(taint.key.clone()), operator: Some("Exists".into()), ..Toleration::default() };
    let tolerant = PodIntent { tolerations: vec![tolerates], ..PodIntent::default() };
    assert_eq!(names(&tolerant).len(), 2, "who tolerates it is let in");

    for folder in ["base", "overlays/dev", "overlays/ha", "overlays/policy-engine"] {
        let objects = kustomize(folder).await.unwrap();
        let pod = &objects["DaemonSet/railbind-agent"]["spec"]["template"]["spec"];
        let all = pod["tolerations"].as_array().unwrap().iter().any(|one| one == &json!({"operator": "Exists"}));
        assert!(all, "{folder}: {}", pod["tolerations"]);
    }
}
