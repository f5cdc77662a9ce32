//! A webhook that reads nothing and decides nothing: its answer was ready before, but for the review's uid. What it adds is what the
//! API server and the way to a webhook cost, whoever answers.

use std::{convert::Infallible, net::Ipv4Addr, sync::Arc, thread};

use anyhow::{Context, Result, anyhow};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::Value;
use tokio::{net::TcpListener, runtime, task::LocalSet};
use tokio_rustls::TlsAcceptor;

/// What it answers with for a path.
#[derive(Debug, Clone)]
pub(crate) struct Patches {
    /// At `/patch/pods`; at `/empty/…` there is none.
    pub(crate) pods: Value,
    /// At `/patch/bindings`.
    pub(crate) bindings: Value,
}

/// Serves until the process ends, in a thread of its own; the port.
pub(crate) fn serve(certificate: &[u8], key: &[u8], patches: Patches) -> Result<u16> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = chain.map_err(|error| anyhow!("the certificate: {error:?}"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| anyhow!("the key: {error:?}"))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a free port")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("async runtime")?;
    thread::spawn(move || LocalSet::new().block_on(&runtime, listen(listener, acceptor, Arc::new(patches))));
    Ok(port)
}

async fn listen(listener: std::net::TcpListener, acceptor: TlsAcceptor, patches: Arc<Patches>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, patches) = (acceptor.clone(), patches.clone());
        tokio::task::spawn_local(async move {
            drop(stream.set_nodelay(true));
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| answer(request, &patches));
            // A connection that breaks is the API server's trouble, which it tells of.
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(request: Request<Incoming>, patches: &Patches) -> Result<Response<Full<Bytes>>, Infallible> {
    let patch = match request.uri().path() {
        "/patch/pods" => Some(&patches.pods),
        "/patch/bindings" => Some(&patches.bindings),
        _ => None,
    };
    let body = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
    let patch = patch.map_or_else(String::new, |patch| {
        format!(r#","patchType":"JSONPatch","patch":"{}""#, BASE64_STANDARD.encode(patch.to_string()))
    });
    let text = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{{"uid":"{}","allowed":true{patch}}}}}"#,
        uid(&body)
    );
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(response)
}

/// The first uid in the text: the API server writes the request's before the object.
fn uid(body: &[u8]) -> String {
    let mark = br#""uid":""#;
    let start = body.windows(mark.len()).position(|part| part == mark).map_or(body.len(), |at| at + mark.len());
    String::from_utf8_lossy(body[start..].split(|byte| *byte == b'"').next().unwrap_or_default()).into_owned()
}
