//! What UCX and CUDA say of a node when they are really loaded and asked: the facts, and what is wrong with them.
//!
//! The kernel's files say what could work; these say what does. They are read by a child process that may die at any step, so that
//! what it had found until then is kept and the rest stays *unknown*. An absent library is a known fact and no problem.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::fabric::{Fact, Problem};

/// Codes of the problems of this module.
pub mod problem {
    /// A library crashed, hung or answered nonsense in the probe's process.
    pub const PROBE_DIED: &str = "ProbeDied";
    /// UCX is there and cannot be loaded.
    pub const UCX_UNLOADABLE: &str = "UcxUnloadable";
    /// Files of two UCX installations are loaded together.
    pub const UCX_MIXED: &str = "UcxMixed";
    /// UCX finds nothing that it could use under the settings in force.
    pub const UCX_UNUSABLE: &str = "UcxUnusable";
    /// `UCX_TLS` asks for RDMA, and UCX would go by something slower, without an error.
    pub const UCX_FALLS_BACK: &str = "UcxFallsBack";
    /// A `UCX_` variable is set that this UCX does not know.
    pub const UCX_UNKNOWN_VARIABLE: &str = "UcxUnknownVariable";
    /// A NIC or another memory domain does not open in UCX.
    pub const UCX_DEVICE_BROKEN: &str = "UcxDeviceBroken";
    /// The NVIDIA driver is there and does not work.
    pub const CUDA_UNUSABLE: &str = "CudaUnusable";
    /// NVML is there and does not work.
    pub const NVML_UNUSABLE: &str = "NvmlUnusable";
    /// A GPU claims DMA-BUF and does not export its memory.
    pub const DMA_BUF_BROKEN: &str = "DmaBufBroken";
    /// A NIC refuses GPU memory.
    pub const GPU_MEMORY_REFUSED: &str = "GpuMemoryRefused";
}

/// What a UCX says of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UcxFacts {
    /// The UCX that was loaded; known-empty where there is none in the folders that were searched.
    pub library: Fact<Option<UcxLibrary>>,
    /// The folders that were searched, in order.
    pub searched: Vec<String>,
    /// Functions that we can use and this UCX lacks.
    pub missing: Vec<String>,
    /// Memory that it can transfer under the settings in force (`host`, `cuda`…).
    pub memory_types: Fact<Vec<String>>,
    /// What it would use under the settings in force: `transport/device` pairs.
    pub in_use: Fact<Vec<String>>,
    /// What it could use, whatever the settings.
    pub domains: Fact<Vec<UcxDomain>>,
    /// Settings whose value in force is not UCX's own default.
    pub settings: Fact<Vec<UcxSetting>>,
    /// `UCX_` variables in the environment that it does not know.
    pub unknown_variables: Fact<Vec<UcxUnknownVariable>>,
    /// Its warnings and errors.
    pub messages: Vec<String>,
}

/// A loaded UCX.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UcxLibrary {
    /// Version, such as `1.22.0`.
    pub version: String,
    /// Where `libucp` is.
    pub folder: String,
    /// Every UCX file that was loaded.
    pub files: Vec<String>,
}

/// A memory domain: one NIC, or one way to reach memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UcxDomain {
    /// The family it is of (`ib`, `tcp`, `cuda_cpy`…).
    pub component: String,
    /// Its name (`mlx5_0`…); empty where the component as a whole failed.
    pub name: String,
    /// Memory that it can register. `cuda` here, on a NIC, is GPUDirect RDMA.
    pub registers: Vec<String>,
    /// Memory that it reaches without registration.
    pub accesses: Vec<String>,
    /// Memory that it can allocate.
    pub allocates: Vec<String>,
    /// Memory that it recognises by its address.
    pub detects: Vec<String>,
    /// Its transports.
    pub transports: Vec<UcxTransport>,
    /// Why it could not be asked, where so.
    pub error: Option<String>,
}

/// A transport on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UcxTransport {
    /// UCX's name (`rc_mlx5`, `tcp`…).
    pub name: String,
    /// Device (`mlx5_0:1`, `eth0`…).
    pub device: String,
    /// `network`, `shared-memory`, `accelerator`, `self`, or what this version does not know.
    pub kind: String,
}

/// A setting that somebody changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UcxSetting {
    /// Name (`UCX_TLS`…).
    pub name: String,
    /// Value in force.
    pub value: String,
    /// UCX's default.
    pub default: String,
}

/// A variable that UCX does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UcxUnknownVariable {
    /// Name.
    pub name: String,
    /// What UCX thinks was meant.
    pub meant: Option<String>,
}

/// What the NVIDIA driver says of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CudaFacts {
    /// The driver's library; known-empty where there is none.
    pub driver: Fact<Option<CudaDriver>>,
    /// Its GPUs, in its own order.
    pub gpus: Fact<Vec<CudaGpu>>,
}

/// The driver's library, `libcuda`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CudaDriver {
    /// The newest CUDA that it can run, such as `13.0`.
    pub cuda: Fact<String>,
    /// The file it was loaded from.
    pub path: Option<String>,
    /// Functions that we can use and this driver lacks.
    pub missing: Vec<String>,
}

/// A GPU as the driver knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CudaGpu {
    /// PCI address, which the kernel's facts name it by.
    pub pci: Fact<String>,
    /// Product.
    pub name: Fact<String>,
    /// `GPU_DIRECT_RDMA_SUPPORTED`.
    pub gpu_direct_rdma: Fact<bool>,
    /// `DMA_BUF_SUPPORTED`.
    pub dma_buf: Fact<bool>,
    /// `GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED`.
    pub gpu_direct_rdma_vmm: Fact<bool>,
    /// `HANDLE_TYPE_FABRIC_SUPPORTED`.
    pub fabric_handle: Fact<bool>,
    /// Whether memory of it was really exported as a DMA-BUF.
    pub exported: Fact<bool>,
    /// Which NICs really registered that export. Known-empty: the node has no RDMA device.
    pub registered: Fact<Vec<Registration>>,
}

/// A NIC's answer to GPU memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// RDMA device.
    pub device: String,
    /// Why it refused; `None` where it took it.
    pub error: Option<String>,
}

impl UcxFacts {
    /// Whether a domain with a network transport registers this memory: for `cuda`, UCX's own word on GPUDirect RDMA.
    pub fn network_registers(&self, memory: &str) -> Fact<bool> {
        let registers = |domain: &UcxDomain| {
            let network = domain.transports.iter().any(|transport| transport.kind == "network");
            network && domain.registers.iter().any(|name| name == memory)
        };
        match &self.domains {
            Fact::Known(domains) => Fact::Known(domains.iter().any(registers)),
            Fact::Unknown(why) => Fact::Unknown(why.clone()),
        }
    }

    /// The RDMA transports that `UCX_TLS` asks for where none is in use.
    fn falls_back(&self) -> Option<String> {
        let (settings, in_use) = (self.settings.known()?, self.in_use.known()?);
        let asked = &settings.iter().find(|setting| setting.name == "UCX_TLS")?.value;
        if asked.starts_with('^') || in_use.iter().any(|pair| is_rdma(pair)) {
            return None;
        }
        let rdma: Vec<&str> = asked.split(',').map(str::trim).filter(|name| is_rdma(name)).collect();
        (!rdma.is_empty()).then(|| rdma.join(", "))
    }

    /// What is wrong, and what to do about it.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let subject = match &self.library {
            Fact::Known(Some(library)) => format!("UCX {}", library.version),
            Fact::Known(None) | Fact::Unknown(_) => "UCX".into(),
        };
        if let Fact::Known(Some(library)) = &self.library {
            let folders: BTreeSet<&str> = library.files.iter().map(|file| installation(file)).collect();
            if folders.len() > 1 {
                let folders: Vec<&str> = folders.into_iter().collect();
                problems.push(Problem::new(
                    problem::UCX_MIXED,
                    &subject,
                    format!("files of several installations are loaded together: {}", folders.join(", ")),
                    "keep one UCX, or put the folder of the wanted one first in LD_LIBRARY_PATH",
                ));
            }
        }
        if let Fact::Unknown(why) = &self.library
            && self.library != Fact::default()
        {
            problems.push(Problem::new(
                problem::UCX_UNLOADABLE,
                &subject,
                format!("it is there and does not load: {why}"),
                "install what the loader misses, or give another UCX",
            ));
        }
        if let Fact::Unknown(why) = &self.in_use
            && self.in_use != Fact::default()
        {
            problems.push(Problem::new(
                problem::UCX_UNUSABLE,
                &subject,
                format!(
                    "no context: {why}{}",
                    self.messages.first().map(|first| format!("; {first}")).unwrap_or_default()
                ),
                "compare UCX_TLS and UCX_NET_DEVICES with the transports and devices that this probe lists",
            ));
        }
        if let Some(asked) = self.falls_back() {
            problems.push(Problem::new(
                problem::UCX_FALLS_BACK,
                &subject,
                format!("UCX_TLS asks for {asked}, and no RDMA transport is in use: UCX falls back without an error"),
                "see that the node's RDMA devices are visible here and that this UCX has the modules for them (ib, efa)",
            ));
        }
        for variable in self.unknown_variables.known().into_iter().flatten() {
            let meant = variable.meant.as_ref().map(|meant| format!(" (did you mean {meant}?)")).unwrap_or_default();
            problems.push(Problem::new(
                problem::UCX_UNKNOWN_VARIABLE,
                &variable.name,
                format!("{subject} does not know this variable{meant}: it has no effect"),
                "correct its name, drop it, or use a UCX that has the setting or the module it belongs to",
            ));
        }
        for domain in self.domains.known().into_iter().flatten() {
            if let Some(error) = &domain.error {
                problems.push(Problem::new(
                    problem::UCX_DEVICE_BROKEN,
                    format!("{} {}", domain.component, domain.name).trim_end(),
                    format!("{subject} cannot open it: {error}"),
                    "see whether the device's files below /dev/infiniband are there and open to this user, and its port is up",
                ));
            }
        }
        problems
    }
}

/// Whether UCX's name of a transport, or of a group of them, is one of RDMA.
fn is_rdma(name: &str) -> bool {
    ["rc", "ud", "dc", "srd", "ib"].iter().any(|family| {
        let rest = name.strip_prefix(family);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', ':', '/']))
    })
}

/// The folder of an installation that a file belongs to: modules lie in `ucx/` below the libraries.
fn installation(file: &str) -> &str {
    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    folder.strip_suffix("/ucx").unwrap_or(folder)
}

impl CudaFacts {
    /// What is wrong, and what to do about it.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let (Fact::Known(Some(driver)), Fact::Unknown(why)) = (&self.driver, &self.gpus)
            && self.gpus != Fact::default()
        {
            problems.push(Problem::new(
                problem::CUDA_UNUSABLE,
                driver.path.as_deref().unwrap_or("libcuda"),
                format!("the NVIDIA driver's library is there and does not work: {why}"),
                "run nvidia-smi on the node; in a container, check that the NVIDIA runtime put the host's driver into it, not a stub",
            ));
        }
        for gpu in self.gpus.known().into_iter().flatten() {
            let subject = format!("GPU {}", gpu.pci.known().map_or("unknown", String::as_str));
            if let (true, Fact::Known(false)) = (gpu.dma_buf.is_yes(), &gpu.exported) {
                problems.push(Problem::new(
                    problem::DMA_BUF_BROKEN,
                    &subject,
                    "the driver says that it supports DMA-BUF, and an export of its memory is refused",
                    "use NVIDIA's open kernel modules on a kernel with CONFIG_DMA_SHARED_BUFFER, or load nvidia_peermem",
                ));
            }
            for registration in gpu.registered.known().into_iter().flatten() {
                if let Some(error) = &registration.error {
                    problems.push(Problem::new(
                        problem::GPU_MEMORY_REFUSED,
                        format!("{subject} on {}", registration.device),
                        format!("the NIC does not register the GPU's memory: {error}"),
                        "use a kernel and a NIC driver with DMA-BUF support (Linux 5.12 or later), or load nvidia_peermem",
                    ));
                }
            }
        }
        problems
    }
}

#[cfg(test)]
mod tests;
