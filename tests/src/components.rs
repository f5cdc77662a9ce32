//! The command line of each component.

use std::path::Path;

use crate::node::NodeSpec;

/// What the components share.
pub(crate) struct Setup<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) kubeconfig: &'a Path,
    pub(crate) etcd: u16,
    pub(crate) etcd_peers: u16,
    pub(crate) api_server: u16,
}

pub(crate) fn etcd(setup: &Setup) -> Vec<String> {
    args(
        "etcd",
        [
            flag("data-dir", setup.dir.join("etcd").display()),
            flag("port", setup.etcd),
            flag("peer-port", setup.etcd_peers),
        ],
    )
}

pub(crate) fn api_server(setup: &Setup, audit: bool, extra: &[String]) -> Vec<String> {
    let path = |name: &str| setup.dir.join(name).display().to_string();
    let mut args = args(
        "kube-apiserver",
        [
            flag("etcd-servers", format_args!("http://127.0.0.1:{}", setup.etcd)),
            flag("secure-port", setup.api_server),
            flag("bind-address", "127.0.0.1"),
            // Nobody reaches the `kubernetes` service's address, and to publish one the server would need a default route.
            flag("advertise-address", "127.0.0.1"),
            flag("endpoint-reconciler-type", "none"),
            flag("tls-cert-file", path("apiserver.crt")),
            flag("tls-private-key-file", path("apiserver.key")),
            flag("service-account-key-file", path("sa.pub")),
            flag("service-account-signing-key-file", path("sa.key")),
            flag("service-account-issuer", "https://kubernetes.default.svc"),
            flag("service-cluster-ip-range", "10.0.0.0/24"),
            flag("token-auth-file", path("tokens.csv")),
            flag("authorization-mode", "Node,RBAC"),
            flag("enable-admission-plugins", "NodeRestriction"),
            // Hollow kubelets serve nothing; a node's name would be asked of this machine's DNS before that is noticed.
            flag("kubelet-preferred-address-types", "InternalIP"),
            flag("allow-privileged", true),
            flag("profiling", false),
        ],
    );
    if audit {
        args.push(flag("audit-policy-file", path("audit-policy.yaml")));
        args.push(flag("audit-log-path", path("audit.jsonl")));
        // A test reads the log right after its request was answered.
        args.push(flag("audit-log-mode", "blocking-strict"));
    }
    args.extend_from_slice(extra);
    args
}

pub(crate) fn controller_manager(setup: &Setup) -> Vec<String> {
    args(
        "kube-controller-manager",
        [
            flag("kubeconfig", setup.kubeconfig.display()),
            flag("service-account-private-key-file", setup.dir.join("sa.key").display()),
            flag("root-ca-file", setup.dir.join("ca.crt").display()),
            flag("leader-elect", false),
            flag("secure-port", 0),
            flag("profiling", false),
        ],
    )
}

pub(crate) fn scheduler(setup: &Setup) -> Vec<String> {
    let kubeconfig = setup.kubeconfig.display();
    args(
        "kube-scheduler",
        [
            flag("kubeconfig", &kubeconfig),
            flag("leader-elect", false),
            flag("secure-port", 0),
            flag("profiling", false),
        ],
    )
}

pub(crate) fn kubelet(dir: &Path, kubeconfig: &Path, records: &Path, node: &NodeSpec) -> Vec<String> {
    let mut args = args(
        "kubelet",
        [
            flag("kubeconfig", kubeconfig.display()),
            flag("out", records.display()),
            flag("root", dir.join("nodes").join(&node.name).display()),
            flag("name", &node.name),
            flag("cpu", node.cpu),
            flag("memory", &node.memory),
            flag("kernel", &node.kernel),
        ],
    );
    args.extend(node.labels.iter().map(|(key, value)| flag("label", format_args!("{key}={value}"))));
    args.extend(node.resources.iter().map(|(name, count)| flag("resource", format_args!("{name}={count}"))));
    args
}

/// Every request with its body, once, when it is answered; not the thousands of reads of the components themselves.
pub(crate) const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  verbs: [get, list, watch]
  users: [admin]
- level: None
  resources: [{group: coordination.k8s.io}]
- level: Request
";

fn args<const N: usize>(component: &str, flags: [String; N]) -> Vec<String> {
    std::iter::once(component.to_owned()).chain(flags).collect()
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}
