//! Certificates that others make, and the API server's own, on a real API server.
//!
//! cert-manager does not run here: what it does to a cluster is done by the test. Its Secret is mounted as the kubelet mounts one
//! (a folder for each version, and the link `..data` moved over), and its cainjector's write of `caBundle` is an update under that name.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use harness::{Authority, Cluster, Identity, LIMIT, Options, free_port, railbind::Daemon, until};
use k8s_openapi::{
    ByteString,
    api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Pod},
};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

const SERVING: &str = r#"railbind_webhook_certificate_files_bad{files="serving"}"#;

/// An API server with these flags, the webhook's account, and a node to choose; nobody schedules.
async fn cluster(flags: Vec<String>) -> Result<Cluster> {
    let cluster = Cluster::start(Options { bare: true, api_server: flags, ..Options::default() }).await?;
    cluster.install_identities().await?;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "ib-1", "labels": {
        "railbind.dev/fabric": "infiniband", "railbind.dev/profile": "infiniband-gpudirect"}}});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "serving", "labels": {"railbind.dev/inject": "enabled"}}});
    // No controller runs that would make it.
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": "serving"}});
    for object in [node, namespace, account] {
        cluster.apply(&object.to_string()).await?;
    }
    Ok(cluster)
}

async fn webhook(cluster: &Cluster, name: &str, flags: &[&str]) -> Result<Daemon> {
    let listen = format!("127.0.0.1:{}", free_port()?);
    let common = ["--drain-seconds=1", "--ca-grace-seconds=2", "--binding-engine=off"];
    cluster.spawn_webhook_at(name, &listen, &format!("https://{listen}"), &[&common, flags].concat()).await
}

/// Creates a worker; whether it came back with a decision of ours.
async fn patched(cluster: &Cluster) -> Result<bool> {
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, "serving");
    created(&pods).await
}

async fn created(pods: &Api<Pod>) -> Result<bool> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"generateName": "w-", "labels": {"llm-d.ai/role": "decode"}},
        "spec": {
            "containers": [{"name": "main", "image": "x", "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
        },
    }))?;
    let made = pods.create(&PostParams::default(), &pod).await?;
    Ok(made.metadata.annotations.unwrap_or_default().contains_key("railbind.dev/decision"))
}

async fn configuration(cluster: &Cluster) -> Result<MutatingWebhookConfiguration> {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(cluster.client().await?);
    Ok(configurations.get("railbind-webhook").await?)
}

/// What the API server is told to trust, PEM; empty where it is told nothing.
fn bundle(configuration: &MutatingWebhookConfiguration) -> String {
    let hook = configuration.webhooks.iter().flatten().next();
    let bundle = hook.and_then(|hook| hook.client_config.ca_bundle.as_ref());
    bundle.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
}

/// Puts another version of a Secret into a folder, as the kubelet does.
fn mount(folder: &Path, version: &str, identity: &Identity, authority: &str) -> Result<()> {
    let version = format!("..{version}");
    fs::create_dir(folder.join(&version))?;
    for (name, text) in [("tls.crt", identity.certificate.as_str()), ("tls.key", &identity.key), ("ca.crt", authority)]
    {
        fs::write(folder.join(&version).join(name), text)?;
        if !folder.join(name).is_symlink() {
            symlink(Path::new("..data").join(name), folder.join(name))?;
        }
    }
    symlink(&version, folder.join("..data_tmp"))?;
    fs::rename(folder.join("..data_tmp"), folder.join("..data"))?;
    Ok(())
}

/// Waits until the webhook has taken so many certificates into use.
async fn taken(webhook: &Daemon, count: usize) -> Result<()> {
    until(format_args!("certificate {count}"), LIMIT, || async {
        let taken = webhook.process.log().matches("serving certificate").count();
        ensure!(taken == count, "{taken}:\n{}", webhook.process.tail(10));
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_are_patched_with_a_certificate_of_an_outside_ca_through_rotations_and_bad_files() {
    let cluster = cluster(Vec::new()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new("old").unwrap(), Authority::new("new").unwrap());
    mount(folder.path(), "1", &old.serving(&[]).unwrap(), old.certificate()).unwrap();
    let flags = [format!("--tls-cert-dir={}", folder.path().display())];
    let webhook = webhook(&cluster, "outside", &[&flags[0]]).await.unwrap();
    assert!(patched(&cluster).await.unwrap());
    assert_eq!(bundle(&configuration(&cluster).await.unwrap()), old.certificate());

    // From here to the end, pods are created all the time, and none may miss us.
    let stop = Arc::new(AtomicBool::new(false));
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let creating = tokio::spawn({
        let (stop, counts) = (stop.clone(), counts.clone());
        let pods: Api<Pod> = Api::namespaced(cluster.client().await.unwrap(), "serving");
        async move {
            while !stop.load(Ordering::Relaxed) {
                counts[usize::from(created(&pods).await?)].fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        }
    });

    // Another certificate by the same CA, and one by another.
    mount(folder.path(), "2", &old.serving(&[]).unwrap(), old.certificate()).unwrap();
    taken(&webhook, 2).await.unwrap();
    assert_eq!(bundle(&configuration(&cluster).await.unwrap()), old.certificate());
    mount(folder.path(), "3", &new.serving(&[]).unwrap(), new.certificate()).unwrap();
    until("both to be trusted", LIMIT, || async {
        let bundle = bundle(&configuration(&cluster).await?);
        ensure!(bundle.contains(old.certificate()) && bundle.contains(new.certificate()), "{bundle}");
        Ok(())
    })
    .await
    .unwrap();
    taken(&webhook, 3).await.unwrap();
    until("the old one to be trusted no more", LIMIT, || async {
        let bundle = bundle(&configuration(&cluster).await?);
        ensure!(bundle == new.certificate(), "{bundle}");
        Ok(())
    })
    .await
    .unwrap();

    // A key that is not the certificate's: what was good stays.
    let broken = Identity { key: new.serving(&[]).unwrap().key, ..new.serving(&[]).unwrap() };
    mount(folder.path(), "4", &broken, new.certificate()).unwrap();
    let bad = async |wanted: f64| {
        until(format_args!("{SERVING} {wanted}"), LIMIT, || async {
            let found = webhook.metric(SERVING, "").await?;
            ensure!((found - wanted).abs() < 0.1, "{found}");
            Ok(())
        })
        .await
    };
    bad(1.0).await.unwrap();
    let (status, report) = webhook.get("/readyz").await.unwrap();
    assert!(status == 200 && report.contains("going on with the last good certificate"), "{report}");
    assert!(webhook.process.log().contains("tls.key: "), "{}", webhook.process.tail(10));
    assert!(patched(&cluster).await.unwrap());
    mount(folder.path(), "5", &new.serving(&[]).unwrap(), new.certificate()).unwrap();
    bad(0.0).await.unwrap();
    taken(&webhook, 4).await.unwrap();
    assert!(patched(&cluster).await.unwrap());

    stop.store(true, Ordering::Relaxed);
    creating.await.unwrap().unwrap();
    let [missed, done] = [0, 1].map(|at| counts[at].load(Ordering::Relaxed));
    println!("outside certificates: {done} pods patched through two rotations and bad files, {missed} missed");
    assert!(missed == 0 && done > 50, "{missed} of {done} missed:\n{}", webhook.process.tail(30));
    drop(webhook);
    cluster.stop().await.unwrap();
}

/// As cert-manager's cainjector does it.
async fn inject(cluster: &Cluster, pem: &str) -> Result<()> {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(cluster.client().await?);
    let parameters = PostParams { field_manager: Some("cert-manager-cainjector".into()), ..PostParams::default() };
    until("the caBundle to be injected", LIMIT, || async {
        let mut configuration = configurations.get("railbind-webhook").await?;
        let hooks = configuration.webhooks.as_mut().filter(|hooks| !hooks.is_empty()).context("no hook yet")?;
        for hook in hooks {
            hook.client_config.ca_bundle = Some(ByteString(pem.into()));
        }
        configurations.replace("railbind-webhook", &parameters, &configuration).await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_bundle_that_somebody_else_injects_is_waited_for_and_left_alone() {
    let cluster = cluster(Vec::new()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (ca, next) = (Authority::new("cert-manager").unwrap(), Authority::new("next").unwrap());
    mount(folder.path(), "1", &ca.serving(&[]).unwrap(), ca.certificate()).unwrap();
    let flags = [format!("--tls-cert-dir={}", folder.path().display()), "--ca-bundle=injected".into()];
    let flags = flags.each_ref().map(String::as_str);
    let injecting = async {
        until("the registration", LIMIT, || async {
            let configuration = configuration(&cluster).await?;
            ensure!(configuration.webhooks.is_some_and(|hooks| !hooks.is_empty()), "none yet");
            Ok(())
        })
        .await?;
        ensure!(bundle(&configuration(&cluster).await?).is_empty(), "it is not ours to fill in");
        ensure!(!patched(&cluster).await?, "the API server cannot trust us yet, and admits pods as they are");
        inject(&cluster, ca.certificate()).await
    };
    // It is ready only once it is trusted.
    let (webhook, injected) = tokio::join!(webhook(&cluster, "injected", &flags), injecting);
    injected.unwrap();
    let webhook = webhook.unwrap();
    assert!(patched(&cluster).await.unwrap());

    // The webhook looks at its registration twice a second here.
    let both = format!("{}{}", ca.certificate(), next.certificate());
    inject(&cluster, &both).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let kept = configuration(&cluster).await.unwrap();
    assert_eq!(bundle(&kept), both);
    let fields = kept.metadata.managed_fields.unwrap_or_default();
    let ours = fields.iter().find(|fields| fields.manager.as_deref() == Some("railbind-webhook")).unwrap();
    let ours = serde_json::to_string(&ours.fields_v1).unwrap();
    assert!(ours.contains("f:rules") && !ours.contains("f:caBundle"), "{ours}");

    // The next CA, which is trusted already.
    mount(folder.path(), "2", &next.serving(&[]).unwrap(), next.certificate()).unwrap();
    taken(&webhook, 2).await.unwrap();
    assert!(patched(&cluster).await.unwrap());
    // Whoever injects the wrong one is told of.
    inject(&cluster, ca.certificate()).await.unwrap();
    until("the wrong bundle to be noticed", LIMIT, || async {
        let registered = webhook.metric("railbind_webhook_registered", "").await?;
        ensure!(registered == 0.0 && webhook.process.log().contains("does not vouch for"), "{registered}");
        Ok(())
    })
    .await
    .unwrap();
    drop(webhook);
    cluster.stop().await.unwrap();
}

/// Files that make the API server show a certificate to webhooks: its flag.
fn client_certificate(folder: &Path, identity: &Identity) -> Result<String> {
    let write = |name: &str, text: &str| -> Result<String> {
        let path = folder.join(name);
        fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let user = json!({
        "client-certificate": write("client.crt", &identity.certificate)?,
        "client-key": write("client.key", &identity.key)?,
    });
    // The name is the webhook's Service, `railbind-webhook.railbind-system.svc`; here, at a URL, any.
    let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "users": [{"name": "*", "user": user}]});
    let plugin: Value = json!({"name": "MutatingAdmissionWebhook", "configuration": {
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "WebhookAdmissionConfiguration",
        "kubeConfigFile": write("webhooks.kubeconfig", &kubeconfig.to_string())?,
    }});
    let admission =
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": [plugin]});
    Ok(format!("--admission-control-config-file={}", write("admission.yaml", &admission.to_string())?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_api_server_with_a_certificate_by_the_client_ca_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, stranger) = (Authority::new("callers").unwrap(), Authority::new("callers").unwrap());
    let write = |name: &str, authority: &Authority| {
        let path = folder.path().join(name);
        fs::write(&path, authority.certificate()).unwrap();
        format!("--client-ca={}", path.display())
    };
    let (known, unknown) = (write("known.crt", &ca), write("unknown.crt", &stranger));
    let flag = client_certificate(folder.path(), &ca.client("kube-apiserver").unwrap()).unwrap();
    let with = cluster(vec![flag]).await.unwrap();
    let without = cluster(Vec::new()).await.unwrap();
    for (name, cluster, flags, answered) in [
        ("known", &with, vec![known.as_str()], true),
        ("named", &with, vec![&known, "--client-name=kube-apiserver"], true),
        ("misnamed", &with, vec![&known, "--client-name=another"], false),
        ("unknown", &with, vec![&unknown], false),
        ("no-certificate", &without, vec![&known], false),
        ("anyone", &without, vec![], true),
    ] {
        let mut webhook = webhook(cluster, name, &flags).await.unwrap();
        // The API server learns of another address by a watch.
        let found = until(format_args!("{name}: a pod"), LIMIT, || async {
            let patched = patched(cluster).await?;
            let refused = webhook.metric("railbind_webhook_handshakes_failed_total", "").await?;
            ensure!(patched || refused > 0.0, "neither answered nor refused");
            Ok(patched)
        })
        .await
        .unwrap();
        assert_eq!(found, answered, "{name}:\n{}", webhook.process.tail(10));
        // What is for the kubelet and Prometheus stays as it is.
        assert_eq!(webhook.get("/readyz").await.unwrap().0, 200, "{name}");
        if !answered {
            assert!(webhook.process.log().contains("a caller was not let in"), "{name}: {}", webhook.process.tail(10));
        }
        webhook.process.stop().await.unwrap();
    }
    with.stop().await.unwrap();
    without.stop().await.unwrap();
}
