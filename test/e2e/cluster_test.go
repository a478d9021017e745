//go:build e2e

// Package e2e holds the scenarios that run on a real cluster: `make e2e`.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	tekton "github.com/tektoncd/pipeline/pkg/client/clientset/versioned"
	istio "istio.io/client-go/pkg/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/canary-tasks/canary-tasks/test/load"
)

// cluster is what a scenario works with. The addresses are empty on a cluster that the user named
// by KUBECONFIG: pods are reached by their addresses, which only a node of the cluster does.
type cluster struct {
	kube       kubernetes.Interface
	istio      istio.Interface
	tekton     tekton.Interface
	gateway    string // address of the ingress gateway
	prometheus string // address
}

func connect(t *testing.T) *cluster {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatalf("KUBECONFIG=%q names no cluster (run it by `make e2e`): %v", os.Getenv("KUBECONFIG"), err)
	}
	return &cluster{
		kube: kubernetes.NewForConfigOrDie(config), istio: istio.NewForConfigOrDie(config),
		tekton:  tekton.NewForConfigOrDie(config),
		gateway: os.Getenv("CANARY_TEST_GATEWAY"), prometheus: os.Getenv("CANARY_TEST_PROMETHEUS"),
	}
}

// namespace makes a namespace for one scenario, whose pods get sidecars, and removes it afterwards.
func (c *cluster) namespace(t *testing.T, prefix string) string {
	t.Helper()
	ns, err := c.kube.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{
			ObjectMeta: metav1.ObjectMeta{
				GenerateName: prefix + "-", Labels: map[string]string{"istio-injection": "enabled"}}},
		metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.kube.CoreV1().Namespaces().Delete(
			context.Background(), ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return ns.Name
}

// strict lets workloads of a namespace take nothing but mutual TLS.
func (c *cluster) strict(t *testing.T, namespace string) {
	t.Helper()
	run(t, "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default}, spec: "+
		"{mtls: {mode: STRICT}}}",
		"kubectl", "apply", "-n", namespace, "-f", "-")
}

// needsPods skips on a cluster whose pods cannot be reached from here, and says so.
func (c *cluster) needsPods(t *testing.T) {
	t.Helper()
	if c.prometheus == "" {
		t.Skip("not run on this cluster: pods are reached by their addresses, which only a node of the cluster does")
	}
}

// sender sends requests: a pod in the mesh, or this machine at the ingress gateway.
type sender interface {
	Start(ctx context.Context, plan load.Plan) (*load.Run, error)
	Ask(ctx context.Context, url string, headers ...string) (status int, body string)
}

// caller starts a pod in a namespace, which is a workload of its own with a sidecar.
func (c *cluster) caller(t *testing.T, namespace string) load.Caller {
	t.Helper()
	apply(t, namespace, "test/e2e/testdata/client.yaml")
	return c.callerNow(t, namespace)
}

// callerNow returns the caller of a namespace as it is by now, once it is up.
func (c *cluster) callerNow(t *testing.T, namespace string) load.Caller {
	t.Helper()
	run(t, "", "kubectl", "rollout", "status", "-n", namespace, "deployment/client", "--timeout=120s")
	pods := c.pods(t, namespace, "client")
	if len(pods) == 0 {
		t.Fatalf("there is no caller in namespace %s", namespace)
	}
	return load.Caller{Address: net.JoinHostPort(pods[0], "8081")}
}

// pods are the addresses of an application's pods, but of those that are being ended.
func (c *cluster) pods(t *testing.T, namespace, app string) []string {
	t.Helper()
	list, err := c.kube.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		t.Fatal(err)
	}
	var addresses []string
	for _, pod := range list.Items {
		if pod.DeletionTimestamp == nil && pod.Status.PodIP != "" {
			addresses = append(addresses, pod.Status.PodIP)
		}
	}
	return addresses
}

// outside is a caller outside the mesh: this machine, at the ingress gateway.
type outside struct{ gateway string }

// Start sends the plan's requests to the gateway, by the name of the host that the plan has.
func (o outside) Start(ctx context.Context, plan load.Plan) (*load.Run, error) {
	address, err := url.Parse(plan.URL)
	if err != nil {
		return nil, err
	}
	if plan.Header = plan.Header.Clone(); plan.Header == nil {
		plan.Header = http.Header{}
	}
	plan.Header.Set("Host", address.Host)
	address.Host = o.gateway
	plan.URL = address.String()
	return load.Start(ctx, plan)
}

// Ask sends one request to the gateway.
func (o outside) Ask(ctx context.Context, to string, headers ...string) (status int, body string) {
	address, err := url.Parse(to)
	if err != nil {
		return 0, err.Error()
	}
	headers = append(headers, "Host", address.Host)
	address.Host = o.gateway
	return load.Ask(ctx, address.String(), headers...)
}

func send(t *testing.T, method, address string, answer any) {
	t.Helper()
	req, err := http.NewRequest(method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s: %s (%v)", method, address, resp.Status, body, err)
	}
	if answer != nil {
		if err := json.Unmarshal(body, answer); err != nil {
			t.Fatalf("%s %s: %v in %s", method, address, err, body)
		}
	}
}

// run runs a command as a person would, and fails the test when it fails.
func run(t *testing.T, stdin string, name string, args ...string) string {
	t.Helper()
	out, err := try(t, stdin, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// try runs a command that may fail and returns all that it printed.
func try(t *testing.T, stdin string, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = "../.." // the project, from where people run things
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// apply builds the images that the files name, and applies them.
func apply(t *testing.T, namespace string, files ...string) {
	t.Helper()
	run(t, resolve(t, files...), "kubectl", "apply", "-n", namespace, "-f", "-")
}

// resolve builds the images that the files name, and returns the files with their digests.
func resolve(t *testing.T, files ...string) string {
	t.Helper()
	yaml, err := tryResolve(t.Context(), files...)
	if err != nil {
		t.Fatal(err)
	}
	return yaml
}

// resolved are the manifests that were resolved before, by their files: what is built does not
// change while scenarios run.
var resolved sync.Map

func tryResolve(ctx context.Context, files ...string) (string, error) {
	key := strings.Join(files, " ")
	if yaml, ok := resolved.Load(key); ok {
		return yaml.(string), nil
	}
	args := []string{"resolve", "-R", "--base-import-paths", "--sbom=none"}
	for _, f := range files {
		args = append(args, "-f", f)
	}
	cmd := exec.CommandContext(ctx, "ko", args...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	yaml, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ko %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	resolved.Store(key, string(yaml))
	return string(yaml), nil
}

// sample is one series that Prometheus answers with.
type sample struct {
	Metric map[string]string
	Value  [2]any
}

func (c *cluster) samples(t *testing.T, promQL string) []sample {
	t.Helper()
	var answer struct {
		Data struct{ Result []sample }
	}
	send(t, http.MethodGet, "http://"+c.prometheus+"/api/v1/query?query="+url.QueryEscape(promQL), &answer)
	return answer.Data.Result
}

// series asks Prometheus and returns the labels of each series.
func (c *cluster) series(t *testing.T, promQL string) []map[string]string {
	t.Helper()
	var all []map[string]string
	for _, r := range c.samples(t, promQL) {
		all = append(all, r.Metric)
	}
	return all
}

// query asks Prometheus and returns the value of each series by one of its labels.
func (c *cluster) query(t *testing.T, promQL, label string) map[string]float64 {
	t.Helper()
	values := map[string]float64{}
	for _, r := range c.samples(t, promQL) {
		v, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		values[r.Metric[label]] = v
	}
	return values
}

// eventually asks until the answer is "" and fails with the last answer otherwise.
func eventually(t *testing.T, within time.Duration, ask func() string) {
	t.Helper()
	var last string
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(400 * time.Millisecond) {
		if last = ask(); last == "" {
			return
		}
	}
	t.Fatalf("after %s: %s", within, last)
}

// z99 is how many standard deviations hold 99 % of a normal distribution; beyond zNever is one in
// sixteen thousand.
const z99, zNever = 2.5758, 4

// isShare reports whether k of n is as near to a share of p as chance allows: within z standard
// deviations of the binomial.
func isShare(k, n int, p, z float64) bool {
	return math.Abs(float64(k)-p*float64(n)) <= z*math.Sqrt(float64(n)*p*(1-p))
}
