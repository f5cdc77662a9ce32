//! Facts of a node that a variable can take, each with the grammar of its values: a node may lie, and must not choose what
//! runs in a pod.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// More devices than this UCX does not take (ucs `UCS_MAX_CONFIG_ARRAY`: research, 3.3).
const MAX_DEVICES: usize = 64;
/// Subnets: more than ports is nonsense.
const MAX_SUBNETS: usize = 32;

/// A fact of a node that a variable can take, with the grammar of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeFact {
    /// The RoCE GID index that is right on all of the node's compute ports: 0 to 65535.
    GidIndex,
    /// The node's compute ports, as `UCX_NET_DEVICES` takes them: `mlx5_0:1,mlx5_1:1`, at most 64.
    NetDevices,
    /// The subnets of its RoCE compute ports, as `UCX_IB_ROCE_SUBNETS` takes them: `10.20.0.0/16`, at most 32.
    RoceSubnets,
}

impl NodeFact {
    /// The value, if it is in the grammar.
    pub fn checked(self, value: &str) -> Option<String> {
        match self {
            Self::GidIndex => value.parse::<u16>().ok().map(|index| index.to_string()),
            Self::NetDevices => list(value, MAX_DEVICES, is_device),
            Self::RoceSubnets => list(value, MAX_SUBNETS, is_subnet),
        }
    }
}

fn list(value: &str, most: usize, fits: fn(&str) -> bool) -> Option<String> {
    let words = value.split(',');
    (value.len() <= 2048 && words.clone().count() <= most && words.into_iter().all(fits)).then(|| value.to_owned())
}

/// `mlx5_0:1`: a device of the kernel's, and a port.
fn is_device(word: &str) -> bool {
    let Some((device, port)) = word.split_once(':') else { return false };
    let name = !device.is_empty()
        && device.len() <= 63
        && device.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    name && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u8>().is_ok_and(|port| port > 0)
}

fn is_subnet(word: &str) -> bool {
    let Some((address, bits)) = word.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.bytes().all(|byte| byte.is_ascii_digit()) && bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

#[cfg(test)]
mod tests {
    use super::NodeFact;

    #[test]
    fn grammars() {
        for (fact, good) in [
            (NodeFact::GidIndex, "3"),
            (NodeFact::NetDevices, "mlx5_0:1"),
            (NodeFact::NetDevices, "mlx5_bond_0:1,rocep1s0f0:2,ibp-0.1:1"),
            (NodeFact::RoceSubnets, "10.20.0.0/16,192.168.0.0/24"),
            (NodeFact::RoceSubnets, "fd00::/64"),
        ] {
            assert_eq!(fact.checked(good).as_deref(), Some(good));
        }
        let many = vec!["mlx5_0:1"; 65].join(",");
        for (fact, hostile) in [
            (NodeFact::GidIndex, "5;rm"),
            (NodeFact::GidIndex, "70000"),
            (NodeFact::NetDevices, ""),
            (NodeFact::NetDevices, "mlx5_0"),
            (NodeFact::NetDevices, "mlx5_0:0"),
            (NodeFact::NetDevices, "mlx5_0:+1"),
            (NodeFact::NetDevices, "^mlx5_0:1"),
            (NodeFact::NetDevices, "mlx5_0:1, mlx5_1:1"),
            (NodeFact::NetDevices, "mlx5_0:1,"),
            (NodeFact::NetDevices, "$(X):1"),
            (NodeFact::NetDevices, &many),
            (NodeFact::RoceSubnets, "10.0.0.0"),
            (NodeFact::RoceSubnets, "10.0.0.0/33"),
            (NodeFact::RoceSubnets, "10.0.0.0/+8"),
            (NodeFact::RoceSubnets, "all"),
        ] {
            assert_eq!(fact.checked(hostile), None, "{hostile:?}");
        }
    }
}
