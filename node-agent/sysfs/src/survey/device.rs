//! RDMA devices of `/sys/class/infiniband`.

mod netdev;
mod pci;
mod software;

use std::collections::BTreeMap;

use policies::fabric::{Fact, LinkLayer, NodeType, Port, RdmaDevice};

use crate::{
    parse,
    reader::Reader,
    root::Trouble,
    survey::{port, unknown},
};

const CLASS: &str = "sys/class/infiniband";
const MELLANOX: u16 = 0x15b3;
/// What a switch-management function says in its vital product data; other functions of the same device id do not.
const MANAGEMENT: &[u8] = b"SMDL=SW_MNG";
/// Vital product data ends at 32 KiB (PCI Local Bus Specification 3.0, appendix I: 15 address bits).
const VPD_LIMIT: usize = 32 * 1024;

/// All devices. Unknown where the class is unreadable, or where there are devices and not one of them could be read: no
/// decision may take that for a node without RDMA.
pub(super) fn all(reader: &mut Reader<'_>) -> Fact<Vec<RdmaDevice>> {
    let names = match reader.names(CLASS) {
        Ok(Some(names)) => names,
        Ok(None) => return Fact::Known(Vec::new()),
        Err(why) => return unknown(why),
    };
    let uverbs = uverbs(reader);
    let mut devices = Vec::new();
    let mut failure = None;
    for name in names {
        let entry = format!("{CLASS}/{name}");
        if reader.root().read_bytes(&entry, 0).is_ok() {
            // Never made by the kernel, and surely no device that we fail to read.
            reader.garbled(&entry, "a file where a device belongs");
            continue;
        }
        match one(reader, &name, uverbs.get(&name)) {
            Ok(device) => devices.push(device),
            Err(why) => failure = Some(why),
        }
    }
    match failure {
        Some(why) if devices.is_empty() => unknown(why),
        _ => Fact::Known(devices),
    }
}

fn one(reader: &mut Reader<'_>, name: &str, uverbs: Option<&String>) -> Result<RdmaDevice, String> {
    let entry = format!("{CLASS}/{name}");
    let resolved = reader.real_path(&entry).ok_or_else(|| format!("/{entry} cannot be resolved"))?;
    if !resolved.exists {
        let trouble = Trouble::Errno(rustix::io::Errno::NOENT);
        reader.unreadable(&entry, trouble);
        return Err(format!("/{entry} points nowhere"));
    }
    let dir = resolved.path;
    let ports = port::all(reader, &dir)?;
    let node_type = reader.value(&format!("{dir}/node_type"), parse::node_type).unwrap_or_default();
    let hardware = pci::read(reader, &dir);
    let software = software::is_software(reader, name, &dir, &node_type, &hardware);
    let hardware = if software { pci::Hardware::default() } else { hardware };
    let management = management(reader, &hardware, &ports);
    let netdevs = netdev::all(reader, &dir, &hardware, software, &ports);
    let driver_version =
        hardware.driver.as_ref().and_then(|driver| reader.line(&format!("sys/module/{driver}/version")));
    Ok(RdmaDevice {
        name: name.to_owned(),
        driver: hardware.driver,
        driver_version,
        pci: hardware.place.as_ref().map(|place| place.address.clone()),
        pci_path: hardware.place.map(|place| place.bridges).unwrap_or_default(),
        vendor: hardware.vendor,
        device: hardware.device,
        numa: hardware.numa,
        node_type,
        firmware: reader.optional(&format!("{dir}/fw_ver"), line),
        hca_type: reader.optional(&format!("{dir}/hca_type"), line),
        board_id: reader.optional(&format!("{dir}/board_id"), line),
        function: hardware.function,
        software,
        management,
        netdevs,
        uverbs: uverbs.cloned(),
        ports,
    })
}

fn line(text: &str) -> Option<String> {
    parse::line(text).map(str::to_owned)
}

/// Only where it can be: reading vital product data is slow, and needs root.
fn management(reader: &mut Reader<'_>, hardware: &pci::Hardware, ports: &[Port]) -> Fact<bool> {
    let maybe = |port: &Port| matches!(port.link_layer, LinkLayer::InfiniBand | LinkLayer::Unknown);
    let Some(dir) = &hardware.dir else { return Fact::Known(false) };
    if hardware.vendor.is_some_and(|vendor| vendor != MELLANOX) || !ports.iter().any(maybe) {
        return Fact::Known(false);
    }
    let path = format!("{dir}/vpd");
    match reader.root().read_bytes(&path, VPD_LIMIT) {
        Ok(bytes) => Fact::Known(bytes.windows(MANAGEMENT.len()).any(|window| window == MANAGEMENT)),
        Err(Trouble::Errno(rustix::io::Errno::NOENT)) => Fact::Known(false),
        Err(trouble) => {
            reader.unreadable(&path, trouble);
            unknown(format!("/{path}: {trouble}"))
        }
    }
}

/// Device name to `uverbsN`, where the character device is there too.
fn uverbs(reader: &mut Reader<'_>) -> BTreeMap<String, String> {
    let class = "sys/class/infiniband_verbs";
    let mut found = BTreeMap::new();
    for name in reader.names_or_none(class) {
        if !name.starts_with("uverbs") {
            continue;
        }
        let Some(device) = reader.optional(&format!("{class}/{name}/ibdev"), line) else { continue };
        if reader.present(&format!("dev/infiniband/{name}")).is_yes() {
            found.insert(device, name);
        }
    }
    found
}

/// Node types that only iWARP hardware and software have.
fn is_iwarp(node_type: &NodeType) -> bool {
    matches!(node_type, NodeType::Rnic)
}
