//! The locked-memory limit that containers inherit: that of the container runtime's process.

use policies::fabric::{Fact, Memlock};
use rustix::io::Errno;

use crate::{
    cache::Cache,
    parse,
    reader::Reader,
    root::{Content, Listing},
    survey::unknown,
};

/// Container runtimes by the name of their process, the likeliest first. A kubelet may sit beside an idle dockerd.
const RUNTIMES: [&str; 6] = ["containerd", "crio", "k3s-server", "rke2", "dockerd", "cri-dockerd"];
/// Entries of /proc that are listed, and processes that are looked at: runtimes start early and have low numbers.
const PROC_ENTRIES: usize = 65_536;
const PROCESSES: usize = 8192;

pub(super) fn of_containers(reader: &mut Reader<'_>, cache: &mut Cache) -> Fact<Memlock> {
    let (proc, entries) = match reader.root().folder_of("proc", PROC_ENTRIES) {
        Ok((proc, entries, _)) => (proc, entries),
        Err(Errno::NOENT) => return unknown("/proc is absent"),
        Err(errno) => {
            let trouble = match Listing::from(errno) {
                Listing::Unreadable(trouble) => trouble,
                Listing::Absent | Listing::Entries { .. } => errno.into(),
            };
            reader.unreadable("proc", trouble);
            return unknown(format!("/proc: {trouble}"));
        }
    };
    // Processes come and go: one whose name cannot be read is not a problem.
    let rank = |pid: &str| match proc.read(&format!("{pid}/comm")) {
        Content::Text(name) => RUNTIMES.iter().position(|runtime| *runtime == name.trim()),
        Content::Absent | Content::Empty | Content::Unreadable(_) => None,
    };
    if let Some(pid) = cache.runtime.take().filter(|pid| rank(pid) == Some(0)) {
        cache.runtime = Some(pid.clone());
        return reader.fact(&format!("proc/{pid}/limits"), parse::memlock);
    }
    let mut pids: Vec<u32> = entries.iter().filter_map(|entry| entry.name.parse().ok()).collect();
    pids.sort_unstable();
    let mut best: Option<(usize, String)> = None;
    for pid in pids.into_iter().take(PROCESSES).map(|pid| pid.to_string()) {
        let Some(rank) = rank(&pid) else { continue };
        if best.as_ref().is_none_or(|(other, _)| rank < *other) {
            best = Some((rank, pid));
        }
        if rank == 0 {
            break;
        }
    }
    match best {
        Some((_, pid)) => {
            cache.runtime = Some(pid.clone());
            reader.fact(&format!("proc/{pid}/limits"), parse::memlock)
        }
        None => unknown(format!("no container runtime ({}) among the processes", RUNTIMES.join(", "))),
    }
}
