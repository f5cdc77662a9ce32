//! The locked-memory limit that containers inherit: that of the container runtime's process.

use policies::fabric::{Fact, Memlock};
use rustix::io::Errno;

use crate::{
    cache::Cache,
    parse,
    reader::Reader,
    root::{Content, Folder, Trouble},
    survey::unknown,
};

/// Container runtimes by the name of their process, the likeliest first. A kubelet may sit beside an idle dockerd.
const RUNTIMES: [&str; 6] = ["containerd", "crio", "k3s-server", "rke2", "dockerd", "cri-dockerd"];
/// Entries of /proc that are listed, and processes that are looked at: runtimes start early and have low numbers.
const PROC_ENTRIES: usize = 65_536;
const PROCESSES: usize = 8192;

pub(super) fn of_containers(reader: &mut Reader<'_>, cache: &mut Cache) -> Fact<Memlock> {
    let proc = match reader.root().folder("proc") {
        Ok(proc) => proc,
        Err(Errno::NOENT) => return unknown("/proc is absent"),
        Err(errno) => return no_proc(reader, errno),
    };
    // Processes come and go: one whose name cannot be read is not a problem.
    let rank = |pid: u32| match proc.read(&format!("{pid}/comm")) {
        Content::Text(name) => RUNTIMES.iter().position(|runtime| *runtime == name.trim()),
        Content::Absent | Content::Empty | Content::Unreadable(_) => None,
    };
    let likely = cache.runtime.into_iter().chain(children_of_init(&proc));
    let runtime = match likely.into_iter().find(|pid| rank(*pid) == Some(0)) {
        Some(pid) => Some(pid),
        None => match pids(reader) {
            Ok(pids) => best(pids.into_iter().take(PROCESSES), rank),
            Err(errno) => return no_proc(reader, errno),
        },
    };
    cache.runtime = runtime;
    match runtime {
        Some(pid) => reader.fact(&format!("proc/{pid}/limits"), parse::memlock),
        None => unknown(format!("no container runtime ({}) among the processes", RUNTIMES.join(", "))),
    }
}

/// Where a service manager starts the runtime, it is one of these: a few dozen among thousands.
fn children_of_init(proc: &Folder<'_>) -> Vec<u32> {
    match proc.read("1/task/1/children") {
        Content::Text(text) => {
            let mut pids: Vec<u32> = text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
            pids.sort_unstable();
            pids
        }
        Content::Absent | Content::Empty | Content::Unreadable(_) => Vec::new(),
    }
}

fn pids(reader: &Reader<'_>) -> Result<Vec<u32>, Errno> {
    let (_, entries, _) = reader.root().folder_of("proc", PROC_ENTRIES)?;
    let mut pids: Vec<u32> = entries.iter().filter_map(|entry| entry.name.parse().ok()).collect();
    pids.sort_unstable();
    Ok(pids)
}

/// The likeliest of them, and of several alike the first.
fn best(pids: impl Iterator<Item = u32>, rank: impl Fn(u32) -> Option<usize>) -> Option<u32> {
    let mut best: Option<(usize, u32)> = None;
    for pid in pids {
        let Some(rank) = rank(pid) else { continue };
        if best.is_none_or(|(other, _)| rank < other) {
            best = Some((rank, pid));
        }
        if rank == 0 {
            break;
        }
    }
    best.map(|(_, pid)| pid)
}

fn no_proc(reader: &mut Reader<'_>, errno: Errno) -> Fact<Memlock> {
    let trouble = if errno == Errno::NOTDIR { Trouble::NotADirectory } else { errno.into() };
    reader.unreadable("proc", trouble);
    unknown(format!("/proc: {trouble}"))
}
