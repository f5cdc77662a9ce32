//! The server of reviews: routes, limits, TLS, and a slow farewell.

mod accept;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State as Shared},
    http::{
        HeaderValue, StatusCode,
        header::{CONNECTION, RETRY_AFTER},
    },
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::post,
};
use axum_server::{
    Handle,
    accept::NoDelayAcceptor,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use daemon::{Check, Shutdown};

use accept::Told;

use crate::{handler, metrics::Hook, state::State};

/// Path of the hook of pods.
pub const PODS: &str = "/mutate/pods";
/// Path of the hook of bindings.
pub const BINDINGS: &str = "/mutate/bindings";

/// The API server takes no request above 3 MiB, and a review can carry an object twice.
const MAX_BODY: usize = 8 << 20;
/// Answering as usual.
const SERVING: u8 = 0;
/// Answering, and ending each connection with its answer.
const DRAINING: u8 = 1;
/// Sending everyone elsewhere.
const LEAVING: u8 = 2;
/// The end of the drain, in which whoever still comes is sent elsewhere: what comes after it meets a closing connection, and
/// the API server repeats no request for that, only for an answer that says when to come again.
const FAREWELL: Duration = Duration::from_secs(1);
/// After the drain, what is in flight gets this long: no review is waited for longer than 30 s, ours for 3 s.
const GRACE: Duration = Duration::from_secs(5);

/// How to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where.
    pub listen: SocketAddr,
    /// How long a connection may be idle.
    ///
    /// The API server keeps idle connections for 90 s and does not repeat a POST that meets a closing one. hyper counts the
    /// time to the next request's head, the first one's included: a connection that the API server opened to be ready and
    /// never used must live as long.
    pub idle: Duration,
    /// How long to go on serving after the request to end.
    pub drain: Duration,
}

impl Config {
    /// At this address, with the time-outs that suit the API server.
    pub fn new(listen: SocketAddr, drain: Duration) -> Self {
        Self { listen, idle: Duration::from_mins(2), drain }
    }
}

/// The server.
#[derive(Debug)]
pub struct Server {
    config: Config,
    state: Arc<State>,
    handle: Handle<SocketAddr>,
    phase: Arc<AtomicU8>,
}

impl Server {
    /// A server that does not listen yet.
    pub fn new(config: Config, state: Arc<State>) -> Self {
        Self { config, state, handle: Handle::new(), phase: Arc::default() }
    }

    /// The routes, as [`Self::run`] serves them.
    pub fn router(&self) -> Router {
        let pods = |Shared(state): Shared<Arc<State>>, request: Request| handler::review(state, Hook::Pods, request);
        let bindings =
            |Shared(state): Shared<Arc<State>>, request: Request| handler::review(state, Hook::Bindings, request);
        Router::new()
            .route(PODS, post(pods))
            .route(BINDINGS, post(bindings))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(from_fn_with_state(self.phase.clone(), farewell))
            .with_state(self.state.clone())
    }

    /// Tells the address once the server listens.
    pub fn handle(&self) -> Handle<SocketAddr> {
        self.handle.clone()
    }

    /// Serves until the shutdown is requested, then drains: not ready, but serving, and asking for each connection to be
    /// closed; after the drain no new connection; then the end, when the last answer is out.
    pub async fn run(self, tls: RustlsConfig, shutdown: Shutdown, check: Check) -> io::Result<()> {
        let router = self.router();
        let Self { config, state, handle, phase } = self;
        let acceptor = Told::new(RustlsAcceptor::new(tls).acceptor(NoDelayAcceptor::new()), state.metrics.clone());
        let mut server = axum_server::bind(config.listen).acceptor(acceptor).handle(handle.clone()).http1_only();
        server.http_builder().http1().header_read_timeout(config.idle);
        let announce = handle.clone();
        let ready = check.clone();
        tokio::spawn(async move {
            if let Some(address) = announce.listening().await {
                tracing::info!(%address, "reviews");
                ready.ready();
            }
        });
        tokio::spawn(async move {
            shutdown.requested().await;
            check.not_ready("shutting down");
            phase.store(DRAINING, Ordering::Relaxed);
            tracing::info!(seconds = config.drain.as_secs(), connections = handle.connection_count(), "draining");
            let farewell = FAREWELL.min(config.drain / 4);
            tokio::time::sleep(config.drain.saturating_sub(farewell)).await;
            phase.store(LEAVING, Ordering::Relaxed);
            tokio::time::sleep(farewell).await;
            handle.graceful_shutdown(Some(GRACE));
        });
        server.serve(router.into_make_service()).await
    }
}

/// While draining, each answer ends its connection, so that the API server's next request finds another replica; at the end
/// there is only the advice to come again.
async fn farewell(Shared(phase): Shared<Arc<AtomicU8>>, request: Request, next: Next) -> Response {
    let mut response = if phase.load(Ordering::Relaxed) == LEAVING {
        (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], "railbind-webhook: shutting down\n").into_response()
    } else {
        next.run(request).await
    };
    // Looked at again: the drain may have begun while the answer was made.
    if phase.load(Ordering::Relaxed) != SERVING {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests;
