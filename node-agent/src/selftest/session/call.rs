//! The calling side of a session.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use policies::selftest::Terms;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    Child, Fingerprint, Identity, Reason, Reports,
    identity::random_hex,
    relay::relay,
    wire::{Channel, Hello, Message, PROTOCOL, WireError},
};

/// For the connection, and again for the handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// For each answer. The called side may have to ask the API server who calls.
const ANSWER: Duration = Duration::from_secs(15);

/// Whom to call, and as whom.
#[derive(Debug, Clone)]
pub struct Dial {
    /// Own name.
    pub me: String,
    /// Node to call.
    pub to: String,
    /// Where it listens, as its `NodeFabric` says.
    pub address: SocketAddr,
    /// Its certificate, as its `NodeFabric` says.
    pub certificate: Fingerprint,
}

/// A session that took place.
#[derive(Debug, Clone, PartialEq)]
pub struct Called {
    /// What was agreed on.
    pub terms: Terms,
    /// How it went.
    pub reports: Reports,
}

/// Why there was no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// A session is going on there.
    #[error("{to} is busy: call again in {retry_after:.0?}")]
    Busy {
        /// Node.
        to: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// It says no.
    #[error("{to} refuses ({}): {message}", reason.as_str())]
    Refused {
        /// Node.
        to: String,
        /// For programs.
        reason: Reason,
        /// For people.
        message: String,
    },
    /// Nobody answers there.
    #[error(
        "{to} does not answer at {address}: {why}; is its agent running, and does a NetworkPolicy or firewall let agents reach each other?"
    )]
    Unreachable {
        /// Node.
        to: String,
        /// Address.
        address: SocketAddr,
        /// What happened.
        why: String,
    },
    /// Somebody else answers.
    #[error("who answers at {address} is not {to}: {why}; its NodeFabric may be older than its agent")]
    Stranger {
        /// Node.
        to: String,
        /// Address.
        address: SocketAddr,
        /// What happened.
        why: String,
    },
    /// Another version.
    #[error(
        "{to} speaks version {theirs} of the self-test's protocol, and this agent {PROTOCOL}: upgrade the older one"
    )]
    Version {
        /// Node.
        to: String,
        /// Its version.
        theirs: u64,
    },
    /// What it says is not what is said there.
    #[error("{to} does not keep to the protocol: {why}")]
    Protocol {
        /// Node.
        to: String,
        /// What it did.
        why: String,
    },
    /// This side could not.
    #[error("{0}")]
    Own(String),
}

/// Calls, agrees and transfers. `start` starts this side's child once both sides agree; `stop` ends the session, with its reason.
///
/// # Errors
/// Why no transfer took place. One that failed is in the reports.
pub async fn call<C: Child>(
    identity: &Identity,
    dial: &Dial,
    terms: &Terms,
    start: impl FnOnce(&Terms, &str) -> Result<C, String>,
    stop: impl Future<Output = String>,
) -> Result<Called, CallError> {
    let Dial { me, to, address, certificate } = dial.clone();
    let unreachable = |why: String| CallError::Unreachable { to: to.clone(), address, why };
    let tcp = match timeout(CONNECT, TcpStream::connect(address)).await {
        Err(_) => return Err(unreachable(format!("no connection within {CONNECT:.0?}"))),
        Ok(connected) => connected.map_err(|error| unreachable(error.to_string()))?,
    };
    let _ = tcp.set_nodelay(true);
    let config = identity.caller(certificate).map_err(|error| CallError::Own(error.to_string()))?;
    let handshake = TlsConnector::from(Arc::new(config)).connect(Identity::name(), tcp);
    let stream = match timeout(CONNECT, handshake).await {
        Err(_) => return Err(unreachable(format!("no TLS handshake within {CONNECT:.0?}"))),
        Ok(Err(error)) => return Err(CallError::Stranger { to: to.clone(), address, why: error.to_string() }),
        Ok(Ok(stream)) => stream,
    };
    let mut channel = Channel::new(stream);
    let wrong = |error: WireError| match error {
        WireError::Version(theirs) => CallError::Version { to: to.clone(), theirs },
        WireError::Garbled(why) => CallError::Protocol { to: to.clone(), why },
        other => unreachable(other.to_string()),
    };
    let protocol = |why: &str| CallError::Protocol { to: to.clone(), why: why.into() };
    let greeting = match channel.receive_within(ANSWER).await.map_err(wrong)? {
        Message::Greeting(greeting) => greeting,
        other => return Err(refusal(&to, other).unwrap_or_else(|| protocol("it did not greet"))),
    };
    if greeting.node != to {
        return Err(CallError::Stranger { to, address, why: format!("it calls itself {:?}", greeting.node) });
    }
    let secret = random_hex().map_err(|error| CallError::Own(error.to_string()))?;
    let hello = Hello {
        protocol: PROTOCOL,
        node: me,
        to: to.clone(),
        nonce: greeting.nonce,
        secret: secret.clone(),
        terms: terms.clone(),
    };
    channel.send(&Message::Hello(Box::new(hello))).await.map_err(wrong)?;
    let agreed = match channel.receive_within(ANSWER).await.map_err(wrong)? {
        Message::Accepted(agreed) => agreed,
        other => return Err(refusal(&to, other).unwrap_or_else(|| protocol("it neither accepts nor refuses"))),
    };
    terms.narrowed_to(&agreed).map_err(|error| protocol(&error.to_string()))?;
    let child = match start(&agreed, &secret) {
        Ok(child) => child,
        Err(why) => {
            let _ = channel.send(&Message::Abort(why.clone())).await;
            return Err(CallError::Own(why));
        }
    };
    let reports = relay(&mut channel, child, &agreed.limits, stop).await;
    channel.close().await;
    Ok(Called { terms: agreed, reports: reports.map_err(CallError::Own)? })
}

fn refusal(to: &str, message: Message) -> Option<CallError> {
    match message {
        Message::Busy { retry_after_seconds } => Some(CallError::Busy {
            to: to.into(),
            // A node that says "never" is asked again within the hour.
            retry_after: Duration::from_secs(u64::from(retry_after_seconds.min(3600))),
        }),
        Message::Refused { reason, message } => Some(CallError::Refused {
            to: to.into(),
            reason,
            message: message.chars().filter(|c| !c.is_control()).take(300).collect(),
        }),
        _ => None,
    }
}
