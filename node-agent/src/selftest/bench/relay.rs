//! A session once both sides agreed: each carries its child's words to the other's, until both have a report.

use std::time::Duration;

use policies::selftest::{FailureKind, Report, Said};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{
    Frame,
    wire::{Broken, Wire},
};
use crate::selftest::child::Transfer;

/// How often each side says that it is there.
const BEAT: Duration = Duration::from_secs(1);
/// After how long without a word the other side counts as gone.
const SILENCE: Duration = Duration::from_secs(10);
/// How long the side that is done waits for the other.
const LEAVE: Duration = Duration::from_secs(3);

/// Runs a session; `progress` hears what the child does.
pub(super) async fn run(wire: &mut Wire, mut transfer: Transfer, mut progress: impl FnMut(u32, u32, &str)) -> Report {
    wire.trust();
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut theirs_is_done: Option<Instant> = None;
    let report = loop {
        let broken = tokio::select! {
            said = transfer.next() => match said {
                Said::ToPeer(word) => wire.send(&Frame::Peer(word)).await,
                Said::Progress { step, of, doing } => {
                    progress(step, of, &doing);
                    Ok(())
                }
                Said::Report(report) => break *report,
            },
            frame = wire.receive(), if theirs_is_done.is_none() => match frame {
                Ok(Frame::Peer(word)) => {
                    transfer.say(word).await;
                    Ok(())
                }
                Ok(Frame::Beat) => Ok(()),
                Ok(Frame::Done) => {
                    theirs_is_done = Some(Instant::now());
                    Ok(())
                }
                Ok(frame) => Err(Broken::Nonsense(format!("{frame:?} in a session"))),
                Err(error) => Err(error),
            },
            _ = beat.tick() => match theirs_is_done {
                None if wire.silent() > SILENCE => Err(Broken::Silent(SILENCE)),
                None => wire.send(&Frame::Beat).await,
                // What it had to say was said before.
                Some(since) if since.elapsed() > LEAVE => Err(Broken::Closed),
                Some(_) => Ok(()),
            },
        };
        // Once the other side is done, it may close whenever it likes.
        if let Err(error) = broken
            && (theirs_is_done.is_none() || matches!(error, Broken::Closed))
        {
            let kind = if matches!(error, Broken::Nonsense(_)) { FailureKind::Protocol } else { FailureKind::Peer };
            return transfer.fail(kind, error.to_string()).await;
        }
    };
    let _ = wire.send(&Frame::Done).await;
    if theirs_is_done.is_none() {
        let other = async { while !matches!(wire.receive().await, Ok(Frame::Done) | Err(_)) {} };
        let _ = timeout(LEAVE, other).await;
    }
    report
}
