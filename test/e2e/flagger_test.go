//go:build e2e

package e2e

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const flaggersCanary = `{apiVersion: flagger.app/v1beta1, kind: Canary, metadata: {name: shop}, spec: {targetRef: {apiVersion: apps/v1, kind: Deployment, name: shop},
service: {port: 80, targetPort: 8080}, analysis: {interval: 10s, threshold: 2, stepWeights: [40], metrics: [{name: request-success-rate, interval: 1m, thresholdRange: {min: 99}}]}}}`

// flagger runs Flagger itself for one namespace, until end is called.
func (s *shop) flagger() (end func()) {
	s.t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	cmd := exec.CommandContext(
		s.t.Context(), program(s.t, "flagger", "github.com/fluxcd/flagger/cmd/flagger"), "-kubeconfig",
		os.Getenv("KUBECONFIG"), "-namespace", s.ns,
		"-mesh-provider", "istio", "-metrics-server", "http://"+s.prometheus, "-port", port)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
	}
	s.t.Cleanup(func() {
		end()
		if s.t.Failed() {
			s.t.Logf("Flagger's log:\n%s", log.String())
		}
	})
	return end
}

// What a real Flagger made serves on: while it is taken over, when its Canary is deleted, and at
// the next release.
func TestFromFlagger(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	serveCanaries(t)
	end := s.flagger()
	run(t, flaggersCanary, "kubectl", "apply", "-n", s.ns, "-f", "-")
	run(t, "", "kubectl", "wait", "canary/shop", "-n", s.ns, "--for=jsonpath={.status.phase}=Initialized",
		"--timeout=180s")
	traffic := s.traffic(s.caller(t, s.ns))
	pods := s.pods(t, s.ns, "shop-primary")
	end()

	s.must(2, "Flagger manages it, by Canary shop", "canary-init", "first")
	run(t, "", "kubectl", "patch", "canary/shop", "-n", s.ns, "--type", "merge", "-p", `{"spec":{"suspend":true}}`)
	s.must(0, "no longer belong to a Canary of Flagger's", "canary-init", "first", "CANARY_CANARY=shop")
	run(t, "", "kubectl", "delete", "canary/shop", "-n", s.ns)
	time.Sleep(10 * time.Second) // the garbage collector's
	const made = "deployment.apps/shop deployment.apps/shop-primary service/shop service/shop-canary " +
		"service/shop-primary virtualservice.networking.istio.io/shop " +
		"destinationrule.networking.istio.io/shop-canary destinationrule.networking.istio.io/shop-primary"
	if got := strings.Join(
		strings.Fields(run(
			t, "", "kubectl", "get", "deployments,services,virtualservices,destinationrules", "-n", s.ns, "-l",
			"app!=client", "-o", "name")), " "); got != made {
		t.Errorf("after the Canary was deleted there is\n%s, want\n%s", got, made)
	}
	if diff := cmp.Diff(pods, s.pods(t, s.ns, "shop-primary")); diff != "" {
		t.Errorf("stable's pods (-before, +after)\n%s", diff)
	}

	s.version(v2, "")
	if out, err := s.release("stepWeights=40"); err != nil || !strings.Contains(out, "promoted: stable runs revision") {
		t.Errorf("not promoted: %v", err)
	}
	s.want(serves{"100/0", "2.0.0 x2", "2.0.0 x0", "promoted"})
	s.shares(noneFailed(t, "from Flagger to a promoted release", traffic), v2, 40)
}
