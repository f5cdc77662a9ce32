//! The command line.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::{Args as ClapArgs, Parser, Subcommand};
use daemon::{AdminArgs, LogArgs};

use policies::selftest::{Limits, Memory, Op, Settings, Size, Sizes};

use crate::{
    probe, run,
    selftest::{self, devices::Devices, tester::Config},
    survey, uninstall,
};

/// Bytes that a transfer has beside its largest size: for what both sides tell each other, and for comparing.
const BESIDE: u64 = 4 << 20;

/// Probes what this node's fabric really is and labels the node with it.
#[derive(Debug, Parser)]
#[command(name = "railbind-agent", version)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Read a /sys, /proc and /dev tree and print its facts, labels and problems. Touches nothing.
    Survey(SurveyArgs),
    /// Load UCX or CUDA in a process of its own, ask it about this node, and print what it says.
    #[command(subcommand)]
    Probe(ProbeCommand),
    /// Move data between two nodes over UCX and measure it: bandwidth, latency, the transport really used, every byte compared.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Survey this node now, on change and at a period, and keep its Node object's labels true.
    Run(RunArgs),
    /// Remove every label, annotation, condition and NodeFabric that agents wrote, with your own rights. Delete the DaemonSet first.
    Uninstall,
}

/// `railbind-agent survey`.
#[derive(Debug, Clone, ClapArgs)]
pub struct SurveyArgs {
    /// Directory that holds `sys`, `proc`, `dev` and `etc`: `/` for this machine, or a copy or mount of another's.
    #[arg(long, default_value = "/")]
    pub root: PathBuf,
    /// Folder of further TransportProfiles (*.yaml); one takes the place of the embedded one of its name.
    #[arg(long, value_name = "DIR")]
    pub profiles: Option<PathBuf>,
    /// Print JSON: `{"labels": …, "facts": …, "problems": […]}`.
    #[arg(long)]
    pub json: bool,
}

/// `railbind-agent probe`.
#[derive(Debug, Clone, Subcommand)]
pub enum ProbeCommand {
    /// UCX: version, transports and devices, memory types, changed settings, variables that it does not know.
    Ucx(UcxProbeArgs),
    /// CUDA: driver, GPUs, GPUDirect attributes, and a real export of GPU memory to a DMA-BUF and to the NICs.
    Cuda(CudaProbeArgs),
    /// NVML: whether anybody computes on the GPUs, which is what the self-test waits for.
    Gpus(GpuProbeArgs),
    /// What those above run in their child process.
    #[command(subcommand, hide = true)]
    Child(ProbeChild),
}

/// `railbind-agent probe ucx`. The `UCX_` variables of the environment are in force, as they would be for a worker.
#[derive(Debug, Clone, ClapArgs)]
pub struct UcxProbeArgs {
    /// Folder to take UCX from instead of those of the dynamic loader; several are tried in order.
    #[arg(long = "lib", value_name = "DIR", env = "RAILBIND_UCX_LIB", value_delimiter = ':')]
    pub folders: Vec<PathBuf>,
    /// Seconds after which it counts as hung.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub deadline: Duration,
    /// Print JSON: `{"facts": …, "problems": […]}`.
    #[arg(long)]
    pub json: bool,
}

/// `railbind-agent probe cuda`.
#[derive(Debug, Clone, ClapArgs)]
pub struct CudaProbeArgs {
    /// Seconds after which it counts as hung. A driver without persistence mode takes seconds for each GPU.
    #[arg(long, default_value = "30", value_parser = seconds)]
    pub deadline: Duration,
    /// Print JSON: `{"facts": …, "problems": […]}`.
    #[arg(long)]
    pub json: bool,
}

/// `railbind-agent probe gpus`.
#[derive(Debug, Clone, ClapArgs)]
pub struct GpuProbeArgs {
    /// Seconds after which it counts as hung.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub deadline: Duration,
    /// Print JSON: `{"facts": …, "problems": […]}`.
    #[arg(long)]
    pub json: bool,
}

/// The hidden commands of the child process.
#[derive(Debug, Clone, Subcommand)]
pub enum ProbeChild {
    /// Load UCX and report.
    Ucx {
        /// Folders to take UCX from.
        #[arg(long = "lib")]
        folders: Vec<PathBuf>,
    },
    /// Load CUDA and report.
    Cuda,
    /// Load NVML and report.
    Gpus,
}

/// `railbind-agent bench`. The `UCX_` variables of each side's environment are in force there, as they would be for a worker.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// Wait for clients and lend them this node's memory, one at a time.
    ///
    /// Without --secret-file, whoever reaches the address can start transfers: for use by hand, on a network that you trust. The
    /// connection is not encrypted either way; the secret keeps strangers out.
    Server(BenchServerArgs),
    /// Measure transfers between this node and a server's.
    Client(BenchClientArgs),
    /// What both run in their child process.
    #[command(hide = true)]
    Child {
        /// Folders to take UCX from.
        #[arg(long = "ucx-lib", value_name = "DIR")]
        ucx_folders: Vec<PathBuf>,
    },
}

/// `railbind-agent bench server`.
#[derive(Debug, Clone, ClapArgs)]
pub struct BenchServerArgs {
    /// Address and port to listen on; a port of 0 is chosen and printed.
    #[arg(long, default_value = "127.0.0.1:7471")]
    pub listen: String,
    /// Memory to lend: `host`, or `cuda:0` for that of a GPU. Where it is given, a client that asks for other memory is refused.
    #[arg(long)]
    pub memory: Option<Memory>,
    /// Largest size of one message that a client may ask for.
    #[arg(long, default_value = "1GiB")]
    pub max_size: Size,
    /// File with a secret of 16 bytes or more that clients must know too.
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// End after one session, with its success.
    #[arg(long)]
    pub once: bool,
    /// Folder to take UCX from instead of those of the dynamic loader; several are tried in order.
    #[arg(long = "ucx-lib", value_name = "DIR", env = "RAILBIND_UCX_LIB", value_delimiter = ':')]
    pub ucx_folders: Vec<PathBuf>,
}

/// `railbind-agent bench client`.
#[derive(Debug, Clone, ClapArgs)]
pub struct BenchClientArgs {
    /// Address of the server; port 7471 unless it has another.
    pub server: String,
    /// What to measure: put, get, tag (bandwidth) and latency (8 bytes).
    #[arg(long = "op", value_name = "OPS", default_value = "put,get,tag,latency", value_delimiter = ',', value_parser = op)]
    pub ops: Vec<Op>,
    /// Sizes of one message: `4KiB-128MiB` (in steps of four), or a list.
    #[arg(long, default_value = "4KiB-128MiB")]
    pub sizes: Sizes,
    /// Memory on this side: `host`, or `cuda:0` for that of a GPU.
    #[arg(long, default_value = "host")]
    pub memory: Memory,
    /// Memory on the server's side; what the server lends unless it is given.
    #[arg(long)]
    pub remote_memory: Option<Memory>,
    /// Seconds of traffic for each size of each operation.
    #[arg(long, default_value = "0.5", value_parser = positive)]
    pub seconds: f64,
    /// Share of the time in which the link may be busy.
    #[arg(long, default_value = "1", value_parser = share)]
    pub share: f64,
    /// Seconds without anything moving after which it counts as stalled.
    #[arg(long, default_value = "10", value_parser = positive)]
    pub stall: f64,
    /// Seconds for everything; a minute more than the traffic should take unless it is given.
    #[arg(long, value_parser = positive)]
    pub deadline: Option<f64>,
    /// File with the server's secret.
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Print JSON: `{"transport": …, "memory": …, "integrity": …, "sizes": […], "ucx": …}`.
    #[arg(long)]
    pub json: bool,
    /// Folder to take UCX from instead of those of the dynamic loader; several are tried in order.
    #[arg(long = "ucx-lib", value_name = "DIR", env = "RAILBIND_UCX_LIB", value_delimiter = ':')]
    pub ucx_folders: Vec<PathBuf>,
}

/// `railbind-agent run`.
#[derive(Debug, Clone, ClapArgs)]
pub struct RunArgs {
    /// Name of the Node object.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// Directory that holds the host's `sys`, `proc`, `dev` and `etc`.
    #[arg(long, default_value = "/", env = "RAILBIND_ROOT")]
    pub root: PathBuf,
    /// Seconds between two surveys when nothing announces a change.
    #[arg(long, default_value = "60", value_parser = seconds)]
    pub period: Duration,
    /// Upper bound in seconds of the random wait before the first write, so that agents that start together do not write together.
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub start_jitter: Duration,
    /// Load UCX and CUDA in child processes and ask them too; off where the tree is another machine's.
    #[arg(long, default_value = "true", action = clap::ArgAction::Set, value_name = "BOOL")]
    pub probes: bool,
    /// Folder to take UCX from instead of those of the dynamic loader; several are tried in order.
    #[arg(long = "ucx-lib", value_name = "DIR", env = "RAILBIND_UCX_LIB", value_delimiter = ':')]
    pub ucx_folders: Vec<PathBuf>,
    /// Folder of further TransportProfiles (*.yaml); one takes the place of the embedded one of its name.
    #[arg(long = "profiles", value_name = "DIR")]
    pub profiles: Option<PathBuf>,
    /// Seconds between two lists of the cluster's TransportProfiles, which take the place of both. Before a self-test they are listed
    /// too, where the last list is older than a minute.
    #[arg(long, default_value = "600", value_parser = seconds)]
    pub profiles_period: Duration,
    /// Self-test.
    #[command(flatten)]
    pub selftest: SelftestArgs,
    /// Admin server.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The self-test of `railbind-agent run`.
#[derive(Debug, Clone, ClapArgs)]
#[command(next_help_heading = "Self-test")]
pub struct SelftestArgs {
    /// Move data to other nodes and back, and publish what came of it. It listens for other agents, which prove who they are.
    ///
    /// A person asks for a test by another value of the Node's annotation railbind.dev/selftest-requested; it is seen at the next
    /// survey, after --period at the latest. A node whose GPUs compute is tested only when it is asked for, and then in host memory.
    #[arg(long, default_value = "off", action = clap::ArgAction::Set, value_name = "on|off", value_parser = on_off)]
    pub selftest: bool,
    /// Address for other agents; on all addresses (0.0.0.0) they are told the Node's InternalIP.
    #[arg(id = "selftest-listen", long = "selftest-listen", default_value = "0.0.0.0:9466", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Address that other agents are told, where it is not the one above: behind a port that is forwarded.
    #[arg(id = "selftest-address", long = "selftest-address", value_name = "ADDR")]
    pub address: Option<SocketAddr>,
    /// Seconds after which a node that passed is tested again.
    #[arg(id = "selftest-period", long = "selftest-period", default_value = "3600", value_parser = positive, value_name = "SECONDS")]
    pub period: f64,
    /// Seconds after which a node that did not pass is tested again.
    #[arg(id = "selftest-recovery", long = "selftest-recovery", default_value = "300", value_parser = positive, value_name = "SECONDS")]
    pub recovery: f64,
    /// Share of the time in which a transfer may keep the link busy, 0.01 to 1.
    #[arg(id = "selftest-share", long = "selftest-share", default_value = "1", value_parser = share, value_name = "SHARE")]
    pub share: f64,
    /// Seconds of traffic for each operation and size.
    #[arg(id = "selftest-seconds", long = "selftest-seconds", default_value = "0.2", value_parser = positive, value_name = "SECONDS")]
    pub seconds: f64,
    /// Sizes of one operation.
    #[arg(id = "selftest-sizes", long = "selftest-sizes", default_value = "1M,32M", value_name = "SIZES")]
    pub sizes: Sizes,
    /// Seconds after which a transfer is ended.
    #[arg(id = "selftest-deadline", long = "selftest-deadline", default_value = "30", value_parser = positive, value_name = "SECONDS")]
    pub deadline: f64,
    /// Seconds without a completion after which it counts as stalled.
    #[arg(id = "selftest-stall", long = "selftest-stall", default_value = "5", value_parser = positive, value_name = "SECONDS")]
    pub stall: f64,
    /// Seconds from one round of partners to the next, the same on every node: a transfer fits in it. Facts settle for as long.
    #[arg(id = "selftest-slot", long = "selftest-slot", default_value = "6", value_parser = positive, value_name = "SECONDS")]
    pub slot: f64,
    /// Partners of a full run.
    #[arg(id = "selftest-partners", long = "selftest-partners", default_value = "3", value_parser = clap::value_parser!(u32).range(1..=64), value_name = "COUNT")]
    pub partners: u32,
}

impl SelftestArgs {
    /// What the self-test goes by.
    pub fn config(&self, node: &str, root: &Path, ucx_folders: &[PathBuf]) -> Config {
        let sizes = self.sizes.0.clone();
        let most = sizes.iter().copied().max().unwrap_or_default();
        let settings = Settings::default();
        Config {
            node: node.into(),
            settings: Settings {
                enabled: true,
                slot_seconds: self.slot,
                sample: self.partners,
                most: settings.most.max(3 * self.partners),
                period_seconds: self.period,
                recovery_seconds: self.recovery,
                ..settings
            },
            limits: Limits {
                deadline_seconds: self.deadline,
                seconds_each: self.seconds,
                stall_seconds: self.stall,
                buffer_bytes: most + BESIDE,
                share: self.share,
            },
            sizes,
            devices: Devices::of(root),
            ucx_folders: ucx_folders.to_vec(),
        }
    }
}

impl Args {
    /// Does what the command line says.
    pub fn execute(self) -> anyhow::Result<()> {
        match self.command {
            Command::Survey(args) => survey::print(&args),
            Command::Probe(command) => probe::execute(&command),
            Command::Bench(BenchCommand::Server(args)) => block_on(selftest::bench::serve(args)),
            Command::Bench(BenchCommand::Client(args)) => block_on(selftest::bench::measure(args)),
            Command::Bench(BenchCommand::Child { ucx_folders }) => selftest::transfer::run(&ucx_folders),
            Command::Run(args) => {
                args.log.init()?;
                block_on(run::run(args))
            }
            Command::Uninstall => block_on(uninstall::run()),
        }
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the async runtime")?.block_on(work)
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=86_400.0).contains(&value) => Ok(Duration::from_secs_f64(value)),
        _ => Err("give seconds between 0 and 86400".into()),
    }
}

fn on_off(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("give on or off".into()),
    }
}

fn op(text: &str) -> Result<Op, String> {
    match text.trim() {
        "put" => Ok(Op::Put),
        "get" => Ok(Op::Get),
        "tag" => Ok(Op::Tag),
        "latency" => Ok(Op::Latency),
        _ => Err("give put, get, tag or latency".into()),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0 && *seconds <= 86_400.0);
    seconds.ok_or_else(|| "give seconds above 0 and up to 86400".into())
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse::<f64>().ok().filter(|share| (0.01..=1.0).contains(share));
    share.ok_or_else(|| "give a share from 0.01 to 1".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn the_self_test_is_off_until_somebody_wants_it() {
        let parse =
            |args: &[&str]| match Args::try_parse_from([&["railbind-agent", "run", "--node-name=n"], args].concat()) {
                Ok(Args { command: Command::Run(run) }) => run.selftest,
                other => panic!("{other:?}"),
            };
        assert!(!parse(&[]).selftest);
        let on = parse(&["--selftest=on", "--selftest-share=0.5"]);
        let config = on.config("n", Path::new("/"), &[]);
        assert!(on.selftest && config.settings.enabled);
        assert!((config.limits.share - 0.5).abs() < 1e-9);
        assert!(config.limits.buffer_bytes > config.sizes.iter().copied().max().unwrap());
    }
}
