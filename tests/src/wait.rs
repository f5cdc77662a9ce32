//! Polling with a deadline that says what it waited for and what it saw last.

use std::{fmt::Display, future::Future, time::Duration};

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

/// How long to wait for something that takes a second on an idle machine: long enough for a busy one.
pub const LIMIT: Duration = Duration::from_mins(1);

/// Asks `probe` until it succeeds. An error means "not yet, because": the last one is in the message when time is up.
///
/// A probe that hangs is cut off at the deadline too.
pub async fn until<T, F, Fut>(what: impl Display, limit: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + limit;
    // Most waits are over in a few hundred milliseconds; the long ones should not keep the machine busy.
    let mut pause = Duration::from_millis(20);
    let mut last = None;
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(not_yet)) => last = Some(not_yet),
            Err(_) => last = last.or_else(|| Some(anyhow!("no answer"))),
        }
        if Instant::now() + pause >= deadline {
            let last = last.unwrap_or_else(|| anyhow!("never asked"));
            return Err(last.context(format!("waited {} s for {what}", limit.as_secs())));
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(300));
    }
}
