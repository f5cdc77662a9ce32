//! The kernel's counters of ports and interfaces, before and after.

use std::collections::BTreeMap;

use policies::selftest::Counter;
use sysfs::{Content, Listing, Root};

/// Counters of an InfiniBand or RoCE port: name, and what one of it is in bytes or events.
const PORT: [(&str, u64); 6] = [
    ("port_xmit_data", 4),
    ("port_rcv_data", 4),
    ("symbol_error", 1),
    ("link_downed", 1),
    ("port_rcv_errors", 1),
    ("port_xmit_discards", 1),
];
/// Counters of a driver, beside those of the port: rxe has only these, EFA these for its bytes, mlx5 those of congestion and loss.
const HARDWARE: [&str; 12] = [
    "sent_pkts",
    "rcvd_pkts",
    "tx_bytes",
    "rx_bytes",
    "rdma_read_bytes",
    "rdma_write_bytes",
    "retry_exceeded_err",
    "out_of_sequence",
    "packet_seq_err",
    "local_ack_timeout_err",
    "np_cnp_sent",
    "rp_cnp_handled",
];
/// Counters of a network interface.
const INTERFACE: [&str; 4] = ["tx_bytes", "rx_bytes", "tx_errors", "rx_errors"];

/// What they stood at.
#[derive(Debug, Default)]
pub(super) struct Snapshot(BTreeMap<(String, &'static str), u64>);

impl Snapshot {
    /// Reads them all. What cannot be read is left out.
    pub(super) fn take(root: &Root) -> Self {
        let mut found = BTreeMap::new();
        let names = |path: &str| match root.list(path) {
            Listing::Entries { names, .. } => names,
            Listing::Absent | Listing::Unreadable(_) => Vec::new(),
        };
        let number = |path: String| match root.read(&path) {
            Content::Text(text) => text.trim().parse::<u64>().ok(),
            Content::Absent | Content::Empty | Content::Unreadable(_) => None,
        };
        for interface in names("sys/class/net") {
            for name in INTERFACE {
                if let Some(value) = number(format!("sys/class/net/{interface}/statistics/{name}")) {
                    found.insert((interface.clone(), name), value);
                }
            }
        }
        for device in names("sys/class/infiniband") {
            for port in names(&format!("sys/class/infiniband/{device}/ports")) {
                let folder = format!("sys/class/infiniband/{device}/ports/{port}");
                let subject = format!("{device}:{port}");
                for (name, unit) in PORT {
                    if let Some(value) = number(format!("{folder}/counters/{name}")) {
                        found.insert((subject.clone(), name), value.wrapping_mul(unit));
                    }
                }
                for name in HARDWARE {
                    if let Some(value) = number(format!("{folder}/hw_counters/{name}")) {
                        found.insert((subject.clone(), name), value);
                    }
                }
            }
        }
        Self(found)
    }

    /// What moved since.
    pub(super) fn since(&self, before: &Self) -> Vec<Counter> {
        let moved = self.0.iter().filter_map(|((port, name), now)| {
            let delta = now.checked_sub(*before.0.get(&(port.clone(), *name))?)?;
            (delta > 0).then(|| Counter { port: port.clone(), name: (*name).into(), delta })
        });
        moved.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_moved_is_told_and_in_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let file = |path: &str, value: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, value).unwrap();
        };
        let port = "sys/class/infiniband/mlx5_0/ports/1";
        let (data, packets) = (format!("{port}/counters/port_xmit_data"), format!("{port}/hw_counters/sent_pkts"));
        file(&data, "100\n");
        file(&packets, "7\n");
        file("sys/class/net/eth0/statistics/tx_bytes", "N/A\n");
        let root = Root::open(folder.path()).unwrap();
        let before = Snapshot::take(&root);
        file(&data, "350\n");
        let moved = Snapshot::take(&root).since(&before);
        let expected = Counter { port: "mlx5_0:1".into(), name: "port_xmit_data".into(), delta: 1000 };
        assert_eq!(moved, [expected]);
        // One that was reset tells nothing.
        file(&data, "3\n");
        assert_eq!(Snapshot::take(&root).since(&before), []);
    }
}
