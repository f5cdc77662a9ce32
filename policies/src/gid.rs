//! The GID choice: for one RoCE port the entry that UCX itself would take, and what that means.
//!
//! Order from `uct_ib_device_select_gid` (openucx/ucx, src/uct/ib/base/ib_device.c, read in 1.18 to 1.22): RoCE v2 over IPv4,
//! v2 over routable IPv6, v2 link-local, then the same for v1; within one kind the lowest index wins.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use crate::fabric::{Gid, GidType};

/// Kind of the GID that UCX would take, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GidKind {
    /// RoCE v2 over IPv4.
    V2Ipv4,
    /// RoCE v2 over IPv6 that is not link-local.
    V2Ipv6,
    /// RoCE v2 over link-local IPv6: does not leave the subnet.
    #[serde(rename = "v2-linklocal")]
    V2LinkLocal,
    /// RoCE v1: Ethernet frames, not routable.
    V1,
    /// The table is empty.
    None,
}

impl GidKind {
    /// The label value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2Ipv4 => "v2-ipv4",
            Self::V2Ipv6 => "v2-ipv6",
            Self::V2LinkLocal => "v2-linklocal",
            Self::V1 => "v1",
            Self::None => "none",
        }
    }

    /// Whether another subnet can reach it.
    pub const fn routable(self) -> bool {
        matches!(self, Self::V2Ipv4 | Self::V2Ipv6)
    }
}

/// What UCX would take on one RoCE port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GidChoice {
    /// Its kind.
    pub kind: GidKind,
    /// Its index in the port's table.
    pub index: Option<u32>,
    /// Its value.
    pub value: Option<Ipv6Addr>,
}

/// The entry of `gids` that UCX's `auto` takes on a RoCE port. Never asked for an InfiniBand port.
pub fn choose(gids: &[Gid]) -> GidChoice {
    gids.iter().filter_map(|gid| rank(gid).map(|rank| (rank, gid))).min_by_key(|(rank, gid)| (*rank, gid.index)).map_or(
        GidChoice { kind: GidKind::None, index: None, value: None },
        |((v1, family), gid)| GidChoice {
            kind: match (v1, family) {
                (false, Family::Ipv4) => GidKind::V2Ipv4,
                (false, Family::Ipv6) => GidKind::V2Ipv6,
                (false, Family::LinkLocal) => GidKind::V2LinkLocal,
                (true, _) => GidKind::V1,
            },
            index: Some(gid.index),
            value: Some(gid.value),
        },
    )
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Ipv4,
    Ipv6,
    LinkLocal,
}

/// `(is v1, address family)`; `None` for a type that UCX does not know either.
fn rank(gid: &Gid) -> Option<(bool, Family)> {
    let v1 = match gid.kind {
        GidType::RoceV2 => false,
        GidType::IbOrRoceV1 => true,
        GidType::Other(_) => return None,
    };
    let family = if gid.value.to_ipv4_mapped().is_some() {
        Family::Ipv4
    } else if gid.value.is_unicast_link_local() {
        Family::LinkLocal
    } else {
        Family::Ipv6
    };
    Some((v1, family))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(index: u32, value: &str, kind: GidType) -> Gid {
        Gid { index, value: value.parse().unwrap(), kind, netdev: None }
    }

    #[test]
    fn ucx_order() {
        use GidType::{IbOrRoceV1 as V1, Other, RoceV2 as V2};
        let cases: &[(&[Gid], GidKind, Option<u32>)] = &[
            (&[], GidKind::None, None),
            (&[gid(0, "fe80::1", V1)], GidKind::V1, Some(0)),
            (&[gid(0, "fe80::1", V1), gid(1, "fe80::1", V2)], GidKind::V2LinkLocal, Some(1)),
            (
                &[
                    gid(0, "fe80::1", V1),
                    gid(1, "fe80::1", V2),
                    gid(2, "::ffff:10.0.0.1", V1),
                    gid(3, "::ffff:10.0.0.1", V2),
                ],
                GidKind::V2Ipv4,
                Some(3),
            ),
            (&[gid(2, "2001:db8::1", V2), gid(7, "::ffff:10.0.0.1", V2)], GidKind::V2Ipv4, Some(7)),
            (&[gid(1, "fe80::1", V2), gid(4, "2001:db8::1", V2)], GidKind::V2Ipv6, Some(4)),
            (&[gid(9, "::ffff:10.0.0.2", V2), gid(5, "::ffff:10.0.0.1", V2)], GidKind::V2Ipv4, Some(5)),
            (&[gid(0, "::ffff:10.0.0.1", Other("RoCE v3".into()))], GidKind::None, None),
        ];
        for (gids, kind, index) in cases {
            let choice = choose(gids);
            assert_eq!((choice.kind, choice.index), (*kind, *index), "{gids:?}");
        }
    }
}
