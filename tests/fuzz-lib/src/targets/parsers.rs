//! Every parser on the same bytes: no panic, and what is accepted can be trusted.

use policies::{kernel::Version, rails, verdict};
use sysfs::parse;

/// Tries these.
pub fn run(bytes: &[u8]) {
    let text = &*String::from_utf8_lossy(bytes);
    if let Some(line) = parse::line(text) {
        assert!(line.len() <= 256 && !line.chars().any(char::is_control));
    }
    if let Some(gid) = parse::gid(text) {
        let kernel: Vec<String> = gid.segments().iter().map(|segment| format!("{segment:04x}")).collect();
        assert_eq!(parse::gid(&kernel.join(":")), Some(gid));
    }
    let _ = parse::gid_type(text);
    assert_eq!(parse::hex_u16(text).map(u32::from), parse::hex_u32(text).filter(|value| *value <= 0xffff));
    assert!(parse::numa_node(text).is_none_or(|node| node >= -1));
    assert!(parse::cpu_list(text).is_none_or(|list| list.len() <= 4096));
    assert!(parse::address(text).is_none_or(parse::is_address));
    let _ = parse::is_root(text);
    if let Some(place) = parse::place(text) {
        assert!(parse::is_address(&place.address) && text.contains(&place.path));
    }
    for key in ["DRIVER", "PCI_SLOT_NAME", ""] {
        let _ = parse::uevent(text, key);
    }
    let _ = (parse::link_layer(text), parse::node_type(text), parse::phys_state(text), parse::port_state(text));
    assert!(parse::rate_gbps(text).is_none_or(|rate| rate.is_finite() && rate >= 0.0));
    assert!(parse::link_speed(text).flatten().is_none_or(|speed| speed.is_finite() && speed >= 0.0));
    assert!(parse::link_width(text).flatten().is_none_or(|width| (1..=32).contains(&width)));
    let _ = (parse::traffic_class(text), parse::netns_mode(text), parse::memlock(text), parse::boot_id(text));
    for word in parse::iommu_parameters(text).unwrap_or_default() {
        assert!(!word.contains(char::is_whitespace) && !word.starts_with("password"));
    }
    let _ = (parse::nvidia_driver(text), parse::os_name(text));
    if let Some(release) = parse::kernel_release(text) {
        let _ = release.parse::<Version>();
    }
    let _ = (parse::inet6_subnets(text), parse::ipv4_routes(text), parse::ipv6_default_routes(text));
    let mut reads = 0;
    let _ = parse::acs_redirects(|offset| {
        reads += 1;
        let at = usize::from(offset);
        bytes.get(at..at + 4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
    });
    assert!(reads <= 1024);
    let _ = (rails::valid_net_devices(text), rails::valid_roce_subnets(text));
    let label = verdict::label_value(text);
    assert!(label.len() <= 63 && !label.starts_with(['.', '-', '_']) && !label.ends_with(['.', '-', '_']));
}
