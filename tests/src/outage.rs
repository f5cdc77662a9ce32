//! What goes wrong with a control plane: a component is killed, stopped in its tracks, or started again; a connection that carries
//! nothing any more.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use crate::{Cluster, LIMIT, Process, cluster::lock};

impl Cluster {
    /// Kills a component (`etcd`, `kube-apiserver`, …) with SIGKILL. Its data stays, and [`Self::revive`] starts it again.
    pub async fn kill_component(&self, name: &str) -> Result<()> {
        self.take(name)?.kill().await?;
        Ok(())
    }

    /// Starts a component that was killed, with the command line that it had, and waits until the API server is ready.
    pub async fn revive(&self, name: &str) -> Result<()> {
        let args = lock(&self.commands).get(name).cloned().with_context(|| format!("there never was a {name}"))?;
        self.add(name, &args)?;
        // Clients wait at its door with all that they could not ask meanwhile.
        self.answers("readyz", 5 * LIMIT).await
    }

    /// Process id of a component.
    pub fn component_id(&self, name: &str) -> Result<u32> {
        let components = lock(&self.components);
        components.iter().find(|process| process.name() == name).with_context(|| format!("no {name} runs"))?.id()
    }

    /// Asks etcd something, in the JSON form of its gRPC: `/v3/maintenance/status`, say.
    pub async fn etcd(&self, path: &str, body: &Value) -> Result<Value> {
        let port = {
            let commands = lock(&self.commands);
            let args = commands.get("etcd").context("no etcd was started")?;
            args.iter().find_map(|arg| arg.strip_prefix("--port=")).context("etcd has no port")?.to_owned()
        };
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).await.context("connect to etcd")?;
        let body = body.to_string();
        let head = format!("POST {path} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {}", body.len());
        stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "etcd: {answer}");
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).context("etcd's answer has no body")?;
        serde_json::from_str(body).with_context(|| format!("etcd: {answer}"))
    }

    fn take(&self, name: &str) -> Result<Process> {
        let mut components = lock(&self.components);
        let at = components.iter().position(|process| process.name() == name);
        Ok(components.remove(at.with_context(|| format!("no {name} runs"))?))
    }
}

/// Sends a signal (`STOP`, `CONT`, …) to a process.
pub fn signal(process: u32, name: &str) -> Result<()> {
    let status = std::process::Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status()?;
    ensure!(status.success(), "kill -{name} {process}: {status}");
    Ok(())
}

/// What a connection through a [`Wire`] is subject to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// Nothing passes.
    cut: bool,
    /// How often it was mended; what was connected before carries nothing for ever.
    age: usize,
}

/// One address that leads to another, until it is cut: then nothing passes in either direction, and nobody is told, as where a switch
/// drops what it should forward. Connections stay open.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    task: JoinHandle<()>,
}

impl Wire {
    /// One to there, on loopback. It lives in the calling runtime.
    pub async fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(watch::Sender::new(State { cut: false, age: 0 }));
        let task = tokio::spawn(accept(listener, to, state.clone()));
        Ok(Self { address, state, task })
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets nothing through.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cut = true);
    }

    /// Lets new connections through. Those from before stay silent, without an end: what lies between has forgotten them. That is
    /// the worst that can come of a partition; a client that only waits waits for ever.
    pub fn mend(&self) {
        self.state.send_modify(|state| *state = State { cut: false, age: state.age + 1 });
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, state: Arc<watch::Sender<State>>) {
    while let Ok((client, _)) = listener.accept().await {
        let state = state.subscribe();
        let age = state.borrow().age;
        tokio::spawn(async move {
            let mut seen = state.clone();
            // Also while it is cut: the connection is made by the kernel, and then silent.
            if passes(&mut seen, age).await.is_none() {
                return forever(client).await;
            }
            let Ok(server) = TcpStream::connect(to).await else { return };
            drop((client.set_nodelay(true), server.set_nodelay(true)));
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let (one, two) = (state.clone(), state);
            tokio::join!(carry(from_client, to_server, one, age), carry(from_server, to_client, two, age));
        });
    }
}

/// Holds on to it.
async fn forever<T>(held: T) {
    std::future::pending::<()>().await;
    drop(held);
}

/// Waits until something may pass; `None` where nothing ever will.
async fn passes(state: &mut watch::Receiver<State>, age: usize) -> Option<()> {
    let now = *state.wait_for(|state| !state.cut || state.age != age).await.ok()?;
    (now.age == age).then_some(())
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut state: watch::Receiver<State>,
    age: usize,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await;
        if passes(&mut state, age).await.is_none() {
            return forever((from, to)).await;
        }
        match read {
            Ok(count @ 1..) if to.write_all(&buffer[..count]).await.is_ok() => {}
            _ => break,
        }
    }
    drop(to.shutdown().await);
}
