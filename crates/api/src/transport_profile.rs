//! `TransportProfile`: the cluster's own profiles, of the schema of the embedded ones.
//!
//! The type is `policies::profile::TransportProfile`, which refuses unknown fields when it reads; the CRD is made from its
//! schema, with rules in CEL that say at once what that reading would refuse later.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use policies::profile::Spec;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// Name of the CRD.
pub const TRANSPORT_PROFILES: &str = "transportprofiles.railbind.dev";

const FABRICS: [&str; 4] = ["infiniband", "roce", "efa", "tcp"];

/// The CRD.
///
/// # Errors
/// None that a test would not have seen.
pub fn crd() -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut settings = SchemaSettings::openapi3();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut spec = serde_json::to_value(settings.into_generator().into_root_schema_for::<Spec>())?;
    structural(&mut spec);
    constrain(&mut spec);
    let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    serde_json::from_value(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": TRANSPORT_PROFILES},
        "spec": {
            "group": "railbind.dev",
            "scope": "Cluster",
            "names": {
                "kind": "TransportProfile", "plural": "transportprofiles", "singular": "transportprofile", "shortNames": ["tp"],
            },
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "additionalPrinterColumns": [
                    column("Set", "string", ".spec.set"),
                    column("Priority", "integer", ".spec.priority"),
                    column("Description", "string", ".spec.description"),
                    column("Age", "date", ".metadata.creationTimestamp"),
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": "How workers use one class of nodes: their environment, what they need, what breaks them. An object overrides the embedded profile of its name.",
                    "required": ["spec"],
                    "properties": {"spec": spec},
                    "x-kubernetes-validations": [
                        rule("self.metadata.name.size() <= 63", "the name is a label value: at most 63 characters"),
                    ],
                }},
            }],
        },
    }))
}

fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

/// What the API server takes of JSON Schema: no `oneOf` for enums, `nullable` for null, nothing that closes an object.
fn structural(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(one) = non_null(map) {
                let description = map.remove("description");
                map.remove("anyOf");
                map.extend(one);
                if let Some(description) = description {
                    map.insert("description".into(), description);
                }
            }
            if let Some(values) = constants(map) {
                map.remove("oneOf");
                map.insert("type".into(), json!("string"));
                map.insert("enum".into(), values);
            }
            if let Some(Value::Array(types)) = map.get("type") {
                let one = types.iter().find(|kind| *kind != "null").cloned();
                map.insert("type".into(), one.unwrap_or_else(|| json!("string")));
            }
            if map.get("additionalProperties") == Some(&Value::Bool(false)) {
                map.remove("additionalProperties");
            }
            for key in ["title", "$schema", "propertyNames", "default", "nullable"] {
                // A property of that name is a schema, and stays.
                if map.get(key).is_some_and(|value| !value.is_object()) {
                    map.remove(key);
                }
            }
            map.values_mut().for_each(structural);
        }
        Value::Array(items) => items.iter_mut().for_each(structural),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The one schema of an `anyOf` with null.
fn non_null(map: &Map<String, Value>) -> Option<Map<String, Value>> {
    let some: Vec<&Value> = map.get("anyOf")?.as_array()?.iter().filter(|schema| !is_null(schema)).collect();
    let [one] = some.as_slice() else { return None };
    one.as_object().cloned()
}

fn is_null(schema: &Value) -> bool {
    schema["type"] == "null" || schema["enum"] == json!([null]) || schema.get("const").is_some_and(Value::is_null)
}

/// The values of an enum whose members have descriptions.
fn constants(map: &Map<String, Value>) -> Option<Value> {
    let members = map.get("oneOf")?.as_array()?;
    members.iter().map(|member| member.get("const").or_else(|| member["enum"].get(0)).cloned()).collect()
}

/// Bounds, and rules between fields.
fn constrain(spec: &mut Value) {
    let properties = &mut spec["properties"];
    properties["set"] = json!({"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
        "description": "Set it belongs to: guide, nixl, or one of the cluster's own.",
        "x-kubernetes-validations": [rule("self != 'auto'", "`auto` is no set: it stands for the best of them")]});
    properties["priority"]["minimum"] = json!(0);
    properties["priority"]["maximum"] = json!(10000);
    properties["description"]["maxLength"] = json!(256);
    properties["when"]["properties"]["fabric"] = json!({"type": "array", "minItems": 1, "maxItems": 4, "items": {"type": "string", "enum": FABRICS},
            "description": "One of these fabrics."});
    let env = &mut properties["env"];
    env["maxItems"] = json!(64);
    env["items"]["properties"]["name"] = json!({"type": "string", "maxLength": 63, "pattern": "^[A-Z_][A-Z0-9_]*$",
        "description": "Name."});
    env["items"]["properties"]["value"]["maxLength"] = json!(1024);
    env["items"]["properties"]["fabric"] = json!({"type": "array", "maxItems": 4,
        "items": {"type": "string", "enum": FABRICS}, "description": "Only on these of the profile's fabrics."});
    env["items"]["x-kubernetes-validations"] = json!([
        rule("has(self.value) != has(self.from)", "give either `value`, or `from` together with `default`"),
        rule("has(self.from) == has(self.default)", "give `default` together with `from`, and only then"),
    ]);
    let version = json!({"type": "string", "pattern": "^[0-9]+\\.[0-9]+", "maxLength": 32});
    for range in ["/properties/when/properties/kernel", "/properties/env/items/properties/ucx"] {
        if let Some(range) = spec.pointer_mut(range) {
            range["properties"]["min"] = version.clone();
            range["properties"]["below"] = version.clone();
        }
    }
    let advice = &mut spec["properties"]["advice"];
    advice["maxItems"] = json!(8);
    advice["items"]["properties"]["text"]["maxLength"] = json!(150);
}
