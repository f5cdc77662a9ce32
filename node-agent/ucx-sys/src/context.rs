//! A UCP context: what UCX would use under the settings in force.

use std::{ffi::CString, mem, ptr};

use crate::{
    Error, Library, MemoryTypes,
    bindings::ucp::{
        self, UCP_ATTR_FIELD_MEMORY_TYPES, UCP_FEATURE_AM, UCP_FEATURE_RMA, UCP_FEATURE_TAG, UCP_PARAM_FIELD_FEATURES,
        ucp_config_t, ucp_context_h,
    },
    library::symbol,
    printer::printed,
};

/// The newest interface that is asked of a library: what we use is all in 1.13. A library older than its caller only warns, but
/// would do so in every log.
const NEWEST_MINOR: u32 = 13;

/// A UCP context.
pub struct Context<'a> {
    pub(crate) library: &'a Library,
    pub(crate) handle: ucp_context_h,
}

impl<'a> Context<'a> {
    /// Makes one from the environment and `changes` (names without `UCX_`), with the features that serving stacks ask for.
    pub fn new(library: &'a Library, changes: &[(&str, &str)]) -> Result<Self, Error> {
        let version = library.version();
        // SAFETY: an all-zero ucp_params_t is valid: numbers, null pointers and absent callbacks, all masked out.
        let mut params: ucp::ucp_params_t = unsafe { mem::zeroed() };
        params.field_mask = UCP_PARAM_FIELD_FEATURES.into();
        params.features = (UCP_FEATURE_TAG | UCP_FEATURE_RMA | UCP_FEATURE_AM).into();

        let config = Config::read(library)?;
        for (name, value) in changes {
            config.modify(name, value)?;
        }
        let init = symbol(&library.ucp.ucp_init_version, "ucp_init_version")?;
        let minor = version.minor.min(NEWEST_MINOR);
        let mut handle: ucp_context_h = ptr::null_mut();
        // SAFETY: parameters and configuration are valid for the call, and UCX keeps neither.
        let status = unsafe { init(version.major, minor, &raw const params, config.handle, &raw mut handle) };
        library.check("ucp_init", status)?;
        Ok(Self { library, handle })
    }

    /// The memory types that its transports can take.
    pub fn memory_types(&self) -> Result<MemoryTypes, Error> {
        let query = symbol(&self.library.ucp.ucp_context_query, "ucp_context_query")?;
        // SAFETY: an all-zero ucp_context_attr_t is valid: numbers and a character array.
        let mut attributes: ucp::ucp_context_attr_t = unsafe { mem::zeroed() };
        attributes.field_mask = UCP_ATTR_FIELD_MEMORY_TYPES.into();
        // SAFETY: the context is alive; UCX writes the fields of the mask, which every version since 1.13 has at the same place.
        let status = unsafe { query(self.handle, &raw mut attributes) };
        self.library.check("ucp_context_query", status)?;
        Ok(MemoryTypes(attributes.memory_types))
    }

    /// UCX's own description of it; [`crate::text::resources`] reads it.
    pub fn info(&self) -> Result<String, Error> {
        let print = symbol(&self.library.ucp.ucp_context_print_info, "ucp_context_print_info")?;
        let text = printed(|stream| {
            // SAFETY: context and stream are alive for the call.
            unsafe { print(self.handle, stream.cast()) };
        });
        Ok(text?)
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        if let Ok(cleanup) = self.library.ucp.ucp_cleanup {
            // SAFETY: the handle came from ucp_init_version, and this is its only release.
            unsafe { cleanup(self.handle) };
        }
    }
}

/// UCX's settings as read from the environment and its configuration file.
struct Config<'a> {
    library: &'a Library,
    handle: *mut ucp_config_t,
}

impl<'a> Config<'a> {
    fn read(library: &'a Library) -> Result<Self, Error> {
        let read = symbol(&library.ucp.ucp_config_read, "ucp_config_read")?;
        let mut handle = ptr::null_mut();
        // SAFETY: null prefix and file mean the defaults; UCX writes one pointer.
        let status = unsafe { read(ptr::null(), ptr::null(), &raw mut handle) };
        library.check("ucp_config_read", status)?;
        Ok(Self { library, handle })
    }

    fn modify(&self, name: &str, value: &str) -> Result<(), Error> {
        let text = |text: &str| CString::new(text).map_err(|_| Error::Nul(text.into()));
        let modify = symbol(&self.library.ucp.ucp_config_modify, "ucp_config_modify")?;
        let (c_name, c_value) = (text(name)?, text(value)?);
        // SAFETY: the configuration is alive and both strings end with NUL; UCX copies them.
        let status = unsafe { modify(self.handle, c_name.as_ptr(), c_value.as_ptr()) };
        self.library.check(format!("ucp_config_modify {name}={value}"), status)
    }
}

impl Drop for Config<'_> {
    fn drop(&mut self) {
        if let Ok(release) = self.library.ucp.ucp_config_release {
            // SAFETY: the handle came from ucp_config_read, and this is its only release.
            unsafe { release(self.handle) };
        }
    }
}
