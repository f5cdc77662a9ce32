//! Attributes of RDMA devices and their ports. Words from the kernel's drivers/infiniband/core/sysfs.c.

use policies::fabric::{LinkLayer, NodeType, PortState};

use super::line;

/// No rate the kernel can print is above this (12X XDR is 2.4 Tb/s).
const MAX_RATE: f64 = 100_000.0;

/// `4: ACTIVE`. Where there is no number, the word decides.
pub fn port_state(text: &str) -> Option<PortState> {
    let text = line(text)?;
    let (number, word) = numbered(text);
    let state = match (number, word) {
        (Some("0"), _) | (None, "NOP") => PortState::Nop,
        (Some("1"), _) | (None, "DOWN") => PortState::Down,
        (Some("2"), _) | (None, "INIT") => PortState::Init,
        (Some("3"), _) | (None, "ARMED") => PortState::Armed,
        (Some("4"), _) | (None, "ACTIVE") => PortState::Active,
        (Some("5"), _) | (None, "ACTIVE_DEFER") => PortState::ActiveDefer,
        (Some(_) | None, _) => PortState::Other(text.into()),
    };
    Some(state)
}

/// `5: LinkUp`, without its number.
pub fn phys_state(text: &str) -> Option<String> {
    let (_, word) = numbered(line(text)?);
    (!word.is_empty()).then(|| word.to_owned())
}

/// `400 Gb/sec (4X NDR)`, `2.5 Gb/sec (1X SDR)`: Gb/s.
pub fn rate_gbps(text: &str) -> Option<f64> {
    let (number, unit) = line(text)?.split_once(' ')?;
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if !plain || !unit.trim_start().starts_with("Gb/sec") {
        return None;
    }
    number.parse().ok().filter(|rate| (0.0..=MAX_RATE).contains(rate))
}

/// `InfiniBand`, `Ethernet`. The kernel writes `Unknown` for `IB_LINK_LAYER_UNSPECIFIED`, which is what EFA has; verbs
/// tools write the same as `Unspecified`.
pub fn link_layer(text: &str) -> Option<LinkLayer> {
    Some(match line(text)? {
        "InfiniBand" => LinkLayer::InfiniBand,
        "Ethernet" => LinkLayer::Ethernet,
        "Unknown" | "Unspecified" => LinkLayer::Unspecified,
        other => LinkLayer::Other(other.into()),
    })
}

/// `1: CA`; the numbers are `enum rdma_node_type` (include/rdma/ib_verbs.h).
pub fn node_type(text: &str) -> Option<NodeType> {
    let text = line(text)?;
    let (number, word) = numbered(text);
    Some(match (number, word) {
        (Some("1"), _) | (None, "CA") => NodeType::Ca,
        (Some("2"), _) | (None, "switch") => NodeType::Switch,
        (Some("3"), _) | (None, "router") => NodeType::Router,
        (Some("4"), _) | (None, "RNIC") => NodeType::Rnic,
        (Some("5"), _) | (None, "usNIC") => NodeType::UsNic,
        (Some("6"), _) | (None, "usNIC UDP") => NodeType::UsNicUdp,
        (Some("7"), _) | (None, "unspecified") => NodeType::Unspecified,
        (Some(_) | None, _) => NodeType::Other(text.into()),
    })
}

/// `Global tclass=106` among the lines of `traffic_class`; the inner `None` where only rules for some traffic, or nothing, is set.
pub fn traffic_class(text: &str) -> Option<Option<u8>> {
    let Some(value) = text.lines().find_map(|line| line.trim().strip_prefix("Global tclass=")) else {
        // Rules name addresses and classes; whatever they say, they are not for all traffic.
        return text.chars().all(|c| c != '\u{fffd}' && c != '\0').then_some(None);
    };
    super::number::decimal(value.trim())?.try_into().ok().map(Some)
}

/// `4: ACTIVE` as its number and word; a lone number is a number, anything else a word.
fn numbered(text: &str) -> (Option<&str>, &str) {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.split_once(':') {
        Some((number, word)) if is_number(number) => (Some(number), word.trim()),
        Some(_) | None if is_number(text) => (Some(text), ""),
        Some(_) | None => (None, text),
    }
}

#[cfg(test)]
#[expect(clippy::option_option, reason = "no sense, no value, and a value are three answers")]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0: NOP", Some(PortState::Nop))]
    #[case("1: DOWN\n", Some(PortState::Down))]
    #[case("2: INIT", Some(PortState::Init))]
    #[case("3: ARMED", Some(PortState::Armed))]
    #[case("4: ACTIVE\n", Some(PortState::Active))]
    #[case("5: ACTIVE_DEFER", Some(PortState::ActiveDefer))]
    #[case("4", Some(PortState::Active))]
    #[case("ACTIVE", Some(PortState::Active))]
    #[case("6: UNKNOWN", Some(PortState::Other("6: UNKNOWN".into())))]
    #[case("44: ACTIVE", Some(PortState::Other("44: ACTIVE".into())))]
    #[case("active", Some(PortState::Other("active".into())))]
    #[case("", None)]
    #[case("4: ACTIVE\n4: ACTIVE", None)]
    fn states(#[case] text: &str, #[case] state: Option<PortState>) {
        assert_eq!(port_state(text), state);
    }

    #[rstest]
    #[case("5: LinkUp\n", Some("LinkUp"))]
    #[case("4: PortConfigurationTraining", Some("PortConfigurationTraining"))]
    #[case("7: Phy Test", Some("Phy Test"))]
    #[case("9: <unknown>", Some("<unknown>"))]
    #[case("5", None)]
    #[case("5:", None)]
    #[case("\0", None)]
    fn phys_states(#[case] text: &str, #[case] word: Option<&str>) {
        assert_eq!(phys_state(text).as_deref(), word);
    }

    #[rstest]
    #[case("2.5 Gb/sec (1X SDR)\n", Some(2.5))]
    #[case("10 Gb/sec (4X)", Some(10.0))]
    #[case("56 Gb/sec (4X FDR)", Some(56.0))]
    #[case("400 Gb/sec (4X NDR)", Some(400.0))]
    #[case("800 Gb/sec (4X XDR)", Some(800.0))]
    #[case("0 Gb/sec", Some(0.0))]
    #[case("-1 Gb/sec", None)]
    #[case("inf Gb/sec", None)]
    #[case("1e9 Gb/sec", None)]
    #[case("999999999 Gb/sec", None)]
    #[case("400", None)]
    #[case("400 Mb/sec", None)]
    #[case(". Gb/sec", None)]
    fn rates(#[case] text: &str, #[case] rate: Option<f64>) {
        assert_eq!(rate_gbps(text), rate);
    }

    #[rstest]
    #[case("InfiniBand\n", Some(LinkLayer::InfiniBand))]
    #[case("Ethernet", Some(LinkLayer::Ethernet))]
    #[case("Unknown", Some(LinkLayer::Unspecified))]
    #[case("Unspecified", Some(LinkLayer::Unspecified))]
    #[case("Pigeon", Some(LinkLayer::Other("Pigeon".into())))]
    #[case("", None)]
    fn link_layers(#[case] text: &str, #[case] layer: Option<LinkLayer>) {
        assert_eq!(link_layer(text), layer);
    }

    #[rstest]
    #[case("1: CA\n", Some(NodeType::Ca))]
    #[case("2: switch", Some(NodeType::Switch))]
    #[case("3: router", Some(NodeType::Router))]
    #[case("4: RNIC", Some(NodeType::Rnic))]
    #[case("5: usNIC", Some(NodeType::UsNic))]
    #[case("6: usNIC UDP", Some(NodeType::UsNicUdp))]
    #[case("7: unspecified", Some(NodeType::Unspecified))]
    #[case("8: <unknown>", Some(NodeType::Other("8: <unknown>".into())))]
    #[case("", None)]
    fn node_types(#[case] text: &str, #[case] kind: Option<NodeType>) {
        assert_eq!(node_type(text), kind);
    }

    #[rstest]
    #[case("Global tclass=106\n", Some(Some(106)))]
    #[case("Global tclass=236\nsrc_ip=10.0.0.1 tclass=64\n", Some(Some(236)))]
    #[case("src_ip=10.0.0.1 tclass=64\n", Some(None))]
    #[case("Global tclass=256", None)]
    #[case("Global tclass=", None)]
    #[case("\0\0", None)]
    fn traffic_classes(#[case] text: &str, #[case] class: Option<Option<u8>>) {
        assert_eq!(traffic_class(text), class);
    }
}
