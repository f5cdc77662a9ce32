//! A child process that cannot outlive this one.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::time::sleep;

/// Longer than the guard's own patience with what it guards.
const GRACE: Duration = Duration::from_secs(8);

/// A running program, its log, and the pipe that holds it: when that closes, by whatever end of this process, the
/// program ends.
///
/// It is a plain `std` child, because a test's runtime ends with the test, and a shared cluster must not.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    leash: Option<ChildStdin>,
    guarded: bool,
    log: PathBuf,
}

impl Process {
    /// Runs a component of `kube`, which watches the pipe itself.
    pub(crate) fn component(kube: &Path, name: &str, args: &[String], log: PathBuf) -> Result<Self> {
        let mut command = Command::new(kube);
        command.args(args).env("RAILBIND_EXIT_ON_STDIN_EOF", "1");
        Self::start(name, command, log, false)
    }

    /// Runs any program under `kube guard`, in a process group of its own and with an empty standard input.
    pub fn guarded<A: AsRef<OsStr>>(
        kube: &Path,
        name: &str,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
        envs: &[(&str, &str)],
        log: PathBuf,
    ) -> Result<Self> {
        let mut command = Command::new(kube);
        command.args(["guard", "--"]).arg(program).args(args).envs(envs.iter().copied());
        Self::start(name, command, log, true)
    }

    fn start(name: &str, mut command: Command, log: PathBuf, guarded: bool) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open the log {}", log.display()))?;
        let err = out.try_clone().context("share the log")?;
        // The pipe is close-on-exec on our side: no sibling inherits it and keeps it open.
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start {name} ({})", command.get_program().display()))?;
        let leash = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, leash, guarded, log })
    }

    /// Id of the program itself, not of the guard that started it.
    pub fn id(&self) -> Result<u32> {
        let own = self.child.id();
        if !self.guarded {
            return Ok(own);
        }
        let threads = fs::read_dir(format!("/proc/{own}/task")).with_context(|| format!("look at {}", self.name))?;
        let mut children = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
        let child = children.find_map(|ids| ids.split_whitespace().next()?.parse().ok());
        child.with_context(|| format!("{} has no process", self.name))
    }

    /// What it was called when it was started.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(|err| format!("({err})"), |text| String::from_utf8_lossy(&text).into_owned())
    }

    /// The last lines it has written.
    pub fn tail(&self, lines: usize) -> String {
        let log = self.log();
        let skip = log.lines().count().saturating_sub(lines);
        log.lines().skip(skip).flat_map(|line| ["    ", line, "\n"]).collect()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("ask after {}", self.name))
    }

    /// Fails, with the end of its log, if it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}):\n{}", self.name, self.tail(15)),
        }
    }

    /// Waits until it ends by itself.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} still runs after {} s:\n{}", self.name, limit.as_secs(), self.tail(15));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it politely (SIGTERM for a guarded program), with force after five seconds.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        self.release();
        if let Ok(status) = self.wait(GRACE).await {
            return Ok(status);
        }
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.wait(GRACE).await
    }

    /// Ends it at once, as a crash would.
    pub async fn kill(&mut self) -> Result<ExitStatus> {
        match (&mut self.leash, self.guarded) {
            // Through the guard, so that the program's own children go as well. It fails only if the guard is gone.
            (Some(leash), true) => drop(leash.write_all(b"kill\n")),
            _ => self.child.kill().with_context(|| format!("kill {}", self.name))?,
        }
        self.wait(GRACE).await
    }

    /// Lets go of the leash without waiting, so that many can end at the same time.
    pub(crate) fn release(&mut self) {
        self.leash = None;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.release();
        let deadline = Instant::now() + GRACE;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() >= deadline {
                drop(self.child.kill());
                drop(self.child.wait());
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
