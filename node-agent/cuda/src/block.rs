//! Memory of a GPU that UCX may read and write.

use std::{ffi::c_void, rc::Rc};

use cudarc::driver::sys::{CUcontext, CUdeviceptr};
use ucx_sys::{Block, Kind, within};

use crate::{Driver, Error, device::retain};

/// The primary context of a GPU, current in the thread that entered it.
pub struct GpuContext {
    driver: Driver,
    device: i32,
    handle: CUcontext,
}

impl GpuContext {
    /// Makes it, where nobody has, and makes it current: what UCX's CUDA transports ask for when they start.
    pub fn enter(driver: Driver, index: u32) -> Result<Self, Error> {
        let (device, handle) = retain(&driver, index)?;
        let context = Self { driver, device, handle };
        context.set().map(|()| context)
    }

    fn set(&self) -> Result<(), Error> {
        let set = self.driver.functions.context_set.ok_or(Error::Missing("cuCtxSetCurrent"))?;
        // SAFETY: the context is retained until this value is dropped.
        let status = unsafe { set(self.handle) };
        self.driver.check("cuCtxSetCurrent", status)
    }
}

impl Drop for GpuContext {
    fn drop(&mut self) {
        if let Some(release) = self.driver.functions.context_release {
            // SAFETY: it was retained once in `enter`, and this is its only release. A failure leaves it to the process's end.
            unsafe { release(self.device) };
        }
    }
}

/// An allocation on a GPU.
pub struct GpuBlock {
    context: Rc<GpuContext>,
    address: CUdeviceptr,
    len: usize,
}

impl GpuBlock {
    /// Allocates `len` bytes.
    pub fn new(context: &Rc<GpuContext>, len: usize) -> Result<Self, Error> {
        let allocate = context.driver.functions.allocate.ok_or(Error::Missing("cuMemAlloc_v2"))?;
        context.set()?;
        let mut address = 0;
        // SAFETY: a context is current; the driver writes one address.
        let status = unsafe { allocate(&raw mut address, len) };
        context.driver.check("cuMemAlloc", status)?;
        Ok(Self { context: Rc::clone(context), address, len })
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let copy = self.context.driver.functions.copy_to_gpu.ok_or(Error::Missing("cuMemcpyHtoD_v2"))?;
        let synchronize = self.context.driver.functions.synchronize.ok_or(Error::Missing("cuCtxSynchronize"))?;
        self.context.set()?;
        // SAFETY: the range is within the allocation, and `bytes` is as long.
        let status = unsafe { copy(self.address + offset as u64, bytes.as_ptr().cast(), bytes.len()) };
        self.context.driver.check("cuMemcpyHtoD", status)?;
        // From pageable memory the copy returns when the bytes are staged. A NIC must find them in place.
        // SAFETY: a context is current.
        let status = unsafe { synchronize() };
        self.context.driver.check("cuCtxSynchronize", status)
    }

    fn copy_out(&self, offset: usize, bytes: &mut [u8]) -> Result<(), Error> {
        let copy = self.context.driver.functions.copy_from_gpu.ok_or(Error::Missing("cuMemcpyDtoH_v2"))?;
        self.context.set()?;
        // SAFETY: the range is within the allocation, and `bytes` is as long.
        let status = unsafe { copy(bytes.as_mut_ptr().cast::<c_void>(), self.address + offset as u64, bytes.len()) };
        self.context.driver.check("cuMemcpyDtoH", status)
    }
}

// SAFETY: the allocation is this value's until it is freed in `drop`, and is memory of a GPU.
unsafe impl Block for GpuBlock {
    fn address(&self) -> u64 {
        self.address
    }

    fn len(&self) -> usize {
        self.len
    }

    fn kind(&self) -> Kind {
        Kind::Cuda
    }

    fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), String> {
        within(offset, bytes.len(), self.len);
        self.copy_in(offset, bytes).map_err(|error| error.to_string())
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) -> Result<(), String> {
        within(offset, bytes.len(), self.len);
        self.copy_out(offset, bytes).map_err(|error| error.to_string())
    }
}

impl Drop for GpuBlock {
    fn drop(&mut self) {
        if self.context.set().is_ok()
            && let Some(free) = self.context.driver.functions.free
        {
            // SAFETY: the address came from cuMemAlloc in the context that is current, and this is its only release.
            unsafe { free(self.address) };
        }
    }
}
