//! A steady load over TLS and HTTP/1.1 with connections kept, as the API server calls webhooks. Open loop: a review is due when it
//! is due, whether those before it are answered or not, and its latency counts from then.

use std::{
    cell::RefCell,
    fs,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
    task::LocalSet,
};
use tokio_rustls::TlsConnector;

use crate::stats::Latencies;

/// Connections at most; who is due and finds none waits, and the wait counts. The API server has no bound of its own here, but on its
/// requests: 200 that change something, by default.
const CONNECTIONS: usize = 100;
/// Before anything counts.
const WARM_UP: Duration = Duration::from_secs(1);

/// What to ask, and how often.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    /// Who signed the server's certificate, PEM.
    pub(crate) authority: Vec<u8>,
    pub(crate) path: &'static str,
    pub(crate) body: Bytes,
    pub(crate) a_second: u32,
    pub(crate) lasting: Duration,
    /// Whether each answer has to bring a patch, or must not.
    pub(crate) patched: bool,
}

type Sender = SendRequest<Full<Bytes>>;

impl Load {
    /// Puts it on the webhook; the latencies of all reviews.
    pub(crate) async fn run(self) -> Result<Latencies> {
        let ended = tokio::task::spawn_blocking(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().context("async runtime")?;
            LocalSet::new().block_on(&runtime, self.put())
        });
        ended.await.context("the load")?
    }

    async fn put(self) -> Result<Latencies> {
        let started = Instant::now();
        let (due, mut dues) = mpsc::unbounded_channel();
        let (a_second, lasting) = (self.a_second, WARM_UP + self.lasting);
        thread::spawn(move || {
            // To the microsecond where the kernel allows it; else it is the generator's delay that counts.
            drop(fs::write("/proc/thread-self/timerslack_ns", "1"));
            for number in 1..=a_second * u32::try_from(lasting.as_secs()).unwrap_or(u32::MAX) {
                let at = started + Duration::from_secs(1) * number / a_second;
                thread::sleep(at.saturating_duration_since(Instant::now()));
                if due.send(at).is_err() {
                    return;
                }
            }
        });
        let load = Rc::new(self);
        let connector = load.connector()?;
        let idle: Rc<RefCell<Vec<Sender>>> = Rc::default();
        let found: Rc<RefCell<Vec<Result<Duration>>>> = Rc::default();
        let places = Rc::new(Semaphore::new(CONNECTIONS));
        let mut asked = Vec::new();
        while let Some(at) = dues.recv().await {
            let (load, connector, idle, found) = (load.clone(), connector.clone(), idle.clone(), found.clone());
            let places = places.clone();
            asked.push(tokio::task::spawn_local(async move {
                // Never closed.
                let _place = places.acquire().await;
                let free = idle.borrow_mut().pop();
                let answered = load.ask(free, &connector).await;
                let latency = at.elapsed();
                let answered = answered.map(|sender| idle.borrow_mut().push(sender));
                if at.duration_since(started) > WARM_UP || answered.is_err() {
                    found.borrow_mut().push(answered.map(|()| latency));
                }
            }));
        }
        for task in asked {
            task.await.context("a review")?;
        }
        let found: Result<Vec<Duration>> = found.take().into_iter().collect();
        Ok(Latencies::new(found?))
    }

    fn connector(&self) -> Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.authority) {
            roots.add(certificate.map_err(|error| anyhow!("the webhook's authority: {error:?}"))?)?;
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    }

    async fn connect(&self, connector: &TlsConnector) -> Result<Sender> {
        let stream = TcpStream::connect(self.address).await.context("connect to the webhook")?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = connector.connect(name, stream).await.context("TLS with the webhook")?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }

    /// Asks over a connection that is free, else over a new one; gives it back.
    async fn ask(&self, free: Option<Sender>, connector: &TlsConnector) -> Result<Sender> {
        let mut sender = match free {
            Some(sender) => sender,
            None => self.connect(connector).await?,
        };
        let body = self.exchange(&mut sender).await?;
        // Looked at as text: to parse it would be most of the generator's work.
        let has = |text: &[u8]| body.windows(text.len()).any(|part| part == text);
        ensure!(has(b"\"allowed\":true") && has(b"\"patch\":") == self.patched, "{}", String::from_utf8_lossy(&body));
        Ok(sender)
    }

    async fn exchange(&self, sender: &mut Sender) -> Result<Bytes> {
        sender.ready().await?;
        let request = Request::post(format!("{}?timeout=3s", self.path))
            .header("host", self.address.to_string())
            .header("content-type", "application/json")
            .body(Full::new(self.body.clone()))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// Asks once; the answer.
    pub(crate) async fn once(self) -> Result<Bytes> {
        let asked = tokio::task::spawn_blocking(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().context("async runtime")?;
            LocalSet::new().block_on(&runtime, async {
                let mut sender = self.connect(&self.connector()?).await?;
                self.exchange(&mut sender).await
            })
        });
        asked.await.context("a review")?
    }
}
