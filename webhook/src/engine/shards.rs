//! The policy and its parameters, as objects: pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use policies::{
    names::{WEBHOOK_MANAGER, annotation::ENV_PREFIX},
    profile::Profiles,
};
use serde_json::{Value, json};

use super::POLICY;
use crate::binding::is_annotation_name;

/// Nodes in one object: the API server converts the whole of it for each Binding.
pub(crate) const NODES_PER_SHARD: usize = 500;
/// Between the values of a node. No value's grammar has it.
const SEPARATOR: char = '|';

/// The data of one object: a node's values, in the order of [`variables`].
pub type Shard = BTreeMap<String, String>;

/// Every late-bound variable of the profiles, in order.
pub fn variables(profiles: &Profiles) -> Vec<String> {
    let lines = profiles.iter().flat_map(|profile| &profile.spec.env).filter(|line| line.from.is_some());
    let names: BTreeSet<String> = lines.map(|line| line.name.clone()).filter(|name| is_annotation_name(name)).collect();
    names.into_iter().collect()
}

/// The nodes that have values, spread over as few objects as hold them. A node stays in its shard while their number
/// stays, so that one more node is one write.
pub fn shards<'a>(
    variables: &[String],
    nodes: impl IntoIterator<Item = (&'a str, BTreeMap<String, String>)>,
) -> Vec<Shard> {
    let mut rows: Vec<(&str, String)> = Vec::new();
    for (node, values) in nodes {
        let usable = |name: &String| values.get(name).filter(|value| !value.contains(SEPARATOR)).cloned();
        let row: Vec<String> = variables.iter().map(|name| usable(name).unwrap_or_default()).collect();
        if row.iter().any(|value| !value.is_empty()) {
            rows.push((node, row.join(&SEPARATOR.to_string())));
        }
    }
    // Half full on average, so that chance fills none beyond the bound.
    let count = (rows.len() * 2).div_ceil(NODES_PER_SHARD).next_power_of_two().max(1);
    let count = if rows.len() <= NODES_PER_SHARD { 1 } else { count };
    let mut shards = vec![Shard::new(); count];
    for (node, row) in rows {
        shards[hash(node) % count].insert(node.to_owned(), row);
    }
    shards
}

/// FNV-1a: the same in every replica and every version.
fn hash(name: &str) -> usize {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    // The low bits of FNV are its weakest.
    usize::try_from((hash ^ (hash >> 32)) & 0xffff_ffff).unwrap_or_default()
}

/// The policy: for a Binding to a node that the parameter knows, one annotation for each value that the node has.
pub fn policy(variables: &[String], scope: &LabelSelector) -> Value {
    let mutations: Vec<Value> = variables
        .iter()
        .enumerate()
        .map(|(place, name)| {
            let value = format!("variables.values[{place}]");
            let set = format!("Object{{metadata: Object.metadata{{annotations: {{'{ENV_PREFIX}{name}': {value}}}}}}}");
            let expression = format!("variables.values.size() > {place} && {value} != '' ? {set} : Object{{}}");
            json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
        })
        .collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": POLICY, "labels": {"app.kubernetes.io/managed-by": WEBHOOK_MANAGER}},
        "spec": {
            "paramKind": {"apiVersion": "railbind.dev/v1alpha1", "kind": "BindingValues"},
            "failurePolicy": "Ignore",
            "reinvocationPolicy": "Never",
            "matchConstraints": {
                "matchPolicy": "Equivalent",
                "namespaceSelector": scope,
                "objectSelector": {},
                "resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                    "resources": ["pods/binding", "bindings"], "scope": "Namespaced",
                }],
            },
            "matchConditions": [{
                "name": "a-node-with-values",
                "expression": "has(params.data) && (!has(object.target.kind) || object.target.kind in ['', 'Node']) && object.target.name in params.data",
            }],
            "variables": [{"name": "values", "expression": format!("string(params.data[object.target.name]).split('{SEPARATOR}')")}],
            "mutations": mutations,
        },
    })
}

/// What joins the policy and one parameter, both of this name.
pub(super) fn binding(name: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": WEBHOOK_MANAGER}},
        "spec": {
            "policyName": POLICY,
            "paramRef": {"name": name, "parameterNotFoundAction": "Allow"},
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use policies::profile::Profiles;

    use super::{NODES_PER_SHARD, shards, variables};

    #[test]
    fn every_late_variable_has_its_place() {
        let variables = variables(&Profiles::embedded().unwrap());
        assert_eq!(variables, ["UCX_IB_GID_INDEX", "UCX_IB_ROCE_SUBNETS", "UCX_NET_DEVICES"]);
        let values = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let nodes: [(&str, BTreeMap<String, String>); 4] = [
            ("a", values(&[("UCX_NET_DEVICES", "mlx5_0:1"), ("UCX_IB_GID_INDEX", "3")])),
            ("none", values(&[])),
            ("b", values(&[("UCX_NET_DEVICES", "mlx5_1:1"), ("UNKNOWN", "x")])),
            ("evil", values(&[("UCX_NET_DEVICES", "x|y")])),
        ];
        let shards = shards(&variables, nodes);
        assert_eq!(shards, [values(&[("a", "3||mlx5_0:1"), ("b", "||mlx5_1:1")])]);
    }

    #[test]
    fn shards_hold_at_most_five_hundred_and_one_more_node_is_one_write() {
        let variables = ["X".to_owned()];
        let of = |count: usize| {
            let names: Vec<String> = (0..count).map(|number| format!("node-{number}.example")).collect();
            let one: BTreeMap<String, String> = [("X".to_owned(), "1".to_owned())].into();
            shards(&variables, names.iter().map(|name| (name.as_str(), one.clone())))
        };
        for count in [0, 1, 500, 501, 1000, 5000] {
            let shards = of(count);
            assert_eq!(shards.iter().map(BTreeMap::len).sum::<usize>(), count);
            assert!(shards.iter().all(|shard| shard.len() <= NODES_PER_SHARD), "{count}");
        }
        let (before, after) = (of(1700), of(1701));
        let written = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert_eq!((before.len(), after.len(), written), (8, 8, 1));
    }
}
