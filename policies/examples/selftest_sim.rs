//! Prints how long a cluster takes to test itself, what it costs, and whether it blames the right nodes: simulated agents around the
//! real decisions. `cargo run --release -p railbind-policies --example selftest_sim`

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a simulation's figures"
)]

use policies::selftest::Settings;

#[path = "../tests/selftest/sim.rs"]
mod sim;

fn main() {
    println!(
        "{:>6} {:>4} {:>9} {:>9} {:>9} {:>10} {:>6} {:>11} {:>5} {:>10} {:>7} {:>7} {:>6} {:>7}",
        "nodes",
        "bad",
        "pairs-bad",
        "random",
        "99%-judg.",
        "all-judged",
        "pairs",
        "transfers/n",
        "busy",
        "writes/n",
        "max",
        "heartb.",
        "found",
        "alarms"
    );
    for (nodes, bad, seeds) in [
        (64, 1, 10),
        (64, 10, 10),
        (1000, 0, 4),
        (1000, 1, 4),
        (1000, 10, 4),
        (1000, 50, 4),
        (10_000, 1, 1),
        (10_000, 10, 1),
        (10_000, 50, 1),
        (10_000, 500, 1),
    ] {
        let faults = sim::Faults {
            bad_nodes: bad,
            bad_pairs_percent: 0.5,
            random_percent: 2.0,
            stale_percent: 10.0,
            dead_percent: 1.0,
        };
        let runs: Vec<sim::Outcome> =
            (0..seeds).map(|seed| sim::run(nodes, faults, Settings::default(), seed + 1)).collect();
        let count = runs.len() as f64;
        let most = |value: fn(&sim::Outcome) -> f64| runs.iter().map(value).fold(0.0, f64::max);
        let mean = |value: fn(&sim::Outcome) -> f64| runs.iter().map(value).sum::<f64>() / count;
        let all = most(|run| run.judged_seconds.unwrap_or(f64::INFINITY));
        println!(
            "{nodes:>6} {bad:>4} {:>8}% {:>8}% {:>8.0}s {all:>9.0}s {:>6.0} {:>11.2} {:>4.1}% {:>10.2} {:>7.0} {:>7.1} {:>6} {:>7}",
            faults.bad_pairs_percent,
            faults.random_percent,
            most(|run| run.most_seconds),
            most(|run| run.pairs_at_once as f64),
            mean(|run| run.transfers as f64) / nodes as f64,
            mean(|run| run.busy as f64 / (run.busy + run.transfers) as f64) * 100.0,
            mean(|run| run.writes as f64) / nodes as f64,
            most(|run| f64::from(run.writes_max)),
            all / 10.0,
            format!("{}/{}", runs.iter().map(|run| run.found).sum::<usize>(), bad * runs.len()),
            runs.iter().map(|run| run.false_alarms).sum::<usize>(),
        );
    }
}
