//! The CRD of transport profiles: there, and in the form that the API server takes.

use serde_json::{Value, json};

#[test]
fn the_schema_is_structural() {
    let crd = serde_json::to_value(api::transport_profile::crd().unwrap()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let spec = &schema["properties"]["spec"];
    assert_eq!(
        spec["properties"]["env"]["items"]["properties"]["from"]["enum"],
        json!(["gid-index", "net-devices", "roce-subnets"])
    );
    assert_eq!(spec["properties"]["when"]["properties"]["fabric"]["minItems"], 1);
    walk("", schema);
}

fn walk(path: &str, schema: &Value) {
    if let Value::Object(map) = schema {
        for word in ["oneOf", "anyOf", "const", "$ref", "$schema"] {
            assert!(!map.contains_key(word), "{path}: {word}");
        }
        assert_ne!(map.get("additionalProperties"), Some(&json!(false)), "{path}");
        assert!(!map.get("type").is_some_and(Value::is_array), "{path}");
        map.iter().for_each(|(key, value)| walk(&format!("{path}/{key}"), value));
    }
}
