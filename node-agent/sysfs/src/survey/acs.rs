//! Access Control Services: whether PCIe switches let their functions talk to each other.

use std::collections::BTreeSet;

use policies::fabric::{Fact, Gpu, RdmaDevice};

use crate::{parse, reader::Reader, survey::unknown};

/// A host bridge and a root port: what is below both is behind a switch.
const ABOVE_SWITCH: usize = 2;
/// Sixteen GPUs and as many NICs behind three levels of switches have fewer ports above them.
const MAX_BRIDGES: usize = 512;

/// Ports of switches above GPUs and NICs that redirect. Those of the root complex say nothing: what reaches them is there already.
pub(super) fn redirects(
    reader: &mut Reader<'_>,
    devices: Option<&Vec<RdmaDevice>>,
    gpus: Option<&Vec<Gpu>>,
) -> Fact<Vec<String>> {
    let (Some(devices), Some(gpus)) = (devices, gpus) else {
        return unknown("the GPUs or the RDMA devices could not be read");
    };
    if gpus.is_empty() {
        return Fact::Known(Vec::new());
    }
    let paths = devices.iter().map(|device| &device.pci_path).chain(gpus.iter().map(|gpu| &gpu.pci_path));
    let bridges: BTreeSet<&String> =
        paths.flat_map(|path| path.iter().skip(ABOVE_SWITCH)).filter(|bridge| parse::is_address(bridge)).collect();
    let mut found = Vec::new();
    for bridge in bridges.into_iter().take(MAX_BRIDGES) {
        let path = format!("sys/bus/pci/devices/{bridge}/config");
        let config = match reader.root().config(&path) {
            Ok(config) => config,
            // Not a problem: it says nothing about whether the node works.
            Err(trouble) => return unknown(format!("/{path}: {trouble}")),
        };
        if !config.is_extended() {
            continue;
        }
        match parse::acs_redirects(|offset| config.word(offset)) {
            Some(true) => found.push(bridge.clone()),
            Some(false) => {}
            None => return unknown(format!("/{path}: past the first 64 bytes only with CAP_SYS_ADMIN")),
        }
    }
    Fact::Known(found)
}
