//! Environment: constants of the class plain, values of the node through annotations that the binding overwrites.

use std::collections::BTreeMap;

use policies::{
    names::annotation,
    plan::{EnvValue, Plan},
};
use serde_json::json;

use super::{Builder, Malformed, Target};

/// The annotations behind the late-bound variables, with the preset node's value or the one that is right on any node.
pub(super) fn annotations(
    builder: &mut Builder,
    plan: &Plan,
    preset: &BTreeMap<String, String>,
) -> Result<(), Malformed> {
    for variable in &plan.env {
        let EnvValue::Late(default) = &variable.value else { continue };
        let key = format!("{}{}", annotation::ENV_PREFIX, variable.name);
        if builder.annotation(&key).is_none() {
            builder.set_annotation(&key, preset.get(&variable.name).unwrap_or(default))?;
        }
    }
    Ok(())
}

/// Variables of one container. What it already sets is the user's and stays.
pub(super) fn variables(builder: &mut Builder, target: &Target, plan: &Plan) -> Result<(), Malformed> {
    let list = target.at("/env");
    for replaced in plan.replacements.iter().filter(|replaced| replaced.container == target.name) {
        let places = builder.list(&list).iter().enumerate();
        let places: Vec<usize> =
            places.filter(|(_, entry)| entry["name"] == *replaced.variable).map(|(place, _)| place).collect();
        for place in places {
            builder
                .replace(&format!("{list}/{place}"), json!({ "name": replaced.variable, "value": replaced.value }))?;
        }
    }
    for variable in &plan.env {
        if plan.left_out.contains(&(target.name.clone(), variable.name.clone())) {
            continue;
        }
        let set = builder.list(&list).iter().any(|entry| entry["name"] == *variable.name);
        if set {
            continue;
        }
        let entry = match &variable.value {
            EnvValue::Constant(value) => json!({ "name": variable.name, "value": value }),
            EnvValue::Late(_) => {
                let field = format!("metadata.annotations['{}{}']", annotation::ENV_PREFIX, variable.name);
                json!({ "name": variable.name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": field } } })
            }
        };
        builder.push(&list, entry)?;
    }
    Ok(())
}
