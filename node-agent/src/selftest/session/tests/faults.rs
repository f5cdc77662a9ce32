//! What ends a session that has begun.

use super::*;

#[tokio::test]
async fn a_killed_peer_is_noticed_at_once_and_its_partners_child_ends() {
    let mut world = world(Script::Hangs).await;
    let (mut channel, nonce) = world.by_hand(&world.caller).await;
    channel.send(&Message::Hello(Box::new(World::hello(&nonce)))).await.unwrap();
    assert!(matches!(channel.receive().await.unwrap(), Message::Accepted(_)));
    let killed = Instant::now();
    drop(channel);
    let served = world.served.recv().await.unwrap();
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    assert_eq!(failure(&served.reports.own).0, FailureKind::Peer);
    world.is_idle().await;

    // And the other way round: the called one dies.
    let (told, ended) = oneshot::channel();
    let task = std::mem::replace(&mut world.task, tokio::spawn(async {}));
    tokio::spawn(async move {
        sleep(Duration::from_millis(500)).await;
        task.abort();
        let _ = told.send(Instant::now());
    });
    let called = world.call(Script::Hangs).await.unwrap();
    assert!(ended.await.unwrap().elapsed() < Duration::from_secs(1));
    assert_eq!(failure(&called.reports.own).0, FailureKind::Peer);
    world.is_idle().await;
}

#[tokio::test]
async fn a_black_holed_peer_is_given_up_after_five_seconds() {
    let mut world = world(Script::Hangs).await;
    // A wire that can be cut without anybody being told.
    let wire = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, target) = (wire.local_addr().unwrap(), world.dial.address);
    let cut = Arc::new(Notify::new());
    let cutting = Arc::clone(&cut);
    tokio::spawn(async move {
        let (mut near, _) = wire.accept().await.unwrap();
        let mut far = TcpStream::connect(target).await.unwrap();
        tokio::select! {
            _ = copy_bidirectional(&mut near, &mut far) => {}
            () = cutting.notified() => {}
        }
        sleep(Duration::from_mins(1)).await;
        drop((near, far));
    });
    let dial = Dial { address, ..world.dial.clone() };
    tokio::spawn(async move {
        sleep(Duration::from_millis(500)).await;
        cut.notify_one();
    });
    let started = Instant::now();
    let long = Terms { limits: Limits { deadline_seconds: 60.0, ..Limits::default() }, ..terms() };
    let start = |_: &Terms, _: &str| Ok(Scripted::start(Script::Hangs, "caller", &world.alive));
    let called = call(&world.caller, &dial, &long, start, std::future::pending()).await.unwrap();
    let (kind, message) = failure(&called.reports.own);
    assert!(kind == FailureKind::Broken && message.contains("nothing came for 5s"), "{message}");
    assert!((4..9).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    let served = world.served.recv().await.unwrap();
    assert_eq!(failure(&served.reports.own).0, FailureKind::Broken);
    world.is_idle().await;
}

#[tokio::test]
async fn a_child_that_hangs_ends_with_the_sessions_deadline() {
    let mut world = world(Script::Hangs).await;
    let started = Instant::now();
    let called = world.call(Script::Good).await.unwrap();
    // The called side's child made no report: 1 s of stall and 5 s of grace after ours.
    assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    assert!(called.reports.own.failure.is_none());
    let served = world.served.recv().await.unwrap();
    assert!(matches!(failure(&served.reports.own).0, FailureKind::Stalled | FailureKind::Peer), "{served:?}");
    world.is_idle().await;
}

#[tokio::test]
async fn a_side_that_must_stop_says_so_and_nobody_is_blamed() {
    let world = world(Script::Hangs).await;
    let stop = world.stop.clone();
    tokio::spawn(async move {
        sleep(Duration::from_millis(300)).await;
        stop.send_replace(true);
    });
    let called = world.call(Script::Hangs).await.unwrap();
    let (kind, message) = failure(&called.reports.own);
    assert!(kind == FailureKind::Peer && message.contains("python3 began to use gpu0"), "{message}");
    world.is_idle().await;
}

#[tokio::test]
async fn garbage_in_the_middle_of_a_session_ends_it() {
    let mut world = world(Script::Hangs).await;
    let (mut channel, nonce) = world.by_hand(&world.caller).await;
    channel.send(&Message::Hello(Box::new(World::hello(&nonce)))).await.unwrap();
    assert!(matches!(channel.receive().await.unwrap(), Message::Accepted(_)));
    channel.send(&Message::Busy { retry_after_seconds: 1 }).await.unwrap();
    let served = world.served.recv().await.unwrap();
    assert_eq!(failure(&served.reports.own).0, FailureKind::Protocol);
    world.is_idle().await;
}

#[tokio::test]
async fn a_listener_that_is_dropped_lets_go_of_its_address() {
    let world = world(Script::Good).await;
    let address: SocketAddr = world.dial.address;
    world.task.abort();
    let until = Instant::now() + Duration::from_secs(3);
    while TcpListener::bind(address).await.is_err() {
        assert!(Instant::now() < until, "{address} is still taken");
        sleep(Duration::from_millis(10)).await;
    }
}
