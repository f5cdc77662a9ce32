//! A GPU: what it says of itself, and a real export of its memory.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute as Raw, CUdeviceptr,
    CUmemRangeHandleType::CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD as DMA_BUF_FD,
};

use crate::{Driver, Error};

/// `CUDA_ERROR_INVALID_VALUE`: what a driver answers that does not know an attribute.
const INVALID_VALUE: i32 = 1;
/// One page of GPU memory. Smaller allocations share a page, and an export covers whole ones.
const SIZE: usize = 2 << 20;

/// The attributes that say how a GPU's memory can leave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// `GPU_DIRECT_RDMA_SUPPORTED` (116): a NIC can read and write it through the peer-memory interface.
    GpuDirectRdma,
    /// `DMA_BUF_SUPPORTED` (124): it can be exported as a DMA-BUF, which needs the open kernel modules.
    DmaBuf,
    /// `GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED` (110): memory of the virtual memory management calls can, too.
    GpuDirectRdmaVmm,
    /// `HANDLE_TYPE_FABRIC_SUPPORTED` (128): it can be shared over NVLink between nodes (MNNVL).
    FabricHandle,
}

impl Attribute {
    fn raw(self) -> c_int {
        let raw = match self {
            Self::GpuDirectRdma => Raw::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_SUPPORTED,
            Self::DmaBuf => Raw::CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED,
            Self::GpuDirectRdmaVmm => Raw::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED,
            Self::FabricHandle => Raw::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED,
        };
        raw as c_int
    }
}

/// A GPU.
pub struct Device<'a> {
    driver: &'a Driver,
    handle: CUdevice,
}

impl Driver {
    /// The GPU of an index below [`Driver::count`].
    pub fn device(&self, index: u32) -> Result<Device<'_>, Error> {
        let get = self.functions.device.ok_or(Error::Missing("cuDeviceGet"))?;
        let index = c_int::try_from(index).unwrap_or(c_int::MAX);
        let mut handle = 0;
        // SAFETY: it writes one handle, and refuses an index that is too large.
        let status = unsafe { get(&raw mut handle, index) };
        self.check("cuDeviceGet", status).map(|()| Device { driver: self, handle })
    }
}

impl Device<'_> {
    /// Its product's name.
    pub fn name(&self) -> Result<String, Error> {
        self.text("cuDeviceGetName", self.driver.functions.device_name)
    }

    /// Its PCI address as the kernel writes it: `0000:1b:00.0`.
    pub fn pci(&self) -> Result<String, Error> {
        let text = self.text("cuDeviceGetPCIBusId", self.driver.functions.device_pci)?;
        Ok(text.to_ascii_lowercase())
    }

    fn text(
        &self,
        call: &'static str,
        function: Option<unsafe extern "C" fn(*mut c_char, c_int, CUdevice) -> c_int>,
    ) -> Result<String, Error> {
        let function = function.ok_or(Error::Missing(call))?;
        let mut buffer = [0_u8; 256];
        // SAFETY: it writes at most as many bytes as it is told, which is one less than there are: the last stays NUL.
        let status = unsafe { function(buffer.as_mut_ptr().cast(), 255, self.handle) };
        self.driver.check(call, status)?;
        Ok(CStr::from_bytes_until_nul(&buffer).unwrap_or_default().to_string_lossy().into_owned())
    }

    /// Whether an attribute is set; `None` where the driver does not know it.
    pub fn attribute(&self, attribute: Attribute) -> Result<Option<bool>, Error> {
        let call = "cuDeviceGetAttribute";
        let query = self.driver.functions.device_attribute.ok_or(Error::Missing(call))?;
        let mut value = 0;
        // SAFETY: it writes one int, and refuses attributes that it does not know.
        let status = unsafe { query(&raw mut value, attribute.raw(), self.handle) };
        if status == INVALID_VALUE {
            return Ok(None);
        }
        self.driver.check(call, status).map(|()| Some(value != 0))
    }

    /// Allocates 2 MiB on the GPU and exports them as a DMA-BUF. The proof of what [`Attribute::DmaBuf`] promises.
    pub fn export(&self) -> Result<Export<'_>, Error> {
        let functions = &self.driver.functions;
        let export = functions.export.ok_or(Error::Missing("cuMemGetHandleForAddressRange"))?;
        let memory = Memory::allocate(self)?;
        let mut fd: c_int = -1;
        let handle = (&raw mut fd).cast::<c_void>();
        // SAFETY: the range is the allocation, and for this type of handle the driver writes one int.
        let status = unsafe { export(handle, memory.address, SIZE, DMA_BUF_FD as c_int, 0) };
        self.driver.check("cuMemGetHandleForAddressRange", status)?;
        if fd < 0 {
            return Err(Error::Call { call: "cuMemGetHandleForAddressRange", code: 0, name: "no descriptor".into() });
        }
        // SAFETY: the driver succeeded and gave us a descriptor that nobody else closes.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Export { fd, memory })
    }
}

/// GPU memory as a DMA-BUF: what a NIC can be asked to register.
pub struct Export<'a> {
    fd: OwnedFd,
    memory: Memory<'a>,
}

impl Export<'_> {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        SIZE
    }

    /// Never: it has a length.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Where it is in the GPU's address space.
    pub fn address(&self) -> u64 {
        self.memory.address
    }
}

impl AsFd for Export<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A GPU's handle and its primary context, retained once.
pub(crate) fn retain(driver: &Driver, index: u32) -> Result<(CUdevice, CUcontext), Error> {
    let retain = driver.functions.context_retain.ok_or(Error::Missing("cuDevicePrimaryCtxRetain"))?;
    let device = driver.device(index)?;
    let mut context = ptr::null_mut();
    // SAFETY: the device is valid; the driver writes one pointer.
    let status = unsafe { retain(&raw mut context, device.handle) };
    driver.check("cuDevicePrimaryCtxRetain", status).map(|()| (device.handle, context))
}

/// The device's primary context, current in this thread.
struct Context<'a> {
    device: &'a Device<'a>,
}

impl<'a> Context<'a> {
    fn enter(device: &'a Device<'a>) -> Result<Self, Error> {
        let functions = &device.driver.functions;
        let retain = functions.context_retain.ok_or(Error::Missing("cuDevicePrimaryCtxRetain"))?;
        let set = functions.context_set.ok_or(Error::Missing("cuCtxSetCurrent"))?;
        let mut handle = ptr::null_mut();
        // SAFETY: the device is valid; the driver writes one pointer.
        let status = unsafe { retain(&raw mut handle, device.handle) };
        device.driver.check("cuDevicePrimaryCtxRetain", status)?;
        let context = Self { device };
        // SAFETY: the context was retained, and is until the value is dropped.
        let status = unsafe { set(handle) };
        device.driver.check("cuCtxSetCurrent", status).map(|()| context)
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        if let Some(release) = self.device.driver.functions.context_release {
            // SAFETY: it was retained once, and this is its only release. A failure leaves it to the process's end.
            unsafe { release(self.device.handle) };
        }
    }
}

/// An allocation on a GPU. Freed before its context is released.
struct Memory<'a> {
    address: CUdeviceptr,
    context: Context<'a>,
}

impl<'a> Memory<'a> {
    fn allocate(device: &'a Device<'a>) -> Result<Self, Error> {
        let allocate = device.driver.functions.allocate.ok_or(Error::Missing("cuMemAlloc_v2"))?;
        let context = Context::enter(device)?;
        let mut address = 0;
        // SAFETY: a context is current; the driver writes one address.
        let status = unsafe { allocate(&raw mut address, SIZE) };
        device.driver.check("cuMemAlloc", status).map(|()| Self { address, context })
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        if let Some(free) = self.context.device.driver.functions.free {
            // SAFETY: the address came from cuMemAlloc in the context that is still current, and this is its only release.
            unsafe { free(self.address) };
        }
    }
}
