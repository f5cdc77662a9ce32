//! A **fake** front of the API server, for what a real one cannot be made to do: to hang on some requests, and to have logs
//! of any size. Everything else it hands on to the real one, with the administrator's rights.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{Request, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::stream;
use kube::Client;
use serde_json::json;

use crate::Cluster;

/// What the front does itself.
#[derive(Debug, Clone)]
pub enum Rule {
    /// Never answers.
    Hang,
    /// Answers with this text, again and again, until so many bytes are sent.
    Repeat(&'static str, usize),
}

struct Front {
    client: Client,
    rules: Vec<(&'static str, Rule)>,
}

impl Cluster {
    /// Starts one that lives as long as the calling runtime; gives the kubeconfig that leads to it. A rule is for every path that
    /// contains its word; the first that fits counts.
    pub async fn fake_front(&self, rules: &[(&'static str, Rule)]) -> Result<PathBuf> {
        let front = Arc::new(Front { client: self.client().await?, rules: rules.to_vec() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let router = Router::new().fallback(answer).with_state(front);
        tokio::spawn(async move { axum::serve(listener, router).await });
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "front",
            "clusters": [{"name": "front", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "front", "context": {"cluster": "front", "user": "nobody"}}],
        });
        let file = self.path().join(format!("front-{}.kubeconfig", address.port()));
        std::fs::write(&file, kubeconfig.to_string()).with_context(|| format!("write {}", file.display()))?;
        Ok(file)
    }
}

async fn answer(State(front): State<Arc<Front>>, mut request: Request<Body>) -> Response {
    let path = request.uri().path();
    match front.rules.iter().find(|(word, _)| path.contains(word)).map(|(_, rule)| rule) {
        Some(Rule::Hang) => {
            tokio::time::sleep(Duration::from_hours(1)).await;
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
        Some(Rule::Repeat(text, bytes)) => {
            let chunk = Bytes::from(text.repeat((64 << 10) / text.len().max(1) + 1));
            let left = std::iter::successors(Some(*bytes), |left| left.checked_sub(1 << 16));
            Body::from_stream(stream::iter(left.map(move |_| Ok::<_, std::io::Error>(chunk.clone())))).into_response()
        }
        None => {
            // They speak of this hop, not of the next.
            for name in [header::HOST, header::CONNECTION] {
                request.headers_mut().remove(name);
            }
            let (parts, body) = request.into_parts();
            let Ok(body) = axum::body::to_bytes(body, 8 << 20).await else {
                return StatusCode::BAD_REQUEST.into_response();
            };
            match front.client.send(Request::from_parts(parts, body.to_vec().into())).await {
                Ok(answer) => answer.map(Body::new),
                Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
            }
        }
    }
}
