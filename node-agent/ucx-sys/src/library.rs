//! Loading: three shared objects by absolute path, in the order in which they need each other.

use std::{
    ffi::CStr,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use libloading::os::unix::{Library as Object, RTLD_LOCAL, RTLD_NOW};

use crate::{
    bindings::{
        ucp::LibUcp,
        ucs::{self, LibUcs},
        uct::LibUct,
    },
    search::Files,
};

/// What can go wrong between us and UCX.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A shared object did not load.
    #[error("loading {}: {source}", path.display())]
    Load {
        /// Its path.
        path: PathBuf,
        /// The loader's words.
        source: libloading::Error,
    },
    /// This UCX lacks a function.
    #[error("this UCX has no {0}")]
    Missing(&'static str),
    /// A call failed.
    #[error("{call}: {status} ({code})")]
    Call {
        /// The function, and what it was about.
        call: String,
        /// UCX's text for the status.
        status: String,
        /// The status.
        code: i8,
    },
    /// A version whose inner interfaces are not known to be those we were made for.
    #[error("UCX {0} is outside of 1.13 to 1.x, for which its inner interface is known")]
    Version(Version),
    /// A stream into memory could not be had, or not be read back.
    #[error("reading back what UCX printed: {0}")]
    Stream(#[from] io::Error),
    /// A name that C cannot take.
    #[error("{0:?} has a NUL byte in it")]
    Nul(String),
}

/// UCX's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 1 in all known releases.
    pub major: u32,
    /// Changes with the interface's additions.
    pub minor: u32,
    /// Bug fixes.
    pub release: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.release)
    }
}

/// A loaded UCX.
pub struct Library {
    pub(crate) ucp: LibUcp,
    pub(crate) uct: LibUct,
    pub(crate) ucs: LibUcs,
    version: Version,
}

/// A function of the library, or an error that names it.
pub(crate) fn symbol<F: Copy>(found: &Result<F, libloading::Error>, name: &'static str) -> Result<F, Error> {
    found.as_ref().copied().map_err(|_| Error::Missing(name))
}

impl Library {
    /// Loads UCX and asks its version. `files` must be UCX's own: their constructors run here, in this process.
    pub fn load(files: &Files) -> Result<Self, Error> {
        // The ones below first, so that what the ones above need by name resolves to these copies, not to another installation's.
        // Only libucm, which libucs needs and which needs libucs, is found by the loader itself: `mapped` tells which one it took.
        let ucs = open(&files.ucs)?;
        let uct = open(&files.uct)?;
        let ucp = open(&files.ucp)?;
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::Load { path, source }
        };
        // SAFETY: the bindings' signatures are those of UCX's headers, and this is UCX's libucs.
        let ucs = unsafe { LibUcs::from_library(ucs) }.map_err(failed(&files.ucs))?;
        // SAFETY: likewise for libuct.
        let uct = unsafe { LibUct::from_library(uct) }.map_err(failed(&files.uct))?;
        // SAFETY: likewise for libucp.
        let ucp = unsafe { LibUcp::from_library(ucp) }.map_err(failed(&files.ucp))?;

        let get_version = symbol(&ucp.ucp_get_version, "ucp_get_version")?;
        let mut version = Version { major: 0, minor: 0, release: 0 };
        // SAFETY: it writes three unsigned ints and takes nothing else.
        unsafe { get_version(&raw mut version.major, &raw mut version.minor, &raw mut version.release) };
        Ok(Self { ucp, uct, ucs, version })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The functions that we can use and this UCX does not have.
    pub fn missing(&self) -> Vec<&'static str> {
        macro_rules! absent {
            ($($library:ident . $name:ident),* $(,)?) => {
                [$((self.$library.$name.is_err(), stringify!($name))),*]
            };
        }
        let all = absent![
            ucp.ucp_config_read,
            ucp.ucp_config_release,
            ucp.ucp_config_modify,
            ucp.ucp_init_version,
            ucp.ucp_cleanup,
            ucp.ucp_context_query,
            ucp.ucp_context_print_info,
            ucp.ucp_worker_create,
            ucp.ucp_worker_destroy,
            ucp.ucp_worker_progress,
            ucp.ucp_worker_get_address,
            ucp.ucp_worker_release_address,
            ucp.ucp_ep_create,
            ucp.ucp_ep_close_nbx,
            ucp.ucp_ep_flush_nbx,
            ucp.ucp_ep_query,
            ucp.ucp_ep_print_info,
            ucp.ucp_ep_rkey_unpack,
            ucp.ucp_rkey_destroy,
            ucp.ucp_rkey_pack,
            ucp.ucp_rkey_buffer_release,
            ucp.ucp_mem_map,
            ucp.ucp_mem_unmap,
            ucp.ucp_mem_query,
            ucp.ucp_put_nbx,
            ucp.ucp_get_nbx,
            ucp.ucp_tag_send_nbx,
            ucp.ucp_tag_recv_nbx,
            ucp.ucp_request_query,
            ucp.ucp_request_free,
            uct.uct_query_components,
            uct.uct_release_component_list,
            uct.uct_component_query,
            uct.uct_md_config_read,
            uct.uct_config_release,
            uct.uct_md_open,
            uct.uct_md_close,
            uct.uct_md_query,
            uct.uct_md_query_tl_resources,
            uct.uct_release_tl_resource_list,
            ucs.ucs_status_string,
            ucs.ucs_config_parser_print_all_opts,
            ucs.ucs_config_parser_print_env_vars_once,
            ucs.ucs_config_global_list,
        ];
        all.into_iter().filter(|(absent, _)| *absent).map(|(_, name)| name).collect()
    }

    /// Inner interfaces (UCT, the settings' printer) are promised to nobody; their layout was compared from 1.13 to 1.22 and is the
    /// same. A 2.0 would be another library.
    pub(crate) fn inner(&self) -> Result<(), Error> {
        let known = self.version.major == 1 && self.version.minor >= 13;
        known.then_some(()).ok_or(Error::Version(self.version))
    }

    /// UCX's answer as a result.
    pub(crate) fn check(&self, call: impl Into<String>, code: ucs::ucs_status_t) -> Result<(), Error> {
        if code == ucs::UCS_OK {
            return Ok(());
        }
        Err(Error::Call { call: call.into(), status: self.status(code), code })
    }

    fn status(&self, code: ucs::ucs_status_t) -> String {
        let Ok(status_string) = &self.ucs.ucs_status_string else { return "unknown status".into() };
        // SAFETY: it takes any status and returns a pointer to a static string, or to a buffer of the library's.
        let text = unsafe { status_string(code) };
        if text.is_null() {
            return "unknown status".into();
        }
        // SAFETY: UCX returned a NUL-terminated string, and no other thread asks for another while it is copied.
        let text = unsafe { CStr::from_ptr(text) };
        text.to_string_lossy().into_owned()
    }
}

fn open(path: &Path) -> Result<libloading::Library, Error> {
    // SAFETY: the file is UCX's, whose constructors are written to run at any time; the crate's documentation says where to do this.
    let object = unsafe { Object::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    object.map(Into::into).map_err(|source| Error::Load { path: path.to_path_buf(), source })
}

/// Every UCX file that is mapped into this process. Files of two folders mean that two installations are mixed.
pub fn mapped() -> io::Result<Vec<PathBuf>> {
    Ok(crate::text::mapped_files(&fs::read_to_string("/proc/self/maps")?))
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use crate::bindings::{ucp, uct};

    /// What a C compiler says of the headers of ten releases, 1.13 to 1.22: the offsets are those of each, the sizes of UCP's structs
    /// those of the newest, since they grew at their tail.
    #[test]
    fn bindings_have_ucxs_layout() {
        let sizes = [
            (size_of::<ucp::ucp_params_t>(), 88),
            (size_of::<ucp::ucp_context_attr_t>(), 72),
            (size_of::<ucp::ucp_worker_params_t>(), 200),
            (size_of::<ucp::ucp_ep_params_t>(), 104),
            (size_of::<ucp::ucp_ep_attr_t>(), 328),
            (size_of::<ucp::ucp_mem_map_params_t>(), 48),
            (size_of::<ucp::ucp_mem_attr_t>(), 32),
            (size_of::<ucp::ucp_request_param_t>(), 96),
            (size_of::<ucp::ucp_request_attr_t>(), 32),
            (size_of::<uct::uct_component_attr_t>(), 48),
            (size_of::<uct::uct_md_attr_t>(), 224),
            (size_of::<uct::uct_tl_resource_desc_t>(), 52),
            (size_of::<uct::uct_md_resource_desc_t>(), 16),
            (size_of::<ucp::ucs_status_t>(), 1),
            (offset_of!(ucp::ucp_params_t, features), 8),
            (offset_of!(ucp::ucp_context_attr_t, memory_types), 24),
            (offset_of!(ucp::ucp_ep_attr_t, transports), 296),
            (offset_of!(ucp::ucp_request_param_t, memory_type), 48),
            (offset_of!(ucp::ucp_request_param_t, memh), 64),
            (offset_of!(uct::uct_component_attr_t, md_resources), 32),
            (offset_of!(uct::uct_md_attr_t, cap.reg_mem_types), 24),
            (offset_of!(uct::uct_tl_resource_desc_t, dev_type), 44),
        ];
        for (index, (ours, ucxs)) in sizes.into_iter().enumerate() {
            assert_eq!(ours, ucxs, "number {index}");
        }
    }

    #[test]
    fn versions_read_and_compare() {
        let version = |minor| super::Version { major: 1, minor, release: 1 };
        assert_eq!(version(13).to_string(), "1.13.1");
        assert!(version(13) < version(22));
    }
}
