//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/canary-tasks/canary-tasks/test/load"
)

// chart is the example's, in a folder of its own, and how Helm installs a version of it.
type chart struct {
	*shop
	helm, folder, repository, digest string
	host                             string // by which it is called from outside
}

func newChart(s *shop) *chart {
	s.t.Helper()
	c := &chart{shop: s, folder: filepath.Join(s.t.TempDir(), "shop"), host: s.ns + ".example.com"}
	c.helm = program(s.t, "helm", "helm.sh/helm/v3/cmd/helm")
	if err := os.CopyFS(c.folder, os.DirFS("../../examples/chart")); err != nil {
		s.t.Fatal(err)
	}
	image := resolve(s.t, "examples/release/deployment.yaml")
	_, image, _ = strings.Cut(image, "image: ")
	image, _, _ = strings.Cut(image, "\n")
	c.repository, c.digest, _ = strings.Cut(strings.TrimSpace(image), "@sha256:")
	return c
}

// program builds a program that is not ours, in the module that names its version.
func program(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := filepath.Abs("../../.bin/" + name)
	if err != nil {
		t.Fatal(err)
	}
	run(t, "", "env", "CGO_ENABLED=0", "go", "-C", "test/"+name, "build", "-trimpath", "-o", path, pkg)
	return path
}

// upgrade is what Jenkins X does at a promotion: this version of the chart, with its canary turned
// on or off.
func (c *chart) upgrade(version string, canary string) {
	c.t.Helper()
	path := filepath.Join(c.folder, "Chart.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "version:") {
			lines[i] = "version: " + version
		}
	}
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.t.Logf("%s", run(
		c.t, "", c.helm, "upgrade", "--install", "shop", c.folder, "-n", c.ns, "--set", "canary.enabled="+canary,
		"--set", "canary.host="+c.host, "--set", "image.repository="+c.repository+"@sha256", "--set-string",
		"image.tag="+c.digest,
		"--set", "canary.analysis.interval=10s", "--set", "canary.analysis.threshold=2"))
}

// Helm as people have it: an application that serves gets its canary, has two releases, and loses
// the canary again; no request fails.
func TestHelm(t *testing.T) {
	c := connect(t)
	c.needsPods(t)
	serveCanaries(t)
	s := c.shop(t, c.namespace(t, "helm"))
	apply(t, s.ns, "tasks", "pipelines")
	s.kubeconfig = s.account("canary-tasks")
	h := newChart(s)
	h.upgrade(v1, "false")
	run(t, "", "kubectl", "rollout", "status", "-n", s.ns, "deployment/shop", "--timeout=90s")
	traffic := s.trafficTo("shop."+s.ns, s.caller(t, s.ns), rate/2)

	// the canary is turned on: the chart has no Service any more
	for range 2 {
		out := run(t, "", "tkn", "task", "start", "canary-init", "-n", s.ns, "-s", "canary-tasks", "-p", "target=shop",
			"-p", "mode=prepare", "-p", "runId=prepare-shop",
			"-p", "hosts="+h.host, "-p", "gateways=shop,mesh", "--use-param-defaults", "--skip-optional-workspace",
			"--showlog")
		if !strings.Contains(out, "shop."+s.ns+" is prepared") {
			t.Fatalf("prepare:\n%s", out)
		}
	}
	h.upgrade(v1, "true")
	release := func(says, weights string) {
		t.Helper()
		out, err := s.release("canary=shop", "stepWeights="+weights)
		if err != nil || !strings.Contains(out, says) {
			t.Errorf("it does not say %q: %v", says, err)
		}
	}
	release("is unchanged", "40")

	// who asks from outside, by the host and through the gateway of the chart, gets each version by
	// its weight
	outside := s.trafficTo(h.host, outside{s.gateway}, rate)
	h.upgrade(v2, "true")
	release("promoted: stable runs revision", "20,40,60")
	s.shares(noneFailed(t, "asked from outside", outside), v2, 20, 40, 60)

	h.upgrade(v3, "true")
	release("promoted: stable runs revision", "40")
	s.want(serves{"100/0", "3.0.0 x2", "3.0.0 x0", "promoted"})

	// what the documentation of Jenkins X shows
	if out := run(t, "", "kubectl", "get", "canaries", "-n", s.ns); !strings.Contains(out, "Succeeded") {
		t.Errorf("kubectl get canaries:\n%s", out)
	}
	run(t, "", "kubectl", "wait", "canary/shop", "-n", s.ns, "--for=condition=promoted", "--timeout=5s")
	events := run(t, "", "kubectl", "get", "events", "-n", s.ns, "--field-selector", "involvedObject.kind=Canary")
	for _, says := range []string{
		"New revision detected! Scaling up shop", "Starting canary analysis for shop",
		"Advance shop." + s.ns + " canary weight 40", "Promotion completed! Scaling down shop"} {
		if !strings.Contains(events, says) {
			t.Errorf("no event of the Canary says %q:\n%s", says, events)
		}
	}

	// and it is turned off again: first the application serves by itself, then the chart has its
	// Service back
	run(t, "", "kubectl", "apply", "-n", s.ns, "-f", "examples/account-per-step/rollback.yaml")
	s.kubeconfig = s.account("canary-rollback")
	s.must(0, "detached", "rollback", "", "CANARY_MODE=detach", "CANARY_DRAIN=10s")
	h.upgrade(v3, "false")
	if out := run(t, "", "kubectl", "get", "service", "shop", "-n", s.ns, "-o",
		`jsonpath={.spec.selector.app} {.metadata.annotations.meta\.helm\.sh/release-name} {.metadata.annotations.helm\.sh/resource-policy}`); strings.TrimSpace(out) != "shop shop" {
		t.Errorf("the Service: %s", out)
	}
	run(t, "", "kubectl", "rollout", "status", "-n", s.ns, "deployment/shop", "--timeout=90s")
	time.Sleep(5 * time.Second)
	samples := noneFailed(t, "a canary turned on, two releases, and turned off", traffic)
	if last := load.Count(samples[len(samples)-100:]); last.Of(v3) != 100 {
		t.Errorf("the last 100 requests: %s", last)
	}
	if out := run(t, "", "kubectl", "get", "deployments,services,virtualservices", "-n", s.ns, "-l", "app!=client",
		"-o", "name"); out != "deployment.apps/shop\nservice/shop\n" {
		t.Errorf("left:\n%s", out)
	}
}
