// Command kube is a whole Kubernetes control plane in one binary, for tests:
// the first argument picks the component, the rest are that component's own
// flags. No container engine, no root, no network beyond loopback.
package main

import (
	"fmt"
	"os"
	"sort"
	"strings"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	"k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// One component. It reads its flags from os.Args, as upstream's commands do,
// and returns the exit status.
type component struct {
	run func() int
	// Serves until it is told to stop. Only these watch stdin: kubectl must be
	// left to read manifests from it, and guard gives it a meaning of its own.
	serves bool
}

var components = map[string]component{
	"etcd":                    {run: etcd, serves: true},
	"kube-apiserver":          {run: func() int { return cli.Run(apiserver.NewAPIServerCommand()) }, serves: true},
	"kube-controller-manager": {run: func() int { return cli.Run(controllers.NewControllerManagerCommand()) }, serves: true},
	"kube-scheduler":          {run: func() int { return cli.Run(scheduler.NewSchedulerCommand()) }, serves: true},
	"kubelet":                 {run: kubelet, serves: true},
	"kubectl":                 {run: func() int { return cli.Run(cmd.NewDefaultKubectlCommand()) }},
	"guard":                   {run: guard},
}

func main() {
	if len(os.Args) < 2 {
		os.Exit(usage())
	}
	chosen, known := components[os.Args[1]]
	if !known {
		os.Exit(usage())
	}
	os.Args = os.Args[1:]
	if chosen.serves {
		exitWithParent()
	}
	os.Exit(chosen.run())
}

func usage() int {
	names := make([]string, 0, len(components))
	for name := range components {
		names = append(names, name)
	}
	sort.Strings(names)
	fmt.Fprintf(os.Stderr, "usage: kube %s [flags]\n", strings.Join(names, "|"))
	return 2
}

// fail reports why a component of ours cannot run.
func fail(doing string, err error) int {
	fmt.Fprintf(os.Stderr, "%s: %s: %v\n", os.Args[0], doing, err)
	return 1
}
