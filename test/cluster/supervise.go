package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// part is one thing that a running cluster consists of: a process, or something done once.
type part struct {
	name  string
	after []string // parts that must be ready before this one begins
	// do is done once, before the process (if any) starts.
	do func(ctx context.Context) error
	// command is the process to keep running; it is started again when it ends.
	command func() *exec.Cmd
	// ready returns nil once the part can be used. It is asked again and again.
	ready func(ctx context.Context) error
}

const (
	partTimeout = 3 * time.Minute // until a part is ready
	maxCrashes  = 5               // of a part while the cluster starts; after that it will not come up by itself
)

// status is what the supervisor writes into a file for the other commands.
type status struct {
	Pid      int          `json:"pid"`
	Checkout string       `json:"checkout"`
	Inputs   string       `json:"inputs"` // what the binaries were built from
	Ready    bool         `json:"ready"`
	Failed   string       `json:"failed,omitempty"`
	Parts    []partStatus `json:"parts"`
}

type partStatus struct {
	Name     string  `json:"name"`
	State    string  `json:"state"` // waiting, starting, ready, or failed
	Seconds  float64 `json:"seconds"`
	Pid      int     `json:"pid,omitempty"`
	Restarts int     `json:"restarts,omitempty"`
}

func (l layout) inputsFile() string { return filepath.Join(l.run, "inputs.json") }
func (l layout) statusFile() string { return filepath.Join(l.run, "status.json") }

// readStatus reads what the supervisor wrote last.
func readStatus(l layout) (status, error) {
	var s status
	b, err := os.ReadFile(l.statusFile())
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s)
}

// supervisor starts parts in the order of what they need, side by side where it can, and keeps them
// running.
type supervisor struct {
	l         layout
	processes sync.WaitGroup // the loops that keep processes running
	mu        sync.Mutex
	s         status
}

// supervise is the background process: it makes the cluster's mount namespace a place of its own,
// starts every part and stays until it is stopped.
func supervise(ctx context.Context, l layout) error {
	if err := joinCgroup(); err != nil {
		return err
	}
	// Docker or another containerd may run on this machine: these paths are not ours to share.
	for _, dir := range []string{"/run/containerd", "/var/lib/cni", "/var/log/containers", "/var/lib/kubelet"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount("canary-tasks", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mounting a private %s: %w", dir, err)
		}
	}
	var in inputs
	if b, err := os.ReadFile(l.inputsFile()); err != nil {
		return err
	} else if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	parts := clusterParts(l, in.Binaries)
	sv := newSupervisor(l, parts)
	sv.s.Checkout, sv.s.Inputs = l.checkout, in.Hash
	sv.run(ctx, parts)
	return nil
}

func newSupervisor(l layout, parts []part) *supervisor {
	sv := &supervisor{l: l, s: status{Pid: os.Getpid()}}
	for _, p := range parts {
		sv.s.Parts = append(sv.s.Parts, partStatus{Name: p.name, State: "waiting"})
	}
	return sv
}

// run starts the parts and keeps them running until ctx ends; then it waits until they have ended
// too.
func (sv *supervisor) run(ctx context.Context, parts []part) {
	ready := map[string]chan struct{}{}
	for _, p := range parts {
		ready[p.name] = make(chan struct{})
	}
	var starting sync.WaitGroup
	for i, p := range parts {
		starting.Go(func() {
			for _, name := range p.after {
				select {
				case <-ready[name]:
				case <-ctx.Done():
					return
				}
			}
			if err := sv.start(ctx, i, p); err != nil {
				sv.fail(i, p.name, err)
				return
			}
			close(ready[p.name])
		})
	}
	started := make(chan struct{})
	go func() { starting.Wait(); close(started) }()
	select {
	case <-started:
		sv.set(func(s *status) { s.Ready = s.Failed == "" })
		<-ctx.Done()
	case <-ctx.Done(): // a part that failed leaves others waiting for it
		<-started
	}
	sv.processes.Wait()
}

// start brings one part up and returns when it is ready.
func (sv *supervisor) start(ctx context.Context, i int, p part) error {
	begin := time.Now()
	sv.set(func(s *status) { s.Parts[i].State = "starting" })
	running, stop := context.WithCancelCause(ctx)
	if err := sv.bringUp(running, stop, i, p); err != nil {
		stop(nil)
		return err
	}
	sv.set(func(s *status) { s.Parts[i].State, s.Parts[i].Seconds = "ready", time.Since(begin).Seconds() })
	return nil
}

// bringUp returns when the part is ready; its process goes on until running ends.
func (sv *supervisor) bringUp(running context.Context, stop context.CancelCauseFunc, i int, p part) error {
	if p.do != nil {
		if err := p.do(running); err != nil {
			return err
		}
	}
	if p.command != nil {
		logFile, err := os.OpenFile(sv.l.log(p.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return err
		}
		sv.processes.Go(func() { sv.keepRunning(running, stop, i, p, logFile) })
	}
	if p.ready == nil {
		return nil
	}
	return poll(running, partTimeout, p.ready)
}

// keepRunning runs the part's process, again and again, until ctx ends. It gives up on one that
// cannot start.
func (sv *supervisor) keepRunning(
	ctx context.Context, giveUp context.CancelCauseFunc, i int, p part, logFile *os.File) {
	defer logFile.Close()
	for crashes := 0; ; crashes++ {
		cmd := p.command()
		cmd.Stdout, cmd.Stderr = logFile, logFile
		err := cmd.Start()
		if err == nil {
			sv.set(func(s *status) {
				s.Parts[i].Pid = cmd.Process.Pid
				s.Parts[i].Restarts = crashes
			})
			stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
			err = cmd.Wait()
			stop()
		}
		if ctx.Err() != nil {
			return
		}
		if crashes == maxCrashes && !sv.isReady() {
			giveUp(fmt.Errorf("it ended %d times (%w)", crashes+1, err))
			sv.fail(i, p.name, context.Cause(ctx))
			return
		}
		fmt.Fprintf(logFile, "--- %s %s ended (%v); starting it again\n", time.Now().Format(time.RFC3339), p.name, err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// fail says which part failed first, and why.
func (sv *supervisor) fail(i int, name string, err error) {
	sv.set(func(s *status) {
		s.Parts[i].State = "failed"
		if s.Failed == "" {
			s.Failed = fmt.Sprintf("%s: %v", name, err)
		}
	})
}

func (sv *supervisor) isReady() bool {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	return sv.s.Ready
}

// set changes the status and writes it where the commands read it.
func (sv *supervisor) set(change func(*status)) {
	sv.mu.Lock()
	defer sv.mu.Unlock()
	change(&sv.s)
	b, err := json.MarshalIndent(sv.s, "", "  ")
	if err == nil {
		err = os.WriteFile(sv.l.statusFile()+".new", b, 0o644)
	}
	if err == nil {
		err = os.Rename(sv.l.statusFile()+".new", sv.l.statusFile())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "writing the status:", err)
	}
}

// poll asks until the answer is nil, and returns the last answer when time is up.
func poll(ctx context.Context, timeout time.Duration, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not ready after %s", timeout))
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}
