//! Whether anybody computes on a node's GPUs, from what NVML says of each.

use serde::{Deserialize, Serialize};

use crate::fabric::{Fact, Problem};

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
