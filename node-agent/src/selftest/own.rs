//! What this node is, as far as a self-test goes by it: taken from a survey.

use std::{collections::BTreeMap, time::Instant};

use k8s_openapi::api::core::v1::Node;
use policies::{
    kernel::Version,
    names::{annotation, label},
    profile::Profiles,
    rails,
    select::NodeView,
    selftest::{Memory, gpus, own},
    verdict::GpuDirectPath,
};

use crate::survey::Survey;

/// What the last survey says, as far as a self-test goes by it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Own {
    pub(super) view: NodeView,
    pub(super) domain: String,
    pub(super) soft: bool,
    pub(super) gpu_direct: bool,
    /// The node has GPUs, or it is not known.
    pub(super) gpus: bool,
    /// The GPU whose memory would be moved, by CUDA's ordinal, or why there is none.
    pub(super) gpu: Result<u32, String>,
    pub(super) kernel: Option<Version>,
    pub(super) rates: BTreeMap<String, f64>,
    pub(super) ucx: Option<Version>,
    pub(super) facts: String,
    pub(super) requested: Option<String>,
    /// Why this container cannot open or lock what a test needs.
    pub(super) shut_out: Option<String>,
    /// When these facts were seen first.
    pub(super) since: Instant,
}

impl Own {
    /// What a survey says, and the Node beside it; `None` where its fabric is not known.
    pub(super) fn read(name: &str, survey: &Survey, node: &Node, profiles: &Profiles) -> Option<Self> {
        let labels = survey.verdict.labels_on(&BTreeMap::new());
        let fabric = survey.verdict.fabric.known().copied();
        let domain = own::domain(fabric, labels.get(label::FABRIC_DOMAIN).map(String::as_str))?;
        let rails = rails::find(&survey.facts, &survey.verdict.ports);
        let view = NodeView {
            name: name.into(),
            labels,
            net_devices: rails.net_devices.value,
            roce_subnets: rails.roce_subnets.value,
            ..NodeView::default()
        };
        let cuda = survey.probes.cuda.as_ref().map(|probed| &probed.facts);
        let ucx = survey.probes.ucx.as_ref().map(|probed| &probed.facts);
        let gpu = gpus::nearest(&rails.gpus, cuda, ucx);
        let (mut ports, mut rates) = (Vec::new(), BTreeMap::new());
        for port in survey.verdict.compute_ports() {
            let name = format!("{}:{}", port.device, port.port);
            ports.push(format!("{name} {:?}", port.gid.and_then(|gid| gid.index)));
            rates.extend(port.rate_gbps.map(|rate| (name, rate)));
        }
        // CUDA is asked after the first survey: what host memory proved until then is not all.
        ports.extend(gpu.as_ref().ok().map(|gpu| Memory::Cuda(*gpu).to_string()));
        let promises: Vec<String> = own::candidates(profiles, &view).iter().map(own::promise).collect();
        let facts = own::fingerprint(&view, &ports, &promises);
        let annotations = node.metadata.annotations.as_ref();
        Some(Self {
            view,
            domain,
            soft: survey.verdict.soft,
            gpu_direct: matches!(
                survey.verdict.gpu_direct.known(),
                Some(Some(GpuDirectPath::DmaBuf | GpuDirectPath::Peermem))
            ),
            gpus: survey.facts.gpus.known().is_none_or(|gpus| !gpus.is_empty()),
            gpu,
            kernel: survey.facts.kernel.known().and_then(|release| release.parse().ok()),
            rates,
            ucx: ucx.and_then(|ucx| ucx.library.known()?.as_ref()?.version.parse().ok()),
            facts,
            requested: annotations.and_then(|all| all.get(annotation::SELFTEST_REQUESTED)).cloned(),
            shut_out: None,
            since: Instant::now(),
        })
    }
}
