//! Entries of a port's GID table.

use std::net::Ipv6Addr;

use policies::fabric::GidType;

use super::line;

/// Most of a table is empty slots, so they are told by a look.
const EMPTY: &str = "0000:0000:0000:0000:0000:0000:0000:0000";

/// Eight groups of four hexadecimal digits; the kernel shows an empty slot as all zeros: [`Ipv6Addr::UNSPECIFIED`].
pub fn gid(text: &str) -> Option<Ipv6Addr> {
    if text.trim_end() == EMPTY {
        return Some(Ipv6Addr::UNSPECIFIED);
    }
    line(text)?.parse().ok()
}

/// `IB/RoCE v1` or `RoCE v2`.
pub fn gid_type(text: &str) -> Option<GidType> {
    Some(match line(text)? {
        "IB/RoCE v1" => GidType::IbOrRoceV1,
        "RoCE v2" => GidType::RoceV2,
        other => GidType::Other(other.into()),
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("0000:0000:0000:0000:0000:0000:0000:0000\n", Some("::"))]
    #[case("0000:0000:0000:0000:0000:ffff:0a14:0001", Some("::ffff:10.20.0.1"))]
    #[case("fe80:0000:0000:0000:a088:c2ff:fe30:5b10\n", Some("fe80::a088:c2ff:fe30:5b10"))]
    #[case("fe80:0000", None)]
    #[case("fe80:0000:0000:0000:a088:c2ff:fe30:5b10:1", None)]
    #[case("fe80-0000-0000-0000-a088-c2ff-fe30-5b10", None)]
    #[case("", None)]
    fn gids(#[case] text: &str, #[case] value: Option<&str>) {
        assert_eq!(gid(text), value.map(|value| value.parse().expect("an address")));
    }

    #[rstest]
    #[case("IB/RoCE v1\n", Some(GidType::IbOrRoceV1))]
    #[case("RoCE v2\n", Some(GidType::RoceV2))]
    #[case("RoCE v3", Some(GidType::Other("RoCE v3".into())))]
    #[case("", None)]
    fn types(#[case] text: &str, #[case] kind: Option<GidType>) {
        assert_eq!(gid_type(text), kind);
    }
}
