//! UCX's transports and devices as its lower layer (UCT) lists them: everything that could be used, whatever `UCX_TLS` says.

use std::{
    ffi::{CStr, c_char},
    mem, ptr, slice,
};

use crate::{
    Error, Library, MemoryTypes,
    bindings::uct::{
        self, UCT_COMPONENT_ATTR_FIELD_MD_RESOURCE_COUNT, UCT_COMPONENT_ATTR_FIELD_MD_RESOURCES,
        UCT_COMPONENT_ATTR_FIELD_NAME, UCT_DEVICE_TYPE_ACC, UCT_DEVICE_TYPE_NET, UCT_DEVICE_TYPE_SELF,
        UCT_DEVICE_TYPE_SHM, uct_component_attr_t, uct_component_h, uct_md_h, uct_md_resource_desc_t,
        uct_tl_resource_desc_t,
    },
    library::symbol,
};

/// No machine has this many; a larger number is memory that is not what we take it for.
const MOST: u32 = 4096;

/// A component: a family of transports (`ib`, `tcp`, `cuda_cpy`…).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// UCX's name.
    pub name: String,
    /// Its memory domains, or why they could not be asked.
    pub domains: Result<Vec<Domain>, String>,
}

/// A memory domain: one NIC, or one way to reach memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Domain {
    /// UCX's name (`mlx5_0`, `tcp`…).
    pub name: String,
    /// Memory that can be registered: `cuda` on a NIC's domain is GPUDirect RDMA.
    pub registers: MemoryTypes,
    /// Memory that can be read and written without registration.
    pub accesses: MemoryTypes,
    /// Memory that can be allocated.
    pub allocates: MemoryTypes,
    /// Memory whose type can be told from a pointer.
    pub detects: MemoryTypes,
    /// Its transports, one entry for each device.
    pub transports: Vec<Transport>,
    /// Why it could not be opened or asked, where so.
    pub error: Option<String>,
}

/// A transport on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    /// UCX's name (`rc_mlx5`, `tcp`, `cuda_ipc`…).
    pub name: String,
    /// Device (`mlx5_0:1`, `eth0`, `memory`…).
    pub device: String,
    /// Kind of device.
    pub kind: DeviceType,
}

/// `uct_device_type_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceType {
    /// A network.
    Net,
    /// Shared memory within the node.
    Shm,
    /// An accelerator.
    Acc,
    /// The process itself.
    Own,
    /// Something this version does not know.
    Other(u32),
}

impl From<u32> for DeviceType {
    fn from(raw: u32) -> Self {
        match raw {
            UCT_DEVICE_TYPE_NET => Self::Net,
            UCT_DEVICE_TYPE_SHM => Self::Shm,
            UCT_DEVICE_TYPE_ACC => Self::Acc,
            UCT_DEVICE_TYPE_SELF => Self::Own,
            other => Self::Other(other),
        }
    }
}

impl Library {
    /// All components. Opens every device, as `ucx_info -d` does.
    pub fn components(&self) -> Result<Vec<Component>, Error> {
        self.inner()?;
        let query = symbol(&self.uct.uct_query_components, "uct_query_components")?;
        let release = symbol(&self.uct.uct_release_component_list, "uct_release_component_list")?;
        let (mut list, mut count) = (ptr::null_mut(), 0);
        // SAFETY: UCX writes one pointer and one number.
        let status = unsafe { query(&raw mut list, &raw mut count) };
        self.check("uct_query_components", status)?;
        // SAFETY: UCX said that `list` holds `count` handles, until they are released below.
        let handles = unsafe { array(list, count) };
        let components = handles.iter().map(|&handle| self.component(handle)).collect();
        // SAFETY: the list came from uct_query_components and is not used after this.
        unsafe { release(list) };
        components
    }

    fn component(&self, handle: uct_component_h) -> Result<Component, Error> {
        let query = symbol(&self.uct.uct_component_query, "uct_component_query")?;
        // SAFETY: an all-zero uct_component_attr_t is valid: numbers, characters and a null pointer.
        let mut attributes: uct_component_attr_t = unsafe { mem::zeroed() };
        attributes.field_mask = (UCT_COMPONENT_ATTR_FIELD_NAME | UCT_COMPONENT_ATTR_FIELD_MD_RESOURCE_COUNT).into();
        // SAFETY: the handle is one of UCX's list, which is alive; UCX writes the fields of the mask.
        let status = unsafe { query(handle, &raw mut attributes) };
        self.check("uct_component_query", status)?;
        let name = name(&attributes.name);

        let count = attributes.md_resource_count.min(MOST);
        let mut domains = vec![uct_md_resource_desc_t { md_name: [0; 16] }; count as usize];
        attributes.field_mask = UCT_COMPONENT_ATTR_FIELD_MD_RESOURCES.into();
        attributes.md_resources = domains.as_mut_ptr();
        let asked = if count == attributes.md_resource_count {
            // SAFETY: UCX writes as many entries as it counted above, and there is room for them.
            let status = unsafe { query(handle, &raw mut attributes) };
            self.check(format!("uct_component_query of {name}"), status).map_err(|error| error.to_string())
        } else {
            Err(format!("{name} counts {} memory domains", attributes.md_resource_count))
        };
        let domains = asked.map(|()| domains.iter().map(|domain| self.domain(handle, domain)).collect());
        Ok(Component { name, domains })
    }

    /// One domain; what fails is kept as its error, so that one broken NIC does not hide the others.
    fn domain(&self, component: uct_component_h, resource: &uct_md_resource_desc_t) -> Domain {
        let mut domain = Domain { name: name(&resource.md_name), ..Domain::default() };
        let read = self.open(component, resource).and_then(|opened| opened.describe(&mut domain));
        domain.error = read.err().map(|error| error.to_string());
        domain
    }

    fn open(&self, component: uct_component_h, resource: &uct_md_resource_desc_t) -> Result<Opened<'_>, Error> {
        let read_config = symbol(&self.uct.uct_md_config_read, "uct_md_config_read")?;
        let release_config = symbol(&self.uct.uct_config_release, "uct_config_release")?;
        let open = symbol(&self.uct.uct_md_open, "uct_md_open")?;
        symbol(&self.uct.uct_md_close, "uct_md_close")?;
        let mut config = ptr::null_mut();
        // SAFETY: null prefix and file mean the defaults; UCX writes one pointer.
        let status = unsafe { read_config(component, ptr::null(), ptr::null(), &raw mut config) };
        self.check("uct_md_config_read", status)?;
        let mut handle = ptr::null_mut();
        // SAFETY: component and configuration are alive, and the name is UCX's own, NUL-terminated within its array.
        let status = unsafe { open(component, resource.md_name.as_ptr(), config, &raw mut handle) };
        // SAFETY: the configuration came from uct_md_config_read and is not used after this.
        unsafe { release_config(config.cast()) };
        self.check("uct_md_open", status)?;
        Ok(Opened { library: self, handle })
    }
}

/// An open memory domain.
struct Opened<'a> {
    library: &'a Library,
    handle: uct_md_h,
}

impl Opened<'_> {
    fn describe(&self, domain: &mut Domain) -> Result<(), Error> {
        let library = self.library;
        let query = symbol(&library.uct.uct_md_query, "uct_md_query")?;
        // SAFETY: an all-zero uct_md_attr_t is valid: numbers and characters.
        let mut attributes: uct::uct_md_attr_t = unsafe { mem::zeroed() };
        // SAFETY: the domain is open; the struct has the same size in every UCX that `Library::inner` lets through.
        let status = unsafe { query(self.handle, &raw mut attributes) };
        library.check("uct_md_query", status)?;
        domain.registers = MemoryTypes(attributes.cap.reg_mem_types);
        domain.accesses = MemoryTypes(attributes.cap.access_mem_types);
        domain.allocates = MemoryTypes(attributes.cap.alloc_mem_types);
        domain.detects = MemoryTypes(attributes.cap.detect_mem_types);

        let list = symbol(&library.uct.uct_md_query_tl_resources, "uct_md_query_tl_resources")?;
        let release = symbol(&library.uct.uct_release_tl_resource_list, "uct_release_tl_resource_list")?;
        let (mut resources, mut count) = (ptr::null_mut(), 0);
        // SAFETY: the domain is open; UCX writes one pointer and one number.
        let status = unsafe { list(self.handle, &raw mut resources, &raw mut count) };
        library.check("uct_md_query_tl_resources", status)?;
        // SAFETY: UCX said that `resources` holds `count` entries, until they are released below.
        domain.transports = unsafe { array(resources, count) }.iter().map(Transport::from).collect();
        // SAFETY: the list came from uct_md_query_tl_resources and is not used after this.
        unsafe { release(resources) };
        Ok(())
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        if let Ok(close) = self.library.uct.uct_md_close {
            // SAFETY: the domain was opened by uct_md_open, and this is its only close.
            unsafe { close(self.handle) };
        }
    }
}

impl From<&uct_tl_resource_desc_t> for Transport {
    fn from(raw: &uct_tl_resource_desc_t) -> Self {
        Self { name: name(&raw.tl_name), device: name(&raw.dev_name), kind: raw.dev_type.into() }
    }
}

/// UCX's array; empty where it has none, or an impossible number.
///
/// # Safety
/// `start` points to `count` initialised entries that stay so for `'a`, or is null.
unsafe fn array<'a, T>(start: *const T, count: u32) -> &'a [T] {
    if start.is_null() || count > MOST {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(start, count as usize) }
}

/// The text of a fixed array, up to its NUL or its end.
fn name(array: &[c_char]) -> String {
    // SAFETY: c_char and u8 have the same size, alignment and no invalid values.
    let bytes = unsafe { slice::from_raw_parts(array.as_ptr().cast::<u8>(), array.len()) };
    match CStr::from_bytes_until_nul(bytes) {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_at_nul_or_at_the_arrays_end() {
        assert_eq!(name(&[116, 99, 112, 0, 55, 55]), "tcp");
        assert_eq!(name(&[116, 99, 112]), "tcp");
        assert_eq!(name(&[]), "");
    }

    #[test]
    fn impossible_arrays_are_empty() {
        // SAFETY: null is allowed.
        assert!(unsafe { array::<u8>(ptr::null(), 3) }.is_empty());
        let one = 7_u8;
        // SAFETY: the count is above the bound, so that nothing is read.
        assert!(unsafe { array(&raw const one, MOST + 1) }.is_empty());
    }
}
