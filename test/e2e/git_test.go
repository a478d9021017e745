//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/gitops"
	"github.com/canary-tasks/canary-tasks/lib/gitops/gittest"
	"github.com/canary-tasks/canary-tasks/test/load"
)

// promoteTo is what Jenkins X does: the version in the environment repository, and then the chart
// in the cluster.
func (s *shop) promoteTo(git *gittest.Server, file, version, faults string) {
	s.t.Helper()
	content := fmt.Sprintf(
		"# production\nreleases:\n- chart: dev/cart   # somebody else's\n  version: 9.9.9\n  name: cart\n- chart: "+
			"dev/shop\n  version: %s\n  name: shop\n", version)
	if err := git.Commit(s.t.Context(), file, content, "chore: promote shop to version "+version); err != nil {
		s.t.Fatal(err)
	}
	s.chart(version, faults)
}

func (s *shop) chart(version, faults string) {
	s.t.Helper()
	run(s.t, "", "kubectl", "label", "-n", s.ns, "deployment/shop", "--overwrite", "helm.sh/chart=shop-"+version)
	s.version(version, faults)
}

// A release that is rolled back leaves an environment repository that says what serves; what cannot
// be done there is said, and changes nothing of where traffic goes.
func TestGit(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	host, _, err := net.SplitHostPort(s.prometheus) // which pods reach
	if err != nil {
		t.Fatal(err)
	}
	git, err := gittest.Start(t.Context(), t.TempDir(), net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(git.Close)
	file := gitops.Files(s.ns)[1]
	says := func() string {
		t.Helper()
		content, err := git.File(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		version, err := gitops.Version{App: "shop"}.Find([]byte(content))
		if err != nil {
			t.Fatal(err)
		}
		return version
	}
	from := s.caller(t, s.ns)
	params := []string{"git=commit", "gitRepository=" + git.URL, "stepWeights=40"}

	s.promoteTo(git, file, "1.0.0", "")
	if out, err := s.release(params...); err != nil || !strings.Contains(out, "is initialized") {
		t.Fatalf("%v", err)
	}
	// a mistake is found before anything is changed
	if out, err := s.release("gitRepository=https://git.example.com/env.git", "git=pull-request"); err == nil ||
		!strings.Contains(out, "parameter gitProvider is missing") {
		t.Errorf("an unknown provider: %v", err)
	}
	// which is another application's
	run(t, "", "kubectl", "label", "-n", s.ns, "deployment/shop", "--overwrite", "helm.sh/chart=cart-9.9.9")
	if out, err := s.release(params...); err == nil ||
		!strings.Contains(out, "parameter gitApp is missing: the chart of Deployment shop is called cart") {
		t.Errorf("another application's chart: %v", err)
	}

	// Git refuses: no Secret is there yet
	traffic := s.traffic(from)
	s.promoteTo(git, file, v2, "fail=0.5")
	out, err := s.release(params...)
	if err == nil || !strings.Contains(out, "Git was not put right") ||
		!strings.Contains(out, "authentication required") ||
		!strings.Contains(out, "exit code 5, git") ||
		!strings.Contains(out, "jx promote -b --app shop --version 1.0.0 --env production --no-poll") {
		t.Errorf("without a Secret: %v", err)
	}
	s.want(serves{"100/0", "1.0.0 x2", v2 + " x0", "rejected"})
	if got := says(); got != v2 {
		t.Errorf("Git says %s without anybody who may write", got)
	}

	// by hand, once there is a Secret that may be sent unencrypted; and once more, which finds
	// nothing to do
	record := run(t, "", "kubectl", "get", "configmap", "shop-canary-release", "-n", s.ns, "-o",
		`jsonpath={.data.release\.json}`)
	setRecord := func(text string) { // as anybody can who may write ConfigMaps
		patch, err := json.Marshal(map[string]any{"data": map[string]string{"release.json": text}})
		if err != nil {
			t.Fatal(err)
		}
		run(t, "", "kubectl", "patch", "configmap", "shop-canary-release", "-n", s.ns, "--type=merge", "-p",
			string(patch))
	}
	secret := []string{
		"create", "secret", "generic", "canary-tasks-git", "-n", s.ns, "--from-literal=username=" + gittest.User,
		"--from-literal=password=" + gittest.Password}
	for i, want := range []string{
		"would send the password of its Secret unencrypted", "shop is back to 1.0.0 by commit",
		"nothing to change: the file says that version already: 1.0.0"} {
		switch i {
		case 0:
			run(t, "", "kubectl", secret...)
		case 1:
			run(t, "", "kubectl", "delete", "secret", "canary-tasks-git", "-n", s.ns)
			run(t, "", "kubectl", append(secret, "--from-literal=insecure=true")...)
			setRecord(strings.Replace(
				record, `"chart":"shop-1.0.0"`, `"chart":"shop-1.0.0\n  hooks: [{events: [presync], command: sh}]"`, 1))
		case 2:
			setRecord(record)
		}
		out, err = try(t, "", "tkn", "task", "start", "rollback", "-n", s.ns, "-s", "canary-tasks",
			"--use-param-defaults", "--showlog", "-p", "target=shop", "-p", params[0], "-p", params[1])
		if err != nil && i > 0 || !strings.Contains(out, want) || strings.Contains(out, gittest.Password) {
			t.Errorf("by hand: %v\n%s", err, out)
		}
	}
	if got := says(); got != "1.0.0" {
		t.Errorf("Git says %s", got)
	}
	if content, err := git.File(t.Context(), file); err != nil || strings.Contains(content, "hooks") ||
		!strings.Contains(record, `"chart":"shop-1.0.0"`) {
		t.Errorf("what the record has in it got into Git, or was not in the record: %v\n%s", err, content)
	}

	// the pipeline does it all
	s.promoteTo(git, file, v3, "fail=0.5")
	out, err = s.release(params...)
	if err == nil || !strings.Contains(out, "shop is back to 1.0.0 by commit") ||
		strings.Contains(out, gittest.Password) {
		t.Errorf("%v", err)
	}
	s.want(serves{"100/0", "1.0.0 x2", v3 + " x0", "rejected"})
	if got := says(); got != "1.0.0" {
		t.Errorf("Git says %s", got)
	}
	diff, err := git.Git(t.Context(), "show", "--format=%an%n%B", "--unified=0", "main")
	if err != nil || !strings.Contains(diff, "The canary release of 3.0.0 ended as rejected") ||
		!strings.Contains(diff, "\n-  version: 3.0.0\n+  version: 1.0.0") || strings.Count(diff, "\n@@") != 1 {
		t.Errorf("the commit is %s (%v)", diff, err)
	}
	t.Logf("the commit:\n%s\nfrom the verdict to the commit: %s", diff,
		between(t, out, `analyze-1 : analyze\] (\S+) .*exit code 1`, `rollback : rollback\] (\S+) Git: shop is back`))

	// and what Git says is applied: nothing to release
	s.chart("1.0.0", "")
	if out, err := s.release(params...); err != nil || !strings.Contains(out, "is unchanged") {
		t.Errorf("after the commit: %v", err)
	}
	traffic.Stop()
	if counts := load.Count(traffic.Samples()); counts[load.Answer{Version: "1.0.0", Status: 200}] == 0 {
		t.Errorf("%s", counts)
	}
}

// between is the time between two lines of a log.
func between(t *testing.T, log, from, to string) time.Duration {
	t.Helper()
	var at [2]time.Time
	for i, pattern := range []string{from, to} {
		m := regexp.MustCompile(pattern).FindStringSubmatch(log)
		if m == nil {
			t.Errorf("no line is %s", pattern)
			return 0
		}
		var err error
		if at[i], err = time.Parse(time.TimeOnly, m[1]); err != nil {
			t.Error(err)
		}
	}
	return at[1].Sub(at[0])
}
