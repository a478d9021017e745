package release

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/canary-tasks/canary-tasks/lib/report"
)

// Traffic goes back although the API server, or a webhook that it asks, refuses for a while; who
// has no patience is told how to do it by hand.
func TestRollbackKeepsTrying(t *testing.T) {
	t.Parallel()
	synctest.Test(t, rollbackKeepsTrying)
}

func rollbackKeepsTrying(t *testing.T) {
	a := afterInit(t)
	a.release("run-2")
	refuse := func(n int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.refuses = n
	}
	refuse(2) // what it is for, and what a step does that failed
	wantCode(t, a.rollback("run-2"), report.Undecided, "Forbidden")
	if got := a.state().Weights; got != "60/40" {
		t.Fatalf("weights %s", got)
	}
	r := a.step("rollback", "run-2")
	r.Patience = time.Minute
	a.mu.Lock()
	a.denied["get configmaps"] = true
	a.mu.Unlock()
	// at once: who may not look will not be let in a while
	wantCode(t, r.Rollback(t.Context()), report.Undecided, "Forbidden")
	a.mu.Lock()
	delete(a.denied, "get configmaps")
	a.mu.Unlock()
	refuse(2)
	must(t, r.Rollback(t.Context()))
	a.want(state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted})
}

// While istiod is unavailable, and with it the webhook that checks each VirtualService, a step
// waits and says so.
func TestWaitsForIstiod(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		answers int // with 503: the client sends a request seven times
		outage  time.Duration
		code    report.Code
		weights string
		says    []string
	}{
		{4, 0, report.Done, "80/20",
			[]string{"writing VirtualService web/shop: ",
				"trying again; until then the proxies keep the weights that they have"}},
		{8, time.Minute, report.Done, "80/20",
			[]string{"trying again for 1m0s; until then the proxies keep the weights that they have"}},
		{7, 0, report.Undecided, "100/0", nil},
	} {
		synced(t, fmt.Sprint(c.answers), func(t *testing.T) {
			a := newAPIServer(t, settings, shopService, shop("1"))
			must(t, a.init("run-1"))
			a.apply(shop("2"))
			must(t, a.init("run-2"))
			r := a.step("shift-weight", "run-2")
			var log bytes.Buffer
			r.Report.Out, r.Client.Waiting, r.Outage, r.Step.Weight = &log, waiting(r.Report), c.outage, 20
			a.mu.Lock()
			a.away = c.answers
			a.mu.Unlock()
			code := r.run(t.Context(), func(r *Release, ctx context.Context) error { return r.Shift(ctx) })
			if got := a.state().Weights; code != c.code || got != c.weights {
				t.Errorf("code %d, weights %s, want %d, %s:\n%s", code, got, c.code, c.weights, log.String())
			}
			for _, says := range c.says {
				if n := strings.Count(log.String(), says); n != 1 {
					t.Errorf("it says %q %d times:\n%s", says, n, log.String())
				}
			}
		})
	}
}

// A mistake of the program itself takes the candidate's traffic away as any other, and its code
// does not say that nothing was changed.
func TestPanics(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	r := a.step("analyze", "run-2")
	code := r.run(t.Context(), func(r *Release, ctx context.Context) error {
		return r.orToStable(ctx, func() error { panic("divided by zero") })
	})
	if code != report.Undecided || !strings.Contains(r.verdict, "divided by zero (exit code 3") {
		t.Errorf("code %d: %s", code, r.verdict)
	}
	if got := a.state().Weights; got != "100/0" {
		t.Errorf("weights %s", got)
	}
}

// What a first release left that never had traffic is no version to go back to: the next run makes
// it out of what the target has by then.
func TestFirstReleaseAnew(t *testing.T) {
	t.Parallel()
	second := state{"100/0", "shop:2 x2", "shop:2 x0", "shop-primary", Succeeded, Initialized}
	t.Run("it never came up", func(t *testing.T) {
		t.Parallel()
		a := newAPIServer(t, settings, shopService, shop("1"))
		a.stuck["deployments/shop-primary"] = true
		wantCode(t, a.init("run-1"), report.Rejected, "not ready within")
		must(t, a.rollback("run-1"))
		a.stuck = map[string]bool{}
		a.apply(shop("2"))
		must(t, a.init("run-2"))
		a.want(second)
	})
	t.Run("another version is applied meanwhile", func(t *testing.T) {
		t.Parallel()
		a := newAPIServer(t, settings, shopService, shop("1"))
		var applied bool
		a.onWrite = func(did string) {
			if did == "create deployments/shop-primary" && !applied {
				applied = true
				a.mu.Unlock()
				a.apply(shop("2"))
				a.mu.Lock()
			}
		}
		must(t, a.init("run-1"))
		a.want(second)
	})
	t.Run("another version is applied when it has traffic", func(t *testing.T) {
		t.Parallel()
		a := newAPIServer(t, settings, shopService, shop("1"))
		a.onWrite = func(did string) {
			if did == "patch services/shop" {
				a.mu.Unlock()
				a.apply(shop("2"))
				a.mu.Lock()
			}
		}
		must(t, a.init("run-1"))
		a.want(state{"100/0", "shop:1 x2", "shop:2 x2", "shop-primary", Succeeded, Initialized})
		a.onWrite = nil
		must(t, a.init("run-2"), a.shift("run-2", 20), a.judge("run-2"), a.shift("run-2", 40), a.judge("run-2"),
			a.promote("run-2"))
		a.want(promoted)
	})
}

// Who makes the Service anew lets it lead to the target, which has no pods between releases.
func TestServiceMadeAnew(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.apply(shopService)
	must(t, a.init("run-2"))
	a.want(state{"100/0", "shop:1 x2", "shop:1 x0", "shop-primary", Succeeded, Unchanged})
	a.release("run-3")
	a.apply(shopService)
	must(t, a.promote("run-3"))
	a.want(promoted)
}

// Back to what stable runs, in the midst of a release: stable's autoscaler may again go as low as
// the target's.
func TestBackInMidRelease(t *testing.T) {
	t.Parallel()
	a := newAPIServer(
		t, settings, shopService, shop("1"),
		"{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: scale}, spec: {minReplicas: "+
			"1, maxReplicas: 10, scaleTargetRef: {kind: Deployment, name: shop}}}")
	must(t, a.init("run-1"))
	a.release("run-2")
	least := func() any {
		return a.objects["horizontalpodautoscalers/scale-primary"]["spec"].(map[string]any)["minReplicas"]
	}
	if got := least(); got != float64(2) {
		t.Fatalf("stable keeps %v pods in a release", got)
	}
	a.apply(shop("1"))
	must(t, a.init("run-3"))
	a.want(state{"100/0", "shop:1 x2", "shop:1 x0", "shop-primary", Succeeded, Unchanged})
	if got := least(); got != float64(1) {
		t.Errorf("stable keeps %v pods after it", got)
	}
}

// A revision that was promoted after all is remembered as rejected no longer.
func TestRetriedAndPromoted(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	r := a.step("analyze", "run-2")
	must(t, r.update(t.Context(), func(record *Record) {
		record.Outcome, record.Rejected = Rejected,
			[]Rejection{{Revision: record.Candidate.Revision, Reason: "failing", Run: "run-2"}, {Revision: "another"}}
	}), a.rollback("run-2"))
	wantCode(t, a.init("run-3"), report.Rejected, "retryRejected=true")
	again := testConfig("run-3")
	again.RetryRejected = true
	must(t, a.initWith(again), a.shift("run-3", 20), a.judge("run-3"), a.shift("run-3", 40), a.judge("run-3"),
		a.promote("run-3"), a.init("run-4"))
	a.want(promoted)
	s, err := r.observe(t.Context(), scope{recordOnly: true})
	must(t, err)
	if diff := cmp.Diff([]Rejection{{Revision: "another"}}, s.record.Rejected); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
}

// Somebody deleted stable: what is left to serve is the candidate, and the run is red.
func TestStableIsGone(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	a.mu.Lock()
	delete(a.objects, "deployments/shop-primary")
	a.mu.Unlock()
	wantCode(t, a.promote("run-2"), report.Undecided, "is gone")
	wantCode(t, a.rollback("run-2"), report.Undecided, "not rolled back: Deployment shop-primary, which ran revision")
	if got := a.state().Weights; got != "0/100" {
		t.Errorf("weights %s", got)
	}
}

// A release that takes longer than it may is not promoted.
func TestDeadlineIsOver(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	must(t, a.step("anyone", "run-2").update(
		t.Context(), func(record *Record) { record.Expires = time.Now().Add(toEnd - time.Second) }))
	wantCode(t, a.promote("run-2"), report.Undecided, "did not end within deadline=1m0s")
	if got := a.state().Weights; got != "100/0" {
		t.Errorf("weights %s", got)
	}
}

func TestTargetIsGone(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.apply(shop("2"))
	a.onWrite = func(did string) {
		if did == "patch configmaps/shop-canary-release" {
			delete(a.objects, "deployments/shop")
		}
	}
	wantCode(t, a.init("run-2"), report.Undecided, "Deployment shop is gone")
}

// Stable has grown since the candidate came up: it gets the pods that its weight needs.
func TestPodsForTheWeight(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.apply(shop("2"))
	must(t, a.init("run-2"))
	a.mu.Lock()
	stable := a.objects["deployments/shop-primary"]
	stable["spec"].(map[string]any)["replicas"] = 7
	a.put("deployments/shop-primary", stable)
	a.mu.Unlock()
	must(t, a.shift("run-2", 20), a.judge("run-2"), a.shift("run-2", 40))
	if got, want := a.state(),
		(state{"60/40", "shop:1 x7", "shop:2 x3", "shop-primary", Progressing, ""}); got != want {
		t.Errorf("%v, want %v", got, want)
	}
}

// A port that is added to the Service is added to both versions'. One that would lead elsewhere of
// the pods could not be followed while both serve.
func TestPortsFollow(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	want := func(desc, candidate, stable string) {
		t.Helper()
		for name, want := range map[string]string{"shop-canary": candidate, "shop-primary": stable} {
			var got []string
			for _, p := range a.objects["services/"+name]["spec"].(map[string]any)["ports"].([]any) {
				p := p.(map[string]any)
				got = append(got, fmt.Sprint(p["name"], " ", p["port"], "->", p["targetPort"]))
			}
			if strings.Join(got, ", ") != want {
				t.Errorf("%s: %s has %s, want %s", desc, name, got, want)
			}
		}
	}
	apply := func(version, container, http, admin string) {
		a.apply(strings.Replace(shop(version), "{containerPort: 8080}", container, 1))
		a.apply("{kind: Service, metadata: {name: shop, annotations: {canary-tasks.dev/target: shop}}, spec: " +
			"{selector: {app: shop-primary}, ports: [{name: web, port: 80, targetPort: " + http +
			", nodePort: 30001}, {name: admin, port: 81, targetPort: " + admin + "}]}}")
	}
	apply("2", "{name: web, containerPort: 8080}", "web", "8081")
	must(t, a.init("run-2"), a.shift("run-2", 20), a.judge("run-2"), a.shift("run-2", 40), a.judge("run-2"))
	want("a name for the number, and one more", "web 80->web, admin 81->8081", "web 80->8080, admin 81->8081")
	must(t, a.promote("run-2"))
	apply("3", "{name: web, containerPort: 9090}", "web", "8081")
	must(t, a.init("run-3"))
	want("another number by that name", "web 80->web, admin 81->8081", "web 80->web, admin 81->8081")
	must(t, a.rollback("run-3"))
	// "": it is the candidate's to fail that nobody reaches it
	for _, c := range []struct{ container, http, admin, says string }{
		{"{name: web, containerPort: 8080}", "web", "9081",
			"its port 81 leads to 9081 of the pods and shop-primary's to 8081"},
		{"{name: http, containerPort: 8080}", "http", "8081",
			"its port 80 leads to http of the pods and shop-primary's to web"},
		{"{name: web, containerPort: 9090}", "8080", "8081", ""},
	} {
		apply("4", c.container, c.http, c.admin)
		before := a.versions()
		err := a.init("run-4")
		if c.says == "" {
			must(t, err)
			continue
		}
		wantCode(t, err, report.Misconfig, c.says)
		if diff := cmp.Diff(before, a.versions()); diff != "" {
			t.Errorf("(-before, +after)\n%s", diff)
		}
	}
}

// Stable is gone, and was not rolled back: the next run does not make it out of what nobody judged.
func TestStableIsNotMadeAnew(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	a.mu.Lock()
	delete(a.objects, "deployments/shop-primary")
	a.mu.Unlock()
	wantCode(t, a.rollback("run-2"), report.Undecided, "is gone")
	cfg := testConfig("run-3")
	must(t, a.step("anyone", "run-2").update(t.Context(), func(record *Record) { record.Interrupted = true }))
	wantCode(t, a.initWith(cfg), report.Undecided, "not rolled back: Deployment shop-primary")
	if a.objects["deployments/shop-primary"] != nil {
		t.Error("it was made again")
	}
}

// What is refused for good ends also where it comes after a wait.
func TestRollbackGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, rollbackGivesUp)
}

func rollbackGivesUp(t *testing.T) {
	a := afterInit(t)
	a.release("run-2")
	r := a.step("rollback", "run-2")
	r.Patience = time.Second
	a.onWrite = func(did string) {
		if did == "patch virtualservices/shop" {
			a.Budget = 1 // of the fence on stable; scaling down the candidate is refused from then on
		}
	}
	wantCode(t, r.Rollback(t.Context()), report.Undecided, "writing Deployment web/shop: Forbidden")
	if got := a.state().Weights; got != "100/0" {
		t.Errorf("weights %s", got)
	}
}

// An autoscaler of stable's that somebody else made is theirs.
func TestAutoscalerOfSomebodyElse(t *testing.T) {
	t.Parallel()
	const scale = "{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: NAME}, spec: " +
		"{minReplicas: MIN, maxReplicas: 50, scaleTargetRef: {kind: Deployment, name: NAME}}}"
	a := newAPIServer(
		t, settings, shopService, shop("1"), strings.NewReplacer("NAME", "shop", "MIN", "1").Replace(scale),
		strings.NewReplacer("NAME", "shop-primary", "MIN", "5").Replace(scale))
	must(t, a.init("run-1"))
	before := a.versions()
	must(t, a.init("run-2"))
	if diff := cmp.Diff(before, a.versions()); diff != "" {
		t.Errorf("(-before, +after)\n%s", diff)
	}
	theirs := fmt.Sprint(a.objects["horizontalpodautoscalers/shop-primary"]["spec"])
	a.release("run-3")
	must(t, a.promote("run-3"))
	if got := fmt.Sprint(a.objects["horizontalpodautoscalers/shop-primary"]["spec"]); got != theirs {
		t.Errorf("after a release it is %s, was %s", got, theirs)
	}
}

// synced runs a case in virtual time.
func synced(t *testing.T, desc string, do func(*testing.T)) {
	t.Helper()
	t.Run(desc, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, do)
	})
}
