//! One transfer's setting: UCX is loaded, memory registered, the other side met, and both wait for each other without ever standing
//! still.

use std::{
    mem::ManuallyDrop,
    path::PathBuf,
    rc::Rc,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use policies::selftest::{FailureKind, Memory, Op, Order, Role};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use ucx_sys::{Block, Context, Endpoint, HostBlock, Kind, Library, Mapped, Post, Remote, Worker, search};

use super::{
    Line, Trouble,
    gather::Gathered,
    link::{Hello, Lent, Link, PROTOCOL, Word, unexpected},
    pattern::tag,
    steps,
};

/// Bytes of the memory for what the two sides say over UCX: the wire-up, acknowledgements.
const CONTROL: usize = 4096;
/// Bytes beyond the largest size: one message is moved to an odd place.
const SLACK: u64 = 64;
/// Bytes of patterns and comparisons.
const SCRATCH: u64 = 1 << 20;
/// What UCX may have beside the buffers: its pools, rings and bounce buffers.
const UCX_OWN: u64 = 4 << 30;
/// Longest size that an order may have, whatever its bound.
const LARGEST: u64 = 1 << 40;
/// The step of the tags that are no step's.
const WIRE_UP: u64 = u64::MAX >> 16;
/// How long the target stays for the initiator's last word.
const PARTING: Duration = Duration::from_secs(2);

/// A transfer under way.
pub(super) struct Session<'a, 'l> {
    pub(super) order: &'a Order,
    pub(super) link: &'l mut Link,
    pub(super) worker: &'a Worker<'static>,
    pub(super) endpoint: Endpoint<'static>,
    /// The buffer.
    pub(super) data: &'a Mapped<'static>,
    /// What is said over UCX, in host memory.
    pub(super) control: &'a Mapped<'static>,
    /// The other side's buffer.
    pub(super) remote: Option<Remote<'static>>,
    stall: Duration,
}

/// All of it.
pub(super) fn run(order: &Order, folders: &[PathBuf], link: &mut Link, into: &mut Gathered) -> Result<(), Trouble> {
    check(order)?;
    bound(order)?;
    link.line(&Line::Enters("searching for UCX".into()));
    let folders = if folders.is_empty() { search::usual_folders() } else { folders.to_vec() };
    let Some(files) = search::find(&folders) else {
        let searched: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        return Err(Trouble::new(FailureKind::NoUcx, format!("no UCX in {}", searched.join(", "))));
    };
    link.line(&Line::Enters(format!("loading {}", files.ucp.display())));
    let library = Library::load(&files).map_err(|error| Trouble::ucx(FailureKind::NoUcx, &error))?;
    // For the process's life, which ends without destructors.
    let library: &'static Library = Box::leak(Box::new(library));
    into.library(library, files.ucp.display().to_string());
    into.so_far(link);

    // The GPU's context comes first: UCX's CUDA transports ask for one that is current.
    let gpu = enter(order, link)?;
    link.line(&Line::Enters("making a context (ucp_init)".into()));
    let context = Context::new(library, &[]).map_err(|error| Trouble::ucx(FailureKind::NoTransport, &error))?;
    let context = ManuallyDrop::new(context);
    into.settings(library);
    takes(&context, order)?;
    let worker = Worker::new(ManuallyDrop::into_inner(context));
    let worker = kept(worker.map_err(|error| Trouble::ucx(FailureKind::NoTransport, &error))?);
    let data = allocate(order, gpu.as_ref(), link)?;
    link.line(&Line::Enters("registering memory (ucp_mem_map)".into()));
    let memory = |error: &ucx_sys::Error| Trouble::new(FailureKind::Memory, format!("{error}{}", locked()));
    let data = kept(worker.map(data).map_err(|error| memory(&error))?);
    if !data.is_understood().map_err(|error| memory(&error))? {
        return Err(Trouble::new(
            FailureKind::NoTransport,
            format!("UCX takes memory of {} for the host's", order.memory),
        ));
    }
    let control = HostBlock::new(CONTROL).map_err(|error| Trouble::new(FailureKind::Memory, error.to_string()))?;
    let control = kept(worker.map(Rc::new(control)).map_err(|error| memory(&error))?);

    let proof = tag(&order.secret, WIRE_UP, u64::from(u16::MAX));
    let failed = |error: ucx_sys::Error| Trouble::ucx(FailureKind::NoTransport, &error);
    let hello = Hello {
        protocol: PROTOCOL,
        ucx: library.version().to_string(),
        role: order.role,
        memory: order.memory,
        ops: order.ops.clone(),
        sizes: order.sizes.clone(),
        proof,
        address: BASE64_STANDARD.encode(worker.address().map_err(failed)?),
        lent: Lent {
            at: data.block().address(),
            len: data.block().len() as u64,
            key: BASE64_STANDARD.encode(data.key().map_err(|error| memory(&error))?),
        },
    };
    link.line(&Line::Enters("waiting for the other side's first word".into()));
    link.say(&Word::Hello(hello));
    let peer = meet(link, worker, order, proof)?;
    into.report.memory.remote = peer.memory;
    into.report.ucx.peer_version.clone_from(&peer.ucx);
    into.so_far(link);

    let endpoint = connect(worker, &peer, link, into)?;
    let stall = Duration::try_from_secs_f64(order.limits.stall_seconds).unwrap_or(Duration::MAX);
    let mut session = Session { order, link, worker, endpoint, data, control, remote: None, stall };
    session.wire_up()?;
    into.endpoint(&session.endpoint);
    if order.ops.iter().any(|op| matches!(op, Op::Put | Op::Get)) {
        session.reach(&peer.lent)?;
    }
    match order.role {
        Role::Initiator => steps::initiate(&mut session, into)?,
        Role::Target => steps::answer(&mut session, into)?,
    }
    into.whole();
    session.endpoint.close();
    Ok(())
}

/// A value that is never dropped: the process ends without the cleanup of libraries, some of which do not survive it.
fn kept<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Refuses what no transfer can be.
fn check(order: &Order) -> Result<(), Trouble> {
    let refuse = |what: &str| Err(Trouble::new(FailureKind::Protocol, format!("the order has {what}")));
    let limits = &order.limits;
    if order.secret.len() != 32 || !order.secret.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return refuse("no secret of 32 hexadecimal digits");
    }
    if order.ops.is_empty() || (order.sizes.is_empty() && order.ops.iter().any(|op| *op != Op::Latency)) {
        return refuse("nothing to do");
    }
    if order.sizes.iter().any(|size| *size == 0 || *size > LARGEST) {
        return refuse("a size of nothing, or of more than any memory");
    }
    let positive = |number: f64| number.is_finite() && number > 0.0;
    if ![limits.deadline_seconds, limits.seconds_each, limits.stall_seconds, limits.share].into_iter().all(positive)
        || limits.share > 1.0
    {
        return refuse("limits that are not positive");
    }
    Ok(())
}

/// Bytes of the buffer, and a bound for everything else that this process allocates.
fn bound(order: &Order) -> Result<(), Trouble> {
    let needs = buffer(order) + CONTROL as u64 + SCRATCH;
    let bound = order.limits.buffer_bytes;
    if needs > bound {
        let message = format!("its sizes need {needs} bytes of memory, and its bound is {bound}");
        return Err(Trouble::new(FailureKind::Memory, message));
    }
    // Private writable memory: what RLIMIT_AS bounds has the address ranges that CUDA reserves in it, which are no memory.
    let wanted = bound.saturating_add(UCX_OWN);
    let has = getrlimit(Resource::Data);
    let least = |limit: Option<u64>| Some(limit.map_or(wanted, |limit| limit.min(wanted)));
    let limit = Rlimit { current: least(has.current), maximum: least(has.maximum) };
    setrlimit(Resource::Data, limit)
        .map_err(|error| Trouble::new(FailureKind::Memory, format!("bounding its memory: {error}")))
}

fn buffer(order: &Order) -> u64 {
    order.sizes.iter().copied().max().unwrap_or_default().max(steps::LATENCY_BYTES) + SLACK + 2 * SLACK
}

/// The GPU's context, where the order is for its memory.
fn enter(order: &Order, link: &mut Link) -> Result<Option<Rc<cuda::GpuContext>>, Trouble> {
    let Memory::Cuda(gpu) = order.memory else { return Ok(None) };
    link.line(&Line::Enters("making a context of a GPU (cuDevicePrimaryCtxRetain)".into()));
    let driver = cuda::Driver::load().ok_or_else(|| no_memory(order, "no NVIDIA driver here"))?;
    driver.init().map_err(|error| no_memory(order, error))?;
    let context = cuda::GpuContext::enter(driver, gpu).map_err(|error| no_memory(order, error))?;
    Ok(Some(Rc::new(context)))
}

/// The buffer. UCX is started by now, so that it can see how memory of a GPU is allocated.
fn allocate(order: &Order, gpu: Option<&Rc<cuda::GpuContext>>, link: &mut Link) -> Result<Rc<dyn Block>, Trouble> {
    link.line(&Line::Enters(format!("allocating {} memory", order.memory)));
    let length = usize::try_from(buffer(order)).map_err(|error| no_memory(order, error))?;
    Ok(match gpu {
        None => Rc::new(HostBlock::new(length).map_err(|error| no_memory(order, error))?),
        Some(context) => Rc::new(cuda::GpuBlock::new(context, length).map_err(|error| no_memory(order, error))?),
    })
}

fn no_memory(order: &Order, why: impl std::fmt::Display) -> Trouble {
    let (bytes, memory) = (buffer(order), order.memory);
    Trouble::new(FailureKind::Memory, format!("{bytes} bytes of {memory} memory cannot be had: {why}"))
}

/// UCX without a transport for GPUs takes their memory for the host's, whatever it is told, and the CPU then reads it and dies.
fn takes(context: &Context<'_>, order: &Order) -> Result<(), Trouble> {
    let kind = match order.memory {
        Memory::Host => Kind::Host,
        Memory::Cuda(_) => Kind::Cuda,
    };
    let types = context.memory_types().map_err(|error| Trouble::ucx(FailureKind::NoTransport, &error))?;
    if types.has(kind) {
        return Ok(());
    }
    let message = format!(
        "the transports in force take memory of {} only, not of {}: UCX_TLS needs cuda_copy, and this UCX its CUDA modules",
        types.names().join(", "),
        order.memory
    );
    Err(Trouble::new(FailureKind::NoTransport, message))
}

/// What is known of the lock limit, for a failure to register memory.
fn locked() -> String {
    match getrlimit(Resource::Memlock).current {
        Some(bytes) => format!("; this process may lock {bytes} bytes (RLIMIT_MEMLOCK)"),
        None => String::new(),
    }
}

/// Waits for the other child, which may take its time to load UCX.
fn meet(link: &mut Link, worker: &Worker<'_>, order: &Order, proof: u64) -> Result<Hello, Trouble> {
    loop {
        worker.progress();
        match link.word()? {
            Some(Word::Hello(hello)) => return hello.fits(order, proof).map(|()| hello),
            Some(word) => return Err(unexpected(&word)),
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn connect(
    worker: &Worker<'static>,
    peer: &Hello,
    link: &mut Link,
    into: &mut Gathered,
) -> Result<Endpoint<'static>, Trouble> {
    link.line(&Line::Enters("making the endpoint (ucp_ep_create)".into()));
    let address = BASE64_STANDARD.decode(&peer.address).unwrap_or_default();
    if address.is_empty() {
        return Err(Trouble::new(FailureKind::Protocol, "the other side's address is no base64"));
    }
    let unreachable = |error: ucx_sys::Error| Trouble::ucx(FailureKind::Unreachable, &error);
    // With errors noticed, as NIXL makes its endpoints. Shared memory notices none, and is not chosen then.
    let noticing = worker.connect(&address, true);
    let endpoint = if let Ok(endpoint) = noticing {
        endpoint
    } else {
        let endpoint = worker.connect(&address, false).map_err(unreachable)?;
        into.report.evidence.push("the transports in force cannot notice a lost peer: endpoint made without".into());
        endpoint
    };
    Ok(endpoint)
}

impl Session<'_, '_> {
    /// One message each way, so that the endpoint has its final lanes.
    fn wire_up(&mut self) -> Result<(), Trouble> {
        self.link.line(&Line::Enters("connecting (the first message over UCX)".into()));
        let (mine, theirs) = match self.order.role {
            Role::Initiator => (0, 1),
            Role::Target => (1, 0),
        };
        let posted = |error: ucx_sys::Error| Trouble::ucx(FailureKind::Unreachable, &error);
        let secret = &self.order.secret;
        self.worker.receive(self.control.part(64, 8), tag(secret, WIRE_UP, theirs)).map_err(posted)?;
        self.endpoint
            .post(&Post::SendOne(self.control.part(0, 8), tag(secret, WIRE_UP, mine)), None)
            .map_err(posted)?;
        self.endpoint.post(&Post::Flush, None).map_err(posted)?;
        self.settle(0).map_err(|mut trouble| {
            if matches!(trouble.kind, FailureKind::Stalled | FailureKind::Broken) {
                trouble.kind = FailureKind::Unreachable;
                trouble.message = format!("the first message over UCX did not arrive: {}", trouble.message);
            }
            trouble
        })?;
        self.link.say(&Word::Up);
        match self.hear()? {
            Word::Up => Ok(()),
            word => Err(unexpected(&word)),
        }
    }

    /// Takes the other side's key. Only the initiator uses it; where the target cannot take one, the versions do not fit either.
    fn reach(&mut self, lent: &Lent) -> Result<(), Trouble> {
        let key = BASE64_STANDARD.decode(&lent.key).unwrap_or_default();
        let length = usize::try_from(lent.len).unwrap_or_default();
        if key.is_empty() || lent.len < buffer(self.order) {
            return Err(Trouble::new(FailureKind::Protocol, "the other side lent no memory, or too little"));
        }
        let remote = self.endpoint.remote(&key, lent.at, length);
        self.remote = Some(remote.map_err(|error| Trouble::ucx(FailureKind::Unreachable, &error))?);
        Ok(())
    }

    /// The other side's memory.
    pub(super) fn need_remote(&self) -> Result<&Remote<'static>, Trouble> {
        self.remote.as_ref().ok_or_else(|| Trouble::new(FailureKind::Protocol, "the other side lent no memory"))
    }

    /// Posts.
    #[inline]
    pub(super) fn post(&self, post: &Post<'_, 'static>, info: Option<&mut String>) -> Result<(), Trouble> {
        self.endpoint.post(post, info).map_err(|error| Trouble::ucx(FailureKind::Broken, &error))
    }

    /// Posts a receive.
    #[inline]
    pub(super) fn receive(&self, mapped: &Mapped<'static>, at: usize, length: usize, tag: u64) -> Result<(), Trouble> {
        self.worker.receive(mapped.part(at, length), tag).map_err(|error| Trouble::ucx(FailureKind::Broken, &error))
    }

    /// Progresses until at most `left` operations are under way.
    #[inline]
    pub(super) fn settle(&self, left: u64) -> Result<(), Trouble> {
        // The common case asks no clock.
        for _ in 0..512 {
            if self.worker.outstanding() <= left {
                return self.failure();
            }
            self.worker.progress();
        }
        self.settle_slowly(left)
    }

    #[cold]
    fn settle_slowly(&self, left: u64) -> Result<(), Trouble> {
        let (mut seen, mut since) = (self.worker.outstanding(), Instant::now());
        while self.worker.outstanding() > left {
            for _ in 0..256 {
                self.worker.progress();
                if self.worker.outstanding() <= left {
                    break;
                }
            }
            self.failure()?;
            self.link.listen()?;
            let now = self.worker.outstanding();
            if now != seen {
                (seen, since) = (now, Instant::now());
                continue;
            }
            // Nothing moved: the other side may want the processor that this loop burns.
            thread::yield_now();
            if since.elapsed() > self.stall {
                let message = format!("{now} operations under way, and none completed for {:?}", self.stall);
                return Err(Trouble::new(FailureKind::Stalled, message));
            }
        }
        self.failure()
    }

    /// Waits for the other side's word, while UCX goes on. The initiator does not wait for long: what it waits for takes no time but
    /// that of comparing bytes. The target waits as long as its parent lets it.
    pub(super) fn hear(&mut self) -> Result<Word, Trouble> {
        let longest = self.stall.saturating_add(Duration::from_secs(buffer(self.order) >> 26));
        let (since, mut idle) = (Instant::now(), 0_u32);
        loop {
            for _ in 0..64 {
                idle = if self.worker.progress() == 0 { idle.saturating_add(1) } else { 0 };
            }
            if let Some(word) = self.link.word()? {
                return Ok(word);
            }
            self.failure()?;
            if self.order.role == Role::Initiator && since.elapsed() > longest {
                return Err(Trouble::new(FailureKind::Stalled, format!("the other side said nothing for {longest:?}")));
            }
            // Nothing has moved for a while: who has something to do may have the processor.
            if idle > 8192 {
                thread::yield_now();
            }
        }
    }

    /// Lets the link rest.
    pub(super) fn rest(&mut self, time: Duration) -> Result<(), Trouble> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            self.worker.progress();
            self.link.listen()?;
            self.failure()?;
            thread::sleep(left.min(Duration::from_millis(5)));
        }
        Ok(())
    }

    /// Waits a moment for the other side's last word. It may be gone by then, and nothing is lost with it.
    pub(super) fn part(&mut self) {
        let until = Instant::now() + PARTING;
        while Instant::now() < until && !matches!(self.link.word(), Ok(Some(_)) | Err(_)) {
            self.worker.progress();
            thread::yield_now();
        }
    }

    #[inline]
    fn failure(&self) -> Result<(), Trouble> {
        self.worker.failure().map_err(|error| Trouble::ucx(FailureKind::Broken, &error))
    }
}
