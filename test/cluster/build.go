package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const kubernetesVersion, tektonVersion = "1.36.3", "1.15.0"

// buildFlags are ko's own (CGO_ENABLED=0, -trimpath), so that packages shared between the parts, ko
// and the project's images are compiled once. Without the version flags clients cannot parse the
// API server's version.
var buildFlags = []string{"-trimpath", "-ldflags", "-s -w" +
	" -X k8s.io/component-base/version.gitVersion=v" + kubernetesVersion +
	" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36" +
	" -X github.com/tektoncd/cli/pkg/cmd/version.clientVersion=0.46.0"}

// binary is one program that the cluster needs.
type binary struct {
	name    string   // of the built file
	pkg     string   // import path, or a folder of the cluster's module; no two end alike
	sources []string // folders of this project that it is made of, relative to the checkout
}

// binaries lists them in the order they are built: what takes long to link first, so that the
// packages of the others are compiled beside it.
var binaries = []binary{
	{name: "kube-apiserver", pkg: "k8s.io/kubernetes/cmd/kube-apiserver"},
	{name: "istiod", pkg: "istio.io/istio/pilot/cmd/pilot-discovery"},
	{name: "prometheus", pkg: "github.com/prometheus/prometheus/cmd/prometheus"},
	{name: "pilot-agent", pkg: "istio.io/istio/pilot/cmd/pilot-agent"},
	{name: "kubelet", pkg: "k8s.io/kubernetes/cmd/kubelet"},
	{name: "kube-controller-manager", pkg: "k8s.io/kubernetes/cmd/kube-controller-manager"},
	{name: "kube-scheduler", pkg: "k8s.io/kubernetes/cmd/kube-scheduler"},
	{name: "kube-proxy", pkg: "k8s.io/kubernetes/cmd/kube-proxy"},
	{name: "kubectl", pkg: "k8s.io/kubernetes/cmd/kubectl"},
	{name: "metrics-server", pkg: "sigs.k8s.io/metrics-server/cmd/metrics-server"},
	{name: "tekton-controller", pkg: "github.com/tektoncd/pipeline/cmd/controller"},
	{name: "ko", pkg: "github.com/google/ko"},
	{name: "tekton-webhook", pkg: "github.com/tektoncd/pipeline/cmd/webhook"},
	{name: "tekton-resolvers", pkg: "github.com/tektoncd/pipeline/cmd/resolvers"},
	{name: "entrypoint", pkg: "github.com/tektoncd/pipeline/cmd/entrypoint"},
	{name: "nop", pkg: "github.com/tektoncd/pipeline/cmd/nop"},
	{name: "workingdirinit", pkg: "github.com/tektoncd/pipeline/cmd/workingdirinit"},
	{name: "tkn", pkg: "github.com/tektoncd/cli/cmd/tkn"},
	{name: "coredns", pkg: "./coredns", sources: []string{"test/cluster/coredns"}},
	{name: "pause", pkg: "./pause", sources: []string{"test/cluster/pause"}},
}

const clusterModule = "test/cluster"

// built says where each binary is.
type built map[string]string

// buildAll returns every binary, or those named, out of the cache where its inputs are unchanged,
// and says what it builds.
func buildAll(ctx context.Context, l layout, only []string, say func(format string, args ...any)) (built, error) {
	if err := os.MkdirAll(filepath.Join(l.cache, "bin"), 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(
		filepath.Join(l.cache, "bin", "lock"), func() { say("waiting for another checkout that is building") })
	if err != nil {
		return nil, err
	}
	defer unlock()

	paths, missing := built{}, []binary{}
	for _, b := range binaries {
		if only != nil && !slices.Contains(only, b.name) {
			continue
		}
		path, err := b.cached(l)
		if err != nil {
			return nil, err
		}
		paths[b.name] = path
		if _, err := os.Stat(path); err != nil {
			missing = append(missing, b)
		}
	}
	if len(missing) > 0 {
		err = buildMissing(ctx, l, missing, paths, say)
	}
	return paths, err
}

// buildMissing builds programs with one command, so that the go command keeps the processors busy:
// while one program is linked, the packages of the next are compiled, each once. It says how far it
// is.
func buildMissing(
	ctx context.Context, l layout, programs []binary, paths built, say func(format string, args ...any)) error {
	folder := filepath.Join(l.cache, "bin", "unfinished") // which nobody else uses: the lock is held
	if err := errors.Join(os.RemoveAll(folder), os.Mkdir(folder, 0o755)); err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	args := slices.Concat([]string{"build", "-v"}, buildFlags, []string{"-o", folder + "/"})
	for _, b := range programs {
		args = append(args, b.pkg)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(l.checkout, clusterModule)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	var said buildOutput
	cmd.Stdout, cmd.Stderr = &said, &said

	say("building %d programs", len(programs))
	begin := time.Now()
	progress := func() {
		done, _ := os.ReadDir(folder)
		say("%d packages are compiled, %d of %d programs are built, %s", said.compiled(), len(done), len(programs),
			seconds(time.Since(begin)))
	}
	ended := make(chan struct{})
	var telling sync.WaitGroup
	telling.Go(func() {
		ticker := time.NewTicker(20 * time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
				progress()
			}
		}
	})
	err := cmd.Run()
	close(ended)
	telling.Wait()
	if err != nil {
		return fmt.Errorf("building in %s: %w\n%s", clusterModule, err, said.rest())
	}
	progress()
	for _, b := range programs {
		if err := os.MkdirAll(filepath.Dir(paths[b.name]), 0o755); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(folder, path.Base(b.pkg)), paths[b.name]); err != nil {
			return err
		}
	}
	return nil
}

// buildOutput takes what "go build -v" prints: a line with its path alone for each package that it
// compiles, and what goes wrong.
type buildOutput struct {
	mu       sync.Mutex
	unended  []byte
	packages int
	lines    []string
}

func (o *buildOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unended = append(o.unended, p...)
	for {
		line, rest, found := bytes.Cut(o.unended, []byte("\n"))
		if !found {
			return len(p), nil
		}
		o.unended = rest
		switch {
		case bytes.HasPrefix(line, []byte("go: downloading ")):
		case bytes.ContainsAny(line, " \t"):
			o.lines = append(o.lines, string(line))
		default:
			o.packages++
		}
	}
}

func (o *buildOutput) compiled() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.packages
}

func (o *buildOutput) rest() string { return strings.Join(o.lines, "\n") }

// cached returns where the binary is kept: under a hash of everything it is made from.
func (b binary) cached(l layout) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH, buildFlags, b.pkg)
	files := []string{filepath.Join(clusterModule, "go.mod"), filepath.Join(clusterModule, "go.sum")}
	for _, folder := range b.sources {
		err := filepath.WalkDir(filepath.Join(l.checkout, folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			rel, err := filepath.Rel(l.checkout, path)
			files = append(files, rel)
			return err
		})
		if err != nil {
			return "", fmt.Errorf("reading the sources of %s: %w", b.name, err)
		}
	}
	slices.Sort(files)
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(l.checkout, f))
		if err != nil {
			return "", fmt.Errorf("reading what %s is built from: %w", b.name, err)
		}
		fmt.Fprintln(h, f, len(content))
		h.Write(content)
	}
	return filepath.Join(l.cache, "bin", hex.EncodeToString(h.Sum(nil))[:16], b.name), nil
}

// cachedBinary returns where a binary is that was built before.
func cachedBinary(l layout, name string) (string, error) {
	for _, b := range binaries {
		if b.name != name {
			continue
		}
		path, err := b.cached(l)
		if err == nil {
			_, err = os.Stat(path)
		}
		if err != nil {
			return "", fmt.Errorf("%s is not built (make cluster): %w", name, err)
		}
		return path, nil
	}
	return "", fmt.Errorf("%s is not one of the cluster's binaries", name)
}

// moduleFolder returns where the sources of a module are that the cluster's module requires.
func moduleFolder(ctx context.Context, l layout, module string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", module)
	cmd.Dir = filepath.Join(l.checkout, clusterModule)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("finding module %s: %w: %s", module, err, stderr(err))
	}
	_, rest, ok := strings.Cut(string(out), `"Dir": "`)
	dir, _, ok2 := strings.Cut(rest, `"`)
	if !ok || !ok2 {
		return "", fmt.Errorf("finding module %s: no folder in %s", module, out)
	}
	return dir, nil
}

func stderr(err error) []byte {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.Stderr
	}
	return nil
}

// lock takes an exclusive lock that the kernel gives back when this process ends, however it ends.
func lock(path string, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		waiting()
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
	}
	return func() { f.Close() }, nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.0f s", d.Seconds()) }
