//! The local server: what it lets through, and to whom.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{
        HeaderMap, Method, Request, StatusCode,
        header::{CONTENT_TYPE, HOST, LOCATION},
    },
    middleware::map_response,
    response::{IntoResponse as _, Response},
};

use crate::{cluster::Cluster, gather};

/// Who asks, and for what.
pub(super) struct Door {
    cluster: Cluster,
    /// Path of the page behind the API server.
    page: String,
    address: SocketAddr,
    secret: String,
    /// Opens once.
    ticket: Mutex<Option<String>>,
}

/// What an address leads to.
#[derive(Debug, PartialEq, Eq)]
enum Found<'a> {
    /// The address that was printed.
    Home,
    /// What the browser was started with.
    Ticket(&'a str),
    /// This path of the API server.
    Path(&'a str),
    /// Nothing that a stranger should learn of.
    Nothing,
}

impl Door {
    /// Closed but to those who have the secret, or the ticket for once.
    pub(super) fn new(
        cluster: Cluster,
        page: String,
        address: SocketAddr,
        secret: String,
        ticket: Option<String>,
    ) -> Self {
        Self { cluster, page, address, secret, ticket: Mutex::new(ticket) }
    }

    /// The ticket opens no more.
    pub(super) fn forget_ticket(&self) {
        *self.ticket.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn redeem(&self, shown: &str) -> bool {
        let mut held = self.ticket.lock().unwrap_or_else(PoisonError::into_inner);
        let right = held.as_deref().is_some_and(|ticket| same(ticket, shown));
        if right {
            *held = None;
        }
        right
    }

    /// A page of somebody else that has its name lead here (DNS rebinding) does not know the secret; it does not get to guess.
    fn is_host(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        host.is_some_and(|host| {
            host == self.address.to_string() || host == format!("localhost:{}", self.address.port())
        })
    }
}

fn same(one: &str, other: &str) -> bool {
    verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

/// Where a path leads.
fn find<'a>(path: &'a str, secret: &str, page: &str) -> Found<'a> {
    let Some((first, _)) = path.strip_prefix('/').and_then(|rest| rest.split_once('/')) else { return Found::Nothing };
    let rest = &path[1 + first.len()..];
    if first == "open" {
        return Found::Ticket(&rest[1..]);
    }
    if !same(first, secret) {
        return Found::Nothing;
    }
    let own = |file: &str| ["", "page.css", "page.js", "data.json"].contains(&file);
    // A node's name: RFC 1123, lower case.
    let named = |name: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        name.bytes().next().is_some_and(plain) && name.bytes().all(|byte| plain(byte) || byte == b'-' || byte == b'.')
    };
    let fabric = rest.strip_prefix(gather::NODE_FABRICS).and_then(|rest| rest.strip_prefix('/'));
    match rest {
        "/" => Found::Home,
        rest if rest.strip_prefix(page).is_some_and(own) || fabric.is_some_and(named) => Found::Path(rest),
        _ => Found::Nothing,
    }
}

/// The server.
pub(super) fn router(door: Arc<Door>) -> Router {
    // The page's own headers, whatever comes from the cluster.
    Router::new().fallback(answer).layer(map_response(webhook::ui::harden)).with_state(door)
}

async fn answer(State(door): State<Arc<Door>>, request: Request<Body>) -> Response {
    if !door.is_host(request.headers()) {
        return (StatusCode::MISDIRECTED_REQUEST, "this is not the address that was printed\n").into_response();
    }
    if request.method() != Method::GET {
        return (StatusCode::METHOD_NOT_ALLOWED, "the page can only be looked at\n").into_response();
    }
    let to_page = || (StatusCode::SEE_OTHER, [(LOCATION, format!("/{}{}", door.secret, door.page))]).into_response();
    match find(request.uri().path(), &door.secret, &door.page) {
        Found::Home => to_page(),
        Found::Ticket(ticket) if door.redeem(ticket) => to_page(),
        Found::Ticket(_) => (
            StatusCode::FORBIDDEN,
            "this link opens once, and not for long; if you have not opened it, somebody else has: end kubectl railbind ui and start it anew\n",
        )
            .into_response(),
        Found::Path(path) => through(&door.cluster, path).await,
        Found::Nothing => (StatusCode::NOT_FOUND, "nothing here: open the whole address that was printed\n").into_response(),
    }
}

async fn through(cluster: &Cluster, path: &str) -> Response {
    match cluster.ask(path).await {
        Ok(answer) => {
            let (parts, body) = answer.into_parts();
            let kind = parts.headers.get(CONTENT_TYPE).cloned();
            let mut answer = (parts.status, Body::new(body)).into_response();
            answer.headers_mut().remove(CONTENT_TYPE);
            if let Some(kind) = kind {
                answer.headers_mut().insert(CONTENT_TYPE, kind);
            }
            answer
        }
        Err(trouble) => (StatusCode::BAD_GATEWAY, format!("{}\n", trouble.text())).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Found, find};

    const PAGE: &str = "/api/v1/namespaces/r/services/http:w:admin/proxy/ui/";

    #[test]
    fn nothing_but_the_page_and_what_it_reads() {
        fn at(path: &str) -> Found<'_> {
            find(path, "s3", PAGE)
        }
        assert_eq!(at("/s3/"), Found::Home);
        assert_eq!(at("/open/t"), Found::Ticket("t"));
        for file in ["", "page.css", "page.js", "data.json"] {
            let path = format!("/s3{PAGE}{file}");
            assert_eq!(at(&path), Found::Path(&path[3..]));
        }
        let fabric = "/s3/apis/railbind.dev/v1alpha1/nodefabrics/gpu-1.example";
        assert_eq!(at(fabric), Found::Path(&fabric[3..]));
        for path in [
            "",
            "/",
            "/s3",
            "/s4/",
            "/open",
            "/s3/api/v1/pods",
            "/s3/api/v1/namespaces/r/secrets",
            "/s3/api/v1/namespaces/r/services/http:w:admin/proxy/metrics",
            "/s3/api/v1/namespaces/r/services/http:w:admin/proxy/ui/../metrics",
            "/s3/api/v1/namespaces/r/services/http:w:admin/proxy/ui/page.js/x",
            "/s3/apis/railbind.dev/v1alpha1/nodefabrics",
            "/s3/apis/railbind.dev/v1alpha1/nodefabrics/",
            "/s3/apis/railbind.dev/v1alpha1/nodefabrics/..",
            "/s3/apis/railbind.dev/v1alpha1/nodefabrics/a/status",
            "/s3/apis/railbind.dev/v1alpha1/nodefabrics/a%2fstatus",
            "//s3/",
        ] {
            assert_eq!(at(path), Found::Nothing, "{path}");
        }
    }
}
