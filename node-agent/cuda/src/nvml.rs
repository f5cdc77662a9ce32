//! NVML as the self-test needs it: who uses the GPUs. Through [nvml-wrapper](https://docs.rs/nvml-wrapper), which takes statuses as
//! numbers, so that one of a newer driver is an error, and looks functions up one by one.

use nvml_wrapper::{Device, Nvml as Library, error::NvmlError};

/// A function's answer, or why there is none.
pub type Answer<T> = Result<T, String>;

/// A started NVML.
pub struct Nvml(Library);

/// What one GPU says of its use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// Processes with a compute context: `nvmlDeviceGetComputeRunningProcesses_v3` (driver 510).
    pub processes: Answer<u32>,
    /// Percent of the last sample period in which a kernel ran: `nvmlDeviceGetUtilizationRates`.
    pub percent: Answer<u32>,
    /// Bytes in use without what the driver keeps: `nvmlDeviceGetMemoryInfo_v2` (driver 510).
    pub memory: Answer<u64>,
}

impl Nvml {
    /// Loads and starts it; `None` where there is no `libnvidia-ml.so.1`.
    pub fn start() -> Answer<Option<Self>> {
        match Library::init() {
            Ok(library) => Ok(Some(Self(library))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(said(&error)),
        }
    }

    /// The driver's version.
    pub fn driver(&self) -> Answer<String> {
        self.0.sys_driver_version().map_err(|error| said(&error))
    }

    /// The number of GPUs.
    pub fn count(&self) -> Answer<u32> {
        self.0.device_count().map_err(|error| said(&error))
    }

    /// Asks a GPU below [`Self::count`].
    pub fn used(&self, index: u32) -> Use {
        let device = self.0.device_by_index(index).map_err(|error| said(&error));
        Use {
            processes: ask(&device, |device| {
                device.running_compute_processes().map(|list| u32::try_from(list.len()).unwrap_or(u32::MAX))
            }),
            percent: ask(&device, |device| device.utilization_rates().map(|rates| rates.gpu)),
            memory: ask(&device, |device| device.memory_info().map(|memory| memory.used)),
        }
    }
}

fn ask<T>(device: &Answer<Device<'_>>, question: impl FnOnce(&Device<'_>) -> Result<T, NvmlError>) -> Answer<T> {
    device.as_ref().map_err(Clone::clone).and_then(|device| question(device).map_err(|error| said(&error)))
}

fn said(error: &NvmlError) -> String {
    format!("NVML: {error}")
}

/// Whether the library itself is not there: one that misses another file is broken.
fn is_absent(error: &NvmlError) -> bool {
    matches!(error, NvmlError::LibloadingError(why)
        if why.to_string().contains("libnvidia-ml.so.1: cannot open shared object file: No such file"))
}
