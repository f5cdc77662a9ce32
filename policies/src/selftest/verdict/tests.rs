use rstest::rstest;

use super::*;
use crate::{
    profile::Profiles,
    selftest::{Counter, Failure, MemoryPair, UcxUsed},
};

fn report(transport: Option<&str>, gbytes_per_s: f64) -> Report {
    Report {
        transport: transport.map(Into::into),
        lanes: vec!["rc_mlx5/mlx5_0:1".into(), "tcp/eth0".into()],
        evidence: Vec::new(),
        memory: MemoryPair { local: Memory::Host, remote: Memory::Host },
        integrity: Integrity::Ok,
        sizes: vec![Measurement {
            bytes: 128 << 20,
            op: Op::Get,
            gbytes_per_s,
            usec: 1.0,
            usec_mean: None,
            usec_p99: None,
            iterations: 10,
            transport: None,
            protocol: None,
        }],
        counters: Vec::new(),
        ucx: UcxUsed::default(),
        seconds: 1.0,
        failure: None,
    }
}

fn judged(profile: &str, fabric: Fabric, rate: f64, report: &Report, change: impl Fn(&mut Expected<'_>)) -> Judgement {
    let profiles = Profiles::embedded().unwrap();
    let rates = BTreeMap::from([("mlx5_0:1".to_owned(), rate)]);
    let mut expected = Expected {
        profile: profiles.get(profile).unwrap(),
        fabric,
        soft: false,
        gpu_direct: true,
        kernel: Some(Version::new(6, 1)),
        rates: &rates,
        share: 1.0,
        loopback: false,
    };
    change(&mut expected);
    judge(report, &expected)
}

const IB: &str = "infiniband-gpudirect";

#[rstest]
#[case::hdr_as_the_guide_says(
    IB,
    Fabric::InfiniBand,
    200.0,
    "rc_mlx5/mlx5_0:1",
    20.0,
    Grade::Passed,
    code::AS_EXPECTED
)]
#[case::hdr_slow(IB, Fabric::InfiniBand, 200.0, "rc_mlx5/mlx5_0:1", 19.0, Grade::Slow, code::LOW_BANDWIDTH)]
#[case::hdr_useless(IB, Fabric::InfiniBand, 200.0, "rc_mlx5/mlx5_0:1", 17.0, Grade::Failed, code::LOW_BANDWIDTH)]
#[case::ndr_by_its_rate(IB, Fabric::InfiniBand, 400.0, "rc_mlx5/mlx5_0:1", 43.0, Grade::Passed, code::AS_EXPECTED)]
#[case::ndr_slow(IB, Fabric::InfiniBand, 400.0, "rc_mlx5/mlx5_0:1", 42.0, Grade::Slow, code::LOW_BANDWIDTH)]
#[case::ndr_useless(IB, Fabric::InfiniBand, 400.0, "rc_mlx5/mlx5_0:1", 34.0, Grade::Failed, code::LOW_BANDWIDTH)]
#[case::red_flag(IB, Fabric::InfiniBand, 10.0, "rc_mlx5/mlx5_0:1", 0.9, Grade::Failed, code::RED_FLAG)]
#[case::fallback_however_fast(IB, Fabric::InfiniBand, 200.0, "tcp/eth0", 24.0, Grade::Failed, code::FALLBACK)]
#[case::shared_memory(IB, Fabric::InfiniBand, 200.0, "cma/memory", 24.0, Grade::Failed, code::FALLBACK)]
#[case::other_transport(IB, Fabric::InfiniBand, 200.0, "ud_mlx5/mlx5_0:1", 24.0, Grade::Failed, code::WRONG_TRANSPORT)]
#[case::roce("roce-gpudirect", Fabric::Roce, 100.0, "rc_mlx5/mlx5_0:1", 10.5, Grade::Passed, code::AS_EXPECTED)]
#[case::tcp_is_tcp("tcp", Fabric::Tcp, 200.0, "tcp/eth0", 1.4, Grade::Passed, code::AS_EXPECTED)]
#[case::tcp_red_flag("tcp", Fabric::Tcp, 200.0, "tcp/eth0", 0.7, Grade::Slow, code::RED_FLAG)]
#[case::shared_memory_is_no_tcp("tcp", Fabric::Tcp, 200.0, "posix/memory", 7.0, Grade::Failed, code::WRONG_TRANSPORT)]
fn path_first_then_the_figures(
    #[case] profile: &str,
    #[case] fabric: Fabric,
    #[case] rate: f64,
    #[case] transport: &str,
    #[case] speed: f64,
    #[case] verdict: Grade,
    #[case] code: &str,
) {
    let found = judged(profile, fabric, rate, &report(Some(transport), speed), |_| {});
    assert_eq!((found.verdict, found.code.as_str()), (verdict, code), "{:?}", found.reasons);
    assert_eq!(found.remedy.is_empty(), verdict == Grade::Passed);
}

#[test]
fn corrupt_bytes_fail_whatever_else_is_good() {
    let mut bad = report(Some("rc_mlx5/mlx5_0:1"), 24.0);
    bad.integrity = Integrity::Corrupt;
    assert_eq!(judged(IB, Fabric::InfiniBand, 200.0, &bad, |_| {}).code, code::CORRUPT);
    bad.integrity = Integrity::Unchecked;
    let found = judged(IB, Fabric::InfiniBand, 200.0, &bad, |_| {});
    assert_eq!((found.verdict, found.qualifies), (Grade::Failed, false));
}

#[test]
fn software_rdma_is_judged_by_path_and_bytes() {
    let found = judged(IB, Fabric::Roce, 2.5, &report(Some("rc_verbs/rxe0:1"), 0.04), |expected| expected.soft = true);
    assert_eq!((found.verdict, found.qualifies), (Grade::Passed, true));
    assert!(found.reasons.iter().any(|reason| reason.contains("software RDMA")), "{:?}", found.reasons);
    let found = judged(IB, Fabric::Roce, 2.5, &report(Some("tcp/eth0"), 2.0), |expected| expected.soft = true);
    assert_eq!(found.code, code::FALLBACK);
}

#[test]
fn a_path_that_nobody_names_is_no_pass_and_lanes_of_one_kind_name_it() {
    let unknown = report(None, 24.0);
    assert_eq!(judged(IB, Fabric::InfiniBand, 200.0, &unknown, |_| {}).code, code::PATH_UNKNOWN);
    let lanes = Report { lanes: vec!["rc_mlx5/mlx5_0:1".into()], ..unknown };
    assert_eq!(judged(IB, Fabric::InfiniBand, 200.0, &lanes, |_| {}).verdict, Grade::Passed);
}

#[test]
fn counters_contradict_ucx_but_not_over_a_loopback() {
    let mut lie = report(Some("rc_mlx5/mlx5_0:1"), 24.0);
    let counter = |delta| Counter { port: "mlx5_0:1".into(), name: "port_rcv_data".into(), delta };
    lie.counters = vec![counter(1_000_000)];
    assert_eq!(judged(IB, Fabric::InfiniBand, 200.0, &lie, |_| {}).code, code::PATH_CONTRADICTED);
    assert_eq!(judged(IB, Fabric::InfiniBand, 200.0, &lie, |expected| expected.loopback = true).verdict, Grade::Passed);
    lie.counters = vec![counter(10 * (128 << 20))];
    assert_eq!(judged(IB, Fabric::InfiniBand, 200.0, &lie, |_| {}).verdict, Grade::Passed);
}

#[test]
fn gpu_memory_over_the_host_is_slow_where_gpudirect_is_and_expected_elsewhere() {
    let mut staged = report(Some("rc_mlx5/mlx5_0:1"), 24.0);
    staged.memory = MemoryPair { local: Memory::Cuda(0), remote: Memory::Cuda(0) };
    staged.sizes[0].protocol = Some("fragmented copy-in copy-out".into());
    let found = judged(IB, Fabric::InfiniBand, 200.0, &staged, |_| {});
    assert_eq!((found.verdict, found.code.as_str(), found.qualifies), (Grade::Slow, code::HOST_STAGED, false));
    staged.transport = Some("srd/rdmap0:1".into());
    let efa = judged(
        "efa-host-staged",
        Fabric::Efa,
        100.0,
        &Report { sizes: vec![Measurement { gbytes_per_s: 11.0, ..staged.sizes[0].clone() }], ..staged },
        |expected| {
            expected.kernel = Some(Version::new(6, 8));
        },
    );
    assert_eq!((efa.verdict, efa.qualifies), (Grade::Passed, true), "{:?}", efa.reasons);
}

#[test]
fn latency_five_times_the_guides_is_slow() {
    let mut late = report(Some("rc_mlx5/mlx5_0:1"), 24.0);
    late.sizes.push(Measurement { op: Op::Latency, bytes: 8, gbytes_per_s: 0.0, usec: 5.1, ..late.sizes[0].clone() });
    assert_eq!(judged(IB, Fabric::InfiniBand, 200.0, &late, |_| {}).code, code::HIGH_LATENCY);
}

#[rstest]
#[case(FailureKind::NoUcx, Against::Own)]
#[case(FailureKind::Stalled, Against::Pair)]
#[case(FailureKind::Peer, Against::Nobody)]
fn a_failure_says_whom_it_speaks_of(#[case] kind: FailureKind, #[case] against: Against) {
    let failure = Failure { kind, message: "why".into(), remedy: "what".into() };
    let broken = Report { failure: Some(failure), ..report(None, 0.0) };
    let found = judged(IB, Fabric::InfiniBand, 200.0, &broken, |_| {});
    assert_eq!((found.verdict, found.against, found.remedy.as_str()), (Grade::Failed, against, "what"));
}

#[test]
fn the_fastest_set_wins_by_more_than_noise() {
    let trial = |set: &str, transport: &str, speed: f64| Trial {
        profile: format!("{set}-x"),
        set: set.into(),
        judgement: judged(IB, Fabric::InfiniBand, 200.0, &report(Some(transport), speed), |_| {}),
    };
    let rc = "rc_mlx5/mlx5_0:1";
    let set = |trials: &[Trial]| qualify(trials, "guide").1;
    assert_eq!(set(&[trial("guide", rc, 22.0), trial("nixl", rc, 22.5)]).as_deref(), Some("guide"));
    assert_eq!(set(&[trial("guide", rc, 20.0), trial("nixl", rc, 24.0)]).as_deref(), Some("nixl"));
    assert_eq!(set(&[trial("guide", rc, 20.0), trial("nixl", "tcp/eth0", 24.0)]).as_deref(), Some("guide"));
    let (tried, none) = qualify(&[trial("nixl", "tcp/eth0", 24.0)], "guide");
    assert_eq!((tried[0].qualified, none), (false, None));
    assert!(tried[0].why.contains("silent fallback"));
}
