//! Tells software RDMA devices (rxe, siw) from hardware, by several signs: each kernel gives others.

use policies::fabric::NodeType;

use crate::{reader::Reader, survey::device::pci::Hardware};

/// Drivers of PCI functions that speak iWARP. An RNIC on any other is `siw` on an ordinary network card, which older
/// kernels show as the device's parent.
const IWARP_DRIVERS: [&str; 9] = ["cxgb3", "cxgb4", "i40e", "i40iw", "ice", "idpf", "irdma", "qede", "erdma"];

pub(super) fn is_software(
    reader: &mut Reader<'_>,
    name: &str,
    dir: &str,
    node_type: &NodeType,
    hardware: &Hardware,
) -> bool {
    // No device under it: the kernel files it below /sys/devices/virtual.
    if dir.starts_with("sys/devices/virtual/") {
        return true;
    }
    // Only rxe has an attribute `parent`: the interface it runs over (drivers/infiniband/sw/rxe/rxe_verbs.c).
    if reader.has(&format!("{dir}/parent")) {
        return true;
    }
    let description = reader.line(&format!("{dir}/node_desc")).unwrap_or_default();
    if description == "rxe" || description.starts_with("Software iWARP") {
        return true;
    }
    match (&hardware.driver, &hardware.place) {
        (Some(driver), _) => super::is_iwarp(node_type) && !IWARP_DRIVERS.contains(&driver.as_str()),
        (None, Some(_)) => false,
        // Names prove nothing, and here is nothing better: no hardware, and the prefix that both drivers' users give.
        (None, None) => hardware.dir.is_none() && (name.starts_with("rxe") || name.starts_with("siw")),
    }
}
