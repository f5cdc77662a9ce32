//! Network interfaces that belong to an RDMA device.

use policies::fabric::{Netdev, Port};

use super::pci::Hardware;
use crate::{parse, reader::Reader};

/// The interfaces of the same function; where it has none of its own (software, auxiliary devices) those that `parent` or
/// the GID table name.
pub(super) fn all(
    reader: &mut Reader<'_>,
    device_dir: &str,
    hardware: &Hardware,
    software: bool,
    ports: &[Port],
) -> Vec<Netdev> {
    let mut names = match &hardware.dir {
        Some(_) if !software => reader.names_or_none(&format!("{device_dir}/device/net")),
        Some(_) | None => Vec::new(),
    };
    if names.is_empty() {
        names.extend(
            reader
                .optional(&format!("{device_dir}/parent"), |text| parse::line(text).map(str::to_owned))
                .filter(|_| software),
        );
    }
    if names.is_empty() {
        let mut from_gids: Vec<&String> =
            ports.iter().flat_map(|port| &port.gids).filter_map(|gid| gid.netdev.as_ref()).collect();
        from_gids.sort();
        from_gids.dedup();
        names.extend(from_gids.into_iter().cloned());
    }
    // An interface name holds neither a slash nor a dot alone (`dev_valid_name` in the kernel).
    names.retain(|name| !name.contains('/') && !matches!(name.as_str(), "." | ".."));
    names.into_iter().map(|name| one(reader, device_dir, name)).collect()
}

fn one(reader: &mut Reader<'_>, device_dir: &str, name: String) -> Netdev {
    let class = format!("sys/class/net/{name}");
    let dir = match reader.exists(&class) {
        Ok(true) => class,
        Ok(false) | Err(_) => format!("{device_dir}/device/net/{name}"),
    };
    let master = reader.link_name(&format!("{dir}/master"));
    let master_driver =
        master.as_ref().and_then(|master| reader.link_name(&format!("sys/class/net/{master}/device/driver")));
    Netdev {
        master,
        master_driver,
        operstate: reader.optional(&format!("{dir}/operstate"), |text| parse::line(text).map(str::to_owned)),
        mtu: reader.optional(&format!("{dir}/mtu"), |text| text.trim().parse().ok()),
        name,
    }
}
