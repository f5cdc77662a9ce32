//! The loaded driver library and its functions.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    fmt, fs,
    path::PathBuf,
    ptr,
};

use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdeviceptr};

/// `CUresult` as what it is on the wire: any number that any driver returns.
pub(crate) type Status = c_int;

/// Defines the functions that are looked up, each `Some` where the driver has it.
macro_rules! functions {
    ($($field:ident = $name:literal ($($argument:ty),*);)*) => {
        pub(crate) struct Functions {
            $(pub(crate) $field: Option<unsafe extern "C" fn($($argument),*) -> Status>,)*
        }

        impl Functions {
            fn look_up() -> Self {
                // SAFETY: the caller checked that a library is present, without which this panics.
                let library = unsafe { sys::culib() };
                Self {
                    $($field: {
                        type Function = unsafe extern "C" fn($($argument),*) -> Status;
                        // SAFETY: cuda.h declares this name with these arguments and a CUresult, which is an int.
                        let found = unsafe { library.get::<Function>($name.as_bytes()) };
                        found.ok().map(|function| *function)
                    },)*
                }
            }

            fn missing(&self) -> Vec<&'static str> {
                [$((self.$field.is_none(), $name)),*].into_iter().filter(|(absent, _)| *absent).map(|(_, name)| name).collect()
            }
        }
    };
}

functions! {
    init = "cuInit" (c_uint);
    driver_version = "cuDriverGetVersion" (*mut c_int);
    error_name = "cuGetErrorName" (Status, *mut *const c_char);
    device_count = "cuDeviceGetCount" (*mut c_int);
    device = "cuDeviceGet" (*mut CUdevice, c_int);
    device_name = "cuDeviceGetName" (*mut c_char, c_int, CUdevice);
    device_pci = "cuDeviceGetPCIBusId" (*mut c_char, c_int, CUdevice);
    device_attribute = "cuDeviceGetAttribute" (*mut c_int, c_int, CUdevice);
    context_retain = "cuDevicePrimaryCtxRetain" (*mut CUcontext, CUdevice);
    context_release = "cuDevicePrimaryCtxRelease_v2" (CUdevice);
    context_set = "cuCtxSetCurrent" (CUcontext);
    allocate = "cuMemAlloc_v2" (*mut CUdeviceptr, usize);
    free = "cuMemFree_v2" (CUdeviceptr);
    copy_to_gpu = "cuMemcpyHtoD_v2" (CUdeviceptr, *const c_void, usize);
    copy_from_gpu = "cuMemcpyDtoH_v2" (*mut c_void, CUdeviceptr, usize);
    synchronize = "cuCtxSynchronize" ();
    export = "cuMemGetHandleForAddressRange" (*mut c_void, CUdeviceptr, usize, c_int, u64);
}

/// A call that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// This driver lacks the function.
    #[error("this driver has no {0}")]
    Missing(&'static str),
    /// The driver refused.
    #[error("{call}: {name} ({code})")]
    Call {
        /// The function.
        call: &'static str,
        /// The status.
        code: i32,
        /// The driver's name for it.
        name: String,
    },
}

impl Error {
    /// The driver's status, where there is one.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Missing(_) => None,
            Self::Call { code, .. } => Some(*code),
        }
    }
}

/// The newest CUDA that a driver can run: `cuDriverGetVersion`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub i32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

/// A loaded driver library.
pub struct Driver {
    pub(crate) functions: Functions,
}

impl Driver {
    /// Loads `libcuda`; `None` where there is none.
    pub fn load() -> Option<Self> {
        // SAFETY: it loads libraries by the names of the driver, whose constructors are written to run at any time.
        let present = unsafe { sys::is_culib_present() };
        present.then(|| Self { functions: Functions::look_up() })
    }

    /// The functions that this driver lacks.
    pub fn missing(&self) -> Vec<&'static str> {
        self.functions.missing()
    }

    /// `cuInit`. Nothing else but [`Self::version`] works before.
    pub fn init(&self) -> Result<(), Error> {
        let init = self.functions.init.ok_or(Error::Missing("cuInit"))?;
        // SAFETY: it takes a zero and may be called at any time.
        let status = unsafe { init(0) };
        self.check("cuInit", status)
    }

    /// The newest CUDA that it can run.
    pub fn version(&self) -> Result<Version, Error> {
        let query = self.functions.driver_version.ok_or(Error::Missing("cuDriverGetVersion"))?;
        let mut version = 0;
        // SAFETY: it writes one int.
        let status = unsafe { query(&raw mut version) };
        self.check("cuDriverGetVersion", status).map(|()| Version(version))
    }

    /// The number of GPUs.
    pub fn count(&self) -> Result<u32, Error> {
        let query = self.functions.device_count.ok_or(Error::Missing("cuDeviceGetCount"))?;
        let mut count = 0;
        // SAFETY: it writes one int.
        let status = unsafe { query(&raw mut count) };
        self.check("cuDeviceGetCount", status)?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// The driver's answer as a result.
    pub(crate) fn check(&self, call: &'static str, code: Status) -> Result<(), Error> {
        if code == 0 { Ok(()) } else { Err(Error::Call { call, code, name: self.error_name(code) }) }
    }

    fn error_name(&self, code: Status) -> String {
        let unknown = || "unknown status".to_owned();
        let Some(query) = self.functions.error_name else { return unknown() };
        let mut name: *const c_char = ptr::null();
        // SAFETY: it takes any number and writes one pointer, to a static string or null.
        let status = unsafe { query(code, &raw mut name) };
        if status != 0 || name.is_null() {
            return unknown();
        }
        // SAFETY: the driver succeeded and gave a static, NUL-terminated string.
        let name = unsafe { CStr::from_ptr(name) };
        name.to_string_lossy().into_owned()
    }
}

/// The file that the driver library was loaded from, a stub of the toolkit included.
pub fn loaded_from() -> Option<PathBuf> {
    in_maps(&fs::read_to_string("/proc/self/maps").ok()?)
}

fn in_maps(maps: &str) -> Option<PathBuf> {
    let paths = maps.lines().filter_map(|line| Some(&line[line.find('/')?..]));
    paths
        .filter(|path| path.rsplit('/').next().is_some_and(|name| name.starts_with("libcuda.so")))
        .map(PathBuf::from)
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_the_driver_writes_them() {
        assert_eq!(Version(12_080).to_string(), "12.8");
        assert_eq!(Version(13_000).to_string(), "13.0");
    }

    #[test]
    fn the_driver_is_told_from_the_runtime() {
        let maps = "7f00-7f01 r-xp 0 fe:00 12  /opt/cuda/lib/libcudart.so.12\n\
                    7f01-7f02 r-xp 0 fe:00 12  /usr/lib/x86_64-linux-gnu/libcuda.so.570.86.15\n";
        assert_eq!(in_maps(maps), Some("/usr/lib/x86_64-linux-gnu/libcuda.so.570.86.15".into()));
        assert_eq!(in_maps(""), None);
    }
}
