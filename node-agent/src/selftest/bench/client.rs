//! The client: it asks, measures, and prints.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use anyhow::bail;
use policies::selftest::{Failure, FailureKind, Limits, MemoryPair, Op, Order, Report, Role};
use tokio::{net::TcpStream, time::timeout};

use super::{
    Asked, Frame, PORT, PROTOCOL, environment, print, relay,
    secret::{Secret, random},
    server::another_version,
    wire::{Broken, Wire},
};
use crate::{
    args::BenchClientArgs,
    selftest::{
        child::Transfer,
        transfer::{Trouble, blank},
    },
};

/// Bytes of buffers beside the largest size.
pub(super) const BESIDE: u64 = 2 << 20;
/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Seconds of everything but traffic: start, wire-up, filling and comparing.
const BESIDE_TRAFFIC: f64 = 60.0;
/// What one measurement takes, warm-up included, in times its seconds.
const WARM: f64 = 2.0;

/// `railbind-agent bench client`.
pub(crate) async fn measure(args: BenchClientArgs) -> anyhow::Result<()> {
    let secret = Secret::read(args.secret_file.as_deref())?;
    let mut order = order(&args)?;
    let report = match agree(&args, &mut order, &secret).await {
        Ok((mut wire, remote)) => {
            let mut progress = Progress::new();
            let transfer = Transfer::start(order, &args.ucx_folders);
            let mut report = relay::run(&mut wire, transfer, |step, of, doing| progress.show(step, of, doing)).await;
            progress.clear();
            report.memory = MemoryPair { local: args.memory, remote };
            report
        }
        Err(failure) => Report { failure: Some(failure), ..blank(&order) },
    };
    let text = if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { print::report(&report) };
    match io::stdout().write_all(text.as_bytes()) {
        // `bench client | head` is not an error.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    match &report.failure {
        Some(failure) => bail!("{}", print::plain(&format!("{} ({})", failure.message, failure.remedy))),
        None => Ok(()),
    }
}

fn order(args: &BenchClientArgs) -> anyhow::Result<Order> {
    let largest = args.sizes.0.iter().copied().max().unwrap_or_default();
    let bandwidth = args.ops.iter().filter(|op| **op != Op::Latency).count() * args.sizes.0.len();
    let measurements = f64::from(u32::try_from(bandwidth + args.ops.len())?);
    let enough = BESIDE_TRAFFIC + measurements * args.seconds * WARM / args.share;
    Ok(Order {
        role: Role::Initiator,
        secret: random::<16>()?,
        memory: args.memory,
        ops: args.ops.clone(),
        sizes: args.sizes.0.clone(),
        env: environment(),
        limits: Limits {
            deadline_seconds: args.deadline.unwrap_or(enough),
            seconds_each: args.seconds,
            stall_seconds: args.stall,
            buffer_bytes: largest + BESIDE,
            share: args.share,
        },
    })
}

/// Comes to terms with the server: the connection, and where its memory lies.
async fn agree(
    args: &BenchClientArgs,
    order: &mut Order,
    secret: &Secret,
) -> Result<(Wire, policies::selftest::Memory), Failure> {
    let fail = |kind, message: String| Failure::from(Trouble::new(kind, message));
    let protocol = |message: &str| Failure::from(Trouble::new(FailureKind::Protocol, message));
    let address = with_port(&args.server);
    let unreachable = |error: String| fail(FailureKind::Unreachable, format!("connecting to {address}: {error}"));
    let connected = timeout(ANSWER, TcpStream::connect(&address)).await;
    let stream = connected.map_err(|_| unreachable(format!("no answer within {ANSWER:?}")))?;
    let mut wire = stream.and_then(Wire::new).map_err(|error| unreachable(error.to_string()))?;
    let broken = |error: Broken| {
        let kind = if matches!(error, Broken::Nonsense(_)) { FailureKind::Protocol } else { FailureKind::Peer };
        fail(kind, error.to_string())
    };

    let theirs = match wire.receive_within(ANSWER).await.map_err(broken)? {
        Frame::Greeting { protocol, .. } if protocol != PROTOCOL => return Err(another_version(protocol)),
        Frame::Greeting { secret: true, .. } if !secret.is_set() => {
            return Err(protocol("the server wants a secret: give its --secret-file"));
        }
        Frame::Greeting { secret: false, .. } if secret.is_set() => {
            return Err(protocol("the server has no secret, and this side was given one: it may be another server"));
        }
        Frame::Greeting { nonce, .. } => nonce,
        _ => return Err(protocol("the server did not greet")),
    };
    let ours = random::<32>().map_err(|error| fail(FailureKind::Protocol, error.to_string()))?;
    let asked = Asked {
        secret: order.secret.clone(),
        ops: order.ops.clone(),
        sizes: order.sizes.clone(),
        limits: order.limits,
        memory: args.remote_memory,
    };
    let text = serde_json::to_string(&asked).unwrap_or_default();
    let proof = secret.proof(&["client", &theirs, &ours, &text]);
    let agent = env!("CARGO_PKG_VERSION").to_owned();
    let ask = Frame::Ask { protocol: PROTOCOL, agent, nonce: ours.clone(), order: asked, proof };
    wire.send(&ask).await.map_err(broken)?;
    match wire.receive_within(ANSWER).await.map_err(broken)? {
        Frame::Accepted { proof, memory } if secret.proves(&["server", &theirs, &ours], proof.as_deref()) => {
            Ok((wire, memory))
        }
        Frame::Accepted { .. } => Err(protocol("the server does not know the secret: it is another one")),
        Frame::Refused(failure) => {
            Err(Failure { message: format!("the server refused: {}", failure.message), ..failure })
        }
        _ => Err(protocol("the server did not answer what was asked")),
    }
}

/// An address with the default port where it has none.
fn with_port(server: &str) -> String {
    let bare_v6 = server.matches(':').count() > 1 && !server.contains(']');
    if bare_v6 {
        format!("[{server}]:{PORT}")
    } else if server.ends_with(']') || !server.contains(':') {
        format!("{server}:{PORT}")
    } else {
        server.to_owned()
    }
}

/// One line that changes, where somebody watches.
struct Progress {
    shown: bool,
}

impl Progress {
    fn new() -> Self {
        Self { shown: io::stderr().is_terminal() }
    }

    fn show(&mut self, step: u32, of: u32, doing: &str) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K{step}/{of} {}", print::plain(doing));
        }
    }

    fn clear(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::with_port;

    #[test]
    fn a_port_is_added_where_there_is_none() {
        for (given, expected) in [
            ("node-a", "node-a:7471"),
            ("10.0.0.1:99", "10.0.0.1:99"),
            ("fd00::1", "[fd00::1]:7471"),
            ("[fd00::1]", "[fd00::1]:7471"),
            ("[fd00::1]:99", "[fd00::1]:99"),
        ] {
            assert_eq!(with_port(given), expected);
        }
    }
}
