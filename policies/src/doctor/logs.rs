//! What workers' logs say: lines of UCX, NIXL and libfabric, and the guide's own, with what they mean.
//!
//! Read line by line as they come, so that a log of any size costs one line's memory.

use serde::Serialize;

use super::{
    Cause, Diagnosis, Severity,
    scene::{ContainerScene, PodScene, Scene},
};

/// Longest part of a line that is looked at, and kept.
const LINE: usize = 4096;
/// Longest part of a line that is shown.
const SHOWN: usize = 240;

/// A line that means something.
struct Pattern {
    /// All of these are in the line, whatever their case.
    parts: &'static [&'static str],
    means: Cause,
    says: &'static str,
    remedy: &'static str,
}

const fn pattern(parts: &'static [&'static str], means: Cause, says: &'static str, remedy: &'static str) -> Pattern {
    Pattern { parts, means, says, remedy }
}

const TCP: &str =
    "see that the container asks for the RDMA resource, has IPC_LOCK, and leaves UCX_TLS and UCX_NET_DEVICES alone";
const DMABUF: &str =
    "load nvidia-peermem, or use the open GPU kernel modules; UCX_IB_GPU_DIRECT_RDMA=n stages instead of failing";
const LOCK: &str = "add IPC_LOCK and run as root, or set LimitMEMLOCK=infinity for the container runtime";
const RETRY: &str = "look for loss, link flaps and exhausted RDMA resources; UCX_LOG_LEVEL=debug says more; compare the UCX versions of both sides";

/// The first that matches a line counts. Sources: the guide (Runtime Diagnostics, Troubleshooting); openucx/ucx src/ucp/core,
/// src/ucp/wireup, src/uct/ib/base, src/ucs/config/parser.c; ai-dynamo/nixl src/plugins/ucx, src/utils/common/hw_info.cpp;
/// ofiwg/libfabric prov/efa.
const PATTERNS: &[Pattern] = &[
    pattern(&["no rdma transports available"], Cause::LogsTcp, "UCX found no RDMA (the guide's wording)", TCP),
    pattern(&["falling back to tcp"], Cause::LogsTcp, "transfers go over TCP (the guide's wording)", TCP),
    pattern(&["software emulation", "tcp/"], Cause::LogsTcp, "UCX moves memory over TCP in software", TCP),
    pattern(&["inter-node cfg", "rma(tcp"], Cause::LogsTcp, "UCX chose TCP for remote memory", TCP),
    pattern(
        &["unexpected ucx error", "unsupported operation"],
        Cause::LogsUnsupported,
        "UCX cannot do this on the hardware or memory it has",
        DMABUF,
    ),
    pattern(
        &["remote invalid rd request"],
        Cause::FatalSetting,
        "zero copy on EFA that cannot do it",
        "set UCX_RNDV_SCHEME=auto and UCX_RNDV_THRESH=8192",
    ),
    pattern(
        &["vram memory is detected as host"],
        Cause::LogsNoGpuMemory,
        "UCX takes GPU memory for host memory",
        "UCX_TLS must allow cuda_copy, and UCX must have CUDA support",
    ),
    pattern(
        &["ucx cuda support was not found"],
        Cause::LogsNoGpuMemory,
        "this UCX has no CUDA support",
        "use an image whose UCX has it; with two NIXL wheels set UCX_MODULE_DIR",
    ),
    pattern(
        &["accelerated ib support was not found"],
        Cause::LogsDevice,
        "UCX found no accelerated InfiniBand",
        "use an image whose UCX has mlx5 support, and ask for the RDMA resource",
    ),
    pattern(
        &["ibv_reg_dmabuf_mr", "failed"],
        Cause::LogsRegistration,
        "the NIC refuses GPU memory over DMA-BUF",
        DMABUF,
    ),
    pattern(
        &["ibv_reg_mr", "failed", "cannot allocate memory"],
        Cause::LogsRegistration,
        "memory cannot be locked for RDMA",
        LOCK,
    ),
    pattern(&["ibv_reg_mr", "failed"], Cause::LogsRegistration, "memory cannot be registered for RDMA", LOCK),
    pattern(&["memlock", "limit"], Cause::LogsRegistration, "locked memory is limited", LOCK),
    pattern(&["fi_mr_reg", "failed"], Cause::LogsRegistration, "libfabric cannot register memory", LOCK),
    pattern(&["no usable transports/devices"], Cause::LogsDevice, "the settings leave UCX nothing to use", TCP),
    pattern(
        &["no active messages transport"],
        Cause::LogsDevice,
        "the settings leave UCX no way to connect",
        "add tcp or ud to UCX_TLS, or leave UCX_TLS out",
    ),
    pattern(
        &["network device", "is not available"],
        Cause::LogsDevice,
        "UCX_NET_DEVICES names a device that is not there",
        "leave UCX_NET_DEVICES out",
    ),
    pattern(
        &["invalid gid["],
        Cause::GidIndexWrong,
        "a port was dropped because its GID is not there",
        "leave UCX_IB_GID_INDEX out",
    ),
    pattern(
        &["ibv_create_ah", "failed"],
        Cause::GidIndexWrong,
        "no route to the other side's GID",
        "leave UCX_IB_GID_INDEX out; see that both nodes are in one subnet",
    ),
    pattern(
        &["unused environment variable"],
        Cause::LogsUnusedVariable,
        "UCX does not know a variable",
        "correct its name, or leave it out",
    ),
    pattern(
        &["cumemimportfromshareablehandle failed"],
        Cause::CliquesDiffer,
        "GPU memory of another NVLink domain cannot be opened",
        "keep the deployment in one clique, or switch MNNVL off",
    ),
    pattern(
        &["fi_read still retrying eagain"],
        Cause::EfaSameNode,
        "EFA reads are tried again and again",
        "keep prefill and decode on different nodes",
    ),
    pattern(&["nixl_err_remote_disconnect"], Cause::LogsTransfer, "the other side went away", RETRY),
    pattern(&["getxferstatus", "error status"], Cause::LogsTransfer, "a transfer failed", RETRY),
    pattern(&["nixl_err_backend"], Cause::LogsTransfer, "NIXL's backend failed", RETRY),
    pattern(&["transport retry count exceeded"], Cause::LogsTransfer, "the other side did not answer over RDMA", RETRY),
    pattern(&["ucx endpoint create failed"], Cause::LogsTransfer, "no connection to the other side", RETRY),
];

/// Causes that explain a symptom, the most likely first.
const fn explained_by(symptom: Cause) -> &'static [Cause] {
    match symptom {
        Cause::LogsTcp | Cause::LogsDevice => &[
            Cause::PortDown,
            Cause::NoSubnetManager,
            Cause::NoRoutableGid,
            Cause::NoDevicePlugin,
            Cause::DomainsDiffer,
            Cause::GidIndexWrong,
            Cause::NetDevicesWrong,
            Cause::TlsExcludesRdma,
            Cause::TcpOnly,
            Cause::ResourceNotRequested,
            Cause::IpcLockMissing,
            Cause::MemlockLimited,
        ],
        Cause::LogsRegistration => {
            &[Cause::FatalSetting, Cause::IpcLockMissing, Cause::MemlockLimited, Cause::NoGpuDirect]
        }
        Cause::LogsUnsupported => {
            &[Cause::FatalSetting, Cause::NoGpuDirect, Cause::UcxVersionsDiffer, Cause::TlsExcludesGpu]
        }
        Cause::LogsNoGpuMemory => &[Cause::TlsExcludesGpu],
        Cause::LogsTransfer => &[
            Cause::FatalSetting,
            Cause::PortDown,
            Cause::DomainsDiffer,
            Cause::CliquesDiffer,
            Cause::GidIndexWrong,
            Cause::MtuDiffers,
            Cause::UcxVersionsDiffer,
        ],
        Cause::LogsUnusedVariable => &[Cause::UnknownVariable],
        Cause::FatalSetting => &[Cause::FatalSetting],
        Cause::GidIndexWrong => &[Cause::GidIndexWrong, Cause::NoRoutableGid, Cause::DomainsDiffer],
        Cause::CliquesDiffer => &[Cause::CliquesDiffer],
        Cause::EfaSameNode => &[Cause::EfaSameNode],
        _ => &[],
    }
}

/// What a log said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogScene {
    /// NIXL backends that were made (`UCX`, `LIBFABRIC`).
    pub backends: Vec<String>,
    /// Version of UCX that NIXL is bound to.
    pub ucx: Option<String>,
    /// Transport that carries remote memory, where UCX says it (`rc_mlx5/mlx5_0:1`).
    pub transport: Option<String>,
    /// Lines that mean something, by pattern: the first one, and how many.
    pub hits: Vec<Hit>,
    /// Lines looked at.
    pub lines: u64,
    /// The middle of the log was not looked at.
    pub cut: bool,
}

/// Lines of one pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hit {
    /// Place in the table of patterns.
    #[serde(skip)]
    pattern: usize,
    /// What it means.
    pub means: Cause,
    /// The first line, cut.
    pub line: String,
    /// How many.
    pub count: u64,
}

impl LogScene {
    /// Looks at one line.
    pub fn take(&mut self, line: &str) {
        self.lines += 1;
        let mut end = line.len().min(LINE);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        let line = &line[..end];
        // Every pattern has one of these letters' words; most lines of an engine have none.
        let lower = line.to_ascii_lowercase();
        self.good(line, &lower);
        let Some(pattern) = PATTERNS.iter().position(|pattern| pattern.parts.iter().all(|part| lower.contains(part)))
        else {
            return;
        };
        match self.hits.iter_mut().find(|hit| hit.pattern == pattern) {
            Some(hit) => hit.count += 1,
            None => self.hits.push(Hit { pattern, means: PATTERNS[pattern].means, line: shown(line), count: 1 }),
        }
    }

    fn good(&mut self, line: &str, lower: &str) {
        if let Some(at) = lower.find(" was instantiated") {
            let word = lower[..at].rsplit(' ').next().unwrap_or_default();
            if lower[..at].contains("backend ") && !word.is_empty() && self.backends.len() < 8 {
                let backend = word.to_ascii_uppercase();
                if !self.backends.contains(&backend) {
                    self.backends.push(backend);
                }
            }
        }
        if let Some(at) = lower.find("backend bound to ucx ") {
            let rest = &line[at + "backend bound to ucx ".len()..];
            self.ucx = rest.split_whitespace().next().map(|version| version.chars().take(20).collect());
        }
        // UCX_PROTO_INFO: `| zero-copy | rc_mlx5/mlx5_0:1 |`.
        if self.transport.is_none() && lower.contains("zero-copy") {
            let words = line.split(['|', ' ']).map(str::trim);
            self.transport = words
                .rev()
                .find(|word| word.contains('/') && word.contains(':'))
                .map(|word| word.chars().take(60).collect());
        }
    }
}

/// Printable, and not too long: a log may hold anything.
fn shown(line: &str) -> String {
    line.trim().chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

/// Adds what the logs say: as evidence where a cause explains it, else as a finding.
pub(super) fn look(scene: &Scene, found: &mut Vec<Diagnosis>) {
    for pod in scene.pods.iter().filter(|pod| pod.worker.is_some()) {
        for container in &pod.containers {
            let Some(logs) = container.logs.known() else { continue };
            for hit in &logs.hits {
                explain(pod, container, hit, found);
            }
        }
    }
}

fn explain(pod: &PodScene, container: &ContainerScene, hit: &Hit, found: &mut Vec<Diagnosis>) {
    let title = format!("{} container {}", pod.title(), container.name);
    let times = if hit.count == 1 { String::new() } else { format!(" ({} times)", hit.count) };
    let line = format!("log of {title}: {}{times}", hit.line);
    let concerns = |diagnosis: &Diagnosis| {
        diagnosis.subjects.iter().any(|subject| {
            *subject == title
                || *subject == pod.title()
                || pod.node.as_ref().is_some_and(|node| *subject == format!("node {node}"))
                || pod.group().is_some_and(|(namespace, name)| *subject == format!("deployment {namespace}/{name}"))
        })
    };
    for cause in explained_by(hit.means) {
        let explains = |diagnosis: &&mut Diagnosis| {
            diagnosis.code == *cause && diagnosis.severity > Severity::Note && concerns(diagnosis)
        };
        if let Some(diagnosis) = found.iter_mut().find(explains) {
            if diagnosis.evidence.len() < 2 * super::EVIDENCE {
                diagnosis.evidence.push(line);
            }
            return;
        }
    }
    let Pattern { says, remedy, means, .. } = PATTERNS[hit.pattern];
    let severity = if means == Cause::LogsUnusedVariable { Severity::Warning } else { Severity::Fault };
    found.push(Diagnosis::new(means, severity, title, says).seen(line).remedy(remedy));
}
