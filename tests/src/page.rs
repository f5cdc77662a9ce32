//! The webhook's page behind the API server's service proxy, as people open it in a cluster.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{Balancer, Cluster, LIMIT, railbind::NAMESPACE, until};

/// Path of the page behind the API server.
pub const PATH: &str = "/api/v1/namespaces/railbind-system/services/http:railbind-webhook:admin/proxy/ui/";

/// The Service of the manifests.
const SERVICE: &str = "railbind-webhook";
/// Stands for our process, which is no pod.
const POD: &str = "page-stand-in";

impl Cluster {
    /// Leads the manifests' Service `railbind-webhook` to a balancer, whose ends the caller chooses, for as long as it lives. A Service's
    /// ends must not be loopback addresses, so this needs an address of this machine's own; nothing is sent to find it.
    pub async fn publish_page(&self) -> Result<Balancer> {
        let own = own_address()?;
        let balancer = Balancer::start_on(own).await?;
        // The API server's proxy goes to ends that are pods, by their address: this one stands for our process, and no scheduler
        // looks at it. So its Service may not look for pods itself.
        self.kubectl(&[
            "patch",
            "service",
            SERVICE,
            "-n",
            NAMESPACE,
            "--type=merge",
            "-p",
            r#"{"spec":{"selector":null}}"#,
        ])
        .await?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "namespace": NAMESPACE},
            "spec": {"schedulerName": "nobody", "containers": [{"name": "stand-in", "image": "none"}]},
        });
        self.apply(&pod.to_string()).await?;
        let status = json!({"status": {"podIP": own, "podIPs": [{"ip": own}]}}).to_string();
        self.kubectl(&["patch", "pod", POD, "-n", NAMESPACE, "--subresource=status", "-p", &status]).await?;
        // The proxy reads `Endpoints`, which are deprecated for everybody else.
        let ends = json!({"subsets": [{
            "addresses": [{"ip": own, "targetRef": {"kind": "Pod", "name": POD, "namespace": NAMESPACE}}],
            "ports": [{"name": "admin", "port": balancer.address().port()}],
        }]});
        // The controller has made them, empty, when there was a selector.
        let ends = ends.to_string();
        let patch = ["patch", "endpoints", SERVICE, "-n", NAMESPACE, "--type=merge", "-p", &ends];
        until("the Service to have ends", LIMIT, || self.kubectl(&patch)).await?;
        Ok(balancer)
    }
}

/// The address that this machine would send from: connecting a datagram socket only looks the route up.
fn own_address() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("a socket")?;
    socket
        .connect(SocketAddr::from(([192, 0, 2, 1], 9)))
        .context("no route: this machine has no address of its own")?;
    let own = socket.local_addr().context("its address")?.ip();
    ensure!(!own.is_loopback() && !own.is_unspecified(), "this machine has loopback addresses only");
    Ok(own)
}
