//! The command line.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::{Args as ClapArgs, Parser, Subcommand};
use daemon::{AdminArgs, LogArgs};

use crate::{probe, run, survey, uninstall};

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
    /// What the two above run in their child process.
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
    /// Admin server.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
}

impl Args {
    /// Does what the command line says.
    pub fn execute(self) -> anyhow::Result<()> {
        match self.command {
            Command::Survey(args) => survey::print(&args),
            Command::Probe(command) => probe::execute(&command),
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
