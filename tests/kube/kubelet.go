package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	apitest "k8s.io/cri-api/pkg/apis/testing"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubemark"
)

// kubelet runs the real kubelet code (kubemark's hollow one) over a runtime
// that records instead of running, and a machine of any size we like.
func kubelet() int {
	flags := flag.NewFlagSet("kubelet", flag.ExitOnError)
	kubeconfig := flags.String("kubeconfig", "", "a cluster administrator's kubeconfig")
	name := flags.String("name", "", "the node's name")
	out := flags.String("out", "", "folder for one JSON file a container")
	root := flags.String("root", "", "folder for volumes and the kubelet's own state")
	cpu := flags.Int("cpu", 128, "cores the machine has")
	memory := flags.String("memory", "1Ti", "memory the machine has")
	kernel := flags.String("kernel", "6.8.0", "kernel the machine runs")
	labels, extended := pairs{}, pairs{}
	flags.Var(labels, "label", "KEY=VALUE, a label the node registers with (repeatable)")
	flags.Var(extended, "resource", "NAME=COUNT, an extended resource the node has (repeatable)")
	klog.InitFlags(flags)
	_ = flags.Parse(os.Args[1:])

	rest, err := asNode(*kubeconfig, *name)
	if err != nil {
		return fail("kubeconfig", err)
	}
	heartbeat := clientConfigWithTimeout(rest, 10*time.Second)
	bytes, err := resource.ParseQuantity(*memory)
	if err != nil {
		return fail("memory", err)
	}
	resources, err := quantities(extended)
	if err != nil {
		return fail("resource", err)
	}
	address, err := hostAddress()
	if err != nil {
		return fail("node address", err)
	}

	settings, config, err := hollow(*name, *root, address, labels)
	if err != nil {
		return fail("root folder", err)
	}
	kubemark.NewHollowKubelet(settings, config,
		clientset.NewForConfigOrDie(rest), clientset.NewForConfigOrDie(heartbeat),
		newMachine(*name, *cpu, bytes.Value(), *kernel),
		apitest.NewFakeImageService(), newRecorder(*out, *name), newContainerManager(resources),
	).Run(context.Background())
	return 0
}

// hollow is kubemark's configuration, where its choices do not suit us.
func hollow(name, root, address string, labels map[string]string) (*options.KubeletFlags, *kubeletconfig.KubeletConfiguration, error) {
	settings, config := kubemark.GetHollowKubeletConfig(&kubemark.HollowKubeletOptions{
		NodeName: name, NodeLabels: labels, MaxPods: 250,
	})
	settings.NodeIP = address

	// It has just made a folder in /tmp, which nobody would remove.
	if err := os.RemoveAll(settings.RootDirectory); err != nil {
		return nil, nil, err
	}
	settings.RootDirectory = root
	config.PodLogsDir, config.StaticPodPath = filepath.Join(root, "logs"), filepath.Join(root, "static")
	for _, dir := range []string{config.PodLogsDir, config.StaticPodPath} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, nil, err
		}
	}

	// Its server could not be reached anyway (the hollow one has no TLS), and
	// without it a node needs no port.
	config.EnableServer = false

	// The machine's disk and memory are an invention: there is nothing to
	// measure, and nothing to evict for.
	config.EvictionHard, config.LocalStorageCapacityIsolation = map[string]string{}, false
	config.ImageGCHighThresholdPercent = 100
	return settings, config, nil
}

// asNode speaks to the API server under the node's own identity, so that the
// node authorizer and the NodeRestriction admission plugin see what they would
// see in production.
func asNode(kubeconfig, name string) (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:node:" + name,
		Groups:   []string{"system:nodes", "system:authenticated"},
	}
	return config, nil
}

func clientConfigWithTimeout(config *rest.Config, timeout time.Duration) *rest.Config {
	limited := rest.CopyConfig(config)
	limited.Timeout = timeout
	return limited
}

// hostAddress picks an address of this host for the node. The kubelet refuses
// loopback; left to itself it asks DNS for the node's name, which can hang for
// seconds, and then needs a default route, which a sandbox may lack.
func hostAddress() (string, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, address := range addresses {
		if network, ok := address.(*net.IPNet); ok && network.IP.To4() != nil && network.IP.IsGlobalUnicast() {
			return network.IP.String(), nil
		}
	}
	return "", errors.New("this host has no IPv4 address but loopback; add one: ip address add 192.0.2.1/32 dev lo")
}

func quantities(of pairs) (v1.ResourceList, error) {
	list := v1.ResourceList{}
	for name, count := range of {
		quantity, err := resource.ParseQuantity(count)
		if err != nil {
			return nil, fmt.Errorf("%s=%s: %w", name, count, err)
		}
		list[v1.ResourceName(name)] = quantity
	}
	return list, nil
}

// pairs is a repeatable KEY=VALUE flag. A comma-separated list would not do:
// it would have to be escaped again.
type pairs map[string]string

func (p pairs) String() string { return fmt.Sprint(map[string]string(p)) }

func (p pairs) Set(pair string) error {
	key, value, found := strings.Cut(pair, "=")
	if !found {
		return fmt.Errorf("%q is not KEY=VALUE", pair)
	}
	p[key] = value
	return nil
}
