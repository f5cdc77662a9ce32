//! From the command line to the exit code.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::{
    advise,
    args::{Args, Command},
    cluster::Cluster,
    collect, complete, doctor,
    exit::{Ended, Exit, Result},
    explain, matrix, out, selftest, status, ui,
};

/// All of it.
pub fn main() -> ExitCode {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    if words.next().is_some_and(|own| std::path::Path::new(&own).file_name().is_some_and(|name| name == complete::NAME))
    {
        let words: Vec<String> = words.collect();
        return out::print(&complete::answer(&words)).map_or(Exit::Failed, |()| Exit::Healthy).into();
    }
    let args = Args::parse();
    let ended = daemon::install_crypto().map_err(|error| Ended::new(Exit::Failed, format!("{error:#}")));
    match ended.and_then(|()| run(&args)) {
        Ok(exit) => exit.into(),
        Err(ended) => {
            out::error(&ended.text);
            ended.exit.into()
        }
    }
}

fn run(args: &Args) -> Result<Exit> {
    // These two need no cluster, and then no runtime.
    match &args.command {
        Command::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "kubectl-railbind", &mut text);
            return out::print(&String::from_utf8_lossy(&text)).map(|()| Exit::Healthy);
        }
        Command::Explain(explain) if explain.nodes.is_some() && explain.file.is_some() => {
            return explain::offline(explain);
        }
        Command::Advise(advise) if advise.pair.is_none() => return advise::run(advise, None),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Ended::new(Exit::Failed, format!("no threads: {error}")))?;
    let ended = runtime.block_on(async {
        let cluster = Cluster::connect(&args.cluster).await?;
        match &args.command {
            Command::Status(status) => status::run(&cluster, status).await,
            Command::Matrix(matrix) => matrix::run(&cluster, matrix).await,
            Command::Doctor(doctor) => doctor::run(&cluster, doctor).await,
            Command::Explain(explain) => explain::run(&cluster, explain).await,
            Command::Ui(args) => ui::run(cluster, args).await,
            Command::Selftest(selftest) => selftest::run(&cluster, selftest).await,
            Command::Collect(collect) => collect::run(&cluster, collect).await,
            Command::Advise(advise) => {
                let measured = advise::measured(&cluster, advise).await?;
                advise::run(advise, measured)
            }
            Command::Completion { .. } => Ok(Exit::Healthy),
        }
    });
    // A request that hangs must not keep the process.
    runtime.shutdown_background();
    ended
}
