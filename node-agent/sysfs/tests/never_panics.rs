//! No parser panics, whatever the bytes; and what one accepts, it can be trusted with.

use proptest::prelude::*;
use sysfs::parse;

fn run_all(text: &str) {
    let _ = parse::line(text);
    let _ = parse::gid(text);
    let _ = parse::gid_type(text);
    let _ = parse::hex_u16(text);
    let _ = parse::hex_u32(text);
    let _ = parse::numa_node(text);
    let _ = parse::cpu_list(text);
    let _ = parse::address(text);
    let _ = parse::is_root(text);
    let _ = parse::place(text);
    let _ = parse::uevent(text, "DRIVER");
    let _ = parse::boot_id(text);
    let _ = parse::iommu_parameters(text);
    let _ = parse::link_layer(text);
    let _ = parse::link_speed(text);
    let _ = parse::link_width(text);
    let _ = parse::traffic_class(text);
    let _ = parse::node_type(text);
    let _ = parse::phys_state(text);
    let _ = parse::port_state(text);
    let _ = parse::rate_gbps(text);
    let _ = parse::kernel_release(text);
    let _ = parse::memlock(text);
    let _ = parse::netns_mode(text);
    let _ = parse::nvidia_driver(text);
    let _ = parse::os_name(text);
    let _ = parse::inet6_subnets(text);
    let _ = parse::ipv4_routes(text);
    let _ = parse::ipv6_default_routes(text);
}

/// Pieces of real files, so that random text gets past the first check of a parser.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "4: ACTIVE",
        ":",
        ".",
        "-",
        ",",
        "0x",
        "ffff",
        "0000",
        "400 Gb/sec (4X NDR)",
        " Gb/sec",
        "Iface\tDestination\n",
        "eth0",
        "\t",
        "\n",
        " ",
        "00000000",
        "FFFFFFFF",
        "fe800000000000000000000000000001",
        "00000000000000000000000000000000",
        "80",
        "00",
        "0003",
        "Max locked memory",
        "unlimited",
        "PRETTY_NAME=",
        "\"",
        "'",
        "\\",
        "NVRM version:",
        "570.86.15",
        "pci0000:00",
        "0000:00:01.0",
        "/",
        "é",
        "\u{fffd}",
        "\0",
        "18446744073709551616",
        "32.0 GT/s PCIe",
        "Global tclass=",
        "iommu=pt",
        "-1",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        run_all(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn on_arbitrary_text(text in any::<String>()) {
        run_all(&text);
    }

    #[test]
    fn on_pieces_of_real_files(text in pieces()) {
        run_all(&text);
    }

    #[test]
    fn every_gid_reads_back(bits in any::<u128>()) {
        let address = std::net::Ipv6Addr::from_bits(bits);
        let kernel: Vec<String> = address.segments().iter().map(|segment| format!("{segment:04x}")).collect();
        prop_assert_eq!(parse::gid(&kernel.join(":")), Some(address));
    }

    #[test]
    fn rates_are_finite(text in "[0-9.]{1,12} Gb/sec") {
        if let Some(rate) = parse::rate_gbps(&text) {
            prop_assert!(rate.is_finite() && rate >= 0.0);
        }
    }

    #[test]
    fn lists_are_bounded(first in any::<u32>(), last in any::<u32>()) {
        if let Some(list) = parse::cpu_list(&format!("{first}-{last}")) {
            prop_assert!(list.len() <= 4096);
        }
    }

    #[test]
    fn no_configuration_space_is_walked_for_ever(words in prop::collection::vec(any::<u32>(), 1024)) {
        let mut reads = 0_usize;
        let _ = parse::acs_redirects(|offset| {
            reads += 1;
            words.get(usize::from(offset) / 4).copied()
        });
        prop_assert!(reads <= 1024);
    }
}
