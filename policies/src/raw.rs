//! What a pod's JSON says, read without trust: nothing has to be there, or be what the API defines.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::select::is_gpu;

/// A map of texts; entries that are none are left out.
pub fn strings(map: &Value) -> BTreeMap<String, String> {
    let entries = map.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// Extended resources of a container: limits, or requests where there is no limit.
pub fn extended(container: &Value) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for part in ["requests", "limits"] {
        for (name, quantity) in container["resources"][part].as_object().into_iter().flatten() {
            let count = quantity.as_u64().or_else(|| quantity.as_str()?.parse().ok());
            if let (true, Some(count)) = (name.contains('/'), count) {
                found.insert(name.clone(), count);
            }
        }
    }
    found
}

/// GPUs of any kind among extended resources. A hostile pod asks for more than there are numbers.
pub fn gpus(resources: &BTreeMap<String, u64>) -> u64 {
    resources.iter().filter(|(name, _)| is_gpu(name)).fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

/// Whether a security context says that the process is not root; `None` where it says nothing.
pub fn non_root(context: &Value) -> Option<bool> {
    match context["runAsUser"].as_i64() {
        Some(user) => Some(user != 0),
        None => context["runAsNonRoot"].as_bool().filter(|non_root| *non_root),
    }
}

/// Whether a container has a volume of its own at `/dev/shm`.
pub fn has_shm(container: &Value) -> bool {
    let mut mounts = container["volumeMounts"].as_array().into_iter().flatten();
    mounts.any(|mount| mount["mountPath"].as_str().is_some_and(|path| path.trim_end_matches('/') == "/dev/shm"))
}
