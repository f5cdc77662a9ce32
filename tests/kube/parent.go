package main

import (
	"io"
	"os"
)

// exitWithParent ends this process when its standard input reaches end of
// file, if the environment asks for it. Whoever starts a component holds the
// other end of that pipe, and the kernel closes it however that process dies,
// SIGKILL included: no component outlives its test run.
//
// It exits at once, without a graceful shutdown: the cluster's data is thrown
// away, and nobody is left to wait for it.
func exitWithParent() {
	if os.Getenv("RAILBIND_EXIT_ON_STDIN_EOF") != "1" {
		return
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
}
