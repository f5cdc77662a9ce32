//! The whole of the self-test's decisions in simulated clusters: everybody is judged in time, the right ones are blamed, and the API
//! server hears less of it than of one heartbeat a node. The example `selftest_sim` prints the same for 10,000 nodes.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    dead_code,
    reason = "a simulation's figures, of which a test needs some"
)]

use policies::selftest::Settings;

#[path = "selftest/sim.rs"]
mod sim;

#[test]
fn bad_nodes_are_found_and_no_good_one_is_blamed() {
    for (nodes, bad) in [(3, 0), (17, 1), (64, 10), (300, 3)] {
        for seed in 1..4 {
            let faults = sim::Faults {
                bad_nodes: bad,
                bad_pairs_percent: 0.5,
                random_percent: 2.0,
                stale_percent: 10.0,
                dead_percent: if nodes > 16 { 2.0 } else { 0.0 },
            };
            let run = sim::run(nodes, faults, Settings::default(), seed);
            let what = format!("{nodes} nodes, {bad} bad, seed {seed}: {run:?}");
            assert!(run.judged_seconds.is_some_and(|seconds| seconds < 150.0), "{what}");
            assert_eq!((run.found, run.false_alarms), (bad, 0), "{what}");
            let heartbeats = run.judged_seconds.unwrap_or(0.0) / 10.0;
            assert!(nodes < 16 || (run.writes as f64) < heartbeats * nodes as f64, "{what}");
            assert!(nodes < 100 || run.pairs_at_once < nodes * 4 / 10, "{what}");
        }
    }
}
