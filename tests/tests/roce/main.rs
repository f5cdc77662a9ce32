//! Real RoCE: two guests with soft-RoCE on one wire run the agent against the real control plane, and their Nodes follow
//! what happens to the link and to the device.
//!
//! The agents' period is longer than the test: every change that a Node follows here was announced by the guest's kernel.

#![allow(clippy::unwrap_used, reason = "all of it is tests, helpers included")]

mod machine;
mod says;
mod selftest;

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use harness::{
    Cluster, Options,
    guest::{End, Image},
    railbind::binary,
};

use crate::{machine::Machine, says::Fabric};

#[tokio::test]
#[ignore = "needs qemu and a guest image: make test-roce"]
async fn nodes_follow_a_real_roce_fabric() {
    let cluster = Cluster::start(Options::default()).await.unwrap();
    let image = Image::with(&binary("railbind-agent").unwrap(), cluster.path()).await.unwrap();
    let [one, two] = [
        Machine::switched_on(&cluster, "roce-guest-1", "192.168.77.1", End::A, &image).await.unwrap(),
        Machine::switched_on(&cluster, "roce-guest-2", "192.168.77.2", End::B, &image).await.unwrap(),
    ];
    cluster.install_identities().await.unwrap();
    let story = story(&one, &two).await;
    if let Err(error) = story {
        panic!("{error:#}\n{}\n{}", one.guest.console(25), two.guest.console(25));
    }
    for mut guest in [one.guest, two.guest] {
        guest.process.kill().await.unwrap();
    }
    cluster.stop().await.unwrap();
}

async fn story(one: &Machine<'_>, two: &Machine<'_>) -> Result<()> {
    tokio::try_join!(one.join(), two.join())?;
    one.is("after the start", Fabric::Roce).await?;
    two.is("after the start", Fabric::Roce).await?;
    println!("{}\n{}", one.described().await?, two.described().await?);

    // What the labels promise is there: UCX finds it, and packets cross with this very GID index.
    let devices = one.guest.run("ucx_info -d").await?;
    println!("UCX in {}:\n{}", one.node, transports(&devices));
    ensure!(transports(&devices).contains("rc_verbs on rxe0:1"), "UCX lists no rc_verbs on rxe0:\n{devices}");
    println!("As its agent says: {}\n", one.probed("rc_verbs/rxe0:1").await?);
    println!("{}", one.ping(two).await?);

    one.does("ip link set eth0 down").await?;
    one.is("after `ip link set eth0 down`", Fabric::Down).await?;
    println!("{}", one.described().await?);
    one.does("ip link set eth0 up").await?;
    one.is("after `ip link set eth0 up`", Fabric::Roce).await?;
    println!("{}", one.described().await?);

    one.plug(false).await?;
    one.is("after its cable was pulled", Fabric::Down).await?;
    one.plug(true).await?;
    one.is("after its cable was plugged in", Fabric::Roce).await?;

    one.does("rdma link delete rxe0").await?;
    one.is("after `rdma link delete rxe0`", Fabric::None).await?;
    println!("{}", one.described().await?);
    one.does("rdma link add rxe0 type rxe netdev eth0").await?;
    one.is("after `rdma link add rxe0`", Fabric::Roce).await?;

    one.does("ip address delete 192.168.77.1/24 dev eth0").await?;
    one.is("after its address was removed", Fabric::Unroutable).await?;
    one.does("ip address add 192.168.77.1/24 dev eth0").await?;
    one.is("after its address was added again", Fabric::Roce).await?;

    one.does("rmmod rdma_rxe").await?;
    one.is("after `rmmod rdma_rxe`", Fabric::None).await?;
    one.does("modprobe rdma_rxe && rdma link add rxe0 type rxe netdev eth0").await?;
    one.is("after `modprobe rdma_rxe` and `rdma link add rxe0`", Fabric::Roce).await?;
    println!("{}", one.ping(two).await?);

    // The neighbour noticed nothing, and both agents are the processes that were started, without capabilities.
    two.is("at the end", Fabric::Roce).await?;
    for machine in [one, two] {
        println!("{}'s agent, the same process all along:\n{}\n", machine.node, machine.counts().await?);
    }
    Ok(())
}

/// `rc_verbs on rxe0:1`, a line for each transport that UCX lists.
fn transports(devices: &str) -> String {
    let after = |line: &str, mark: &str| line.split_once(mark).map(|(_, name)| name.trim().to_owned());
    let mut text = String::new();
    let mut transport = String::new();
    for line in devices.lines() {
        if let Some(name) = after(line, "Transport:") {
            transport = name;
        }
        if let Some(device) = after(line, "Device:") {
            let _ = writeln!(text, "  {transport} on {device}");
        }
    }
    text
}
