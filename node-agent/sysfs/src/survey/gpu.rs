//! GPUs, by PCI class and vendor.

use policies::fabric::{Fact, Gpu};

use crate::{parse, reader::Reader, survey::function};

const PCI: &str = "sys/bus/pci/devices";

pub(super) fn all(reader: &mut Reader<'_>) -> Fact<Vec<Gpu>> {
    let names = match reader.names(PCI) {
        Ok(names) => names.unwrap_or_default(),
        Err(why) => return Fact::Unknown(why),
    };
    let mut functions: Vec<&String> = names.iter().filter(|name| parse::is_address(name)).collect();
    // Addresses are hexadecimal, so natural order would be wrong; a longer domain is a greater one.
    functions.sort_by_key(|address| (address.len(), *address));
    Fact::Known(functions.into_iter().filter_map(|address| one(reader, address)).collect())
}

fn one(reader: &mut Reader<'_>, address: &str) -> Option<Gpu> {
    let entry = format!("{PCI}/{address}");
    let class = reader.value(&format!("{entry}/class"), parse::hex_u32)?;
    // Display controllers (03) and processing accelerators (12): nothing else can be a GPU, and machines have hundreds of functions.
    if !matches!(class >> 16, 0x03 | 0x12) {
        return None;
    }
    let vendor = reader.value(&format!("{entry}/vendor"), parse::hex_u16)?;
    let vendor = parse::gpu_vendor(vendor, class)?;
    let place = reader.real_path(&entry).and_then(|real| parse::place(&real.path));
    Some(Gpu {
        pci: address.to_owned(),
        pci_path: place.map(|place| place.bridges).unwrap_or_default(),
        vendor,
        device: reader.value(&format!("{entry}/device"), parse::hex_u16),
        numa: function::numa(reader, &entry),
        driver: reader.link_name(&format!("{entry}/driver")),
        pcie: function::pcie(reader, &entry),
        iommu: function::iommu(reader, &entry),
    })
}
