//! The kernel's own word that something changed: uevents (devices, modules) and route netlink (links, addresses).
//!
//! What a message says does not matter, only that there was one: the survey reads the truth afterwards. Where the sockets cannot
//! be had (another network namespace, no permission), the period alone notices changes.

use std::{os::fd::OwnedFd, sync::Arc, thread};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind,
        netlink::{self, SocketAddrNetlink},
        recv, socket_with,
    },
};
use tokio::sync::Notify;

/// Multicast group of kernel uevents (lib/kobject_uevent.c).
const UEVENT_GROUP: u32 = 1;
/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR` (linux/rtnetlink.h).
const ROUTE_GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// Tells of changes.
#[derive(Debug, Clone)]
pub struct Events(Arc<Notify>);

impl Events {
    /// Opens the sockets and waits on them in a thread; one that cannot be had is logged and left out.
    pub fn subscribe() -> Self {
        let notify = Arc::new(Notify::new());
        // NETLINK_ROUTE is protocol 0.
        let wanted = [("uevents", Some(netlink::KOBJECT_UEVENT), UEVENT_GROUP), ("route netlink", None, ROUTE_GROUPS)];
        let sockets: Vec<OwnedFd> = wanted
            .into_iter()
            .filter_map(|(what, protocol, groups)| {
                let socket = listen(protocol, groups);
                let unheard = |error: &Errno| {
                    tracing::warn!(%error, what, "no kernel events: changes are noticed at the period");
                };
                socket.inspect_err(unheard).ok()
            })
            .collect();
        let told = Arc::clone(&notify);
        if !sockets.is_empty() {
            let thread = thread::Builder::new().name("kernel-events".into());
            if let Err(error) = thread.spawn(move || watch(&sockets, &told)) {
                tracing::warn!(%error, "no thread for kernel events: changes are noticed at the period");
            }
        }
        Self(notify)
    }

    /// Returns after something changed; pending for ever where nothing tells. A change between two calls is not lost.
    pub async fn changed(&self) {
        self.0.notified().await;
    }
}

fn listen(protocol: Option<Protocol>, groups: u32) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

fn watch(sockets: &[OwnedFd], told: &Notify) {
    loop {
        let mut waiting: Vec<PollFd<'_>> = sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
        match poll(&mut waiting, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::warn!(%error, "kernel events ended: changes are noticed at the period");
                return;
            }
        }
        // Each answer counts as news, lost messages (ENOBUFS) too.
        if sockets.iter().map(drain).fold(false, |news, here| news | here) {
            told.notify_one();
        }
    }
}

/// Reads all that is there; says whether there was anything.
fn drain(socket: &OwnedFd) -> bool {
    let mut news = false;
    let mut buffer = [0_u8; 8192];
    loop {
        match recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok(_) | Err(Errno::NOBUFS) => news = true,
            Err(Errno::INTR) => {}
            Err(_) => return news,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_change_before_the_wait_is_not_lost() {
        let events = Events(Arc::new(Notify::new()));
        events.0.notify_one();
        tokio::time::timeout(Duration::from_secs(5), events.changed()).await.expect("told");
    }
}
