//! Whether anybody computes on a node's GPUs, from what NVML says of each; and whether a self-test's buffer lies on one, and on which.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    fabric::{DistanceLevel, Fact, Problem},
    probe::{CudaFacts, UcxFacts},
    profile::TransportProfile,
    rails::GpuRails,
};

/// Utilisation in percent from which a GPU is busy: monitoring alone shows one or two.
const BUSY_PERCENT: u32 = 10;
/// Memory in bytes that an idle GPU may have in use, and again for each of our own processes: a context and its buffer. Whose
/// processes cannot be seen (another PID namespace) still holds more than this.
const IDLE_BYTES: u64 = 1 << 30;

/// What NVML says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NvmlFacts {
    /// The driver's version; known-empty where there is no `libnvidia-ml`.
    pub driver: Fact<Option<String>>,
    /// The GPUs in NVML's order, which `nvidia-smi` shows.
    pub gpus: Fact<Vec<NvmlGpu>>,
}

/// One GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NvmlGpu {
    /// Processes that have a compute context on it.
    pub compute_processes: Fact<u32>,
    /// Percent of the last sample period in which a kernel ran. MIG has none.
    pub utilisation_percent: Fact<u32>,
    /// Bytes of its memory that are in use, without what the driver keeps.
    pub memory_used: Fact<u64>,
}

/// Whether somebody computes on a node's GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuUse {
    /// The node has none.
    NoGpu,
    /// Nobody does.
    Idle,
    /// Somebody does: "GPU 0: 2 compute processes, 87 %".
    Busy(String),
    /// It is not known, and why: a self-test then keeps to host memory.
    Unknown(String),
}

impl GpuUse {
    /// Who computes, where somebody does.
    pub fn busy(&self) -> Option<&str> {
        match self {
            Self::Busy(who) => Some(who),
            Self::NoGpu | Self::Idle | Self::Unknown(_) => None,
        }
    }
}

/// The GPU that is nearest to a NIC, by CUDA's ordinal: of several, and where distances mean nothing, the first.
///
/// # Errors
/// Why memory of none can be moved.
pub fn nearest(rails: &[GpuRails], cuda: Option<&CudaFacts>, ucx: Option<&UcxFacts>) -> Result<u32, String> {
    let cuda = cuda.ok_or("CUDA has not been asked here")?;
    let gpus = match (&cuda.driver, &cuda.gpus) {
        (Fact::Known(None), _) => return Err("there is no CUDA driver here".into()),
        (_, Fact::Unknown(why)) => return Err(format!("CUDA does not answer: {why}")),
        (_, Fact::Known(gpus)) => gpus,
    };
    match &ucx.ok_or("UCX has not been asked here")?.memory_types {
        Fact::Known(types) if types.iter().any(|name| name == "cuda") => {}
        Fact::Known(_) => return Err("this UCX does not move memory of a GPU: it lacks its CUDA modules".into()),
        Fact::Unknown(why) => return Err(format!("which memory UCX moves is not known: {why}")),
    }
    let level = |pci: &Fact<String>| -> DistanceLevel {
        let found = pci.known().and_then(|pci| rails.iter().find(|near| near.gpu == *pci));
        found.and_then(|near| near.level).unwrap_or(DistanceLevel::Sys)
    };
    let ordinals = (0_u32..).zip(gpus);
    let nearest = ordinals.min_by_key(|(_, gpu)| level(&gpu.pci)).map(|(ordinal, _)| ordinal);
    nearest.ok_or_else(|| "CUDA shows no GPU".into())
}

/// The GPU whose memory a transfer under a profile is to move.
///
/// Only where the profile promises GPUDirect. Without it GPU memory goes by way of the host's: the figure would be that of the copies,
/// and a good link would be called slow.
///
/// # Errors
/// Why it is host memory instead.
pub fn buffer(
    gpu_use: &GpuUse,
    nearest: &Result<u32, String>,
    gpu_direct: bool,
    profile: &TransportProfile,
    env: &BTreeMap<String, String>,
) -> Result<u32, String> {
    let name = &profile.metadata.name;
    if *gpu_use == GpuUse::NoGpu {
        return Err("the node has no GPU".into());
    }
    if profile.spec.when.gpu_direct != Some(true) || !gpu_direct {
        return Err(format!("without GPUDirect ({name}) memory of a GPU goes by way of the host's"));
    }
    let taken = |list: &String| {
        list.starts_with('^') || list.split(',').any(|name| matches!(name.trim(), "all" | "cuda" | "cuda_copy"))
    };
    if !env.get("UCX_TLS").is_none_or(taken) {
        return Err(format!("UCX_TLS of {name} leaves out cuda_copy, without which UCX does not know memory of a GPU"));
    }
    match gpu_use {
        GpuUse::Busy(who) => Err(format!("GPUs compute here: {who}")),
        GpuUse::Unknown(why) => Err(format!("whether the GPUs are idle is not known: {why}")),
        GpuUse::NoGpu | GpuUse::Idle => nearest.clone(),
    }
}

impl NvmlFacts {
    /// Whether somebody computes. `own`: our own processes that have a context on a GPU now, which count for nobody; while there are
    /// some, utilisation says nothing, since it is of the whole GPU.
    pub fn in_use(&self, own: u32) -> GpuUse {
        let gpus = match (&self.driver, &self.gpus) {
            (Fact::Known(None), _) => return GpuUse::Unknown("there is no libnvidia-ml.so.1 to ask".into()),
            (_, Fact::Unknown(why)) => return GpuUse::Unknown(why.clone()),
            (_, Fact::Known(gpus)) => gpus,
        };
        let busy: Vec<String> = gpus
            .iter()
            .enumerate()
            .filter(|(_, gpu)| gpu.is_busy(own))
            .map(|(index, gpu)| format!("GPU {index}: {}", gpu.words()))
            .collect();
        if !busy.is_empty() {
            return GpuUse::Busy(busy.join("; "));
        }
        let unknown = gpus.iter().enumerate().find_map(|(index, gpu)| match &gpu.compute_processes {
            Fact::Unknown(why) => Some(format!("GPU {index}: {why}")),
            Fact::Known(_) => None,
        });
        match (unknown, gpus.is_empty()) {
            (Some(why), _) => GpuUse::Unknown(why),
            (None, true) => GpuUse::NoGpu,
            (None, false) => GpuUse::Idle,
        }
    }

    /// What is wrong with NVML, where a node has it.
    pub fn problems(&self) -> Vec<Problem> {
        match (&self.driver, &self.gpus) {
            (Fact::Known(Some(_)), Fact::Unknown(why)) => vec![Problem::new(
                crate::probe::problem::NVML_UNUSABLE,
                "NVML",
                format!("whether the GPUs are busy cannot be asked: {why}"),
                "run nvidia-smi on the node; until it works, self-tests keep to host memory",
            )],
            _ => Vec::new(),
        }
    }
}

impl NvmlGpu {
    fn is_busy(&self, own: u32) -> bool {
        let above = |fact: &Fact<u32>, most: u32| fact.known().is_some_and(|value| *value > most);
        let allowed = IDLE_BYTES.saturating_mul(u64::from(own) + 1);
        above(&self.compute_processes, own)
            || own == 0 && above(&self.utilisation_percent, BUSY_PERCENT - 1)
            || self.memory_used.known().is_some_and(|used| *used > allowed)
    }

    /// `2 compute processes, 87 %, 71680 MiB`.
    fn words(&self) -> String {
        let mut words = Vec::new();
        if let Fact::Known(count) = self.compute_processes {
            words.push(format!("{count} compute process{}", if count == 1 { "" } else { "es" }));
        }
        words.extend(self.utilisation_percent.known().map(|percent| format!("{percent} %")));
        words.extend(self.memory_used.known().map(|bytes| format!("{} MiB", bytes >> 20)));
        words.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(processes: u32, percent: u32, mebibytes: u64) -> NvmlGpu {
        NvmlGpu {
            compute_processes: Fact::Known(processes),
            utilisation_percent: Fact::Known(percent),
            memory_used: Fact::Known(mebibytes << 20),
        }
    }

    fn facts(gpus: Vec<NvmlGpu>) -> NvmlFacts {
        NvmlFacts { driver: Fact::Known(Some("580.65".into())), gpus: Fact::Known(gpus) }
    }

    #[test]
    fn a_process_a_kernel_or_much_memory_is_somebody() {
        let who = |gpus| facts(gpus).in_use(0).busy().map(str::to_owned);
        assert_eq!(who(vec![gpu(0, 0, 3), gpu(0, 9, 1024)]), None);
        assert_eq!(
            who(vec![gpu(0, 0, 3), gpu(2, 87, 71680)]).as_deref(),
            Some("GPU 1: 2 compute processes, 87 %, 71680 MiB")
        );
        assert_eq!(who(vec![gpu(1, 0, 3)]).as_deref(), Some("GPU 0: 1 compute process, 0 %, 3 MiB"));
        // Processes of another PID namespace are not listed.
        assert!(who(vec![gpu(0, 10, 3)]).is_some() && who(vec![gpu(0, 0, 1025)]).is_some());
    }

    fn cuda(addresses: &[&str]) -> CudaFacts {
        let gpus = addresses
            .iter()
            .map(|pci| crate::probe::CudaGpu { pci: Fact::Known((*pci).into()), ..crate::probe::CudaGpu::default() });
        CudaFacts { driver: Fact::Known(Some(crate::probe::CudaDriver::default())), gpus: Fact::Known(gpus.collect()) }
    }

    fn ucx(types: &[&str]) -> UcxFacts {
        UcxFacts { memory_types: Fact::Known(types.iter().map(|&name| name.into()).collect()), ..UcxFacts::default() }
    }

    #[test]
    fn the_gpu_nearest_to_a_nic_is_taken_by_cudas_ordinal() {
        let rail = |gpu: &str, level| GpuRails { gpu: gpu.into(), level: Some(level), ports: vec!["mlx5_0:1".into()] };
        let rails = [rail("0000:1b:00.0", DistanceLevel::Sys), rail("0000:9c:00.0", DistanceLevel::Pix)];
        let (both, moves) = (cuda(&["0000:1b:00.0", "0000:9c:00.0"]), ucx(&["host", "cuda"]));
        assert_eq!(nearest(&rails, Some(&both), Some(&moves)), Ok(1));
        assert_eq!(nearest(&rails, Some(&cuda(&["0000:9c:00.0", "0000:1b:00.0"])), Some(&moves)), Ok(0));
        assert_eq!(nearest(&[], Some(&both), Some(&moves)), Ok(0));
        let why = |cuda: Option<&CudaFacts>, ucx: Option<&UcxFacts>| nearest(&rails, cuda, ucx).unwrap_err();
        let none = CudaFacts { driver: Fact::Known(None), ..CudaFacts::default() };
        assert_eq!(why(None, Some(&moves)), "CUDA has not been asked here");
        assert_eq!(why(Some(&none), Some(&moves)), "there is no CUDA driver here");
        assert_eq!(why(Some(&cuda(&[])), Some(&moves)), "CUDA shows no GPU");
        assert!(why(Some(&CudaFacts::default()), Some(&moves)).starts_with("CUDA does not answer"));
        assert!(why(Some(&both), Some(&ucx(&["host"]))).contains("lacks its CUDA modules"));
        assert!(why(Some(&both), Some(&UcxFacts::default())).contains("not known"));
        assert_eq!(why(Some(&both), None), "UCX has not been asked here");
    }

    #[test]
    fn a_buffer_is_on_a_gpu_where_gpudirect_is_promised_and_nobody_computes() {
        let profiles = crate::profile::Profiles::embedded().unwrap();
        let named = |name: &str| profiles.iter().find(|profile| profile.metadata.name == name).unwrap().clone();
        let (direct, staged) = (named("roce-gpudirect"), named("rdma-host-staged"));
        let env = |list: &str| BTreeMap::from([("UCX_TLS".to_owned(), list.to_owned())]);
        let (empty, gpu) = (BTreeMap::new(), Ok(3));
        assert_eq!(buffer(&GpuUse::Idle, &gpu, true, &direct, &empty), Ok(3));
        for list in ["rc,cuda_copy", "all", "^sm", "rc, cuda"] {
            assert_eq!(buffer(&GpuUse::Idle, &gpu, true, &direct, &env(list)), Ok(3), "{list}");
        }
        let why = |used: GpuUse, gpu_direct, profile, env| buffer(&used, &gpu, gpu_direct, profile, env).unwrap_err();
        let short = env("rc,sm");
        assert!(why(GpuUse::Idle, true, &direct, &short).contains("leaves out cuda_copy"));
        assert_eq!(why(GpuUse::NoGpu, true, &direct, &empty), "the node has no GPU");
        assert!(why(GpuUse::Idle, false, &direct, &empty).starts_with("without GPUDirect (roce-gpudirect)"));
        assert!(why(GpuUse::Idle, true, &staged, &empty).starts_with("without GPUDirect (rdma-host-staged)"));
        assert_eq!(why(GpuUse::Busy("GPU 0: 87 %".into()), true, &direct, &empty), "GPUs compute here: GPU 0: 87 %");
        assert!(why(GpuUse::Unknown("no NVML".into()), true, &direct, &empty).ends_with("not known: no NVML"));
        let none = Err("CUDA shows no GPU".to_owned());
        assert_eq!(buffer(&GpuUse::Idle, &none, true, &direct, &empty), none);
    }

    #[test]
    fn our_own_process_is_nobody() {
        assert_eq!(facts(vec![gpu(1, 100, 900)]).in_use(1), GpuUse::Idle);
        assert_eq!(facts(vec![gpu(2, 100, 1900)]).in_use(2), GpuUse::Idle);
        assert!(facts(vec![gpu(2, 0, 900)]).in_use(1).busy().is_some());
        assert!(facts(vec![gpu(1, 0, 40_000)]).in_use(1).busy().is_some());
    }

    #[test]
    fn what_is_not_known_is_not_idle_and_what_is_known_counts() {
        let mut blind = gpu(0, 0, 3);
        blind.compute_processes = Fact::Unknown("nvml: no permission".into());
        assert_eq!(
            facts(vec![gpu(0, 0, 0), blind.clone()]).in_use(0),
            GpuUse::Unknown("GPU 1: nvml: no permission".into())
        );
        assert!(facts(vec![gpu(3, 0, 0), blind]).in_use(0).busy().is_some());
        // MIG has no utilisation.
        let mig = NvmlGpu { utilisation_percent: Fact::Unknown("not supported".into()), ..gpu(0, 0, 3) };
        assert_eq!(facts(vec![mig]).in_use(0), GpuUse::Idle);
        assert_eq!(facts(vec![]).in_use(0), GpuUse::NoGpu);
    }

    #[test]
    fn no_library_is_unknown_and_a_broken_one_a_problem_too() {
        let none = NvmlFacts { driver: Fact::Known(None), ..NvmlFacts::default() };
        assert!(matches!(none.in_use(0), GpuUse::Unknown(why) if why.contains("libnvidia-ml.so.1")));
        assert_eq!(none.problems(), []);
        let broken = NvmlFacts { gpus: Fact::Unknown("driver not loaded".into()), ..facts(vec![]) };
        assert_eq!(broken.in_use(0), GpuUse::Unknown("driver not loaded".into()));
        assert_eq!(broken.problems()[0].code, crate::probe::problem::NVML_UNUSABLE);
        // A child that died before it could say anything.
        assert!(matches!(NvmlFacts::default().in_use(0), GpuUse::Unknown(_)));
    }
}
