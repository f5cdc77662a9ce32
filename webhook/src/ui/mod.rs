//! A read-only page of the fabric, on the admin port, for people behind the API server's proxy.
//!
//! The files are in the binary and ask for nothing from elsewhere. What the port shows to whoever can connect is in [`data`] and
//! goes no further than names, our own labels and our own decisions; ports and self-tests come from the `NodeFabric`s, which the
//! viewer's browser reads with the viewer's rights.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::State as Shared,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY, RETRY_AFTER,
            X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    middleware::map_response,
    response::{IntoResponse as _, Response},
    routing::get,
};
use tokio::sync::Mutex;

use crate::state::State;

pub mod data;

const HTML: &str = include_str!("page.html");
const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");

/// Nothing but our own files; no inline script or style, no form, no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// How long an answer serves everybody: nobody can make this process collect it more often.
const FRESH: Duration = Duration::from_secs(2);

/// What the page is made from.
struct Page {
    state: Arc<State>,
    /// The last answer. One request makes the next one while others wait for it.
    last: Mutex<Option<(Instant, Bytes)>>,
}

/// The routes below `/ui/`.
pub fn router(state: Arc<State>) -> Router {
    let file = |kind: &'static str, body: &'static str| get(move || async move { ([(CONTENT_TYPE, kind)], body) });
    Router::new()
        // Relative, so that it holds behind any proxy.
        .route("/ui", get(|| async { (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, "ui/")]) }))
        .route("/ui/", file("text/html; charset=utf-8", HTML))
        .route("/ui/page.css", file("text/css; charset=utf-8", CSS))
        .route("/ui/page.js", file("text/javascript; charset=utf-8", JS))
        .route("/ui/data.json", get(data_json))
        .layer(map_response(harden))
        .with_state(Arc::new(Page { state, last: Mutex::new(None) }))
}

async fn data_json(Shared(page): Shared<Arc<Page>>) -> Response {
    let mut last = page.last.lock().await;
    let fresh = last.as_ref().filter(|(at, _)| at.elapsed() < FRESH).map(|(_, bytes)| bytes.clone());
    let bytes = match fresh {
        Some(bytes) => bytes,
        None => match collect(page.state.clone()).await {
            Ok(bytes) => {
                *last = Some((Instant::now(), bytes.clone()));
                bytes
            }
            Err(error) => {
                tracing::error!(%error, "the page's data");
                return (
                    StatusCode::SERVICE_UNAVAILABLE,
                    [(RETRY_AFTER, "5")],
                    "cannot collect the data; see the log\n",
                )
                    .into_response();
            }
        },
    };
    ([(CONTENT_TYPE, "application/json")], bytes).into_response()
}

/// Off the threads that answer reviews: with thousands of nodes it takes a while.
async fn collect(state: Arc<State>) -> anyhow::Result<Bytes> {
    tokio::task::spawn_blocking(move || Ok(Bytes::from(serde_json::to_vec(&data::collect(&state))?))).await?
}

/// Sets the headers of every answer: nothing of it is kept, framed, or taken for something else.
pub async fn harden(mut response: Response) -> Response {
    const OPENER: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
    const RESOURCE: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (OPENER, "same-origin"),
        (RESOURCE, "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;
