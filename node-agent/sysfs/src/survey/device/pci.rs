//! What is under an RDMA device: its PCI function and the driver bound to it.

use policies::fabric::Function;

use crate::{
    parse::{self, Place},
    reader::Reader,
    survey::function,
};

/// Device ids of NVIDIA's virtual functions (`mlx5_core_pci_table` in the kernel's mlx5 driver): a guest sees no `physfn`.
const MLX5_VIRTUAL: [u16; 8] = [0x1012, 0x1014, 0x1016, 0x1018, 0x101a, 0x101c, 0x101e, 0xa2d3];

/// The hardware under an RDMA device; empty for software ones.
#[derive(Debug, Default)]
pub(super) struct Hardware {
    /// Directory of `device`, without links; the PCI function's, or that of what hangs under it (auxiliary, virtio).
    pub(super) dir: Option<String>,
    pub(super) driver: Option<String>,
    pub(super) place: Option<Place>,
    pub(super) vendor: Option<u16>,
    pub(super) device: Option<u16>,
    pub(super) numa: Option<u32>,
    pub(super) function: Function,
}

pub(super) fn read(reader: &mut Reader<'_>, device_dir: &str) -> Hardware {
    let Some(real) = reader.real_path(&format!("{device_dir}/device")) else { return Hardware::default() };
    let mut place = parse::place(&real.path);
    if !real.exists {
        // A link that dangles still names the function.
        return Hardware { place, ..Hardware::default() };
    }
    let dir = real.path;
    let uevent = reader.text(&format!("{dir}/uevent")).unwrap_or_default();
    if place.is_none() {
        place =
            parse::uevent(&uevent, "PCI_SLOT_NAME").and_then(parse::address).map(|address| by_address(reader, address));
    }
    let driver = reader.link_name(&format!("{dir}/driver"));
    // Attributes are the PCI function's, also where `device` is something below it.
    let function_dir = match &place {
        Some(place) if !place.path.is_empty() => place.path.clone(),
        Some(_) | None => dir.clone(),
    };
    let ids = parse::uevent(&uevent, "PCI_ID").and_then(|ids| ids.split_once(':'));
    let id = |part: Option<&str>| part.and_then(parse::hex_u16);
    let vendor = reader.value(&format!("{function_dir}/vendor"), parse::hex_u16).or_else(|| id(ids.map(|ids| ids.0)));
    let device = reader.value(&format!("{function_dir}/device"), parse::hex_u16).or_else(|| id(ids.map(|ids| ids.1)));
    let physfn = format!("{function_dir}/physfn");
    let mlx5_virtual = vendor == Some(super::MELLANOX) && device.is_some_and(|device| MLX5_VIRTUAL.contains(&device));
    let kind = if matches!(reader.link(&physfn), Ok(Some(_))) || reader.has(&physfn) || mlx5_virtual {
        Function::Virtual
    } else if place.is_some() {
        Function::Physical
    } else {
        Function::Unknown
    };
    Hardware {
        driver: driver.or_else(|| parse::uevent(&uevent, "DRIVER").map(str::to_owned)),
        numa: function::numa(reader, &function_dir),
        dir: Some(function_dir),
        place,
        vendor,
        device,
        function: kind,
    }
}

/// The place of an address that only `uevent` told: the bus directory links into the tree, where there is one.
fn by_address(reader: &mut Reader<'_>, address: &str) -> Place {
    let real = reader.real_path(&format!("sys/bus/pci/devices/{address}")).filter(|real| real.exists);
    let bridges = real.and_then(|real| parse::place(&real.path)).map(|place| place.bridges);
    Place { path: String::new(), address: address.to_owned(), bridges: bridges.unwrap_or_default() }
}
