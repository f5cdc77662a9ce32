//! Parsers of the kernel's text: text in, value out. None of them panics, whatever the bytes; `None` means that the text
//! makes no sense, and a word that is well formed but unknown is kept as it was read.

mod gid;
mod link;
mod number;
mod pci;
mod port;
mod process;
mod route;

pub use gid::{gid, gid_type};
pub use link::{acs_redirects, link_speed, link_width};
pub use number::{cpu_list, hex_u16, hex_u32, numa_node};
pub use pci::{Place, address, gpu_vendor, is_address, is_root, place, uevent};
pub use port::{link_layer, node_type, phys_state, port_state, rate_gbps, traffic_class};
pub use process::{boot_id, iommu_parameters, kernel_release, memlock, netns_mode, nvidia_driver, os_name};
pub use route::{Routes, inet6_subnets, ipv4_routes, ipv6_default_routes};

/// Longest attribute that a person would want to see.
const MAX_LINE: usize = 256;

/// The text without surrounding white space, where it is one line of printable characters.
///
/// U+FFFD stands for bytes that were not UTF-8.
pub fn line(text: &str) -> Option<&str> {
    let text = text.trim();
    let printable = text.chars().all(|c| !c.is_control() && c != '\u{fffd}');
    (!text.is_empty() && text.len() <= MAX_LINE && printable).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_printable_line() {
        assert_eq!(line(" 28.39.1002\n"), Some("28.39.1002"));
        assert_eq!(line("Fedora Linux 40 (Ünïcode)"), Some("Fedora Linux 40 (Ünïcode)"));
        for bad in ["", " \n", "a\nb", "a\0b", "\u{fffd}", &"x".repeat(257)] {
            assert_eq!(line(bad), None, "{bad:?}");
        }
    }
}
