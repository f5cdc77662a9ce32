//! The fabric domain: what must be equal for two nodes to reach each other.

use std::collections::BTreeSet;

use crate::{
    fabric::{Facts, Subnet},
    roles::{Fabric, PortRole},
    verdict::label_value,
};

/// What must be equal for two nodes to reach each other, as a label value.
pub(crate) fn domain(facts: &Facts, fabric: Fabric, compute: &[&PortRole], zone: Option<&str>) -> Option<String> {
    match fabric {
        Fabric::Tcp => None,
        Fabric::Efa => zone.map(|zone| label_value(&format!("efa-{zone}"))),
        Fabric::InfiniBand => {
            let devices = facts.devices.known()?;
            let mut prefixes = BTreeSet::new();
            for role in compute {
                let port = devices
                    .iter()
                    .find(|device| device.name == role.device)?
                    .ports
                    .iter()
                    .find(|port| port.number == role.port)?;
                let prefix = port.gids.iter().find(|gid| gid.index == 0).or(port.gids.first())?.value.to_bits() >> 64;
                // 0x7fff is the default partition; the top bit says full membership and does not matter for who may meet whom.
                let partitions: BTreeSet<u16> =
                    port.pkeys.iter().map(|key| key & 0x7fff).filter(|key| *key != 0x7fff && *key != 0).collect();
                let partitions = partitions.iter().fold(String::new(), |text, key| format!("{text}-{key:04x}"));
                prefixes.insert(format!("{prefix:016x}{partitions}"));
            }
            Some(joined("ib", &prefixes))
        }
        Fabric::Roce => {
            let mut subnets = BTreeSet::new();
            for role in compute {
                let value = role.gid?.value?;
                let subnet = facts
                    .subnets
                    .iter()
                    .filter(|subnet| contains(subnet.network.to_bits(), width(subnet), value.to_bits()))
                    .max_by_key(|subnet| subnet.prefix_len)?;
                // A point-to-point link to the switch: the fabric is routed, so its subnet says nothing about who reaches whom.
                if width(subnet) >= 126 {
                    subnets.insert("routed".to_owned());
                } else {
                    let address =
                        subnet.network.to_ipv4_mapped().map_or_else(|| subnet.network.to_string(), |v4| v4.to_string());
                    subnets.insert(format!("{address}-{}", subnet.prefix_len));
                }
            }
            (!subnets.is_empty()).then(|| joined("roce", &subnets))
        }
    }
}

/// Prefix length in the 128-bit form.
fn width(subnet: &Subnet) -> u32 {
    let len = u32::from(subnet.prefix_len);
    if subnet.network.to_ipv4_mapped().is_some() { (len + 96).min(128) } else { len.min(128) }
}

fn contains(network: u128, width: u32, address: u128) -> bool {
    let mask = if width == 0 { 0 } else { u128::MAX << (128 - width) };
    network & mask == address & mask
}

/// `PREFIX-a` for one part, `PREFIX-N-HASH` for several: a label holds 63 characters.
fn joined(prefix: &str, parts: &BTreeSet<String>) -> String {
    let all: Vec<&str> = parts.iter().map(String::as_str).collect();
    let plain = format!("{prefix}-{}", all.join("_"));
    if parts.len() == 1 && plain.len() <= 63 {
        label_value(&plain)
    } else {
        format!("{prefix}-{}-{:016x}", parts.len(), fnv1a(plain.as_bytes()))
    }
}

/// FNV-1a, 64 bit (constants from the FNV specification): stable across versions and machines, which `std`'s hasher is not.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
