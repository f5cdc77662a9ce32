//! Which transport it really was, from what UCX says and what the kernel counted.

use policies::selftest::{Counter, Op};
use ucx_sys::text::{self, Lane};

/// From this size on, tagged messages are fetched by RMA where a lane can do that.
const RENDEZVOUS: u64 = 64 << 10;
/// What a packet carries at most, for counters of packets.
const PACKET: u64 = 4096;

/// The transport of one operation: what UCX said of the request, where that names a lane of the endpoint, or else the lane that is
/// for such operations.
pub(super) fn of(op: Op, bytes: u64, info: &str, lanes: &[Lane]) -> Option<String> {
    let named = text::used(info);
    let named = named.into_iter().filter(|(pair, _)| lanes.is_empty() || lanes.iter().any(|lane| lane.pair == *pair));
    // The first of those with the largest share.
    let said = named.reduce(|best, next| if next.1 > best.1 { next } else { best });
    if let Some((pair, _)) = said {
        return Some(pair);
    }
    let uses: &[&str] = match op {
        Op::Put | Op::Get => &["rma_bw", "rma", "am_bw", "am"],
        Op::Tag if bytes >= RENDEZVOUS => &["rma_bw", "am_bw", "tag", "am"],
        Op::Tag | Op::Latency => &["tag", "am", "am_bw"],
    };
    let lane = uses.iter().find_map(|name| lanes.iter().find(|lane| lane.uses.iter().any(|has| has == name)));
    lane.or(lanes.first()).map(|lane| lane.pair.clone())
}

/// What the kernel's counters say of a transport that should have carried the payload: a sentence, and whether they contradict it.
pub(super) fn counted(pair: &str, payload: u64, counters: &[Counter]) -> (Option<String>, bool) {
    let Some((transport, device)) = pair.split_once('/') else { return (None, false) };
    let of = |port: &str| -> Option<(String, u64)> {
        let counters = counters.iter().filter(|counter| counter.port == port);
        let bytes = counters.filter_map(|counter| match counter.name.as_str() {
            name if name.ends_with("_data") || name.ends_with("_bytes") => Some((name.to_owned(), counter.delta)),
            "sent_pkts" | "rcvd_pkts" => Some((counter.name.clone(), counter.delta.saturating_mul(PACKET))),
            _ => None,
        });
        bytes.max_by_key(|(_, bytes)| *bytes)
    };
    let found = match transport {
        // Between two processes of a node, without a device.
        "posix" | "sysv" | "cma" | "knem" | "xpmem" | "self" | "cuda_ipc" | "cuda_copy" | "gdr_copy" => {
            return (None, false);
        }
        // The kernel sends over lo what goes to an address of its own, whatever interface it belongs to.
        "tcp" => {
            [device, "lo"].into_iter().filter_map(|name| of(name).map(|found| (name, found))).max_by_key(|(_, f)| f.1)
        }
        _ => of(device).map(|found| (device, found)),
    };
    match found {
        Some((port, (name, bytes))) => {
            let few = bytes < payload / 2;
            let told =
                if name.ends_with("_pkts") { format!("{} packets", bytes / PACKET) } else { format!("{bytes} bytes") };
            let but = if few { "only " } else { "" };
            (Some(format!("the kernel counted {but}{told} ({name} of {port}) for {payload} bytes of payload")), few)
        }
        None => (Some(format!("no counter of {device} moved, so that only UCX says that it was used")), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(pair: &str, uses: &[&str]) -> Lane {
        Lane { pair: pair.into(), uses: uses.iter().map(|&name| name.into()).collect() }
    }

    fn counter(port: &str, name: &str, delta: u64) -> Counter {
        Counter { port: port.into(), name: name.into(), delta }
    }

    #[test]
    fn the_request_says_it_and_the_lanes_where_it_does_not() {
        let lanes = [lane("posix/memory", &["am"]), lane("cma/memory", &["rma_bw"]), lane("tcp/eth0", &["wireup"])];
        let cma = "tag_send from host memory length 134217728 rendezvous zero-copy read from remote cma/memory";
        assert_eq!(of(Op::Tag, 8, cma, &lanes).as_deref(), Some("cma/memory"));
        // A name that is no lane is no transport.
        assert_eq!(
            of(Op::Tag, 8, "put from host memory length 8 short bogus/x", &lanes).as_deref(),
            Some("posix/memory")
        );
        assert_eq!(of(Op::Put, 1 << 20, "<no debug info>", &lanes).as_deref(), Some("cma/memory"));
        assert_eq!(of(Op::Tag, 1 << 20, "", &lanes).as_deref(), Some("cma/memory"));
        assert_eq!(of(Op::Latency, 8, "", &lanes).as_deref(), Some("posix/memory"));
        let rails = "put from host memory length 9 zero-copy 40% on rc_mlx5/mlx5_0:1 and 60% on rc_mlx5/mlx5_1:1";
        assert_eq!(of(Op::Put, 9, rails, &[]).as_deref(), Some("rc_mlx5/mlx5_1:1"));
        assert_eq!(of(Op::Put, 9, "", &[]), None);
    }

    #[test]
    fn counters_confirm_or_contradict() {
        let moved = [counter("mlx5_0:1", "port_xmit_data", 1040), counter("eth0", "tx_bytes", 90)];
        let (text, contradicted) = counted("rc_mlx5/mlx5_0:1", 1000, &moved);
        assert!(!contradicted && text.unwrap().contains("1040 bytes (port_xmit_data of mlx5_0:1) for 1000 bytes"));
        let (text, contradicted) = counted("tcp/eth0", 1000, &moved);
        assert!(contradicted && text.unwrap().contains("only 90 bytes"));
        // To an own address, over lo.
        assert!(!counted("tcp/eth0", 1000, &[counter("lo", "rx_bytes", 1100), counter("eth0", "tx_bytes", 2)]).1);
        assert!(!counted("rc_verbs/rxe0:1", 8000, &[counter("rxe0:1", "sent_pkts", 9)]).1);
        assert_eq!(counted("cma/memory", 1000, &moved), (None, false));
        let (text, contradicted) = counted("srd/rdmap0s6:1", 1000, &moved);
        assert!(!contradicted && text.unwrap().contains("only UCX says"));
    }
}
