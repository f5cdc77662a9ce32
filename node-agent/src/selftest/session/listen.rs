//! The called side of sessions: a listener that few can keep busy and nobody can hold on to.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use policies::selftest::{Terms, is_secret};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    Child, Fingerprint, Identity, Reason, Refusals, Reports,
    identity::random_hex,
    relay::relay,
    wire::{Channel, Greeting, Hello, Message, PROTOCOL, WireError},
};
use crate::selftest::gate::Gate;

/// For the handshake, and again for the hello.
const PATIENCE: Duration = Duration::from_secs(5);
/// For finding out who calls: a request to the API server.
const LOOKUP: Duration = Duration::from_secs(8);
/// How many may be there at once without having said who they are.
const UNKNOWN: usize = 8;
/// How many secrets are remembered: more sessions than a node has in a day.
const SECRETS: usize = 8192;
/// After a failed accept (no file descriptors, say).
const PAUSE: Duration = Duration::from_millis(500);

/// What a node answers to the terms of a caller whom it knows.
#[derive(Debug)]
pub struct Answer<C> {
    /// The terms, narrowed.
    pub terms: Terms,
    /// The child, started.
    pub child: C,
}

/// A session that took place here.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// Who called.
    pub from: String,
    /// What was agreed on.
    pub terms: Terms,
    /// How it went, seen from here.
    pub reports: Reports,
}

/// The node that is called.
pub trait Host: Send + Sync + 'static {
    /// Its transfers.
    type Child: Child;
    /// Its name.
    fn name(&self) -> &str;
    /// The certificate that the `NodeFabric` of `node` says. `fresh`: what is remembered does not do, ask the API server.
    fn certificate(&self, node: &str, fresh: bool) -> impl Future<Output = Option<Fingerprint>> + Send;
    /// Takes the terms of `caller` or does not. Called only while this node has no session.
    ///
    /// # Errors
    /// Why not.
    fn answer(
        &self,
        caller: &str,
        terms: &Terms,
        secret: &str,
    ) -> impl Future<Output = Result<Answer<Self::Child>, (Reason, String)>> + Send;
    /// Returns when a session on these terms must end, with the reason.
    fn stop(&self, terms: &Terms) -> impl Future<Output = String> + Send;
    /// A session is over.
    fn served(&self, session: Served) -> impl Future<Output = ()> + Send;
}

/// Listens.
pub struct Listener {
    socket: TcpListener,
    acceptor: TlsAcceptor,
    refusals: Refusals,
    gate: Gate,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Listener").field(&self.socket.local_addr()).finish()
    }
}

impl Listener {
    /// Binds.
    ///
    /// # Errors
    /// The system's, and rustls's.
    pub async fn bind(address: SocketAddr, identity: &Identity, gate: Gate, refusals: Refusals) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let config = identity.called().map_err(io::Error::other)?;
        Ok(Self { socket, acceptor: TlsAcceptor::from(Arc::new(config)), refusals, gate })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until it is dropped, which ends every session with it.
    pub async fn serve(self, host: Arc<impl Host>) {
        let unknown = Arc::new(Semaphore::new(UNKNOWN));
        let secrets = Arc::new(Secrets::default());
        let mut sessions = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                Some(_) = sessions.join_next() => continue,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "could not accept a self-test call");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&unknown).try_acquire_owned() else {
                self.refusals.add(
                    Reason::Crowded,
                    &from.to_string(),
                    "too many callers that have not said who they are",
                );
                continue;
            };
            let call = Call {
                acceptor: self.acceptor.clone(),
                refusals: self.refusals.clone(),
                gate: self.gate.clone(),
                secrets: Arc::clone(&secrets),
                host: Arc::clone(&host),
            };
            sessions.spawn(async move { call.take(stream, from, permit).await });
        }
    }
}

/// One connection.
struct Call<H> {
    acceptor: TlsAcceptor,
    refusals: Refusals,
    gate: Gate,
    secrets: Arc<Secrets>,
    host: Arc<H>,
}

type Secure = Channel<tokio_rustls::server::TlsStream<TcpStream>>;

impl<H: Host> Call<H> {
    async fn take(self, stream: TcpStream, from: SocketAddr, permit: tokio::sync::OwnedSemaphorePermit) {
        let from = from.to_string();
        let _ = stream.set_nodelay(true);
        let stream = match timeout(PATIENCE, self.acceptor.accept(stream)).await {
            Err(_) => return self.refusals.add(Reason::Silent, &from, "no TLS handshake in time"),
            Ok(Err(error)) => return self.refusals.add(Reason::Handshake, &from, &error.to_string()),
            Ok(Ok(stream)) => stream,
        };
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(Fingerprint::of);
        let Some(shown) = shown else { return self.refusals.add(Reason::Handshake, &from, "no certificate") };
        let mut channel = Channel::new(stream);
        match self.hello(&mut channel, shown).await {
            Err((reason, why)) => {
                self.refusals.add(reason, &from, &why);
                let _ = channel.send(&Message::Refused { reason, message: why }).await;
            }
            Ok(hello) => {
                drop(permit);
                self.session(&mut channel, &from, *hello).await;
            }
        }
        channel.close().await;
    }

    /// Finds out who calls, and whether it is who it says.
    async fn hello(&self, channel: &mut Secure, shown: Fingerprint) -> Result<Box<Hello>, (Reason, String)> {
        let nonce = random_hex().map_err(|error| (Reason::NotNow, error.to_string()))?;
        let greeting = Greeting { protocol: PROTOCOL, node: self.host.name().into(), nonce: nonce.clone() };
        channel.send(&Message::Greeting(greeting)).await.map_err(|error| wire(&error))?;
        let first = channel.receive_within(PATIENCE).await.map_err(|error| wire(&error))?;
        let Message::Hello(hello) = first else {
            return Err((Reason::Garbled, "the first message must be a hello".into()));
        };
        if hello.nonce != nonce {
            return Err((Reason::Nonce, "this hello is of another connection".into()));
        }
        if hello.to != self.host.name() {
            return Err((Reason::NotMe, format!("this is {}, not {:?}", self.host.name(), hello.to)));
        }
        if !self.is(&hello.node, shown).await? {
            return Err((Reason::Certificate, format!("the certificate is not the one of {:?}", hello.node)));
        }
        // Only now: a stranger must not fill this memory.
        if !is_secret(&hello.secret) || !self.secrets.take(&hello.secret) {
            return Err((Reason::Secret, "the secret was used before, or is none".into()));
        }
        Ok(hello)
    }

    async fn is(&self, node: &str, shown: Fingerprint) -> Result<bool, (Reason, String)> {
        if self.host.certificate(node, false).await == Some(shown) {
            return Ok(true);
        }
        // It may be new, or have started again since.
        match timeout(LOOKUP, self.host.certificate(node, true)).await {
            Ok(Some(said)) => Ok(said == shown),
            Ok(None) => Err((Reason::UnknownNode, format!("no NodeFabric {node:?} with a certificate is known here"))),
            Err(_) => Err((Reason::UnknownNode, format!("the API server did not say in time who {node:?} is"))),
        }
    }

    async fn session(&self, channel: &mut Secure, from: &str, hello: Hello) {
        let _session = match self.gate.enter() {
            Ok(session) => session,
            Err(retry_after) => {
                self.refusals.add(Reason::Busy, from, &format!("{} calls during a session", hello.node));
                let retry_after_seconds = u32::try_from(retry_after.as_secs()).unwrap_or(u32::MAX).max(1);
                let _ = channel.send(&Message::Busy { retry_after_seconds }).await;
                return;
            }
        };
        let answer = match self.host.answer(&hello.node, &hello.terms, &hello.secret).await {
            Ok(answer) => answer,
            Err((reason, message)) => {
                self.refusals.add(reason, from, &message);
                let _ = channel.send(&Message::Refused { reason, message }).await;
                return;
            }
        };
        self.gate.until(Duration::from_secs_f64(answer.terms.limits.deadline_seconds));
        let Answer { terms, child } = answer;
        if channel.send(&Message::Accepted(terms.clone())).await.is_err() {
            return;
        }
        if let Ok(reports) = relay(channel, child, &terms.limits, self.host.stop(&terms)).await {
            self.host.served(Served { from: hello.node, terms, reports }).await;
        }
    }
}

fn wire(error: &WireError) -> (Reason, String) {
    let reason = match error {
        WireError::Silent(_) | WireError::Stuck | WireError::Closed | WireError::Io(_) => Reason::Silent,
        WireError::Garbled(_) => Reason::Garbled,
        WireError::Version(_) => Reason::Version,
    };
    (reason, error.to_string())
}

/// The secrets that were used.
#[derive(Debug, Default)]
struct Secrets(Mutex<VecDeque<String>>);

impl Secrets {
    /// Whether it is new; from now on it is not.
    fn take(&self, secret: &str) -> bool {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.iter().any(|one| one == secret) {
            return false;
        }
        if used.len() == SECRETS {
            used.pop_front();
        }
        used.push_back(secret.to_owned());
        true
    }
}
