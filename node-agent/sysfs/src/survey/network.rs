//! Subnets and default routes of the host's network namespace.

use policies::fabric::Subnet;

use crate::{
    parse::{self, Routes},
    reader::Reader,
};

/// Subnets sorted, each once, and the interfaces of the default route.
///
/// Interfaces with an IPv6 default route count only where there is no IPv4 one: some clouds advertise an IPv6 default route
/// on every rail, which says nothing about which interface is the front end.
pub(super) fn read(reader: &mut Reader<'_>) -> Routes {
    let net = directory(reader);
    let mut routes = reader.optional(&format!("{net}/route"), parse::ipv4_routes).unwrap_or_default();
    let inet6: Option<Vec<Subnet>> = reader.optional(&format!("{net}/if_inet6"), parse::inet6_subnets);
    routes.subnets.extend(inet6.unwrap_or_default());
    routes.subnets.sort();
    routes.subnets.dedup();
    if routes.default_netdevs.is_empty() {
        routes.default_netdevs =
            reader.optional(&format!("{net}/ipv6_route"), parse::ipv6_default_routes).unwrap_or_default();
    }
    routes
}

/// Process 1 is in the host's network namespace, whatever namespace we are in ourselves.
fn directory(reader: &mut Reader<'_>) -> &'static str {
    let of_init = "proc/1/net";
    match reader.exists(&format!("{of_init}/route")) {
        Ok(true) => of_init,
        Ok(false) | Err(_) => "proc/net",
    }
}
