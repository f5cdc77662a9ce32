//! The verdict on one transfer: the path first, then every byte, then the figures.

use std::collections::BTreeMap;

use super::{Against, FailureKind, Grade, Integrity, Measurement, Memory, Op, ProfileTried, Report};
use crate::{
    kernel::Version,
    names::selftest as code,
    profile::{Expect, TransportProfile},
    roles::Fabric,
};

/// Share of the link's rate that is good (research: 0.80–1.0 is what the guide's own figures are).
const GOOD: f64 = 0.85;
/// Share under which it is no use.
const USELESS: f64 = 0.70;
/// Under this many GB/s something is wrong, whatever the hardware (guide, Test UCX Performance).
const RED_FLAG: f64 = 1.0;
/// Share of the bytes that the ports' counters have to show.
const COUNTED: f64 = 0.95;
/// Bytes from which a figure is one of bandwidth.
const BULK: u64 = 1 << 20;
/// Of two sets this near the default one is taken.
const TIE: f64 = 0.05;

/// What a transfer is held against.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The profile under whose environment it ran.
    pub profile: &'a TransportProfile,
    /// The node's fabric.
    pub fabric: Fabric,
    /// The only RDMA devices are software ones.
    pub soft: bool,
    /// GPUDirect is there (DMA-BUF or peermem).
    pub gpu_direct: bool,
    /// Kernel of the node.
    pub kernel: Option<Version>,
    /// Rates in Gb/s by port (`mlx5_0:1`), of the slower of both nodes where that is known.
    pub rates: &'a BTreeMap<String, f64>,
    /// Share of the link that the transfer was allowed, 0–1.
    pub share: f64,
    /// Through the own NIC and back: the counters of ports do not see it.
    pub loopback: bool,
}

/// The verdict on one transfer.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// How good it was.
    pub verdict: Grade,
    /// Stable CamelCase code.
    pub code: String,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
    /// What to do next; empty where there is nothing.
    pub remedy: String,
    /// Whom it speaks of.
    pub against: Against,
    /// Whether the profile did what it promises: it connected, over its path, every byte right. Slow is no reason against it.
    pub qualifies: bool,
    /// The figure that was judged.
    pub judged: Option<Measurement>,
    /// Latency of 8 bytes in microseconds.
    pub usec: Option<f64>,
}

/// Transport and device: `rc_mlx5/mlx5_0:1` apart.
fn apart(path: &str) -> (&str, Option<&str>) {
    path.split_once('/').map_or((path, None), |(transport, device)| (transport, Some(device)))
}

/// Whether a transport moves bytes without any network's hardware.
fn is_fallback(transport: &str) -> bool {
    matches!(transport, "tcp" | "posix" | "sysv" | "cma" | "knem" | "xpmem" | "self")
}

/// Whether a transport is one that the profile promises: `rc_x` and `ib` are families in UCX's settings, never what it reports.
fn promised(expect: &Expect, transport: &str) -> bool {
    expect.transports.iter().any(|name| name == transport)
}

/// The verdict.
pub fn judge(report: &Report, expected: &Expected<'_>) -> Judgement {
    let judged = bulk(report);
    let usec = report.sizes.iter().find(|size| size.op == Op::Latency).map(|size| size.usec);
    let mut found = Judgement {
        verdict: Grade::Passed,
        code: code::AS_EXPECTED.into(),
        reasons: Vec::new(),
        remedy: String::new(),
        against: Against::Pair,
        qualifies: true,
        judged: judged.cloned(),
        usec,
    };
    if report.integrity == Integrity::Corrupt || failed_as(report, FailureKind::Corrupt) {
        found.fail(
            code::CORRUPT,
            "bytes arrived that were not sent".into(),
            "take both nodes out of service; compare firmware and drivers, and turn UCX_IB_PCI_RELAXED_ORDERING and GPUDirect off to find which",
        );
        return found;
    }
    if let Some(failure) = &report.failure {
        found.fail(code::TRANSFER_FAILED, failure.message.clone(), &failure.remedy);
        (found.against, found.code) = match failure.kind {
            FailureKind::NoUcx | FailureKind::NoTransport | FailureKind::Memory | FailureKind::Crashed => {
                (Against::Own, code::OWN_SIDE.into())
            }
            FailureKind::Peer | FailureKind::Protocol => (Against::Nobody, found.code),
            _ => (Against::Pair, found.code),
        };
        return found;
    }
    if !path(report, expected, &mut found) {
        return found;
    }
    if report.integrity == Integrity::Unchecked {
        found.fail(
            code::UNCHECKED,
            "the bytes were not checked".into(),
            "run the transfer again, with its default bounds",
        );
        return found;
    }
    staging(report, expected, &mut found);
    if expected.soft {
        found.reasons.push("software RDMA: judged by its path and its bytes, not by its figures".into());
        return found;
    }
    bandwidth(report, expected, &mut found);
    latency(report, expected, &mut found);
    found
}

impl Judgement {
    fn fail(&mut self, code: &str, reason: String, remedy: &str) {
        self.grade(Grade::Failed, code, reason, remedy);
        self.qualifies = false;
    }

    /// The worse verdict stays, and of two alike the first.
    fn grade(&mut self, verdict: Grade, code: &str, reason: String, remedy: &str) {
        if verdict > self.verdict {
            self.verdict = verdict;
            self.code = code.into();
            self.remedy = remedy.into();
            self.reasons.insert(0, reason);
        } else {
            self.reasons.push(reason);
        }
    }
}

fn failed_as(report: &Report, kind: FailureKind) -> bool {
    report.failure.as_ref().is_some_and(|failure| failure.kind == kind)
}

/// The figure to judge: of each operation the best bulk size, and of NIXL's two operations the worse.
fn bulk(report: &Report) -> Option<&Measurement> {
    let best = |op: Op| {
        let sizes = report.sizes.iter().filter(move |size| size.op == op && size.bytes >= BULK);
        sizes.max_by(|one, other| one.gbytes_per_s.total_cmp(&other.gbytes_per_s))
    };
    let rma = [Op::Put, Op::Get].into_iter().filter_map(best);
    rma.min_by(|one, other| one.gbytes_per_s.total_cmp(&other.gbytes_per_s)).or_else(|| best(Op::Tag))
}

/// Whether the data took the path that the profile promises.
fn path(report: &Report, expected: &Expected<'_>, found: &mut Judgement) -> bool {
    let expect = &expected.profile.spec.expect;
    let rdma = expected.fabric != Fabric::Tcp && !expect.transports.iter().all(|name| is_fallback(name));
    let promises = expect.transports.join(", ");
    // Every transport that is known to have carried something.
    let mut used: Vec<&str> = report.transport.iter().map(String::as_str).collect();
    used.extend(report.sizes.iter().filter(|size| size.bytes >= BULK).filter_map(|size| size.transport.as_deref()));
    if used.is_empty() {
        let lanes: Vec<&str> = report.lanes.iter().map(String::as_str).collect();
        if lanes.is_empty() || !lanes.iter().all(|lane| promised(expect, apart(lane).0)) {
            found.fail(
                code::PATH_UNKNOWN,
                format!("nothing says which of the endpoint's transports carried the data: {}", lanes.join(", ")),
                "use UCX 1.16 or later on both nodes, whose requests say it",
            );
            return false;
        }
        found.reasons.push(format!("the endpoint has only {}", lanes.join(", ")));
    }
    for path in used {
        let transport = apart(path).0;
        if promised(expect, transport) {
            continue;
        }
        if rdma && is_fallback(transport) {
            found.fail(
                code::FALLBACK,
                format!("UCX took {path} although the node has {}: a silent fallback", expected.fabric.title()),
                "look for a UCX_TLS or UCX_NET_DEVICES that excludes the RDMA devices, for /dev/infiniband and the memory lock limit in the \
                 container, and for a UCX built without verbs (`ucx_info -d`)",
            );
        } else {
            found.fail(
                code::WRONG_TRANSPORT,
                format!("UCX took {path}; {} promises {promises}", expected.profile.metadata.name),
                "compare the profile's UCX_TLS with `ucx_info -d` on the node",
            );
        }
        return false;
    }
    if rdma && !expected.loopback {
        let (counted, moved) = (counted(report), payload(report));
        if let Some(counted) = counted.filter(|counted| *counted < moved * COUNTED) {
            found.fail(
                code::PATH_CONTRADICTED,
                format!(
                    "the ports' counters moved by {counted:.0} bytes while UCX says that it moved {moved:.0} over them"
                ),
                "report it with the transfer's evidence: UCX and the kernel disagree",
            );
            return false;
        }
    }
    true
}

/// Bytes that the RDMA ports' counters moved by; `None` where no port has such counters (software RDMA).
#[allow(clippy::cast_precision_loss, reason = "a share is compared")]
fn counted(report: &Report) -> Option<f64> {
    let data = report.counters.iter().filter(|counter| counter.name.ends_with("_data"));
    let mut ports: BTreeMap<&str, u64> = BTreeMap::new();
    for counter in data {
        let most = ports.entry(&counter.port).or_default();
        *most = (*most).max(counter.delta);
    }
    (!ports.is_empty()).then(|| ports.values().map(|delta| *delta as f64).sum())
}

/// Bytes of one direction, at the least: the operation that moved the most.
#[allow(clippy::cast_precision_loss, reason = "a share is compared")]
fn payload(report: &Report) -> f64 {
    let of = |op: Op| {
        report.sizes.iter().filter(move |size| size.op == op).map(|size| size.bytes as f64 * size.iterations as f64)
    };
    [Op::Put, Op::Get, Op::Tag].into_iter().map(|op| of(op).sum::<f64>()).fold(0.0, f64::max)
}

/// GPU memory by way of the host's.
fn staging(report: &Report, expected: &Expected<'_>, found: &mut Judgement) {
    let both = [report.memory.local, report.memory.remote];
    if both.iter().all(|memory| *memory == Memory::Host) {
        if expected.gpu_direct {
            found.reasons.push("host memory on both sides: GPUDirect was not tried".into());
        }
        return;
    }
    let words = ["copy-in", "copy-out", "pipeline", "cuda_copy", "software emulation", "staged"];
    let staged = report
        .sizes
        .iter()
        .filter_map(|size| size.protocol.as_deref())
        .find(|text| words.iter().any(|word| text.contains(word)));
    let Some(protocol) = staged else { return };
    let efa = expected.fabric == Fabric::Efa && expected.kernel.is_some_and(|kernel| kernel >= Version::new(6, 8));
    if efa || !expected.gpu_direct || expected.profile.spec.when.gpu_direct != Some(true) {
        found.reasons.push(format!("GPU memory went through the host's, as is expected here ({protocol})"));
        return;
    }
    found.qualifies = false;
    found.grade(
        Grade::Slow,
        code::HOST_STAGED,
        format!("GPU memory went through the host's although GPUDirect is there ({protocol})"),
        "check `ucx_info -d` for cuda among the memory types of the RDMA device; load nvidia-peermem, or use the open GPU kernel modules",
    );
}

/// Rate of a kind of port, in Gb/s, by the words that profiles use for it.
fn nominal(kind: &str) -> Option<f64> {
    kind.split_ascii_whitespace().find_map(|word| match word {
        "FDR" => Some(56.0),
        "EDR" => Some(100.0),
        "HDR" => Some(200.0),
        "NDR" => Some(400.0),
        "XDR" => Some(800.0),
        other => other.strip_suffix("GbE").and_then(|rate| rate.parse().ok()),
    })
}

fn bandwidth(report: &Report, expected: &Expected<'_>, found: &mut Judgement) {
    let Some(size) = found.judged.clone() else {
        found.fail(
            code::NOTHING_MEASURED,
            "no bandwidth was measured".into(),
            "run the transfer again, with its default bounds",
        );
        return;
    };
    let rate = size.gbytes_per_s;
    let device = size.transport.as_deref().or(report.transport.as_deref()).and_then(|path| apart(path).1);
    let slowest = expected.rates.values().copied().reduce(f64::min);
    let link = device.and_then(|device| expected.rates.get(device).copied()).or(slowest);
    let tcp = expected.fabric == Fabric::Tcp;
    let said = format!("{rate:.1} GB/s ({:?} of {} MiB)", size.op, size.bytes >> 20)
        .to_lowercase()
        .replace("gb/s", "GB/s")
        .replace("mib", "MiB");
    let share = expected.share.clamp(0.01, 1.0);
    let remedy = "compare with other partners; look at the cable, PCIe width (`railbind-agent survey`), congestion and error counters";
    if rate < RED_FLAG * share {
        let verdict = if tcp { Grade::Slow } else { Grade::Failed };
        found.grade(verdict, code::RED_FLAG, format!("{said}: under 1 GB/s is always a red flag"), remedy);
        return;
    }
    let table = expected.profile.spec.expect.bandwidth.iter().find(|line| {
        if tcp { true } else { nominal(&line.port).zip(link).is_some_and(|(kind, link)| (kind - link).abs() < 1.0) }
    });
    // A TCP profile's figures are for any network; a link's rate says more about RDMA.
    let link = link.filter(|_| !tcp).map(|link| link / 8.0 * share);
    let good = table.map(|line| line.min * share).or(link.map(|link| link * GOOD));
    let useless = link.map_or(0.0, |link| link * USELESS);
    match good {
        None => found.reasons.push(format!("{said}; nothing says how much it should be")),
        Some(good) if rate >= good => found.reasons.push(format!("{said}, at least {good:.1} expected")),
        Some(good) => {
            let verdict = if rate < useless { Grade::Failed } else { Grade::Slow };
            found.grade(verdict, code::LOW_BANDWIDTH, format!("{said}, at least {good:.1} expected"), remedy);
        }
    }
}

fn latency(_report: &Report, expected: &Expected<'_>, found: &mut Judgement) {
    // Guide, Test UCX Performance: about 1, 2 and 50 µs. It has none for EFA.
    let guide = match expected.fabric {
        Fabric::InfiniBand => 1.0,
        Fabric::Roce => 2.0,
        Fabric::Tcp => 50.0,
        Fabric::Efa => return,
    };
    let Some(usec) = found.usec else { return };
    if usec > guide * 5.0 {
        found.grade(
            Grade::Slow,
            code::HIGH_LATENCY,
            format!("{usec:.1} µs for 8 bytes, five times the guide's {guide} µs or more"),
            "look for congestion (ECN and pause counters), power saving of CPU and PCIe, and a path over more switches than others",
        );
    } else {
        found.reasons.push(format!("{usec:.1} µs for 8 bytes"));
    }
}

/// One profile's transfer.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Name of the profile.
    pub profile: String,
    /// Its set.
    pub set: String,
    /// How its transfer went.
    pub judgement: Judgement,
}

/// Which profiles do what they promise, and the set of the fastest: of two that are within 5 % the default set.
pub fn qualify(trials: &[Trial], default_set: &str) -> (Vec<ProfileTried>, Option<String>) {
    let tried: Vec<ProfileTried> = trials
        .iter()
        // A transfer that speaks of nobody says nothing of the profile either.
        .filter(|trial| trial.judgement.qualifies || trial.judgement.against != Against::Nobody)
        .map(|Trial { profile, set, judgement }| ProfileTried {
            name: profile.clone(),
            set: set.clone(),
            qualified: judgement.qualifies,
            gbytes_per_s: judgement.judged.as_ref().map(|size| size.gbytes_per_s),
            why: judgement.reasons.first().cloned().unwrap_or_default(),
        })
        .collect();
    let speed = |tried: &ProfileTried| tried.gbytes_per_s.unwrap_or(0.0);
    let qualified = || tried.iter().filter(|tried| tried.qualified);
    let fastest = qualified().max_by(|one, other| speed(one).total_cmp(&speed(other)));
    let usual = qualified().find(|tried| tried.set == default_set);
    let chosen = match (fastest, usual) {
        (Some(fastest), Some(usual)) if speed(usual) >= speed(fastest) * (1.0 - TIE) => Some(usual),
        (fastest, _) => fastest,
    };
    let set = chosen.map(|chosen| chosen.set.clone());
    (tried, set)
}

#[cfg(test)]
mod tests;
