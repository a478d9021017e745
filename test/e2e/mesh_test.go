//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/canary-tasks/canary-tasks/test/load"
)

// host is the name by which callers outside ask for the application.
func (s *shop) host() string { return s.ns + ".example.com" }

// opened lets requests for the application in at the ingress gateway: what a VirtualService needs
// beside it.
func (s *shop) opened() {
	s.t.Helper()
	s.apply(strings.ReplaceAll(run(s.t, "", "cat", "examples/gateway/gateway.yaml"), "shop.example.com", s.host()))
}

func (s *shop) apply(manifest string) {
	s.t.Helper()
	run(s.t, manifest, "kubectl", "apply", "-n", s.ns, "-f", "-")
}

// traffics are loads that go on at the same time, by what kind of caller sends them.
type traffics map[string]*load.Run

func (all traffics) noneFailed(t *testing.T, desc string) {
	t.Helper()
	for kind, traffic := range all {
		traffic.Stop()
		if err := traffic.Err(); err != nil {
			t.Errorf("%s, %s: %v", desc, kind, err)
		}
		counts := load.Count(traffic.Samples())
		t.Logf("%s, %s: %d requests, %d failed: %s", desc, kind, counts.Total(), counts.Failed(), counts)
		if counts.Total() == 0 || counts.Failed() > 0 {
			t.Errorf("%s, %s: %s", desc, kind, counts)
		}
	}
}

// Every kind of caller at once, 200 requests a second, with nothing but mutual TLS: at the gateway
// and in pods, over new connections, kept ones and HTTP/2, by gRPC and with streams of 12 s.
// Neither a promotion nor a rollback costs one of them.
func TestEveryKindOfCaller(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	s.opened()
	s.speaksHTTP2()
	s.must(0, "is initialized", "canary-init", "first", "CANARY_HOSTS="+s.host(), "CANARY_GATEWAYS=shop,mesh")
	from := s.caller(t, s.ns)
	sending := func() traffics {
		all := traffics{}
		for kind, plan := range map[string]load.Plan{
			"new connections": {Rate: 50}, "kept connections": {Rate: 30, Protocol: "keepalive"},
			"HTTP/2": {Rate: 20, Protocol: "http2"},
			"gRPC":   {Rate: 20, Protocol: "grpc"}, "streams": {Rate: 1, Protocol: "stream", Timeout: 30 * time.Second},
		} {
			plan.URL, plan.For = "http://shop."+s.ns+"/", 10*time.Minute
			all[kind] = s.send(from, plan)
		}
		all["at the gateway"] = s.send(
			outside{s.gateway}, load.Plan{URL: "http://" + s.host() + "/", Rate: 80, For: 10 * time.Minute})
		return all
	}
	params := []string{"stepWeights=20,60", "requestDuration=1s", "hosts=" + s.host(), "gateways=shop,mesh"}

	all := sending()
	s.version(v2, "")
	if out, err := s.release(params...); err != nil || !strings.Contains(out, "promoted: stable runs revision") {
		t.Errorf("a good version: %v", err)
	}
	s.want(serves{"100/0", "2.0.0 x2", "2.0.0 x0", "promoted"})
	time.Sleep(15 * time.Second) // the last streams of the candidate
	s.shares(all["at the gateway"].Samples(), v2, 20, 60)
	s.shares(all["new connections"].Samples(), v2, 20, 60)
	all.noneFailed(t, "a promotion")

	all = sending()
	s.version(v3, "slow=1500ms")
	if out, err := s.release(params...); err == nil || !strings.Contains(out, "rejected: slow") {
		t.Errorf("a slow version: %v", err)
	}
	s.want(serves{"100/0", "2.0.0 x2", "3.0.0 x0", "rejected"})
	time.Sleep(15 * time.Second)
	all.noneFailed(t, "a rollback")
}

// spec is the specification of the application's VirtualService.
func (s *shop) spec() map[string]any {
	s.t.Helper()
	var o struct{ Spec map[string]any }
	if err := json.Unmarshal(
		[]byte(run(s.t, "", "kubectl", "get", "virtualservice", "shop", "-n", s.ns, "-o", "json")), &o); err != nil {
		s.t.Fatal(err)
	}
	return o.Spec
}

// What people set for their traffic is in force for both versions, is there afterwards, and what it
// does to a bad version has its name in the verdict.
func TestTrafficPolicies(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	from := s.caller(t, s.ns)
	const ejects = "{outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 120s, " +
		"maxEjectionPercent: 100}}"
	s.apply("{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: shop}, spec: " +
		"{host: shop, trafficPolicy: " + ejects + "}}")
	policy := func(policy string) {
		t.Helper()
		for _, name := range []string{"shop", "shop-primary", "shop-canary"} {
			run(t, "", "kubectl", "patch", "destinationrule", name, "-n", s.ns, "--type=json", "-p",
				"[{op: replace, path: /spec/trafficPolicy, value: "+policy+"}]")
		}
		time.Sleep(2 * time.Second)
	}
	s.must(0, "is initialized", "canary-init", "first")
	for i, c := range []struct {
		desc, policy, faults string
		plan                 load.Plan
		params               []string
		outcome, says        string
		then                 func(t *testing.T, samples []load.Sample)
	}{
		{
			desc: "outlier detection ejects the candidate's pods", faults: "fail=1", outcome: "rejected",
			says:   "503 UH (no healthy upstream)",
			policy: "", // the one that the application has, which its copies got
		},
		{
			desc: "a pool of one connection overflows", faults: "slow=400ms", plan: load.Plan{Rate: 40},
			outcome: "rejected", says: "503 UO",
			policy: "{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 1, " +
				"maxRequestsPerConnection: 1}}}",
		},
		{
			desc: "a pool of one connection is enough", plan: load.Plan{Rate: 40}, outcome: "promoted",
			says: "promoted", params: []string{"stepWeights=50"},
			policy: "{connectionPool: {tcp: {maxConnections: 1}, http: {http1MaxPendingRequests: 10}}}",
		},
		{
			desc: "consistent hashing by a header", plan: load.Plan{Header: http.Header{"X-User": {"ann"}}},
			outcome: "promoted", says: "promoted",
			policy: "{loadBalancer: {consistentHash: {httpHeaderName: x-user}}}",
			then: func(t *testing.T, samples []load.Sample) {
				// Until the first check: after it stable's pods come and go, in the promotion.
				at, pods := s.splits.During("80/20", samples), map[string]map[string]int{}
				for i, one := range at {
					if one.Sent.Sub(at[0].Sent) > 10*time.Second {
						at = at[:i]
						break
					}
					set := one.Pod[:max(0, strings.LastIndex(one.Pod, "-"))] // the pod's ReplicaSet
					if pods[set] == nil {
						pods[set] = map[string]int{}
					}
					pods[set][one.Pod]++
				}
				t.Logf("at 80/20: %v", pods)
				for set, of := range pods {
					if len(of) != 1 {
						t.Errorf("one user's requests were answered by %d pods of %s: %v", len(of), set, of)
					}
				}
				if len(pods) < 2 || len(at) < 500 {
					t.Errorf("%d requests, answered by %v", len(at), pods)
				}
			},
		},
	} {
		t.Run(c.desc, func(t *testing.T) {
			s := *s
			s.t = t
			if c.policy != "" {
				policy(c.policy)
			}
			stable := s.now().Stable
			version := fmt.Sprintf("%d.0.0", i+2)
			s.version(version, c.faults)
			plan := c.plan
			plan.URL, plan.For = "http://shop."+s.ns+"/", 10*time.Minute
			if plan.Rate == 0 {
				plan.Rate = rate
			}
			traffic := s.send(from, plan)
			if c.params == nil {
				c.params = []string{"stepWeights=20"}
			}
			out, err := s.release(c.params...)
			if (err == nil) != (c.outcome == "promoted") || !strings.Contains(out, c.says) {
				t.Errorf("%v; the log does not say %q; judged %+v", err, c.says, s.judged())
			}
			if c.outcome == "promoted" {
				stable = version + " x2"
			}
			s.want(serves{"100/0", stable, version + " x0", c.outcome})
			policies := map[string]bool{}
			for _, name := range []string{"shop", "shop-primary", "shop-canary"} {
				policies[run(t, "", "kubectl", "get", "destinationrule", name, "-n", s.ns, "-o",
					"jsonpath={.spec.trafficPolicy}")] = true
			}
			if len(policies) != 1 || policies[""] {
				t.Errorf("the policies are not what they were: %v", policies)
			}
			traffic.Stop()
			samples := traffic.Samples()
			counts := load.Count(samples)
			t.Logf("%s: %s", c.desc, counts)
			if c.outcome == "promoted" && counts.Failed() > 0 {
				t.Errorf("%d requests failed: %s", counts.Failed(), counts)
			}
			if c.then != nil {
				c.then(t, samples)
			}
		})
	}
}

// A route of somebody's with a mirror, faults, retries and a timeout keeps them all, at each weight
// and afterwards.
func TestKeptInTheRoute(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	from := s.caller(t, s.ns)
	s.apply(strings.ReplaceAll(resolve(t, "examples/release"), "shop", "audit"))
	s.apply(`{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: shop}, spec: {hosts: [shop], http: [{name: main, timeout: 7s,
retries: {attempts: 1, retryOn: connect-failure}, mirror: {host: audit}, mirrorPercentage: {value: 5},
fault: {delay: {percentage: {value: 10}, fixedDelay: 60ms}, abort: {percentage: {value: 0.2}, httpStatus: 555}},
headers: {response: {set: {x-route: main}}}, route: [{destination: {host: shop}}]}]}}`)
	users := s.spec()
	s.must(0, "is initialized", "canary-init", "first")
	before := s.spec()
	theirs := func(spec map[string]any) map[string]any {
		rest := maps.Clone(spec["http"].([]any)[0].(map[string]any))
		delete(rest, "route")
		return rest
	}
	if diff := cmp.Diff(theirs(users), theirs(before)); diff != "" {
		t.Errorf("taken over (-before, +after)\n%s", diff)
	}
	traffic := s.traffic(from)
	s.version(v2, "")
	name := s.begin(nil, "stepWeights=40")
	s.atWeight("60/40")
	weights := func(stable, candidate int) map[string]any {
		want := map[string]any{}
		text, err := json.Marshal(before)
		if err == nil {
			err = json.Unmarshal(text, &want)
		}
		if err != nil {
			t.Fatal(err)
		}
		to := want["http"].([]any)[0].(map[string]any)["route"].([]any)
		to[0].(map[string]any)["weight"], to[1].(map[string]any)["weight"] = float64(stable), float64(candidate)
		return want
	}
	if diff := cmp.Diff(weights(60, 40), s.spec()); diff != "" {
		t.Errorf("at 40 %% (-want, +got)\n%s", diff)
	}
	if out, condition := s.ended(name); !condition.IsTrue() || !strings.Contains(out, "promoted: stable runs") {
		t.Errorf("%+v", condition)
	}
	if diff := cmp.Diff(weights(100, 0), s.spec()); diff != "" {
		t.Errorf("afterwards (-want, +got)\n%s", diff)
	}
	traffic.Stop()
	samples := traffic.Samples()
	counts := load.Count(samples)
	slow := 0
	for _, one := range samples {
		if one.Latency >= 60*time.Millisecond {
			slow++
		}
	}
	t.Logf("%s; %d took 60 ms or more", counts, slow)
	mirrored := 0.0
	eventually(t, 30*time.Second, func() string {
		mirrored = s.query(
			t, fmt.Sprintf(`sum(istio_requests_total{reporter="destination",destination_workload="audit",destination_workload_namespace=%q})`, s.ns), "")[""]
		if mirrored < float64(len(samples))/40 {
			return fmt.Sprintf("%.0f of %d requests were mirrored", mirrored, len(samples))
		}
		return ""
	})
	t.Logf("%.0f were mirrored", mirrored)
	injected := counts[load.Answer{Status: 555}]
	if failed := counts.Failed() - injected; failed != 0 || injected == 0 || slow < len(samples)/20 {
		t.Errorf("%d requests failed beside the %d of the route's own fault, %d of %d were delayed", failed, injected,
			slow, len(samples))
	}
}

// istiod is away for 40 s around a shift: the proxies go on with the weights that they have, and
// the run says so while it waits.
func TestIstiodIsAway(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	from := s.caller(t, s.ns)
	s.must(0, "is initialized", "canary-init", "first")
	traffic := s.traffic(from)
	s.version(v2, "")
	pid := processOf(t, "istiod")
	name := s.begin(nil, "stepWeights=20,40")
	s.atWeight("80/20")
	eventually(t, 30*time.Second, func() string { // the proxies have the weights, too
		if counts := load.Count(traffic.Samples()); counts.Of(v2) == 0 {
			return "the candidate is not asked yet"
		}
		return ""
	})
	signal(t, pid, syscall.SIGSTOP)
	stopped := time.Now()
	resumed := false
	resume := func() {
		if !resumed {
			resumed = true
			signal(t, pid, syscall.SIGCONT)
		}
	}
	defer resume()
	var waits string
	eventually(t, time.Minute, func() string {
		out, err := exec.Command("tkn", "pipelinerun", "logs", name, "-n", s.ns).CombinedOutput()
		if err != nil {
			return fmt.Sprintf("%v: %s", err, out)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "shift-2") &&
				strings.Contains(line, "the proxies keep the weights that they have") {
				waits = line
				return ""
			}
		}
		return "shift-2 does not say that it waits"
	})
	t.Logf("%s after istiod was stopped: %s", time.Since(stopped).Round(time.Second), waits)
	time.Sleep(max(0, 40*time.Second-time.Since(stopped)))
	resume()
	back := time.Now()
	out, condition := s.ended(name)
	if !condition.IsTrue() || !strings.Contains(out, "promoted: stable runs") {
		t.Errorf("%+v", condition)
	}
	s.want(serves{"100/0", "2.0.0 x2", "2.0.0 x0", "promoted"})
	var meanwhile []load.Sample
	for _, one := range traffic.Samples() {
		if one.Sent.After(stopped) && one.Sent.Before(back) {
			meanwhile = append(meanwhile, one)
		}
	}
	t.Logf("while istiod was away: %s", load.Count(meanwhile))
	if counts := load.Count(meanwhile); counts.Failed() > 0 || !isShare(counts.Of(v2), counts.Total(), 0.2, zNever) {
		t.Errorf("with 80/20 while istiod was away: %s", counts)
	}
	noneFailed(t, "istiod away around a shift", traffic)
}

// Objects of the mesh that people have: each applies to both versions, and a release goes on under
// it.
func TestMeshPolicies(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	from := s.caller(t, s.ns)
	s.apply(`{apiVersion: networking.istio.io/v1alpha3, kind: EnvoyFilter, metadata: {name: hide}, spec: {configPatches: [{applyTo: HTTP_FILTER,
match: {context: SIDECAR_INBOUND, listener: {filterChain: {filter: {
  name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}},
patch: {operation: INSERT_BEFORE, value: {name: hide, typed_config: {
"@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation,
mutations: {response_mutations: [{remove: x-pod}]}}}}}]}}`)
	s.apply(`{apiVersion: networking.istio.io/v1, kind: Sidecar, metadata: {name: default}, spec: {egress: [{hosts: ["./shop.` + s.ns + `.svc.cluster.local", "istio-system/*"]}]}}`)
	s.apply(`{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: callers}, spec: {action: ALLOW, rules: [{from: [{source: {principals:
["cluster.local/ns/` + s.ns + `/sa/client"]}}]}]}}`)
	s.must(0, "is initialized", "canary-init", "first")
	traffic := s.traffic(from)
	s.version(v2, "")
	if out, err := s.release("stepWeights=20,60"); err != nil || !strings.Contains(out, "promoted: stable runs") {
		t.Errorf("under policies: %v", err)
	}
	s.want(serves{"100/0", "2.0.0 x2", "2.0.0 x0", "promoted"})
	samples := noneFailed(t, "with an EnvoyFilter, a Sidecar and an AuthorizationPolicy", traffic)
	s.shares(samples, v2, 20, 60)
	for _, one := range samples {
		if one.Pod != "" {
			t.Fatalf("the EnvoyFilter does not apply to version %s: it names its pod", one.Version)
		}
	}
	// the policy is in force: nobody else gets an answer
	s.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: other}}")
	run(t, "", "kubectl", "patch", "deployment", "client", "-n", s.ns, "-p",
		`{"spec":{"template":{"spec":{"serviceAccountName":"other"}}}}`)
	other := s.callerNow(t, s.ns)
	if status, body := other.Ask(t.Context(), "http://shop."+s.ns+"/"); status != http.StatusForbidden {
		t.Errorf("another account is answered %d %s", status, body)
	}
}

// A caller outside the mesh finds the pods by the Service and follows no weight: the release says
// so and promotes nothing. Here workloads take plaintext, as without a PeerAuthentication.
func TestOutsideTheMesh(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	run(t, "", "kubectl", "delete", "peerauthentication", "default", "-n", s.ns)
	s.caller(t, s.ns)
	run(t, "", "kubectl", "patch", "deployment", "client", "-n", s.ns, "-p",
		`{"spec":{"template":{"metadata":{"labels":{"sidecar.istio.io/inject":"false"}}}}}`)
	from := s.callerNow(t, s.ns)
	s.must(0, "is initialized", "canary-init", "first")
	traffic := s.traffic(from)
	s.version(v2, "")
	if out, err := s.release("stepWeights=20"); err == nil ||
		!strings.Contains(out, "callers without a sidecar, which follow no weight") {
		t.Errorf("asked from outside alone: %v", err)
	}
	s.want(serves{"100/0", "1.0.0 x2", "2.0.0 x0", "inconclusive"})
	samples := noneFailed(t, "asked from outside the mesh", traffic)
	if counts := load.Count(samples); counts.Of(v2) > 0 {
		t.Errorf("the candidate was asked: %s", counts)
	}
}

// What is not in the mesh is named before anything changes: a version whose sidecar is kept out,
// and pods from before their namespace had sidecars.
func TestSidecarIsMissing(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	s.must(0, "is initialized", "canary-init", "first")
	run(t, "", "kubectl", "patch", "deployment", "shop", "-n", s.ns, "-p",
		`{"spec":{"template":{"metadata":{"labels":{"sidecar.istio.io/inject":"false"}}}}}`)
	before := s.settled()
	s.must(2, "kept out of the mesh by sidecar.istio.io/inject=false", "canary-init", "second")
	if after := s.versions(); cmp.Diff(before, after) != "" {
		t.Errorf("it changed (-before, +after)\n%s", cmp.Diff(before, after))
	}

	// The pods of a candidate come up without one, as where the webhook is left out: they serve,
	// and stable's pods get theirs.
	run(t, "", "kubectl", "patch", "deployment", "shop", "-n", s.ns, "--type=json", "-p",
		`[{"op":"remove","path":"/spec/template/metadata/labels/sidecar.istio.io~1inject"}]`)
	traffic := s.traffic(s.caller(t, s.ns))
	s.version(v2, "")
	run(t, "", "kubectl", "label", "namespace", s.ns, "istio-injection=disabled", "--overwrite")
	s.must(0, "is up beside stable", "canary-init", "third")
	run(t, "", "kubectl", "label", "namespace", s.ns, "istio-injection=enabled", "--overwrite")
	sidecars := func(app string) string {
		return run(t, "", "kubectl", "get", "pods", "-n", s.ns, "-l", "app="+app, "-o",
			`jsonpath={.items[0].spec.initContainers[*].name}`)
	}
	if got := sidecars("shop"); got != "" {
		t.Errorf("the candidate has %s", got)
	}
	s.must(0, "has 40 %", "shift-weight", "third", "CANARY_WEIGHT=40")
	s.must(0, "is good at 40 %", "analyze", "third")
	s.must(0, "promoted", "promote", "third")
	if got := sidecars("shop-primary"); !strings.Contains(got, "istio-proxy") {
		t.Errorf("stable has %q", got)
	}
	noneFailed(t, "with a candidate without sidecars", traffic)

	c := s.cluster
	late := c.shop(t, c.namespace(t, "late"))
	run(t, "", "kubectl", "label", "namespace", late.ns, "istio-injection-")
	apply(t, late.ns, "tasks", "pipelines", "examples/release")
	run(t, "", "kubectl", "rollout", "status", "-n", late.ns, "deployment/shop", "--timeout=90s")
	late.kubeconfig = late.account("canary-tasks")
	run(t, "", "kubectl", "label", "namespace", late.ns, "istio-injection=enabled")
	late.must(2, "has no istio-proxy: start them again", "canary-init", "first")
	run(t, "", "kubectl", "rollout", "restart", "-n", late.ns, "deployment/shop")
	run(t, "", "kubectl", "rollout", "status", "-n", late.ns, "deployment/shop", "--timeout=90s")
	late.must(0, "is initialized", "canary-init", "first")
}

// Pods that were started before Istio's template changed, as by an upgrade, serve beside newer
// ones: a release brings its own pods up by the new template, and no caller notices.
func TestOlderSidecars(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	traffic := s.traffic(s.caller(t, s.ns))
	s.must(0, "is initialized", "canary-init", "first")
	const level = `"logLevel": "%s"`
	values := func() string {
		return run(t, "", "kubectl", "get", "configmap", "istio-sidecar-injector", "-n", "istio-system", "-o",
			`jsonpath={.data.values}`)
	}
	set := func(from, to string) {
		t.Helper()
		body, err := json.Marshal(
			map[string]any{"data": map[string]string{
				"values": strings.ReplaceAll(values(), fmt.Sprintf(level, from), fmt.Sprintf(level, to))}})
		if err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(
			"kubectl", "patch", "configmap", "istio-sidecar-injector", "-n", "istio-system", "--type=merge", "-p",
			string(body)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	set("warning", "error")
	defer set("error", "warning")
	levels := func(app string) string {
		return run(t, "", "kubectl", "get", "pods", "-n", s.ns, "-l", "app="+app, "-o",
			`jsonpath={range .items[*]}{.spec.initContainers[?(@.name=="istio-proxy")].args}{end}`)
	}
	if got := levels("shop-primary"); !strings.Contains(got, "proxyLogLevel=warning") {
		t.Errorf("stable's sidecars: %s", got)
	}
	time.Sleep(2 * time.Second) // istiod follows its templates
	s.version(v2, "")
	if out, err := s.release("stepWeights=40"); err != nil || !strings.Contains(out, "promoted: stable runs") {
		t.Errorf("with sidecars of an older template: %v", err)
	}
	s.want(serves{"100/0", "2.0.0 x2", "2.0.0 x0", "promoted"})
	if got := levels("shop-primary"); !strings.Contains(got, "proxyLogLevel=error") {
		t.Errorf("stable's sidecars after the promotion: %s", got)
	}
	s.shares(noneFailed(t, "with sidecars of two templates", traffic), v2, 40)
}
