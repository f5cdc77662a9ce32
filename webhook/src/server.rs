//! The server of reviews: routes, limits, TLS, and a slow farewell.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State as Shared},
    http::{HeaderValue, header::CONNECTION},
    middleware::{Next, from_fn_with_state},
    response::Response,
    routing::post,
};
use axum_server::{
    Handle,
    accept::NoDelayAcceptor,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use daemon::{Check, Shutdown};

use crate::{handler, metrics::Hook, state::State};

/// Path of the hook of pods.
pub const PODS: &str = "/mutate/pods";
/// Path of the hook of bindings.
pub const BINDINGS: &str = "/mutate/bindings";

/// The API server takes no request above 3 MiB, and a review can carry an object twice.
const MAX_BODY: usize = 8 << 20;
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
    draining: Arc<AtomicBool>,
}

impl Server {
    /// A server that does not listen yet.
    pub fn new(config: Config, state: Arc<State>) -> Self {
        Self { config, state, handle: Handle::new(), draining: Arc::default() }
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
            .layer(from_fn_with_state(self.draining.clone(), farewell))
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
        let Self { config, state: _, handle, draining } = self;
        let acceptor = RustlsAcceptor::new(tls).acceptor(NoDelayAcceptor::new());
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
            draining.store(true, Ordering::Relaxed);
            tracing::info!(seconds = config.drain.as_secs(), connections = handle.connection_count(), "draining");
            tokio::time::sleep(config.drain).await;
            handle.graceful_shutdown(Some(GRACE));
        });
        server.serve(router.into_make_service()).await
    }
}

/// While draining, each answer ends its connection: the API server's next request finds another replica.
async fn farewell(Shared(draining): Shared<Arc<AtomicBool>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if draining.load(Ordering::Relaxed) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests;
