//go:build e2e

package e2e

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Each step has an account of its own, with what it needs and no more: a release goes through, and
// one that has less than its step needs is named before anything is changed.
func TestAccountPerStep(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	names := map[string]string{"canary-init": "canary-init"}
	var others []string
	for _, step := range []string{"canary-init", "shift-weight", "analyze", "promote", "rollback"} {
		run(t, "", "kubectl", "apply", "-n", s.ns, "-f", "examples/account-per-step/"+step+".yaml")
		if step != "canary-init" {
			names[step] = "canary-" + step
			others = append(others, step+"="+names[step])
		}
	}
	configs := map[string]string{}
	for step, name := range names {
		configs[step] = s.account(name)
	}
	step := func(code int, says, name, runID string, values ...string) string {
		t.Helper()
		s.kubeconfig = configs[name]
		if name == "canary-init" {
			values = append(values, "CANARY_STEP_ACCOUNTS="+strings.Join(others, ","))
		}
		return s.must(code, says, name, runID, values...)
	}
	s.traffic(s.caller(t, s.ns))
	step(0, "is initialized", "canary-init", "one")
	s.version(v2, "")
	step(0, "is up beside stable", "canary-init", "two")
	step(0, "has 40 %", "shift-weight", "two", "CANARY_WEIGHT=40")
	step(0, "is good at 40 %", "analyze", "two")
	step(0, "promoted", "promote", "two")
	s.version(v3, "")
	step(0, "is up beside stable", "canary-init", "three")
	step(0, "rolled back", "rollback", "three")

	role, err := s.kube.RbacV1().Roles(s.ns).Get(t.Context(), "canary-promote", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range role.Rules {
		if role.Rules[i].Resources[0] == "services" {
			role.Rules[i].Verbs = []string{"get"}
		}
	}
	body, err := json.Marshal(map[string]any{"rules": role.Rules})
	if err != nil {
		t.Fatal(err)
	}
	roles := s.kube.RbacV1().Roles(s.ns)
	if _, err := roles.Patch(t.Context(), role.Name, types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	s.kubeconfig = configs["canary-init"]
	eventually(t, 20*time.Second, func() string { // the API server learns of a Role a moment later
		code, out := s.step("canary-init", "four", "CANARY_STEP_ACCOUNTS="+strings.Join(others, ","))
		if code != 2 || !strings.Contains(out, "ServiceAccount "+s.ns+"/canary-promote may not patch services") {
			return out
		}
		return ""
	})
}

// Whoever names another Prometheus gets no credentials: not the application team's Canary, and not
// who writes the record.
func TestCredentialsOfPrometheus(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	var asked atomic.Int32
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	foreign := &http.Server{
		ReadHeaderTimeout: time.Second,
		Handler:           http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) })}
	go func() { _ = foreign.Serve(listener) }()
	t.Cleanup(func() { _ = foreign.Close() })
	address := "http://" + listener.Addr().String()

	folder := t.TempDir()
	for name, text := range map[string]string{
		"http.yaml": "authorization: {credentials_file: token}", "token": "t0ken"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secrets := "CANARY_PROMETHEUS_CONFIG=" + folder
	named := "http://prometheus.istio-system:9090"
	if s.prometheus != "" {
		named = "http://" + s.prometheus
	}
	spec := "CANARY_SPEC={apiVersion: flagger.app/v1beta1, kind: Canary, spec: {targetRef: {kind: Deployment, name: " +
		"shop}, metricsServer: '" + address +
		"', analysis: {metrics: [{name: request-success-rate, thresholdRange: {min: 99}}]}}}"
	traffic := s.traffic(s.caller(t, s.ns))
	s.must(0, "is initialized", "canary-init", "one", secrets)
	s.version(v2, "")
	out := s.must(2, address, "canary-init", "two", secrets, spec, "CANARY_PROMETHEUS=")
	if !strings.Contains(out, "the credentials of prometheusSecret are for another address") {
		t.Errorf("it does not say why:\n%s", out)
	}
	s.must(0, "is up beside stable", "canary-init", "two", secrets)
	s.must(0, "has 40 %", "shift-weight", "two", "CANARY_WEIGHT=40")
	record, err := s.kube.CoreV1().ConfigMaps(s.ns).Get(t.Context(), "shop-canary-release", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.ReplaceAll(record.Data["release.json"], named, address)
	body, err := json.Marshal(map[string]any{"data": map[string]string{"release.json": changed}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.kube.CoreV1().ConfigMaps(s.ns).Patch(
		t.Context(), record.Name, types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	s.must(3, "not for "+address, "analyze", "two", secrets, "CANARY_PROMETHEUS="+named)
	if got := s.now().Weights; got != "100/0" {
		t.Errorf("weights %s", got)
	}
	s.must(0, "rolled back", "rollback", "two")
	if n := asked.Load(); n > 0 {
		t.Errorf("%d requests were sent to it", n)
	}
	noneFailed(t, "a foreign address", traffic)
}
