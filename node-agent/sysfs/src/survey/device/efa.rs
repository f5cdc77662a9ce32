//! What is special about AWS's Elastic Fabric Adapter.

use policies::fabric::{Efa, Fact};

use super::pci::Hardware;
use crate::reader::Reader;

const AMAZON: u16 = 0x1d0f;
/// Device ids 0xefa0, 0xefa1… (`efa_pci_tbl` in the kernel's driver); ENA is 0xec20.
const DEVICES: std::ops::RangeInclusive<u16> = 0xefa0..=0xefaf;
/// Where the driver counts: for the device as a whole up to kernel 5.15, for the port since.
const COUNTERS: [&str; 2] = ["ports/1/hw_counters", "hw_counters"];

pub(super) fn read(reader: &mut Reader<'_>, device_dir: &str, hardware: &Hardware) -> Option<Efa> {
    let id = hardware.device.filter(|id| hardware.vendor == Some(AMAZON) && DEVICES.contains(id));
    if id.is_none() && hardware.driver.as_deref() != Some("efa") {
        return None;
    }
    let mut counts = |counter: &str| counts(reader, device_dir, counter);
    Some(Efa {
        generation: id.map(|id| format!("efa{:x}", id - DEVICES.start())),
        counts_reads: counts("rdma_read_bytes"),
        counts_writes: counts("rdma_write_bytes"),
        ..only_the_device_tells()
    })
}

/// The counters are listed whatever the hardware can, so their names prove nothing.
fn only_the_device_tells() -> Efa {
    let why = "sysfs does not tell; efadv_query_device does";
    Efa { rdma_read: Fact::Unknown(why.into()), rdma_write: Fact::Unknown(why.into()), ..Efa::default() }
}

/// Whether there is such a counter. Its value is not read.
fn counts(reader: &mut Reader<'_>, device_dir: &str, counter: &str) -> Fact<bool> {
    let mut any = false;
    for folder in COUNTERS.map(|folder| format!("{device_dir}/{folder}")) {
        any |= reader.has(&folder);
        if reader.has(&format!("{folder}/{counter}")) {
            return Fact::Known(true);
        }
    }
    if any { Fact::Known(false) } else { Fact::Unknown("the driver shows no counters here".into()) }
}
