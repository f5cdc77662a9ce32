//! How long to wait before trying again, and what an API server's refusal means.

use std::{
    future::Future,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use tokio::time::timeout;

/// A request to the API server takes no longer, or counts as failed.
const PATIENCE: Duration = Duration::from_secs(15);

/// Waits that double from half a second to half a minute, spread so that replicas do not step in time.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(500);
    const LAST: Duration = Duration::from_secs(30);

    /// The wait after one more failure.
    pub fn wait(&mut self) -> Duration {
        let wait = Self::FIRST.saturating_mul(1 << self.failures.min(16)).min(Self::LAST);
        self.failures += 1;
        // 0.75 to 1.25 of it. Every RandomState is seeded anew.
        let share = (RandomState::new().build_hasher().finish() % 512) as u32;
        wait * (768 + share) / 1024
    }

    /// It worked: start over.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Why a request to the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The API server answered, and no repetition changes that answer.
    #[error("{0}")]
    Refused(String),
    /// Worth another try.
    #[error("{0}")]
    Unavailable(String),
    /// The object is there already, or changed under our hands.
    #[error("{0}")]
    Conflict(String),
    /// There is no such object.
    #[error("{0}")]
    NotFound(String),
}

/// Makes a request, within bounds, and sorts its failures.
pub async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    match timeout(PATIENCE, request).await {
        Ok(result) => result.map_err(sort),
        Err(_) => Err(ApiError::Unavailable(format!("the API server did not answer within {PATIENCE:?}"))),
    }
}

/// Sorts a failure.
pub fn sort(error: kube::Error) -> ApiError {
    match error {
        kube::Error::Api(status) => {
            let text = if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
            match status.code {
                404 => ApiError::NotFound(text),
                409 => ApiError::Conflict(text),
                400 | 401 | 403 | 405 | 422 => ApiError::Refused(text),
                code => ApiError::Unavailable(format!("{code}: {text}")),
            }
        }
        error => ApiError::Unavailable(chain(&error)),
    }
}

/// An error with its causes: hyper says only "client error (Connect)" at the top.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::{ApiError, Backoff, call};

    #[test]
    fn waits_grow_to_a_bound_and_start_over() {
        let mut backoff = Backoff::default();
        let waits: Vec<f64> = (0..40).map(|_| backoff.wait().as_secs_f64()).collect();
        assert!((0.375..0.625).contains(&waits[0]) && (0.75..1.25).contains(&waits[1]), "{waits:?}");
        assert!(waits[10..].iter().all(|wait| (22.5..=37.5).contains(wait)), "{waits:?}");
        backoff.reset();
        assert!(backoff.wait().as_secs_f64() < 0.7);
    }

    #[tokio::test]
    async fn refusals_are_told_from_trouble() {
        let code = async |code: u16| {
            let status = Status::failure("no", "").with_code(code).boxed();
            call(async { kube::Result::<()>::Err(kube::Error::Api(status)) }).await.unwrap_err()
        };
        assert!(matches!(code(403).await, ApiError::Refused(_)));
        assert!(matches!(code(404).await, ApiError::NotFound(_)));
        assert!(matches!(code(409).await, ApiError::Conflict(_)));
        for trouble in [429, 500, 503, 0] {
            assert!(matches!(code(trouble).await, ApiError::Unavailable(_)), "{trouble}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_trouble() {
        let error = call(std::future::pending::<kube::Result<()>>()).await.unwrap_err();
        assert_eq!(error.to_string(), "the API server did not answer within 15s");
    }
}
