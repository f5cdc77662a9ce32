//! The command line.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use clap::{Args as ClapArgs, Parser, Subcommand};
use daemon::{AdminArgs, LogArgs};

use crate::{run, survey};

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
    /// Survey this node now, on change and at a period, and keep its Node object's labels true.
    Run(RunArgs),
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
            Command::Run(args) => {
                args.log.init()?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.context("starting the async runtime")?.block_on(run::run(args))
            }
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=86_400.0).contains(&value) => Ok(Duration::from_secs_f64(value)),
        _ => Err("give seconds between 0 and 86400".into()),
    }
}
