//! Ports of an RDMA device. Only state, rate and tables: counters are never read, on management functions they flood the
//! kernel's log.

use policies::fabric::{Gid, GidType, LinkLayer, Port};

use crate::{parse, reader::Reader};

/// A switch has 254 ports, an adapter two.
const MAX_PORTS: usize = 256;
/// Adapters have up to 256 entries for each port.
const MAX_GIDS: usize = 1024;
/// Each P_Key read is a command to the firmware, tables have 128 entries and are filled from the front: this many empty
/// ones in a row end it.
const EMPTY_PKEYS: usize = 16;

/// All ports in order, or why the directory could not be listed.
pub(super) fn all(reader: &mut Reader<'_>, device_dir: &str) -> Result<Vec<Port>, String> {
    let dir = format!("{device_dir}/ports");
    let names = reader.names(&dir)?.unwrap_or_default();
    let numbers = names.iter().filter_map(|name| name.parse().ok().map(|number| (name, number)));
    let ports = numbers.take(MAX_PORTS).map(|(name, number)| one(reader, device_dir, &format!("{dir}/{name}"), number));
    Ok(ports.collect())
}

fn one(reader: &mut Reader<'_>, device_dir: &str, dir: &str, number: u32) -> Port {
    let link_layer = reader.value(&format!("{dir}/link_layer"), parse::link_layer).unwrap_or_default();
    let rate = reader.optional(&format!("{dir}/rate"), |text| {
        let line = parse::line(text)?;
        Some((line.to_owned(), parse::rate_gbps(line)?))
    });
    let (rate, rate_gbps) = rate.unzip();
    Port {
        number,
        state: reader.value(&format!("{dir}/state"), parse::port_state).unwrap_or_default(),
        phys_state: reader.optional(&format!("{dir}/phys_state"), parse::phys_state),
        rate_gbps,
        rate,
        lid: lid(reader, &format!("{dir}/lid")),
        sm_lid: lid(reader, &format!("{dir}/sm_lid")),
        gids: gids(reader, dir),
        traffic_class: reader
            .optional(&format!("{device_dir}/tc/{number}/traffic_class"), parse::traffic_class)
            .flatten(),
        // Partitions exist on InfiniBand alone; Ethernet has one entry that says nothing.
        pkeys: if link_layer == LinkLayer::InfiniBand { pkeys(reader, dir) } else { Vec::new() },
        link_layer,
    }
}

/// Omni-Path's extended LIDs have 32 bits: they are well formed, and no LID of a fabric that we use.
fn lid(reader: &mut Reader<'_>, path: &str) -> Option<u16> {
    reader.optional(path, parse::hex_u32)?.try_into().ok()
}

/// The entries that are not empty. A read of `types` fails with EINVAL where the entry went away meanwhile or belongs to
/// another network namespace, and kernels before 4.5 have no such file: UCX takes both for v1.
fn gids(reader: &mut Reader<'_>, dir: &str) -> Vec<Gid> {
    let table = reader.table(&format!("{dir}/gids"), parse::gid);
    let mut gids = Vec::new();
    for (index, value) in table.into_iter().filter(|(_, value)| !value.is_unspecified()).take(MAX_GIDS) {
        let kind = reader.optional(&format!("{dir}/gid_attrs/types/{index}"), parse::gid_type);
        let netdev =
            reader.optional(&format!("{dir}/gid_attrs/ndevs/{index}"), |text| parse::line(text).map(str::to_owned));
        gids.push(Gid { index, value, kind: kind.unwrap_or(GidType::IbOrRoceV1), netdev });
    }
    gids
}

fn pkeys(reader: &mut Reader<'_>, dir: &str) -> Vec<u16> {
    let mut pkeys = Vec::new();
    let mut empty = 0;
    for name in reader.names_or_none(&format!("{dir}/pkeys")) {
        match reader.optional(&format!("{dir}/pkeys/{name}"), parse::hex_u16) {
            Some(0) | None => empty += 1,
            Some(pkey) => {
                pkeys.push(pkey);
                empty = 0;
            }
        }
        if empty == EMPTY_PKEYS {
            break;
        }
    }
    pkeys
}
