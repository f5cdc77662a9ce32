//! Connections that end before a review can be sent: nobody else would tell whoever waits for one.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum_server::accept::Accept;
use futures::{FutureExt as _, future::BoxFuture};

use crate::metrics::Metrics;

/// A stranger may knock a thousand times a second; this often it is said.
const SAY_EVERY: Duration = Duration::from_mins(1);

/// Counts what another acceptor refuses, and says why from time to time.
#[derive(Debug, Clone)]
pub(super) struct Told<A> {
    inner: A,
    metrics: Metrics,
    said: Arc<Mutex<Option<Instant>>>,
}

impl<A> Told<A> {
    pub(super) fn new(inner: A, metrics: Metrics) -> Self {
        Self { inner, metrics, said: Arc::default() }
    }
}

impl<A, I, S> Accept<I, S> for Told<A>
where
    A: Accept<I, S>,
    A::Future: Send + 'static,
{
    type Stream = A::Stream;
    type Service = A::Service;
    type Future = BoxFuture<'static, io::Result<(A::Stream, A::Service)>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let (metrics, said) = (self.metrics.clone(), self.said.clone());
        let accepted = self.inner.accept(stream, service);
        accepted
            .inspect(move |result| {
                let Err(error) = result else { return };
                metrics.handshake_failed();
                let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                    *said = Some(Instant::now());
                    tracing::warn!(%error, "a caller was not let in; the counter of failed handshakes has them all");
                }
            })
            .boxed()
    }
}
