//! The end on request: SIGTERM or SIGINT asks, a second one does not ask.

use std::process;

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

/// Tells whoever waits that the process was asked to end. Clones see the same request.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// The asking end, for tests and for those who end a process from inside.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

impl Shutdown {
    /// Takes over SIGTERM and SIGINT. The first asks; the second ends the process at once, with code 130.
    pub fn on_signals() -> anyhow::Result<Self> {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM handler")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT handler")?;
        let (trigger, shutdown) = Self::by_hand();
        tokio::spawn(async move {
            let name = either(&mut terminate, &mut interrupt).await;
            tracing::info!(signal = name, "shutting down; once more ends the process at once");
            trigger.pull();
            let name = either(&mut terminate, &mut interrupt).await;
            tracing::warn!(signal = name, "ended by a second signal");
            process::exit(130);
        });
        Ok(shutdown)
    }

    /// A shutdown that code asks for.
    pub fn by_hand() -> (Trigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (Trigger(sender), Self(receiver))
    }

    /// Waits for the request; returns at once when it was made before. Never returns if nobody can make it any more.
    pub async fn requested(mut self) {
        if self.0.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Trigger {
    /// Asks.
    pub fn pull(&self) {
        self.0.send_replace(true);
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::Shutdown;

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn every_clone_sees_the_request_early_or_late() {
        let (trigger, shutdown) = Shutdown::by_hand();
        let early = tokio::spawn(shutdown.clone().requested());
        assert!(timeout(SOON, shutdown.clone().requested()).await.is_err());
        trigger.pull();
        early.await.unwrap();
        drop(trigger);
        timeout(SOON, shutdown.requested()).await.unwrap();
    }

    #[tokio::test]
    async fn a_lost_trigger_is_no_request() {
        let (trigger, shutdown) = Shutdown::by_hand();
        drop(trigger);
        assert!(timeout(SOON, shutdown.requested()).await.is_err());
    }
}
