use std::collections::BTreeMap;

use proptest::prelude::{Strategy, any, prop_oneof, proptest};
use serde_json::{Map, Value, json};

use super::{BindingError, MAX_TOTAL, patch, target};
use crate::self_apply::{BINDING, patch_checked};

fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn binding(annotations: Option<Value>) -> Value {
    let mut binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": "worker-0", "namespace": "ns", "uid": "u", "labels": {"topology.kubernetes.io/zone": "z1"}},
        "target": {"kind": "Node", "name": "node-a"}
    });
    if let Some(annotations) = annotations {
        binding["metadata"]["annotations"] = annotations;
    }
    binding
}

fn patched(binding: &Value, values: &BTreeMap<String, String>) -> Value {
    let mut result = binding.clone();
    json_patch::patch(&mut result, &patch(binding, values).unwrap()).unwrap();
    result
}

#[test]
fn annotations_absent_null_or_present() {
    let gid = values(&[("UCX_IB_GID_INDEX", "3")]);
    let whole =
        json!([{"op": "add", "path": "/metadata/annotations", "value": {"env.railbind.dev/UCX_IB_GID_INDEX": "3"}}]);
    let single =
        json!([{"op": "add", "path": "/metadata/annotations/env.railbind.dev~1UCX_IB_GID_INDEX", "value": "3"}]);
    for (annotations, expected) in [
        (None, &whole),
        (Some(Value::Null), &whole),
        (Some(json!({})), &single),
        (Some(json!({"own": "x", "env.railbind.dev/OTHER": "y"})), &single),
        (Some(json!({"env.railbind.dev/UCX_IB_GID_INDEX": "1"})), &single),
        (Some(json!({"env.railbind.dev/UCX_IB_GID_INDEX": null})), &single),
        (Some(json!({"env.railbind.dev/UCX_IB_GID_INDEX": "3"})), &json!([])),
    ] {
        let found = serde_json::to_value(patch(&binding(annotations.clone()), &gid).unwrap()).unwrap();
        assert_eq!(&found, expected, "{annotations:?}");
    }
}

#[test]
fn no_values_no_patch() {
    assert!(patch(&binding(None), &BTreeMap::new()).unwrap().is_empty());
}

#[test]
fn what_would_poison_the_pod_is_refused() {
    for name in ["", "A B", "1A", "_A", "A_", "A.B", "A/B", "A-B", "A~B", "ÄB", &"A".repeat(64)] {
        let refused = patch(&binding(None), &values(&[(name, "x")]));
        assert_eq!(refused, Err(BindingError::Name(name.into())));
    }
    for value in ["a\nb", "a\0b", "\u{7f}"] {
        assert_eq!(patch(&binding(None), &values(&[("A", value)])), Err(BindingError::Value("A".into())));
    }
    let large = "x".repeat(MAX_TOTAL);
    assert_eq!(patch(&binding(None), &values(&[("A", &large)])), Err(BindingError::TooLarge(MAX_TOTAL + 18)));
    assert!(patch(&binding(None), &values(&[("A", &large[18..])])).is_ok());
}

#[test]
fn strange_bindings() {
    let gid = values(&[("A", "3")]);
    for strange in
        [json!(null), json!({}), json!({"metadata": null}), json!({"metadata": []}), binding(Some(json!("x")))]
    {
        assert_eq!(patch(&strange, &gid), Err(BindingError::Shape), "{strange}");
    }
}

#[test]
fn targets() {
    let to = |value: Value| target(&json!({"target": value})).map(str::to_owned);
    assert_eq!(to(json!({"kind": "Node", "name": "a"})).as_deref(), Some("a"));
    assert_eq!(to(json!({"kind": "", "name": "a"})).as_deref(), Some("a"));
    assert_eq!(to(json!({"name": "a"})).as_deref(), Some("a"));
    for other in [
        json!({"kind": "Pod", "name": "a"}),
        json!({"kind": "Node", "name": ""}),
        json!({"kind": "Node"}),
        json!(null),
        json!("a"),
    ] {
        assert_eq!(to(other.clone()), None, "{other}");
    }
    assert_eq!(target(&json!({})), None);
}

fn some_values() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[A-Z][A-Z0-9_]{0,12}[A-Z0-9]", "[ -~]{0,24}", 0..5)
}

fn some_annotations() -> impl Strategy<Value = Option<Value>> {
    let key = prop_oneof!["[a-z]{1,8}", "[a-z]{1,4}/[a-z~]{1,4}", "env\\.railbind\\.dev/[A-Z][A-Z0-9_]{0,2}[A-Z]"];
    let present = proptest::collection::btree_map(key, any::<String>(), 0..6)
        .prop_map(|map| Value::Object(map.into_iter().map(|(key, value)| (key, Value::String(value))).collect()));
    proptest::option::of(prop_oneof![4 => present, 1 => Just(Value::Null)])
}

use proptest::prelude::Just;

proptest! {
    #[test]
    fn exactly_our_annotations_change_and_only_once(annotations in some_annotations(), values in some_values()) {
        let before = binding(annotations);
        let after = patched(&before, &values);

        let mut expected: Map<String, Value> = before["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        expected.extend(values.iter().map(|(name, value)| (format!("env.railbind.dev/{name}"), json!(value))));
        let found = after["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
        assert_eq!(found, expected);

        let bare = |value: &Value| {
            let mut value = value.clone();
            value["metadata"].as_object_mut().unwrap().remove("annotations");
            value
        };
        assert_eq!(bare(&after), bare(&before));
        assert!(patch(&after, &values).unwrap().is_empty());
    }

    #[test]
    fn our_own_check_lets_it_through(annotations in some_annotations(), values in some_values()) {
        let before = binding(annotations);
        let patch = patch(&before, &values).unwrap();
        let empty = patch.is_empty();
        let sent = patch_checked(&before, patch, BINDING).unwrap();
        assert_eq!(sent.is_none(), empty);
    }
}
