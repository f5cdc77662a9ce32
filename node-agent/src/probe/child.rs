//! Starting a child process, listening to it within bounds of time and size, and ending it.

use std::{
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal, kill_process_group},
};

use super::{End, Run};

/// Longest report: 64 NICs with all transports are about 60 KiB, and a child sends its facts a handful of times.
const REPORT: usize = 4 << 20;
/// How much of the log's end is kept.
const LOG: usize = 64 << 10;
/// How long a killed child may take to be gone.
const GRACE: Duration = Duration::from_secs(1);

/// Runs the command until it ends or the deadline is over.
pub(super) fn run(command: &mut Command, deadline: Duration) -> Run {
    let (mut report, mut log) = (Vec::new(), Vec::new());
    let end = watch(command, Instant::now() + deadline, &mut report, &mut log).unwrap_or_else(End::Failed);
    Run { report, log: String::from_utf8_lossy(&log).into_owned(), end }
}

fn watch(command: &mut Command, until: Instant, report: &mut Vec<u8>, log: &mut Vec<u8>) -> io::Result<End> {
    // A group of its own, so that what the child starts ends with it.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = Killed(command.spawn()?);
    let (Some(mut stdout), Some(mut stderr)) = (child.0.stdout.take(), child.0.stderr.take()) else {
        return Err(io::Error::other("the child has no pipes"));
    };
    let (mut stdout_open, mut stderr_open) = (true, true);
    while stdout_open || stderr_open {
        let open: Vec<BorrowedFd<'_>> =
            [stdout_open.then(|| stdout.as_fd()), stderr_open.then(|| stderr.as_fd())].into_iter().flatten().collect();
        let Some(ready) = readable(&open, until)? else { return Ok(child.kill(End::TimedOut)) };
        let mut ready = ready.into_iter();
        if stdout_open && ready.next() == Some(true) {
            stdout_open = read(&mut stdout, report)?;
            if report.len() > REPORT {
                return Ok(child.kill(End::TooLong));
            }
        }
        if stderr_open && ready.next() == Some(true) {
            stderr_open = read(&mut stderr, log)?;
            log.drain(..log.len().saturating_sub(LOG));
        }
    }
    match child.wait(until) {
        Some(status) => Ok(end(status)),
        None => Ok(child.kill(End::TimedOut)),
    }
}

/// Which of the pipes have something, or ended; `None` when the time is over.
fn readable(pipes: &[BorrowedFd<'_>], until: Instant) -> io::Result<Option<Vec<bool>>> {
    let mut polled: Vec<PollFd<'_>> = pipes.iter().map(|pipe| PollFd::from_borrowed_fd(*pipe, PollFlags::IN)).collect();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        match poll(&mut polled, Some(&Timespec::try_from(left).map_err(io::Error::other)?)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(Some(polled.iter().map(|pipe| !pipe.revents().is_empty()).collect())),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes what is there; false at the end.
fn read(pipe: &mut impl Read, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 16 << 10];
    let count = pipe.read(&mut buffer)?;
    into.extend_from_slice(&buffer[..count]);
    Ok(count > 0)
}

fn end(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, Some(signal)) => End::Signalled(signal),
        (None, None) => End::Exited(-1),
    }
}

/// Kills a child of ours and what it started: the group that it leads. It must not have been waited for.
pub(crate) fn end_group(leader: u32) {
    if let Some(group) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        // What is gone already cannot be killed, and what may not be killed is not ours.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// A child that does not outlive its watch, whatever ends it.
struct Killed(Child);

impl Killed {
    /// Waits for the end, which is near once the pipes are closed.
    fn wait(&mut self, until: Instant) -> Option<ExitStatus> {
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(2)),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    fn kill(mut self, end: End) -> End {
        end_group(self.0.id());
        if self.wait(Instant::now() + GRACE).is_some() { end } else { End::Stuck }
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            end_group(self.0.id());
            // Waiting here would take as long as a driver in the kernel likes; the process's end reaps what is left.
            let _ = self.wait(Instant::now() + GRACE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadline: Duration) -> (Run, Duration) {
        let started = Instant::now();
        let run = run(Command::new("sh").args(["-c", script]), deadline);
        (run, started.elapsed())
    }

    #[test]
    fn both_streams_and_the_status_are_kept() {
        let (run, _) = shell("echo report; echo log >&2; exit 7", Duration::from_secs(10));
        assert_eq!((run.report.as_slice(), run.log.as_str()), (&b"report\n"[..], "log\n"));
        assert!(matches!(run.end, End::Exited(7)), "{run:?}");
    }

    #[test]
    fn a_hang_ends_at_the_deadline_with_what_was_said() {
        // The grandchild holds the pipes, as a helper that a library started would.
        let (run, took) = shell("sleep 600 & echo $!; sleep 600", Duration::from_millis(300));
        assert!(matches!(run.end, End::TimedOut), "{run:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        let grandchild = String::from_utf8(run.report).unwrap();
        let alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", grandchild.trim())).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        let until = Instant::now() + GRACE;
        while alive() && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!alive(), "process {grandchild} outlived the child");
    }

    #[test]
    fn a_child_that_closes_its_pipes_and_stays_is_hung_too() {
        let (run, took) = shell("exec >&- 2>&-; sleep 600", Duration::from_millis(300));
        assert!(matches!(run.end, End::TimedOut), "{run:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
    }

    #[test]
    fn a_crash_is_told_by_its_signal() {
        let (run, _) = shell("kill -SEGV $$", Duration::from_secs(10));
        assert!(matches!(run.end, End::Signalled(11)), "{run:?}");
    }

    #[test]
    fn endless_reports_end_and_endless_logs_keep_their_end() {
        let (run, _) = shell("exec cat /dev/zero", Duration::from_secs(20));
        assert!(matches!(run.end, End::TooLong), "{:?}", run.end);
        let (run, _) = shell("head -c 1000000 /dev/zero >&2; echo last words >&2", Duration::from_secs(20));
        assert!(run.log.len() <= LOG && run.log.ends_with("last words\n"), "{} bytes", run.log.len());
    }

    #[test]
    fn what_does_not_start_is_an_end() {
        let run = run(&mut Command::new("/nonexistent"), Duration::from_secs(1));
        assert!(matches!(run.end, End::Failed(_)), "{run:?}");
    }
}
