use json_patch::Patch;
use serde_json::{Value, json};

use super::{AllowList, BINDING, POD, patch_checked};

fn pod() -> Value {
    json!({
        "metadata": {"name": "p", "annotations": {"own": "x"}},
        "spec": {
            "containers": [{"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "B"}], "resources": {}, "args": ["a"]}],
            "volumes": [], "affinity": {"podAffinity": {"unknown": 1}}, "hostNetwork": false
        }
    })
}

fn check(allow: AllowList, operations: Value) -> Result<bool, String> {
    let patch: Patch = serde_json::from_value(operations).unwrap();
    patch_checked(&pod(), patch, allow).map(|patch| patch.is_some()).map_err(|error| error.to_string())
}

fn one(allow: AllowList, op: &str, path: &str, value: impl Into<Value>) -> Result<bool, String> {
    check(allow, json!([{"op": op, "path": path, "value": value.into()}]))
}

#[test]
fn what_we_do_passes() {
    for (path, value) in [
        ("/metadata/annotations/railbind.dev~1decision", json!("{}")),
        ("/metadata/annotations/env.railbind.dev~1UCX_IB_GID_INDEX", json!("auto")),
        ("/spec/containers/0/env/0", json!({"name": "UCX_TLS", "value": "rc"})),
        ("/spec/containers/0/env/-", json!({"name": "UCX_TLS", "value": "rc"})),
        ("/spec/containers/0/env/0/value", json!("2")),
        ("/spec/containers/0/resources/limits", json!({"rdma/ib": "8"})),
        ("/spec/containers/0/resources", json!({"limits": {"rdma/ib": "8"}})),
        ("/spec/containers/0/securityContext", json!({"capabilities": {"add": ["IPC_LOCK"]}})),
        ("/spec/containers/0/volumeMounts", json!([{"name": "shm", "mountPath": "/dev/shm"}])),
        ("/spec/volumes/-", json!({"name": "shm"})),
        ("/spec/volumes", json!([{"name": "shm"}])),
        ("/spec/affinity/nodeAffinity", json!({})),
    ] {
        assert_eq!(one(POD, "add", path, value), Ok(true), "{path}");
    }
}

#[test]
fn nothing_to_do_is_no_patch() {
    assert_eq!(check(POD, json!([])), Ok(false));
    assert_eq!(one(POD, "replace", "/spec/containers/0/env/0/value", json!("1")), Ok(false));
}

#[test]
fn what_does_not_apply_is_kept_back() {
    for path in [
        "/spec/containers/1/env/-",
        "/spec/containers/0/volumeMounts/-",
        "/spec/containers/0/env/9",
        "/spec/containers/0/env/00",
        "/spec/containers/0/env/-1",
        "/spec/initContainers/0/env",
        "/spec/containers/0/securityContext/capabilities/add/-",
        "/metadata/annotations/railbind.dev/decision",
    ] {
        assert!(one(POD, "add", path, json!("x")).is_err(), "{path}");
    }
    assert!(one(POD, "replace", "/spec/containers/0/env/7/value", json!("x")).is_err());
}

#[test]
fn places_outside_of_the_list() {
    for (path, value) in [
        ("", json!({"spec": {"hostNetwork": true}})),
        ("/spec", json!({"hostNetwork": true})),
        ("/spec/hostNetwork", json!(true)),
        ("/spec/nodeName", json!("n")),
        ("/spec/containers", json!([])),
        ("/spec/containers/-", json!({"name": "x", "image": "y"})),
        ("/spec/containers/0", json!({"env": []})),
        ("/spec/containers/0/image", json!("y")),
        ("/spec/containers/0/args/-", json!("y")),
        ("/spec/containers/-/env", json!([])),
        ("/metadata/labels/x", json!("y")),
        ("/metadata/annotations/other", json!("y")),
        ("/metadata/annotations/railbind.dev~1", json!("y")),
        ("/metadata/annotations", json!({"railbind.dev/decision": "{}", "other": "y"})),
        ("/metadata", json!({"annotations": {"railbind.dev/a": "b"}, "uid": "z"})),
        ("/target/name", json!("n")),
    ] {
        let refused = one(POD, "add", path, value).unwrap_err();
        assert_eq!(refused, format!("{path} may not be written"));
    }
    assert!(one(BINDING, "add", "/metadata/annotations/railbind.dev~1decision", json!("x")).is_err());
    assert!(one(BINDING, "add", "/target/name", json!("x")).is_err());
    assert_eq!(one(BINDING, "add", "/metadata/annotations/env.railbind.dev~1A", json!("x")), Ok(true));
}

#[test]
fn content_is_never_lost() {
    for (op, path) in [
        ("add", "/spec/containers/0/env"),
        ("replace", "/spec/containers/0/env"),
        ("replace", "/spec/containers/0/env/0"),
        ("add", "/spec/affinity"),
        ("add", "/spec/affinity/podAffinity"),
        ("add", "/metadata/annotations"),
    ] {
        let value =
            if path == "/metadata/annotations" { json!({"railbind.dev/a": "b"}) } else { json!([{"name": "A"}]) };
        assert_eq!(one(POD, op, path, value).unwrap_err(), format!("{path} has content that would be lost"));
    }
    // A variable of the same name may get another value, and only in an environment.
    let same = |name: &str| one(POD, "replace", "/spec/containers/0/env/0", json!({"name": name, "value": "x"}));
    let name = pod().pointer("/spec/containers/0/env/0/name").unwrap().as_str().unwrap().to_owned();
    assert_eq!(same(&name), Ok(true));
    assert!(same("OTHER").is_err());
    // … also not what an earlier operation of the same patch has put there.
    let twice = json!([
        {"op": "add", "path": "/spec/volumes", "value": [{"name": "a"}]},
        {"op": "add", "path": "/spec/volumes", "value": [{"name": "b"}]}
    ]);
    assert_eq!(check(POD, twice).unwrap_err(), "/spec/volumes has content that would be lost");
}

#[test]
fn operations_that_test_or_take_away() {
    for operation in [
        json!({"op": "remove", "path": "/spec/affinity/podAffinity"}),
        json!({"op": "test", "path": "/spec/affinity", "value": null}),
        json!({"op": "move", "from": "/spec/affinity/podAffinity", "path": "/spec/affinity/x"}),
        json!({"op": "copy", "from": "/spec/affinity/podAffinity", "path": "/spec/affinity/x"}),
    ] {
        assert_eq!(check(POD, json!([operation])).unwrap_err(), "operation 0 is neither add nor replace");
    }
    assert_eq!(one(POD, "add", "/spec/affinity/x", Value::Null).unwrap_err(), "/spec/affinity/x would become null");
}
