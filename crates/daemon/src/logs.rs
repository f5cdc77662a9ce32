//! Log output: what is written, and in which form.

use std::io::IsTerminal as _;

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Flags about logs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs")]
pub struct LogArgs {
    /// What to log: a level, or directives such as `info,kube=debug`
    #[arg(long = "log-level", env = "RAILBIND_LOG", value_name = "FILTER", default_value = "info,kube_runtime=error")]
    pub filter: String,
    /// Form of a log line
    #[arg(long = "log-format", env = "RAILBIND_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub format: LogFormat,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogArgs {
    /// Starts logging to standard error, panics included. An invalid filter is an error.
    pub fn init(&self) -> anyhow::Result<()> {
        let filter: EnvFilter = self.filter.parse().with_context(|| format!("--log-level {}", self.filter))?;
        let registry = tracing_subscriber::registry().with(filter);
        let lines = fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
        match self.format {
            LogFormat::Text => registry.with(lines).try_init(),
            LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        }
        .map_err(|error| anyhow!("logs are set up already: {error}"))?;
        std::panic::set_hook(Box::new(|panic| {
            tracing::error!(at = panic.location().map(tracing::field::display), "panic: {}", message(panic));
        }));
        Ok(())
    }
}

fn message<'p>(panic: &'p std::panic::PanicHookInfo<'_>) -> &'p str {
    panic.payload_as_str().unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{LogArgs, LogFormat};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        logs: LogArgs,
    }

    #[test]
    fn flags() {
        let logs = Cli::parse_from(["x"]).logs;
        assert_eq!((logs.filter.as_str(), logs.format), ("info,kube_runtime=error", LogFormat::Text));
        let logs = Cli::parse_from(["x", "--log-level", "warn,kube=debug", "--log-format", "json"]).logs;
        assert_eq!((logs.filter.as_str(), logs.format), ("warn,kube=debug", LogFormat::Json));
    }

    #[test]
    fn a_bad_filter_is_an_error_that_names_the_flag() {
        let logs = Cli::parse_from(["x", "--log-level", "a=b=c"]).logs;
        assert!(format!("{:#}", logs.init().unwrap_err()).starts_with("--log-level a=b=c: "));
    }
}
