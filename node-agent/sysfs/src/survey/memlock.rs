//! The locked-memory limit that containers inherit: that of the container runtime's process.

use policies::fabric::{Fact, Memlock};

use crate::{
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

pub(super) fn of_containers(reader: &mut Reader<'_>) -> Fact<Memlock> {
    let names = match reader.root().list_up_to("proc", PROC_ENTRIES) {
        Listing::Entries { names, .. } => names,
        Listing::Absent => return unknown("/proc is absent"),
        Listing::Unreadable(trouble) => {
            reader.unreadable("proc", trouble);
            return unknown(format!("/proc: {trouble}"));
        }
    };
    let pids = names.iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let Ok(proc) = reader.root().folder("proc") else { return unknown("/proc is absent") };
    let mut best: Option<(usize, &str)> = None;
    for pid in pids.take(PROCESSES) {
        // Processes come and go: one whose name cannot be read is not a problem.
        let Content::Text(name) = proc.read(&format!("{pid}/comm")) else { continue };
        let Some(rank) = RUNTIMES.iter().position(|runtime| *runtime == name.trim()) else { continue };
        if best.is_none_or(|(other, _)| rank < other) {
            best = Some((rank, pid));
        }
        if rank == 0 {
            break;
        }
    }
    match best {
        Some((_, pid)) => reader.fact(&format!("proc/{pid}/limits"), parse::memlock),
        None => unknown(format!("no container runtime ({}) among the processes", RUNTIMES.join(", "))),
    }
}
