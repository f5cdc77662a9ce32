//! The texts are what the named releases printed; `node` stands for the host's name.

use proptest::prelude::*;

use super::*;

fn variables(log: &str) -> Vec<(String, Option<String>)> {
    let unused = messages(log).iter().filter_map(unused).flatten().collect::<Vec<_>>();
    unused.into_iter().map(|unused| (unused.name, unused.meant)).collect()
}

#[test]
fn unused_variables_of_1_13() {
    let one = "[1795559354.163550] [node:12321:0]          parser.c:1908 UCX  WARN  unused env variable: UCX_TLZ (set \
               UCX_WARN_UNUSED_ENV_VARS=n to suppress this warning)\n";
    assert_eq!(variables(one), [("UCX_TLZ".into(), None)]);
    let two = one.replace("variable: UCX_TLZ", "variables: UCX_TLZ,UCX_FOO");
    assert_eq!(variables(&two), [("UCX_TLZ".into(), None), ("UCX_FOO".into(), None)]);
}

#[test]
fn unused_variables_since_1_14() {
    let log = "[1795559361.795485] [node:12620:0]          parser.c:1989 UCX  WARN  unused environment variables: UCX_TLZ \
               (maybe: UCX_TLS?); UCX_RC_TX_QUEUE_LEN; UCX_IB_GID_INDEX\n\
               [1795559361.795485] [node:12620:0]          parser.c:1989 UCX  WARN  (set UCX_WARN_UNUSED_ENV_VARS=n to \
               suppress this warning)\n";
    let expected = [
        ("UCX_TLZ".into(), Some("UCX_TLS".into())),
        ("UCX_RC_TX_QUEUE_LEN".into(), None),
        ("UCX_IB_GID_INDEX".into(), None),
    ];
    assert_eq!(variables(log), expected);
    let several = "[1.1] [n:1:0] parser.c:1 UCX  WARN  unused environment variable: UCX_RNDV_TRESH (maybe: UCX_RNDV_THRESH, \
                   UCX_RNDV_SCHEME?)";
    assert_eq!(variables(several), [("UCX_RNDV_TRESH".into(), Some("UCX_RNDV_THRESH, UCX_RNDV_SCHEME".into()))]);
}

#[test]
fn other_messages_are_kept_and_other_lines_are_not() {
    let log = "==== backtrace (tid: 1) ====\n\
               [1795559319.919327] [node:10331:0]     ucp_context.c:1492 UCX  WARN  transport 'bogus' is not available, please \
               use one or more of: cma, mm, posix, self, shm, sm, sysv, tcp\n\
               [1795559319.919334] [node:10331:0]     ucp_context.c:1754 UCX  ERROR no usable transports/devices (asked bogus \
               on network:intra-node:accelerator:loopback:)\n\
               somebody talks about UCX and WARN here\n";
    let found = messages(log);
    let levels: Vec<&str> = found.iter().map(|message| message.level.as_str()).collect();
    assert_eq!(levels, ["WARN", "ERROR"]);
    assert!(found[1].text.starts_with("no usable transports/devices"), "{found:?}");
    assert!(found.iter().all(|message| unused(message).is_none()));
}

#[test]
fn resources_of_a_context() {
    let info = "#\n# UCP context\n#\n#     component 0  :  self\n#            md 0  :  component 0  self \n\
                #      resource 0  :  md 0  dev 0  flags -- self/memory0\n\
                #      resource 1  :  md 1  dev 1  flags -- tcp/eth0\n\
                #      resource 2  :  md 4  dev 3  flags a- rc_mlx5/mlx5_0:1\n#\n";
    assert_eq!(resources(info), ["self/memory0", "tcp/eth0", "rc_mlx5/mlx5_0:1"]);
}

#[test]
fn settings_of_a_dump() {
    let dump = "#\n# UCX library configuration file\n#\n\nUCX_TLS=all\nUCX_GDB_COMMAND=gdb -quiet\nUCX_EMPTY=\nOTHER=1\nUCX_A B=1\n";
    let expected: [(String, String); 3] =
        [("EMPTY", ""), ("GDB_COMMAND", "gdb -quiet"), ("TLS", "all")].map(|(name, value)| (name.into(), value.into()));
    assert_eq!(settings(dump, "UCX_").into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn mapped_files_each_once() {
    let maps = "7f00-7f01 r-xp 00000000 fe:00 12  /opt/ucx/lib/libucp.so.0.0.0\n\
                7f01-7f02 r--p 00001000 fe:00 12  /opt/ucx/lib/libucp.so.0.0.0\n\
                7f02-7f03 r--p 00001000 fe:00 13  /usr/lib/x86_64-linux-gnu/libucm.so.0.0.0\n\
                7f03-7f04 r--p 00000000 fe:00 14  /usr/lib/x86_64-linux-gnu/libc.so.6\n\
                7f04-7f05 rw-p 00000000 00:00 0 \n";
    let expected = ["/opt/ucx/lib/libucp.so.0.0.0", "/usr/lib/x86_64-linux-gnu/libucm.so.0.0.0"];
    assert_eq!(mapped_files(maps), expected.map(PathBuf::from));
}

proptest! {
    #[test]
    fn nothing_panics(text in "(?s).{0,200}", seed in "(unused env(ironment)? variables?: ?)?[A-Z_(;,?) ]{0,40}") {
        for text in [&text, &seed, &format!("[1] [n] x UCX  WARN  {seed}"), &format!("# resource {text}"), &format!("UCX_{text}")] {
            let _ = messages(text).iter().map(unused).count();
            let _ = (resources(text), settings(text, "UCX_"), mapped_files(text));
        }
    }
}

#[test]
fn lanes_of_an_endpoint() {
    let info = "#\n# UCP endpoint\n#\n#               peer: <no debug data>\n\
                #                 lane[0]:  1:tcp/lo.0 md[1]           -> md[1]/tcp/sysdev[255] rma_bw#0 am am_bw#0 wireup\n\
                #                 lane[1]:  4:rc_mlx5/mlx5_0:1.0 md[4] -> md[4]/ib/sysdev[0] rma#0\n\
                #\n#                tag_send: 0..<egr/short>..8185..<egr/bcopy>..262144..<rndv>..(inf)\n";
    let lane = |pair: &str, uses: &[&str]| Lane { pair: pair.into(), uses: uses.iter().map(|&u| u.into()).collect() };
    let expected = [lane("tcp/lo", &["rma_bw", "am", "am_bw", "wireup"]), lane("rc_mlx5/mlx5_0:1", &["rma"])];
    assert_eq!(lanes(info), expected);
}

#[test]
fn transports_and_protocol_of_a_request() {
    let cma =
        "tag_send from host memory length 134217728 rendezvous zero-copy read from remote cma/memory 11256.2 MB/s";
    assert_eq!(used(cma), [("cma/memory".into(), None)]);
    assert_eq!(protocol(cma).as_deref(), Some("rendezvous zero-copy read from remote"));
    let staged = "tag_send from cuda/GPU0 length 33554432 rendezvous fragmented copy-in copy-out tcp/lo";
    assert_eq!(used(staged), [("tcp/lo".into(), None)]);
    assert_eq!(protocol(staged).as_deref(), Some("rendezvous fragmented copy-in copy-out"));
    let rails =
        "put from host memory length 1048576 zero-copy 60% on rc_mlx5/mlx5_0:1/path0 and 40% on rc_mlx5/mlx5_1:1/path0";
    assert_eq!(used(rails), [("rc_mlx5/mlx5_0:1".into(), Some(60)), ("rc_mlx5/mlx5_1:1".into(), Some(40))]);
    assert_eq!(protocol(rails).as_deref(), Some("zero-copy"));
    let whole = format!("{{proto|cb|init}} {cma} 89.73 us");
    assert_eq!(told(&whole), cma.strip_suffix(" 11256.2 MB/s").unwrap());
    assert_eq!((used("<no debug info>"), protocol("<no debug info>")), (vec![], None));
}
