//! Names that UCX, NCCL and libfabric know, names that do nothing any more, and what a misspelt one may have meant.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use serde::Deserialize;

use crate::profile::Range;

const KNOWN: &str = include_str!("../../profiles/known-names.yaml");
const DEAD: &str = include_str!("../../profiles/dead-names.yaml");

/// Prefixes of the names that are looked at.
const PREFIXES: [&str; 3] = ["UCX_", "NCCL_", "FI_"];

/// Beyond this many edits a name is another name, not a misspelt one.
const MAX_DISTANCE: usize = 3;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    ucx: Ucx,
    nccl: Names,
    libfabric: Names,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ucx {
    #[serde(rename = "source")]
    _source: String,
    names: Vec<String>,
    transports: BTreeMap<String, Transport>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Transport {
    families: Vec<String>,
    settings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    #[serde(rename = "source")]
    _source: String,
    names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeadFile {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    names: Vec<Dead>,
}

/// A name that does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dead {
    /// The name.
    pub name: String,
    /// In these versions of UCX; absent: in all.
    #[serde(default)]
    pub ucx: Option<Range>,
    /// Why it does nothing.
    pub why: String,
    /// What to set instead.
    #[serde(default)]
    pub instead: Option<String>,
    /// Where that comes from.
    pub source: String,
}

static NAMES: LazyLock<Result<BTreeSet<String>, String>> = LazyLock::new(|| {
    let file: File = serde_saphyr::from_str(KNOWN).map_err(|error| error.to_string())?;
    let mut names: BTreeSet<String> = file.ucx.names.into_iter().collect();
    for (transport, Transport { families, settings }) in &file.ucx.transports {
        let prefixes = std::iter::once(transport).chain(families);
        names.extend(prefixes.flat_map(|prefix| settings.iter().map(move |setting| format!("UCX_{prefix}_{setting}"))));
    }
    names.extend(file.nccl.names);
    names.extend(file.libfabric.names);
    Ok(names)
});

static DEAD_NAMES: LazyLock<Result<Vec<Dead>, String>> = LazyLock::new(|| {
    serde_saphyr::from_str::<DeadFile>(DEAD).map(|file| file.names).map_err(|error| error.to_string())
});

/// All names that are known.
///
/// # Errors
/// Only if the shipped YAML is wrong, which a test excludes.
pub fn names() -> Result<&'static BTreeSet<String>, &'static str> {
    NAMES.as_ref().map_err(String::as_str)
}

/// The entry of a name that does nothing.
pub fn dead(name: &str) -> Option<&'static Dead> {
    DEAD_NAMES.as_ref().ok()?.iter().find(|dead| dead.name == name)
}

/// Whether a name is UCX's, NCCL's or libfabric's by its prefix, and none that is known.
pub fn is_unknown(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && names().is_ok_and(|names| !names.contains(name))
}

/// What a name may have meant, if it is one of UCX's, NCCL's or libfabric's by its prefix and none that is known.
pub fn suggestion(name: &str) -> Option<&'static str> {
    let prefix = PREFIXES.into_iter().find(|prefix| name.starts_with(prefix))?;
    let names = names().ok()?;
    // Longer than any name: nothing that a person misspelt, and not worth the time.
    if names.contains(name) || name.len() > 80 {
        return None;
    }
    // A short name has many neighbours: one edit for every five letters.
    let most = ((name.len() - prefix.len()) / 5).clamp(1, MAX_DISTANCE);
    names
        .range(prefix.to_owned()..)
        .take_while(|known| known.starts_with(prefix))
        .filter(|known| known.len().abs_diff(name.len()) <= most)
        .map(|known| (distance(name.as_bytes(), known.as_bytes()), known.as_str()))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, known)| known)
}

/// Edits (a letter more, less or other, or two neighbours swapped) that make one word of the other.
pub fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (row, a) in one.iter().enumerate() {
        let mut line = vec![row + 1];
        for (column, b) in other.iter().enumerate() {
            let change = last[column] + usize::from(a != b);
            let mut best = change.min(last[column + 1] + 1).min(line[column] + 1);
            if row > 0 && column > 0 && *a == other[column - 1] && one[row - 1] == *b {
                best = best.min(before[column - 1] + 1);
            }
            line.push(best);
        }
        before = std::mem::replace(&mut last, line);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::{DEAD_NAMES, dead, distance, names, suggestion};

    #[test]
    fn the_shipped_lists_are_well_formed() {
        let names = names().unwrap();
        assert!(names.len() > 1000, "{}", names.len());
        for name in [
            "UCX_TLS",
            "UCX_NET_DEVICES",
            "UCX_IB_GID_INDEX",
            "UCX_IB_ROCE_SUBNETS",
            "UCX_IB_ROCE_REACHABILITY_MODE",
            "UCX_RC_TIMEOUT",
            "UCX_RC_MLX5_TIMEOUT",
            "UCX_MAX_RMA_RAILS",
            "UCX_CUDA_IPC_ENABLE_MNNVL",
            "UCX_CONFIG_DIR",
            "NCCL_IB_HCA",
            "NCCL_DEBUG",
            "FI_PROVIDER",
            "FI_EFA_USE_DEVICE_RDMA",
        ] {
            assert!(names.contains(name), "{name}");
        }
        let dead = DEAD_NAMES.as_ref().unwrap();
        assert!(dead.iter().all(|dead| !dead.source.is_empty()));
        for instead in dead.iter().filter_map(|dead| dead.instead.as_ref()) {
            assert!(names.contains(instead), "{instead}");
        }
    }

    #[test]
    fn misspelt_names() {
        for (wrong, right) in [
            ("UCX_NET_DEVICE", "UCX_NET_DEVICES"),
            ("UCX_TSL", "UCX_TLS"),
            ("UCX_IB_GID_IDX", "UCX_IB_GID_INDEX"),
            ("UCX_RNDV_TRESH", "UCX_RNDV_THRESH"),
            ("NCCL_IB_HAC", "NCCL_IB_HCA"),
            ("NCCL_SOCKET_IFNAMES", "NCCL_SOCKET_IFNAME"),
            ("FI_EFA_USE_DEVICE_RMDA", "FI_EFA_USE_DEVICE_RDMA"),
        ] {
            assert_eq!(suggestion(wrong), Some(right), "{wrong}");
        }
        for fine in ["UCX_TLS", "UCX_SOMETHING_ALTOGETHER_NEW", "PATH", "NCCL_", "UCX_", "NIXL_LOG_LEVEL"] {
            assert_eq!(suggestion(fine), None, "{fine}");
        }
        assert_eq!(
            dead("UCX_MEMTYPE_REG_WHOLE").unwrap().instead.as_deref(),
            Some("UCX_MEMTYPE_REG_WHOLE_ALLOC_TYPES")
        );
    }

    #[test]
    fn edits() {
        for (one, other, edits) in
            [("", "", 0), ("", "ab", 2), ("ab", "ba", 1), ("kitten", "sitting", 3), ("TLS", "TSL", 1), ("a", "b", 1)]
        {
            assert_eq!(distance(one.as_bytes(), other.as_bytes()), edits, "{one} {other}");
            assert_eq!(distance(other.as_bytes(), one.as_bytes()), edits, "{other} {one}");
        }
    }
}
