//! The binary itself: TLS, keep-alive, farewell, and its ways to fail.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(20);

struct Webhook {
    child: Child,
    reviews: SocketAddr,
    admin: SocketAddr,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// For an API server that nobody runs.
fn kubeconfig(folder: &Path) -> std::path::PathBuf {
    let file = folder.join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": format!("http://{}", free())}}],
        "users": [{"name": "x", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}]
    });
    std::fs::write(&file, config.to_string()).unwrap();
    file
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_railbind-webhook"));
    command.env_clear().env("KUBECONFIG", kubeconfig(folder)).stdin(Stdio::null());
    command
}

impl Webhook {
    fn start(folder: &Path) -> Self {
        let (reviews, admin) = (free(), free());
        let child = command(folder)
            .args(["serve", "--namespace", "railbind", "--drain-seconds", "1"])
            .args(["--listen", &reviews.to_string(), "--admin-listen", &admin.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let webhook = Self { child, reviews, admin };
        until("the server to listen", || TcpStream::connect(reviews).is_ok() && TcpStream::connect(admin).is_ok());
        webhook
    }

    fn admin(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn connect(&self, alpn: &[&[u8]]) -> std::io::Result<Connection> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let name = ServerName::try_from("railbind-webhook.railbind.svc").unwrap();
        let client = ClientConnection::new(Arc::new(config), name).unwrap();
        let stream = TcpStream::connect(self.reviews)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut stream = StreamOwned::new(client, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Connection(stream))
    }

    fn terminate(&self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
    }
}

struct Connection(StreamOwned<ClientConnection, TcpStream>);

impl Connection {
    /// Head and body of the answer.
    fn post(&mut self, body: &Value) -> std::io::Result<(String, Value)> {
        let body = body.to_string();
        let head =
            format!("POST /mutate/pods?timeout=3s HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        self.0.write_all(format!("{head}{body}").as_bytes())?;
        self.0.flush()?;
        let mut answer = Vec::new();
        let end = loop {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            answer.push(byte[0]);
            if answer.ends_with(b"\r\n\r\n") {
                break answer.len();
            }
        };
        let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body)?;
        Ok((head, serde_json::from_slice(&body).unwrap()))
    }

    fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(10));
    }
}

fn review() -> Value {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "u", "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "ns", "operation": "CREATE", "object": {"metadata": {}, "spec": {}}}})
}

#[test]
fn without_an_api_server_it_answers_says_what_it_waits_for_and_leaves_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut webhook = Webhook::start(folder.path());

    // The API server offers both to a loopback address.
    let mut connection = webhook.connect(&[b"h2", b"http/1.1"]).unwrap();
    assert_eq!(connection.0.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert!(webhook.connect(&[b"h2"]).is_err(), "only what is served is offered");
    for _ in 0..2 {
        let (head, answer) = connection.post(&review()).unwrap();
        assert!(head.starts_with("http/1.1 200 ") && !head.contains("connection: close"), "{head}");
        assert_eq!(answer["response"]["allowed"], true);
        assert!(answer["response"].get("patch").is_none());
    }

    assert!(webhook.admin("/healthz").starts_with("HTTP/1.1 200 "));
    until("every check to have its reason", || {
        let ready = webhook.admin("/readyz");
        assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
        ready.contains("[-] certificate: cannot read Secret railbind-webhook-ca: ")
            && ready.contains("[-] namespaces: first list: ")
            && ready.contains("[-] nodes: first list: ")
            && ready.contains("[+] workers: first list: ")
            && ready.contains("[-] registration: waits for the server and its certificate")
            && ready.contains("[+] server")
    });
    let metrics = webhook.admin("/metrics");
    assert!(metrics.contains(r#"railbind_webhook_requests_total{hook="pods",outcome="not_ready"} 2"#), "{metrics}");

    let mut idle = webhook.connect(&[]).unwrap();
    webhook.terminate();
    until("the drain", || webhook.admin("/readyz").contains("[-] server: shutting down"));
    let (head, answer) = connection.post(&review()).unwrap();
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(answer["response"]["allowed"], true);
    assert!(connection.is_closed());
    assert!(webhook.connect(&[]).is_ok(), "a late connection is served too");
    assert!(idle.is_closed(), "after the drain");
    assert_eq!(webhook.child.wait().unwrap().code(), Some(0));
}

fn fails(folder: &Path, args: &[&str]) -> String {
    let Output { status, stderr, .. } = command(folder).args(args).output().unwrap();
    assert!(!status.success());
    String::from_utf8(stderr).unwrap()
}

#[test]
fn a_taken_port_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (taken, free) = (taken.local_addr().unwrap().to_string(), free().to_string());
    let serve = ["serve", "--namespace", "railbind"];
    let admin = fails(folder.path(), &[&serve[..], &["--admin-listen", &taken, "--listen", &free]].concat());
    assert!(admin.contains(&format!("cannot listen on {taken} (--admin-listen)")), "{admin}");
    let reviews = fails(folder.path(), &[&serve[..], &["--admin-listen", &free, "--listen", &taken]].concat());
    assert!(reviews.contains(&format!("cannot serve on {taken}")), "{reviews}");
}

#[test]
fn its_own_namespace_must_be_known() {
    let folder = tempfile::tempdir().unwrap();
    assert!(fails(folder.path(), &["serve"]).contains("--namespace <NAME>"));
}

/// The certificate is no subject here.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
