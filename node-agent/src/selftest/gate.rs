//! One session a node, as either end.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Told to come back after so long where nobody knows better.
const AT_LEAST: Duration = Duration::from_secs(1);

/// Lets one in. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate {
    one: Arc<Semaphore>,
    until: Arc<Mutex<Option<Instant>>>,
}

/// The right to a session, until it is dropped.
#[derive(Debug)]
pub struct Session(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Default for Gate {
    fn default() -> Self {
        Self { one: Arc::new(Semaphore::new(1)), until: Arc::default() }
    }
}

impl Gate {
    /// Enters.
    ///
    /// # Errors
    /// How long the session that is going on may take yet.
    pub fn enter(&self) -> Result<Session, Duration> {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(permit) = Arc::clone(&self.one).try_acquire_owned() {
            *until = None;
            return Ok(Session(permit));
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        Err(left.unwrap_or(AT_LEAST).max(AT_LEAST))
    }

    /// Says how long the session may take.
    pub fn until(&self, most: Duration) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + most);
    }

    /// Whether a session is going on.
    pub fn is_busy(&self) -> bool {
        self.one.available_permits() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let gate = Gate::default();
        let session = gate.enter().unwrap();
        assert!(gate.is_busy());
        assert_eq!(gate.clone().enter().unwrap_err(), AT_LEAST);
        gate.until(Duration::from_mins(1));
        let left = gate.enter().unwrap_err();
        assert!(left > Duration::from_secs(50), "{left:?}");
        drop(session);
        assert!(!gate.is_busy() && gate.enter().is_ok());
    }
}
