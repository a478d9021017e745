//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/canary-tasks/canary-tasks/test/load"
)

// serveCanaries makes the cluster know Flagger's resources for as long as a scenario runs.
func serveCanaries(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "github.com/fluxcd/flagger")
	cmd.Dir = "../flagger"
	out, err := cmd.Output()
	var module struct{ Dir string }
	if err == nil {
		err = json.Unmarshal(out, &module)
	}
	if err != nil || module.Dir == "" {
		t.Fatalf("Flagger's module: %v\n%s", err, out)
	}
	crds := filepath.Join(module.Dir, "artifacts", "flagger", "crd.yaml")
	run(t, "", "kubectl", "apply", "-f", crds)
	t.Cleanup(func() {
		if out, err := exec.Command("kubectl", "delete", "-f", crds).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	eventually(t, 30*time.Second, func() string { // which fails where one has no conditions at all yet
		if out, err := try(
			t, "", "kubectl", "wait", "--for=condition=Established", "-f", crds, "--timeout=5s"); err != nil {
			return out
		}
		return ""
	})
}

// template is as a chart of Jenkins X brings it, but for what it asks.
const template = `{apiVersion: flagger.app/v1beta1, kind: MetricTemplate, metadata: {name: answers}, spec: {provider: {type: prometheus, address: "http://elsewhere:9090"},
query: 'sum(increase(istio_requests_total{destination_workload="{{ target }}", destination_workload_namespace="{{ namespace }}"}[{{ interval }}]))'}}`

const canary = `{apiVersion: flagger.app/v1beta1, kind: Canary, metadata: {name: web},
spec: {targetRef: {apiVersion: apps/v1, kind: Deployment, name: shop}, service: {port: 80, timeout: 5s},
analysis: {interval: 60m, threshold: 2, stepWeights: [30], metrics: [
{name: request-success-rate, thresholdRange: {min: 98}},
{name: answers, interval: 10s, thresholdRange: {min: 1}, templateRef: {name: answers}}]}}}`

// A release is configured by what people have: a Canary in the cluster, the values of a chart, or a
// file; parameters beside it are stronger.
func TestSpecification(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	from := s.caller(t, s.ns)
	s.must(0, "is initialized", "canary-init", "first")
	s.must(2, "the cluster has no Canary resource", "canary-init", "second", "CANARY_CANARY=web")
	serveCanaries(t)
	run(t, canary, "kubectl", "apply", "-n", s.ns, "-f", "-")
	s.must(2, "there is no such Canary", "canary-init", "second", "CANARY_CANARY=other")
	s.must(2, "set only one of spec, canary", "canary-init", "second", "CANARY_CANARY=web", "CANARY_SPEC=a")

	s.must(2, "/answers\": there is none: make it", "canary-init", "second", "CANARY_CANARY=web")
	run(t, template, "kubectl", "apply", "-n", s.ns, "-f", "-")

	traffic := s.traffic(from)
	s.version(v2, "")
	out, err := s.release("canary=web")
	if err != nil || !strings.Contains(out, "promoted: stable runs") ||
		!strings.Contains(out, "the specification's spec.service.timeout is not acted on") ||
		!strings.Contains(out, "success rate >= 98%") || !strings.Contains(out, ", answers ") {
		t.Errorf("by a Canary: %v", err)
	}
	traffic.Stop()
	s.shares(traffic.Samples(), v2, 30)
	if failed := load.Count(traffic.Samples()).Failed(); failed != 0 {
		t.Errorf("%d requests failed", failed)
	}

	values, err := os.ReadFile("../../lib/canary/testdata/jenkins-x-v2.yaml")
	if err != nil {
		t.Fatal(err)
	}
	traffic = s.traffic(from)
	s.version(v3, "")
	if out, err := s.release("spec="+string(values), "maxWeight=20", "requestDuration="); err != nil ||
		!strings.Contains(out, "it will get [20] % of the traffic") ||
		!strings.Contains(out, "request duration <= 1s") {
		t.Errorf("by a chart's values: %v", err)
	}
	s.want(serves{"100/0", "3.0.0 x2", "3.0.0 x0", "promoted"})
	traffic.Stop()

	run(t, "", "kubectl", "create", "configmap", "values", "-n", s.ns,
		"--from-file=lib/canary/testdata/jenkins-x-v2.yaml")
	s.version("4.0.0", "")
	out, err = try(t, "", "tkn", "task", "start", "canary-init", "-n", s.ns, "-s", "canary-tasks", "-p", "target=shop",
		"-p", "runId=file", "-p", "specFile=jenkins-x-v2.yaml", "-p", "stepWeight=15", "-p", "interval=10s",
		"-w", "name=source,config=values", "--use-param-defaults", "--showlog")
	if err != nil || !strings.Contains(out, "it will get [15 30 45 60] % of the traffic") {
		t.Errorf("by a file in a workspace: %v\n%s", err, out)
	}
	run(t, "", "tkn", "task", "start", "rollback", "-n", s.ns, "-s", "canary-tasks", "-p", "target=shop",
		"--use-param-defaults", "--showlog")
	s.want(serves{"100/0", "3.0.0 x2", "4.0.0 x0", "aborted"})
}
