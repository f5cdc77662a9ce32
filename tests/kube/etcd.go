package main

import (
	"flag"
	"fmt"
	"net/url"
	"os"

	"go.etcd.io/etcd/server/v3/embed"
)

// etcd runs a single member. Nothing in it outlives the test run, so it may
// lose data on a crash (no fsync), which is most of what a start costs.
func etcd() int {
	flags := flag.NewFlagSet("etcd", flag.ExitOnError)
	dir := flags.String("data-dir", "", "where the member keeps its data")
	clients := flags.Int("port", 0, "loopback port for clients")
	peers := flags.Int("peer-port", 0, "loopback port for peers, of which there are none")
	_ = flags.Parse(os.Args[1:])

	config := embed.NewConfig()
	// It warns of every request that a busy machine answers slowly.
	config.Dir, config.LogLevel, config.UnsafeNoFsync = *dir, "error", true
	config.ListenClientUrls, config.AdvertiseClientUrls = loopback(*clients), loopback(*clients)
	config.ListenPeerUrls, config.AdvertisePeerUrls = loopback(*peers), loopback(*peers)
	config.InitialCluster = config.InitialClusterFromName(config.Name)

	member, err := embed.StartEtcd(config)
	if err != nil {
		return fail("start", err)
	}
	return fail("serve", <-member.Err())
}

func loopback(port int) []url.URL {
	return []url.URL{{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)}}
}
