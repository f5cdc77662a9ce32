//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use policies::advice::KvShape;

use crate::exit;

/// Why is the first token late, and what to do about it: the fabric of a cluster, its faults, and what workers get.
///
/// Start with `kubectl railbind status` to see the nodes, and `kubectl railbind doctor` to be told what is wrong.
#[derive(Debug, Parser)]
#[command(name = "kubectl-railbind", bin_name = "kubectl railbind", version, after_long_help = exit::HELP, after_help = "See --help for exit codes.")]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Which cluster, and how long to wait for it.
#[derive(Debug, Clone, ClapArgs)]
pub struct ClusterArgs {
    /// Kubeconfig file [default: as kubectl: $KUBECONFIG, else ~/.kube/config]
    #[arg(long, value_name = "FILE", global = true, help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME", global = true, help_heading = "Cluster")]
    pub context: Option<String>,
    /// How long one request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600), global = true, help_heading = "Cluster")]
    pub request_timeout: u64,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the nodes by fabric domain, with verdict and self-test
    Status(StatusArgs),
    /// Say what is wrong with the cluster, a node, a pod or a deployment, why, and what to do
    ///
    /// Walks the guide's pre-deployment validation, runtime diagnostics, diagnostic checklist and troubleshooting table on live
    /// objects and logs. The most likely cause comes first. Nothing is changed.
    ///
    /// Examples:
    ///   kubectl railbind doctor                          all nodes, and all workers of all namespaces
    ///   kubectl railbind doctor node gpu-7
    ///   kubectl railbind doctor pod prefill-0 -n serving
    ///   kubectl railbind doctor deployment llama -n serving
    #[command(verbatim_doc_comment, after_long_help = exit::HELP)]
    Doctor(DoctorArgs),
    /// Show what a pod would get, or what a living pod got, and why, as a diff
    ///
    /// Examples:
    ///   kubectl railbind explain -f pod.yaml             with the nodes and profiles of the cluster
    ///   kubectl railbind explain -f pod.yaml --nodes nodes.yaml    offline
    ///   kubectl railbind explain pod prefill-0 -n serving
    #[command(verbatim_doc_comment)]
    Explain(ExplainArgs),
    /// Show node × node bandwidth from the self-tests, and name the odd ones
    Matrix(MatrixArgs),
    /// Open the page: fabric map, nodes, matrix, workers with their decisions
    ///
    /// Listens on this machine's loopback, prints an address that nobody can guess, and lets through the page, read-only, with your
    /// rights on the cluster: get of services/proxy (http:railbind-webhook:admin) and of nodefabrics. Ctrl-C ends it.
    Ui(UiArgs),
    /// Ask nodes for a self-test and show its progress
    Selftest(SelftestArgs),
    /// Should this workload be disaggregated here? Break-even, KV-cache size and transfer time
    ///
    /// What is not given is the guide's example (Llama-3.1-8B, ISL 4000, AWS p5.48xlarge), and the answer says so.
    ///
    /// Examples:
    ///   kubectl railbind advise --isl 4000 --osl 2000
    ///   kubectl railbind advise --isl 8000 --osl 500 --ttft-agg 400 --itl-agg 9 --model-shape 32,8,128,bf16 --bandwidth 47
    ///   kubectl railbind advise --isl 8000 --osl 500 -f config.json --pair gpu-1,gpu-2
    #[command(verbatim_doc_comment)]
    Advise(AdviseArgs),
    /// Write a support bundle, with secrets left out
    Collect(CollectArgs),
    /// Print a completion script for a shell
    ///
    /// The script completes `kubectl-railbind`. For `kubectl railbind`, kubectl's own completion asks a program on the PATH:
    /// ln -s kubectl-railbind "$(dirname "$(command -v kubectl-railbind)")/kubectl_complete-railbind"
    #[command(verbatim_doc_comment)]
    Completion {
        /// Shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Form of the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

/// Flags of `status`.
#[derive(Debug, Clone, ClapArgs)]
pub struct StatusArgs {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What `doctor` looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A node.
    #[value(alias = "nodes", alias = "no")]
    Node,
    /// A pod, and the other workers of its deployment.
    #[value(alias = "pods", alias = "po")]
    Pod,
    /// A Deployment, a StatefulSet, or what a serving stack calls a deployment (its label's value).
    #[value(alias = "deployments", alias = "deploy", alias = "statefulset", alias = "sts", alias = "dgd")]
    Deployment,
}

/// Flags of `doctor`.
#[derive(Debug, Clone, ClapArgs)]
pub struct DoctorArgs {
    /// What to look at [default: all nodes and all workers]
    #[arg(value_enum)]
    pub kind: Option<Kind>,
    /// Its name; without one, all of that kind
    #[arg(requires = "kind")]
    pub name: Option<String>,
    /// Namespace [default: the context's for a name, else all]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Do not read logs
    #[arg(long)]
    pub no_logs: bool,
    /// How much of a log's end to read for each container, in MiB; its first MiB is read too
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub log_mib: u32,
    /// Show notes as well: what is worth knowing and needs nothing done
    #[arg(long)]
    pub notes: bool,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Flags of `explain`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ExplainArgs {
    /// `pod`
    #[arg(value_enum, requires = "name", conflicts_with = "file")]
    pub kind: Option<PodKind>,
    /// Name of a living pod
    pub name: Option<String>,
    /// Pod, List or workload with a pod template, YAML or JSON; `-` is standard input
    #[arg(short, long, value_name = "FILE", required_unless_present = "kind")]
    pub file: Option<PathBuf>,
    /// Nodes to choose among, YAML or JSON (`kubectl get nodes -o yaml`): then no cluster is asked
    #[arg(long, value_name = "FILE", requires = "file")]
    pub nodes: Option<PathBuf>,
    /// Namespace [default: the pod's own, else the context's]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// The only kind that `explain` takes by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PodKind {
    /// A pod.
    #[value(alias = "po")]
    Pod,
}

/// Flags of `matrix`.
#[derive(Debug, Clone, ClapArgs)]
pub struct MatrixArgs {
    /// Write the heatmap to this file as well
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Flags of `ui`.
#[derive(Debug, Clone, ClapArgs)]
pub struct UiArgs {
    /// Port on this machine; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
    /// Start the browser as well
    #[arg(long)]
    pub open: bool,
    /// Namespace that Railbind runs in
    #[arg(long, value_name = "NAME", default_value = "railbind-system", value_parser = name)]
    pub railbind_namespace: String,
    /// Service of the webhook
    #[arg(long, value_name = "NAME", default_value = "railbind-webhook", value_parser = name)]
    pub service: String,
}

/// Flags of `selftest`.
#[derive(Debug, Clone, ClapArgs)]
pub struct SelftestArgs {
    /// Nodes [default: all that have an agent]
    pub nodes: Vec<String>,
    /// How long to wait for the results
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub wait: u64,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Flags of `advise`. Times are in milliseconds.
#[derive(Debug, Clone, ClapArgs)]
pub struct AdviseArgs {
    /// Input tokens of a request
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub isl: u32,
    /// Output tokens of a request
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub osl: u32,
    /// Time to first token with prefill and decode on the same workers
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub ttft_agg: Option<f64>,
    /// Time between tokens, on the same workers
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub itl_agg: Option<f64>,
    /// Time to first token, disaggregated
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub ttft_disagg: Option<f64>,
    /// Time between tokens, disaggregated
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    pub itl_disagg: Option<f64>,
    /// The model: layers, key/value heads, head size, type (32,8,128,bf16)
    #[arg(long, value_name = "LAYERS,KV_HEADS,HEAD_DIM,DTYPE", conflicts_with = "file")]
    pub model_shape: Option<KvShape>,
    /// The model's config.json, as Hugging Face has it
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Bandwidth between the workers in GB/s
    #[arg(long, value_name = "GB/S", value_parser = bandwidth, conflicts_with = "pair")]
    pub bandwidth: Option<f64>,
    /// Two nodes, whose bandwidth the self-test measured
    #[arg(long, value_name = "NODE,NODE", value_parser = pair)]
    pub pair: Option<(String, String)>,
    /// Write the plot to this file as well
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Flags of `collect`.
#[derive(Debug, Clone, ClapArgs)]
pub struct CollectArgs {
    /// File to write [default: railbind-bundle.tar.gz]
    #[arg(short = 'f', long, value_name = "FILE", default_value = "railbind-bundle.tar.gz")]
    pub file: PathBuf,
    /// Only workers of this namespace [default: all]
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Namespace that Railbind runs in
    #[arg(long, value_name = "NAME", default_value = "railbind-system")]
    pub railbind_namespace: String,
    /// How much of a log's end to take for each container, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub log_mib: u32,
}

/// A namespace or a Service: it becomes part of a path.
fn name(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let whole = (1..=63).contains(&text.len()) && text.bytes().all(good);
    if whole { Ok(text.to_owned()) } else { Err("small letters, digits and '-', 63 at most".into()) }
}

fn milliseconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|ms| (0.0..=1e9).contains(ms)).ok_or_else(|| "a time in milliseconds, such as 218".into())
}

fn bandwidth(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|gbytes| *gbytes > 0.0 && *gbytes <= 1e5);
    number.ok_or_else(|| "a bandwidth in GB/s (10⁹ bytes a second) above 0, such as 47.1".into())
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once(',').map(|(one, other)| (one.trim(), other.trim())) {
        Some((one, other)) if !one.is_empty() && !other.is_empty() && one != other => Ok((one.into(), other.into())),
        _ => Err("two different nodes, such as gpu-1,gpu-2".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::Args;

    #[test]
    fn well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn refused() {
        for bad in [
            "advise --isl 0 --osl 1",
            "advise --isl 1",
            "advise --isl 1 --osl 1 --bandwidth 0",
            "advise --isl 1 --osl 1 --bandwidth nan",
            "advise --isl 1 --osl 1 --ttft-agg -3",
            "advise --isl 1 --osl 1 --pair a,a",
            "advise --isl 1 --osl 1 --model-shape 1,2,3",
            "explain",
            "explain pod",
            "explain --nodes x",
            "doctor cat x",
            "status --request-timeout 0",
            "ui --service a/b",
            "ui --railbind-namespace ..",
            "ui --port 65536",
        ] {
            let words = std::iter::once("x").chain(bad.split(' '));
            assert!(Args::try_parse_from(words).is_err(), "{bad}");
        }
    }
}
