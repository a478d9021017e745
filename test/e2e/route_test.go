//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/canary-tasks/canary-tasks/test/load"
)

const (
	v1, v2 = "1.0.0", "2.0.0"
	rate   = 100 // requests per second
)

// TestRoute is the ground that everything else stands on: requests go through a route that istiod
// made, through real proxies, are divided over real pods as its weights say, and are counted by
// Prometheus.
func TestRoute(t *testing.T) {
	c := connect(t)
	ns := c.namespace(t, "route")
	apply(t, ns, "test/e2e/testdata/web.yaml")
	run(t, "", "kubectl", "rollout", "status", "-n", ns, "deployment/web", "deployment/web-primary", "--timeout=90s")

	t.Run("an invalid VirtualService is refused by istiod", func(t *testing.T) {
		out, err := try(t, "", "kubectl", "create", "-n", ns, "-f", "test/e2e/testdata/invalid.yaml")
		if err == nil || !strings.Contains(out, `admission webhook "validation.istio.io" denied the request`) {
			t.Fatalf("not refused by the webhook: %v\n%s", err, out)
		}
	})

	t.Run("80/20 is what callers and Prometheus see", func(t *testing.T) {
		c.needsPods(t)
		from := c.ready(t, ns)
		before := map[string]map[string]float64{"source": {}, "destination": {}}
		var counts load.Counts
		for round := 1; ; round++ {
			counts = c.divided(t, ns, from, before)
			if isShare(counts.Of(v2), counts.Total(), 0.2, z99) {
				break
			}
			// One round in a hundred is outside its 99 % interval by chance; two in a row are not.
			if round == 2 {
				t.Fatalf("the candidate's share is not 20 %%, twice: %s", counts)
			}
			t.Logf("outside the 99 %% interval once, measuring again: %s", counts)
		}
	})

	t.Run("both metrics have Istio's labels at both sides", func(t *testing.T) {
		c.needsPods(t)
		want := map[string]string{
			"source_workload": "client", "source_workload_namespace": ns, "destination_workload": "web",
			"destination_workload_namespace": ns,
			"destination_service":            "web-canary." + ns + ".svc.cluster.local",
			"destination_service_name":       "web-canary", "destination_service_namespace": ns,
			"request_protocol": "http", "response_code": "200", "response_flags": "-",
		}
		for _, metric := range []string{"istio_requests_total", "istio_request_duration_milliseconds_bucket"} {
			for reporter, more := range map[string]map[string]string{
				"source": {"connection_security_policy": "unknown", "destination_canonical_service": "web"},
				"destination": {"connection_security_policy": "mutual_tls",
					"source_principal":      "spiffe://cluster.local/ns/" + ns + "/sa/client",
					"destination_principal": "spiffe://cluster.local/ns/" + ns + "/sa/default"},
			} {
				all := c.series(t,
					fmt.Sprintf(`%s{reporter=%q,source_workload_namespace=%q,destination_workload="web"}`, metric,
						reporter, ns))
				if len(all) == 0 {
					t.Errorf("%s of reporter %s: no series", metric, reporter)
				}
				for _, got := range all {
					for _, beside := range []string{
						"__name__", "reporter", "instance", "job", "namespace", "pod", "le"} {
						delete(got, beside)
					}
					expected := maps.Clone(want)
					maps.Copy(expected, more)
					if diff := cmp.Diff(expected, got); diff != "" {
						t.Errorf("%s of reporter %s (-want, +got)\n%s", metric, reporter, diff)
						break
					}
				}
			}
		}
	})

	t.Run("a header match is honoured", func(t *testing.T) {
		c.needsPods(t)
		from := c.ready(t, ns)
		for range 20 {
			status, body := from.Ask(t.Context(), "http://web."+ns+"/", "x-version", "next")
			if status != http.StatusOK || body != v2 {
				t.Fatalf("the route for x-version: next was answered %d %q", status, body)
			}
		}
	})

	t.Run("a Gateway of the Gateway API is deployed by istiod and answers", func(t *testing.T) {
		c.needsPods(t)
		run(t, `{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: api, annotations: {networking.istio.io/service-type: ClusterIP}},
spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: api}, spec: {parentRefs: [{name: api}], rules: [{backendRefs: [{name: web-primary, port: 80}]}]}}`,
			"kubectl", "apply", "-n", ns, "-f", "-")
		run(t, "", "kubectl", "wait", "gateway/api", "-n", ns, "--for=condition=Programmed", "--timeout=120s")
		at := outside{run(
			t, "", "kubectl", "get", "service", "api-istio", "-n", ns, "-o", "jsonpath={.spec.clusterIP}")}
		eventually(t, time.Minute, func() string {
			if status, body := at.Ask(t.Context(), "http://web.example.com/"); status != http.StatusOK || body != v1 {
				return fmt.Sprintf("it answers %d %s", status, body)
			}
			return ""
		})
	})

	t.Run("from the write to the last request by the old weights", func(t *testing.T) {
		c.needsPods(t)
		traffic := start(t, c.ready(t, ns), load.Plan{URL: "http://web." + ns + "/", Rate: rate, For: 5 * time.Minute})
		var delays []time.Duration
		for i := range 10 {
			time.Sleep(2 * time.Second)
			weight, want := 100*(1-i%2), []string{v2, v1}[i%2] // all to the one, all to the other
			patch, err := json.Marshal([]map[string]any{
				{"op": "add", "path": "/spec/http/1/route/0/weight", "value": 100 - weight},
				{"op": "add", "path": "/spec/http/1/route/1/weight", "value": weight},
			})
			if err != nil {
				t.Fatal(err)
			}
			written := time.Now()
			if _, err := c.istio.NetworkingV1().VirtualServices(ns).Patch(
				t.Context(), "web", types.JSONPatchType, patch, metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually(t, 30*time.Second, func() string {
				last := load.Sample{}
				for _, s := range traffic.Samples() {
					if s.Sent.After(written) && s.Version != want {
						last = s
					}
				}
				if time.Since(written) < 2*time.Second || time.Since(last.Sent) < time.Second {
					return "the other version still answers"
				}
				delays = append(delays, max(0, last.Sent.Sub(written)))
				return ""
			})
		}
		traffic.Stop()
		slices.Sort(delays)
		t.Logf("10 writes at %d requests/s, until the last answer by the old weights: median %s, least %s, most %s",
			rate, delays[5].Round(time.Millisecond),
			delays[0].Round(time.Millisecond), delays[9].Round(time.Millisecond))
		if counts := load.Count(traffic.Samples()); counts.Failed() != 0 {
			t.Errorf("requests failed: %s", counts)
		}
	})
}

// ready returns a caller whose route answers.
func (c *cluster) ready(t *testing.T, ns string) load.Caller {
	t.Helper()
	from := c.caller(t, ns)
	eventually(t, 30*time.Second, func() string {
		if status, body := from.Ask(t.Context(), "http://web."+ns+"/"); status != http.StatusOK {
			return fmt.Sprintf("the route answers %d %s", status, body)
		}
		return ""
	})
	return from
}

// start begins to send. A scenario whose caller lost attempts has failed, whatever else it found.
func start(t *testing.T, from sender, plan load.Plan) *load.Run {
	t.Helper()
	r, err := from.Start(t.Context(), plan)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Stop()
		if err := r.Err(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// divided sends load for 30 s and checks that both sides of the mesh counted in Prometheus exactly
// what the generator counted. before is what was there already, and is brought up to date.
func (c *cluster) divided(t *testing.T, ns string, from sender, before map[string]map[string]float64) load.Counts {
	t.Helper()
	seen := func(reporter string) map[string]float64 {
		return c.query(t, fmt.Sprintf(
			`sum by (destination_workload) (istio_requests_total{reporter=%q,source_workload="client",source_workload_namespace=%q})`, reporter, ns), "destination_workload")
	}
	// The first requests, which only asked whether the route answers, have to be scraped first.
	time.Sleep(11 * time.Second)
	for reporter := range before {
		before[reporter] = seen(reporter)
	}
	traffic := start(t, from, load.Plan{URL: "http://web." + ns + "/", Rate: rate, For: 30 * time.Second})
	traffic.Wait()
	counts := load.Count(traffic.Samples())
	if counts.Failed() != 0 {
		t.Fatalf("requests failed: %s", counts)
	}
	want := map[string]float64{"web-primary": float64(counts.Of(v1)), "web": float64(counts.Of(v2))}
	for reporter, had := range before {
		eventually(t, 30*time.Second, func() string {
			got := seen(reporter)
			for workload := range got {
				got[workload] -= had[workload]
			}
			maps.DeleteFunc(got, func(_ string, n float64) bool { return n == 0 })
			if !maps.Equal(got, want) {
				return fmt.Sprintf("Prometheus, reporter=%s: %v; the generator: %v", reporter, got, want)
			}
			return ""
		})
	}
	t.Logf("%d requests at %d/s: %s: the candidate has %.2f %%; Prometheus counts the same at source and destination",
		counts.Total(), rate, counts, 100*float64(counts.Of(v2))/float64(counts.Total()))
	return counts
}
