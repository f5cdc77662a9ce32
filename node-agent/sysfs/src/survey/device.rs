//! RDMA devices of `/sys/class/infiniband`.

mod efa;
mod netdev;
mod pci;
mod software;

use std::collections::BTreeMap;

use policies::fabric::{Fact, Function, LinkLayer, NodeType, Port, RdmaDevice};

use crate::{
    cache::{self, Cache},
    parse,
    reader::Reader,
    root::Trouble,
    survey::{function, port, unknown},
};

const CLASS: &str = "sys/class/infiniband";
const MELLANOX: u16 = 0x15b3;
/// What a switch-management function says in its vital product data; other functions of the same device id do not.
const MANAGEMENT: &[u8] = b"SMDL=SW_MNG";
/// Vital product data ends at 32 KiB (PCI Local Bus Specification 3.0, appendix I: 15 address bits).
const VPD_LIMIT: usize = 32 * 1024;

/// All devices. Unknown where the class is unreadable, or where there are devices and not one of them could be read: no
/// decision may take that for a node without RDMA.
pub(super) fn all(reader: &mut Reader<'_>, cache: &mut Cache) -> Fact<Vec<RdmaDevice>> {
    let entries = match reader.entries(CLASS) {
        Ok(Some(entries)) => entries,
        Ok(None) => return Fact::Known(Vec::new()),
        Err(why) => return unknown(why),
    };
    let uverbs = uverbs(reader);
    let mut survey = Survey { reader, cache, uverbs, versions: BTreeMap::new() };
    let mut devices = Vec::new();
    let mut failure = None;
    for entry in entries {
        if entry.is_file() {
            // Never made by the kernel, and surely no device that we fail to read.
            survey.reader.garbled(&format!("{CLASS}/{}", entry.name), "a file where a device belongs");
            continue;
        }
        match survey.one(entry.name) {
            Ok(device) => devices.push(device),
            Err(why) => failure = Some(why),
        }
    }
    match failure {
        Some(why) if devices.is_empty() => unknown(why),
        _ => Fact::Known(devices),
    }
}

/// What all devices share.
struct Survey<'r, 'a> {
    reader: &'r mut Reader<'a>,
    cache: &'r mut Cache,
    /// `uverbsN` by device.
    uverbs: BTreeMap<String, String>,
    /// Version by driver.
    versions: BTreeMap<String, Option<String>>,
}

impl Survey<'_, '_> {
    fn one(&mut self, name: String) -> Result<RdmaDevice, String> {
        let reader = &mut *self.reader;
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
        let software = software::is_software(reader, &name, &dir, &node_type, &hardware);
        let hardware = if software { pci::Hardware::default() } else { hardware };
        let board_id = reader.optional(&format!("{dir}/board_id"), line);
        let management = management(reader, self.cache, &hardware, board_id.as_ref(), &ports);
        let netdevs = netdev::all(reader, &dir, &hardware, software, &ports);
        let physical = hardware.dir.as_ref().filter(|_| hardware.function == Function::Physical);
        Ok(RdmaDevice {
            driver_version: hardware.driver.as_ref().and_then(|driver| {
                let read = |driver: &String| reader.line(&format!("sys/module/{driver}/version"));
                self.versions.entry(driver.clone()).or_insert_with_key(read).clone()
            }),
            pcie: physical.and_then(|dir| function::pcie(reader, dir)),
            virtual_functions: physical.and_then(|dir| reader.optional(&format!("{dir}/sriov_numvfs"), number)),
            iommu: hardware.dir.as_ref().map_or(Fact::Known(None), |dir| function::iommu(reader, dir)),
            efa: efa::read(reader, &dir, &hardware),
            driver: hardware.driver,
            pci: hardware.place.as_ref().map(|place| place.address.clone()),
            pci_path: hardware.place.map(|place| place.bridges).unwrap_or_default(),
            vendor: hardware.vendor,
            device: hardware.device,
            numa: hardware.numa,
            node_type,
            firmware: reader.optional(&format!("{dir}/fw_ver"), line),
            hca_type: reader.optional(&format!("{dir}/hca_type"), line),
            board_id,
            function: hardware.function,
            software,
            management,
            netdevs,
            uverbs: self.uverbs.get(&name).cloned(),
            ports,
            name,
        })
    }
}

fn number(text: &str) -> Option<u32> {
    text.trim().parse().ok()
}

fn line(text: &str) -> Option<String> {
    parse::line(text).map(str::to_owned)
}

/// Only where it can be, and once a boot: reading vital product data is slow, and needs root.
fn management(
    reader: &mut Reader<'_>,
    cache: &mut Cache,
    hardware: &pci::Hardware,
    board: Option<&String>,
    ports: &[Port],
) -> Fact<bool> {
    let maybe = |port: &Port| matches!(port.link_layer, LinkLayer::InfiniBand | LinkLayer::Unknown);
    let Some(dir) = &hardware.dir else { return Fact::Known(false) };
    if hardware.vendor.is_some_and(|vendor| vendor != MELLANOX) || !ports.iter().any(maybe) {
        return Fact::Known(false);
    }
    let path = format!("{dir}/vpd");
    let function = cache::Function { dir: dir.clone(), ids: (hardware.vendor, hardware.device), board: board.cloned() };
    let answer = cache.management(function, || match reader.root().read_bytes(&path, VPD_LIMIT) {
        Ok(bytes) => Ok(bytes.windows(MANAGEMENT.len()).any(|window| window == MANAGEMENT)),
        Err(Trouble::Errno(rustix::io::Errno::NOENT)) => Ok(false),
        Err(trouble) => Err(trouble),
    });
    answer.map_or_else(
        |trouble| {
            reader.unreadable(&path, trouble);
            unknown(format!("/{path}: {trouble}"))
        },
        Fact::Known,
    )
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
