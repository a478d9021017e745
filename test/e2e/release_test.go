//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/canary-tasks/canary-tasks/test/load"
	"github.com/canary-tasks/canary-tasks/test/route"
)

// shop is an application in a namespace of its own, with the Tasks, the Pipeline and the shipped
// Role beside it.
type shop struct {
	*cluster
	t          *testing.T
	ns         string
	kubeconfig string // of the ServiceAccount canary-tasks
	splits     *route.History
}

const v3 = "3.0.0"

// newShop brings version 1 up, as an application without canary releases that takes nothing but
// mutual TLS.
func newShop(t *testing.T) *shop {
	t.Helper()
	c := connect(t)
	s := c.shop(t, c.namespace(t, "shop"))
	c.strict(t, s.ns)
	apply(t, s.ns, "tasks", "pipelines", "examples/release")
	run(t, "", "kubectl", "rollout", "status", "-n", s.ns, "deployment/shop", "--timeout=90s")
	s.kubeconfig = s.account("canary-tasks")
	return s
}

// shop is the application of a namespace; how its traffic is divided is followed from here on.
func (c *cluster) shop(t *testing.T, namespace string) *shop {
	t.Helper()
	splits, err := route.Follow(t.Context(), c.istio, namespace, "shop")
	if err != nil {
		t.Fatal(err)
	}
	return &shop{cluster: c, t: t, ns: namespace, splits: splits}
}

// account returns the path of a kubeconfig with the rights of a ServiceAccount.
func (s *shop) account(name string) string {
	s.t.Helper()
	token := strings.TrimSpace(run(s.t, "", "kubectl", "create", "token", name, "-n", s.ns, "--duration=2h"))
	admin := run(s.t, "", "kubectl", "config", "view", "--raw", "--minify", "--flatten")
	path := filepath.Join(s.t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, []byte(admin), 0o600); err != nil {
		s.t.Fatal(err)
	}
	run(s.t, "", "kubectl", "--kubeconfig", path, "config", "set-credentials", name, "--token", token)
	run(s.t, "", "kubectl", "--kubeconfig", path, "config", "set-context", "--current", "--user", name)
	return path
}

// version writes a new version into the Deployment, as a chart does.
func (s *shop) version(version, faults string) {
	s.t.Helper()
	run(s.t, "", "kubectl", "set", "env", "-n", s.ns, "deployment/shop", "VERSION="+version, "FAULTS="+faults)
}

// release starts the Pipeline as a person would, and returns its log; the error is tkn's exit code.
func (s *shop) release(params ...string) (string, error) {
	s.t.Helper()
	out, err := try(s.t, "", "tkn",
		append([]string{"pipeline", "start", "canary-release", "-n", s.ns, "-s", "canary-tasks", "--use-param-defaults",
			"--showlog",
			"--exit-with-pipelinerun-error", "--pipeline-timeout", "30m", "--tasks-timeout", "20m", "--finally-timeout",
			"10m"}, asParams(params)...)...)
	s.t.Logf("the log of the PipelineRun:\n%s", out)
	return out, err
}

// begin starts the Pipeline and returns the name of the run.
func (s *shop) begin(timeouts []string, params ...string) string {
	s.t.Helper()
	args := append([]string{
		"pipeline", "start", "canary-release", "-n", s.ns, "-s", "canary-tasks", "--use-param-defaults", "--output",
		"name"}, timeouts...)
	name := strings.TrimSpace(run(s.t, "", "tkn", append(args, asParams(params)...)...))
	s.t.Cleanup(func() {
		if s.t.Failed() {
			out, err := exec.Command("tkn", "pipelinerun", "logs", name, "-n", s.ns).CombinedOutput()
			s.t.Logf("%s (%v):\n%s", name, err, out)
		}
	})
	return name
}

// asParams are quick values for what a scenario leaves open. How long answers take on a machine
// that runs a whole cluster says nothing of a version.
func asParams(params []string) []string {
	var args []string
	for _, quick := range []string{"target=shop", "interval=10s", "threshold=2", "drain=3s", "requestDuration=2s"} {
		name, _, _ := strings.Cut(quick, "=")
		if !slices.ContainsFunc(params, func(p string) bool { return strings.HasPrefix(p, name+"=") }) {
			params = append(params, quick)
		}
	}
	for _, p := range params {
		args = append(args, "-p", p)
	}
	return args
}

var buildSteps = sync.OnceValues(func() (string, error) {
	folder, err := filepath.Abs("../../.bin/steps")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", folder+"/", "./images/...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return folder, err
})

// command is the program of a step, to be run on this machine with the rights of its
// ServiceAccount.
func (s *shop) command(name, runID string, values ...string) *exec.Cmd {
	s.t.Helper()
	folder, err := buildSteps()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.CommandContext(s.t.Context(), filepath.Join(folder, name))
	cmd.Env = []string{
		"KUBECONFIG=" + s.kubeconfig, "CANARY_TARGET=shop", "CANARY_NAMESPACE=" + s.ns, "CANARY_RUN_ID=" + runID,
		"CANARY_RUN_NAME=" + runID}
	if name == "canary-init" {
		address := "http://prometheus.istio-system:9090"
		if s.prometheus != "" {
			address = "http://" + s.prometheus
		}
		cmd.Env = append(cmd.Env, "CANARY_INTERVAL=10s", "CANARY_THRESHOLD=2", "CANARY_DRAIN=1s",
			"CANARY_REQUEST_DURATION=2s", "CANARY_PROMETHEUS="+address, "CANARY_STEP_WEIGHTS=40", "CANARY_ON_BUSY=fail")
	}
	cmd.Env = append(cmd.Env, values...)
	return cmd
}

// step runs the program of a step and returns its exit code and its log.
func (s *shop) step(name, runID string, values ...string) (int, string) {
	s.t.Helper()
	cmd := s.command(name, runID, values...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// must runs a step that ends with a code and says something.
func (s *shop) must(code int, says, name, runID string, values ...string) string {
	s.t.Helper()
	got, out := s.step(name, runID, values...)
	if got != code || !strings.Contains(out, says) {
		s.t.Fatalf("%s of %s ends with %d, not %d, or does not say %q:\n%s", name, runID, got, code, says, out)
	}
	return out
}

// serves is what people see: weights, versions and replicas.
type serves struct {
	Weights   string // stable/candidate
	Stable    string // version x replicas
	Candidate string
	Outcome   string
}

func (s *shop) now() serves {
	s.t.Helper()
	var got serves
	vs, err := s.istio.NetworkingV1().VirtualServices(s.ns).Get(s.t.Context(), "shop", metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	got.Weights = route.Weights(vs)
	describe := func(name string) string {
		d, err := s.kube.AppsV1().Deployments(s.ns).Get(s.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
		return fmt.Sprintf("%s x%d", d.Spec.Template.Spec.Containers[0].Env[0].Value, *d.Spec.Replicas)
	}
	got.Stable, got.Candidate = describe("shop-primary"), describe("shop")
	record, err := s.kube.CoreV1().ConfigMaps(s.ns).Get(s.t.Context(), "shop-canary-release", metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	var r struct{ Outcome string }
	if err := json.Unmarshal([]byte(record.Data["release.json"]), &r); err != nil {
		s.t.Fatal(err)
	}
	got.Outcome = r.Outcome
	return got
}

func (s *shop) want(want serves) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.now()); diff != "" {
		s.t.Errorf("(-want, +got)\n%s", diff)
	}
}

// traffic sends requests until it is stopped.
func (s *shop) traffic(from sender) *load.Run { return s.trafficTo("shop."+s.ns, from, rate) }

// trafficTo begins to send so many requests a second to a host, once it answers: proxies learn of
// it a moment after its pods are ready.
func (s *shop) trafficTo(host string, from sender, rate int) *load.Run {
	s.t.Helper()
	return s.send(from, load.Plan{URL: "http://" + host + "/", Rate: rate, For: 20 * time.Minute})
}

// send begins to send what a plan says, once its address answers.
func (s *shop) send(from sender, plan load.Plan) *load.Run {
	s.t.Helper()
	eventually(s.t, 30*time.Second, func() string {
		if status, body := from.Ask(s.t.Context(), plan.URL); status != http.StatusOK {
			return fmt.Sprintf("%s answers %d %s", plan.URL, status, body)
		}
		return ""
	})
	return start(s.t, from, plan)
}

// few is how many requests a claim of none that failed is made of, at least.
const few = 3000

// noneFailed ends traffic once there was enough of it, and finds no request that failed but those
// that the candidate answered itself, as allowed.
func noneFailed(t *testing.T, desc string, traffic *load.Run, allowed ...load.Answer) []load.Sample {
	t.Helper()
	eventually(t, 2*few/rate*time.Second, func() string {
		if n := len(traffic.Samples()); n < few {
			return fmt.Sprintf("%d requests only", n)
		}
		return ""
	})
	traffic.Stop()
	if err := traffic.Err(); err != nil {
		t.Fatal(err)
	}
	samples := traffic.Samples()
	counts := load.Count(samples)
	failed := counts.Failed()
	for _, a := range allowed {
		failed -= counts[a]
	}
	t.Logf("%s: %s", desc, counts)
	if failed != 0 {
		bad := slices.DeleteFunc(slices.Clone(samples), func(s load.Sample) bool { return s.Status == http.StatusOK })
		t.Errorf("%s: %d of %d requests failed, the first that did not succeed: %v", desc, failed, counts.Total(),
			bad[:min(len(bad), 5)])
	}
	return samples
}

// shares checks that each version got its share at each weight.
func (s *shop) shares(samples []load.Sample, candidate string, weights ...int) {
	t := s.t
	t.Helper()
	for _, w := range weights {
		at := s.splits.During(fmt.Sprintf("%d/%d", 100-w, w), samples)
		counts, seen := load.Count(at), 0
		for a, n := range counts {
			if a.Version == candidate {
				seen += n
			}
		}
		t.Logf("at %d %%: %s", w, counts)
		if len(at) < 500 {
			t.Errorf("at %d %% there were %d requests only", w, len(at))
		}
		// While stable rolls to what was judged, it answers with the candidate's version, too: only
		// a share that is too small is wrong. Four standard deviations are exceeded by chance once
		// in thirty thousand runs.
		n, p := float64(len(at)), float64(w)/100
		if float64(seen) < n*p-4*math.Sqrt(n*p*(1-p)) {
			t.Errorf("at %d %% the candidate answered %d of %d", w, seen, len(at))
		}
	}
}

// A release as people run it, under load: an application is taken over, a version is promoted, one
// that fails is taken back, and one that nobody asks for is not promoted.
func TestRelease(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	from := s.caller(t, s.ns)
	traffic := s.traffic(from)
	if out, err := s.release(); err != nil || !strings.Contains(out, "is initialized") {
		t.Fatalf("the first version: %v", err)
	}
	s.want(serves{"100/0", "1.0.0 x2", "1.0.0 x0", "initialized"})
	noneFailed(t, "taking over", traffic)

	traffic = s.traffic(from)
	s.faults("ask=http://shop."+s.ns+"/", "shop-primary") // the application asks others, too
	s.version(v2, "")
	if out, err := s.release(); err != nil || !strings.Contains(out, "promoted: stable runs revision") {
		t.Fatalf("a healthy version: %v", err)
	}
	s.want(serves{"100/0", "2.0.0 x2", "2.0.0 x0", "promoted"})
	time.Sleep(2 * time.Second)
	s.shares(noneFailed(t, "promoting", traffic), v2, 20, 40, 60)

	traffic = s.traffic(from)
	s.version(v3, "fail=0.2")
	if out, err := s.release(); err == nil || !strings.Contains(out, "rejected: failing: request-success-rate") {
		t.Fatalf("a version that fails: %v", err)
	}
	s.want(serves{"100/0", "2.0.0 x2", "3.0.0 x0", "rejected"})
	if out, err := s.release(); err == nil || !strings.Contains(out, "was rejected at") ||
		!strings.Contains(out, "nothing to roll back") {
		t.Fatalf("the same once more: %v", err)
	}
	s.want(serves{"100/0", "2.0.0 x2", "3.0.0 x0", "rejected"})
	noneFailed(t, "taking back", traffic, load.Answer{Version: v3, Status: 500})
	s.dashboard()

	s.version("4.0.0", "")
	if out, err := s.release(); err == nil || !strings.Contains(out, "inconclusive: no requests") {
		t.Fatalf("a version that nobody asks for: %v", err)
	}
	s.want(serves{"100/0", "2.0.0 x2", "4.0.0 x0", "inconclusive"})
}

// timeout stands for a run that is not cancelled but runs out of time.
const timeout = "--pipeline-timeout"

// grace is how long a pod that is told to end has, as long as it says nothing else.
const grace = corev1.DefaultTerminationGracePeriodSeconds * time.Second

// A run that is cancelled leaves all traffic on stable, whichever way it is cancelled.
func TestCancelledAtAWeight(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	from := s.caller(t, s.ns)
	s.must(0, "is initialized", "canary-init", "first")
	for _, c := range []struct {
		desc string
		how  []string
		want serves
	}{
		{"gracefully, so that finally runs", []string{"--grace", "CancelledRunFinally"},
			serves{"100/0", "1.0.0 x2", v2 + " x0", "aborted"}},
		{"plainly: no finally runs", nil, serves{"100/0", "1.0.0 x2", v3 + " x2", ""}},
		{"by timeouts.pipeline: no finally runs", []string{timeout}, serves{"100/0", "1.0.0 x2", "4.0.0 x2", ""}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			s.version(c.want.Candidate[:5], "")
			interval, timeouts := "interval=10s", []string(nil)
			if slices.Contains(c.how, timeout) {
				interval, timeouts = "interval=45s", []string{"--pipeline-timeout", "90s"} // in the middle of analyze-2
			}
			traffic := s.traffic(from)
			name := s.begin(timeouts, interval, "stepWeights=20,40")
			eventually(t, 2*time.Minute, func() string {
				out := run(t, "", "kubectl", "get", "pods", "-n", s.ns, "-l",
					"tekton.dev/pipelineTask=analyze-2,tekton.dev/pipelineRun="+name, "-o",
					"jsonpath={.items[*].status.phase}")
				if out != "Running" {
					return "analyze-2 does not run yet: " + out
				}
				return ""
			})
			time.Sleep(2 * time.Second)
			if got := s.now().Weights; got != "60/40" {
				t.Fatalf("weights %s before it is cancelled", got)
			}
			if timeouts == nil {
				run(t, "", "tkn", append([]string{"pipelinerun", "cancel", "-n", s.ns, name}, c.how...)...)
			}
			eventually(t, 2*time.Minute, func() string {
				out := run(t, "", "kubectl", "get", "pods", "-n", s.ns, "-l",
					"tekton.dev/pipelineTask=analyze-2,tekton.dev/pipelineRun="+name, "-o",
					`jsonpath={range .items[*]}{.status.phase}{.metadata.deletionTimestamp}{end}`)
				if out == "Running" {
					return "analyze-2 was not told to end yet"
				}
				return ""
			})
			begin := time.Now()
			eventually(t, grace, func() string {
				if got := s.now().Weights; got != "100/0" {
					return "weights " + got
				}
				return ""
			})
			t.Logf("all traffic was on stable %s later", time.Since(begin).Round(100*time.Millisecond))
			eventually(t, time.Minute, func() string { return cmp.Diff(c.want, s.now()) })
			traffic.Stop()
			if counts := load.Count(traffic.Samples()); counts.Failed() != 0 {
				t.Errorf("requests failed: %s", counts)
			}
		})
	}
	s.must(0, "is up beside stable", "canary-init", "the next run need not wait")
}

// versions are the resourceVersions of all that a release touches, but the lock's.
func (s *shop) versions() map[string]string {
	s.t.Helper()
	versions := map[string]string{}
	out := run(s.t, "", "kubectl", "get",
		"deployments,services,configmaps,secrets,virtualservices,destinationrules,horizontalpodautoscalers", "-n", s.ns,
		"-o",
		`jsonpath={range .items[*]}{.kind}/{.metadata.name}={.metadata.resourceVersion}{"\n"}{end}`)
	for line := range strings.Lines(out) {
		name, version, _ := strings.Cut(strings.TrimSpace(line), "=")
		if name != "ConfigMap/shop-canary-release" {
			versions[name] = version
		}
	}
	return versions
}

// settled are the versions once the Deployments' controller has written what it has to: when no pod
// is being ended any more, which it counts, and nothing changed for five seconds.
func (s *shop) settled() map[string]string {
	s.t.Helper()
	before := s.versions()
	eventually(s.t, time.Minute, func() string {
		time.Sleep(5 * time.Second)
		if ending := run(s.t, "", "kubectl", "get", "pods", "-n", s.ns, "-o",
			"jsonpath={.items[*].metadata.deletionTimestamp}"); ending != "" {
			return "pods are being ended"
		}
		last := before
		if before = s.versions(); !maps.Equal(last, before) {
			return "it changes still"
		}
		return ""
	})
	return before
}

// Whatever has nothing to do changes nothing but the lock.
func TestNothingChangesTwice(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	s.traffic(s.caller(t, s.ns))
	run(t, `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: scale}, spec: {minReplicas: 2, maxReplicas: 4,
scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: shop}, metrics: [{type: External, external: {metric: {name: queue}, target: {type: AverageValue, averageValue: 30}}}]}}`,
		"kubectl", "apply", "-n", s.ns, "-f", "-") // which nobody measures: it would write what it has seen
	run(t, "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: shop}, spec: {host: shop, "+
		"trafficPolicy: {connectionPool: {http: {maxRetries: 3}}}}}",
		"kubectl", "apply", "-n", s.ns, "-f", "-")
	twice := func(code int, says, name, runID string, values ...string) {
		t.Helper()
		s.must(code, says, name, runID, values...)
		before := s.settled()
		s.must(code, "", name, runID, values...)
		if after := s.versions(); !maps.Equal(before, after) {
			t.Errorf("%s of %s again (-before, +after)\n%s", name, runID, cmp.Diff(before, after))
		}
	}
	twice(0, "is initialized", "canary-init", "one")
	twice(0, "unchanged", "canary-init", "two")
	twice(0, "nothing to promote", "promote", "two")
	s.version(v2, "")
	twice(0, "is up beside stable", "canary-init", "three")
	twice(4, "is held by run three", "canary-init", "four")
	twice(0, "nothing to roll back", "rollback", "four")
	twice(0, "has 40 %", "shift-weight", "three", "CANARY_WEIGHT=40")
	twice(0, "is good at 40 %", "analyze", "three")
	twice(0, "promoted", "promote", "three")
	s.want(serves{"100/0", "2.0.0 x2", "2.0.0 x0", "promoted"})
	s.version(v3, "")
	twice(0, "is up beside stable", "canary-init", "five")
	twice(0, "has 40 %", "shift-weight", "five", "CANARY_WEIGHT=40")
	twice(0, "rolled back (aborted)", "rollback", "five")
	s.want(serves{"100/0", "2.0.0 x2", "3.0.0 x0", "aborted"})
}

// A newer revision takes the place of an older one in mid-release; the older run ends red and
// changes nothing more.
func TestANewerRevisionTakesOver(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	traffic := s.traffic(s.caller(t, s.ns))
	s.must(0, "is initialized", "canary-init", "one")
	s.version(v2, "")
	older := s.begin(nil, "stepWeights=40", "interval=60s")
	s.atWeight("60/40")
	s.version(v3, "")
	if out, err := s.release("stepWeights=40"); err != nil ||
		!strings.Contains(out, "run "+older+", which released revision") ||
		!strings.Contains(out, "promoted: stable runs revision") {
		t.Errorf("the newer run: %v", err)
	}
	if out, condition := s.ended(older); !condition.IsFalse() || !strings.Contains(out, "superseded") ||
		!strings.Contains(out, "nothing to roll back") {
		t.Errorf("the older run ended as %+v", condition)
	}
	s.want(serves{"100/0", "3.0.0 x2", "3.0.0 x0", "promoted"})
	time.Sleep(2 * time.Second)
	samples := noneFailed(t, "taking over a release", traffic)
	if last := load.Count(samples[len(samples)-100:]); last.Of(v3) != 100 {
		t.Errorf("the last 100 requests: %s", last)
	}
	for _, sample := range s.splits.During("100/0", samples) { // stable never became what nobody judged good
		if sample.Version == v2 {
			t.Fatalf("%s was answered by version 2, with all the traffic on stable", sample.Sent)
		}
	}
}

// laterField adds a field to the VirtualServices that the cluster serves, as a later Istio would,
// and returns its name.
func (s *shop) laterField() string {
	s.t.Helper()
	const crd, name = "virtualservices.networking.istio.io", "ofALaterIstio"
	versions := strings.Fields(run(s.t, "", "kubectl", "get", "crd", crd, "-o", "jsonpath={.spec.versions[*].name}"))
	patch := func(op, value string) string {
		var operations []string
		for i := range versions {
			operations = append(
				operations, fmt.Sprintf(
					`{"op":%q,"path":"/spec/versions/%d/schema/openAPIV3Schema/properties/spec/properties/http/items/properties/%s"%s}`, op, i, name, value))
		}
		return "[" + strings.Join(operations, ",") + "]"
	}
	run(s.t, "", "kubectl", "patch", "crd", crd, "--type=json", "-p", patch("add", `,"value":{"type":"string"}`))
	s.t.Cleanup(func() {
		out, err := exec.Command(
			"kubectl", "patch", "crd", crd, "--type=json", "-p", patch("remove", "")).CombinedOutput()
		if err != nil {
			s.t.Errorf("%v: %s", err, out)
		}
	})
	return name
}

// Only the weights of a VirtualService change, whatever else is in it.
func TestVirtualServiceOfSomebodyElse(t *testing.T) {
	s := newShop(t)
	s.must(0, "is initialized", "canary-init", "one")
	run(t, "", "kubectl", "delete", "virtualservice", "shop", "-n", s.ns)
	later := s.laterField()
	manifest := strings.ReplaceAll(
		run(t, "", "cat", "test/e2e/testdata/virtualservice.yaml"), "    timeout: 7s\n",
		"    timeout: 7s\n    "+later+": kept\n")
	eventually(t, time.Minute, func() string { // the API server learns of a field a moment later
		run(t, manifest, "kubectl", "apply", "-n", s.ns, "--validate=ignore", "-f", "-")
		if out := run(t, "", "kubectl", "get", "virtualservice", "shop", "-n", s.ns, "-o",
			"jsonpath={.spec.http[1]."+later+"}"); out != "kept" {
			return "the field is not kept: " + out
		}
		return ""
	})
	spec := func() map[string]any {
		t.Helper()
		var o struct{ Spec map[string]any }
		if err := json.Unmarshal(
			[]byte(run(t, "", "kubectl", "get", "virtualservice", "shop", "-n", s.ns, "-o", "json")), &o); err != nil {
			t.Fatal(err)
		}
		return o.Spec
	}
	weights := func(spec map[string]any, stable, candidate int) map[string]any {
		route := spec["http"].([]any)[1].(map[string]any)["route"].([]any)
		route[0].(map[string]any)["weight"], route[1].(map[string]any)["weight"] = float64(stable), float64(candidate)
		return spec
	}
	before := spec()
	s.version(v2, "")
	s.must(0, "is up beside stable", "canary-init", "two")
	s.must(0, "has 40 %", "shift-weight", "two", "CANARY_WEIGHT=40")
	if diff := cmp.Diff(weights(before, 60, 40), spec()); diff != "" {
		t.Errorf("at 40 %% (-want, +got)\n%s", diff)
	}
	s.must(0, "rolled back", "rollback", "two")
	if diff := cmp.Diff(weights(before, 100, 0), spec()); diff != "" {
		t.Errorf("rolled back (-want, +got)\n%s", diff)
	}
}

// Old code always has old configuration.
func TestConfigurationBelongsToARevision(t *testing.T) {
	s := newShop(t)
	settings := func(color string) {
		t.Helper()
		manifest := run(t, "", "kubectl", "create", "configmap", "settings", "-n", s.ns,
			"--from-literal=VERSION="+color, "--dry-run=client", "-o", "yaml")
		run(t, manifest, "kubectl", "apply", "-f", "-")
	}
	settings("blue")
	run(t, "", "kubectl", "patch", "deployment", "shop", "-n", s.ns, "--type=json", "-p",
		`[{"op":"add","path":"/spec/template/spec/containers/0/env/0","value":{"name":"VERSION","valueFrom":{"configMapKeyRef":{"name":"settings","key":"VERSION"}}}},{"op":"remove","path":"/spec/template/spec/containers/0/env/1"}]`)
	run(t, "", "kubectl", "rollout", "status", "-n", s.ns, "deployment/shop", "--timeout=90s")
	s.must(0, "is initialized", "canary-init", "one")
	answers := func() string {
		t.Helper()
		run(t, "", "kubectl", "rollout", "status", "-n", s.ns, "deployment/shop-primary", "--timeout=90s")
		name := strings.TrimSpace(
			run(t, "", "kubectl", "get", "deployment", "shop-primary", "-n", s.ns, "-o",
				"jsonpath={.spec.template.spec.containers[0].env[0].valueFrom.configMapKeyRef.name}"))
		return strings.TrimSpace(
			run(t, "", "kubectl", "get", "configmap", name, "-n", s.ns, "-o", "jsonpath={.data.VERSION}"))
	}
	if got := answers(); got != "blue" {
		t.Fatalf("stable has the configuration %q", got)
	}
	settings("green")
	if got := answers(); got != "blue" {
		t.Errorf("stable's configuration changed to %q with the candidate's", got)
	}
	s.needsPods(t)
	from := s.caller(t, s.ns)
	traffic := s.traffic(from)
	for round, runs := range [][2]string{{"two", "three"}, {"four", "five"}} { // promoted and rolled back, twice
		s.must(0, "is up beside stable", "canary-init", runs[0])
		s.must(0, "rolled back", "rollback", runs[0])
		if got := answers(); got != "blue" {
			t.Errorf("round %d: after a rollback stable has the configuration %q", round, got)
		}
		s.must(0, "is up beside stable", "canary-init", runs[1])
		s.must(0, "has 40 %", "shift-weight", runs[1], "CANARY_WEIGHT=40")
		s.must(0, "is good at 40 %", "analyze", runs[1])
		s.must(0, "promoted", "promote", runs[1])
		if got := answers(); got != "green" {
			t.Errorf("round %d: after a promotion stable has the configuration %q", round, got)
		}
		s.must(0, "rolled back", "rollback", "")
		if got := answers(); got != "blue" {
			t.Errorf("round %d: after a promotion was rolled back stable has the configuration %q", round, got)
		}
		if status, body := from.Ask(t.Context(), "http://shop."+s.ns+"/"); status != http.StatusOK || body != "blue" {
			t.Errorf("round %d: stable answers %d %q", round, status, body)
		}
	}
	traffic.Stop()
	if counts := load.Count(traffic.Samples()); counts.Failed() != 0 {
		t.Errorf("requests failed: %s", counts)
	}
}

// Whoever applies the same manifests in mid-release, as Jenkins X 3 does at every merge, changes
// nothing for the release, and no caller notices.
func TestAppliedInMidRelease(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	traffic := s.traffic(s.caller(t, s.ns))
	s.must(0, "is initialized", "canary-init", "one")
	manifests := strings.ReplaceAll(run(t, "", "kubectl", "get", "deployment/shop", "service/shop", "-n", s.ns, "-o",
		`jsonpath={range .items[*]}{.metadata.annotations.kubectl\.kubernetes\.io/last-applied-configuration}{"\n---\n"}{end}`), `"`+v1+`"`, `"`+v2+`"`)
	s.version(v2, "")
	s.must(0, "is up beside stable", "canary-init", "two")
	s.must(0, "has 40 %", "shift-weight", "two", "CANARY_WEIGHT=40")
	run(t, manifests, "kubectl", "apply", "-n", s.ns, "--server-side", "--force-conflicts", "-f", "-")
	selects := func() string {
		t.Helper()
		return run(t, "", "kubectl", "get", "service", "shop", "-n", s.ns, "-o", "jsonpath={.spec.selector.app}")
	}
	if got := selects(); got != "shop" {
		t.Fatalf("applying did not set the Service back: it selects %s", got)
	}
	s.must(0, "is good at 40 %", "analyze", "two")
	s.must(0, "Service shop."+s.ns+" leads to shop-primary again", "promote", "two")
	s.want(serves{"100/0", "2.0.0 x2", "2.0.0 x0", "promoted"})
	run(t, manifests, "kubectl", "apply", "-n", s.ns, "--server-side", "--force-conflicts", "-f", "-")
	out := s.must(2, "its selector was set back by field manager", "canary-init", "three")
	if !strings.Contains(out, "take the Service out of the chart") {
		t.Errorf("it does not say what to do:\n%s", out)
	}
	noneFailed(t, "applied in mid-release", traffic)
}

// With one pod of the candidate that is not ready there is no shift.
func TestNoShiftBeforeAllAreReady(t *testing.T) {
	s := newShop(t)
	s.must(0, "is initialized", "canary-init", "one")
	s.version(v2, "")
	s.must(0, "is up beside stable", "canary-init", "two", "CANARY_PROGRESS_DEADLINE_SECONDS=60")
	pod := s.pods(t, s.ns, "shop")[0]
	send(t, http.MethodPut, "http://"+pod+":8081/faults?ready=false", nil)
	available := func(want string) {
		t.Helper()
		eventually(t, time.Minute, func() string {
			if got := run(t, "", "kubectl", "get", "deployment", "shop", "-n", s.ns, "-o",
				"jsonpath={.status.availableReplicas}"); got != want {
				return got + " pods are available"
			}
			return ""
		})
	}
	available("1")
	ended := make(chan string)
	go func() {
		code, out := s.step("shift-weight", "two", "CANARY_WEIGHT=40")
		ended <- fmt.Sprintf("%d\n%s", code, out)
	}()
	select {
	case out := <-ended:
		t.Fatalf("shift-weight did not wait: %s", out)
	case <-time.After(5 * time.Second):
	}
	if got := s.now().Weights; got != "100/0" {
		t.Errorf("weights %s with one pod that is not ready", got)
	}
	send(t, http.MethodPut, "http://"+pod+":8081/faults", nil)
	if out := <-ended; !strings.HasPrefix(out, "0\n") || !strings.Contains(out, "1 of 2") {
		t.Errorf("shift-weight ends with %s", out)
	}
	if got := s.now().Weights; got != "60/40" {
		t.Errorf("weights %s when all are ready", got)
	}
}

// A second run of the same revision, refused or waiting, leaves the first one's release to finish.
func TestASecondRunLeavesTheFirst(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	s.traffic(s.caller(t, s.ns))
	s.must(0, "is initialized", "canary-init", "one")
	s.version(v2, "")
	s.must(0, "is up beside stable", "canary-init", "two")
	s.must(0, "has 40 %", "shift-weight", "two", "CANARY_WEIGHT=40")
	before := s.settled()
	s.must(4, "is held by run two", "canary-init", "refused")
	s.must(0, "nothing to roll back", "rollback", "refused")
	waiting := make(chan string)
	go func() {
		code, out := s.step("canary-init", "waits", "CANARY_ON_BUSY=wait")
		waiting <- fmt.Sprintf("%d\n%s", code, out)
	}()
	time.Sleep(5 * time.Second)
	if after := s.versions(); !maps.Equal(before, after) {
		t.Errorf("they changed (-before, +after)\n%s", cmp.Diff(before, after))
	}
	s.must(0, "is good at 40 %", "analyze", "two")
	s.must(0, "promoted", "promote", "two")
	if out := <-waiting; !strings.HasPrefix(out, "0\n") || !strings.Contains(out, "is held by run two") ||
		!strings.Contains(out, "is unchanged") {
		t.Errorf("the run that waited ends with %s", out)
	}
	s.want(serves{"100/0", "2.0.0 x2", "2.0.0 x0", "promoted"}) // unchanged is not noted
}

// canary-init names each permission that is missing, before anything is changed.
func TestPermissions(t *testing.T) {
	s := newShop(t)
	role, err := s.kube.RbacV1().Roles(s.ns).Get(t.Context(), "canary-tasks", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before := s.versions()
	for i, rule := range role.Rules {
		rest := role.DeepCopy()
		rest.Rules = append(rest.Rules[:i:i], rest.Rules[i+1:]...)
		body, err := json.Marshal(map[string]any{"rules": rest.Rules})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.kube.RbacV1().Roles(s.ns).Patch(
			t.Context(), "canary-tasks", types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		resource := strings.TrimSuffix(rule.Resources[0]+"."+rule.APIGroups[0], ".")
		var values []string
		if resource == "canaries/status.flagger.app" { // which only those need who have one
			values = append(values, "CANARY_CANARY=shop")
		}
		eventually(t, 20*time.Second, func() string { // the API server learns of a Role a moment later
			code, out := s.step("canary-init", "one", values...)
			for _, verb := range rule.Verbs {
				if code != 2 || !strings.Contains(out, "may not "+verb+" "+resource) {
					return fmt.Sprintf(
						"without the rule for %s canary-init ends with %d and does not miss %s:\n%s", resource, code,
						verb, out)
				}
			}
			return ""
		})
	}
	if after := s.versions(); !maps.Equal(before, after) {
		t.Errorf("refused runs changed (-before, +after)\n%s", cmp.Diff(before, after))
	}
}

// What selects the target's pods and not stable's is named before anything changes, and may be
// accepted by its name.
func TestUncovered(t *testing.T) {
	s := newShop(t)
	run(t, "", "kubectl", "create", "poddisruptionbudget", "keep", "-n", s.ns, "--selector=app=shop",
		"--min-available=1")
	run(t, "", "kubectl", "apply", "-n", s.ns, "-f", "test/e2e/testdata/policy.yaml")
	before := s.versions()
	out := s.must(2, "PodDisruptionBudget/keep applies to the target and not to shop-primary", "canary-init", "one")
	if !strings.Contains(out, "AuthorizationPolicy/allow applies to the target") {
		t.Errorf("the AuthorizationPolicy is not named:\n%s", out)
	}
	if after := s.versions(); !maps.Equal(before, after) {
		t.Errorf("a refused run changed (-before, +after)\n%s", cmp.Diff(before, after))
	}
	s.must(0, "is initialized", "canary-init", "one",
		"CANARY_ACCEPT_UNCOVERED=PodDisruptionBudget/keep,AuthorizationPolicy/allow")
}

// Stable has an autoscaler of its own. While a release runs it keeps the pods there are, so that
// going back finds room, and the candidate's, here one that waits for nothing, does not take away
// what has no traffic yet. What they measure is what metrics-server says. Stable's waits, as by
// default: a pod that is taken away under load is not what is looked at.
func TestAutoscaler(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	from := s.caller(t, s.ns)
	traffic := s.trafficTo("shop."+s.ns, from, 40)
	run(t, `{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: scale}, spec: {minReplicas: 2, maxReplicas: 10,
scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: shop}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 40}}}]}}`,
		"kubectl", "apply", "-n", s.ns, "-f", "-")
	s.must(0, "is initialized", "canary-init", "one")
	bounds := func(name string) string {
		t.Helper()
		return run(t, "", "kubectl", "get", "hpa", name, "-n", s.ns, "-o",
			"jsonpath={.spec.minReplicas} to {.spec.maxReplicas} of {.spec.scaleTargetRef.name}")
	}
	pods := func(deployment string) (n int) {
		t.Helper()
		n, err := strconv.Atoi(
			run(t, "", "kubectl", "get", "deployment", deployment, "-n", s.ns, "-o", "jsonpath={.spec.replicas}"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if got := bounds("scale-primary"); got != "2 to 10 of shop-primary" {
		t.Errorf("stable's autoscaler: %s", got)
	}
	eventually(t, 2*time.Minute, func() string {
		if n := pods("shop-primary"); n < 3 {
			return fmt.Sprintf("stable's autoscaler keeps %d pods under load", n)
		}
		return ""
	})
	waits := func(seconds int) {
		t.Helper()
		run(t, "", "kubectl", "patch", "hpa", "scale", "-n", s.ns, "--type=merge", "-p",
			fmt.Sprintf(`{"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": %d}}}}`, seconds))
	}
	waits(0)
	s.version(v2, "")
	s.must(0, "is up beside stable", "canary-init", "two")
	candidate := pods("shop")
	for name, of := range map[string]string{"scale": "shop", "scale-primary": "shop-primary"} {
		if got, want := bounds(name), fmt.Sprintf("%d to 10 of %s", candidate, of); got != want || candidate < 3 {
			t.Errorf("in mid-release: %s, want %s", got, want)
		}
	}
	eventually(t, 2*time.Minute, func() string {
		if run(t, "", "kubectl", "get", "hpa", "scale", "-n", s.ns, "-o",
			"jsonpath={.status.currentMetrics[0].resource.current.averageUtilization}") == "" {
			return "the candidate's autoscaler has not measured it"
		}
		return ""
	})
	time.Sleep(5 * time.Second) // in which it would have acted twice
	if got := pods("shop"); got < candidate {
		t.Errorf("the candidate's autoscaler left %d of %d pods", got, candidate)
	}
	s.must(0, "has 40 %", "shift-weight", "two", "CANARY_WEIGHT=40")
	waits(300)
	more := s.trafficTo("shop."+s.ns, from, 150)
	eventually(t, 3*time.Minute, func() string {
		if n := pods("shop-primary"); n < 10 {
			return fmt.Sprintf("stable's autoscaler keeps %d pods under more load", n)
		}
		return ""
	})
	s.must(0, "rolled back", "rollback", "two")
	for name, want := range map[string]string{"scale": "2 to 10 of shop", "scale-primary": "2 to 10 of shop-primary"} {
		if got := bounds(name); got != want {
			t.Errorf("after it: %s, want %s", got, want)
		}
	}
	s.want(serves{"100/0", "1.0.0 x10", "2.0.0 x0", "aborted"})
	run(t, "", "kubectl", "rollout", "status", "-n", s.ns, "deployment/shop-primary", "--timeout=120s")
	noneFailed(t, "with stable at 10 pods", traffic)
	noneFailed(t, "of what came in mid-release", more)
}

// The way back under load: the application serves by itself again, and nothing of its releases is
// left.
func TestDetach(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	traffic := s.traffic(s.caller(t, s.ns))
	s.must(0, "is initialized", "canary-init", "one")
	run(t, "", "kubectl", "apply", "-n", s.ns, "-f", "examples/account-per-step/rollback.yaml")
	s.version(v2, "fail=1") // which is not promoted
	s.kubeconfig = s.account("canary-rollback")
	time.Sleep(5 * time.Second)
	s.must(0, "detached", "rollback", "", "CANARY_MODE=detach", "CANARY_DRAIN=10s")
	time.Sleep(10 * time.Second)
	noneFailed(t, "detaching", traffic)
	out := run(t, "", "kubectl", "get", "deployments,services,virtualservices,hpa", "-n", s.ns, "-l", "app!=client",
		"-o", "name")
	if want := "deployment.apps/shop\nservice/shop\n"; out != want {
		t.Errorf("left:\n%s", out)
	}
	if out, err := try(t, "", "kubectl", "get", "configmap", "shop-canary-release", "-n", s.ns); err == nil {
		t.Errorf("the record is left: %s", out)
	}
	out = run(t, "", "kubectl", "get", "deployment", "shop", "-n", s.ns, "-o",
		"jsonpath={.spec.template.spec.containers[0].env[0].value} x{.status.availableReplicas}")
	if out != "1.0.0 x2" {
		t.Errorf("the application serves %s", out)
	}
}

// What is promoted is what was judged, whatever the target says by now.
func TestPromotesWhatWasJudged(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	traffic := s.traffic(s.caller(t, s.ns))
	s.must(0, "is initialized", "canary-init", "one")
	s.version(v2, "")
	s.must(0, "is up beside stable", "canary-init", "two")
	s.must(0, "has 40 %", "shift-weight", "two", "CANARY_WEIGHT=40")
	s.must(0, "is good at 40 %", "analyze", "two")
	ended := make(chan string)
	go func() {
		code, out := s.step("promote", "two")
		ended <- fmt.Sprintf("%d\n%s", code, out)
	}()
	eventually(t, time.Minute, func() string {
		if got := s.now().Stable; got != "2.0.0 x2" {
			return "stable is " + got
		}
		return ""
	})
	s.version(v3, "fail=1")
	if out := <-ended; !strings.HasPrefix(out, "0\n") || !strings.Contains(out, "promoted") {
		t.Fatalf("promote ends with %s", out)
	}
	s.want(serves{"100/0", "2.0.0 x2", "3.0.0 x0", "promoted"})
	time.Sleep(2 * time.Second)
	traffic.Stop()
	samples := traffic.Samples()
	last := load.Count(samples[len(samples)-100:])
	if last.Of(v2) != 100 {
		t.Errorf("the last 100 requests: %s", last)
	}
}

// What was judged good and fails as stable is not promoted: the judged candidate has the traffic
// until stable has its former revision back. The revision is remembered.
func TestFailsAsStable(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	traffic := s.traffic(s.caller(t, s.ns))
	s.must(0, "is initialized", "canary-init", "one")
	s.version(v2, "fail=1&pods=shop-primary-")
	s.must(0, "is up beside stable", "canary-init", "two", "CANARY_DRAIN=30s")
	s.must(0, "has 40 %", "shift-weight", "two", "CANARY_WEIGHT=40")
	s.must(0, "is good at 40 %", "analyze", "two")
	out := s.must(1, "stable fails: request-success-rate: beyond the limit", "promote", "two")
	s.want(serves{"100/0", "1.0.0 x2", "2.0.0 x0", "rejected"})
	if !strings.Contains(
		out, "Routing all traffic to canary: shop."+s.ns+": shop passed at every weight, and shop-primary fails") {
		t.Errorf("it does not say where traffic goes:\n%s", out)
	}
	s.must(0, "stable runs revision", "rollback", "two")
	s.must(1, "was rejected at", "canary-init", "three")
	time.Sleep(2 * time.Second)
	traffic.Stop()
	samples := traffic.Samples()
	rescued := load.Count(s.splits.During("0/100", samples))
	t.Logf("all: %s; while the candidate has all the traffic: %s", load.Count(samples), rescued)
	if rescued.Failed() > 0 || rescued.Of(v2) == 0 {
		t.Errorf("while the candidate has all the traffic: %s", rescued)
	}
	if last := load.Count(samples[len(samples)-100:]); last.Of(v1) != 100 {
		t.Errorf("the last 100 requests: %s", last)
	}
}

// Whatever is wrong is found before anything is changed, and all of it is named in one report.
func TestBadInput(t *testing.T) {
	s := newShop(t)
	for _, c := range []struct {
		desc    string
		prepare string // manifests
		command []string
		values  []string
		want    []string
	}{
		{"all at once", "", nil,
			[]string{"CANARY_INTERVAL=60", "CANARY_THRESHOLD=0", "CANARY_STEP_WEIGHTS=40,20",
				"CANARY_REQUEST_SUCCESS_RATE=NaN", "CANARY_PROMETHEUS=http://127.0.0.1:1", "CANARY_PORT=8443"},
			[]string{"has 6 mistakes", `interval is "60"`, `threshold is "0"`, `stepWeights is "40,20"`,
				`requestSuccessRate is "NaN"`, `prometheus is "http://127.0.0.1:1"`, `port is "8443"`}},
		{"no target", "", nil, []string{"CANARY_TARGET=none"},
			[]string{`target is "none": there is no such Deployment`}},
		{"a selector of expressions",
			"{apiVersion: apps/v1, kind: Deployment, metadata: {name: odd}, spec: {selector: {matchLabels: {app: " +
				"odd}, matchExpressions: [{key: app, operator: Exists}]}, " +
				"template: {metadata: {labels: {app: odd}}, spec: {containers: [{name: app, " +
				"image: odd}]}}, replicas: 0}}", nil,
			[]string{"CANARY_TARGET=odd"},
			[]string{`target is "odd": Deployment odd cannot be released: its spec.selector must have matchLabels only`}},
		{"no label that names it",
			"{apiVersion: apps/v1, kind: Deployment, metadata: {name: nameless}, spec: {selector: " +
				"{matchLabels: {tier: web}}, " +
				"template: {metadata: {labels: {tier: web}}, spec: {containers: [{name: app, " +
				"image: odd}]}}, replicas: 0}}", nil,
			[]string{"CANARY_TARGET=nameless"},
			[]string{`target is "nameless": Deployment nameless cannot be released: its spec.selector.matchLabels have none of`}},
		{"a Prometheus that is something else", "", nil, []string{"CANARY_PROMETHEUS=http://istiod.istio-system:15014"},
			[]string{`prometheus is "http://istiod.istio-system:15014"`}},
		{"queries that cannot be judged by", "", nil,
			[]string{`CANARY_METRICS=[{name: broken, query: "sum(", thresholdRange: {max: 1}}, {name: long, query: "sum(rate(up[9h]))", thresholdRange: {max: 1}}, ` +
				`{name: several, query: up, thresholdRange: {max: 1}}, {name: empty, query: "", thresholdRange: {max: 1}}, {name: range, query: "up[1m]", thresholdRange: {max: 1}}]`},
			[]string{"has 5 mistakes", `metrics is "broken": it is no PromQL`,
				`metrics is "long": its query looks 9h0m0s back`, `metrics is "several": several series: it gives`,
				`metrics is "empty": it is empty`, `metrics is "range": it gives a matrix`}},
		{"a release that cannot end in time", "", nil, []string{"CANARY_DEADLINE=1m"}, []string{`deadline is "1m"`}},
		{"several routes",
			"{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: shop}, spec: " +
				"{hosts: [shop], http: [" +
				"{match: [{uri: {prefix: /a}}], route: [{destination: {host: shop}}]}, {route: " +
				"[{destination: {host: shop}}]}]}}", nil, nil,
			[]string{`virtualService is "shop"`}},
		{"no route that leads here",
			"{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: shop}, spec: {hosts: " +
				"[shop], http: [{route: [{destination: {host: other}}]}]}}",
			nil, nil, []string{`virtualService is "shop"`, "other"}},
		{"Recreate", "", []string{
			"patch", "deployment", "shop", "-n", s.ns, "-p",
			`{"spec":{"strategy":{"type":"Recreate","rollingUpdate":null}}}`}, nil,
			[]string{"its strategy is Recreate"}},
		{"a claim of one pod",
			"{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data}, spec: {accessModes: " +
				"[ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}",
			[]string{"patch", "deployment", "shop", "-n", s.ns, "-p",
				`{"spec":{"template":{"spec":{"volumes":[{"name":"data","persistentVolumeClaim":{"claimName":"data"}}]}}}}`}, nil,
			[]string{"the claim data, which is [ReadWriteOnce]"}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			if c.prepare != "" {
				run(t, c.prepare, "kubectl", "apply", "-n", s.ns, "-f", "-")
			}
			if c.command != nil {
				run(t, "", "kubectl", c.command...)
			}
			time.Sleep(time.Second) // the Deployments' controller has written what it has to
			changes := func() map[string]string {
				all := s.versions()
				delete(all, "Deployment/shop") // its controller writes its status
				return all
			}
			before := changes()
			out := s.must(2, "nothing was changed", "canary-init", "one", c.values...)
			for _, want := range c.want {
				if !strings.Contains(out, want) {
					t.Errorf("it does not say %q:\n%s", want, out)
				}
			}
			if after := changes(); !maps.Equal(before, after) {
				t.Errorf("it changed (-before, +after)\n%s", cmp.Diff(before, after))
			}
		})
	}
}
