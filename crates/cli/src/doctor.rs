//! `doctor`: what is wrong, why, and what to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use futures::{StreamExt as _, stream};
use policies::{
    doctor::{Asked, Check, Diagnosis, PodScene, Scene, Severity, State, checklist, diagnose, is_healthy},
    fabric::Fact,
    names::{WEBHOOK_MANAGER, annotation},
    raw,
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    args::{DoctorArgs, Kind},
    cluster::{Cluster, Missing, Trouble},
    exit::{Ended, Exit, Result},
    gather, out,
};

mod logs;

/// Logs read at once.
const AT_ONCE: usize = 8;
/// Workers whose logs are read where none is named: a log costs its kubelet a file.
const MAX_LOGS: usize = 64;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    healthy: bool,
    findings: &'a [Diagnosis],
    checklist: &'a [Check],
    looked_at: Looked,
    missing: Vec<Missing>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Looked {
    nodes: usize,
    workers: usize,
    logs: usize,
}

/// Looks.
///
/// # Errors
/// What was asked for is not there, or cannot be read.
pub async fn run(cluster: &Cluster, args: &DoctorArgs) -> Result<Exit> {
    let profiles = gather::profiles(cluster).await?;
    let mut scene = scene(cluster, args).await?;
    let bare = |pod: &PodScene| pod.worker.is_some() && !pod.annotations.contains_key(annotation::DECISION);
    if scene.pods.iter().any(bare) {
        scene.webhook = registered(cluster).await;
    }
    if !args.no_logs && scene.asked != Asked::Nodes {
        read_logs(cluster, args, &mut scene).await;
    }
    let found = diagnose(&scene, &profiles);
    let checks = checklist(&scene);
    let healthy = is_healthy(&found);
    let containers = scene.pods.iter().flat_map(|pod| &pod.containers);
    let answer = Answer {
        healthy,
        findings: &found,
        checklist: &checks,
        looked_at: Looked {
            nodes: scene.nodes.len(),
            workers: scene.pods.iter().filter(|pod| pod.worker.is_some()).count(),
            logs: containers.filter(|container| container.logs.known().is_some()).count(),
        },
        missing: cluster.missing(),
    };
    out::answer(args.output, &answer, || people(&answer, args.notes))?;
    Ok(cluster.end(!healthy))
}

/// Whether the API server is told to call the webhook, by the name that it registers itself under.
async fn registered(cluster: &Cluster) -> Fact<bool> {
    let path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    match cluster.get(path, WEBHOOK_MANAGER).await {
        Ok(_) => Fact::Known(true),
        Err(Trouble::NotFound(_)) => Fact::Known(false),
        // A user who may not see it is told nothing of it.
        Err(trouble) => Fact::Unknown(trouble.text().to_owned()),
    }
}

async fn scene(cluster: &Cluster, args: &DoctorArgs) -> Result<Scene> {
    match (args.kind, &args.name) {
        (None, _) => {
            let path = args.namespace.as_ref().map_or_else(|| "/api/v1/pods".into(), |name| pods_of(name));
            let (nodes, pods) = tokio::join!(gather::nodes(cluster), cluster.list_those(&path, gather::is_worker));
            // Half of it is worth something too.
            let nodes = nodes.unwrap_or_else(|ended| {
                cluster.miss(ended.exit, ended.text);
                Vec::new()
            });
            let pods = pods.unwrap_or_else(|trouble| {
                cluster.miss(trouble.exit(), format!("pods: {}", trouble.text()));
                Vec::new()
            });
            Ok(Scene {
                asked: Asked::Cluster,
                nodes,
                pods: gather::workers(cluster, &pods, false).await,
                ..Scene::default()
            })
        }
        (Some(Kind::Node), None) => Ok(Scene {
            asked: Asked::Nodes,
            nodes: gather::nodes(cluster).await?,
            pods: Vec::new(),
            ..Scene::default()
        }),
        (Some(Kind::Node), Some(name)) => {
            let nodes = gather::named(cluster, &BTreeSet::from([name.clone()])).await;
            if nodes.is_empty() {
                // Why is written down already.
                let why = cluster.missing().iter().map(|missing| missing.what.clone()).collect::<Vec<_>>().join("; ");
                let exit = cluster.missing().iter().map(|missing| missing.exit).min().unwrap_or(Exit::Usage);
                let exit = if why.contains("not found") { Exit::Usage } else { exit };
                return Err(Ended::new(exit, why));
            }
            Ok(Scene { asked: Asked::Nodes, nodes, pods: Vec::new(), ..Scene::default() })
        }
        (Some(kind), name) => {
            let namespace = args.namespace.clone().unwrap_or_else(|| cluster.namespace.clone());
            let chosen = pods(cluster, kind, name.as_deref(), &namespace).await?;
            let pods = gather::workers(cluster, &chosen, true).await;
            let names: BTreeSet<String> = pods.iter().filter_map(|pod| pod.node.clone()).collect();
            let nodes = gather::named(cluster, &names).await;
            for pod in pods.iter().filter(|pod| pod.worker.is_none() && name.is_some()) {
                out::say(&format!(
                    "note: {} is not a worker: it requests no GPU, or carries no worker's label, argument or RDMA resource",
                    pod.title()
                ));
            }
            Ok(Scene { asked: Asked::Pods, nodes, pods, ..Scene::default() })
        }
    }
}

fn pods_of(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

/// The pods asked for, and the other workers of their deployments.
async fn pods(cluster: &Cluster, kind: Kind, name: Option<&str>, namespace: &str) -> Result<Vec<Value>> {
    let list = async || cluster.list(&pods_of(namespace)).await.map_err(|trouble| gather::needed("pods", &trouble));
    let Some(name) = name else { return list().await };
    if kind == Kind::Pod {
        let pod = cluster.get(&pods_of(namespace), name).await;
        let pod = pod.map_err(|trouble| gather::needed(&format!("pod {namespace}/{name}"), &trouble))?;
        let Some(group) = gather::group(&pod) else { return Ok(vec![pod]) };
        // The pod itself is what was asked for: without its fellows there is less to say, and something.
        return match list().await {
            Ok(all) => Ok(all.into_iter().filter(|other| gather::group(other).as_ref() == Some(&group)).collect()),
            Err(ended) => {
                cluster.miss(ended.exit, format!("the other workers of {group}: {}", ended.text));
                Ok(vec![pod])
            }
        };
    }
    for resource in ["deployments", "statefulsets"] {
        match cluster.get(&format!("/apis/apps/v1/namespaces/{namespace}/{resource}"), name).await {
            Ok(found) => {
                let labels = raw::strings(&found["spec"]["selector"]["matchLabels"]);
                let all = list().await?;
                let mine = |pod: &Value| {
                    let own = raw::strings(&pod["metadata"]["labels"]);
                    !labels.is_empty() && labels.iter().all(|(key, value)| own.get(key) == Some(value))
                };
                let groups: BTreeSet<String> = all.iter().filter(|pod| mine(pod)).filter_map(gather::group).collect();
                let fellow = |pod: &Value| gather::group(pod).is_some_and(|group| groups.contains(&group));
                return Ok(all.into_iter().filter(|pod| mine(pod) || fellow(pod)).collect());
            }
            Err(Trouble::NotFound(_)) => {}
            Err(trouble) => cluster.miss(trouble.exit(), format!("{resource} {name}: {}", trouble.text())),
        }
    }
    let found: Vec<Value> =
        list().await?.into_iter().filter(|pod| gather::group(pod).as_deref() == Some(name)).collect();
    if found.is_empty() {
        return Err(Ended::usage(format!(
            "namespace {namespace} has no Deployment or StatefulSet {name}, and no pod whose deployment label is {name}"
        )));
    }
    Ok(found)
}

async fn read_logs(cluster: &Cluster, args: &DoctorArgs, scene: &mut Scene) {
    let workers: Vec<(usize, usize)> = scene
        .pods
        .iter()
        .enumerate()
        .filter(|(_, pod)| pod.worker.is_some() && pod.node.is_some())
        .flat_map(|(pod, scene)| (0..scene.containers.len()).map(move |container| (pod, container)))
        // One that waits for its image or its init containers has no log, which is no gap in what is looked at.
        .filter(|(pod, container)| scene.pods[*pod].containers[*container].begun)
        .collect();
    if workers.len() > MAX_LOGS {
        cluster.miss(
            Exit::Partial,
            format!(
                "logs of {} of {} workers: name a pod or a deployment to read its logs",
                workers.len() - MAX_LOGS,
                workers.len()
            ),
        );
    }
    let pods: &[PodScene] = &scene.pods;
    let read: Vec<_> = stream::iter(workers.into_iter().take(MAX_LOGS))
        .map(|(pod, container)| async move {
            let (scene, name) = (&pods[pod], &pods[pod].containers[container].name);
            let restarted = pods[pod].containers[container].restarts > 0;
            (pod, container, logs::read(cluster, &scene.namespace, &scene.name, name, restarted, args.log_mib).await)
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let mut failed: BTreeMap<Exit, Vec<(String, String)>> = BTreeMap::new();
    for (pod, container, logs) in read {
        let pod = &mut scene.pods[pod];
        let title = pod.title();
        let container = &mut pod.containers[container];
        container.logs = match logs {
            Ok(logs) => Fact::Known(logs),
            Err(trouble) => {
                let why = trouble.text().to_owned();
                let title = format!("{title} container {}", container.name);
                failed.entry(trouble.exit()).or_default().push((title, why.clone()));
                Fact::Unknown(why)
            }
        };
    }
    for (exit, mut logs) in failed {
        logs.sort();
        let others = logs.len() - 1;
        let more = if others > 0 { format!(" and {others} more") } else { String::new() };
        let (title, why) = &logs[0];
        // With another word for each kubelet's address, a cluster without logs would fill the screen.
        let likewise = if logs.iter().any(|(_, other)| other != why) { ", and the like" } else { "" };
        cluster.miss(exit, format!("log of {title}{more}: {why}{likewise}; what needs no log is all here"));
    }
}

fn people(answer: &Answer<'_>, notes: bool) -> String {
    let mut text = String::new();
    let shown = answer.findings.iter().filter(|finding| notes || finding.severity > Severity::Note);
    for (number, finding) in shown.enumerate() {
        let (style, word) = match finding.severity {
            Severity::Fault => (out::BAD, "FAULT"),
            Severity::Warning => (out::WARN, "WARNING"),
            Severity::Note => (out::DIM, "NOTE"),
        };
        let subjects = out::clean(&finding.subjects.iter().take(4).cloned().collect::<Vec<_>>().join(", "));
        let more = finding.subjects.len().saturating_sub(4);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = writeln!(
            text,
            "{}. {} {} {}",
            number + 1,
            out::paint(style, word),
            finding.code.code(),
            out::paint(out::HEAD, subjects + &more)
        );
        let _ = writeln!(text, "   {}", out::clean(&finding.cause));
        for line in &finding.evidence {
            let _ = writeln!(text, "   seen:   {}", out::paint(out::DIM, out::clean(line)));
        }
        let _ = writeln!(text, "   do:     {}", out::clean(&finding.remedy));
        let _ = writeln!(text, "   guide:  {}\n", finding.guide);
    }
    let Looked { nodes, workers, logs } = answer.looked_at;
    let count = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let looked = format!("looked at {}, {} and {}", count(nodes, "node"), count(workers, "worker"), count(logs, "log"));
    if answer.healthy {
        let as_far = if answer.missing.is_empty() { "" } else { " in what could be looked at" };
        let _ = writeln!(text, "{}{as_far}: {looked}.", out::paint(out::GOOD, "Nothing to act on"));
    } else {
        let _ = writeln!(text, "The first is the most likely cause; {looked}.");
    }
    text += "\nThe guide's checklist\n";
    for check in answer.checklist {
        let mark = match check.state {
            State::Yes => out::paint(out::GOOD, "yes"),
            State::No => out::paint(out::BAD, " no"),
            State::Unknown => out::paint(out::DIM, "  ?"),
        };
        let _ = writeln!(text, "  {mark}  {} {}", check.item, out::paint(out::DIM, format!("({})", check.detail)));
    }
    text
}
