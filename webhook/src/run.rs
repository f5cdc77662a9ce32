//! What the commands do, and how the parts of `serve` hang together.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use daemon::{Check, Readiness, Shutdown, admin};
use futures::future::BoxFuture;
use kube::{Api, Client};
use policies::profile::Profiles;
use prometheus_client::registry::Registry;
use tokio::{sync::watch, task::JoinSet};

use crate::{
    args::{Args, Command, ServeArgs},
    auditor::Auditor,
    bounds,
    certs::{Clients, Keeper, Lives, Outside, Serving, Source},
    engine, explain,
    lease::Candidate,
    metrics::Metrics,
    mirror::Mirror,
    nodes,
    profiles::{self, InForce, Watched},
    register::{self, Place, Registrar, Wanted},
    server::{Config, Server},
    state::State,
    ui, workers,
};

/// Does what the command line says.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Explain(args) => explain::run(&args),
        Command::Serve(args) => {
            args.logs.init()?;
            let runtime = tokio::runtime::Runtime::new().context("async runtime")?;
            runtime.block_on(serve(*args))
        }
    }
}

/// Serves until asked to end. Comes up without the API server too: then it admits everything as it is, says in `/readyz`
/// what it waits for, and tries on.
async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let shutdown = Shutdown::on_signals()?;
    let readiness = Readiness::default();
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let embedded = Profiles::embedded().context("embedded profiles")?;
    let (profile_writer, in_force) = InForce::new(embedded.clone());
    let client = client().await?;
    let (engine_sender, chosen) = watch::channel(None);

    let (node_writer, node_map) = Mirror::new();
    let (namespace_writer, namespace_map) = Mirror::new();
    let (worker_writer, worker_map) = Mirror::new();
    let (names, place) = place(&args);
    let lives = Lives {
        ca: Duration::from_secs(args.ca_life_seconds),
        leaf: Duration::from_secs(args.certificate_life_seconds),
        grace: Duration::from_secs(args.ca_grace_seconds),
    };
    let clients = args.client_ca.as_deref().map(|file| Clients::load(file, args.client_name.clone())).transpose()?;
    let certificate_check = readiness.check("certificate");
    let (certificates, serving) =
        certificates(&args, &client, names, lives, clients.clone(), certificate_check, metrics.clone())?;
    let (bound_writers, bounds) = bounds::Mirrors::new();
    let state = State::new(node_map, namespace_map, worker_map, in_force, args.binding_engine, metrics.clone());
    let state = Arc::new(State { bounds, binding: chosen.clone(), ..state });
    let server = Server::new(Config::new(args.listen, Duration::from_secs(args.drain_seconds)), state.clone());
    let registrar = Registrar {
        api: Api::all(client.clone()),
        wanted: Wanted {
            name: args.config_name,
            place,
            namespace: args.namespace.clone(),
            binding: args.binding_engine,
        },
        engine: chosen.clone(),
        serving: serving.clone(),
        every: lives.check_every(register::CHECK_EVERY),
        check: readiness.check("registration"),
        metrics: metrics.clone(),
    };

    // Each check is made before the admin server answers: not ready must never look like ready.
    let node_check = readiness.check("nodes");
    let namespace_check = readiness.check("namespaces");
    let worker_check = readiness.check("workers");
    let quota_check = readiness.check("quotas");
    let limit_check = readiness.check("limit-ranges");
    let profile_check = readiness.check("profiles");
    let server_check = readiness.check("server");
    let mut admin_routes = admin::router(readiness, Arc::new(registry));
    if args.page {
        admin_routes = admin_routes.merge(ui::router(state.clone()));
    }
    admin::serve(&args.admin, admin_routes).await?;

    let mut tasks = JoinSet::new();
    tasks.spawn(certificates);
    if let Some(clients) = clients {
        tasks.spawn(always(clients.follow(metrics.clone())));
    }
    tasks.spawn(always(engine::follow(client.clone(), args.binding_engine, engine_sender)));
    tasks.spawn(always(nodes::follow_nodes(client.clone(), node_writer, node_check, metrics.clone())));
    tasks.spawn(always(nodes::follow_namespaces(client.clone(), namespace_writer, namespace_check)));
    tasks.spawn(always(workers::follow_workers(client.clone(), worker_writer, worker_check, metrics.clone())));
    tasks.spawn(always(bounds::follow(client.clone(), bound_writers, quota_check, limit_check)));
    let (candidate, leads) = Candidate::new(Api::namespaced(client.clone(), &args.namespace), identity());
    tasks.spawn(always(candidate.run()));
    let keeper = engine::Keeper {
        client: client.clone(),
        namespace: args.namespace,
        engine: chosen,
        nodes: state.nodes.clone(),
        profiles: state.profiles.clone(),
        leads: leads.clone(),
        metrics: metrics.clone(),
    };
    tasks.spawn(always(keeper.run()));
    let auditor = Auditor {
        client: client.clone(),
        workers: state.workers.clone(),
        nodes: state.nodes.clone(),
        namespaces: state.namespaces.clone(),
        profiles: state.profiles.clone(),
        leads,
        metrics: metrics.clone(),
    };
    tasks.spawn(always(auditor.run()));
    let watched = Watched::new(embedded);
    tasks.spawn(always(profiles::follow_profiles(client, profile_writer, watched, profile_check, metrics)));
    tasks.spawn(always(registrar.run(server.handle())));
    let serving = server.run(serving.tls, shutdown, server_check);
    tokio::select! {
        end = serving => end.with_context(|| format!("cannot serve on {}", args.listen)),
        ended = tasks.join_next() => match ended {
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(error).context("a task of the webhook"),
            Some(Ok(Ok(()))) | None => bail!("a task of the webhook ended"),
        },
    }
}

/// What keeps the serving certificate, and what is served with.
fn certificates(
    args: &ServeArgs,
    client: &Client,
    names: Vec<String>,
    lives: Lives,
    clients: Option<Clients>,
    check: Check,
    metrics: Metrics,
) -> anyhow::Result<(BoxFuture<'static, anyhow::Result<()>>, Serving)> {
    if let Some(folder) = &args.tls_cert_dir {
        let source = Source {
            folder: folder.clone(),
            name: names.into_iter().next().unwrap_or_default(),
            bundle: args.ca_bundle,
            configuration: args.config_name.clone(),
        };
        let (outside, serving) = Outside::new(source, lives, clients, Api::all(client.clone()), check, metrics)?;
        return Ok((Box::pin(outside.run()), serving));
    }
    let secrets = Api::namespaced(client.clone(), &args.namespace);
    let (keeper, serving) = Keeper::new(secrets, names, lives, clients, check, metrics)?;
    Ok((Box::pin(keeper.run()), serving))
}

/// Our name among the replicas: the pod's, which is its host name, and what makes it our own process's.
fn identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "railbind-webhook".into());
    format!("{host}-{:016x}", RandomState::new().build_hasher().finish())
}

async fn always(task: impl Future<Output = ()>) -> anyhow::Result<()> {
    task.await;
    Ok(())
}

async fn client() -> anyhow::Result<Client> {
    let mut config = kube::Config::infer().await.context("no cluster: neither KUBECONFIG nor a service account")?;
    config.connect_timeout = Some(Duration::from_secs(5));
    // Where packets are dropped nobody tells that a connection is dead. Longer than a watch is open.
    config.read_timeout = Some(Duration::from_secs(u64::from(nodes::WATCH_SECONDS) + 30));
    config.reset_reader_on_write = true;
    Client::try_from(config).context("client of the API server")
}

/// The names that our certificate is for, and how the API server gets here.
fn place(args: &ServeArgs) -> (Vec<String>, Place) {
    if let Some(url) = &args.url {
        return (vec![url.host.clone()], Place::Url(url.base.clone()));
    }
    let name = &args.service_name;
    let namespace = args.service_namespace.as_ref().unwrap_or(&args.namespace);
    let names = ["", ".cluster.local"].map(|domain| format!("{name}.{namespace}.svc{domain}"));
    (names.into(), Place::Service { name: name.clone(), namespace: namespace.clone(), port: args.service_port })
}
