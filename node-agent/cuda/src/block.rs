//! Memory of a GPU that UCX may read and write.

use std::{ffi::c_void, rc::Rc};

use cudarc::driver::sys::{CUcontext, CUdeviceptr};
use ucx_sys::{Block, Kind, within};

use crate::{Driver, Error, device::retain};

/// An allocation on a GPU, in the GPU's primary context, which is current in the thread that made it.
pub struct GpuBlock {
    driver: Rc<Driver>,
    device: i32,
    context: CUcontext,
    address: CUdeviceptr,
    len: usize,
}

impl GpuBlock {
    /// Allocates `len` bytes on the GPU of an index.
    pub fn new(driver: &Rc<Driver>, index: u32, len: usize) -> Result<Self, Error> {
        let allocate = driver.functions.allocate.ok_or(Error::Missing("cuMemAlloc_v2"))?;
        let (device, context) = retain(driver, index)?;
        let mut block = Self { driver: Rc::clone(driver), device, context, address: 0, len };
        block.enter()?;
        // SAFETY: a context is current; the driver writes one address.
        let status = unsafe { allocate(&raw mut block.address, len) };
        driver.check("cuMemAlloc", status).map(|()| block)
    }

    /// Makes its context current in this thread.
    fn enter(&self) -> Result<(), Error> {
        let set = self.driver.functions.context_set.ok_or(Error::Missing("cuCtxSetCurrent"))?;
        // SAFETY: the context is retained until this value is dropped.
        let status = unsafe { set(self.context) };
        self.driver.check("cuCtxSetCurrent", status)
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let copy = self.driver.functions.copy_to_gpu.ok_or(Error::Missing("cuMemcpyHtoD_v2"))?;
        let synchronize = self.driver.functions.synchronize.ok_or(Error::Missing("cuCtxSynchronize"))?;
        self.enter()?;
        // SAFETY: the range is within the allocation, and `bytes` is as long.
        let status = unsafe { copy(self.address + offset as u64, bytes.as_ptr().cast(), bytes.len()) };
        self.driver.check("cuMemcpyHtoD", status)?;
        // From pageable memory the copy returns when the bytes are staged. A NIC must find them in place.
        // SAFETY: a context is current.
        let status = unsafe { synchronize() };
        self.driver.check("cuCtxSynchronize", status)
    }

    fn copy_out(&self, offset: usize, bytes: &mut [u8]) -> Result<(), Error> {
        let copy = self.driver.functions.copy_from_gpu.ok_or(Error::Missing("cuMemcpyDtoH_v2"))?;
        self.enter()?;
        // SAFETY: the range is within the allocation, and `bytes` is as long.
        let status = unsafe { copy(bytes.as_mut_ptr().cast::<c_void>(), self.address + offset as u64, bytes.len()) };
        self.driver.check("cuMemcpyDtoH", status)
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
        let functions = &self.driver.functions;
        if self.address != 0
            && self.enter().is_ok()
            && let Some(free) = functions.free
        {
            // SAFETY: the address came from cuMemAlloc in the context that is current, and this is its only release.
            unsafe { free(self.address) };
        }
        if let Some(release) = functions.context_release {
            // SAFETY: it was retained once in `new`, and this is its only release. A failure leaves it to the process's end.
            unsafe { release(self.device) };
        }
    }
}
