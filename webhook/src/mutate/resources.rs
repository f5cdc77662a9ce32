//! Extended resources: they cannot be overcommitted, so requests equal limits.

use serde_json::json;

use super::{Builder, Malformed, Target};

/// Requests `count` of the resource `name` for one container. What it already says about that resource stays.
pub(super) fn extended(builder: &mut Builder, target: &Target, name: &str, count: u64) -> Result<(), Malformed> {
    builder.object(&target.at("/resources"))?;
    for part in ["/resources/limits", "/resources/requests"] {
        let parent = target.at(part);
        if builder.get(&format!("{parent}/{}", super::builder::token(name))).is_none() {
            builder.set(&parent, name, json!(count.to_string()))?;
        }
    }
    Ok(())
}
