package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/modfile"
)

// What the modules share must have one version, or it is compiled once for each, and so is all that
// imports it.
func TestModulesAgree(t *testing.T) {
	t.Parallel()
	versions := func(path string) map[string]string {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := modfile.Parse(path, content, nil)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, r := range f.Require {
			found[r.Mod.Path] = r.Mod.Version
		}
		for _, r := range f.Replace {
			if r.New.Version != "" {
				found[r.Old.Path] = r.New.Version
			}
		}
		return found
	}
	steps := versions("../../go.mod")
	for _, path := range []string{"go.mod", "../go.mod", "../engine/go.mod"} {
		for module, version := range versions(path) {
			if want := steps[module]; want != "" && want != version {
				t.Errorf("%s has %s %s, go.mod has %s", path, module, version, want)
			}
		}
	}
}

func TestWhatTheGoCommandPrints(t *testing.T) {
	t.Parallel()
	var o buildOutput
	for _, part := range []string{
		"go: downloading k8s.io/api v1\nk8s.io/a", "pi/core/v1\nk8s.io/client-go\n# k8s.io/client-go\nx.go:3:1: unde",
		"fined: y\n"} {
		if n, err := o.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if got, want := o.rest(), "# k8s.io/client-go\nx.go:3:1: undefined: y"; o.compiled() != 2 || got != want {
		t.Errorf("%d packages and %q, want 2 and %q", o.compiled(), got, want)
	}
}

// supervised runs parts under a supervisor until the test ends.
func supervised(t *testing.T, parts ...part) (*supervisor, func() status) {
	t.Helper()
	l := layout{run: t.TempDir()}
	if err := os.MkdirAll(l.logs(), 0o755); err != nil {
		t.Fatal(err)
	}
	sv := newSupervisor(l, parts)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		sv.run(ctx, parts)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return sv, func() status {
		s, err := readStatus(l)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		return s
	}
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func TestSupervisorKeepsOrderAndRestarts(t *testing.T) {
	t.Parallel()
	var order []string
	sleep := func() *exec.Cmd { return exec.Command("sleep", "1000") }
	_, current := supervised(t,
		part{name: "second", after: []string{"first"},
			do: func(context.Context) error { order = append(order, "second"); return nil }},
		part{name: "first", do: func(context.Context) error {
			time.Sleep(20 * time.Millisecond)
			order = append(order, "first")
			return nil
		}, command: sleep})
	until(t, "the parts are ready", func() bool { return current().Ready })
	if got := strings.Join(order, " "); got != "first second" {
		t.Errorf("began in the order %q", got)
	}
	pid := current().Parts[1].Pid
	process, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	until(t, "the part that ended runs again", func() bool {
		p := current().Parts[1]
		return p.Restarts == 1 && p.Pid != pid
	})
}

func TestSupervisorGivesUp(t *testing.T) {
	t.Parallel()
	sv, current := supervised(t, part{
		name: "broken", command: func() *exec.Cmd { return exec.Command("sh", "-c", "echo why; exit 3") },
		ready: func(context.Context) error { return errors.New("never") },
	})
	until(t, "the part failed", func() bool { return current().Failed != "" })
	if got := current().Failed; !strings.Contains(got, "broken: it ended 6 times (exit status 3)") {
		t.Errorf("failed as %q", got)
	}
	if got := tail(sv.l.log("broken")); !strings.Contains(got, "why") {
		t.Errorf("its log does not hold what it said: %s", got)
	}
}

func TestCachedFollowsTheSources(t *testing.T) {
	t.Parallel()
	l := layout{cache: "/cache", checkout: t.TempDir()}
	write := func(file, content string) {
		path := filepath.Join(l.checkout, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b := binary{name: "dns", pkg: "./dns", sources: []string{"test/cluster/dns"}}
	cached := func() string {
		path, err := b.cached(l)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("test/cluster/go.mod", "module x")
	write("test/cluster/go.sum", "")
	write("test/cluster/dns/main.go", "package main")
	first := cached()
	write("test/cluster/dns/main_test.go", "package main")
	if cached() != first {
		t.Error("a test file changed where the binary is kept")
	}
	for _, file := range []string{"test/cluster/dns/main.go", "test/cluster/go.mod", "test/cluster/go.sum"} {
		before := cached()
		write(file, "changed")
		if cached() == before {
			t.Errorf("a change of %s did not change where the binary is kept", file)
		}
	}
}
