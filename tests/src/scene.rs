//! The cast of the demo and of the end-to-end tests: one node for each kind of machine, each with an agent that reads its tree.

use std::path::PathBuf;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Node;
use kube::Api;

use crate::{
    Cluster, LIMIT, NodeSpec,
    railbind::{Daemon, repository},
    until,
};

/// A node of the scene.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Node name.
    pub node: &'static str,
    /// Folder under `tests/fixtures`; `None`: this very machine.
    pub fixture: Option<&'static str>,
    /// What it is, for people.
    pub what: &'static str,
    /// Extended resources, as device plugins would report them.
    pub resources: &'static [(&'static str, &'static str)],
    /// Kernel that its Node reports.
    pub kernel: &'static str,
}

/// The machines.
pub const MACHINES: &[Machine] = &[
    Machine {
        node: "ib-1",
        fixture: Some("ib-ndr-gdr"),
        what: "InfiniBand NDR with GPUDirect",
        resources: &[("nvidia.com/gpu", "8"), ("rdma/ib", "8")],
        kernel: "6.5.0-45-generic",
    },
    Machine {
        node: "roce-1",
        fixture: Some("roce-gid3"),
        what: "RoCE v2, GID index 3",
        resources: &[("nvidia.com/gpu", "8"), ("rdma/roce_gdr", "8")],
        kernel: "6.8.0-45-generic",
    },
    Machine {
        node: "roce-2",
        fixture: Some("roce-gid5"),
        what: "RoCE v2, another GID index",
        resources: &[("nvidia.com/gpu", "8"), ("rdma/roce_gdr", "8")],
        kernel: "6.8.0-45-generic",
    },
    Machine {
        node: "efa-1",
        fixture: Some("efa-k68"),
        what: "AWS EFA, kernel 6.8",
        resources: &[("nvidia.com/gpu", "8"), ("vpc.amazonaws.com/efa", "4")],
        kernel: "6.8.0-1024-aws",
    },
    Machine {
        node: "tcp-1",
        fixture: Some("tcp-only"),
        what: "no RDMA",
        resources: &[("nvidia.com/gpu", "2")],
        kernel: "5.15.0-113-generic",
    },
    Machine {
        node: "this-machine",
        fixture: None,
        what: "this machine's own /sys",
        resources: &[],
        kernel: "as it is",
    },
];

impl Machine {
    /// The tree that its agent reads.
    pub fn root(&self) -> PathBuf {
        self.fixture.map_or_else(|| "/".into(), |name| repository().join("tests/fixtures").join(name))
    }

    /// Its node.
    pub fn spec(&self) -> NodeSpec {
        let plain = NodeSpec::new(self.node).kernel(self.kernel);
        self.resources.iter().fold(plain, |spec, (name, count)| spec.resource(*name, *count))
    }
}

impl Cluster {
    /// Starts a machine's kubelet and agent, and waits until the agent has labelled the node.
    pub async fn add_machine(&self, machine: &Machine) -> Result<Daemon> {
        self.add_node(machine.spec()).await?;
        let mut agent = self.spawn_agent(machine.node, &machine.root(), "2").await?;
        agent.ready().await?;
        self.label(machine.node, "railbind.dev/fabric").await?;
        Ok(agent)
    }

    /// A node's label, once it is there.
    pub async fn label(&self, node: &str, key: &str) -> Result<String> {
        let nodes: Api<Node> = Api::all(self.client().await?);
        until(format_args!("label {key} on {node}"), LIMIT, || async {
            nodes.get(node).await?.metadata.labels.and_then(|mut labels| labels.remove(key)).context("not there")
        })
        .await
    }
}
