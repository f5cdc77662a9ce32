//! A UCP worker: what makes progress, what memory is registered with, and what counts the operations that are under way.

use std::{
    cell::{Cell, RefCell},
    ffi::c_void,
    mem, ptr,
    rc::Rc,
    slice,
};

use crate::{
    Block, Context, Error, Kind, Library,
    bindings::ucp::{
        self, UCP_MEM_ATTR_FIELD_MEM_TYPE, UCP_MEM_MAP_PARAM_FIELD_ADDRESS, UCP_MEM_MAP_PARAM_FIELD_LENGTH,
        UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE, UCP_WORKER_PARAM_FIELD_THREAD_MODE, UCS_MEMORY_TYPE_CUDA,
        UCS_MEMORY_TYPE_HOST, UCS_THREAD_MODE_SINGLE, ucp_ep_h, ucp_mem_h, ucp_tag_recv_info_t, ucp_worker_h,
        ucs_memory_type, ucs_memory_type_t, ucs_status_t,
    },
    endpoint::Parameters,
    library::symbol,
};

/// Longest address or key that is taken from UCX: hundreds of NICs make some tens of KiB.
const LONGEST: usize = 1 << 20;

type Progress = unsafe extern "C" fn(ucp_worker_h) -> u32;
type Free = unsafe extern "C" fn(*mut c_void);

/// What the callbacks of this worker's operations write to. They run within `progress`, in this thread.
pub(crate) struct Counters {
    pub(crate) outstanding: Cell<u64>,
    pub(crate) error: Cell<ucs_status_t>,
    pub(crate) lost: Cell<ucs_status_t>,
    free: Free,
}

/// What endpoints and memory keep alive.
pub(crate) struct Inner<'a> {
    pub(crate) context: Context<'a>,
    pub(crate) handle: ucp_worker_h,
    pub(crate) counters: Box<Counters>,
    progress: Progress,
    /// Every block that an operation may ever have named; they are released after the worker, whatever becomes of its operations.
    blocks: RefCell<Vec<Rc<dyn Block>>>,
}

/// A UCP worker for one thread.
pub struct Worker<'a>(pub(crate) Rc<Inner<'a>>);

impl<'a> Worker<'a> {
    /// Makes one.
    pub fn new(context: Context<'a>) -> Result<Self, Error> {
        let library = context.library;
        let create = symbol(&library.ucp.ucp_worker_create, "ucp_worker_create")?;
        let progress = symbol(&library.ucp.ucp_worker_progress, "ucp_worker_progress")?;
        let free = symbol(&library.ucp.ucp_request_free, "ucp_request_free")?;
        // SAFETY: an all-zero ucp_worker_params_t is valid: numbers and null pointers, all masked out.
        let mut params: ucp::ucp_worker_params_t = unsafe { mem::zeroed() };
        params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE.into();
        params.thread_mode = UCS_THREAD_MODE_SINGLE;
        let mut handle: ucp_worker_h = ptr::null_mut();
        // SAFETY: the context is alive, and UCX keeps no pointer to the parameters.
        let status = unsafe { create(context.handle, &raw const params, &raw mut handle) };
        library.check("ucp_worker_create", status)?;
        let counters = Box::new(Counters { outstanding: Cell::new(0), error: Cell::new(0), lost: Cell::new(0), free });
        Ok(Self(Rc::new(Inner { context, handle, counters, progress, blocks: RefCell::default() })))
    }

    /// Its address: what the other side's [`crate::Endpoint`] is made from.
    pub fn address(&self) -> Result<Vec<u8>, Error> {
        let library = self.0.library();
        let get = symbol(&library.ucp.ucp_worker_get_address, "ucp_worker_get_address")?;
        let release = symbol(&library.ucp.ucp_worker_release_address, "ucp_worker_release_address")?;
        let (mut address, mut length) = (ptr::null_mut(), 0);
        // SAFETY: the worker is alive; UCX writes one pointer and one length.
        let status = unsafe { get(self.0.handle, &raw mut address, &raw mut length) };
        library.check("ucp_worker_get_address", status)?;
        // SAFETY: UCX gave as many bytes, until they are released below.
        let bytes = unsafe { slice::from_raw_parts(address.cast::<u8>(), length.min(LONGEST)) }.to_vec();
        // SAFETY: the address came from this worker, and this is its only release.
        unsafe { release(self.0.handle, address) };
        Ok(bytes)
    }

    /// Moves what is under way; how much came of it.
    #[inline]
    pub fn progress(&self) -> u32 {
        // SAFETY: the worker is alive and is this thread's. Callbacks write to its counters, which live as long.
        unsafe { (self.0.progress)(self.0.handle) }
    }

    /// Operations that were posted and are not complete.
    #[inline]
    pub fn outstanding(&self) -> u64 {
        self.0.counters.outstanding.get()
    }

    /// The first failure of an operation or endpoint so far. It stays.
    #[inline]
    pub fn failure(&self) -> Result<(), Error> {
        let counters = &self.0.counters;
        if counters.error.get() == 0 && counters.lost.get() == 0 {
            return Ok(());
        }
        let library = self.0.library();
        library.check("an operation", counters.error.get())?;
        library.check("the endpoint", counters.lost.get())
    }

    /// Registers a block. It lives until the worker is gone.
    pub fn map(&self, block: Rc<dyn Block>) -> Result<Mapped<'a>, Error> {
        let inner = Rc::clone(&self.0);
        let library = inner.library();
        let map = symbol(&library.ucp.ucp_mem_map, "ucp_mem_map")?;
        // SAFETY: an all-zero ucp_mem_map_params_t is valid: numbers and null pointers, all masked out.
        let mut params: ucp::ucp_mem_map_params_t = unsafe { mem::zeroed() };
        // With its kind: where UCX could not hook into the driver's allocator, it would take memory of a GPU for the host's.
        params.field_mask =
            (UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_MEMORY_TYPE)
                .into();
        params.memory_type = memory_type(block.kind());
        params.address = ptr::with_exposed_provenance_mut(usize::try_from(block.address()).unwrap_or_default());
        params.length = block.len();
        inner.blocks.borrow_mut().push(Rc::clone(&block));
        let mut handle: ucp_mem_h = ptr::null_mut();
        // SAFETY: the context is alive, and the block names memory that is its own and lives longer than the worker.
        let status = unsafe { map(inner.context.handle, &raw const params, &raw mut handle) };
        library.check(format!("ucp_mem_map of {} bytes", block.len()), status)?;
        let address = usize::try_from(block.address()).unwrap_or_default();
        let (len, memory_type) = (block.len(), memory_type(block.kind()));
        let parameters = Parameters::new(inner.user_data(), memory_type, handle);
        Ok(Mapped { inner, block, handle, address, len, memory_type, parameters })
    }
}

impl<'a> Inner<'a> {
    pub(crate) fn library(&self) -> &'a Library {
        self.context.library
    }

    /// What a posting function returned: done, under way, or an error.
    #[inline]
    pub(crate) fn posted(&self, call: &'static str, request: *mut c_void) -> Result<Option<*mut c_void>, Error> {
        if request.is_null() {
            return Ok(None);
        }
        // UCS_PTR_IS_ERR: the last hundred addresses are statuses.
        match i8::try_from(request as isize) {
            Ok(status) if status < 0 => Err(self.library().check(call, status).err().unwrap_or(Error::Missing(call))),
            _ => {
                let outstanding = &self.counters.outstanding;
                outstanding.set(outstanding.get() + 1);
                Ok(Some(request))
            }
        }
    }

    /// The counters, as callbacks get them.
    #[inline]
    pub(crate) fn user_data(&self) -> *mut c_void {
        ptr::from_ref::<Counters>(&self.counters).cast_mut().cast()
    }
}

impl Drop for Inner<'_> {
    fn drop(&mut self) {
        if let Ok(destroy) = self.library().ucp.ucp_worker_destroy {
            // SAFETY: the handle came from ucp_worker_create, endpoints and memory hold this value, and this is its only release.
            unsafe { destroy(self.handle) };
        }
    }
}

/// `ucp_send_nbx_callback_t` of every put, get, send and flush.
pub(crate) unsafe extern "C" fn sent(request: *mut c_void, status: ucs_status_t, counters: *mut c_void) {
    // SAFETY: every operation of this crate gives its worker's counters, which live as long as the worker.
    let counters = unsafe { &*counters.cast::<Counters>() };
    counters.outstanding.set(counters.outstanding.get() - 1);
    if status != 0 && counters.error.get() == 0 {
        counters.error.set(status);
    }
    // SAFETY: UCX gave the request to its callback, which is the last that has it.
    unsafe { (counters.free)(request) };
}

/// `ucp_tag_recv_nbx_callback_t`.
pub(crate) unsafe extern "C" fn received(
    request: *mut c_void,
    status: ucs_status_t,
    _info: *const ucp_tag_recv_info_t,
    counters: *mut c_void,
) {
    // SAFETY: the same promise as this callback's.
    unsafe { sent(request, status, counters) };
}

/// `ucp_err_handler_cb_t`.
pub(crate) unsafe extern "C" fn lost(counters: *mut c_void, _endpoint: ucp_ep_h, status: ucs_status_t) {
    // SAFETY: the endpoint was made with its worker's counters, which live longer.
    let counters = unsafe { &*counters.cast::<Counters>() };
    counters.lost.set(status);
}

/// A registered block.
pub struct Mapped<'a> {
    pub(crate) inner: Rc<Inner<'a>>,
    block: Rc<dyn Block>,
    handle: ucp_mem_h,
    /// What the block says of itself, asked once: every operation needs it.
    pub(crate) address: usize,
    pub(crate) len: usize,
    memory_type: ucs_memory_type_t,
    pub(crate) parameters: Parameters,
}

impl Mapped<'_> {
    /// The block.
    pub fn block(&self) -> &dyn Block {
        &*self.block
    }

    /// Whether UCX takes the memory for what it is. Memory of a GPU that it takes for the host's would be read by the CPU.
    pub fn is_understood(&self) -> Result<bool, Error> {
        let library = self.inner.library();
        let query = symbol(&library.ucp.ucp_mem_query, "ucp_mem_query")?;
        // SAFETY: an all-zero ucp_mem_attr_t is valid: numbers and a null pointer.
        let mut attributes: ucp::ucp_mem_attr_t = unsafe { mem::zeroed() };
        attributes.field_mask = UCP_MEM_ATTR_FIELD_MEM_TYPE.into();
        // SAFETY: the memory is registered; UCX writes the field of the mask.
        let status = unsafe { query(self.handle, &raw mut attributes) };
        library.check("ucp_mem_query", status)?;
        Ok(attributes.mem_type == self.memory_type)
    }

    /// The key with which the other side reaches it.
    pub fn key(&self) -> Result<Vec<u8>, Error> {
        let library = self.inner.library();
        let pack = symbol(&library.ucp.ucp_rkey_pack, "ucp_rkey_pack")?;
        let release = symbol(&library.ucp.ucp_rkey_buffer_release, "ucp_rkey_buffer_release")?;
        let (mut buffer, mut length) = (ptr::null_mut(), 0);
        // SAFETY: context and memory are alive; UCX writes one pointer and one length.
        let status = unsafe { pack(self.inner.context.handle, self.handle, &raw mut buffer, &raw mut length) };
        library.check("ucp_rkey_pack", status)?;
        // SAFETY: UCX gave as many bytes, until they are released below.
        let bytes = unsafe { slice::from_raw_parts(buffer.cast::<u8>(), length.min(LONGEST)) }.to_vec();
        // SAFETY: the buffer came from ucp_rkey_pack, and this is its only release.
        unsafe { release(buffer) };
        Ok(bytes)
    }
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        // With operations under way it stays registered until the context goes.
        if self.inner.counters.outstanding.get() == 0
            && let Ok(unmap) = self.inner.library().ucp.ucp_mem_unmap
        {
            // SAFETY: the handle came from ucp_mem_map of this context, nothing uses it, and this is its only release.
            unsafe { unmap(self.inner.context.handle, self.handle) };
        }
    }
}

fn memory_type(kind: Kind) -> ucs_memory_type_t {
    let number: ucs_memory_type = match kind {
        Kind::Host => UCS_MEMORY_TYPE_HOST,
        Kind::Cuda => UCS_MEMORY_TYPE_CUDA,
    };
    number as ucs_memory_type_t
}
