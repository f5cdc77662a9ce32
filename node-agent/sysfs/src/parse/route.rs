//! The kernel's tables of routes and addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use policies::fabric::Subnet;

use super::line;

const RTF_UP: u32 = 0x1;
const RTF_HOST: u32 = 0x4;
const RTF_REJECT: u32 = 0x200;
/// `IPV6_ADDR_ANY`, the scope that `if_inet6` prints for global and unique-local addresses.
const SCOPE_GLOBAL: &str = "00";

/// What a table of IPv4 routes says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// Subnets that interfaces are in: routes without a gateway.
    pub subnets: Vec<Subnet>,
    /// Interfaces with a default route, in order of appearance.
    pub default_netdevs: Vec<String>,
}

/// `/proc/net/route`: addresses are hexadecimal, in the byte order of the machine, which is little-endian on all we run on.
/// `None` where a line makes no sense.
pub fn ipv4_routes(text: &str) -> Option<Routes> {
    let mut lines = text.lines();
    if !lines.next()?.starts_with("Iface") {
        return None;
    }
    let mut routes = Routes::default();
    for row in lines.filter(|row| !row.trim().is_empty()) {
        let fields: Vec<&str> = row.split_whitespace().collect();
        let [netdev, destination, gateway, flags, _, _, _, mask, ..] = fields[..] else { return None };
        let (netdev, flags) = (line(netdev)?, u32::from_str_radix(flags, 16).ok()?);
        let (destination, gateway, mask) = (ipv4(destination)?, ipv4(gateway)?, ipv4(mask)?.to_bits());
        let (ones, contiguous) = (mask.leading_ones(), mask.leading_ones() + mask.trailing_zeros() >= 32);
        if flags & RTF_UP == 0 || flags & RTF_REJECT != 0 || netdev == "lo" {
            continue;
        }
        if destination.is_unspecified() && mask == 0 {
            push_new(&mut routes.default_netdevs, netdev);
        } else if gateway.is_unspecified() && flags & RTF_HOST == 0 && contiguous {
            let network = Ipv4Addr::from_bits(destination.to_bits() & mask).to_ipv6_mapped();
            routes.subnets.push(subnet(netdev, network, ones)?);
        }
    }
    Some(routes)
}

/// `/proc/net/if_inet6`: the subnets of global and unique-local addresses.
pub fn inet6_subnets(text: &str) -> Option<Vec<Subnet>> {
    let mut subnets = Vec::new();
    for row in text.lines().filter(|row| !row.trim().is_empty()) {
        let fields: Vec<&str> = row.split_whitespace().collect();
        let [address, _, prefix, scope, _, netdev] = fields[..] else { return None };
        let (address, prefix) = (ipv6(address)?, u32::from_str_radix(prefix, 16).ok().filter(|prefix| *prefix <= 128)?);
        if scope != SCOPE_GLOBAL {
            continue;
        }
        let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
        subnets.push(subnet(line(netdev)?, Ipv6Addr::from_bits(address.to_bits() & mask), prefix)?);
    }
    Some(subnets)
}

/// `/proc/net/ipv6_route`: interfaces with a default route, in order of appearance.
pub fn ipv6_default_routes(text: &str) -> Option<Vec<String>> {
    let mut netdevs = Vec::new();
    for row in text.lines().filter(|row| !row.trim().is_empty()) {
        let fields: Vec<&str> = row.split_whitespace().collect();
        let [destination, prefix, _, _, _, _, _, _, flags, netdev] = fields[..] else { return None };
        let (destination, flags) = (ipv6(destination)?, u32::from_str_radix(flags, 16).ok()?);
        let usable = flags & RTF_UP != 0 && flags & RTF_REJECT == 0 && netdev != "lo";
        if usable && destination.is_unspecified() && prefix == "00" {
            push_new(&mut netdevs, line(netdev)?);
        }
    }
    Some(netdevs)
}

fn subnet(netdev: &str, network: Ipv6Addr, prefix: u32) -> Option<Subnet> {
    Some(Subnet { netdev: netdev.to_owned(), network, prefix_len: prefix.try_into().ok()? })
}

fn push_new(list: &mut Vec<String>, item: &str) {
    if !list.iter().any(|old| old == item) {
        list.push(item.to_owned());
    }
}

fn ipv4(text: &str) -> Option<Ipv4Addr> {
    (text.len() == 8)
        .then(|| u32::from_str_radix(text, 16).ok())
        .flatten()
        .map(|bits| Ipv4Addr::from(bits.swap_bytes()))
}

fn ipv6(text: &str) -> Option<Ipv6Addr> {
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten().map(Ipv6Addr::from_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";

    fn shown(subnets: &[Subnet]) -> Vec<String> {
        let show = |subnet: &Subnet| {
            let network =
                subnet.network.to_ipv4_mapped().map_or_else(|| subnet.network.to_string(), |v4| v4.to_string());
            format!("{} {network}/{}", subnet.netdev, subnet.prefix_len)
        };
        subnets.iter().map(show).collect()
    }

    #[test]
    fn ipv4_table() {
        let rows = "eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                    rdma0\t0000140A\t00000000\t0001\t0\t0\t0\tFEFFFFFF\t0\t0\t0\n\
                    rdma0\t000010AC\t0100140A\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
                    down0\t0000150A\t00000000\t0000\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                    eth0\t0200000A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n";
        let routes = ipv4_routes(&format!("{HEAD}{rows}")).expect("a table");
        assert_eq!(shown(&routes.subnets), ["eth0 10.0.0.0/24", "rdma0 10.20.0.0/31"]);
        assert_eq!(routes.default_netdevs, ["eth0"]);
        assert_eq!(ipv4_routes(HEAD), Some(Routes::default()));
    }

    #[test]
    fn ipv4_garbage() {
        for bad in [
            "",
            "eth0",
            &format!("{HEAD}eth0\t0\n"),
            &format!("{HEAD}eth0\tXX000000\t00000000\t0003\t0\t0\t0\t00000000\n"),
        ] {
            assert_eq!(ipv4_routes(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn ipv6_tables() {
        let addresses = "00000000000000000000000000000001 01 80 10 80       lo\n\
                         fd000000000000000000000000000002 04 40 00 82     eth0\n\
                         fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n";
        assert_eq!(shown(&inet6_subnets(addresses).expect("a table")), ["eth0 fd00::/64"]);
        assert_eq!(inet6_subnets("x\n"), None);
        assert_eq!(inet6_subnets("fd000000000000000000000000000002 04 ff 00 82 eth0"), None);
        assert_eq!(
            inet6_subnets("fd000000000000000000000000000002 04 00 00 82 eth0").map(|all| shown(&all)),
            Some(vec!["eth0 ::/0".into()])
        );

        let (zero, gateway) = ("0".repeat(32), "fd000000000000000000000000000001");
        let routes = format!(
            "{zero} 00 {zero} 00 {gateway} 00000400 00000002 00000000 00000003     eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
        );
        assert_eq!(ipv6_default_routes(&routes), Some(vec!["eth0".into()]));
        assert_eq!(ipv6_default_routes("nonsense"), None);
    }
}
