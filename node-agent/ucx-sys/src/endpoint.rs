//! A UCP endpoint: the way to one other worker, and what is posted to it.

use std::{
    ffi::{CStr, c_char, c_void},
    mem, ptr,
    rc::Rc,
};

use crate::{
    Error, Mapped, Version, Worker,
    bindings::ucp::{
        self, UCP_EP_ATTR_FIELD_TRANSPORTS, UCP_EP_CLOSE_FLAG_FORCE, UCP_EP_PARAM_FIELD_ERR_HANDLER,
        UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE, UCP_EP_PARAM_FIELD_REMOTE_ADDRESS, UCP_ERR_HANDLING_MODE_PEER,
        UCP_OP_ATTR_FIELD_CALLBACK, UCP_OP_ATTR_FIELD_FLAGS, UCP_OP_ATTR_FIELD_MEMH, UCP_OP_ATTR_FIELD_MEMORY_TYPE,
        UCP_OP_ATTR_FIELD_USER_DATA, UCP_OP_ATTR_FLAG_MULTI_SEND, UCP_REQUEST_ATTR_FIELD_INFO_STRING,
        UCP_REQUEST_ATTR_FIELD_INFO_STRING_SIZE, ucp_ep_h, ucp_mem_h, ucp_request_param_t,
        ucp_request_param_t__bindgen_ty_1 as Callback, ucp_rkey_h, ucs_memory_type_t,
    },
    block::within,
    library::symbol,
    printer::printed,
    worker::{Inner, lost, received, sent},
};

/// The first version whose endpoints tell their transports.
const TELLS_TRANSPORTS: Version = Version { major: 1, minor: 14, release: 0 };
/// Most lanes that are asked for; UCX has at most 64.
const LANES: usize = 64;
/// Longest description of a request that is taken.
const INFO: usize = 1024;

/// A way to another worker.
pub struct Endpoint<'a> {
    inner: Rc<Inner<'a>>,
    handle: ucp_ep_h,
    put: Put,
    get: Get,
    send: Send,
    flush: Flush,
}

type Put =
    unsafe extern "C" fn(ucp_ep_h, *const c_void, usize, u64, ucp_rkey_h, *const ucp_request_param_t) -> *mut c_void;
type Get =
    unsafe extern "C" fn(ucp_ep_h, *mut c_void, usize, u64, ucp_rkey_h, *const ucp_request_param_t) -> *mut c_void;
type Send = unsafe extern "C" fn(ucp_ep_h, *const c_void, usize, u64, *const ucp_request_param_t) -> *mut c_void;
type Flush = unsafe extern "C" fn(ucp_ep_h, *const ucp_request_param_t) -> *mut c_void;
type Receive =
    unsafe extern "C" fn(ucp::ucp_worker_h, *mut c_void, usize, u64, u64, *const ucp_request_param_t) -> *mut c_void;

/// A part of a registered block.
#[derive(Clone, Copy)]
pub struct Part<'p, 'a> {
    mapped: &'p Mapped<'a>,
    offset: usize,
    length: usize,
}

impl<'a> Mapped<'a> {
    /// `length` bytes from `offset`. Panics where they are outside of the block.
    #[inline]
    pub fn part(&self, offset: usize, length: usize) -> Part<'_, 'a> {
        within(offset, length, self.len);
        Part { mapped: self, offset, length }
    }
}

impl Part<'_, '_> {
    /// Panics unless the memory is registered with this worker: another one would neither keep it nor count its operations.
    #[inline]
    fn of(&self, inner: &Inner<'_>) {
        assert!(self.mapped.inner.handle == inner.handle, "memory of another worker");
    }

    #[inline]
    fn pointer(&self) -> *mut c_void {
        ptr::with_exposed_provenance_mut(self.mapped.address + self.offset)
    }
}

/// How UCX is told of operations on a registered block. It is made once: at a tenth of a microsecond for a message, that shows.
pub(crate) struct Parameters {
    /// Puts and gets, of which many follow each other.
    rma: ucp_request_param_t,
    /// Messages, of which many follow each other.
    many: ucp_request_param_t,
    /// A message alone.
    one: ucp_request_param_t,
    receive: ucp_request_param_t,
}

impl Parameters {
    pub(crate) fn new(user_data: *mut c_void, memory_type: ucs_memory_type_t, memh: ucp_mem_h) -> Self {
        let mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE;
        let with = |more: u32, cb: Callback| ucp_request_param_t {
            op_attr_mask: mask | more,
            cb,
            user_data,
            memory_type,
            memh,
            ..nothing()
        };
        let sent = Callback { send: Some(sent) };
        Self {
            rma: with(UCP_OP_ATTR_FLAG_MULTI_SEND | UCP_OP_ATTR_FIELD_MEMH, sent),
            many: with(UCP_OP_ATTR_FLAG_MULTI_SEND, sent),
            one: with(0, sent),
            receive: with(0, Callback { recv: Some(received) }),
        }
    }
}

/// Parameters without a field.
#[inline]
fn nothing() -> ucp_request_param_t {
    // SAFETY: an all-zero ucp_request_param_t is valid: numbers, null pointers and absent callbacks.
    unsafe { mem::zeroed() }
}

/// Memory of the other side.
pub struct Remote<'a> {
    inner: Rc<Inner<'a>>,
    key: ucp_rkey_h,
    address: u64,
    length: usize,
}

/// An operation.
pub enum Post<'p, 'a> {
    /// RMA write of the part to an offset of the other side's memory. It is there after a flush.
    Put(Part<'p, 'a>, &'p Remote<'a>, usize),
    /// RMA read of an offset of the other side's memory into the part.
    Get(Part<'p, 'a>, &'p Remote<'a>, usize),
    /// A message with a tag, one of many.
    Send(Part<'p, 'a>, u64),
    /// A message with a tag, alone.
    SendOne(Part<'p, 'a>, u64),
    /// Everything before it has arrived when it is complete.
    Flush,
}

impl<'a> Worker<'a> {
    /// A way to the worker of an address. `errors`: UCX is to notice that the other side is gone, which shared memory cannot. May
    /// block for minutes where nothing answers.
    pub fn connect(&self, address: &[u8], errors: bool) -> Result<Endpoint<'a>, Error> {
        let inner = Rc::clone(&self.0);
        let library = inner.library();
        let create = symbol(&library.ucp.ucp_ep_create, "ucp_ep_create")?;
        // SAFETY: an all-zero ucp_ep_params_t is valid: numbers, null pointers and absent callbacks, all masked out.
        let mut params: ucp::ucp_ep_params_t = unsafe { mem::zeroed() };
        params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS.into();
        params.address = address.as_ptr().cast();
        if errors {
            params.field_mask |= u64::from(UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER);
            params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
            params.err_handler.cb = Some(lost);
            params.err_handler.arg = inner.user_data();
        }
        let mut handle: ucp_ep_h = ptr::null_mut();
        // SAFETY: the worker is alive, and UCX keeps neither the parameters nor the address. It believes an address to be one of its
        // own: that is why it is taken from an authenticated peer only, and why this process may die.
        let status = unsafe { create(inner.handle, &raw const params, &raw mut handle) };
        library.check("ucp_ep_create", status)?;
        Ok(Endpoint {
            put: symbol(&library.ucp.ucp_put_nbx, "ucp_put_nbx")?,
            get: symbol(&library.ucp.ucp_get_nbx, "ucp_get_nbx")?,
            send: symbol(&library.ucp.ucp_tag_send_nbx, "ucp_tag_send_nbx")?,
            flush: symbol(&library.ucp.ucp_ep_flush_nbx, "ucp_ep_flush_nbx")?,
            inner,
            handle,
        })
    }

    /// Posts a receive of the message with exactly this tag.
    #[inline]
    pub fn receive(&self, part: Part<'_, 'a>, tag: u64) -> Result<(), Error> {
        let receive: Receive = symbol(&self.0.library().ucp.ucp_tag_recv_nbx, "ucp_tag_recv_nbx")?;
        part.of(&self.0);
        let parameters = &raw const part.mapped.parameters.receive;
        // SAFETY: worker and block live until the operation is complete, and UCX keeps no pointer to the parameters.
        let request = unsafe { receive(self.0.handle, part.pointer(), part.length, tag, u64::MAX, parameters) };
        self.0.posted("ucp_tag_recv_nbx", request).map(|_| ())
    }
}

impl<'a> Endpoint<'a> {
    /// Posts an operation. What UCX says of it goes to `info`, if that is asked for, the operation is not complete at once, and this
    /// UCX says something.
    #[inline]
    pub fn post(&self, post: &Post<'_, 'a>, info: Option<&mut String>) -> Result<(), Error> {
        let (call, request) = match post {
            Post::Put(part, remote, offset) => {
                part.of(&self.inner);
                let to = remote.at(*offset, part.length);
                let parameters = &raw const part.mapped.parameters.rma;
                // SAFETY: endpoint, key and block live until the operation is complete; UCX keeps no pointer to the parameters.
                let request =
                    unsafe { (self.put)(self.handle, part.pointer(), part.length, to, remote.key, parameters) };
                ("ucp_put_nbx", request)
            }
            Post::Get(part, remote, offset) => {
                part.of(&self.inner);
                let from = remote.at(*offset, part.length);
                let parameters = &raw const part.mapped.parameters.rma;
                // SAFETY: as for a put; the block is written only through this operation.
                let request =
                    unsafe { (self.get)(self.handle, part.pointer(), part.length, from, remote.key, parameters) };
                ("ucp_get_nbx", request)
            }
            Post::Send(part, tag) | Post::SendOne(part, tag) => {
                part.of(&self.inner);
                let all = &part.mapped.parameters;
                let parameters = if matches!(post, Post::Send(..)) { &raw const all.many } else { &raw const all.one };
                // SAFETY: endpoint and block live until the operation is complete; UCX keeps no pointer to the parameters.
                let request = unsafe { (self.send)(self.handle, part.pointer(), part.length, *tag, parameters) };
                ("ucp_tag_send_nbx", request)
            }
            Post::Flush => {
                let mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
                let user_data = self.inner.user_data();
                let cb = Callback { send: Some(sent) };
                let parameters = ucp_request_param_t { op_attr_mask: mask, cb, user_data, ..nothing() };
                // SAFETY: the endpoint is alive, and UCX keeps no pointer to the parameters.
                let request = unsafe { (self.flush)(self.handle, &raw const parameters) };
                ("ucp_ep_flush_nbx", request)
            }
        };
        let pending = self.inner.posted(call, request)?;
        if let (Some(info), Some(request)) = (info, pending) {
            *info = self.describe(request).unwrap_or_default();
        }
        Ok(())
    }

    /// What UCX says of a request that was just posted: nothing has progressed since, so that it is still there.
    fn describe(&self, request: *mut c_void) -> Option<String> {
        let query = self.inner.library().ucp.ucp_request_query.as_ref().ok()?;
        let mut buffer = [0_u8; INFO];
        // SAFETY: an all-zero ucp_request_attr_t is valid: numbers and null pointers.
        let mut attributes: ucp::ucp_request_attr_t = unsafe { mem::zeroed() };
        attributes.field_mask = (UCP_REQUEST_ATTR_FIELD_INFO_STRING | UCP_REQUEST_ATTR_FIELD_INFO_STRING_SIZE).into();
        attributes.debug_string = buffer.as_mut_ptr().cast();
        attributes.debug_string_size = INFO;
        // SAFETY: the request is not complete; UCX writes at most as many bytes as there are.
        let status = unsafe { query(request, &raw mut attributes) };
        let text = CStr::from_bytes_until_nul(&buffer).ok()?;
        (status == 0).then(|| text.to_string_lossy().into_owned())
    }

    /// Takes the other side's key for `length` bytes of its memory at `address`.
    pub fn remote(&self, key: &[u8], address: u64, length: usize) -> Result<Remote<'a>, Error> {
        let library = self.inner.library();
        let unpack = symbol(&library.ucp.ucp_ep_rkey_unpack, "ucp_ep_rkey_unpack")?;
        symbol(&library.ucp.ucp_rkey_destroy, "ucp_rkey_destroy")?;
        let mut handle: ucp_rkey_h = ptr::null_mut();
        // SAFETY: the endpoint is alive. UCX believes a key to be one of its own, as with an address.
        let status = unsafe { unpack(self.handle, key.as_ptr().cast(), &raw mut handle) };
        library.check("ucp_ep_rkey_unpack", status)?;
        Ok(Remote { inner: Rc::clone(&self.inner), key: handle, address, length })
    }

    /// Transport and device of every lane, as the endpoint itself tells; `None` before 1.14.
    pub fn transports(&self) -> Option<Vec<(String, String)>> {
        let library = self.inner.library();
        if library.version() < TELLS_TRANSPORTS {
            return None;
        }
        let query = library.ucp.ucp_ep_query.as_ref().ok()?;
        let mut entries = [ucp::ucp_transport_entry_t { transport_name: ptr::null(), device_name: ptr::null() }; LANES];
        // SAFETY: an all-zero ucp_ep_attr_t is valid: numbers, characters and null pointers.
        let mut attributes: ucp::ucp_ep_attr_t = unsafe { mem::zeroed() };
        attributes.field_mask = UCP_EP_ATTR_FIELD_TRANSPORTS.into();
        attributes.transports.entries = entries.as_mut_ptr();
        attributes.transports.num_entries = u32::try_from(LANES).unwrap_or_default();
        attributes.transports.entry_size = size_of::<ucp::ucp_transport_entry_t>();
        // SAFETY: the endpoint is alive; UCX writes at most as many entries as it is told there are.
        let status = unsafe { query(self.handle, &raw mut attributes) };
        let told = entries.iter().take(attributes.transports.num_entries as usize);
        let told = told.map(|entry| (name(entry.transport_name), name(entry.device_name)));
        (status == 0).then(|| told.collect())
    }

    /// UCX's own description of it; [`crate::text::lanes`] reads it.
    pub fn info(&self) -> Result<String, Error> {
        let print = symbol(&self.inner.library().ucp.ucp_ep_print_info, "ucp_ep_print_info")?;
        let text = printed(|stream| {
            // SAFETY: endpoint and stream are alive for the call.
            unsafe { print(self.handle, stream.cast()) };
        });
        Ok(text?)
    }

    /// Closes it at once, whatever is under way. Where the close itself is not complete at once, the worker's end completes it.
    pub fn close(self) {
        if let Ok(close) = self.inner.library().ucp.ucp_ep_close_nbx {
            let parameters = ucp_request_param_t {
                op_attr_mask: UCP_OP_ATTR_FIELD_FLAGS,
                flags: UCP_EP_CLOSE_FLAG_FORCE,
                ..nothing()
            };
            // SAFETY: the endpoint is alive, and nothing uses it after this, which took it.
            let request = unsafe { close(self.handle, &raw const parameters) };
            // A request that stays is the worker's to release.
            let _ = request;
        }
    }
}

/// A name of UCX's.
fn name(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: UCX gives NUL-terminated names that live as long as its context.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_string_lossy().into_owned()
}

impl Remote<'_> {
    #[inline]
    fn at(&self, offset: usize, length: usize) -> u64 {
        within(offset, length, self.length);
        self.address.wrapping_add(offset as u64)
    }
}

impl Drop for Remote<'_> {
    fn drop(&mut self) {
        // With operations under way the key stays; the process is about to end then.
        if self.inner.counters.outstanding.get() == 0
            && let Ok(destroy) = self.inner.library().ucp.ucp_rkey_destroy
        {
            // SAFETY: the key came from ucp_ep_rkey_unpack, nothing uses it, and this is its only release.
            unsafe { destroy(self.key) };
        }
    }
}
