//! `ui`: the webhook's page, for the person who runs this and nobody else.
//!
//! `kubectl proxy` shows the page too, and with it all that its user may do to whoever can connect to this machine's loopback. This
//! lets through the page and the NodeFabrics that it reads, and only to a browser that knows the address's secret.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpListener;

use crate::{
    args::UiArgs,
    cluster::{Cluster, Trouble},
    exit::{Ended, Exit, Result},
    out,
};

mod door;
mod said;

use door::Door;
use said::Place;

/// No answer of the page's data is larger: 5,000 nodes and 2,000 workers are some MiB.
const MOST: usize = 64 << 20;

/// Serves until it is told to end.
///
/// # Errors
/// There is no page, or it may not be seen, or the port is taken.
pub async fn run(cluster: Cluster, args: &UiArgs) -> Result<Exit> {
    let place = Place { namespace: args.railbind_namespace.clone(), service: args.service.clone() };
    let version = look(&cluster, &place).await?;
    if version != env!("CARGO_PKG_VERSION") {
        out::say(&format!(
            "note: the page is of Railbind {}, and this is {}",
            out::clean(&version),
            env!("CARGO_PKG_VERSION")
        ));
    }
    let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let listener = TcpListener::bind(wanted).await.map_err(|error| {
        Ended::usage(format!("cannot listen on {wanted}: {error}; without --port a free port is taken"))
    })?;
    let address = listener.local_addr().map_err(|error| Ended::new(Exit::Failed, format!("the listener: {error}")))?;
    let secret = secret()?;
    let home = format!("http://{address}/{secret}/");
    let ticket = if args.open { Some(self::secret()?) } else { None };
    let door = Arc::new(Door::new(cluster, place.page(), address, secret, ticket.clone()));
    out::print(&format!("{home}\n"))?;
    out::say("This address is yours alone: whoever has it sees the page while this runs. Ctrl-C ends it.");
    let serving = async { axum::serve(listener, door::router(door.clone())).await };
    let opening = async {
        if let Some(ticket) = ticket {
            open(&door, &format!("http://{address}/open/{ticket}")).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = serving => match served {
            Ok(()) => Ok(Exit::Healthy),
            Err(error) => Err(Ended::new(Exit::Failed, format!("serving on {address}: {error}"))),
        },
        () = opening => Ok(Exit::Healthy),
        () = told_to_end() => Ok(Exit::Healthy),
    }
}

/// Sees that the page is there before anybody is sent to it; its version.
async fn look(cluster: &Cluster, place: &Place) -> Result<String> {
    match cluster.read(&format!("{}data.json", place.page()), MOST).await {
        Ok((code, body)) => said::judge(code, &body, place),
        Err(Trouble::Slow(why)) => Err(said::unreached(place, &why)),
        Err(trouble) => {
            let exit = match trouble {
                Trouble::Refused(_) => Exit::NoPermission,
                Trouble::Unreachable(_) => Exit::NoCluster,
                Trouble::Slow(_) | Trouble::NotFound(_) | Trouble::Other(_) => Exit::Partial,
            };
            Err(Ended::new(exit, format!("the page: {}", trouble.text())))
        }
    }
}

/// 128 random bits.
fn secret() -> Result<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Ended::new(Exit::Failed, "this machine gives no random numbers"))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// Starts the browser. Its command line is there for all users of the machine to read, so it gets a ticket that opens once, and
/// not for long.
async fn open(door: &Door, url: &str) {
    if let Err(error) = open::that_detached(url) {
        out::say(&format!("cannot start a browser ({error}): open the address above"));
    }
    tokio::time::sleep(Duration::from_mins(1)).await;
    door.forget_ticket();
}

async fn told_to_end() {
    let interrupted = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! { _ = interrupted => {}, _ = terminated.recv() => {} }
            return;
        }
    }
    drop(interrupted.await);
}
