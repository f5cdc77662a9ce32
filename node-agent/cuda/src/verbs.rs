//! Registering exported GPU memory with the node's NICs, through `libibverbs` as it is found at run time.
//!
//! Six functions and no struct: `infiniband/verbs.h` passes all of them opaque pointers. `ibv_reg_dmabuf_mr` came with rdma-core 34.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    io,
    os::fd::{AsFd, AsRawFd},
    ptr, slice,
};

use libloading::{Library, Symbol};

use crate::Export;

/// `IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ`: what a transfer of the KV cache needs.
const ACCESS: c_int = 0b111;
/// No machine has this many NICs.
const MOST: c_int = 4096;

type DeviceList = unsafe extern "C" fn(*mut c_int) -> *mut *mut c_void;
type Name = unsafe extern "C" fn(*mut c_void) -> *const c_char;
type Pointer = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type Release = unsafe extern "C" fn(*mut c_void) -> c_int;
type Register = unsafe extern "C" fn(*mut c_void, u64, usize, u64, c_int, c_int) -> *mut c_void;

/// Why no NIC could be asked.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// `libibverbs` is absent or broken.
    #[error("no libibverbs: {0}")]
    Library(libloading::Error),
    /// It is older than rdma-core 34.
    #[error("this libibverbs has no {0}")]
    Missing(&'static str),
    /// The devices could not be listed.
    #[error("listing RDMA devices: {0}")]
    List(io::Error),
}

/// A device's kernel name (`mlx5_0`), and the device, or why it does not open.
pub type Opened<'a> = (String, Result<Nic<'a>, String>);

/// `libibverbs`.
pub struct Nics {
    library: Library,
}

/// One RDMA device, open.
pub struct Nic<'a> {
    nics: &'a Nics,
    context: *mut c_void,
    domain: *mut c_void,
}

impl Nics {
    /// Loads it. An absent one is an answer, not a failure.
    pub fn load() -> Result<Self, Unavailable> {
        // SAFETY: rdma-core's constructors are written to run at any time.
        let library = unsafe { Library::new("libibverbs.so.1") }.map_err(Unavailable::Library)?;
        let nics = Self { library };
        nics.function::<Register>("ibv_reg_dmabuf_mr")?;
        Ok(nics)
    }

    fn function<T>(&self, name: &'static str) -> Result<Symbol<'_, T>, Unavailable> {
        // SAFETY: every caller asks with the type of this name in infiniband/verbs.h.
        unsafe { self.library.get::<T>(name) }.map_err(|_| Unavailable::Missing(name))
    }

    /// Opens all devices.
    pub fn open(&self) -> Result<Vec<Opened<'_>>, Unavailable> {
        let list = self.function::<DeviceList>("ibv_get_device_list")?;
        let free = self.function::<unsafe extern "C" fn(*mut *mut c_void)>("ibv_free_device_list")?;
        let name_of = self.function::<Name>("ibv_get_device_name")?;
        let mut count = 0;
        // SAFETY: it writes one int and returns an array of that many devices, or null.
        let devices = unsafe { list(&raw mut count) };
        if devices.is_null() {
            return Err(Unavailable::List(io::Error::last_os_error()));
        }
        let known = usize::try_from(count.min(MOST)).unwrap_or(0);
        // SAFETY: the array has `count` entries until it is freed below.
        let handles = unsafe { slice::from_raw_parts(devices, known) };
        let open = handles.iter().map(|&device| {
            // SAFETY: the device is one of the list.
            let name = unsafe { name_of(device) };
            // SAFETY: it is a NUL-terminated string within the device.
            let name = if name.is_null() { c"?" } else { unsafe { CStr::from_ptr(name) } };
            let name = name.to_string_lossy().into_owned();
            (name, self.open_one(device))
        });
        let open = open.collect();
        // SAFETY: the list came from ibv_get_device_list; opened devices outlive it.
        unsafe { free(devices) };
        Ok(open)
    }

    fn open_one(&self, device: *mut c_void) -> Result<Nic<'_>, String> {
        let open = self.function::<Pointer>("ibv_open_device").map_err(|error| error.to_string())?;
        let domain = self.function::<Pointer>("ibv_alloc_pd").map_err(|error| error.to_string())?;
        let failed = |what: &str| Err(format!("{what}: {}", io::Error::last_os_error()));
        // SAFETY: the device is one of a list that is alive.
        let context = unsafe { open(device) };
        if context.is_null() {
            return failed("ibv_open_device");
        }
        let mut nic = Nic { nics: self, context, domain: ptr::null_mut() };
        // SAFETY: the context is open.
        nic.domain = unsafe { domain(context) };
        if nic.domain.is_null() { failed("ibv_alloc_pd") } else { Ok(nic) }
    }
}

impl Nic<'_> {
    /// Registers the memory with this NIC, and gives it back. The proof of GPUDirect RDMA through DMA-BUF.
    pub fn register(&self, memory: &Export<'_>) -> io::Result<()> {
        let other = |error: Unavailable| io::Error::other(error.to_string());
        let register = self.nics.function::<Register>("ibv_reg_dmabuf_mr").map_err(other)?;
        let release = self.nics.function::<Release>("ibv_dereg_mr").map_err(other)?;
        let fd = memory.as_fd().as_raw_fd();
        // SAFETY: the protection domain is alive, and the range is that of the descriptor, which stays open.
        let region = unsafe { register(self.domain, 0, memory.len(), memory.address(), fd, ACCESS) };
        if region.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the region was registered above, and this is its only release.
        unsafe { release(region) };
        Ok(())
    }
}

impl Drop for Nic<'_> {
    fn drop(&mut self) {
        for (name, handle) in [("ibv_dealloc_pd", self.domain), ("ibv_close_device", self.context)] {
            let Ok(release) = self.nics.function::<Release>(name) else { continue };
            if !handle.is_null() {
                // SAFETY: this value owns the handle, and this is its only release; the domain goes before its device.
                unsafe { release(handle) };
            }
        }
    }
}
