package main

import (
	"bufio"
	"errors"
	"flag"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

// How long a guarded program may take over a polite end.
const patience = 5 * time.Second

// guard runs a program that does not watch its parent, and never lets it
// outlive the one who started guard:
//
//	kube guard [--] PROGRAM ARGUMENT…
//
// The program gets its own process group, so that what it starts goes with
// it, and an empty standard input. Guard's own standard input is the leash:
//
//   - end of file (or SIGTERM, SIGINT): SIGTERM to the group, SIGKILL after
//     five seconds;
//   - the line "kill": SIGKILL to the group at once, as a crash would look.
//
// It exits as the program did, with 128+signal for a signal.
func guard() int {
	flags := flag.NewFlagSet("guard", flag.ExitOnError)
	_ = flags.Parse(os.Args[1:])
	if flags.NArg() == 0 {
		return fail("what to run", errors.New("no program given"))
	}

	// The parent-death signal is sent when the *thread* that forked ends, and
	// the Go runtime is free to end threads: stay on this one.
	runtime.LockOSThread()
	child := exec.Command(flags.Arg(0), flags.Args()[1:]...)
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := child.Start(); err != nil {
		return fail("start "+flags.Arg(0), err)
	}
	group := -child.Process.Pid

	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	stop, kill := leash()
	var overdue <-chan time.Time
	for {
		select {
		case <-stop:
			stop = nil
			_ = syscall.Kill(group, syscall.SIGTERM)
			overdue = time.After(patience)
		case <-kill:
			kill = nil
			_ = syscall.Kill(group, syscall.SIGKILL)
		case <-overdue:
			_ = syscall.Kill(group, syscall.SIGKILL)
		case err := <-ended:
			// What the program started and left behind goes too. An empty
			// group is an error we expect.
			_ = syscall.Kill(group, syscall.SIGKILL)
			return exitStatus(child.ProcessState, err)
		}
	}
}

// leash reports, once each, that the program should stop and that it should
// be killed.
func leash() (stop, kill <-chan struct{}) {
	stopping, killing := make(chan struct{}), make(chan struct{})
	eof := make(chan struct{})
	go func() {
		defer close(eof)
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			if lines.Text() == "kill" {
				close(killing)
				return
			}
		}
	}()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		select {
		case <-eof:
		case <-signals:
		}
		close(stopping)
	}()
	return stopping, killing
}

func exitStatus(state *os.ProcessState, err error) int {
	if state == nil {
		return fail("wait", err)
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}
