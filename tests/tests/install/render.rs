//! Both ways to install give the same objects, and those ask for no more than they need.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use harness::{kube_binary, railbind::repository, tool};
use serde_json::{Value, json};
use tokio::process::Command;

pub(crate) type Objects = BTreeMap<String, Value>;

async fn run(mut command: Command) -> Result<String> {
    // Helm keeps its settings below these, and says that it follows our links.
    let folder = tempfile::tempdir()?;
    command.env("HOME", folder.path()).env("KUBECACHEDIR", folder.path());
    let output = command.output().await?;
    if !output.status.success() {
        bail!("{:?}: {}", command.as_std(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) async fn kustomize(folder: &str) -> Result<Objects> {
    let mut command = Command::new(kube_binary().await?);
    command.args(["kubectl", "kustomize"]).arg(repository().join("manifests").join(folder));
    objects(&run(command).await?)
}

pub(crate) async fn helm(args: &[&str]) -> Result<Objects> {
    let mut command = Command::new(tool("helm").await?);
    command.args(["template", "railbind", "--namespace", "railbind-system"]);
    command.arg(repository().join("charts/railbind")).args(args);
    objects(&run(command).await?)
}

fn objects(text: &str) -> Result<Objects> {
    let mut objects = Objects::new();
    for document in text.split("\n---\n") {
        let value: Value = serde_saphyr::from_str(document).with_context(|| document.to_owned())?;
        let Some(kind) = value["kind"].as_str() else { continue };
        let name = format!("{kind}/{}", value["metadata"]["name"].as_str().context("no name")?);
        ensure!(objects.insert(name.clone(), value).is_none(), "{name} twice");
    }
    Ok(objects)
}

pub(crate) fn same(kustomize: &Objects, helm: &Objects) {
    let names = |objects: &Objects| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(kustomize), names(helm));
    for (name, object) in kustomize {
        assert_eq!(object, &helm[name], "{name}");
    }
}

#[tokio::test]
async fn the_chart_renders_what_the_base_renders() {
    let base = kustomize("base").await.unwrap();
    assert!(base.len() > 25, "{:?}", base.keys());
    same(&base, &helm(&["--set", "namespace.create=true"]).await.unwrap());
    // Helm needs the namespace before it has a chart, so a release does not hold it; that is all of the difference.
    let mut without = base;
    without.remove("Namespace/railbind-system").unwrap();
    same(&without, &helm(&[]).await.unwrap());
}

#[tokio::test]
async fn the_charts_examples_render_what_the_overlays_render() {
    for overlay in ["dev", "ha", "policy-engine", "certificate-secret", "cert-manager", "selftest"] {
        let values = repository().join(format!("charts/railbind/examples/{overlay}.yaml"));
        let args = ["--set", "namespace.create=true", "--values", values.to_str().unwrap()];
        let kustomize = kustomize(&format!("overlays/{overlay}")).await.unwrap();
        same(&kustomize, &helm(&args).await.unwrap());
    }
}

#[tokio::test]
async fn values_that_make_no_sense_are_refused() {
    for (value, why) in [
        ("webhook.replicas=many", "replicas"),
        ("webhook.replica=3", "replica"),
        ("bindingEngine=magic", "bindingEngine"),
        ("image.registry=registry.example/railbind", "registry"),
        ("image.tag=a b", "tag"),
        ("webhook.extraArgs={drain}", "extraArgs"),
        ("certificates.mode=vault", "mode"),
        ("certificates.issuer.name=x", "issuer"),
        ("agent.selftest.nodeLabel=gpu", "nodeLabel"),
        ("agent.selftest.rdmaResource=hca", "rdmaResource"),
        ("agent.selftest.memoryLimit=lots", "memoryLimit"),
        ("agent.selftest.gpu.runtimeClassName=NVIDIA", "runtimeClassName"),
        ("agent.selftest.ucx.volume.emptyDir.medium=Memory", "emptyDir"),
        ("agent.selftest.ucx.folder=/lib", "folder"),
    ] {
        let refused = helm(&["--set", value]).await.expect_err(value).to_string();
        assert!(
            refused.contains("values don't meet the specifications of the schema") && refused.contains(why),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn values_reach_where_they_belong() {
    let set = "image.registry=registry.example/,image.tag=9.9,logLevel=debug,crds.keep=true,networkPolicy.monitoringNamespace=prom,\
               agent.adminListen=0.0.0.0:9465,agent.extraArgs={--period=30}";
    let objects = helm(&["--set", set]).await.unwrap();
    let container = |name: &str| objects[name]["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!(container("Deployment/railbind-webhook")["image"], "registry.example/railbind-webhook:9.9");
    let agent = container("DaemonSet/railbind-agent");
    assert_eq!(agent["image"], "registry.example/railbind-agent:9.9");
    let args: Vec<_> = agent["args"].as_array().unwrap().iter().rev().take(2).collect();
    assert_eq!(args, ["--period=30", "--log-level=debug"]);
    let listens: Vec<_> = agent["args"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|arg| arg.as_str().unwrap().starts_with("--admin-listen"))
        .collect();
    assert_eq!(listens, ["--admin-listen=0.0.0.0:9465"]);
    for (name, object) in &objects {
        let kept = object["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep";
        assert_eq!(kept, name.starts_with("CustomResourceDefinition/"), "{name}");
    }
    let ingress = &objects["NetworkPolicy/railbind-webhook"]["spec"]["ingress"][1]["from"][0]["namespaceSelector"];
    assert_eq!(ingress["matchLabels"]["kubernetes.io/metadata.name"], "prom");
    // In another namespace, every reference goes along.
    let mut elsewhere = Command::new(tool("helm").await.unwrap());
    elsewhere.args(["template", "x", "--namespace", "fabric"]).arg(repository().join("charts/railbind"));
    let text = run(elsewhere).await.unwrap();
    assert!(!text.contains("railbind-system") && text.contains("system:serviceaccount:fabric:railbind-agent"));
}

#[tokio::test]
async fn a_certificate_of_somebody_elses_needs_no_right_to_secrets() {
    for overlay in ["certificate-secret", "cert-manager"] {
        let objects = kustomize(&format!("overlays/{overlay}")).await.unwrap();
        let rules = objects["Role/railbind-webhook"]["rules"].as_array().unwrap();
        assert!(
            rules.len() == 2 && rules.iter().all(|rule| rule["resources"] == json!(["leases"])),
            "{overlay}: {rules:?}"
        );
        let pod = &objects["Deployment/railbind-webhook"]["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let folder = container["volumeMounts"][0]["mountPath"].as_str().unwrap();
        let args = container["args"].as_array().unwrap();
        assert!(args.contains(&json!(format!("--tls-cert-dir={folder}"))), "{overlay}: {args:?}");
        let injected = args.contains(&json!("--ca-bundle=injected"));
        let annotation = &objects["MutatingWebhookConfiguration/railbind-webhook"]["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
        let certificate = objects.get("Certificate/railbind-webhook");
        assert_eq!(
            (injected, annotation.is_string(), certificate.is_some()),
            match overlay {
                "cert-manager" => (true, true, true),
                _ => (false, false, false),
            }
        );
        // What is injected is what is served: one certificate, one Secret, one name.
        if let Some(certificate) = certificate {
            let place = format!(
                "{}/{}",
                certificate["metadata"]["namespace"].as_str().unwrap(),
                certificate["metadata"]["name"].as_str().unwrap()
            );
            assert_eq!(*annotation, place);
            assert_eq!(certificate["spec"]["secretName"], pod["volumes"][0]["secret"]["secretName"]);
            assert_eq!(certificate["spec"]["dnsNames"][0], "railbind-webhook.railbind-system.svc");
        }
    }
}

/// An overlay that somebody wrote beside ours: kustomize reads no files from elsewhere, so ours are copied.
pub(crate) struct Mine {
    pub(crate) path: String,
    _folder: tempfile::TempDir,
}

impl Mine {
    pub(crate) async fn new(text: &str) -> Self {
        let folder = tempfile::tempdir_in(repository().join("target")).unwrap();
        let manifests = repository().join("manifests");
        let copied = Command::new("cp").arg("-r").arg(manifests).arg(folder.path()).status().await.unwrap();
        assert!(copied.success());
        let mine = folder.path().join("manifests/mine");
        std::fs::create_dir(&mine).unwrap();
        std::fs::write(mine.join("kustomization.yaml"), text).unwrap();
        Self { path: mine.to_str().unwrap().to_owned(), _folder: folder }
    }
}

/// A person's overlay of several components, and the same values.
#[tokio::test]
async fn components_go_together() {
    let mine = Mine::new(
        "resources: [../overlays/ha]\ncomponents: [../components/certificate-secret, ../components/client-ca]\n",
    )
    .await;
    let mut kustomize = kustomize(&mine.path).await.unwrap();
    let ha = repository().join("charts/railbind/examples/ha.yaml");
    let set = "namespace.create=true,certificates.mode=secret,certificates.clientCaConfigMap=railbind-client-ca";
    let mut helm = helm(&["--set", set, "--values", ha.to_str().unwrap()]).await.unwrap();
    // Lists of names, whose order means nothing.
    for objects in [&mut kustomize, &mut helm] {
        let spec = &mut objects.get_mut("Deployment/railbind-webhook").unwrap()["spec"]["template"]["spec"];
        let by_name = |value: &Value| value["name"].as_str().unwrap().to_owned();
        spec["volumes"].as_array_mut().unwrap().sort_by_key(by_name);
        spec["containers"][0]["volumeMounts"].as_array_mut().unwrap().sort_by_key(by_name);
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 2);
    }
    same(&kustomize, &helm);
}

#[tokio::test]
async fn an_issuer_of_yours_takes_the_place_of_ours() {
    let set = "certificates.mode=certManager,certificates.secretName=other-tls,certificates.issuerRef.name=vault,certificates.issuerRef.kind=ClusterIssuer";
    let objects = helm(&["--set", set]).await.unwrap();
    let ours = |kind: &str| objects.keys().filter(|name| name.starts_with(kind)).cloned().collect::<Vec<_>>();
    assert_eq!((ours("Issuer/"), ours("Certificate/")), (vec![], vec!["Certificate/railbind-webhook".to_owned()]));
    let certificate = &objects["Certificate/railbind-webhook"]["spec"];
    assert_eq!(certificate["issuerRef"], json!({"kind": "ClusterIssuer", "name": "vault"}));
    let volume = &objects["Deployment/railbind-webhook"]["spec"]["template"]["spec"]["volumes"][0];
    assert_eq!(
        (&certificate["secretName"], &volume["secret"]["secretName"]),
        (&json!("other-tls"), &json!("other-tls"))
    );
}

#[tokio::test]
async fn pods_have_no_privilege_that_they_do_not_need() {
    for overlay in ["base", "dev", "ha", "policy-engine", "certificate-secret", "cert-manager", "selftest"] {
        let overlay = &if overlay == "base" { overlay.to_owned() } else { format!("overlays/{overlay}") };
        let objects = kustomize(overlay).await.unwrap();
        for (name, host) in [("Deployment/railbind-webhook", false), ("DaemonSet/railbind-agent", true)] {
            let pod = &objects[name]["spec"]["template"]["spec"];
            for container in pod["containers"].as_array().unwrap() {
                let context = &container["securityContext"];
                assert!(context["privileged"].is_null(), "{overlay} {name}");
                assert_eq!(context["allowPrivilegeEscalation"], false, "{overlay} {name}");
                assert_eq!(context["readOnlyRootFilesystem"], true, "{overlay} {name}");
                assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}), "{overlay} {name}");
                assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault", "{overlay} {name}");
                assert_eq!(context["runAsNonRoot"].as_bool().unwrap_or_default(), !host, "{overlay} {name}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{overlay} {name}");
                // Of the host, the agent may look at everything and change nothing.
                for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                    assert_eq!(mount["readOnly"], true, "{overlay} {name}: {mount}");
                }
            }
            assert_eq!(pod["hostNetwork"].as_bool().unwrap_or_default(), host, "{overlay} {name}");
        }
        // The agent is in the host's network, where no NetworkPolicy holds: nothing of it listens there unasked.
        let args = &objects["DaemonSet/railbind-agent"]["spec"]["template"]["spec"]["containers"][0]["args"];
        let args = args.as_array().unwrap();
        assert!(args.contains(&json!("--admin-listen=127.0.0.1:9465")), "{args:?}");
        assert!(!args.iter().any(|arg| arg.as_str().unwrap().starts_with("--selftest")), "off by default: {args:?}");
        let text = serde_json::to_string(&objects).unwrap();
        assert!(
            !text.contains("caBundle\":\"") && !text.contains("BEGIN CERTIFICATE"),
            "{overlay} holds a certificate"
        );
    }
}
