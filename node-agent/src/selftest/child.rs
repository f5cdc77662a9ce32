//! The parent's side of a transfer: the child is started, spoken to, and ended. Whatever becomes of it, there is a report.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use policies::selftest::{Failure, FailureKind, Integrity, Memory, Order, Report, Said, Told};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::{Instant, sleep_until, timeout},
};
use ucx_sys::text;

use super::transfer::{Line, OURS, Trouble, blank, failed_word};
use crate::probe::{PROGRAM, end_group, last_words, named, signal};

/// Longest line of a child: what it says to the other one, in JSON within JSON.
const LINE: usize = 1 << 20;
/// Longest word for the other side.
const WORD: usize = 64 << 10;
/// Most that waits for a child that does not read.
const WAITING: usize = 4 << 20;
/// How much of the log's end is kept.
const LOG: usize = 64 << 10;
/// How long a killed child may take to be gone.
const GRACE: Duration = Duration::from_secs(1);
/// UCX of this minor version and later reaches another's memory over TCP differently than before.
const BORDER: u32 = 19;
/// What bounds the deadline itself.
const LONGEST: Duration = Duration::from_hours(24);

/// A transfer that one child makes.
///
/// Nothing here fails: whatever ends it, [`Self::next`] gives a [`Said::Report`], the last that it gives. Dropping it ends the child,
/// and what the child started.
pub struct Transfer {
    child: Option<Running>,
    /// Of the report, as far as the child told.
    report: Report,
    /// What the child does, as far as it told.
    doing: String,
    deadline: Instant,
    allowed: Duration,
    started: Instant,
    /// What is still to be said by `next`.
    ready: VecDeque<Said>,
    /// The child's own report: it only has to end.
    last: Option<Report>,
    /// The report is made.
    ended: bool,
}

struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    stderr: Option<ChildStderr>,
    /// What the child has not read yet.
    to_say: Vec<u8>,
    /// The start of a line that is not whole yet.
    heard: Vec<u8>,
    log: Vec<u8>,
}

/// What happened to a child.
enum Happened {
    Heard(usize),
    Logged,
    Ended,
    Late,
}

impl Transfer {
    /// Starts a child of this program for the order. `ucx_folders`: where UCX is taken from; none: where the loader would.
    pub fn start(order: Order, ucx_folders: &[PathBuf]) -> Self {
        Self::start_with(Path::new(PROGRAM), order, ucx_folders)
    }

    /// The same with another program of this crate: tests are not the agent.
    pub fn start_with(program: &Path, order: Order, ucx_folders: &[PathBuf]) -> Self {
        let allowed = Duration::try_from_secs_f64(order.limits.deadline_seconds).unwrap_or(LONGEST).min(LONGEST);
        let now = Instant::now();
        let mut transfer = Self {
            child: None,
            report: blank(&order),
            doing: "starting".into(),
            deadline: now + allowed,
            allowed,
            started: now,
            ready: VecDeque::new(),
            last: None,
            ended: false,
        };
        match spawn(program, &order, ucx_folders) {
            Ok(mut running) => {
                running.tell(&Told::Order(Box::new(order)));
                transfer.child = Some(running);
            }
            Err(error) => {
                transfer.end(Trouble::new(FailureKind::Crashed, format!("its process did not start: {error}")));
            }
        }
        transfer
    }

    /// Passes on what the other child said. It is written while [`Self::next`] is waited for.
    #[expect(clippy::unused_async, reason = "part of the interface: it may wait one day")]
    pub async fn say(&mut self, from_peer: String) {
        let running = self.child.as_mut().filter(|_| !self.ended && self.last.is_none());
        let Some(running) = running else { return };
        if from_peer.len() > WORD {
            let message = format!("the other side said {} bytes at once; {WORD} are allowed", from_peer.len());
            return self.end(Trouble::new(FailureKind::Protocol, message));
        }
        running.tell(&Told::FromPeer(from_peer));
        if running.to_say.len() > WAITING {
            let message = format!("its process stopped reading while {}", self.doing);
            self.end(Trouble::new(FailureKind::Stalled, message));
        }
    }

    /// What the child says next. After a report there is nothing more, and this waits for ever. Safe to cancel.
    pub async fn next(&mut self) -> Said {
        loop {
            if self.ready.is_empty()
                && let (Some(_), Some(running)) = (&self.last, &mut self.child)
            {
                running.drain().await;
                self.finish();
            }
            if matches!(self.ready.front(), Some(Said::Report(_))) {
                self.gone().await;
            }
            if let Some(said) = self.ready.pop_front() {
                return said;
            }
            let Some(running) = self.child.as_mut() else { std::future::pending().await };
            match running.wait(self.deadline).await {
                Happened::Heard(0) | Happened::Ended => self.died().await,
                Happened::Heard(count) => self.hear(count),
                Happened::Logged => {}
                Happened::Late => {
                    let message = format!("it was not done after {:?}: killed while {}", self.allowed, self.doing);
                    self.end(Trouble::new(FailureKind::Deadline, message));
                }
            }
        }
    }

    /// Ends the child, and gives what it measured with this as the reason: for whoever learns that nothing can come of it.
    pub async fn fail(mut self, kind: FailureKind, message: String) -> Report {
        self.ready.clear();
        self.end(Trouble::new(kind, message));
        self.gone().await;
        self.report.clone()
    }

    /// The child's process, while there is one.
    pub fn process(&self) -> Option<u32> {
        self.child.as_ref().and_then(|running| running.child.id())
    }

    /// Takes the whole lines of what was heard.
    fn hear(&mut self, fresh: usize) {
        let Some(running) = &mut self.child else { return };
        let mut from = running.heard.len() - fresh;
        while let Some(end) = running.heard[from..].iter().position(|&byte| byte == b'\n') {
            let rest = running.heard.split_off(from + end + 1);
            let line = std::mem::replace(&mut running.heard, rest);
            from = 0;
            match serde_json::from_slice::<Line>(&line) {
                Ok(Line::Said(Said::ToPeer(word))) if word.len() > WORD => {
                    let message = format!("its process said {} bytes at once to the other side", word.len());
                    return self.end(Trouble::new(FailureKind::Protocol, message));
                }
                Ok(Line::Said(Said::Report(report))) => return self.last = Some(*report),
                Ok(Line::Said(said)) => {
                    if let Said::Progress { doing, .. } = &said {
                        self.doing.clone_from(doing);
                    }
                    self.ready.push_back(said);
                }
                Ok(Line::Enters(doing)) => self.doing = doing,
                Ok(Line::SoFar(report)) => self.report = *report,
                Err(error) => {
                    let message = format!("its process said what is no message while {}: {error}", self.doing);
                    return self.end(Trouble::new(FailureKind::Protocol, message));
                }
            }
        }
        if running.heard.len() > LINE {
            let message = format!("its process said a line without end while {}", self.doing);
            self.end(Trouble::new(FailureKind::Protocol, message));
        }
    }

    /// The child's own report is the last, with UCX's words where something failed.
    fn finish(&mut self) {
        let Some(mut report) = self.last.take() else { return };
        self.ended = true;
        let log = self.kill();
        if let Some(failure) = report.failure.take() {
            report.failure = Some(explained(failure, &report, &log));
        }
        self.report = report;
        self.ready.push_back(Said::Report(Box::new(self.report.clone())));
    }

    /// It ended without a report.
    async fn died(&mut self) {
        let Some(running) = &mut self.child else { return };
        // The pipe is closed: the end is near, or it is no longer what it was.
        let status = timeout(GRACE, running.child.wait()).await.ok().and_then(Result::ok);
        running.drain().await;
        let how = match status {
            Some(status) => {
                let signalled = std::os::unix::process::ExitStatusExt::signal(&status);
                match (status.code(), signalled) {
                    (_, Some(number)) => format!("died of {}", signal(number)),
                    (Some(code), None) => format!("ended with status {code} and without a report"),
                    (None, None) => "ended without a report".into(),
                }
            }
            None => "closed its output without a report".into(),
        };
        self.end(Trouble::new(FailureKind::Crashed, format!("its process {how} while {}", self.doing)));
    }

    /// Ends it for a reason: the other side hears of it, and the report says so.
    fn end(&mut self, trouble: Trouble) {
        if self.ended {
            return;
        }
        self.ended = true;
        let log = self.kill();
        let failure = explained(trouble.into(), &self.report, &log);
        self.report.seconds = self.started.elapsed().as_secs_f64();
        if self.report.integrity != Integrity::Corrupt {
            self.report.integrity = Integrity::Unchecked;
        }
        self.report.failure = Some(failure.clone());
        self.ready.push_back(Said::ToPeer(failed_word(&failure)));
        self.ready.push_back(Said::Report(Box::new(self.report.clone())));
    }

    /// Kills the child's group; what it logged.
    fn kill(&mut self) -> String {
        let Some(running) = &mut self.child else { return String::new() };
        running.kill();
        String::from_utf8_lossy(&running.log).into_owned()
    }

    /// Waits until a killed child is gone, so that nobody finds it after its report. One that waits in the kernel for a driver is
    /// left to it.
    async fn gone(&mut self) {
        if let Some(running) = &mut self.child {
            running.kill();
            let _ = timeout(GRACE, running.child.wait()).await;
        }
        // Only now: who cancels this asks again.
        self.child = None;
    }
}

impl Running {
    fn tell(&mut self, told: &Told) {
        if let Ok(line) = serde_json::to_vec(told) {
            self.to_say.extend_from_slice(&line);
            self.to_say.push(b'\n');
        }
    }

    /// Writes, reads and waits, until something is to be looked at.
    async fn wait(&mut self, deadline: Instant) -> Happened {
        loop {
            let writing = !self.to_say.is_empty() && self.stdin.is_some();
            tokio::select! {
                biased;
                written = write(&mut self.stdin, &self.to_say), if writing => match written {
                    Ok(count) => drop(self.to_say.drain(..count)),
                    // Its end is seen at its output.
                    Err(_) => self.stdin = None,
                },
                () = sleep_until(deadline) => return Happened::Late,
                read = read(Some(&mut self.stdout), &mut self.heard) => return read.map_or(Happened::Ended, Happened::Heard),
                read = read(self.stderr.as_mut(), &mut self.log), if self.stderr.is_some() => {
                    if !matches!(read, Ok(1..)) {
                        self.stderr = None;
                    }
                    self.log.drain(..self.log.len().saturating_sub(LOG));
                    return Happened::Logged;
                }
            }
        }
    }

    /// Takes the rest of the log of a child that ended; another process may hold its end open.
    async fn drain(&mut self) {
        let rest = async {
            while matches!(read(self.stderr.as_mut(), &mut self.log).await, Ok(1..)) {
                self.log.drain(..self.log.len().saturating_sub(LOG));
            }
        };
        let _ = timeout(Duration::from_millis(100), rest).await;
    }

    fn kill(&mut self) {
        // The id is `None` once the child was waited for: then its group may be somebody else's.
        if let Some(id) = self.child.id() {
            end_group(id);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn write(stdin: &mut Option<ChildStdin>, bytes: &[u8]) -> io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.write(bytes).await,
        None => std::future::pending().await,
    }
}

async fn read(from: Option<&mut (impl AsyncRead + Unpin)>, into: &mut Vec<u8>) -> io::Result<usize> {
    match from {
        Some(from) => from.read_buf(into).await,
        None => std::future::pending().await,
    }
}

/// Starts the child with exactly the order's `UCX_` variables, and ours.
fn spawn(program: &Path, order: &Order, ucx_folders: &[PathBuf]) -> io::Result<Running> {
    let mut command = Command::new(program);
    command.args(["bench", "child"]);
    for folder in named(ucx_folders) {
        command.arg("--ucx-lib").arg(folder);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("UCX_") {
            command.env_remove(name);
        }
    }
    if matches!(order.memory, Memory::Cuda(_)) {
        // UCX's cache of kinds of memory lives on hooks in the driver's allocator, which functions that are looked up at run time, as
        // ours, may go around: 1.22 then takes the buffer for the host's. It is no part of how bytes move. The order's word counts.
        command.env("UCX_MEMTYPE_CACHE", "n");
    }
    command.envs(order.env.iter().filter(|(name, _)| name.starts_with("UCX_"))).envs(OURS);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own, so that what the child starts ends with it.
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (Some(stdin), Some(stdout), stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("the child has no pipes"));
    };
    Ok(Running { child, stdin: Some(stdin), stdout, stderr, to_say: Vec::new(), heard: Vec::new(), log: Vec::new() })
}

/// A failure with UCX's words; between versions that are known not to understand each other, as that.
fn explained(mut failure: Failure, report: &Report, log: &str) -> Failure {
    failure.message.push_str(&words(log, failure.kind));
    let Some(skew) = skew(&report.ucx.version, &report.ucx.peer_version) else { return failure };
    match failure.kind {
        FailureKind::Unreachable
        | FailureKind::Broken
        | FailureKind::Stalled
        | FailureKind::Crashed
        | FailureKind::Deadline => Trouble::new(FailureKind::Protocol, format!("{}; {skew}", failure.message)).into(),
        // It may be that, or the other side's own trouble.
        FailureKind::Peer if !failure.message.contains(&skew) => {
            failure.message = format!("{}; {skew}", failure.message);
            failure
        }
        FailureKind::Peer
        | FailureKind::NoUcx
        | FailureKind::NoTransport
        | FailureKind::Corrupt
        | FailureKind::Memory
        | FailureKind::Protocol => failure,
    }
}

/// What is known of two versions that do not understand each other.
fn skew(ours: &str, theirs: &str) -> Option<String> {
    let minor = |version: &str| version.split('.').nth(1)?.parse::<u32>().ok();
    let (ours_minor, theirs_minor) = (minor(ours)?, minor(theirs)?);
    ((ours_minor < BORDER) != (theirs_minor < BORDER)).then(|| {
        format!(
            "one side has UCX {} and the other {}: from 1.19 on, UCX reaches memory over TCP in a way that older ones do not know",
            if ours_minor < theirs_minor { ours } else { theirs },
            if ours_minor < theirs_minor { theirs } else { ours }
        )
    })
}

/// What UCX said last, where that can explain a failure: its own words beat ours.
fn words(log: &str, kind: FailureKind) -> String {
    let quoted = |text: String| if text.is_empty() { text } else { format!("; UCX says: {text}") };
    match kind {
        FailureKind::NoUcx | FailureKind::Corrupt | FailureKind::Peer => String::new(),
        FailureKind::Crashed => last_words(log).map(|words| format!("; its last words: {words}")).unwrap_or_default(),
        FailureKind::NoTransport
        | FailureKind::Unreachable
        | FailureKind::Broken
        | FailureKind::Stalled
        | FailureKind::Deadline
        | FailureKind::Memory
        | FailureKind::Protocol => {
            let errors = text::messages(log).into_iter().rev();
            let mut errors = errors.filter(|message| message.level == "ERROR" || message.level == "FATAL");
            quoted(errors.next().map(|message| message.text.chars().take(300).collect()).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use policies::selftest::{Limits, Op, Role};

    use super::*;

    #[test]
    fn the_border_is_between_1_18_and_1_19() {
        assert!(skew("1.13.1", "1.18.1").is_none() && skew("1.19.0", "1.22.0").is_none());
        assert_eq!(skew("1.18.1", "1.19.0"), skew("1.19.0", "1.18.1"));
        assert!(skew("1.22.0", "1.13.1").is_some() && skew("", "1.13.1").is_none());
    }

    #[test]
    fn only_what_the_versions_can_explain_is_explained_by_them() {
        let limits = Limits::default();
        let (role, memory, ops) = (Role::Initiator, Memory::Host, vec![Op::Put]);
        let order = Order { role, secret: String::new(), memory, ops, sizes: vec![], env: [].into(), limits };
        let mut report = blank(&order);
        (report.ucx.version, report.ucx.peer_version) = ("1.18.1".into(), "1.19.0".into());
        let told = |kind| explained(Trouble::new(kind, "it failed").into(), &report, "");
        let broken = told(FailureKind::Broken);
        assert!(broken.kind == FailureKind::Protocol && broken.message.contains("UCX 1.18.1 and the other 1.19.0"));
        assert!(broken.remedy.contains("the same version"), "{broken:?}");
        assert_eq!(told(FailureKind::Corrupt).message, "it failed");
        assert_eq!(told(FailureKind::Peer).kind, FailureKind::Peer);
    }
}
