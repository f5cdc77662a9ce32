//! What a Node must say, by what its machine is: pure.

use std::{collections::BTreeMap, net::Ipv6Addr};

use anyhow::{Context, Result};
use serde_json::Value;

/// What a node may be in this test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fabric {
    /// Soft-RoCE that works.
    Roce,
    /// Its port is not ACTIVE.
    Down,
    /// It has no IP address.
    Unroutable,
    /// No RDMA device.
    None,
}

/// A GID table, as `FILE:CONTENT` lines of `gids/N` and `gid_attrs/types/N`: the entries that are not empty, with index,
/// value and type.
pub(crate) fn gids(table: &str) -> Result<Vec<(u32, Ipv6Addr, String)>> {
    let lines = || table.lines().filter_map(|line| line.split_once(':'));
    let mut entries = Vec::new();
    for (file, value) in lines() {
        let Some(index) = file.strip_prefix("gids/") else { continue };
        let value: Ipv6Addr = value.parse().with_context(|| format!("{file} is `{value}`"))?;
        let types = format!("gid_attrs/types/{index}");
        let kind = lines().find_map(|(file, kind)| (file == types).then(|| kind.to_owned()));
        if !value.is_unspecified() {
            entries.push((index.parse()?, value, kind.unwrap_or_default()));
        }
    }
    Ok(entries)
}

/// The index of the RoCE v2 entry of an IPv4 address.
pub(crate) fn routable(gids: &[(u32, Ipv6Addr, String)], address: &str) -> Result<u32> {
    let mapped: Ipv6Addr = format!("::ffff:{address}").parse()?;
    let found = gids.iter().find(|(_, value, kind)| *value == mapped && kind == "RoCE v2");
    found.map(|(index, ..)| *index).with_context(|| format!("no RoCE v2 GID for {address} in {gids:?}"))
}

/// What the Node must say: labels (`None`: absent), and of the condition status and reason; and its NodeFabric the same.
pub(crate) fn expected(
    fabric: Fabric,
    address: &str,
    gids: &[(u32, Ipv6Addr, String)],
) -> Result<BTreeMap<&'static str, Option<String>>> {
    let roce = fabric == Fabric::Roce;
    let index = if roce { Some(routable(gids, address)?.to_string()) } else { None };
    let name = if roce { "roce" } else { "tcp" };
    let only = |yes: bool, text: &str| yes.then(|| text.to_owned());
    let kind = match fabric {
        Fabric::Roce => Some("v2-ipv4"),
        Fabric::Unroutable => Some("v2-linklocal"),
        Fabric::Down | Fabric::None => None,
    };
    let reason = match fabric {
        Fabric::Roce => "SoftRdmaOnly",
        Fabric::Down => "PortDown",
        Fabric::Unroutable => "NoRoutableGid",
        Fabric::None => "NoRdmaFabric",
    };
    Ok(BTreeMap::from([
        ("railbind.dev/fabric", Some(name.to_owned())),
        ("railbind.dev/soft", only(fabric != Fabric::None, "true")),
        ("railbind.dev/rdma-ports", only(roce, "1")),
        ("railbind.dev/gid-kind", kind.map(str::to_owned)),
        ("railbind.dev/fabric-domain", only(roce, "roce-192.168.77.0-24")),
        ("status", Some("False".to_owned())),
        ("reason", Some(reason.to_owned())),
        ("NodeFabric fabric", Some(name.to_owned())),
        ("NodeFabric gidIndex", index.clone()),
        ("NodeFabric reason", Some(reason.to_owned())),
        ("railbind.dev/gid-index", index),
    ]))
}

/// The same of a Node and the status of its NodeFabric as they are.
pub(crate) fn found<'a>(
    node: &Value,
    fabric: &Value,
    keys: &BTreeMap<&'a str, Option<String>>,
) -> BTreeMap<&'a str, Option<String>> {
    let conditions = node["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let ours = conditions.iter().find(|condition| condition["type"] == "railbind.dev/FabricReady");
    let value = |key: &str| match key {
        "status" | "reason" => ours.map(|condition| &condition[key]),
        "NodeFabric fabric" => fabric.get("fabric"),
        "NodeFabric gidIndex" => fabric.get("gidIndex"),
        "NodeFabric reason" => fabric["ready"].get("reason"),
        label => node["metadata"]["labels"].get(label),
    };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    keys.keys().map(|key| (*key, value(key).map(text))).collect()
}
