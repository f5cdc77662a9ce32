//! `railbind-agent probe`: UCX and CUDA loaded for real and asked about this node, in a child process that may die.
//!
//! Both run foreign code that aborts, crashes and hangs on broken nodes, which are the ones worth probing. So this process starts
//! itself again (`child`), the child reports after every step (`inside`), and `verdict` makes facts and problems of what came
//! before its end, whatever that was. Nothing here fails because a library does.

mod child;
mod cuda;
mod inside;
mod nvml;
mod print;
mod ucx;
mod verdict;

use std::{io, path::PathBuf, process::Command, time::Duration};

use policies::{
    fabric::{Fact, Problem},
    probe::{CudaFacts, UcxFacts},
    selftest::NvmlFacts,
};
use serde::Serialize;

pub(crate) use self::child::end_group;
pub(crate) use self::inside::confine;
pub(crate) use self::ucx::{Variables, variables};
pub(crate) use self::verdict::{last_words, signal};
use crate::args::{CudaProbeArgs, GpuProbeArgs, ProbeChild, ProbeCommand, UcxProbeArgs};

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Probed<T> {
    /// Facts, as far as the child got.
    pub facts: T,
    /// What is wrong with them, or with the probe.
    pub problems: Vec<Problem>,
}

/// Asks the UCX that is found first. Takes up to the deadline; not for an async thread.
pub fn ucx(args: &UcxProbeArgs) -> Probed<UcxFacts> {
    let mut command = own("ucx");
    command.envs(ucx::OURS);
    for folder in named(&args.folders) {
        command.arg("--lib").arg(folder);
    }
    let run = child::run(&mut command, args.deadline);
    let (mut facts, died) =
        verdict::of::<UcxFacts>("UCX", &run, args.deadline, "give another UCX with --lib, or repair this one");
    ucx::add_log(&mut facts, &run.log, |name| std::env::var_os(name).is_some());
    let problems = died.into_iter().chain(facts.problems()).collect();
    Probed { facts, problems }
}

/// Asks the NVIDIA driver. Takes up to the deadline; not for an async thread.
pub fn cuda(args: &CudaProbeArgs) -> Probed<CudaFacts> {
    let run = child::run(&mut own("cuda"), args.deadline);
    let remedy = "run nvidia-smi on the node and read the kernel's log for NVRM and Xid messages";
    let (facts, died) = verdict::of::<CudaFacts>("CUDA", &run, args.deadline, remedy);
    let problems = died.into_iter().chain(facts.problems()).collect();
    Probed { facts, problems }
}

/// Asks NVML who uses the GPUs. Takes up to the deadline; not for an async thread.
pub fn gpus(deadline: Duration) -> Probed<NvmlFacts> {
    let run = child::run(&mut own("gpus"), deadline);
    let remedy = "run nvidia-smi on the node and read the kernel's log for NVRM and Xid messages";
    let (mut facts, died) = verdict::of::<NvmlFacts>("NVML", &run, deadline, remedy);
    if let (Some(died), Fact::Unknown(_)) = (&died, &facts.gpus) {
        facts.gpus = Fact::Unknown(died.message.clone());
    }
    let own = if died.is_none() { facts.problems() } else { Vec::new() };
    Probed { facts, problems: died.into_iter().chain(own).collect() }
}

/// `railbind-agent probe …`.
pub(crate) fn execute(command: &ProbeCommand) -> anyhow::Result<()> {
    match command {
        ProbeCommand::Ucx(args) => print::probed(&ucx(args), args.json, print::ucx),
        ProbeCommand::Cuda(args) => print::probed(&cuda(args), args.json, print::cuda),
        ProbeCommand::Gpus(GpuProbeArgs { deadline, json }) => print::probed(&gpus(*deadline), *json, print::gpus),
        ProbeCommand::Child(ProbeChild::Ucx { folders }) => inside::run(|report| ucx::ask(folders, report)),
        ProbeCommand::Child(ProbeChild::Cuda) => inside::run(cuda::ask),
        ProbeCommand::Child(ProbeChild::Gpus) => inside::run(nvml::ask),
    }
}

/// This program. Not its path: an upgrade may have replaced the file, and the child must be of the same build.
pub(crate) const PROGRAM: &str = "/proc/self/exe";

/// The folders that are named: a variable that is set to nothing names none.
pub(crate) fn named(folders: &[PathBuf]) -> impl Iterator<Item = &PathBuf> {
    folders.iter().filter(|folder| !folder.as_os_str().is_empty())
}

/// This program again, as the named child.
fn own(child: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["probe", "child", child]);
    command
}

/// How a child's report and the facts in it are sent: one JSON object a line, each complete, the last one counts.
#[derive(Debug, Serialize, serde::Deserialize)]
struct Line<T> {
    /// What the child does next; empty when it is done.
    next: String,
    /// All facts so far.
    facts: T,
}

/// What a child left.
#[derive(Debug)]
struct Run {
    /// Its report: lines of [`Line`].
    report: Vec<u8>,
    /// What it and its libraries printed, the end of it if it was long.
    log: String,
    /// How it ended.
    end: End,
}

/// How a child ended.
#[derive(Debug)]
enum End {
    /// By itself, with a status.
    Exited(i32),
    /// By a signal that was not ours.
    Signalled(i32),
    /// It was killed at the deadline.
    TimedOut,
    /// It was killed at the deadline and is still there: it waits in the kernel, for a driver.
    Stuck,
    /// It was killed because its report has no end.
    TooLong,
    /// It did not start, or could not be watched.
    Failed(io::Error),
}
