//! Asking the NVIDIA driver, step by step.

use std::io;

use cuda::{Attribute, Device, Driver, Error, Nics, Opened};
use policies::{
    fabric::Fact,
    probe::{CudaDriver, CudaFacts, CudaGpu, Registration},
};

use super::inside::Report;

/// `CUDA_ERROR_NO_DEVICE`: the driver works and the node has no GPU, or shows none to this process.
const NO_DEVICE: i32 = 100;
/// `CUDA_ERROR_NOT_SUPPORTED`: what a driver answers that cannot export memory.
const NOT_SUPPORTED: i32 = 801;

/// Asks everything, in the child. The report is sent before each step that enters the driver.
pub(super) fn ask(report: &mut Report) -> io::Result<()> {
    let mut facts = CudaFacts::default();
    report.before("loading libcuda", &facts)?;
    let Some(driver) = Driver::load() else {
        facts.driver = Fact::Known(None);
        return report.done(&facts);
    };
    let path = cuda::loaded_from().map(|path| path.display().to_string());
    let missing = driver.missing().into_iter().map(Into::into).collect();
    let version = fact(driver.version().map(|version| version.to_string()));
    facts.driver = Fact::Known(Some(CudaDriver { cuda: version, path, missing }));

    report.before("starting the driver (cuInit)", &facts)?;
    match driver.init().and_then(|()| driver.count()) {
        Ok(count) => {
            report.before("asking for the GPUs' attributes", &facts)?;
            let devices: Vec<_> = (0..count).map(|index| driver.device(index)).collect();
            facts.gpus = Fact::Known(devices.iter().map(describe).collect());
            move_memory(&devices, &mut facts, report)?;
        }
        Err(error) if error.code() == Some(NO_DEVICE) => facts.gpus = Fact::Known(Vec::new()),
        Err(error) => facts.gpus = Fact::Unknown(error.to_string()),
    }
    report.done(&facts)
}

/// Exports memory of each GPU, and has each NIC register it.
fn move_memory(devices: &[Result<Device<'_>, Error>], facts: &mut CudaFacts, report: &mut Report) -> io::Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    report.before("opening the NICs (libibverbs)", facts)?;
    let nics = Nics::load();
    let opened =
        nics.as_ref().map_err(ToString::to_string).and_then(|nics| nics.open().map_err(|error| error.to_string()));
    for (index, device) in devices.iter().enumerate() {
        let Ok(device) = device else { continue };
        report.before(&format!("exporting memory of GPU {index} (cuMemGetHandleForAddressRange)"), facts)?;
        let export = device.export();
        let (exported, registered) = match &export {
            Ok(export) => {
                change(facts, index, |gpu| gpu.exported = Fact::Known(true));
                report
                    .before(&format!("registering memory of GPU {index} with the NICs (ibv_reg_dmabuf_mr)"), facts)?;
                let registered = match &opened {
                    Ok(opened) => Fact::Known(opened.iter().map(|nic| register(nic, export)).collect()),
                    Err(why) => Fact::Unknown(why.clone()),
                };
                (Fact::Known(true), registered)
            }
            Err(error) => {
                let refused = error.code() == Some(NOT_SUPPORTED);
                let exported = if refused { Fact::Known(false) } else { Fact::Unknown(error.to_string()) };
                (exported, Fact::Unknown(format!("nothing to register: {error}")))
            }
        };
        change(facts, index, |gpu| (gpu.exported, gpu.registered) = (exported, registered));
    }
    Ok(())
}

fn register((device, nic): &Opened<'_>, export: &cuda::Export<'_>) -> Registration {
    let result =
        nic.as_ref().map_err(Clone::clone).and_then(|nic| nic.register(export).map_err(|error| error.to_string()));
    Registration { device: device.clone(), error: result.err() }
}

fn change(facts: &mut CudaFacts, index: usize, change: impl FnOnce(&mut CudaGpu)) {
    if let Fact::Known(gpus) = &mut facts.gpus
        && let Some(gpu) = gpus.get_mut(index)
    {
        change(gpu);
    }
}

fn describe(device: &Result<Device<'_>, Error>) -> CudaGpu {
    let device = match device {
        Ok(device) => device,
        Err(error) => return CudaGpu { name: Fact::Unknown(error.to_string()), ..CudaGpu::default() },
    };
    let attribute = |attribute| match device.attribute(attribute) {
        Ok(Some(value)) => Fact::Known(value),
        Ok(None) => Fact::Unknown("this driver does not know the attribute".into()),
        Err(error) => Fact::Unknown(error.to_string()),
    };
    CudaGpu {
        pci: fact(device.pci()),
        name: fact(device.name()),
        gpu_direct_rdma: attribute(Attribute::GpuDirectRdma),
        dma_buf: attribute(Attribute::DmaBuf),
        gpu_direct_rdma_vmm: attribute(Attribute::GpuDirectRdmaVmm),
        fabric_handle: attribute(Attribute::FabricHandle),
        ..CudaGpu::default()
    }
}

fn fact<T>(result: Result<T, Error>) -> Fact<T> {
    result.map_or_else(|error| Fact::Unknown(error.to_string()), Fact::Known)
}
