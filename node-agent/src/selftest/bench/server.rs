//! The server: it lends memory to one client at a time, within its own bounds.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use policies::selftest::{Failure, FailureKind, Memory, Order, Report, Role, Size};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{sleep, timeout},
};

use super::{
    Asked, Frame, PROTOCOL, environment, print, relay,
    secret::{Secret, random},
    wire::{Broken, Wire},
};
use crate::{args::BenchServerArgs, selftest::child::Transfer};

/// How long a client may take to ask.
const ASK: Duration = Duration::from_secs(5);
/// How long a client waits for a session that is about to end: the last one's client is often gone before its server is done.
const ENDING: Duration = Duration::from_secs(4);
/// Most connections that have not asked yet.
const ASKING: usize = 16;
/// Most sizes and operations of one order.
const MOST: usize = 64;
/// Longest times that an order may have, in seconds: for each size, and for everything.
const SECONDS: (f64, f64) = (60.0, 3600.0);

struct Server {
    args: BenchServerArgs,
    secret: Secret,
    /// One session at a time.
    session: Arc<Semaphore>,
}

/// `railbind-agent bench server`.
pub(crate) async fn serve(args: BenchServerArgs) -> anyhow::Result<()> {
    let secret = Secret::read(args.secret_file.as_deref())?;
    let listener = TcpListener::bind(&args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
    let address = listener.local_addr().context("asking for the address that is listened on")?;
    let note = if secret.is_set() {
        "clients must know the secret"
    } else {
        "whoever reaches this address can start transfers; --secret-file on both sides keeps strangers out"
    };
    eprintln!("listening on {address}; {note}");
    let once = args.once;
    let server = Arc::new(Server { args, secret, session: Arc::new(Semaphore::new(1)) });
    let asking = Arc::new(Semaphore::new(ASKING));
    let (done, mut reports) = mpsc::channel::<Report>(1);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, or a client that is gone already: neither is a reason to end.
                    eprintln!("accepting a connection: {error}");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            report = reports.recv() => match report.and_then(|report| report.failure) {
                _ if !once => continue,
                None => return Ok(()),
                Some(failure) => anyhow::bail!("{}", failure.message),
            },
        };
        // Whoever comes while so many keep us waiting is let go at once.
        let Ok(asking) = Arc::clone(&asking).try_acquire_owned() else { continue };
        let (server, done) = (Arc::clone(&server), done.clone());
        tokio::spawn(async move {
            if let Some(report) = server.client(stream, asking).await {
                let _ = done.send(report).await;
            }
        });
    }
}

impl Server {
    /// One connection; its report, if it came to a session.
    async fn client(&self, stream: TcpStream, asking: OwnedSemaphorePermit) -> Option<Report> {
        let mut wire = Wire::new(stream).ok()?;
        let peer = wire.peer();
        let agreed = self.agree(&mut wire).await;
        drop(asking);
        let (asked, memory, _session) = match agreed {
            Ok(agreed) => agreed,
            Err(failure) => {
                eprintln!("{}", print::plain(&format!("refused {peer}: {}", failure.message)));
                let _ = wire.send(&Frame::Refused(failure)).await;
                return None;
            }
        };
        let order = Order {
            role: Role::Target,
            secret: asked.secret,
            memory,
            ops: asked.ops,
            sizes: asked.sizes,
            env: environment(),
            limits: asked.limits,
        };
        eprintln!("session with {peer}");
        let report = relay::run(&mut wire, Transfer::start(order, &self.args.ucx_folders), |_, _, _| {}).await;
        let outcome = match &report.failure {
            None => format!("done in {:.1} s over {}", report.seconds, report.transport.as_deref().unwrap_or("?")),
            Some(failure) => format!("failed: {}", failure.message),
        };
        eprintln!("{}", print::plain(&format!("session with {peer} {outcome}")));
        Some(report)
    }

    /// Greets, hears what is asked for, and takes the session.
    async fn agree(&self, wire: &mut Wire) -> Result<(Asked, Memory, OwnedSemaphorePermit), Failure> {
        let ours = random::<32>().map_err(|error| refuse(FailureKind::Protocol, error.to_string()))?;
        let agent = env!("CARGO_PKG_VERSION").to_owned();
        let secret = self.secret.is_set();
        let greeting = Frame::Greeting { protocol: PROTOCOL, agent, nonce: ours.clone(), secret };
        wire.send(&greeting).await.map_err(|error| refuse(FailureKind::Peer, error.to_string()))?;
        let (asked, theirs, proof) = match wire.receive_within(ASK).await {
            Ok(Frame::Ask { protocol, .. }) if protocol != PROTOCOL => return Err(another_version(protocol)),
            Ok(Frame::Ask { nonce, order, proof, .. }) => (order, nonce, proof),
            Ok(_) => return Err(refuse(FailureKind::Protocol, "the client did not ask for anything")),
            Err(error @ Broken::Nonsense(_)) => return Err(refuse(FailureKind::Protocol, error.to_string())),
            Err(error) => return Err(refuse(FailureKind::Peer, error.to_string())),
        };
        // What is asked for is part of the proof, so that nobody on the way changes it.
        let order = serde_json::to_string(&asked).unwrap_or_default();
        if !self.secret.proves(&["client", &ours, &theirs, &order], proof.as_deref()) {
            let message = if proof.is_some() { "the client has another secret" } else { "the client gave no secret" };
            return Err(refuse(FailureKind::Protocol, message));
        }
        let memory = self.bounded(&asked)?;
        let session = timeout(ENDING, Arc::clone(&self.session).acquire_owned()).await.ok().and_then(Result::ok);
        let session = session.ok_or_else(|| refuse(FailureKind::Peer, "the server is busy with another session"))?;
        let accepted = Frame::Accepted { proof: self.secret.proof(&["server", &ours, &theirs]), memory };
        wire.send(&accepted).await.map_err(|error| refuse(FailureKind::Peer, error.to_string()))?;
        Ok((asked, memory, session))
    }

    /// Whether an order is one that this server makes.
    fn bounded(&self, asked: &Asked) -> Result<Memory, Failure> {
        let most = self.args.max_size.0;
        let limits = &asked.limits;
        let too_large = asked.sizes.iter().find(|size| **size > most);
        if let Some(size) = too_large {
            let message = format!("{} are more than the {} that this server moves at once", Size(*size), Size(most));
            return Err(refuse(FailureKind::Memory, message));
        }
        if asked.sizes.len() > MOST || asked.ops.len() > MOST {
            return Err(refuse(FailureKind::Protocol, format!("more than {MOST} sizes or operations at once")));
        }
        // Not a number is within nothing.
        let within = limits.seconds_each <= SECONDS.0
            && limits.deadline_seconds <= SECONDS.1
            && limits.stall_seconds <= SECONDS.1
            && limits.buffer_bytes <= most.saturating_add(super::client::BESIDE);
        if !within {
            let message = format!("more than {} s each, {} s in all, or memory beyond its sizes", SECONDS.0, SECONDS.1);
            return Err(refuse(FailureKind::Protocol, message));
        }
        match (asked.memory, self.args.memory) {
            (Some(asked), Some(lent)) if asked != lent => {
                Err(refuse(FailureKind::Memory, format!("this server lends memory of {lent}, not of {asked}")))
            }
            (asked, lent) => Ok(asked.or(lent).unwrap_or(Memory::Host)),
        }
    }
}

pub(super) fn another_version(theirs: u32) -> Failure {
    let message = format!("the other side speaks version {theirs} of the bench protocol, this one {PROTOCOL}");
    refuse(FailureKind::Protocol, message)
}

fn refuse(kind: FailureKind, message: impl Into<String>) -> Failure {
    crate::selftest::transfer::Trouble::new(kind, message).into()
}
