//! A fresh namespace for each test, and the story of it when the test fails.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    panic::{AssertUnwindSafe, resume_unwind},
};

use anyhow::{Context, Result};
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Event, Namespace, Pod, ServiceAccount};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
};

use crate::{Cluster, LIMIT, node, until};

/// Runs `test` in a namespace with these labels, and deletes it afterwards.
///
/// If the test panics or returns an error, prints the namespace's pods and events and the end of every component's
/// log, and then fails as the test did.
///
/// # Panics
/// If the test fails, or if there is no namespace for it.
pub async fn with_namespace(cluster: &Cluster, labels: &[(&str, &str)], test: impl AsyncFnOnce(&str) -> Result<()>) {
    let name = create(cluster, labels).await.unwrap_or_else(|err| panic!("no namespace for the test: {err:#}"));
    let outcome = AssertUnwindSafe(test(&name)).catch_unwind().await;
    if !matches!(outcome, Ok(Ok(()))) {
        eprintln!("{}", story(cluster, &name).await);
    }
    // Nobody waits for the deletion, and a failing one must not hide the test's own failure.
    if let Ok(client) = cluster.client().await {
        drop(Api::<Namespace>::all(client).delete(&name, &DeleteParams::default()).await);
    }
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(err)) => panic!("{err:#}"),
        Err(panic) => resume_unwind(panic),
    }
}

async fn create(cluster: &Cluster, labels: &[(&str, &str)]) -> Result<String> {
    let client = cluster.client().await?;
    let labels: BTreeMap<_, _> = labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let metadata = ObjectMeta { generate_name: Some("test-".into()), labels: Some(labels), ..Default::default() };
    let namespace = Namespace { metadata, ..Default::default() };
    let name = Api::all(client.clone()).create(&PostParams::default(), &namespace).await.context("create")?.name_any();
    // Without its default service account the namespace takes no pods.
    let accounts: Api<ServiceAccount> = Api::namespaced(client, &name);
    until(format_args!("namespace {name} to get its service account"), LIMIT, || async {
        Ok(accounts.get("default").await?)
    })
    .await?;
    Ok(name)
}

/// What happened in a namespace, for the one who reads a failed test's output.
async fn story(cluster: &Cluster, namespace: &str) -> String {
    let mut story = format!("\n── namespace {namespace} ──\n");
    if let Err(err) = objects(cluster, namespace, &mut story).await {
        let _ = writeln!(story, "  (cannot be read: {err:#})");
    }
    story + &cluster.tails(12)
}

async fn objects(cluster: &Cluster, namespace: &str, story: &mut String) -> Result<()> {
    let client = cluster.client().await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for pod in pods.list(&ListParams::default()).await? {
        writeln!(story, "  pod {}: {}", pod.name_any(), node::state(&pod))?;
    }
    let events: Api<Event> = Api::namespaced(client, namespace);
    for event in events.list(&ListParams::default()).await? {
        let (reason, message) = (event.reason.unwrap_or_default(), event.message.unwrap_or_default());
        let name = event.involved_object.name.unwrap_or_default();
        writeln!(story, "  event {} {name}: {reason}: {message}", event.type_.unwrap_or_default())?;
    }
    Ok(())
}
