package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// This file is what a person sees: the commands up, down, status and env.

// up builds and starts the cluster, or finds it running, and says how far it is.
func up(ctx context.Context, l layout) error {
	begin := time.Now()
	var printing sync.Mutex
	say := func(format string, args ...any) {
		printing.Lock()
		defer printing.Unlock()
		fmt.Printf("%5.0fs  %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	}
	if given := givenCluster(l); given != "" {
		return useGiven(ctx, l, given, say)
	}
	if os.Geteuid() != 0 {
		return errors.New(
			"the cluster needs root (network, cgroups, containers); or set KUBECONFIG to use one you have")
	}
	if err := os.MkdirAll(l.cache, 0o755); err != nil {
		return err
	}
	unlock, err := lock(
		filepath.Join(l.cache, "lock"), func() { say("waiting for another cluster command that is at work") })
	if err != nil {
		return err
	}
	defer unlock()

	bins, err := prepare(ctx, l, say)
	if err != nil {
		return err
	}
	if err := checkMachine(ctx); err != nil {
		return err
	}
	in, err := currentInputs(l, bins)
	if err != nil {
		return err
	}
	if s, err := readStatus(l); err == nil && s.Ready && s.Inputs == in.Hash && s.alive() {
		say("the cluster is running already (started from %s)", s.Checkout)
		return sayUse(say)
	}
	if err := startAnew(ctx, l, in, say); err != nil {
		return err
	}
	say("the cluster is ready")
	return sayUse(say)
}

// prepare returns all binaries. Packages and Envoy come beside the build: what is missing there
// need not wait for its end.
func prepare(ctx context.Context, l layout, say func(string, ...any)) (built, error) {
	building, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	var envoy string
	fetched := make(chan struct{})
	go func() {
		defer close(fetched)
		err := installPackages(ctx, l, say)
		if err == nil {
			envoy, err = findEnvoy(ctx, l, say)
		}
		if err != nil {
			giveUp(err)
		}
	}()
	bins, err := buildAll(building, l, nil, say)
	<-fetched
	if cause := context.Cause(building); cause != nil {
		return nil, cause
	}
	if err != nil {
		return nil, err
	}
	bins["envoy"] = envoy
	return bins, nil
}

// startAnew ends the cluster that ran before, starts one, and waits until it is ready.
func startAnew(ctx context.Context, l layout, in inputs, say func(string, ...any)) error {
	ended, err := endAll(l)
	if err != nil {
		return err
	}
	if ended > 0 {
		say("ended the %d processes of the cluster that ran before", ended)
	}
	if err := startSupervisor(l, in); err != nil {
		return err
	}
	return follow(ctx, l, say)
}

// alive reports whether the supervisor that wrote the status is still there.
func (s status) alive() bool {
	for _, pid := range ownProcesses() {
		if pid == s.Pid {
			return true
		}
	}
	return false
}

// startSupervisor starts this program again, in the background and in a mount namespace of its own.
func startSupervisor(l layout, in inputs) error {
	for _, dir := range []string{l.logs(), l.pki(""), l.conf(""), l.data(""), l.tool("")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	if err := os.WriteFile(l.inputsFile(), b, 0o644); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	logFile, err := os.Create(l.log("supervisor"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command(self, "supervise")
	cmd.Dir, cmd.Stdout, cmd.Stderr = l.checkout, logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Unshareflags: syscall.CLONE_NEWNS}
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if !slices.Contains([]string{"KUBECONFIG", "GOGC", "GOMEMLIMIT"}, name) { // the last two are for what is built
			cmd.Env = append(cmd.Env, v)
		}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the supervisor: %w", err)
	}
	return cmd.Process.Release()
}

// follow prints each part as it gets ready, until all are or one fails.
func follow(ctx context.Context, l layout, say func(string, ...any)) error {
	said := map[string]bool{}
	for begin, lastSaid := time.Now(), time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if ctx.Err() != nil {
			return fmt.Errorf(
				"interrupted; what was started goes on, `make cluster` again takes it up and " +
					"`make cluster-down` ends it")
		}
		s, err := readStatus(l)
		if err != nil {
			if time.Since(begin) > 10*time.Second {
				return fmt.Errorf("the supervisor does not come up: %s", tail(l.log("supervisor")))
			}
			continue
		}
		left := []string{}
		for _, p := range s.Parts {
			if p.State == "ready" && !said[p.Name] {
				said[p.Name], lastSaid = true, time.Now()
				say("ready %-24s %2d of %d, after %.1f s", p.Name, len(said), len(s.Parts), p.Seconds)
			} else if p.State == "starting" {
				left = append(left, p.Name)
			}
		}
		switch {
		case s.Failed != "":
			name, _, _ := strings.Cut(s.Failed, ":")
			return fmt.Errorf("%s\n%s\nThe logs of all parts are in %s", s.Failed, tail(l.log(name)), l.logs())
		case s.Ready:
			return nil
		case !s.alive():
			return fmt.Errorf("the supervisor ended: %s", tail(l.log("supervisor")))
		case time.Since(lastSaid) > 15*time.Second:
			lastSaid = time.Now()
			say("waiting for %s", strings.Join(left, ", "))
		}
	}
}

// tail returns the last lines of a log, with its name.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return path + " is empty"
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i := range lines {
		lines[i] = lines[i][:min(len(lines[i]), 300)]
	}
	return "last lines of " + path + ":\n  " + strings.Join(lines[max(0, len(lines)-15):], "\n  ")
}

// down ends the cluster and removes its network.
func down(l layout) error {
	if os.Geteuid() != 0 {
		return errors.New("ending the cluster needs root, as starting it did")
	}
	kubeProxy, _ := cachedBinary(l, "kube-proxy")
	ended, err := endAll(l)
	if err != nil {
		return err
	}
	if err := removeNetwork(kubeProxy); err != nil {
		return err
	}
	fmt.Printf("ended %d processes; the built binaries stay in %s\n", ended, filepath.Join(l.cache, "bin"))
	return nil
}

// printStatus prints how far each part is.
func printStatus(w io.Writer, l layout) error {
	s, err := readStatus(l)
	if errors.Is(err, os.ErrNotExist) {
		fmt.Fprintln(w, "no cluster runs; `make cluster` starts one")
		return nil
	} else if err != nil {
		return err
	}
	state := "starting"
	switch {
	case !s.alive():
		state = fmt.Sprintf(
			"not supervised (%d processes are left); `make cluster` starts it anew", len(ownProcesses()))
	case s.Failed != "":
		state = "failed: " + s.Failed
	case s.Ready:
		state = "ready"
	}
	fmt.Fprintf(w, "cluster: %s\nstarted from: %s\nlogs: %s\n\n%-26s %-10s %8s %8s %8s\n", state, s.Checkout, l.logs(),
		"part", "state", "seconds", "pid", "restarts")
	for _, p := range s.Parts {
		fmt.Fprintf(w, "%-26s %-10s %8.1f %8s %8d\n", p.Name, p.State, p.Seconds,
			strings.TrimPrefix(fmt.Sprint(p.Pid), "0"), p.Restarts)
	}
	return nil
}

// printEnv prints what a shell needs to use the cluster: eval "$(cluster env)".
func printEnv(w io.Writer, l layout) error {
	if given := givenCluster(l); given != "" {
		dirs := []string{}
		for _, name := range tools {
			path, err := cachedBinary(l, name)
			if err != nil {
				return err
			}
			dirs = append(dirs, filepath.Dir(path))
		}
		fmt.Fprintf(w, "export KO_CONFIG_PATH=%q PATH=%q:\"$PATH\"\n", filepath.Join(l.checkout, "ko.yaml"),
			strings.Join(dirs, ":"))
		return nil
	}
	if s, err := readStatus(l); err != nil || !s.Ready || !s.alive() {
		return errors.New("no cluster is ready: `make cluster` starts one")
	}
	fmt.Fprintf(w, `export KUBECONFIG=%q
export KO_CONFIG_PATH=%q KO_DOCKER_REPO=%q KO_DEFAULTBASEIMAGE=%q KO_DEFAULTPLATFORMS=%q
export CANARY_TEST_GATEWAY=%q CANARY_TEST_PROMETHEUS=%q CANARY_TEST_SHELL_BASE=%q
export PATH=%q:"$PATH" GOFLAGS=%q
`, l.kubeconfig(), filepath.Join(l.checkout, "ko.yaml"), registryAddr, baseImage, "linux/"+runtime.GOARCH,
		gatewayIP, prometheus, shellImage, l.tool(""),
		os.Getenv("GOFLAGS")) // with the flags of make, ko compiles nothing that was compiled for the cluster
	return nil
}

// givenCluster returns the kubeconfig of a cluster that the user named, or "" for the one that is
// started here.
func givenCluster(l layout) string {
	if given := os.Getenv("KUBECONFIG"); given != l.kubeconfig() {
		return given
	}
	return ""
}

// useGiven looks whether the cluster that the user named has what the scenarios need, and builds
// only the commands.
func useGiven(ctx context.Context, l layout, kubeconfig string, say func(string, ...any)) error {
	bins, err := buildAll(ctx, l, tools, say)
	if err != nil {
		return err
	}
	var missing []string
	if os.Getenv("KO_DOCKER_REPO") == "" {
		missing = append(missing,
			"KO_DOCKER_REPO is not set: name the registry that this cluster pulls from, for the images that ko builds")
	}
	for _, crd := range []string{"virtualservices.networking.istio.io", "pipelineruns.tekton.dev"} {
		cmd := exec.CommandContext(ctx, bins["kubectl"], "--kubeconfig", kubeconfig, "get", "crd", crd)
		if out, err := cmd.CombinedOutput(); err != nil {
			missing = append(missing, fmt.Sprintf("%s: %s", crd, oneLine(out)))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf(
			"the cluster of KUBECONFIG=%s cannot be used:\n  %s", kubeconfig, strings.Join(missing, "\n  "))
	}
	say("using the cluster of KUBECONFIG=%s; nothing was started", kubeconfig)
	say("skipped on this cluster: scenarios that call pods by their addresses, which works only " +
		"on a node; each says so")
	return nil
}

// sayUse says how a person reaches the cluster.
func sayUse(say func(string, ...any)) error {
	say("use it: eval \"$(make -s cluster-env)\", then kubectl, tkn, ko; Prometheus is http://%s", prometheus)
	say("from outside the mesh: curl -H 'Host: HOST' http://%s/, for a VirtualService bound to a Gateway", gatewayIP)
	return nil
}
