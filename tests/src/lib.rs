//! A real Kubernetes control plane for tests, without a container engine: etcd, API server, controller manager,
//! scheduler and as many hollow nodes as a test wants, all on loopback, none of which outlives the test process.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use harness::{Cluster, NodeSpec, Options, with_namespace};
//!
//! let cluster = Cluster::start(Options::default()).await?;
//! cluster.add_node(NodeSpec::new("n1").resource("rdma/ib", "8")).await?;
//! with_namespace(&cluster, &[("team", "serving")], async |namespace| {
//!     cluster.apply(&format!("{{apiVersion: v1, kind: Pod, …, namespace: {namespace}}}")).await?;
//!     let record = cluster.recorded(namespace, "pod", "main").await?;
//!     assert_eq!(record["env"]["UCX_TLS"], "rc,cuda");
//!     Ok(())
//! })
//! .await;
//! # Ok(())
//! # }
//! ```
//!
//! A hollow node runs the kubelet's own code over a runtime that starts nothing: a container's environment, mounts and
//! security context are *recorded* as the kubelet resolved them. What a process does with them is out of its reach.

mod balancer;
mod binary;
pub mod claims;
mod cluster;
mod components;
mod dir;
pub mod front;
pub mod guest;
mod kubectl;
mod namespace;
mod node;
pub mod outage;
pub mod page;
mod pki;
mod ports;
mod process;
pub mod railbind;
pub mod scene;
pub mod tree;
mod wait;

pub use balancer::Balancer;
pub use binary::{kube_binary, tool};
pub use cluster::{Cluster, Options};
pub use namespace::with_namespace;
pub use node::NodeSpec;
pub use pki::{Authority, Identity};
pub use ports::free_port;
pub use process::Process;
pub use wait::{LIMIT, until};
