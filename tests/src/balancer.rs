//! What a Service is to the webhook's replicas: one address, connections spread over the ends that are in it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{Cluster, cluster::lock, free_port, railbind::Daemon};

/// Spreads connections, as kube-proxy does: a connection stays with its end, also when that leaves.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    ends: Arc<Mutex<Vec<SocketAddr>>>,
    task: JoinHandle<()>,
}

impl Balancer {
    /// One without ends, on loopback. It lives in the calling runtime.
    pub async fn start() -> Result<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST.into()).await
    }

    /// The same on another address of this machine.
    pub async fn start_on(address: IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let address = listener.local_addr()?;
        let ends: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
        let task = tokio::spawn(accept(listener, ends.clone()));
        Ok(Self { address, ends, task })
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes an end in.
    pub fn add(&self, end: SocketAddr) {
        lock(&self.ends).push(end);
    }

    /// Sends no new connection there.
    pub fn remove(&self, end: SocketAddr) {
        lock(&self.ends).retain(|other| *other != end);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, ends: Arc<Mutex<Vec<SocketAddr>>>) {
    let turn = AtomicUsize::new(0);
    while let Ok((mut client, _)) = listener.accept().await {
        let turn = turn.fetch_add(1, Ordering::Relaxed);
        let end = {
            let ends = lock(&ends);
            ends.get(turn % ends.len().max(1)).copied()
        };
        // Nobody there: the connection is closed, as one to a Service without endpoints is refused.
        let Some(end) = end else { continue };
        tokio::spawn(async move {
            if let Ok(mut server) = TcpStream::connect(end).await {
                drop(client.set_nodelay(true));
                drop(server.set_nodelay(true));
                drop(copy_bidirectional(&mut client, &mut server).await);
            }
        });
    }
}

impl Cluster {
    /// Runs a replica of the webhook behind a balancer, which it registers, and takes it in once it is ready.
    pub async fn spawn_replica(&self, name: &str, balancer: &Balancer, more: &[&str]) -> Result<(Daemon, SocketAddr)> {
        let listen: SocketAddr = format!("127.0.0.1:{}", free_port()?).parse()?;
        let url = format!("https://{}", balancer.address());
        let replica = self.spawn_webhook_at(name, &listen.to_string(), &url, more).await?;
        balancer.add(listen);
        Ok((replica, listen))
    }
}
