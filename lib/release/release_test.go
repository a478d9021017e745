package release

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-tasks/canary-tasks/lib/analysis"
	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/kube/client"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/routing"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// shop is a target of a version, as its chart has it.
func shop(version string) string {
	return strings.ReplaceAll(`
kind: Deployment
metadata: {name: shop, labels: {app: shop}}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers:
      - {name: app, image: "shop:VERSION", ports: [{containerPort: 8080}], envFrom: [{configMapRef: {name: settings}}]}
`, "VERSION", version)
}

const (
	shopService = `
kind: Service
metadata: {name: shop}
spec: {selector: {app: shop}, ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30001}]}
`
	settings = `
kind: ConfigMap
metadata: {name: settings}
data: {color: blue}
`
)

// step makes a step of a run, with the rights that it needs and no others.
func (a *apiserver) step(name, run string) *Release {
	var log bytes.Buffer
	a.t.Cleanup(func() {
		if a.t.Failed() {
			a.t.Logf("%s of %s:\n%s", name, run, log.String())
		}
	})
	r := &Release{Report: &report.Reporter{Out: &log, Step: name, About: map[string]any{"name": "shop"}}}
	r.Client = a.withRights(r)
	r.Report.Client = r.Client
	r.Step.Namespace, r.Step.Target, r.Step.RunID, r.Step.RunName = "web", a.target, run, run
	return r
}

func testConfig(run string) *config.Config {
	seconds := func(n float64) config.Duration {
		return config.Duration{Duration: time.Duration(n * float64(time.Second))}
	}
	return &config.Config{
		Namespace: "web", Target: "shop", Service: "shop", Hosts: []string{"shop"}, Gateways: []string{"mesh"},
		VirtualService: "shop",
		Interval:       seconds(10), Threshold: 2, Weights: []config.Percent{20, 40}, ProgressDeadline: seconds(0.2),
		ReadyThreshold: 100,
		SuccessRate:    99, Drain: seconds(0.01), Deadline: seconds(60), OnBusy: "fail", Takeover: true, RunID: run,
		RunName: run,
	}
}

func (a *apiserver) init(run string) error { return a.initWith(testConfig(run)) }

func (a *apiserver) initWith(cfg *config.Config) error {
	r := a.step("canary-init", cfg.RunID)
	r.Config = cfg
	return r.Init(a.t.Context(), nil)
}

func (a *apiserver) shift(run string, weight int32) error {
	r := a.step("shift-weight", run)
	r.Step.Weight = config.Percent(weight)
	return r.Shift(a.t.Context())
}

// judge takes the place of analyze: it notes that the weight was judged good.
func (a *apiserver) judge(run string) error {
	r := a.step("analyze", run)
	s, err := r.observe(a.t.Context(), scope{})
	if err != nil {
		return err
	}
	next := s.record.clone()
	next.shift().Passed = true
	return r.Client.Do(a.t.Context(), s.write(next, ""))
}

func (a *apiserver) promote(run string) error { return a.step("promote", run).Promote(a.t.Context()) }
func (a *apiserver) rollback(run string) error {
	return a.step("rollback", run).Rollback(a.t.Context())
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code report.Code, says string) {
	t.Helper()
	if codeOf(err) != code || err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("code %d: %v\nwant code %d: …%s…", codeOf(err), err, code, says)
	}
}

// state is what people see of a release.
type state struct {
	Weights   string // stable/candidate
	Stable    string // image, and replicas
	Candidate string
	Selects   string // what the Service leads to
	Phase     Phase
	Outcome   Outcome
}

func (a *apiserver) state() state {
	a.t.Helper()
	ctx, c := a.t.Context(), a.client()
	r := &Release{Client: c, Request: Request{Config: testConfig("")}}
	r.Step.Target = "shop"
	s, err := r.observe(ctx, scope{services: true})
	if err != nil {
		a.t.Fatal(err)
	}
	describe := func(d *deployment) string {
		if d == nil {
			return ""
		}
		return fmt.Sprintf("%s x%d", d.Spec.Template.Spec.Containers[0].Image, workload.Replicas(d.Deployment))
	}
	got := state{Stable: describe(s.primary), Candidate: describe(s.target)}
	if s.split != nil {
		got.Weights = fmt.Sprintf("%d/%d", s.split.Stable, s.split.Candidate)
	}
	if s.service != nil {
		got.Selects = fmt.Sprint(field(s.service.Object, "spec", "selector")["app"])
	}
	if s.record != nil {
		got.Phase, got.Outcome = s.record.Phase, s.record.Outcome
	}
	return got
}

func (a *apiserver) want(want state) {
	a.t.Helper()
	if diff := cmp.Diff(want, a.state()); diff != "" {
		a.t.Errorf("(-want, +got)\n%s", diff)
	}
}

var (
	initialized = state{"100/0", "shop:1 x2", "shop:1 x0", "shop-primary", Succeeded, Initialized}
	promoted    = state{"100/0", "shop:2 x2", "shop:2 x0", "shop-primary", Succeeded, Promoted}
)

// autoscaler is the target's. It keeps fewer pods than there are, so that a release has to raise
// it.
const autoscaler = "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: scale}, spec: " +
	"{minReplicas: 1, maxReplicas: 10, scaleTargetRef: {kind: Deployment, name: shop}}}"

// wantNoFloors compares autoscalers with what they keep between releases.
func (a *apiserver) wantNoFloors(desc string, names ...string) {
	a.t.Helper()
	for _, name := range names {
		o, ok := a.objects["horizontalpodautoscalers/"+name]
		if !ok {
			a.t.Errorf("%s: %s is gone", desc, name)
			continue
		}
		if least, notes := fmt.Sprint(o["spec"].(map[string]any)["minReplicas"]),
			fmt.Sprint(o["metadata"].(map[string]any)["annotations"]); least != "1" ||
			strings.Contains(notes, workload.FloorAnnotation) {
			a.t.Errorf("%s: %s keeps %s pods, annotations %s", desc, name, least, notes)
		}
	}
}

// afterInit returns a server on which version 1 is stable.
func afterInit(t *testing.T) *apiserver {
	t.Helper()
	a := newAPIServer(t, settings, shopService, shop("1"))
	must(t, a.init("run-1"))
	return a
}

func TestFirstVersion(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t, settings, shopService, shop("1"))
	a.onWrite = func(did string) {
		// Whatever leads traffic to stable comes when stable serves, and the target goes last.
		if did == "create services/shop-primary" && a.objects["deployments/shop-primary"] == nil {
			t.Error("a Service before its pods")
		}
		if did == "patch deployments/shop" &&
			field(a.objects["services/shop"], "spec", "selector")["app"] != "shop-primary" {
			t.Error("the target was scaled down while the Service led to it")
		}
	}
	must(t, a.init("run-1"))
	a.want(initialized)
	port := a.objects["services/shop-canary"]["spec"].(map[string]any)["ports"].([]any)[0].(map[string]any)
	if port["nodePort"] != nil || fmt.Sprint(port["targetPort"]) != "8080" {
		t.Errorf("port of a copy: %v", port)
	}
	must(t, a.promote("run-1")) // it is never skipped
	a.want(initialized)
	must(t, a.rollback("run-1"))
	a.want(initialized)
}

func TestPromotion(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.apply(shop("2"))
	must(t, a.init("run-2"))
	a.want(state{"100/0", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""})
	must(t, a.shift("run-2", 20), a.judge("run-2"), a.shift("run-2", 40), a.judge("run-2"))
	a.want(state{"60/40", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""})
	must(t, a.promote("run-2"))
	a.want(promoted)
}

// What was not judged at every weight is not promoted, and loses its traffic.
func TestNothingUnjudgedIsPromoted(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.apply(shop("2"))
	must(t, a.init("run-2"), a.shift("run-2", 20), a.judge("run-2"))
	wantCode(t, a.promote("run-2"), report.Undecided, "weight 40 was not judged")
	a.want(state{"100/0", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""})
}

// An application with a route and a traffic policy of its own keeps both.
func TestTakesOverARoute(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t, settings, shopService, shop("1"),
		"{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: shop}, spec: {hosts: [shop], "+
			"http: [{timeout: 3s, route: [{destination: {host: shop}}]}]}}",
		"{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: tls}, spec: {host: "+
			"shop.web.svc.cluster.local, subsets: [{name: v1}], trafficPolicy: {tls: {mode: DISABLE}}}}")
	must(t, a.init("run-1"))
	a.want(initialized)
	if got := fmt.Sprint(a.objects["virtualservices/shop"]["spec"]); !strings.Contains(got, "timeout:3s") {
		t.Errorf("the route is %s", got)
	}
	for _, host := range []string{"shop-primary", "shop-canary"} {
		if got, want := fmt.Sprint(a.objects["destinationrules/"+host]["spec"]),
			"map[host:"+host+" trafficPolicy:map[tls:map[mode:DISABLE]]]"; got != want {
			t.Errorf("DestinationRule %s is %s, want %s", host, got, want)
		}
	}
}

// Copies of configuration stay as long as stable can go back to a revision that mounts them, and no
// longer: not those of a rejected candidate, nor those whose ReplicaSet the cluster has removed.
func TestCopiesGoWithTheirRevisions(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	copies := func() (n int) {
		for key := range a.objects {
			if strings.HasPrefix(key, "configmaps/settings-primary-") {
				n++
			}
		}
		return n
	}
	release := func(version string, end func(run string) error, want int) {
		t.Helper()
		run := "run-" + version
		a.apply(shop(version))
		must(t, a.init(run), a.shift(run, 20), a.judge(run), a.shift(run, 40), a.judge(run), end(run))
		if got := copies(); got != want {
			t.Errorf("after version %s there are %d copies, not %d", version, got, want)
		}
	}
	release("2", a.promote, 2)
	release("3", a.rollback, 2)
	second := a.revision("shop-primary")
	release("4", a.promote, 3)
	for key := range a.objects { // the history is over its limit
		if strings.HasPrefix(key, "replicasets/") && !strings.HasSuffix(key, "-"+second) &&
			!strings.HasSuffix(key, "-"+a.revision("shop-primary")) {
			delete(a.objects, key)
		}
	}
	release("5", a.promote, 3)
}

// revision is what a Deployment's pods are made of.
func (a *apiserver) revision(name string) string {
	var d appsv1.Deployment
	if err := kube.Decode(a.objects["deployments/"+name], &d); err != nil {
		a.t.Fatal(err)
	}
	return workload.RevisionOf(&d)
}

// Two targets whose routes are in one VirtualService are released at the same time: neither fences
// the other off, and detaching one leaves the other's route.
func TestTwoTargetsShareAVirtualService(t *testing.T) {
	t.Parallel()
	cart := func(manifest string) string { return strings.ReplaceAll(manifest, "shop", "cart") }
	a := newAPIServer(t, settings, shopService, shop("1"), cart(shopService), cart(shop("1")),
		"{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: shop}, spec: {hosts: [shop, "+
			"cart], http: [{name: shop, route: [{destination: {host: shop}}]}, {name: cart, route: "+
			"[{destination: {host: cart}}]}]}}")
	init := func(target, run string) error {
		cfg := testConfig(run)
		cfg.Target, cfg.Service, cfg.Route = target, target, target
		a.target = target
		return a.initWith(cfg)
	}
	weights := func() (all string) {
		for _, h := range a.objects["virtualservices/shop"]["spec"].(map[string]any)["http"].([]any) {
			for _, d := range h.(map[string]any)["route"].([]any) {
				all += fmt.Sprint(d.(map[string]any)["weight"], " ")
			}
		}
		return all
	}
	must(t, init("shop", "shop-1"), init("cart", "cart-1"), init("cart", "cart-again")) // whose epochs differ by now
	a.apply(shop("2"))
	a.apply(cart(shop("2")))
	must(t, init("shop", "shop-2"), a.shift("shop-2", 20), a.judge("shop-2"))
	must(t, init("cart", "cart-2"), a.shift("cart-2", 20))
	if got := weights(); got != "80 20 80 20 " {
		t.Errorf("the weights are %s", got)
	}
	a.target = "shop"
	must(t, a.shift("shop-2", 40), a.judge("shop-2"), a.promote("shop-2"))
	a.target = "cart"
	must(t, a.rollback("cart-2"))
	if got := weights(); got != "100 0 100 0 " {
		t.Errorf("the weights are %s", got)
	}
	r := a.step("rollback", "")
	r.Step.Mode = config.Detach
	must(t, r.Rollback(t.Context()))
	if got := weights(); got != "100 0 <nil> " {
		t.Errorf("after cart is detached the weights are %s", got)
	}
}

// Stable has an autoscaler of its own, which keeps the room that going back needs while a release
// runs, and the candidate's does not take its idle pods away.
func TestAutoscaler(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc string
		end  func(*apiserver) error
	}{
		{"promoted", func(a *apiserver) error { return a.promote("run-2") }},
		{"rolled back", func(a *apiserver) error { return a.rollback("run-2") }},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			a := newAPIServer(
				t, settings, shopService, shop("1"),
				"{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: scale}, spec: "+
					"{minReplicas: 1, maxReplicas: 10, scaleTargetRef: {kind: Deployment, name: "+
					"shop, apiVersion: apps/v1}}}")
			spec := func() string { return fmt.Sprint(a.objects["horizontalpodautoscalers/scale-primary"]["spec"]) }
			given := fmt.Sprint(a.objects["horizontalpodautoscalers/scale"]["spec"])
			const usual = "map[maxReplicas:10 minReplicas:1 scaleTargetRef:map[apiVersion:apps/v1 " +
				"kind:Deployment name:shop-primary]]"
			must(t, a.init("run-1"))
			if spec() != usual {
				t.Errorf("after the first release: %s", spec())
			}
			a.objects["deployments/shop-primary"]["spec"].(map[string]any)["replicas"] = 7 // under load
			a.put("deployments/shop-primary", a.objects["deployments/shop-primary"])
			a.release("run-2")
			if want := strings.Replace(usual, "minReplicas:1", "minReplicas:7", 1); spec() != want {
				t.Errorf("in mid-release: %s", spec())
			}
			if got, want := fmt.Sprint(a.objects["horizontalpodautoscalers/scale"]["spec"]),
				strings.Replace(given, "minReplicas:1", "minReplicas:7", 1); got != want {
				t.Errorf("the candidate's in mid-release: %s, want %s", got, want)
			}
			if got := a.state().Candidate; got != "shop:2 x7" {
				t.Errorf("the candidate is %s", got)
			}
			must(t, c.end(a))
			if spec() != usual {
				t.Errorf("after it: %s", spec())
			}
			for _, name := range []string{"scale", "scale-primary"} {
				metadata := field(a.objects["horizontalpodautoscalers/"+name], "metadata")
				if notes := fmt.Sprint(metadata["annotations"]); strings.Contains(notes, workload.FloorAnnotation) {
					t.Errorf("%s after it: %s", name, notes)
				}
			}
			if got := fmt.Sprint(a.objects["horizontalpodautoscalers/scale"]["spec"]); got != given {
				t.Errorf("the candidate's after it: %s, want %s", got, given)
			}
			if got := a.state().Stable; !strings.HasSuffix(got, "x7") {
				t.Errorf("stable is %s", got)
			}
		})
	}
}

// One that comes later, or is changed, is stable's with the next run, which has nothing else to do:
// what was promoted can still be undone.
func TestAutoscalerAddedLater(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	must(t, a.promote("run-2"))
	for i, most := range []string{"5", "8"} {
		a.apply(strings.Replace(autoscaler, "10", most, 1))
		must(t, a.init(fmt.Sprintf("later-%d", i)))
		a.want(promoted)
		if got, want := fmt.Sprint(a.objects["horizontalpodautoscalers/scale-primary"]["spec"]),
			"map[maxReplicas:"+most+
				" minReplicas:1 scaleTargetRef:map[kind:Deployment name:shop-primary]]"; got != want {
			t.Errorf("stable's: %s, want %s", got, want)
		}
		before := a.versions()
		must(t, a.init(fmt.Sprintf("again-%d", i)))
		if diff := cmp.Diff(before, a.versions()); diff != "" {
			t.Errorf("run again (-before, +after)\n%s", diff)
		}
	}
	must(t, a.rollback(""))
	a.want(state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted})
}

// Somebody took the route away before: the Service leads to stable until the target has as many
// pods.
func TestDetachWithoutRoute(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t, settings, shopService, shop("1"), autoscaler)
	must(t, a.init("run-1"))
	delete(a.objects, "virtualservices/shop")
	must(t, a.detach())
	if diff := cmp.Diff(state{Candidate: "shop:1 x2", Selects: "shop"}, a.state()); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
	a.wantNoFloors("after it", "scale")
}

// Whatever they are called, and whenever they come, what a release raises it puts back.
func TestAutoscalersOfOtherNames(t *testing.T) {
	t.Parallel()
	stable := strings.NewReplacer("name: scale", "name: theirs", "name: shop", "name: shop-primary").Replace(autoscaler)
	for _, c := range []struct {
		desc        string
		first, then []string
		gone        string
		want        []string
	}{
		{"stable's has a name of its own", []string{autoscaler, stable}, nil, "", []string{"scale", "theirs"}},
		{"stable's alone", []string{stable}, nil, "", []string{"theirs"}},
		{"it comes with the version", nil, []string{autoscaler}, "", []string{"scale", "scale-primary"}},
		{"it goes with the version", []string{autoscaler}, nil, "scale", []string{"scale-primary"}},
		{"it is renamed", []string{autoscaler}, []string{strings.Replace(autoscaler, "name: scale", "name: other", 1)},
			"scale", []string{"other", "scale-primary"}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			a := newAPIServer(t, append([]string{settings, shopService, shop("1")}, c.first...)...)
			must(t, a.init("run-1"))
			for _, manifest := range c.then {
				a.apply(manifest)
			}
			delete(a.objects, "horizontalpodautoscalers/"+c.gone)
			a.release("run-2")
			raised := 0
			for _, name := range c.want {
				if least := fmt.Sprint(
					a.objects["horizontalpodautoscalers/"+name]["spec"].(map[string]any)["minReplicas"]); least == "2" {
					raised++
				}
			}
			if raised != len(c.want) {
				t.Errorf("%d of %v keep their pods in mid-release", raised, c.want)
			}
			must(t, a.promote("run-2"))
			a.want(promoted)
			a.wantNoFloors("after it", c.want...)
		})
	}
}

// A tool that sets the selector of the Service back is named.
func TestServiceSetBack(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.objects["services/shop"]["spec"].(map[string]any)["selector"] = map[string]any{"app": "shop"}
	a.apply(shop("2"))
	wantCode(t, a.init("run-2"), report.Misconfig, "its selector was set back by")
}

// Whoever applies the manifests again in mid-release sets the selector back. Nobody's calls are
// left without a pod by it.
func TestServiceSetBackInMidRelease(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"promote", "rollback"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			a := afterInit(t)
			a.release("run-2")
			a.objects["services/shop"]["spec"].(map[string]any)["selector"] = map[string]any{"app": "shop"}
			var order []string
			a.onWrite = func(did string) { order = append(order, did) }
			if end == "promote" {
				must(t, a.promote("run-2"))
			} else {
				must(t, a.rollback("run-2"))
			}
			lead, scale := slices.Index(order, "patch services/shop"), slices.Index(order, "patch deployments/shop")
			if lead < 0 || lead > scale {
				t.Errorf("the Service was not led to stable before the candidate was scaled down: %v", order)
			}
			if diff := cmp.Diff(
				map[string]any{"app": "shop-primary"},
				a.objects["services/shop"]["spec"].(map[string]any)["selector"]); diff != "" {
				t.Errorf("the Service's selector (-want, +got)\n%s", diff)
			}
		})
	}
}

// release brings version 2 to weight 40, judged.
func (a *apiserver) release(run string) {
	a.t.Helper()
	a.apply(shop("2"))
	must(a.t, a.init(run), a.shift(run, 20), a.judge(run), a.shift(run, 40), a.judge(run))
}

// Each step once more changes nothing but the lock.
func TestTwiceIsOnce(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t, settings, shopService, shop("1"))
	twice := func(desc string, step func() error) {
		t.Helper()
		must(t, step())
		before := a.versions()
		if err := step(); err != nil {
			t.Errorf("%s again: %v", desc, err)
		}
		if after := a.versions(); !maps.Equal(before, after) {
			t.Errorf("%s again changed (-before, +after)\n%s", desc, cmp.Diff(before, after))
		}
	}
	twice("canary-init, first", func() error { return a.init("run-1") })
	twice("unchanged", func() error { return a.init("run-1b") })
	a.apply(shop("2"))
	twice("canary-init", func() error { return a.init("run-2") })
	twice("shift-weight", func() error { return a.shift("run-2", 20) })
	must(t, a.judge("run-2"))
	twice("shift-weight", func() error { return a.shift("run-2", 40) })
	must(t, a.judge("run-2"))
	twice("promote", func() error { return a.promote("run-2") })
	twice("rollback after promotion", func() error { return a.rollback("run-2") })
	a.want(promoted)
	a.apply(shop("3"))
	must(t, a.init("run-3"), a.shift("run-3", 20))
	twice("rollback", func() error { return a.rollback("run-3") })
}

func TestRollback(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	must(t, a.rollback("run-2"))
	a.want(state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted})
	wantCode(t, a.shift("run-2", 20), report.Undecided, "Failed")
	// Aborted is not rejected: the same revision may be released again.
	must(t, a.init("run-3"))
	a.want(state{"100/0", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""})
}

// By hand, without a run id, a promotion is undone.
func TestRollbackAfterPromotion(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	must(t, a.promote("run-2"), a.rollback(""))
	a.want(state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted})
}

// Stable does not come up with what was judged: its previous revision comes back.
func TestPromotionThatFails(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	a.mu.Lock()
	a.onWrite = func(did string) { // the new template's pods never get ready; those of the old one still serve
		if did == "patch deployments/shop-primary" {
			d := a.objects["deployments/shop-primary"]
			if strings.Contains(fmt.Sprint(d["spec"]), "shop:2") {
				d["status"] = map[string]any{
					"observedGeneration": d["metadata"].(map[string]any)["generation"], "replicas": 3,
					"updatedReplicas": 1, "availableReplicas": 2}
			}
		}
	}
	a.mu.Unlock()
	wantCode(t, a.promote("run-2"), report.Rejected, "not ready within progressDeadlineSeconds")
	if got := a.state().Weights; got != "100/0" {
		t.Errorf("weights %s", got)
	}
	must(t, a.rollback("run-2"))
	a.want(state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted})
}

func TestANewerRevisionTakesOver(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	a.apply(shop("3"))
	wantCode(t, a.shift("run-2", 60), report.Undecided, "superseded")
	if got := a.state().Weights; got != "100/0" {
		t.Errorf("weights %s", got)
	}
	must(t, a.init("run-3"))
	wantCode(t, a.promote("run-2"), report.Undecided, "superseded: run run-3 holds the target")
	must(t, a.rollback("run-2"), a.shift("run-3", 20))
	a.want(state{"80/20", "shop:1 x2", "shop:3 x2", "shop-primary", Progressing, ""})
}

func TestBusy(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.apply(shop("2"))
	must(t, a.init("run-2"))
	before := a.versions()
	wantCode(t, a.init("run-3"), report.Busy, "held by run run-2")
	must(t, a.rollback("run-3")) // the finally of the refused run
	if diff := cmp.Diff(before, a.versions()); diff != "" {
		t.Errorf("a refused run changed (-before, +after)\n%s", diff)
	}
	must(t, a.shift("run-2", 20))
}

// Who waited for a run of the same revision ends as that one did.
func TestWaitsAndEndsAlike(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.apply(shop("2"))
	must(t, a.init("run-2"), a.shift("run-2", 20))
	cfg := testConfig("run-3")
	cfg.OnBusy = "wait"
	ended := make(chan error)
	go func() { ended <- a.initWith(cfg) }()
	select {
	case err := <-ended:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	r := a.step("analyze", "run-2")
	s, err := r.observe(t.Context(), scope{})
	must(t, err)
	wantCode(t, r.undecided(
		t.Context(), &watch{id: "shop.web", record: s.record},
		analysis.Result{Verdict: analysis.Inconclusive, Text: "no requests"}), report.Undecided, "no requests")
	must(t, a.rollback("run-2"))
	wantCode(t, <-ended, report.Undecided, "run run-2, which was waited for, could not judge")
	a.want(state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Inconclusive})
}

// A run that ended without giving the lock back, or is gone, need not be waited for.
func TestTheHolderHasEnded(t *testing.T) {
	t.Parallel()
	run := func(uid, status string) string {
		return "{apiVersion: tekton.dev/v1, kind: PipelineRun, metadata: {name: run-2, uid: " + uid +
			"}, status: {conditions: [{type: Succeeded, status: " + status + "}]}}"
	}
	for _, c := range []struct {
		desc, first, then string
		busy              bool
	}{
		{"it runs", run("run-2", "Unknown"), run("run-2", "Unknown"), true},
		{"it failed", run("run-2", "Unknown"), run("run-2", "'False'"), false},
		{"it failed, and was not seen before", "", run("run-2", "'False'"), false},
		{"it is gone", run("run-2", "Unknown"), "", false},
		{"another has its name", run("run-2", "Unknown"), run("another", "Unknown"), false},
		{"it is no PipelineRun", "", "", true},
		{"it is no PipelineRun, and one has its name", "", run("another", "'False'"), true},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			a := afterInit(t)
			a.apply(shop("2"))
			two := testConfig("run-2")
			two.RunNamespace = "web"
			if c.first != "" {
				a.apply(c.first)
			}
			must(t, a.initWith(two), a.shift("run-2", 20))
			delete(a.objects, "pipelineruns/run-2")
			if c.then != "" {
				a.apply(c.then)
			}
			err := a.init("run-3")
			if c.busy {
				wantCode(t, err, report.Busy, "held by run "+two.RunName)
				return
			}
			must(t, err)
			a.want(state{"100/0", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""})
		})
	}
}

// Somebody else wrote the weights: the release ends, and says who.
func TestWeightsOfSomebodyElse(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.apply(shop("2"))
	must(t, a.init("run-2"), a.shift("run-2", 20))
	ctx, r := t.Context(), a.step("somebody", "x")
	r.Config = testConfig("x")
	s, err := r.observe(ctx, scope{})
	must(t, err)
	must(t, r.Client.Do(ctx, *s.split.Shift(70, s.record.Epoch)))
	wantCode(t, a.shift("run-2", 40), report.Undecided, "weight is 70, this release set 20")
}

// Who takes a candidate's traffic away by hand does not get it promoted.
func TestTakenAwayByHand(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	ctx, r := t.Context(), a.step("somebody", "x")
	r.Config = testConfig("x")
	s, err := r.observe(ctx, scope{})
	must(t, err)
	must(t, r.Client.Do(ctx, *s.split.Shift(0, s.record.Epoch)))
	wantCode(t, a.step("analyze", "run-2").Analyze(ctx), report.Undecided, "weight is 0, this release set 40")
	wantCode(t, a.promote("run-2"), report.Undecided, "weight is 0, this release set 40")
	must(t, a.rollback("run-2"))
	a.want(state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted})
}

// Where a pipeline runs nothing after a step that failed, the step itself rolls back before it
// exits, with the code it failed with.
func TestOnFailure(t *testing.T) {
	t.Parallel()
	shifted := func(a *apiserver) { a.apply(shop("2")); must(a.t, a.init("run-2"), a.shift("run-2", 20)) }
	rolledBack := state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted}
	fails := func(code report.Code) func(*Release, context.Context) error {
		return func(*Release, context.Context) error { return report.Errorf(code, "it failed") }
	}
	begins := func(r *Release, ctx context.Context) error {
		r.Config = testConfig(r.Step.RunID)
		return r.Init(ctx, nil)
	}
	for _, c := range []struct {
		desc      string
		prepare   func(*apiserver)
		step, run string
		onFailure string
		do        func(*Release, context.Context) error
		code      report.Code
		want      state
		says      []string // in the log, in this order
	}{
		{"a step that failed", shifted, "analyze", "run-2", "rollback", fails(report.Rejected), report.Rejected,
			rolledBack,
			[]string{"rolling back before this step exits with code 1 (onFailure=rollback): it failed",
				"Scaling down shop.web", "jx promote -b --app shop --version 1",
				"shop.web: rolled back (aborted)", "analyze took", "it failed (exit code 1, rejected)"}},
		{"nobody asked for it", shifted, "analyze", "run-2", "", fails(report.Undecided), report.Undecided,
			state{"80/20", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""},
			[]string{"it failed (exit code 3, undecided)"}},
		{"a step that did what it is for", shifted, "analyze", "run-2", "rollback",
			func(*Release, context.Context) error { return nil }, report.Done,
			state{"80/20", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""}, nil},
		{"no run", shifted, "analyze", "", "rollback", fails(report.Misconfig), report.Misconfig,
			state{"80/20", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""},
			[]string{"not rolled back: there is no runId"}},
		{"a rollback that failed is not rolled back", shifted, "rollback", "run-2", "rollback", fails(report.Undecided),
			report.Undecided,
			state{"80/20", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""},
			[]string{"it failed (exit code 3, undecided)"}},
		{"somebody else holds the target", shifted, "canary-init", "run-3", "rollback", begins, report.Busy,
			state{"80/20", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""},
			[]string{"nothing to roll back: run run-2 was the last to hold the target", "(exit code 4, busy)"}},
		{"the configuration is wrong",
			func(a *apiserver) { a.apply(shop("2")); a.denied["patch virtualservices"] = true }, "canary-init", "run-2",
			"rollback", begins, report.Misconfig,
			state{"100/0", "shop:1 x2", "shop:2 x2", "shop-primary", Succeeded, Initialized},
			[]string{"nothing to roll back", "(exit code 2, configuration)"}},
		{"the candidate does not come up",
			func(a *apiserver) { a.stuck["deployments/shop"] = true; a.apply(shop("2")) }, "canary-init", "run-2",
			"rollback", begins, report.Rejected,
			rolledBack, []string{"not ready within", "(exit code 1, rejected)"}},
		{"told to end in mid-promotion", func(a *apiserver) { a.release("run-2") }, "promote", "run-2", "rollback",
			(*Release).Promote, report.Undecided, rolledBack,
			[]string{"ended before it was done", "shop.web: rolled back (aborted)", "(exit code 3, undecided)"}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			a := afterInit(t)
			c.prepare(a)
			r := a.step(c.step, c.run)
			r.Client = a.client() // where a step rolls back all steps share an account
			var log strings.Builder
			r.Report.Out, r.Step.OnFailure = &log, c.onFailure
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			a.mu.Lock()
			a.onWrite = func(did string) {
				if did == "patch deployments/shop-primary" && c.step == config.Promote { // is told to end there
					cancel()
				}
			}
			a.mu.Unlock()
			code := r.run(ctx, c.do)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			a.want(c.want)
			rest := log.String()
			for _, says := range c.says {
				_, after, found := strings.Cut(rest, says)
				if !found {
					t.Errorf("the log does not say, here, %q:\n%s", says, log.String())
				}
				rest = after
			}
		})
	}
}

// So does a step that cannot begin, because it is not told what it needs.
func TestOnFailureOfTheConfiguration(t *testing.T) {
	a := afterInit(t)
	a.apply(shop("2"))
	must(t, a.init("run-2"), a.shift("run-2", 20))
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, os.WriteFile(
		path, []byte("{clusters: [{name: a, cluster: {server: '"+server.URL+
			"'}}], contexts: [{name: a, context: {cluster: a}}], current-context: a}"), 0o600))
	for name, value := range map[string]string{
		"KUBECONFIG": path, "CANARY_TARGET": "shop", "CANARY_NAMESPACE": "web", "CANARY_RUN_ID": "run-2"} {
		t.Setenv(name, value)
	}
	for _, c := range []struct {
		onFailure string
		want      state
	}{
		{"retry", state{"80/20", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""}},
		{"rollback", state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted}},
	} {
		t.Setenv("CANARY_ON_FAILURE", c.onFailure)
		// there is no weight
		if code := Run(t.Context(), config.ShiftWeight, (*Release).Shift); code != int(report.Misconfig) {
			t.Errorf("%s: exit code %d", c.onFailure, code)
		}
		a.want(c.want)
	}
}

// A pipeline that cannot leave steps out runs them all: where there is nothing to release they do
// nothing, and are green.
func TestNothingToDo(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	all := func(run string) {
		t.Helper()
		before := len(a.Writes)
		folder := t.TempDir()
		r := a.step("canary-init", run)
		r.Config, r.Results = testConfig(run), filepath.Join(folder, "outcome")
		must(t, r.Init(t.Context(), nil), a.shift(run, 20), a.step("analyze", run).Analyze(t.Context()), a.promote(run),
			a.rollback(run))
		if len(a.Writes) != before {
			t.Errorf("%s wrote %v", run, a.Writes[before:])
		}
		if got, err := os.ReadFile(r.Results); err != nil ||
			string(got) != map[string]string{"run-1": "initialized"}[run]+
				map[string]string{"run-2": "unchanged", "run-4": "unchanged"}[run] {
			t.Errorf("outcome of %s: %q, %v", run, got, err)
		}
	}
	all("run-1")
	all("run-2")
	a.want(initialized)
	a.release("run-3")
	must(t, a.rollback("run-3"))
	a.apply(shop("1")) // whose pods come up
	must(t, a.init("run-4"))
	all("run-4")
	a.want(state{"100/0", "shop:1 x2", "shop:1 x0", "shop-primary", Failed, Aborted})
}

// What the record says of stable is kept true, though nothing is released: a chart of another
// version may have the same template.
func TestUnchangedButForTheChart(t *testing.T) {
	t.Parallel()
	chart := func(version string) string {
		return strings.Replace(shop("1"), "labels: {app: shop}", "labels: {app: shop, chart: shop-"+version+"}", 1)
	}
	a := newAPIServer(t, settings, shopService, chart("1.0.0"))
	must(t, a.init("run-1"))
	a.apply(chart("1.0.1"))
	must(t, a.init("run-2"))
	r := a.step("anyone", "run-2")
	s, err := r.observe(t.Context(), scope{recordOnly: true})
	must(t, err)
	if got := s.record.Promoted.Chart; got != "shop-1.0.1" || s.record.Outcome != Unchanged {
		t.Errorf("the record says that stable is %s (%s)", got, s.record.Outcome)
	}
}

// A run whose release another one took over is not green because that one promoted what the target
// has by now.
func TestSupersededIsNotUnchanged(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	a.apply(shop("3"))
	must(t, a.init("run-3"), a.shift("run-3", 20), a.judge("run-3"), a.shift("run-3", 40), a.judge("run-3"),
		a.promote("run-3"))
	wantCode(t, a.shift("run-2", 40), report.Undecided, "superseded: run run-3 holds the target")
	wantCode(t, a.promote("run-2"), report.Undecided, "superseded: run run-3 holds the target")
}

// Whatever write a step is killed after, running it again or rollback ends in the same place.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc     string
		prepare  func(*apiserver)
		step     func(*apiserver) error
		want     state
		rollback state
	}{
		{"canary-init, first", func(*apiserver) {}, func(a *apiserver) error { return a.init("run-1") }, initialized,
			state{}},
		{"canary-init", func(a *apiserver) { must(a.t, a.init("run-1")); a.apply(shop("2")) },
			func(a *apiserver) error { return a.init("run-2") },
			state{"100/0", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""},
			state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted}},
		{"promote", func(a *apiserver) { must(a.t, a.init("run-1")); a.release("run-2") },
			func(a *apiserver) error { return a.promote("run-2") },
			promoted, state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted}},
		{"rollback", func(a *apiserver) { must(a.t, a.init("run-1")); a.release("run-2") },
			func(a *apiserver) error { return a.rollback("run-2") },
			state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted},
			state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			before := newAPIServer(t, settings, shopService, shop("1"), autoscaler)
			c.prepare(before)
			for k := 0; ; k++ {
				begin := func() (*apiserver, error) {
					a := before.clone()
					return a, a.killed(k, func() error { return c.step(a) })
				}
				a, err := begin()
				if err == nil {
					if k == 0 {
						t.Error("it wrote nothing")
					}
					return
				}
				must(t, c.step(a))
				if diff := cmp.Diff(c.want, a.state()); diff != "" {
					t.Errorf("killed after %d writes and run again (-want, +got)\n%s", k, diff)
				}
				if c.want.Phase != Progressing {
					a.wantNoFloors(fmt.Sprintf("killed after %d writes and run again", k), "scale", "scale-primary")
				}
				if c.rollback == (state{}) {
					continue
				}
				if a, err = begin(); err == nil {
					t.Fatal("it was not killed this time")
				}
				run := a.state()
				must(t, a.rollback("run-2"))
				if got := a.state(); got != c.rollback && run.Phase != Succeeded {
					t.Errorf("killed after %d writes and rolled back (-want, +got)\n%s", k, cmp.Diff(c.rollback, got))
				}
				a.wantNoFloors(fmt.Sprintf("killed after %d writes and rolled back", k), "scale", "scale-primary")
			}
		})
	}
}

// The way back: the target serves by itself, with what was promoted, and nothing of the releases is
// left. Whatever write it is killed after, once more ends in the same place.
func TestDetach(t *testing.T) {
	t.Parallel()
	const theirRoute = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: shop}, spec: " +
		"{hosts: [shop], http: [{timeout: 3s, route: [{destination: {host: shop, port: {number: 80}}}]}]}}"
	for _, route := range []string{"", theirRoute} {
		before := newAPIServer(t, settings, shopService, shop("1"), autoscaler)
		if route != "" {
			before.apply(route)
		}
		must(t, before.init("run-1"))
		before.release("run-2")
		must(t, before.promote("run-2"))
		before.apply(shop("3")) // which is not promoted
		must(t, before.init("run-3"))
		wantCode(t, before.detach(), report.Busy, "end that first")
		must(t, before.rollback("run-3"))
		for k := 0; ; k++ {
			a := before.clone()
			killed := a.killed(k, a.detach) != nil
			if killed {
				must(t, a.detach())
			}
			want := state{Candidate: "shop:2 x2", Selects: "shop"}
			if diff := cmp.Diff(want, a.state()); diff != "" {
				t.Errorf("killed after %d writes (-want, +got)\n%s", k, diff)
			}
			left := slices.Sorted(maps.Keys(a.objects))
			wantLeft := []string{
				"configmaps/settings", "deployments/shop", "horizontalpodautoscalers/scale", "namespaces/web",
				"services/shop"}
			a.wantNoFloors(fmt.Sprintf("killed after %d writes", k), "scale")
			if route != "" {
				wantLeft = append(wantLeft, "virtualservices/shop")
				if got := fmt.Sprint(
					a.objects["virtualservices/shop"]["spec"]); got != "map[hosts:[shop] "+
					"http:[map[route:[map[destination:map[host:shop port:map[number:80]]]] timeout:3s]]]" {
					t.Errorf("their route is %s", got)
				}
			}
			left = slices.DeleteFunc(
				left, func(name string) bool { return strings.HasPrefix(name, "configmaps/settings-primary-") })
			if diff := cmp.Diff(wantLeft, left); diff != "" {
				t.Errorf("killed after %d writes, left (-want, +got)\n%s", k, diff)
			}
			if !killed {
				break
			}
		}
	}
}

// After a promotion was rolled back the target comes up on what stable went back to.
func TestDetachAfterRollback(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	must(t, a.promote("run-2"), a.rollback(""), a.detach())
	if diff := cmp.Diff(state{Candidate: "shop:1 x2", Selects: "shop"}, a.state()); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
}

// Whatever write a promotion is killed after, the next run finds stable between two versions and
// puts it right first.
func TestTheNextRunPutsRight(t *testing.T) {
	t.Parallel()
	before := newAPIServer(t, settings, shopService, shop("1"), autoscaler)
	must(t, before.init("run-1"))
	before.release("run-2")
	for k := 1; ; k++ {
		a := before.clone()
		if err := a.killed(k, func() error { return a.promote("run-2") }); err == nil {
			return
		}
		wantCode(t, a.init("run-3"), report.Busy, "held by run run-2")
		r := a.step("anyone", "run-2")
		must(t, r.update(t.Context(), func(record *Record) { record.Interrupted = true }), a.init("run-3"))
		if diff := cmp.Diff(
			state{"100/0", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""}, a.state()); diff != "" {
			t.Errorf("killed after %d writes (-want, +got)\n%s", k, diff)
		}
		must(t, a.rollback("run-2")) // whose finally comes late
		must(t, a.shift("run-3", 20), a.judge("run-3"), a.shift("run-3", 40), a.judge("run-3"), a.promote("run-3"))
		a.want(promoted)
		a.wantNoFloors(fmt.Sprintf("killed after %d writes", k), "scale", "scale-primary")
	}
}

// A step that is terminated takes the candidate's traffic away and leaves the lock to whoever
// comes next.
func TestToldToEnd(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	r := a.step("promote", "run-2")
	ctx, cancel := context.WithCancel(t.Context())
	a.mu.Lock()
	a.stuck["deployments/shop-primary"] = true
	a.onWrite = func(did string) {
		if did == "patch deployments/shop-primary" {
			d := a.objects["deployments/shop-primary"]
			d["status"].(map[string]any)["availableReplicas"] = 1
			cancel()
		}
	}
	a.mu.Unlock()
	wantCode(t, r.Promote(ctx), report.Undecided, "ended before it was done")
	if got := a.state().Weights; got != "100/0" {
		t.Errorf("weights %s", got)
	}
	a.mu.Lock()
	a.stuck, a.onWrite = map[string]bool{}, nil
	a.mu.Unlock()
	must(t, a.init("run-3"))
	a.want(state{"100/0", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""})
}

func TestInitRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc    string
		prepare func(*apiserver)
		change  func(*config.Config)
		want    []string
	}{
		{"no target", func(a *apiserver) { delete(a.objects, "deployments/shop") }, nil,
			[]string{`target is "shop"`, "no such Deployment in namespace web"}},
		{"no target, and what else there is", func(a *apiserver) { delete(a.objects, "deployments/shop") },
			func(c *config.Config) { c.Port = "99" },
			[]string{"no such Deployment in namespace web", `port is "99": Service shop has no such port`}},
		{"Recreate", func(a *apiserver) {
			a.objects["deployments/shop"]["spec"].(map[string]any)["strategy"] = map[string]any{"type": "Recreate"}
		}, nil, []string{"Recreate"}},
		{"a mounted ConfigMap is missing", func(a *apiserver) { delete(a.objects, "configmaps/settings") }, nil,
			[]string{"ConfigMap/settings, which is not there"}},
		{"no such port", nil, func(c *config.Config) { c.Port = "8443" },
			[]string{`port is "8443"`, "has no such port"}},
		{"a route to somewhere else", func(a *apiserver) {
			a.apply("{kind: VirtualService, metadata: {name: shop}, spec: {hosts: [shop], http: [{route: " +
				"[{destination: {host: other}}]}]}}")
		}, nil, []string{`virtualService is "shop"`, "other=100"}},
		{"a PodDisruptionBudget and an AuthorizationPolicy of the target's alone", func(a *apiserver) {
			a.apply("{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: both}, spec: {selector: " +
				"{matchExpressions: [{key: app, operator: Exists}]}}}")
			a.apply("{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: keep}, spec: {selector: " +
				"{matchLabels: {app: shop}}}}")
			a.apply("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: allow}, spec: " +
				"{selector: {matchLabels: {app: shop}}}}")
			a.apply("{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: all}, spec: {}}")
		}, func(c *config.Config) { c.AcceptUncovered = []string{"PodDisruptionBudget/keep"} },
			[]string{"a mistake;", "AuthorizationPolicy/allow applies to the target and not to shop-primary",
				"let it select app=shop-primary too",
				"acceptUncovered=PodDisruptionBudget/keep,AuthorizationPolicy/allow"}},
		{"a Flagger", func(a *apiserver) {
			a.apply("{apiVersion: flagger.app/v1beta1, kind: Canary, metadata: {name: config}, spec: " +
				"{targetRef: {name: shop}}}")
			a.apply("{apiVersion: flagger.app/v1beta1, kind: Canary, metadata: {name: idle}, spec: {suspend: true, " +
				"targetRef: {name: shop}}, status: {phase: Succeeded}}")
			a.apply("{apiVersion: flagger.app/v1beta1, kind: Canary, metadata: {name: live}, spec: {targetRef: " +
				"{name: shop}}, status: {phase: Initialized}}")
		}, nil, []string{"a mistake;", "Flagger manages it, by Canary live"}},
		{"another route claims the host", func(a *apiserver) {
			a.apply("{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: other}, spec: " +
				"{hosts: [shop.web.svc.cluster.local], http: []}}")
		}, nil, []string{"VirtualService/other applies to the target"}},
		{"another application's Service", func(a *apiserver) {
			a.apply("{kind: Service, metadata: {name: shop}, spec: {selector: {app: payments}, ports: [{port: 80}]}}")
		}, nil, []string{`parameter service is "shop": it leads to pods with app=payments, not the pods of Deployment shop`}},
		{"a Service of another host", func(a *apiserver) {
			a.apply("{kind: Service, metadata: {name: shop}, spec: {type: ExternalName, externalName: example.com}}")
		}, nil, []string{`parameter service is "shop": it has no selector (ExternalName)`}},
		{"a Service that Helm writes", func(a *apiserver) {
			a.objects["services/shop"]["metadata"].(map[string]any)["annotations"] = map[string]any{
				"meta.helm.sh/release-name": "shop"}
		}, nil, []string{`parameter service is "shop": Helm writes it and would set its selector back`}},
		{"pods that are kept out of the mesh", func(a *apiserver) {
			a.apply("{kind: Namespace, metadata: {name: web, labels: {istio.io/rev: stable}}}")
			field(a.objects["deployments/shop"], "spec", "template", "metadata",
				"labels")["sidecar.istio.io/inject"] = "false"
		}, nil, []string{`target is "shop": its pods are kept out of the mesh by sidecar.istio.io/inject=false`}},
		{"pods without a sidecar", func(a *apiserver) {
			a.apply("{kind: Namespace, metadata: {name: web, labels: {istio-injection: enabled}}}")
			a.apply("{kind: Pod, metadata: {name: shop-0, labels: {app: shop}, deletionTimestamp: " +
				"2026-01-01T00:00:00Z}, spec: {containers: [{name: app}]}}")
			a.apply("{kind: Pod, metadata: {name: shop-00, labels: {app: shop}}, spec: {containers: [{name: app}]}, " +
				"status: {phase: Failed}}")
			a.apply("{kind: Pod, metadata: {name: shop-1, labels: {app: shop}}, spec: {initContainers: [{name: " +
				"istio-proxy}], containers: [{name: app}]}}")
			a.apply("{kind: Pod, metadata: {name: shop-2, labels: {app: shop}}, spec: {containers: [{name: app}]}}")
		}, nil, []string{"a mistake;", "Pod shop-2 has no istio-proxy: start them again"}},
		{"a claim that only one pod can mount, and one that is not there", func(a *apiserver) {
			a.apply("{kind: PersistentVolumeClaim, metadata: {name: data}, spec: {accessModes: [ReadWriteOnce]}}")
			a.apply("{kind: PersistentVolumeClaim, metadata: {name: shared}, spec: {accessModes: [ReadWriteMany]}}")
			field(a.objects["deployments/shop"], "spec", "template", "spec")["volumes"] = []any{
				map[string]any{"name": "a", "persistentVolumeClaim": map[string]any{"claimName": "data"}},
				map[string]any{"name": "b", "persistentVolumeClaim": map[string]any{"claimName": "shared"}},
				map[string]any{"name": "c", "persistentVolumeClaim": map[string]any{"claimName": "none"}},
			}
		}, nil, []string{"2 mistakes", "the claim data, which is [ReadWriteOnce]",
			"the claim none, which is not there"}},
		{"Istio's resources are not installed, and a port", func(a *apiserver) { a.Unserved["virtualservices"] = true },
			func(c *config.Config) { c.Port = "8443" },
			[]string{"2 mistakes", `virtualService is "shop"`,
				"are its CustomResourceDefinitions installed? Install Istio first", `port is "8443"`}},
		{"permissions", func(a *apiserver) {
			a.denied["patch virtualservices"], a.denied["create services"] = true, true
		}, nil,
			[]string{"may not patch virtualservices.networking.istio.io", "may not create services"}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			a := newAPIServer(t, settings, shopService, shop("1"))
			if c.prepare != nil {
				c.prepare(a)
			}
			before := len(a.Writes)
			cfg := testConfig("run-1")
			if c.change != nil {
				c.change(cfg)
			}
			err := a.initWith(cfg)
			for _, want := range c.want {
				wantCode(t, err, report.Misconfig, want)
			}
			if len(a.Writes) != before {
				t.Errorf("it wrote %v", a.Writes[before:])
			}
		})
	}
}

// Without the Role for Secrets a release goes on, says what it does not see, and that Secret
// belongs to no revision.
func TestSecretsThatMayNotBeRead(t *testing.T) {
	t.Parallel()
	a := newAPIServer(
		t, settings, shopService,
		strings.Replace(shop("1"), "[{configMapRef", "[{secretRef: {name: keys}}, {configMapRef", 1))
	a.denied["get secrets"] = true
	r := a.step("canary-init", "run-1")
	r.Config = testConfig("run-1")
	must(t, r.Init(t.Context(), nil))
	a.want(initialized)
	if log := fmt.Sprint(r.Report.Out); !strings.Contains(
		log, "Secret/keys may not be read (Role canary-tasks-secrets)") {
		t.Errorf("it does not say so:\n%s", log)
	}
	if stable := fmt.Sprint(a.objects["deployments/shop-primary"]["spec"]); !strings.Contains(
		stable, "secretRef:map[name:keys]") {
		t.Errorf("stable mounts another Secret: %s", stable)
	}
}

// two is a target whose selector has two labels, of which Flagger takes one.
func two(version string) string {
	return strings.NewReplacer(
		"matchLabels: {app: shop}", "matchLabels: {app: shop, tier: front}", "metadata: {labels: {app: shop}}",
		"metadata: {labels: {app: shop, tier: front}}").Replace(shop(version))
}

// ofFlagger is what Flagger has made for an application that it released before: the target is
// idle.
func ofFlagger(t *testing.T) *apiserver {
	t.Helper()
	const owned = `ownerReferences: [{apiVersion: flagger.app/v1beta1, kind: Canary, name: shop, uid: c-1, controller: true}]`
	return newAPIServer(t, settings, two("2"),
		strings.NewReplacer(
			"metadata: {name: shop, labels: {app: shop}}", "metadata: {name: shop-primary, "+owned+"}",
			"{app: shop, tier: front}}\n  template", "{app: shop-primary}}\n  template",
			"metadata: {labels: {app: shop,", "metadata: {annotations: {flagger-id: x}, labels: {app: shop-primary,",
			"{configMapRef: {name: settings}}",
			"{configMapRef: {name: settings-primary}}, {secretRef: {name: keys-primary}}").Replace(two("1")),
		"{kind: Secret, metadata: {name: keys-primary, "+owned+"}, data: {}}",
		"{kind: ConfigMap, metadata: {name: settings-primary, "+owned+"}, data: {color: blue}}",
		"{kind: Service, metadata: {name: shop, "+owned+
			"}, spec: {selector: {app: shop-primary}, ports: [{port: 80}]}}",
		"{kind: Service, metadata: {name: shop-primary, "+owned+
			"}, spec: {selector: {app: shop-primary}, ports: [{port: 80}]}}",
		"{kind: Service, metadata: {name: shop-canary, "+owned+"}, spec: {selector: {app: shop}, ports: [{port: 80}]}}",
		"{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: scale}, spec: {minReplicas: "+
			"2, maxReplicas: 9, scaleTargetRef: {kind: Deployment, name: shop}}}",
		"{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: scale-primary, "+
			"ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: theirs, uid: t}, {apiVersion: "+
			"flagger.app/v1beta1, kind: Canary, name: shop, uid: c-1}]}, spec: {minReplicas: 2, maxReplicas: 9, "+
			"scaleTargetRef: {kind: Deployment, name: shop-primary}}}",
		"{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: shop-primary, "+owned+
			"}, spec: {host: shop-primary}}",
		"{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: shop, "+owned+
			"}, spec: {hosts: [shop], http: [{route: [{destination: {host: shop-primary}, weight: 100}, "+
			"{destination: {host: shop-canary}, weight: 0}]}]}}",
		"{apiVersion: flagger.app/v1beta1, kind: Canary, metadata: {name: shop, uid: c-1}, spec: {suspend: true, "+
			"targetRef: {name: shop}}, status: {phase: Succeeded, lastAppliedSpec: 66d4f5}}")
}

// What a Flagger made is taken over as it is: its pods are not touched, and nothing of it goes with
// the Canary any more, whatever write the first release is killed after.
func TestTakesOverFromFlagger(t *testing.T) {
	t.Parallel()
	want := state{"100/0", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""}
	for k := 0; ; k++ {
		a := ofFlagger(t)
		template := fmt.Sprint(a.objects["deployments/shop-primary"]["spec"])
		killed := a.killed(k, func() error { return a.init("run-1") }) != nil
		if killed {
			must(t, a.init("run-1"))
		}
		if diff := cmp.Diff(want, a.state()); diff != "" {
			t.Errorf("killed after %d writes (-want, +got)\n%s", k, diff)
		}
		for key, o := range a.objects {
			if owners := fmt.Sprint(o["metadata"].(map[string]any)["ownerReferences"]); strings.Contains(
				owners, "Canary") || key == "horizontalpodautoscalers/scale-primary" &&
				!strings.Contains(owners, "theirs") {
				t.Errorf("killed after %d writes: owners of %s are %s", k, key, owners)
			}
		}
		if got := fmt.Sprint(a.objects["deployments/shop-primary"]["spec"]); got != template {
			t.Errorf("killed after %d writes: stable was %s\nand is %s", k, template, got)
		}
		if killed {
			continue
		}
		must(t, a.shift("run-1", 20), a.judge("run-1"), a.shift("run-1", 40), a.judge("run-1"), a.promote("run-1"))
		a.want(promoted)
		d := a.objects["deployments/shop-primary"]["spec"].(map[string]any)
		if got := fmt.Sprint(
			d["selector"], field(
				d, "template", "metadata")["labels"]); got != "map[matchLabels:map[app:shop-primary]] "+
			"map[app:shop-primary tier:front]" {
			t.Errorf("selector and labels are %s", got)
		}
		before := len(a.Writes)
		must(t, a.init("run-2"))
		if len(a.Writes) != before {
			t.Errorf("unchanged wrote %v", a.Writes[before:])
		}
		must(t, a.rollback("")) // to what Flagger had promoted
		a.want(state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted})
		if got := fmt.Sprint(a.objects["deployments/shop-primary"]["spec"]); !strings.Contains(
			got, "configMapRef:map[name:settings-primary]") || !strings.Contains(got, "flagger-id:x") {
			t.Errorf("stable is %s", got)
		}
		r := a.step("rollback", "")
		r.Step.Mode = config.Detach
		wantCode(t, r.Rollback(t.Context()), report.Undecided,
			"stable runs revision unknown, and how the target would run it is not known")
		a.apply(two("1"))
		must(t, r.Rollback(t.Context()))
		for _, gone := range []string{
			"deployments/shop-primary", "services/shop-primary", "services/shop-canary", "virtualservices/shop",
			"destinationrules/shop-primary", "horizontalpodautoscalers/scale-primary"} {
			if a.objects[gone] != nil {
				t.Errorf("%s is left after the target was detached", gone)
			}
		}
		return
	}
}

// However often it was judged, a record fits into its ConfigMap; what is left out are the oldest
// judgements.
func TestRecordIsBounded(t *testing.T) {
	t.Parallel()
	r := &Record{Holder: "run-1", Shifts: []Shift{{Weight: 20}, {Weight: 40}}}
	for i := range 5000 {
		r.Shifts[i/2500].Checks = append(
			r.Shifts[i/2500].Checks,
			analysis.Result{Verdict: analysis.Fail, Text: fmt.Sprintf("judgement %d, %s", i, strings.Repeat("x", 100))})
	}
	text := r.text()
	if len(text) > maxRecord || len(text) < maxRecord*9/10 {
		t.Errorf("%d bytes", len(text))
	}
	if !strings.Contains(text, "judgement 4999,") || strings.Contains(text, "judgement 0,") {
		t.Error("it is not the oldest that is left out")
	}
}

var _ = []any{metav1.Now, client.New, routing.Find}
