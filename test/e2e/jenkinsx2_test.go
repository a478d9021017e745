//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	pipelinev1 "github.com/tektoncd/pipeline/pkg/apis/pipeline/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"knative.dev/pkg/apis"

	"github.com/canary-tasks/canary-tasks/examples/jenkinsx2"
	"github.com/canary-tasks/canary-tasks/test/load"
)

// jenkinsX2 are the containers of an example, in the scenario's namespace and with its images.
func (s *shop) jenkinsX2(file string) []jenkinsx2.Container {
	s.t.Helper()
	text, err := os.ReadFile("../../examples/jenkins-x-v2/" + file)
	if err != nil {
		s.t.Fatal(err)
	}
	all, err := jenkinsx2.Released(
		[]byte(strings.NewReplacer(
			"registry.example.com/canary-tasks", os.Getenv("KO_DOCKER_REPO"), "jx-production", s.ns).Replace(
			string(text))))
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// build runs our steps of the example's jenkins-x.yml as Jenkins X 2 makes them: containers of one
// pod, one after the other, each by /bin/sh -c. It returns their log and whether the build is
// green. What Jenkins X' own steps do before is the scenario's.
func (s *shop) build(number int) (log string, green bool) {
	s.t.Helper()
	run := &pipelinev1.TaskRun{ObjectMeta: metav1.ObjectMeta{Name: "environment-" + strconv.Itoa(number)}}
	run.Labels = map[string]string{"sidecar.istio.io/inject": "false"} // Jenkins X' builds run where nothing injects
	run.Spec.ServiceAccountName, run.Spec.TaskSpec = "canary-tasks", &pipelinev1.TaskSpec{}
	for _, c := range s.jenkinsX2("jenkins-x.yml") {
		if !strings.Contains(c.Line, "/ko-app/") {
			continue
		}
		step := pipelinev1.Step{
			Name: c.Name, Image: c.Image, Command: []string{"/bin/sh", "-c"}, Args: []string{c.Line}}
		step.Env = []corev1.EnvVar{
			{Name: "JOB_NAME", Value: "acme/environment/master"}, {Name: "BUILD_NUMBER", Value: strconv.Itoa(number)}}
		for name, value := range c.Env {
			step.Env = append(step.Env, corev1.EnvVar{Name: name, Value: value})
		}
		run.Spec.TaskSpec.Steps = append(run.Spec.TaskSpec.Steps, step)
	}
	runs := s.tekton.TektonV1().TaskRuns(s.ns)
	if _, err := runs.Create(s.t.Context(), run, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	var err error
	log, _ = try(s.t, "", "tkn", "taskrun", "logs", "--follow", run.Name, "-n", s.ns)
	s.t.Logf("the log of build %d:\n%s", number, log)
	var done *pipelinev1.TaskRun
	eventually(s.t, 30*time.Second, func() string { // the log ends before
		if done, err = runs.Get(s.t.Context(), run.Name, metav1.GetOptions{}); err != nil || !done.IsDone() {
			return fmt.Sprintf("TaskRun %s is not done (%v)", run.Name, err)
		}
		return ""
	})
	return log, done.Status.GetCondition(apis.ConditionSucceeded).IsTrue()
}

// asTektonBot is a kubeconfig of the account that pipelines of Jenkins X have, with no more rights
// than the example gives it.
func (s *shop) asTektonBot() string {
	s.t.Helper()
	jx := s.namespace(s.t, "jx")
	text, err := os.ReadFile("../../examples/jenkins-x-v2/tkn-rbac.yaml")
	if err != nil {
		s.t.Fatal(err)
	}
	run(s.t, "", "kubectl", "create", "serviceaccount", "tekton-bot", "-n", jx)
	run(s.t, strings.NewReplacer("jx-production", s.ns, "namespace: jx\n", "namespace: "+jx+"\n").Replace(string(text)),
		"kubectl", "apply", "-f", "-")
	path := filepath.Join(s.t.TempDir(), "kubeconfig")
	if err := os.WriteFile(
		path, []byte(run(s.t, "", "kubectl", "config", "view", "--raw", "--minify")), 0o600); err != nil {
		s.t.Fatal(err)
	}
	token := strings.TrimSpace(run(s.t, "", "kubectl", "create", "token", "tekton-bot", "-n", jx))
	run(s.t, "", "kubectl", "--kubeconfig", path, "config", "set-credentials", "bot", "--token="+token)
	run(s.t, "", "kubectl", "--kubeconfig", path, "config", "set-context", "--current", "--user=bot")
	return path
}

// Jenkins X 2 knows no Tasks and has no finally: the images in the variant with a shell, of which
// the one that fails rolls back.
func TestJenkinsX2(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	serveCanaries(t)
	run(t, "", "env", "KO_DEFAULTBASEIMAGE="+os.Getenv("CANARY_TEST_SHELL_BASE"), "make", "release-shell",
		"VERSION=v0.1.0")
	run(t, flaggersCanary, "kubectl", "apply", "-n", s.ns, "-f", "-")

	if log, green := s.build(1); !green || !strings.Contains(log, "is initialized") {
		t.Fatal("the first build is not green, or does not initialize")
	}
	s.want(serves{"100/0", "1.0.0 x2", "1.0.0 x0", "initialized"})

	traffic := s.traffic(s.caller(t, s.ns))
	s.version(v2, "")
	if log, green := s.build(2); !green || !strings.Contains(log, "promoted: stable runs revision") {
		t.Error("a good version is not promoted")
	}
	s.want(serves{"100/0", "2.0.0 x2", "2.0.0 x0", "promoted"})

	s.version(v3, "fail=1")
	log, green := s.build(3)
	if green || !strings.Contains(log, "rolling back before this step exits with code 1") ||
		!strings.Contains(log, "rolled back (rejected)") {
		t.Error("a bad version's build is green, or it was not rolled back")
	}
	s.want(serves{"100/0", "2.0.0 x2", "3.0.0 x0", "rejected"})
	s.shares(noneFailed(t, "a promotion and a rollback by Jenkins X 2", traffic, load.Answer{Version: v3, Status: 500}),
		v2, 20, 40, 60)

	// the form with one step, which starts the Pipeline
	all := s.jenkinsX2("jenkins-x-tkn.yml")
	line := "export KUBECONFIG=" + s.asTektonBot() + "; " + all[len(all)-1].Line
	out, err := try(t, "", "/bin/sh", "-c", line)
	if err == nil || !strings.Contains(out, "was rejected at") {
		t.Errorf("%s\nof a version that was rejected: %v\n%s", line, err, out)
	}
	s.version("4.0.0", "")
	traffic = s.traffic(s.caller(t, s.ns))
	if out, err := try(t, "", "/bin/sh", "-c", line); err != nil ||
		!strings.Contains(out, "promoted: stable runs revision") {
		t.Errorf("%s\nof a good version: %v\n%s", line, err, out)
	}
	noneFailed(t, "a promotion by the form with one step", traffic)
}
