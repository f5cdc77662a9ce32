use super::*;
use crate::selftest::{
    Integrity, Next, Pace, Refusal, Skip,
    plan::{self, next},
    publish,
};

const ME: &str = "b";

struct Case {
    status: SelftestStatus,
    members: Vec<String>,
    standing: Vec<(&'static str, Standing)>,
    clock: i64,
}

fn case(members: &[&str]) -> Case {
    let members = members.iter().map(ToString::to_string).collect();
    let mut case = Case { status: SelftestStatus::default(), members, standing: Vec::new(), clock: 1_800_000_000 };
    begin(&mut case.status, &Settings::default(), ME, &gates(), at(case.clock));
    case
}

fn gates() -> Gates {
    Gates { facts: "f".into(), ..Gates::default() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

impl Case {
    fn view<R>(&self, act: impl FnOnce(&View<'_>) -> R) -> R {
        let standing =
            |name: &str| self.standing.iter().find(|(of, _)| *of == name).map_or(Standing::Untested, |(_, is)| *is);
        act(&View { me: ME, domain: "ib", members: &self.members, standing: &standing })
    }

    fn result(&mut self, partner: &str, verdict: Grade, against: Against) -> &SelftestStatus {
        self.clock += 6;
        let result = TransferStatus {
            partner: partner.into(),
            at: at(self.clock),
            verdict,
            code: if verdict == Grade::Failed { code::FALLBACK } else { code::AS_EXPECTED }.into(),
            profile: "infiniband-gpudirect".into(),
            op: None,
            bytes: None,
            gbytes_per_s: Some(47.06),
            usec: None,
            transport: Some("rc_mlx5/mlx5_0:1".into()),
            local_memory: "host".into(),
            remote_memory: "host".into(),
            host_memory_reason: None,
            integrity: Integrity::Ok,
            ucx: String::new(),
            peer_ucx: String::new(),
            message: "UCX took tcp".into(),
        };
        let mut status = std::mem::take(&mut self.status);
        self.view(|view| record(&mut status, &Settings::default(), view, result, against, None));
        self.status = status;
        &self.status
    }

    fn gets(&mut self, partner: &str, verdict: Grade) -> Standing {
        self.result(partner, verdict, Against::Pair).verdict
    }

    fn ended(&self) -> bool {
        self.status.sweep.as_ref().unwrap().ended.is_some()
    }
}

const MANY: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

#[test]
fn nothing_moved_is_untested_and_one_good_transfer_is_a_proof() {
    let mut case = case(&MANY);
    assert_eq!(case.status.verdict, Standing::Untested);
    assert_eq!(case.gets("a", Grade::Passed), Standing::Passed);
    assert!(!case.ended());
    case.gets("c", Grade::Passed);
    case.gets("d", Grade::Passed);
    assert!(case.ended());
}

#[test]
fn a_node_is_blamed_by_good_partners_only() {
    let mut one = case(&MANY);
    one.standing =
        vec![("a", Standing::Passed), ("c", Standing::Passed), ("d", Standing::Passed), ("e", Standing::Slow)];
    for partner in ["a", "c", "d"] {
        assert_eq!(one.gets(partner, Grade::Failed), Standing::Untested);
    }
    assert_eq!(one.gets("e", Grade::Failed), Standing::Failed);
    assert_eq!(one.status.code, code::FALLBACK);

    // One partner, however often it fails, is no second one; and bad ones accuse nobody.
    let mut pair = case(&MANY);
    pair.standing = vec![("a", Standing::Passed), ("c", Standing::Failed), ("d", Standing::Failed)];
    for partner in ["a", "a", "a", "a", "a", "a", "c", "d"] {
        assert_ne!(pair.gets(partner, Grade::Failed), Standing::Failed, "{:?}", pair.status);
    }
    for partner in ["e", "f", "g"] {
        pair.gets(partner, Grade::Passed);
    }
    assert_eq!((pair.status.verdict, pair.status.code.as_str()), (Standing::Passed, code::SUSPECT_PAIR));
    assert_eq!(pair.status.suspect_pairs, ["a"]);
}

#[test]
fn one_slow_run_does_not_flap_and_two_of_three_do() {
    let mut case = case(&MANY);
    for partner in ["a", "c", "d"] {
        case.gets(partner, Grade::Passed);
    }
    assert_eq!(case.gets("e", Grade::Slow), Standing::Passed);
    assert!(!case.ended(), "a second opinion is asked for");
    assert_eq!(case.gets("f", Grade::Slow), Standing::Slow);
    assert_eq!(case.gets("g", Grade::Passed), Standing::Slow);
    case.gets("h", Grade::Passed);
    assert_eq!(case.gets("a", Grade::Passed), Standing::Passed);
}

#[test]
fn a_failed_node_comes_back_by_two_good_partners() {
    let mut case = case(&MANY);
    case.standing = MANY.iter().map(|name| (*name, Standing::Passed)).collect();
    for partner in ["a", "c", "d", "e"] {
        case.gets(partner, Grade::Failed);
    }
    assert_eq!(case.status.verdict, Standing::Failed);
    assert_eq!(case.gets("f", Grade::Passed), Standing::Failed);
    assert_eq!(case.gets("g", Grade::Passed), Standing::Passed);
}

#[test]
fn with_one_partner_the_loopback_is_the_second_witness() {
    let mut mine = case(&["a", "b"]);
    for _ in 0..3 {
        assert_eq!(mine.gets("a", Grade::Failed), Standing::Untested);
    }
    let ask = |case: &Case| {
        case.view(|view| next(&Settings::default(), view, &case.status, &Pace::default(), &gates(), 1_800_000_050.0))
    };
    assert!(matches!(ask(&mine), Next::Loopback { .. }));
    assert_eq!(mine.gets(ME, Grade::Failed), Standing::Failed);

    // The other one: good by itself, and excused as soon as the partner is labelled.
    let mut other = case(&["a", "b"]);
    for _ in 0..3 {
        other.gets("a", Grade::Failed);
    }
    assert_eq!(other.gets(ME, Grade::Passed), Standing::Untested);
    other.standing = vec![("a", Standing::Failed)];
    assert_eq!(other.gets("a", Grade::Failed), Standing::Untested);

    let mut path = case(&["a", "b"]);
    for _ in 0..3 {
        path.gets("a", Grade::Failed);
    }
    path.gets(ME, Grade::Passed);
    path.gets("a", Grade::Failed);
    assert_eq!((path.status.verdict, path.status.code.as_str()), (Standing::Failed, code::SUSPECT_PAIR));
}

#[test]
fn where_all_others_fail_the_loopback_can_blame_and_not_acquit() {
    let failing = |verdict| {
        let mut case = case(&["a", "b"]);
        case.standing = vec![("a", Standing::Failed)];
        case.gets("a", Grade::Failed);
        let next = case
            .view(|view| next(&Settings::default(), view, &case.status, &Pace::default(), &gates(), 1_800_000_050.0));
        assert!(matches!(next, Next::Loopback { .. }), "{next:?}");
        case.gets(ME, verdict);
        case.gets(ME, verdict)
    };
    assert_eq!(failing(Grade::Failed), Standing::Failed);
    assert_eq!(failing(Grade::Passed), Standing::Untested);
}

#[test]
fn own_faults_need_no_partner_and_others_say_nothing() {
    let mut case = case(&MANY);
    case.result("a", Grade::Failed, Against::Nobody);
    assert!(case.status.partners.is_empty());
    case.result("a", Grade::Failed, Against::Own);
    assert_eq!(case.result("a", Grade::Failed, Against::Own).verdict, Standing::Failed);
}

#[test]
fn a_single_node_tests_itself_and_says_so() {
    let mut case = case(&["b"]);
    let found =
        case.view(|view| next(&Settings::default(), view, &case.status, &Pace::default(), &gates(), 1_800_000_001.0));
    assert!(matches!(found, Next::Loopback { .. }), "{found:?}");
    assert_eq!(case.gets(ME, Grade::Passed), Standing::Passed);
    assert!(case.status.reasons[0].contains("loopback"));
}

#[test]
fn gates_are_values() {
    let case = case(&MANY);
    let why = |gates: &Gates, settings: &Settings| match case
        .view(|view| next(settings, view, &case.status, &Pace::default(), gates, 1_800_000_001.0))
    {
        Next::Wait { why, .. } => why,
        other => panic!("{other:?}"),
    };
    let settings = Settings::default();
    assert_eq!(why(&gates(), &Settings { enabled: false, ..settings }), Skip::Off);
    assert_eq!(why(&Gates { soft_refused: true, ..gates() }, &settings), Skip::SoftRdma);
    let shut_out = Gates { shut_out: Some("no /dev/infiniband".into()), ..gates() };
    assert_eq!(why(&shut_out, &settings), Skip::ShutOut("no /dev/infiniband".into()));
    assert_eq!(case.view(|view| plan::admit(&settings, view, &shut_out, "a", true)), Err(Refusal::Off));
    assert_eq!(why(&Gates { unsettled: true, ..gates() }, &settings), Skip::Unsettled);
    assert_eq!(why(&Gates { in_session: true, ..gates() }, &settings), Skip::InSession);
    let busy = Gates { gpus_busy: Some("python3 uses gpu0".into()), ..gates() };
    assert_eq!(why(&busy, &settings), Skip::GpusBusy("python3 uses gpu0".into()));
}

#[test]
fn the_api_server_hears_of_changes_only() {
    let mut case = case(&MANY);
    case.gets("a", Grade::Passed);
    let early = publish::due(Some(Standing::Untested), &SelftestStatus::default(), &case.status, at(case.clock));
    assert_eq!((early.label, early.status, early.event), (true, false, None));
    case.gets("c", Grade::Passed);
    case.gets("d", Grade::Passed);
    let end = publish::due(Some(Standing::Passed), &SelftestStatus::default(), &case.status, at(case.clock));
    assert_eq!((end.label, end.status), (false, true));
    assert_eq!(end.event.map(|event| event.reason), Some("SelfTestPassed"));
    let published = case.status.clone();
    case.gets("e", Grade::Passed);
    let again = publish::due(Some(Standing::Passed), &published, &case.status, at(case.clock));
    assert_eq!(again, publish::Publication::default());
    assert_eq!(publish::sentence(&case.status).as_deref(), Some("self-test 47.1 GB/s to e over rc_mlx5"));
}

#[test]
fn the_condition_says_it_and_a_failing_node_is_not_ready() {
    let ready = || crate::report::Condition {
        status: "True".into(),
        reason: "AllPortsActive".into(),
        message: "InfiniBand, 8 ports".into(),
    };
    let mut case = case(&MANY);
    assert_eq!(crate::report::with_selftest(ready(), &case.status), ready());
    case.gets("c", Grade::Passed);
    let good = crate::report::with_selftest(ready(), &case.status);
    assert_eq!(good.message, "InfiniBand, 8 ports; self-test 47.1 GB/s to c over rc_mlx5");
    assert_eq!(good.status, "True");
    case.result("a", Grade::Failed, Against::Own);
    case.result("a", Grade::Failed, Against::Own);
    let bad = crate::report::with_selftest(ready(), &case.status);
    assert_eq!((bad.status.as_str(), bad.reason.as_str()), ("False", "SelfTestFailed"));
    assert_eq!(bad.message, "InfiniBand, 8 ports; self-test failed to a: UCX took tcp");
}
