// Reads the InfiniBand and network classes of a tree with prometheus/procfs, which node_exporter is built on, and says how
// long that takes: the peer that railbind's survey is compared with in `make bench`.
//
// The two do not read the same. procfs reads every counter of every port and all attributes of every network interface, and
// no GID tables, P_Keys, GPUs, PCI topology or processes; a survey reads those and no counter.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/procfs/sysfs"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peer-go:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: peer-go TREE ROUNDS")
	}
	rounds, err := strconv.Atoi(args[1])
	if err != nil || rounds < 1 {
		return fmt.Errorf("rounds %q: want a number above 0", args[1])
	}
	fs, err := sysfs.NewFS(filepath.Join(args[0], "sys"))
	if err != nil {
		return err
	}
	// The first rounds are for the caches.
	for range 3 {
		if err := read(fs); err != nil {
			return err
		}
	}
	took := make([]time.Duration, rounds)
	for round := range took {
		start := time.Now()
		if err := read(fs); err != nil {
			return err
		}
		took[round] = time.Since(start)
	}
	slices.Sort(took)
	// The quarter, the median and three quarters.
	for _, place := range []int{len(took) / 4, len(took) / 2, len(took) * 3 / 4} {
		fmt.Println(took[place].Nanoseconds())
	}
	return nil
}

func read(fs sysfs.FS) error {
	devices, err := fs.InfiniBandClass()
	if err != nil {
		return fmt.Errorf("InfiniBandClass: %w", err)
	}
	if len(devices) == 0 {
		return errors.New("no InfiniBand device: nothing was measured")
	}
	if _, err := fs.NetClass(); err != nil {
		return fmt.Errorf("NetClass: %w", err)
	}
	return nil
}
