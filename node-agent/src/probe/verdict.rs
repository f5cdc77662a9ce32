//! From what a child left to facts, and to a problem where it did not finish.

use std::time::Duration;

use policies::{fabric::Problem, probe::problem::PROBE_DIED};
use serde::de::DeserializeOwned;

use super::{End, Line, Run};

/// The last complete facts, and what ended the child before it was done. `what` names the library.
pub(super) fn of<T: DeserializeOwned + Default>(
    what: &str,
    run: &Run,
    deadline: Duration,
    remedy: &str,
) -> (T, Option<Problem>) {
    let lines = run.report.split(|&byte| byte == b'\n');
    let last = lines.rev().find_map(|line| serde_json::from_slice::<Line<T>>(line).ok());
    let (facts, next) = match last {
        Some(line) => (line.facts, line.next),
        None => (T::default(), "starting".into()),
    };
    let died = match &run.end {
        End::Exited(0) if next.is_empty() => return (facts, None),
        End::Exited(0) => "ended without an answer".into(),
        End::Exited(code) => format!("ended with status {code}"),
        End::Signalled(number) => format!("died of {}", signal(*number)),
        End::TimedOut => format!("was killed after {deadline:?}"),
        End::Stuck => format!("hangs in the kernel: it was killed after {deadline:?} and is still there"),
        End::TooLong => "sent a report without end".into(),
        End::Failed(error) => format!("could not be started or watched: {error}"),
    };
    let during = if next.is_empty() { String::new() } else { format!(" while {next}") };
    let words = last_words(&run.log).map(|words| format!("; its last words: {words}")).unwrap_or_default();
    let message = format!("the process that asked {what} {died}{during}{words}");
    (facts, Some(Problem::new(PROBE_DIED, what, message, remedy)))
}

/// The last line of a log that says something, short and without control characters.
pub(crate) fn last_words(log: &str) -> Option<String> {
    let line = log.lines().rev().find(|line| line.chars().any(char::is_alphanumeric))?;
    Some(line.trim().chars().filter(|character| !character.is_control()).take(300).collect())
}

/// A signal's name.
pub(crate) fn signal(number: i32) -> String {
    let name = match number {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        31 => "SIGSYS",
        _ => return format!("signal {number}"),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn judged(report: &str, log: &str, end: End) -> (Vec<String>, Option<String>) {
        let run = Run { report: report.as_bytes().to_vec(), log: log.into(), end };
        let (facts, problem) = of::<Vec<String>>("UCX", &run, Duration::from_secs(10), "repair it");
        (facts, problem.map(|problem| problem.message))
    }

    const DONE: &str = "{\"next\":\"\",\"facts\":[\"a\",\"b\"]}\n";
    const HALF: &str = "{\"next\":\"loading it\",\"facts\":[]}\n{\"next\":\"asking it\",\"facts\":[\"a\"]}\n";

    #[test]
    fn a_finished_child_is_no_problem() {
        assert_eq!(judged(DONE, "noise", End::Exited(0)), (vec!["a".into(), "b".into()], None));
    }

    #[test]
    fn what_was_known_before_the_end_is_kept() {
        let ends = [
            (End::Signalled(6), "died of SIGABRT while asking it; its last words: assertion failed"),
            (End::Signalled(64), "died of signal 64 while asking it"),
            (End::TimedOut, "was killed after 10s while asking it"),
            (End::Stuck, "hangs in the kernel"),
            (End::TooLong, "sent a report without end while asking it"),
            (End::Exited(0), "ended without an answer while asking it"),
            (End::Exited(101), "ended with status 101 while asking it"),
        ];
        for (end, expected) in ends {
            let (facts, problem) = judged(HALF, "assertion \x1b[31mfailed\n\n---\n".replace("[31m", "").as_str(), end);
            assert_eq!(facts, ["a"]);
            assert!(problem.as_ref().is_some_and(|problem| problem.contains(expected)), "{problem:?}: {expected}");
        }
    }

    #[test]
    fn nonsense_is_passed_over() {
        let torn = format!("\0\u{1}binary\n{HALF}{{\"next\":\"\",\"facts\":[\"a\",");
        let (facts, problem) = judged(&torn, "", End::Exited(0));
        assert_eq!(facts, ["a"]);
        assert!(problem.is_some_and(|problem| problem.contains("ended without an answer")));
        let (facts, problem) = judged("nonsense", "", End::Failed(io::Error::other("no")));
        assert!(facts.is_empty() && problem.is_some_and(|problem| problem.contains("could not be started")));
    }

    #[test]
    fn a_crash_after_the_answer_is_still_told() {
        let (facts, problem) = judged(DONE, "", End::Signalled(11));
        assert_eq!(facts.len(), 2);
        assert!(problem.is_some_and(|problem| problem.ends_with("died of SIGSEGV")));
    }
}
