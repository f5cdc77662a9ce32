//! PCI addresses, places in the PCI tree, and what makes a function a GPU.

use policies::fabric::GpuVendor;

/// Where a function sits: its address, and the bridges above it, root first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Path of the function's own directory.
    pub path: String,
    /// `0000:81:00.0`.
    pub address: String,
    /// `pci0000:80`, `0000:80:01.1`, …
    pub bridges: Vec<String>,
}

/// `DDDD:BB:DD.F`. A domain has at least four digits; Intel VMD and some hypervisors make five.
pub fn is_address(text: &str) -> bool {
    let mut parts = text.split(':');
    let (Some(domain), Some(bus), Some(slot), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Some((device, function)) = slot.split_once('.') else { return false };
    hex_of(domain, 4..=8) && hex_of(bus, 2..=2) && hex_of(device, 2..=2) && matches!(function.as_bytes(), [b'0'..=b'7'])
}

/// A PCI address as a line of text.
pub fn address(text: &str) -> Option<&str> {
    let text = text.trim();
    is_address(text).then_some(text)
}

/// `pciDDDD:BB`: a host bridge in `/sys/devices`.
pub fn is_root(text: &str) -> bool {
    let parts = text.strip_prefix("pci").and_then(|rest| rest.split_once(':'));
    parts.is_some_and(|(domain, bus)| hex_of(domain, 4..=8) && hex_of(bus, 2..=2))
}

/// The place of the innermost PCI function on a real path below `/sys`. What hangs under it (virtio, auxiliary devices) and
/// what the host bridge hangs under (ACPI, VMBus, platform) does not count.
pub fn place(path: &str) -> Option<Place> {
    let parts: Vec<&str> = path.split('/').collect();
    let own = parts.iter().rposition(|part| is_address(part))?;
    let above = parts[..own].iter().filter(|part| is_address(part) || is_root(part));
    Some(Place {
        path: parts[..=own].join("/"),
        address: parts[own].to_owned(),
        bridges: above.map(|part| (*part).to_owned()).collect(),
    })
}

/// The value of `KEY=` in a `uevent` file.
pub fn uevent<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.split_once('='));
    let (_, value) = lines.find(|(name, value)| *name == key && !value.is_empty())?;
    super::line(value)
}

/// Whose GPU a function of this vendor and 24-bit class is, if any.
///
/// Left out: NVSwitches (0x0680), the iGPUs of Intel and the VGA of a board's management controller (0x0300), audio functions.
pub fn gpu_vendor(vendor: u16, class: u32) -> Option<GpuVendor> {
    match (vendor, class >> 8) {
        (0x10de, 0x0300 | 0x0302) => Some(GpuVendor::Nvidia),
        // MI200 and MI300 call themselves processing accelerators (0x1200), older Instincts display controllers (0x0380).
        (0x1002, 0x0300 | 0x0302 | 0x0380 | 0x1200) => Some(GpuVendor::Amd),
        (0x8086, 0x0380) => Some(GpuVendor::Intel),
        (0x1da3, 0x1200) => Some(GpuVendor::Habana),
        _ => None,
    }
}

fn hex_of(text: &str, length: std::ops::RangeInclusive<usize>) -> bool {
    length.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0000:81:00.0", true)]
    #[case("10000:e1:00.7", true)]
    #[case("0000:81:00.8", false)]
    #[case("000:81:00.0", false)]
    #[case("0000:81:00", false)]
    #[case("0000:81:00.0:1", false)]
    #[case("pci0000:80", false)]
    #[case("", false)]
    fn addresses(#[case] text: &str, #[case] yes: bool) {
        assert_eq!(is_address(text), yes);
    }

    #[rstest]
    #[case("sys/devices/pci0000:80/0000:80:01.1/0000:81:00.0", Some(("0000:81:00.0", vec!["pci0000:80", "0000:80:01.1"])))]
    #[case("sys/devices/pci0000:00/0000:00:03.0/virtio2", Some(("0000:00:03.0", vec!["pci0000:00"])))]
    #[case("sys/devices/LNXSYSTM:00/LNXSYBUS:00/PNP0A03:00/device:07/VMBUS:01/47505500/pci0101:00/0101:00:00.0", Some(("0101:00:00.0", vec!["pci0101:00"])))]
    #[case("sys/devices/pci0000:00/0000:00:0e.0/pci10000:00/10000:00:01.0/10000:01:00.0", Some(("10000:01:00.0", vec!["pci0000:00", "0000:00:0e.0", "pci10000:00", "10000:00:01.0"])))]
    #[case("sys/bus/pci/devices/0000:81:00.0", Some(("0000:81:00.0", vec![])))]
    #[case("sys/class/infiniband/mlx5_0/device", None)]
    fn places(#[case] path: &str, #[case] expected: Option<(&str, Vec<&str>)>) {
        let found = place(path);
        let found =
            found.as_ref().map(|place| (place.address.as_str(), place.bridges.iter().map(String::as_str).collect()));
        assert_eq!(found, expected);
    }

    #[rstest]
    #[case(0x10de, 0x03_0200, Some(GpuVendor::Nvidia))]
    #[case(0x10de, 0x03_0000, Some(GpuVendor::Nvidia))]
    #[case(0x10de, 0x06_8000, None)]
    #[case(0x10de, 0x04_0300, None)]
    #[case(0x1002, 0x12_0000, Some(GpuVendor::Amd))]
    #[case(0x1002, 0x03_8000, Some(GpuVendor::Amd))]
    #[case(0x8086, 0x03_8000, Some(GpuVendor::Intel))]
    #[case(0x8086, 0x03_0000, None)]
    #[case(0x1da3, 0x12_0000, Some(GpuVendor::Habana))]
    #[case(0x1a03, 0x03_0000, None)]
    fn gpus(#[case] vendor: u16, #[case] class: u32, #[case] expected: Option<GpuVendor>) {
        assert_eq!(gpu_vendor(vendor, class), expected);
    }

    #[test]
    fn uevent_values() {
        let text = "DRIVER=mlx5_core\nPCI_ID=15B3:1021\nPCI_SLOT_NAME=0000:81:00.0\nEMPTY=\n";
        assert_eq!(uevent(text, "DRIVER"), Some("mlx5_core"));
        assert_eq!(uevent(text, "PCI_SLOT_NAME").and_then(address), Some("0000:81:00.0"));
        assert_eq!(uevent(text, "EMPTY"), None);
        assert_eq!(uevent(text, "SLOT_NAME"), None);
    }
}
