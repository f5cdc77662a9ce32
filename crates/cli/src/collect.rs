//! `collect`: a support bundle with secrets left out.
//!
//! Secrets and ConfigMaps are never asked for; what is taken goes through [`crate::redact`].

use std::{collections::BTreeSet, io::Write as _, path::Path};

use flate2::{Compression, write::GzEncoder};
use kube::api::LogParams;
use policies::doctor::{Asked, Scene, checklist, diagnose};
use serde_json::{Value, json};

use crate::{
    args::CollectArgs,
    cluster::{Cluster, Trouble},
    exit::{Ended, Exit, Result},
    gather, out, redact,
};

/// Pods whose logs are taken.
const MAX_PODS: usize = 64;

/// Writes it.
///
/// # Errors
/// The file cannot be written.
pub async fn run(cluster: &Cluster, args: &CollectArgs) -> Result<Exit> {
    let mut bundle = Bundle::create(&args.file)?;
    let profiles = gather::profiles(cluster).await?;
    let nodes = gather::nodes(cluster).await.unwrap_or_else(|ended| {
        cluster.miss(ended.exit, ended.text);
        Vec::new()
    });
    let system = &args.railbind_namespace;
    let lists = [
        ("cluster/nodes", gather::NODES.to_owned()),
        ("cluster/nodefabrics", gather::NODE_FABRICS.to_owned()),
        ("cluster/transportprofiles", gather::PROFILES.to_owned()),
        ("cluster/webhooks", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations".into()),
        ("cluster/crds", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".into()),
        ("railbind/daemonsets", format!("/apis/apps/v1/namespaces/{system}/daemonsets")),
        ("railbind/deployments", format!("/apis/apps/v1/namespaces/{system}/deployments")),
        ("railbind/events", format!("/api/v1/namespaces/{system}/events")),
    ];
    for (name, path) in lists {
        match cluster.list(&path).await {
            Ok(mut items) => {
                if name.ends_with("webhooks") || name.ends_with("crds") {
                    items
                        .retain(|item| item["metadata"]["name"].as_str().is_some_and(|name| name.contains("railbind")));
                }
                bundle.objects(name, &items)?;
            }
            Err(Trouble::NotFound(_)) => {
                bundle.text(&format!("{name}.absent.txt"), "the API server has no such kind\n")?;
            }
            Err(trouble) => cluster.miss(trouble.exit(), format!("{name}: {}", trouble.text())),
        }
    }
    let own = pods(cluster, &format!("/api/v1/namespaces/{system}/pods"), |_| true).await;
    let path =
        args.namespace.as_ref().map_or_else(|| "/api/v1/pods".into(), |name| format!("/api/v1/namespaces/{name}/pods"));
    let workers = pods(cluster, &path, gather::is_worker).await;
    for (folder, pods) in [("railbind", &own), ("workers", &workers)] {
        bundle.objects(&format!("{folder}/pods"), pods)?;
        logs(cluster, &mut bundle, folder, pods, args.log_mib).await?;
    }
    for namespace in workers.iter().filter_map(|pod| pod["metadata"]["namespace"].as_str()).collect::<BTreeSet<_>>() {
        match cluster.list(&format!("/api/v1/namespaces/{namespace}/events")).await {
            Ok(items) => bundle.objects(&format!("workers/events-{namespace}"), &items)?,
            Err(trouble) => cluster.miss(trouble.exit(), format!("events of {namespace}: {}", trouble.text())),
        }
    }
    let scene = Scene {
        asked: Asked::Cluster,
        nodes,
        pods: gather::workers(cluster, &workers, false).await,
        ..Scene::default()
    };
    let doctor = json!({"findings": diagnose(&scene, &profiles), "checklist": checklist(&scene)});
    bundle.value("doctor.json", doctor)?;
    let about = json!({
        "kubectl-railbind": env!("CARGO_PKG_VERSION"),
        "missing": cluster.missing(),
        "leftOut": "Secrets and ConfigMaps were not asked for; variables, flags and words that look like secrets are hidden",
    });
    bundle.value("about.json", about)?;
    let files = bundle.finish()?;
    out::print(&format!(
        "wrote {} ({files} files, secrets left out); look through it before you send it\n",
        args.file.display()
    ))?;
    Ok(cluster.end(false))
}

async fn pods(cluster: &Cluster, path: &str, wanted: fn(&Value) -> bool) -> Vec<Value> {
    cluster.list_those(path, wanted).await.unwrap_or_else(|trouble| {
        cluster.miss(trouble.exit(), format!("{path}: {}", trouble.text()));
        Vec::new()
    })
}

async fn logs(cluster: &Cluster, bundle: &mut Bundle, folder: &str, pods: &[Value], mib: u32) -> Result<()> {
    let limit = (mib as usize) << 20;
    for pod in pods.iter().take(MAX_PODS) {
        let (namespace, name) = (pod["metadata"]["namespace"].as_str(), pod["metadata"]["name"].as_str());
        let (Some(namespace), Some(name)) = (namespace, name) else { continue };
        for container in
            pod["spec"]["containers"].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str())
        {
            let parameters = LogParams {
                container: Some(container.into()),
                tail_lines: Some(20_000),
                limit_bytes: i64::try_from(limit).ok(),
                timestamps: true,
                ..LogParams::default()
            };
            let mut text = Vec::new();
            match cluster.log(namespace, name, &parameters, limit, |piece| text.extend_from_slice(piece)).await {
                Ok(_) => {
                    let clean: String =
                        String::from_utf8_lossy(&text).lines().map(|line| redact::text(line) + "\n").collect();
                    bundle.text(&format!("{folder}/logs/{namespace}_{name}_{container}.log"), &clean)?;
                }
                Err(trouble) => {
                    cluster.miss(trouble.exit(), format!("log of {namespace}/{name} {container}: {}", trouble.text()));
                }
            }
        }
    }
    if pods.len() > MAX_PODS {
        cluster.miss(Exit::Partial, format!("logs of {} of {} pods ({folder})", pods.len() - MAX_PODS, pods.len()));
    }
    Ok(())
}

/// The archive. It is written beside its place and moved there whole: half a bundle misleads.
struct Bundle {
    archive: tar::Builder<GzEncoder<std::fs::File>>,
    part: std::path::PathBuf,
    place: std::path::PathBuf,
    files: usize,
}

impl Bundle {
    fn create(place: &Path) -> Result<Self> {
        let mut part = place.as_os_str().to_owned();
        part.push(".part");
        let part = std::path::PathBuf::from(part);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        // It tells of the cluster: nobody else's to read.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&part);
        let file = file.map_err(|error| Ended::usage(format!("writing {}: {error}", part.display())))?;
        let archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        Ok(Self { archive, part, place: place.to_owned(), files: 0 })
    }

    fn objects(&mut self, name: &str, items: &[Value]) -> Result<()> {
        self.value(&format!("{name}.json"), json!({"kind": "List", "apiVersion": "v1", "items": items}))
    }

    fn value(&mut self, name: &str, mut value: Value) -> Result<()> {
        redact::object(&mut value);
        let text = serde_json::to_string_pretty(&value).unwrap_or_default();
        self.text(name, &text)
    }

    fn text(&mut self, name: &str, text: &str) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        self.files += 1;
        let added = self.archive.append_data(&mut header, format!("railbind-bundle/{name}"), text.as_bytes());
        added.map_err(|error| failed(&self.part, &error))
    }

    fn finish(self) -> Result<usize> {
        let Self { archive, part, place, files } = self;
        let written = archive.into_inner().and_then(GzEncoder::finish).and_then(|mut file| file.flush());
        written.and_then(|()| std::fs::rename(&part, &place)).map_err(|error| failed(&part, &error))?;
        Ok(files)
    }
}

fn failed(part: &Path, error: &std::io::Error) -> Ended {
    // A disk that is full is not made emptier by half a file.
    drop(std::fs::remove_file(part));
    Ended::new(Exit::Failed, format!("writing {}: {error}", part.display()))
}
