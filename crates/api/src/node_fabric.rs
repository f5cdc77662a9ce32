//! `NodeFabric`: what an agent found on its node.

use kube::CustomResource;
use policies::node_fabric::NodeFabricStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What railbind-agent found on the node of the same name. Observed, owned by its Node; nobody writes a spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, CustomResource, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "railbind.dev",
    version = "v1alpha1",
    kind = "NodeFabric",
    plural = "nodefabrics",
    shortname = "nf",
    status = "NodeFabricStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name": "Fabric", "type": "string", "jsonPath": ".status.fabric"}"#,
    printcolumn = r#"{"name": "GPUDirect", "type": "string", "jsonPath": ".status.gpuDirect"}"#,
    printcolumn = r#"{"name": "Ports", "type": "integer", "jsonPath": ".status.rdmaPorts"}"#,
    printcolumn = r#"{"name": "Rate", "type": "number", "jsonPath": ".status.rateGbps"}"#,
    printcolumn = r#"{"name": "GID", "type": "integer", "jsonPath": ".status.gidIndex"}"#,
    printcolumn = r#"{"name": "Profile", "type": "string", "jsonPath": ".status.profile"}"#,
    printcolumn = r#"{"name": "Selftest", "type": "string", "jsonPath": ".status.selftest.verdict"}"#,
    printcolumn = r#"{"name": "Bandwidth", "type": "string", "jsonPath": ".status.selftest.bandwidth"}"#,
    printcolumn = r#"{"name": "Domain", "type": "string", "jsonPath": ".metadata.labels.railbind\\.dev/fabric-domain", "priority": 1}"#,
    printcolumn = r#"{"name": "Endpoint", "type": "string", "jsonPath": ".status.selftestEndpoint.address", "priority": 1}"#,
    printcolumn = r#"{"name": "Certificate", "type": "string", "jsonPath": ".status.selftestEndpoint.certificate", "priority": 1}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
pub struct NodeFabricSpec {}
