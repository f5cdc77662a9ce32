//! The admin server: `/healthz`, `/readyz` and `/metrics`, in plain HTTP for the kubelet and Prometheus.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use clap::Args;
use prometheus_client::{encoding::text, registry::Registry};
use tokio::net::TcpListener;

use crate::Readiness;

/// Flags about the admin server.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Admin server")]
pub struct AdminArgs {
    /// Where /healthz, /readyz and /metrics are served
    #[arg(id = "admin_listen", long = "admin-listen", value_name = "ADDR", default_value = "0.0.0.0:9090")]
    pub listen: SocketAddr,
}

#[derive(Clone)]
struct Admin {
    readiness: Readiness,
    registry: Arc<Registry>,
}

/// The routes.
pub fn router(readiness: Readiness, registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Admin { readiness, registry })
}

/// Binds now, so that a taken port is an error at start, and serves until the process ends. Gives the address it got.
pub async fn serve(args: &AdminArgs, router: Router) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("cannot listen on {} (--admin-listen)", args.listen))?;
    let address = listener.local_addr().context("admin server's address")?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the admin server ended");
        }
    });
    tracing::info!(%address, "admin server");
    Ok(address)
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let status = if admin.readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, admin.readiness.report()).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let mut body = String::new();
    match text::encode(&mut body, &admin.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(CONTENT_TYPE, kind)], body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, to_bytes},
        http::Request,
    };
    use prometheus_client::metrics::counter::Counter;
    use tower::ServiceExt as _;

    use super::{Arc, Readiness, Registry, StatusCode, router};

    async fn get(readiness: &Readiness, registry: Registry, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(readiness.clone(), Arc::new(registry)).oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn alive_even_when_not_ready() {
        let readiness = Readiness::default();
        let _nodes = readiness.check("nodes");
        assert_eq!(get(&readiness, Registry::default(), "/healthz").await, (StatusCode::OK, "ok\n".into()));
    }

    #[tokio::test]
    async fn readyz_names_what_is_missing() {
        let readiness = Readiness::default();
        let nodes = readiness.check("nodes");
        nodes.not_ready("cannot reach the API server");
        assert_eq!(
            get(&readiness, Registry::default(), "/readyz").await,
            (StatusCode::SERVICE_UNAVAILABLE, "[-] nodes: cannot reach the API server\n".into())
        );
        nodes.ready();
        assert_eq!(get(&readiness, Registry::default(), "/readyz").await, (StatusCode::OK, "[+] nodes\n".into()));
    }

    #[tokio::test]
    async fn metrics_are_open_metrics_text() {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        registry.register("railbind_things", "Things", counter.clone());
        counter.inc();
        let (status, body) = get(&Readiness::default(), registry, "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("\nrailbind_things_total 1\n") && body.ends_with("# EOF\n"), "{body}");
    }
}
