//! Transfers that succeed: every operation, over every transport that any Linux has.

use policies::selftest::Integrity;

use super::*;

/// Everything moved, over this transport.
fn whole(reports: &Reports, transport: &str) {
    let report = &reports.initiator;
    assert_eq!((&report.failure, &reports.target.failure), (&None, &None), "{reports:#?}");
    assert_eq!((report.integrity, reports.target.integrity), (Integrity::Ok, Integrity::Ok));
    assert_eq!(report.transport.as_deref(), Some(transport), "{report:#?}");
    assert!(report.lanes.iter().any(|lane| lane == transport) && !report.evidence.is_empty(), "{report:#?}");
    assert!(report.sizes.iter().all(|figure| figure.iterations >= 5 && figure.usec > 0.0), "{report:#?}");
    let bandwidth = report.sizes.iter().filter(|figure| figure.op != Op::Latency);
    assert!(bandwidth.clone().count() > 0 && bandwidth.clone().all(|figure| figure.gbytes_per_s > 0.0), "{report:#?}");
}

/// Odd, one byte, a power of two, one that needs several of the pattern's blocks.
const SIZES: [u64; 4] = [1, 4096, 65_537, 1 << 20];

fn over_all_transports(ucx: &Path) {
    for (tls, transport) in [("posix", "posix/memory"), ("sysv", "sysv/memory"), ("posix,cma", "cma/memory")] {
        let reports = Case::all(tls, &SIZES).with(ucx, ucx).run();
        whole(&reports, transport);
        assert_eq!(reports.initiator.sizes.len(), 13);
        assert_eq!(reports.initiator.ucx.config.get("UCX_TLS").map(String::as_str), Some(tls));
    }
    let reports = Case::all("tcp", &SIZES).with(ucx, ucx).run();
    whole(&reports, "tcp/lo");
    let counted = |report: &Report| report.evidence.iter().any(|sentence| sentence.contains("_bytes of lo) for"));
    assert!(counted(&reports.initiator), "{reports:#?}");
    let latency = reports.initiator.sizes.iter().find(|figure| figure.op == Op::Latency).unwrap();
    let (mean, p99) = (latency.usec_mean.unwrap(), latency.usec_p99.unwrap());
    assert!(latency.usec <= p99 && mean > 0.0, "{latency:?}");
}

#[test]
fn the_distributions_ucx_moves_everything() {
    over_all_transports(&distribution());
}

#[test]
fn a_new_ucx_moves_everything_and_tells_its_protocol() {
    let ucx = wheel("wheel.txt");
    over_all_transports(&ucx);
    let reports = Case::new("posix,cma", &[Op::Tag], &[1 << 20]).with(&ucx, &ucx).run();
    let figure = &reports.initiator.sizes[0];
    assert!(figure.protocol.as_ref().is_some_and(|protocol| protocol.contains("rendezvous")), "{figure:?}");
    assert_eq!(reports.initiator.ucx.peer_version, "1.22.0");
}

#[test]
fn small_tags_pass_between_old_and_new_versions() {
    let (old, new) = (wheel("wheel-1.18.1.txt"), wheel("wheel-1.19.0.txt"));
    let net = Apart::net();
    for (initiator, target) in [(&old, &new), (&new, &old)] {
        // Small enough for no rendezvous, which reaches for the other side's memory too: 1.19 makes one at 4 KiB in a stream.
        let case = Case::new("tcp", &[Op::Tag, Op::Latency], &[256]).with(initiator, target).on(&net);
        whole(&case.run(), &format!("tcp/{INTERFACE}"));
    }
}

#[test]
fn the_orders_variables_are_in_force_and_no_others() {
    // Only the order's `UCX_` variables reach the child, whatever else it carries.
    let mut case = Case::new("tcp", &[Op::Put], &[4096]);
    case.initiator.env.insert("LD_PRELOAD".into(), "/nonexistent/evil.so".into());
    case.initiator.env.insert("UCX_RNDV_THRESH".into(), "64k".into());
    let reports = case.run();
    whole(&reports, "tcp/lo");
    let config = &reports.initiator.ucx.config;
    assert!(config.contains_key("UCX_RNDV_THRESH") && !config.contains_key("UCX_LOG_FILE"), "{config:?}");
    assert!(!reports.target.ucx.config.contains_key("UCX_RNDV_THRESH"));
}

#[test]
fn a_share_of_the_link_takes_its_time() {
    let case = Case::new("tcp", &[Op::Put], &[65_536]).limits(|limits| {
        limits.seconds_each = 0.2;
        limits.share = 0.2;
    });
    let reports = case.run();
    whole(&reports, "tcp/lo");
    // A fifth of a second of traffic, and four times as long of rest between its batches.
    assert!(reports.took > Duration::from_millis(600), "{reports:#?}");
}

/// The container's root is read-only, and the component selftest gives it no place to write (docs/selftest.md).
#[test]
fn nothing_is_written_but_shared_memory() {
    let sealed = Apart::sealed();
    // What --selftest-sizes is unless it is given.
    for (tls, transport) in [("posix", "posix/memory"), ("tcp", "tcp/lo")] {
        let mut case = Case::all(tls, &[1 << 20, 32 << 20]);
        case.agent = sealed.agent();
        whole(&case.run(), transport);
    }
}
