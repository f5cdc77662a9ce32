//! While two children transfer: what each says is carried to the other, until both reports have crossed or one side is gone.

use std::time::{Duration, Instant};

use policies::selftest::{FailureKind, Limits, Report, Said};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{MissedTickBehavior, interval, sleep_until},
};

use super::wire::{Channel, Message, WireError};

/// How often each side says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// Without a word for so long, the other side is gone: five beats, so that one lost packet's retransmission is no end.
const SILENCE: Duration = Duration::from_secs(5);
/// What a child has beyond its own deadline, and a report to cross.
const GRACE: Duration = Duration::from_secs(5);
/// How long a goodbye is waited for.
const GOODBYE: Duration = Duration::from_secs(2);

/// A transfer in a process of its own. Dropping it ends the process.
pub trait Child: Send {
    /// Tells it what the other child said. What a child that has ended is told is lost.
    fn say(&mut self, from_peer: String) -> impl Future<Output = ()> + Send;
    /// What it says next; its report is the last. Dropped while it waits, it loses nothing.
    fn next(&mut self) -> impl Future<Output = Said> + Send;
    /// Ends it, and gives what it measured with this as the reason.
    fn fail(self, kind: FailureKind, message: String) -> impl Future<Output = Report> + Send;
}

/// Both sides' word on one transfer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reports {
    /// This side's.
    pub own: Report,
    /// The other's, if it came.
    pub peers: Option<Report>,
}

/// Carries until it is over. `Err`: this side ended it, and why; it says nothing about either node.
pub(super) async fn relay<S: AsyncRead + AsyncWrite + Unpin, C: Child>(
    channel: &mut Channel<S>,
    mut child: C,
    limits: &Limits,
    stop: impl Future<Output = String>,
) -> Result<Reports, String> {
    let started = Instant::now();
    let mut until = started + Duration::from_secs_f64(limits.deadline_seconds) + GRACE;
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let (mut own, mut peers) = (None::<Report>, None::<Report>);
    let mut stop = std::pin::pin!(stop);
    let lost = loop {
        if own.is_some() && peers.is_some() {
            break None;
        }
        let sent = tokio::select! {
            said = child.next(), if own.is_none() => match said {
                Said::ToPeer(text) => channel.send(&Message::ToPeer(text)).await,
                Said::Progress { step, of, doing } => {
                    tracing::debug!(step, of, doing, "self-test");
                    Ok(())
                }
                Said::Report(report) => {
                    own = Some((*report).clone());
                    until = until.min(Instant::now() + Duration::from_secs_f64(limits.stall_seconds) + GRACE);
                    channel.send(&Message::Report(report)).await
                }
            },
            message = channel.receive() => {
                heard = Instant::now();
                match message {
                    Ok(Message::ToPeer(text)) => {
                        child.say(text).await;
                        Ok(())
                    }
                    Ok(Message::Alive) => Ok(()),
                    Ok(Message::Report(report)) if peers.is_none() => {
                        peers = Some(*report);
                        // What the other side knows by now, ours finds out at the latest when nothing moves.
                        until = until.min(Instant::now() + Duration::from_secs_f64(limits.stall_seconds) + GRACE);
                        Ok(())
                    }
                    Ok(Message::Abort(why)) => break Some((FailureKind::Peer, format!("it ended the session: {}", plain(&why)))),
                    Ok(other) => break Some((FailureKind::Protocol, format!("it said {} in the middle of a transfer", kind(&other)))),
                    Err(error) => Err(error),
                }
            },
            _ = beat.tick() => channel.send(&Message::Alive).await,
            () = sleep_until((heard + SILENCE).into()) => Err(WireError::Silent(SILENCE)),
            () = sleep_until(until.into()) => break Some(over(own.is_some(), peers.is_some())),
            why = &mut stop => {
                drop(child);
                let _ = channel.send(&Message::Abort(why.clone())).await;
                return Err(why);
            }
        };
        match sent {
            Ok(()) => {}
            Err(error @ (WireError::Garbled(_) | WireError::Version(_))) => {
                break Some((FailureKind::Protocol, error.to_string()));
            }
            // A peer that was ended hangs up; a wire that was cut, or a machine that hangs, says nothing at all. The second is the
            // pair's failure, until other partners tell the two apart.
            Err(error @ (WireError::Silent(_) | WireError::Stuck)) => {
                break Some((FailureKind::Broken, error.to_string()));
            }
            Err(error) => break Some((FailureKind::Peer, error.to_string())),
        }
    };
    // Before the goodbye: the child is not to outlive what it is for.
    let own = match (own, lost) {
        (Some(own), _) => own,
        (None, Some((kind, what))) => child.fail(kind, format!("the other agent: {what}")).await,
        (None, None) => child.fail(FailureKind::Protocol, "it ended without a report".into()).await,
    };
    if peers.is_some() && channel.send(&Message::Done).await.is_ok() {
        // A connection that is closed with something unread in it may take the other's unread report with it.
        let until = Instant::now() + GOODBYE;
        while let Ok(Message::Alive) = channel.receive_within(until.saturating_duration_since(Instant::now())).await {}
    }
    Ok(Reports { own, peers })
}

/// What a session that lasted too long has failed by.
fn over(own: bool, peers: bool) -> (FailureKind, String) {
    match (own, peers) {
        (true, _) => (FailureKind::Peer, "it made no report in time".into()),
        (false, true) => {
            (FailureKind::Stalled, "the other side has ended its transfer, and this one did not end".into())
        }
        (false, false) => (FailureKind::Deadline, "the transfer did not end by its deadline".into()),
    }
}

/// Without control characters, and not endless.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

fn kind(message: &Message) -> &'static str {
    match message {
        Message::Greeting(_) => "a greeting",
        Message::Hello(_) => "hello",
        Message::Accepted(_) => "that it accepts",
        Message::Busy { .. } => "that it is busy",
        Message::Refused { .. } => "no",
        Message::ToPeer(_) => "something to the child",
        Message::Alive => "that it is alive",
        Message::Report(_) => "a second report",
        Message::Abort(_) => "that it must end",
        Message::Done => "that it is done",
    }
}
