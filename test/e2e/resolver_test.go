//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-tasks/canary-tasks/lib/gitops/gittest"
	"github.com/canary-tasks/canary-tasks/test/load"
)

// jenkinsX3 is Jenkins X' production: applications in one namespace, pipelines in another, Tasks in
// a Git repository. The boot job is played by the scenario, as is the task before canary-init,
// whose images are Jenkins X' own.
type jenkinsX3 struct {
	*cluster
	t                  *testing.T
	production, jx     string
	tasks, environment *gittest.Server
	app                string // manifests of one application
}

var fromBuildPack = regexp.MustCompile(
	`(?s)    - name: from-build-pack\n.*?(    - name: canary-init\n)      runAfter: \[from-build-pack\]\n`)

// start begins the run of the example for one application, as Lighthouse does after a merge.
func (j *jenkinsX3) start(app, version string, n int) (name string) {
	j.t.Helper()
	text, err := os.ReadFile("../../examples/jenkins-x-v3/.lighthouse/jenkins-x/release.yaml")
	if err != nil {
		j.t.Fatal(err)
	}
	name = fmt.Sprintf("release-%s-%d", app, n)
	manifest := fromBuildPack.ReplaceAllString(string(text), "$1")
	for _, change := range [][2]string{
		{"https://github.com/canary-tasks/canary-tasks.git", j.tasks.URL},
		{"https://github.com/acme/environment.git'}", j.environment.URL + "'}\n      - {name: git, value: commit}"},
		{"jx-production", j.production},
		{"$(tasks.from-build-pack.results.version)", version}, {"  name: release\n", "  name: " + name + "\n"},
		{"    value: shop\n", "    value: " + app + "\n"},
	} {
		if !strings.Contains(manifest, change[0]) {
			j.t.Fatalf("the example does not have %s", change[0])
		}
		manifest = strings.ReplaceAll(manifest, change[0], change[1])
	}
	run(j.t, manifest, "kubectl", "create", "-n", j.jx, "-f", "-")
	return name
}

// boot applies what a merge promises for one application.
func (j *jenkinsX3) boot(app, version, faults string) {
	j.t.Helper()
	manifest := strings.ReplaceAll(strings.ReplaceAll(j.app, "shop", app), "1.0.0", version)
	run(j.t, strings.ReplaceAll(manifest, `name: FAULTS, value: ""`, fmt.Sprintf("name: FAULTS, value: %q", faults)),
		"kubectl", "apply", "-n", j.production, "-f", "-")
}

// Three applications and one merge that promotes two of them: a run each, with Tasks out of a Git
// repository. The third ends green in one TaskRun, and nothing of it is written.
func TestJenkinsX3(t *testing.T) {
	c := connect(t)
	c.needsPods(t)
	serveCanaries(t)
	j := &jenkinsX3{cluster: c, t: t, production: c.namespace(t, "jx-production"), jx: c.namespace(t, "jx")}
	host, _, err := net.SplitHostPort(c.prometheus) // which pods reach
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []**gittest.Server{&j.tasks, &j.environment} {
		if *server, err = gittest.Start(t.Context(), t.TempDir(), net.JoinHostPort(host, "0")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup((*server).Close)
	}
	j.tasks.Public = true
	steps, err := filepath.Glob("../../tasks/*/*.yaml")
	if err != nil || len(steps) != 5 {
		t.Fatalf("%v: %v", steps, err)
	}
	for _, path := range steps {
		name := strings.TrimPrefix(path, "../../")
		if err := j.tasks.Commit(t.Context(), name, resolve(t, name), "release of "+name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := j.tasks.Git(t.Context(), "tag", "v0.1.0", "main"); err != nil {
		t.Fatal(err)
	}
	run(t, "", "kubectl", "create", "serviceaccount", "tekton-bot", "-n", j.jx)
	run(t, "", "kubectl", "apply", "-n", j.production, "-f", "pipelines/canary-release/rbac.yaml")
	bindings := run(t, "", "cat", "examples/jenkins-x-v3/rbac.yaml")
	run(t, strings.NewReplacer(
		"namespace: jx-production", "namespace: "+j.production, "namespace: jx\n", "namespace: "+j.jx+"\n").Replace(
		bindings), "kubectl", "apply", "-f", "-")

	j.app = resolve(t, "examples/release/deployment.yaml")
	apps := []string{"shop", "cart", "pay"}
	for _, app := range apps {
		run(t, strings.ReplaceAll(run(t, "", "cat", "examples/release/service.yaml"), "shop", app), "kubectl", "apply",
			"-n", j.production, "-f", "-")
		run(t, strings.ReplaceAll(
			"{apiVersion: flagger.app/v1beta1, kind: Canary, metadata: {name: shop}, spec: {targetRef: {apiVersion: "+
				"apps/v1, kind: Deployment, name: shop}, service: {port: 80}, "+
				"analysis: {interval: 10s, threshold: 2, stepWeights: [40], metrics: [{name: request-success-rate, "+
				"thresholdRange: {min: 99}}]}}}", "shop", app), "kubectl", "apply", "-n", j.production, "-f", "-")
		j.boot(app, v1, "")
	}
	for _, app := range apps {
		run(t, "", "kubectl", "rollout", "status", "-n", j.production, "deployment/"+app, "--timeout=90s")
	}
	s := c.shop(t, j.jx)
	green := func(names ...string) (logs []string) {
		t.Helper()
		for _, name := range names {
			out, condition := s.ended(name)
			if !condition.IsTrue() {
				t.Errorf("%s: %+v", name, condition)
			}
			logs = append(logs, out)
		}
		return logs
	}
	for _, out := range green(j.start("shop", v1, 1), j.start("cart", v1, 1), j.start("pay", v1, 1)) {
		if !strings.Contains(out, "is initialized") {
			t.Errorf("not initialized")
		}
	}
	from := c.caller(t, j.production)
	production := c.shop(t, j.production)
	var traffic []*load.Run
	for _, app := range apps[:2] {
		traffic = append(traffic, production.trafficTo(app+"."+j.production, from, rate/2))
	}
	versions := func() string {
		return run(t, "", "kubectl", "get", "deployments,services,virtualservices,configmaps", "-n", j.production, "-o",
			`jsonpath={range .items[?(@.metadata.name=="pay")]}{.kind} {.metadata.resourceVersion}{"\n"}{end}{range .items[?(@.metadata.name=="pay-primary")]}{.kind} {.metadata.resourceVersion}{"\n"}{end}`+
				`{range .items[?(@.metadata.name=="pay-canary-release")]}{.kind} {.metadata.resourceVersion}{"\n"}{end}`)
	}
	production.settled()
	before := versions()

	// one merge: two versions, and everything is applied
	j.boot("shop", v2, "")
	j.boot("cart", v2, "")
	logs := green(j.start("shop", v2, 2), j.start("cart", v2, 2), j.start("pay", v1, 2))
	for i, says := range []string{"promoted: stable runs revision", "promoted: stable runs revision", "is unchanged"} {
		if !strings.Contains(logs[i], says) {
			t.Errorf("%s: not %s", apps[i], says)
		}
	}
	list, err := c.tekton.TektonV1().TaskRuns(j.jx).List(
		t.Context(), metav1.ListOptions{LabelSelector: "tekton.dev/pipelineRun=release-pay-2"})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("what is unchanged took %d TaskRuns (%v)", len(list.Items), err)
	}
	if diff := cmp.Diff(before, versions()); diff != "" {
		t.Errorf("what is unchanged was written (-before, +after)\n%s", diff)
	}
	for i, r := range traffic {
		noneFailed(t, apps[i], r)
	}
}
