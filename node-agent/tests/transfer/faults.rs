//! Transfers that fail: each with a clear reason, within its time, and with nothing left behind.

use policies::selftest::Integrity;
use rustix::process::{Pid, Signal, kill_process};

use super::*;

const PUT: [Op; 1] = [Op::Put];

fn signal(process: Option<u32>, signal: Signal) {
    let pid = process.and_then(|process| Pid::from_raw(i32::try_from(process).unwrap())).unwrap();
    kill_process(pid, signal).unwrap();
}

#[test]
fn every_corruption_is_found() {
    for (how, op, message) in [
        ("lose-put", Op::Put, "byte 4094 of 4095 is"),
        ("flip-put", Op::Put, "byte 2047 of 4095 is"),
        ("lose-get", Op::Get, "byte 4094 of 4095 is"),
        ("lose-tag", Op::Tag, "byte 4094 of 4095 is"),
        ("flip-tag", Op::Tag, "byte 2047 of 4095 is"),
    ] {
        let ucx = broken(how);
        let reports = Case::new("tcp", &[op], &[4096]).with(ucx.path(), &distribution()).run();
        reports.failed(FailureKind::Corrupt, message);
        assert_eq!(reports.initiator.integrity, Integrity::Corrupt, "{how}: {reports:#?}");
    }
    // The fake itself breaks nothing.
    let ucx = broken("nothing");
    let reports = Case::all("tcp", &[4096]).with(ucx.path(), &distribution()).run();
    assert_eq!(reports.initiator.failure, None, "{reports:#?}");
}

#[test]
fn a_killed_peer_is_told_at_once_with_what_was_measured() {
    for tls in ["tcp", "posix"] {
        let case = Case::new(tls, &PUT, &[4096, 65_536]).limits(|limits| limits.seconds_each = 2.0);
        let reports = case.run_with(
            |_, word| word,
            |pair, step| {
                if step == 2 {
                    signal(pair.target.process(), Signal::KILL);
                }
            },
        );
        assert_eq!(reports.target.failure.as_ref().map(|failure| failure.kind), Some(FailureKind::Crashed));
        let target = &reports.target.failure.as_ref().unwrap().message;
        assert!(target.contains("died of SIGKILL while put 64 KiB") || target.contains("while put 4 KiB"), "{target}");
        // UCX may notice before our own word arrives, over tcp.
        let kind = reports.failure().kind;
        assert!(matches!(kind, FailureKind::Peer | FailureKind::Broken), "{reports:#?}");
        assert!(reports.took < Duration::from_secs(15) && reports.initiator.sizes.len() == 1, "{reports:#?}");
    }
}

#[test]
fn a_hung_peer_stalls_its_initiator_and_is_killed_at_its_deadline() {
    for tls in ["tcp", "posix"] {
        let case = Case::new(tls, &[Op::Tag], &[4096, 65_536]).limits(|limits| {
            limits.stall_seconds = 2.0;
            limits.deadline_seconds = 9.0;
        });
        let reports = case.run_with(
            |_, word| word,
            |pair, step| {
                if step == 2 {
                    signal(pair.target.process(), Signal::STOP);
                }
            },
        );
        reports.failed(FailureKind::Stalled, "2s");
        let target = reports.target.failure.as_ref().unwrap();
        assert!(target.kind == FailureKind::Deadline && target.message.contains("killed while"), "{target:?}");
        assert!(reports.took < Duration::from_secs(9) && reports.target_took < Duration::from_secs(15), "{reports:#?}");
    }
}

#[test]
fn versions_that_do_not_reach_each_others_memory_say_so() {
    let [newest, old, new] = ["wheel.txt", "wheel-1.18.1.txt", "wheel-1.19.0.txt"].map(wheel);
    let net = Apart::net();
    let ours = distribution();
    for (initiator, target) in [(&ours, &newest), (&newest, &ours), (&old, &new), (&new, &old)] {
        let reports = Case::new("tcp", &PUT, &[4096]).with(initiator, target).on(&net).run();
        // Who finds out first tells the other: one of them says what it is, both name the versions.
        let failures = [reports.failure(), reports.target.failure.as_ref().unwrap()];
        assert!(failures.iter().any(|failure| failure.kind == FailureKind::Protocol), "{reports:#?}");
        let versions = [&reports.initiator.ucx.version, &reports.initiator.ucx.peer_version];
        for failure in failures {
            assert!(matches!(failure.kind, FailureKind::Protocol | FailureKind::Peer), "{reports:#?}");
            assert!(failure.message.contains("from 1.19 on, UCX reaches memory over TCP in a way"), "{failure:?}");
            assert!(versions.iter().all(|version| failure.message.contains(version.as_str())), "{failure:?}");
        }
        assert!(reports.took < Duration::from_secs(30), "{reports:#?}");
    }
}

#[test]
fn agents_of_another_version_say_so() {
    let newer = |role: Role, word: String| match role {
        Role::Target => word.replace("\"protocol\":1", "\"protocol\":2"),
        Role::Initiator => word,
    };
    let reports = Case::new("tcp", &PUT, &[4096]).run_with(newer, |_, _| {});
    reports.failed(FailureKind::Protocol, "speaks version 2 of this protocol, this one 1");
    let nonsense = |role: Role, word: String| if role == Role::Target { "nonsense".into() } else { word };
    let reports = Case::new("tcp", &PUT, &[4096]).run_with(nonsense, |_, _| {});
    reports.failed(FailureKind::Protocol, "said what was not expected");
    let long = |role: Role, word: String| if role == Role::Target { "x".repeat(70_000) } else { word };
    let reports = Case::new("tcp", &PUT, &[4096]).run_with(long, |_, _| {});
    reports.failed(FailureKind::Protocol, "70000 bytes at once");
}

#[test]
fn sides_that_do_not_belong_together_say_so() {
    let mut case = Case::new("tcp", &PUT, &[4096]);
    case.target.secret = "10112233445566778899aabbccddeeff".into();
    case.run().failed(FailureKind::Protocol, "have different secrets");
    let mut case = Case::new("tcp", &PUT, &[4096]);
    case.target.sizes = vec![8192];
    case.run().failed(FailureKind::Protocol, "were ordered to do different things");
    let mut case = Case::new("tcp", &PUT, &[4096]);
    case.target.role = Role::Initiator;
    case.run().failed(FailureKind::Protocol, "are the same end");
}

#[test]
fn orders_that_are_none_are_refused() {
    for (change, message) in [
        ((|order: &mut Order| order.secret = "short".into()) as fn(&mut Order), "no secret of 32"),
        (|order| order.ops.clear(), "nothing to do"),
        (|order| order.sizes.clear(), "nothing to do"),
        (|order| order.sizes = vec![0], "a size of nothing"),
        (|order| order.limits.seconds_each = -1.0, "limits that are not positive"),
        (|order| order.limits.share = 0.0, "limits that are not positive"),
    ] {
        let mut case = Case::new("tcp", &PUT, &[4096]);
        change(&mut case.initiator);
        case.run().failed(FailureKind::Protocol, message);
    }
}

#[test]
fn transports_that_are_not_there_or_do_not_meet() {
    for tls in ["bogus", "rc_x"] {
        Case::new(tls, &PUT, &[4096]).run().failed(FailureKind::NoTransport, "UCX says: no usable transports");
    }
    let mut case = Case::new("tcp", &PUT, &[4096]);
    case.target.env.insert("UCX_TLS".into(), "posix".into());
    let reports = case.run();
    let failure = reports.failure();
    // Who finds out first tells the other.
    assert!(matches!(failure.kind, FailureKind::Unreachable | FailureKind::Peer), "{reports:#?}");
    assert!(failure.message.contains("Destination is unreachable"), "{failure:?}");
}

#[test]
fn memory_is_bounded_and_its_lack_told() {
    let case = Case::new("tcp", &PUT, &[1 << 20]).limits(|limits| limits.buffer_bytes = 1 << 20);
    case.run().failed(FailureKind::Memory, "and its bound is 1048576");
    // More than any machine has: refused by the kernel, not killed by it.
    let case = Case::new("tcp", &PUT, &[1 << 40]).limits(|limits| limits.buffer_bytes = u64::MAX);
    case.run().failed(FailureKind::Memory, "cannot be had");
    let ucx = broken("no-memory");
    let reports = Case::new("tcp", &PUT, &[4096]).with(ucx.path(), &distribution()).run();
    reports.failed(FailureKind::Memory, "RLIMIT_MEMLOCK");
    let mut case = Case::new("tcp", &PUT, &[4096]);
    case.initiator.memory = Memory::Cuda(0);
    if !Path::new("/dev/nvidia0").exists() {
        case.run().failed(FailureKind::Memory, "bytes of cuda:0 memory cannot be had");
    }
}

#[test]
fn a_broken_ucx_ends_its_child_and_no_more() {
    let empty = tempfile::tempdir().unwrap();
    Case::new("tcp", &PUT, &[4096]).with(empty.path(), &distribution()).run().failed(FailureKind::NoUcx, "no UCX in ");
    for (how, kind, message) in [
        ("abort", FailureKind::Crashed, "died of SIGABRT while making a context (ucp_init); its last words: Assertion"),
        ("segv", FailureKind::Crashed, "died of SIGSEGV while making a context"),
        ("exit", FailureKind::Crashed, "ended with status 3 and without a report while making a context"),
        ("garbage", FailureKind::Protocol, "said what is no message while making a context"),
        ("hang", FailureKind::Deadline, "was not done after 3s: killed while making a context"),
        ("chatter", FailureKind::Deadline, "was not done after 3s: killed while making a context"),
    ] {
        let ucx = fake(how);
        let mut case = Case::new("tcp", &PUT, &[4096]).with(ucx.path(), &distribution());
        case.initiator.limits.deadline_seconds = 3.0;
        let reports = case.run();
        reports.failed(kind, message);
        assert!(reports.took < Duration::from_secs(10), "{how}: {reports:#?}");
    }
    for (how, kind, message) in [
        ("abort", FailureKind::Crashed, "while making the endpoint (ucp_ep_create); its last words: Assertion"),
        ("hang", FailureKind::Deadline, "killed while making the endpoint (ucp_ep_create)"),
        ("stall", FailureKind::Stalled, "none completed for 1s"),
    ] {
        let ucx = broken(how);
        let mut case = Case::new("tcp", &PUT, &[4096]).with(ucx.path(), &distribution());
        (case.initiator.limits.deadline_seconds, case.initiator.limits.stall_seconds) = (5.0, 1.0);
        let reports = case.run();
        reports.failed(kind, message);
        assert!(reports.took < Duration::from_secs(12), "{how}: {reports:#?}");
    }
}

#[test]
fn a_dropped_transfer_leaves_no_process() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let process = runtime.block_on(async {
        let mut pair = Case::new("tcp", &PUT, &[4096]).start();
        let process = pair.initiator.process().unwrap();
        // Its first word: UCX is loaded.
        assert!(matches!(pair.initiator.next().await, Said::ToPeer(_)));
        drop(pair);
        process
    });
    let gone = || match fs::read_to_string(format!("/proc/{process}/stat")) {
        // A zombie that nobody waited for: the runtime reaps it when it runs next.
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
        Err(_) => true,
    };
    let until = Instant::now() + Duration::from_secs(5);
    while !gone() {
        assert!(Instant::now() < until, "{process} is still there");
        std::thread::sleep(Duration::from_millis(10));
    }
}
