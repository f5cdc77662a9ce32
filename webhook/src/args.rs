//! The command line.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use axum::http::Uri;
use clap::{ArgAction, Args as ClapArgs, Parser, Subcommand, ValueEnum};
use daemon::{AdminArgs, LogArgs};

/// Gives GPU workers the UCX settings of the fabric they will run on.
#[derive(Debug, Parser)]
#[command(name = "railbind-webhook", version)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve admission reviews, and register with the API server
    Serve(Box<ServeArgs>),
    /// Show what a pod would get, and why; needs no cluster
    Explain(ExplainArgs),
}

/// Flags of `serve`. The cluster is the one of `KUBECONFIG`, else the one this runs in.
#[derive(Debug, Clone, ClapArgs)]
pub struct ServeArgs {
    /// Where reviews are served
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,
    /// Register this URL, not a Service: for a webhook outside of the cluster
    #[arg(long, value_name = "URL", conflicts_with_all = ["service_name", "service_namespace", "service_port"])]
    pub url: Option<BaseUrl>,
    /// Service that leads here
    #[arg(long, value_name = "NAME", default_value = "railbind-webhook")]
    pub service_name: String,
    /// Namespace of that Service [default: --namespace]
    #[arg(long, value_name = "NAME")]
    pub service_namespace: Option<String>,
    /// Port of that Service
    #[arg(long, value_name = "PORT", default_value_t = 443)]
    pub service_port: u16,
    /// Our own namespace: the CA's Secret is in it, and its pods are left alone
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    pub namespace: String,
    /// Name of the MutatingWebhookConfiguration
    #[arg(long, value_name = "NAME", default_value = "railbind-webhook")]
    pub config_name: String,
    /// How long to go on serving after SIGTERM, while the API server learns that this replica is gone
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub drain_seconds: u64,
    /// How long a list of trusted CAs has been registered before a rotation relies on it
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub ca_grace_seconds: u64,
    /// Life of the CA; the next one comes when a third of it is left
    #[arg(long, value_name = "SECONDS", default_value_t = 31_536_000, hide = true, value_parser = clap::value_parser!(u64).range(1..=315_360_000))]
    pub ca_life_seconds: u64,
    /// Life of a serving certificate; the next one comes when a third of it is left
    #[arg(long, value_name = "SECONDS", default_value_t = 604_800, hide = true, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub certificate_life_seconds: u64,
    /// Serve with tls.crt and tls.key of this folder, and follow them, instead of a CA of our own: a mounted Secret
    #[arg(long, value_name = "DIR")]
    pub tls_cert_dir: Option<PathBuf>,
    /// Who tells the API server whom to trust, with --tls-cert-dir
    #[arg(long, value_enum, default_value_t = CaBundle::Directory, requires = "tls_cert_dir")]
    pub ca_bundle: CaBundle,
    /// Answer only callers with a certificate by the CA of this PEM file: the API server, if it is set up to show one
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// Name that such a certificate must carry, as common name or DNS name
    #[arg(long, value_name = "NAME", requires = "client_ca")]
    pub client_name: Option<String>,
    /// What gives a pod the values of its node when it is bound
    #[arg(long, value_enum, default_value_t = BindingEngine::Auto)]
    pub binding_engine: BindingEngine,
    /// Serve the page of the fabric below /ui/ on the admin port: names of nodes and workers, our labels and decisions
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub page: bool,
    /// Logs.
    #[command(flatten)]
    pub logs: LogArgs,
    /// Admin server.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// Who tells the API server whom to trust.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CaBundle {
    /// We do, with the folder's ca.crt.
    Directory,
    /// Somebody else fills caBundle in, as cert-manager's cainjector does; it is left alone.
    Injected,
}

/// What gives a pod the values of its node when it is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BindingEngine {
    /// `policy` from Kubernetes 1.36 on, else `webhook`.
    Auto,
    /// A MutatingAdmissionPolicy in the API server, whose parameters this webhook keeps true.
    Policy,
    /// This webhook, called for every Binding in the namespaces in scope.
    Webhook,
    /// Nothing: pods keep the values that are right on any node.
    Off,
}

/// Flags of `explain`.
#[derive(Debug, Clone, ClapArgs)]
pub struct ExplainArgs {
    /// Pod, List or workload with a pod template, YAML or JSON; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Nodes to choose among, YAML or JSON (`kubectl get nodes -o yaml`)
    #[arg(long, value_name = "FILE")]
    pub nodes: Option<PathBuf>,
    /// TransportProfiles in the place of the shipped ones of their names, YAML or JSON (`kubectl get transportprofiles -o yaml`)
    #[arg(long, value_name = "FILE")]
    pub profiles: Option<PathBuf>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Form of the answer of `explain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// An `https` URL without query, the way a webhook's client configuration takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// Without a slash at its end.
    pub base: String,
    /// Host name or address, without brackets.
    pub host: String,
}

impl FromStr for BaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
        if uri.scheme_str() != Some("https") {
            return Err("the API server calls webhooks by https only".into());
        }
        if uri.query().is_some() || text.contains('#') || text.contains('@') {
            return Err("the API server takes no user, query or fragment here".into());
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err("no host".into());
        }
        Ok(Self { base: text.trim_end_matches('/').to_owned(), host })
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{Args, BaseUrl, Command};

    #[test]
    fn well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn url_and_service_exclude_each_other() {
        let url = ["x", "serve", "--namespace", "railbind", "--url", "https://10.0.0.1:8443/"];
        let Command::Serve(serve) = Args::try_parse_from(url).unwrap().command else { panic!("serve") };
        assert_eq!(serve.url.unwrap(), BaseUrl { base: "https://10.0.0.1:8443".into(), host: "10.0.0.1".into() });
        assert!(Args::try_parse_from(url.into_iter().chain(["--service-name", "y"])).is_err());
    }

    #[test]
    fn what_belongs_to_files_needs_the_files() {
        let parses = |flags: &[&str]| {
            Args::try_parse_from(["x", "serve", "--namespace", "railbind"].iter().chain(flags)).is_ok()
        };
        assert!(parses(&["--tls-cert-dir", "/certs", "--ca-bundle", "injected"]));
        assert!(parses(&["--client-ca", "/ca.crt", "--client-name", "kube-apiserver"]));
        assert!(!parses(&["--ca-bundle", "injected"]));
        assert!(!parses(&["--client-name", "kube-apiserver"]));
    }

    #[test]
    fn the_page_is_there_unless_it_is_switched_off() {
        let page = |flags: &[&str]| {
            let args = ["x", "serve", "--namespace", "railbind"].iter().chain(flags);
            let Command::Serve(serve) = Args::try_parse_from(args).unwrap().command else { panic!("serve") };
            serve.page
        };
        assert!(page(&[]));
        assert!(!page(&["--page=false"]));
    }

    #[test]
    fn urls() {
        let host = |text: &str| text.parse::<BaseUrl>().map(|url| url.host);
        assert_eq!(host("https://[fd00::1]:8443/hooks").as_deref(), Ok("fd00::1"));
        assert_eq!(host("https://hooks.example.org").as_deref(), Ok("hooks.example.org"));
        for bad in ["http://a", "a:8443", "https://", "https://a?b", "https://a#b", "https://u@a", ""] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
