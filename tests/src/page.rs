//! The webhook's page behind the API server's service proxy, as people open it in a cluster.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{Balancer, Cluster, railbind::Daemon, railbind::NAMESPACE};

/// Path of the page behind the API server.
pub const PATH: &str = "/api/v1/namespaces/railbind-system/services/http:railbind-page:admin/proxy/ui/";

impl Cluster {
    /// A Service that leads to the webhook's admin server, for as long as the balancer lives. Its ends must not be loopback
    /// addresses, so this needs an address of this machine's own; nothing is sent to find it.
    pub async fn publish_page(&self, webhook: &Daemon) -> Result<Balancer> {
        let own = own_address()?;
        let balancer = Balancer::start_on(own).await?;
        balancer.add(webhook.admin());
        let port = balancer.address().port();
        // The API server's proxy goes to ends that are pods, by their address: this one stands for our process, and no scheduler
        // looks at it. It reads `Endpoints`, which are deprecated for everybody else.
        let name = json!({"name": "railbind-page", "namespace": NAMESPACE});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": name,
            "spec": {"schedulerName": "nobody", "containers": [{"name": "stand-in", "image": "none"}]},
        });
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": name,
            "spec": {"clusterIP": "None", "ports": [{"name": "admin", "port": port}]},
        });
        let ends = json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": name,
            "subsets": [{
                "addresses": [{
                    "ip": own, "targetRef": {"kind": "Pod", "name": "railbind-page", "namespace": NAMESPACE},
                }],
                "ports": [{"name": "admin", "port": port}],
            }],
        });
        for object in [&pod, &service, &ends] {
            self.apply(&object.to_string()).await?;
        }
        let status = json!({"status": {"podIP": own, "podIPs": [{"ip": own}]}}).to_string();
        self.kubectl(&["patch", "pod", "railbind-page", "-n", NAMESPACE, "--subresource=status", "-p", &status])
            .await?;
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
