package release

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/routing"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// Where traffic is safe, by phase, by what stable and the candidate run, and by which of them is
// up.
func TestSafe(t *testing.T) {
	t.Parallel()
	type copy struct {
		revision        string
		want, available int32
	}
	all := func(revision string) copy { return copy{revision, 4, 4} }
	some := func(revision string) copy { return copy{revision, 4, 1} }
	none := func(revision string) copy { return copy{revision, 4, 0} }
	gone := copy{}
	const stay = -1
	for _, c := range []struct {
		desc              string
		phase             Phase
		stable, candidate copy
		judged, fails     bool
		now               int32 // the candidate's weight
		want              int32
	}{
		{"a candidate is judged", Progressing, all("1"), all("2"), false, false, 40, 0},
		{"stable has lost pods", Progressing, some("1"), all("2"), false, false, 40, 0},
		{"stable has no pod", Progressing, none("1"), all("2"), false, false, 40, 100},
		{"stable has no pod, and the candidate is half up", Progressing, none("1"), some("2"), false, false, 40, 100},
		{"nobody has a pod", Progressing, none("1"), none("2"), false, false, 40, stay},
		{"stable is gone", Progressing, gone, all("2"), false, false, 40, 100},
		{"the candidate is gone", Progressing, all("1"), gone, false, false, 40, 0},
		{"both are gone", Progressing, gone, gone, false, false, 40, stay},
		{"stable becomes what was judged", Promoting, some("2"), all("2"), true, false, 60, 0},
		{"it is shown to fail there", Promoting, all("2"), all("2"), true, true, 60, 100},
		{"it fails, and the candidate has pods missing", Promoting, all("2"), some("2"), true, true, 60, stay},
		{"it fails, and the target has another revision", Promoting, all("2"), all("3"), true, true, 60, stay},
		{"it fails, and has no pod", Promoting, none("2"), some("2"), true, true, 60, 100},
		{"it goes back", RollingBack, some("1"), all("2"), true, true, 100, 100},
		{"it goes back, and the candidate is lost", RollingBack, some("1"), none("2"), true, true, 100, stay},
		{"it is back", RollingBack, all("1"), all("2"), true, true, 100, 0},
		{"a rollback before a verdict", RollingBack, all("1"), all("2"), false, false, 40, 0},
		{"the candidate came to the rescue, and was never judged", RollingBack, some("1"), all("2"), false, false, 100,
			0},
		{"the candidate came to the rescue, and was judged", RollingBack, some("1"), all("2"), true, false, 100, 100},
		{"a first release", Initializing, some("first"), all("1"), false, false, 100, stay},
		{"a first release whose stable is up", Initializing, all("first"), all("1"), false, false, 100, 0},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			of := func(c copy, annotated bool) *deployment {
				if c == gone {
					return nil
				}
				d := &appsv1.Deployment{}
				d.Spec.Replicas = &c.want
				d.Status.Replicas, d.Status.UpdatedReplicas, d.Status.AvailableReplicas = c.want, c.want, c.available
				if annotated {
					d.Spec.Template.Annotations = map[string]string{workload.RevisionAnnotation: c.revision}
				}
				return &deployment{Deployment: d}
			}
			s := &snapshot{layout: workload.Layout{Target: "shop"}, primary: of(c.stable, true),
				target: of(c.candidate, false), revision: c.candidate.revision,
				split: &routing.Split{Candidate: c.now, Stable: 100 - c.now},
				record: &Record{Phase: c.phase, Stable: Version{Revision: "1"}, Candidate: Version{Revision: "2"},
					StableFails: c.fails,
					Config:      config.Config{ReadyThreshold: 100, Weights: []config.Percent{60}},
					Shifts:      []Shift{{Weight: 60, Passed: c.judged}}}}
			if c.stable.revision == "first" {
				s.record.Stable = Version{}
			}
			got := s.safe()
			if want := c.want; got.known != (want != stay) || got.known && got.weight != want {
				t.Errorf("%+v, want %d", got, want)
			}
			if got.why == "" {
				t.Error("it does not say why")
			}
		})
	}
	if got := (&snapshot{
		layout: workload.Layout{Target: "shop"},
		primary: &deployment{
			Deployment: &appsv1.Deployment{
				Status: appsv1.DeploymentStatus{AvailableReplicas: 1}}}}).safe(); !got.known || got.weight != 0 {
		t.Errorf("without a record: %+v", got)
	}
}

// weights are those of the route, as stable/candidate.
func (a *apiserver) weights() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.weightsLocked()
}

func (a *apiserver) weightsLocked() string {
	o := &unstructured.Unstructured{Object: a.objects["virtualservices/shop"]}
	split, err := routing.Find(o, routing.Route{Target: "shop", Stable: "shop-primary", Candidate: "shop-canary"})
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d/%d", split.Stable, split.Candidate)
}

// run runs a step as a process does, and returns its code and its last line.
func (a *apiserver) run(r *Release, do func(*Release, context.Context) error) (report.Code, string) {
	code := r.run(a.t.Context(), do)
	return code, r.verdict
}

// edit changes an object as a person does.
func (a *apiserver) edit(key string, change func(o map[string]any)) {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	change(a.objects[key])
	var as map[string]any // with the types that JSON has
	if err := kube.Decode(a.objects[key], &as); err != nil {
		a.t.Fatal(err)
	}
	a.put(key, as)
}

// route replaces the routes of the VirtualService.
func (a *apiserver) route(routes ...any) {
	a.edit("virtualservices/shop", func(o map[string]any) { o["spec"].(map[string]any)["http"] = routes })
}

func to(destinations ...any) map[string]any {
	var route []any
	for i := 0; i < len(destinations); i += 2 {
		d := map[string]any{"destination": map[string]any{"host": destinations[i]}}
		if destinations[i+1] != nil {
			d["weight"] = destinations[i+1]
		}
		route = append(route, d)
	}
	return map[string]any{"route": route}
}

// Stable fails as it becomes what was judged. Its traffic goes to the candidate, which passed,
// until stable is back on its own; the revision is remembered.
func TestStableFailsInPromotion(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	r := a.step("promote", "run-2")
	s, err := r.observe(t.Context(), scope{})
	must(t, err)
	next := s.record.clone()
	next.Phase = Promoting
	must(t, r.Client.Do(t.Context(), s.write(next, "")))
	s, err = r.observe(t.Context(), scope{autoscalers: true})
	must(t, err)
	must(t, r.Client.Do(t.Context(), r.planPromote(s).writes[0])) // stable becomes shop:2
	var weights []string
	a.onWrite = func(string) {
		if now := a.weightsLocked(); len(weights) == 0 || weights[len(weights)-1] != now {
			weights = append(weights, now)
		}
	}
	must(t, r.stableFailed(t.Context(), "stable fails"))
	if diff := cmp.Diff([]string{"60/40", "0/100", "100/0"}, weights); diff != "" {
		t.Errorf("the weights (-want, +got)\n%s", diff)
	}
	a.want(state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Rejected})
	wantCode(t, a.promote("run-2"), report.Rejected, "stable fails")
	must(t, a.rollback("run-2")) // in finally, for Git
	wantCode(t, a.init("run-3"), report.Rejected, "was rejected at")
}

// Somebody made something else of the route in mid-release. What releases do not understand is not
// taken for nothing to do: the candidate loses its traffic wherever the route leads to it, and the
// run is red.
func TestRouteOfSomebodyElse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc   string
		change func(*apiserver)
		want   string // of the route afterwards
		says   []string
		code   report.Code // of rollback
	}{
		{"a third destination", func(a *apiserver) { a.route(to("shop-primary", 50, "shop-canary", 40, "old", 10)) },
			`http[0] "" -> shop-primary=90, shop-canary=0, old=10`,
			[]string{"shop has no traffic; where the rest goes is not known", "old=10"}, report.Undecided},
		{"the candidate alone", func(a *apiserver) { a.route(to("shop-canary", nil)) },
			`http[0] "" -> shop-primary=100`, []string{"shop has no traffic", "no HTTP route leads to exactly"},
			report.Undecided},
		{"deleted", func(a *apiserver) { a.mu.Lock(); defer a.mu.Unlock(); delete(a.objects, "virtualservices/shop") },
			"", []string{"VirtualService shop is gone: callers in the mesh reach Service shop, " +
				"which leads to shop-primary"}, report.Undecided},
		{"replaced by the chart's own", func(a *apiserver) {
			a.apply("{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: shop}, spec: " +
				"{hosts: [shop], http: [{route: [{destination: {host: shop}}]}]}}")
		}, `http[0] "" -> shop=100`, []string{"VirtualService shop leads to Service shop, which leads to shop-primary"},
			report.Done},
		{"replaced without its annotations", func(a *apiserver) {
			a.apply("{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: shop}, spec: " +
				"{hosts: [shop], http: [{route: [{destination: {host: shop-primary}, weight: 10}, {destination: " +
				"{host: shop-canary}, weight: 90}]}]}}")
		}, `http[0] "" -> shop-primary=100, shop-canary=0`, []string{"stable runs revision", "and has all the traffic"},
			report.Done},
	} {
		for _, step := range []string{"analyze", "promote", "shift-weight", "rollback"} {
			t.Run(c.desc+", "+step, func(t *testing.T) {
				t.Parallel()
				a := afterInit(t)
				a.release("run-2")
				c.change(a)
				route := func() string {
					o := a.objects["virtualservices/shop"]
					if o == nil {
						return ""
					}
					return routing.Describe(&unstructured.Unstructured{Object: o})
				}
				if step != "rollback" {
					r := a.step(step, "run-2")
					r.Step.Weight = 40
					code, last := a.run(
						r, map[string]func(*Release, context.Context) error{
							"analyze": (*Release).Analyze, "promote": (*Release).Promote,
							"shift-weight": (*Release).Shift}[step])
					if code != report.Undecided || !strings.Contains(last, "VirtualService shop") {
						t.Errorf("code %d: %s", code, last)
					}
					if got := route(); got != c.want {
						t.Errorf("after %s the route is %s, want %s", step, got, c.want)
					}
				}
				code, last := a.run(a.step("rollback", "run-2"), (*Release).Rollback)
				if got := route(); got != c.want {
					t.Errorf("the route is %s, want %s", got, c.want)
				}
				if code != c.code {
					t.Errorf("code %d, want %d", code, c.code)
				}
				for _, says := range c.says {
					if !strings.Contains(last, says) {
						t.Errorf("the last line does not say %q:\n%s", says, last)
					}
				}
				if got := a.state(); got.Phase != Failed || got.Candidate != "shop:2 x0" {
					t.Errorf("%+v", got)
				}
			})
		}
	}
}

// Git is put right although the route is not understood, once the candidate has no traffic.
func TestGitIsPutRightAllTheSame(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	a.route(to("shop-primary", 50, "shop-canary", 40, "old", 10))
	r := a.step("rollback", "run-2")
	r.Step.Git = config.Git{Repository: "https://git.example.com/env", Mode: "commit", App: "shop"}
	var asked []Undo
	r.PutRight = func(_ context.Context, _ config.Git, u Undo) (Righted, error) {
		asked = append(asked, u)
		return Righted{}, nil
	}
	wantCode(t, r.Rollback(t.Context()), report.Undecided, "where the rest goes is not known")
	if len(asked) != 1 {
		t.Errorf("Git was put right %d times", len(asked))
	}
}

// Somebody deleted the record in mid-release, or broke it: traffic goes back all the same, and the
// run is red.
func TestRecordIsGone(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]func(*apiserver){
		"shop": func(a *apiserver) { delete(a.objects, "configmaps/shop-canary-release") },
		"another": func(a *apiserver) {
			a.edit("configmaps/shop-canary-release",
				func(o map[string]any) { o["data"] = map[string]any{recordKey: "{"} })
		},
	} {
		for step, do := range map[string]func(*Release, context.Context) error{
			"analyze": (*Release).Analyze, "shift-weight": (*Release).Shift, "promote": (*Release).Promote,
			"rollback": (*Release).Rollback} {
			t.Run(step+", VirtualService "+name, func(t *testing.T) {
				t.Parallel()
				begin := func(run string) *config.Config {
					cfg := testConfig(run)
					cfg.VirtualService = name
					return cfg
				}
				a := newAPIServer(t, settings, shopService, shop("1"))
				must(t, a.initWith(begin("run-1")))
				a.apply(shop("2"))
				must(t, a.initWith(begin("run-2")), a.shift("run-2", 20))
				lost(a)
				r := a.step(step, "run-2")
				r.Step.Weight = 40
				code, last := a.run(r, do)
				route := routing.Describe(&unstructured.Unstructured{Object: a.objects["virtualservices/"+name]})
				if code != report.Undecided || route != `http[0] "" -> shop-primary=100, shop-canary=0` {
					t.Errorf("code %d, %s: %s", code, route, last)
				}
				code, last = a.run(a.step("rollback", "run-2"), (*Release).Rollback)
				if code != report.Undecided ||
					!strings.Contains(last, "the release record, ConfigMap shop-canary-release, ") ||
					!strings.Contains(last, "has all the traffic") {
					t.Errorf("code %d: %s", code, last)
				}
				old := field(a.objects["virtualservices/"+name], "metadata",
					"annotations")["shop.canary-tasks.dev/fence"]
				delete(a.objects, "configmaps/shop-canary-release")
				must(t, a.initWith(begin("run-3")))
				if now := field(a.objects["virtualservices/"+name], "metadata",
					"annotations")["shop.canary-tasks.dev/fence"]; fmt.Sprint(now) <= fmt.Sprint(old) {
					t.Errorf("the fence was %v and is %v", old, now)
				}
			})
		}
	}
	a := newAPIServer(t, settings, shopService, shop("1")) // nothing was ever released
	code, last := a.run(a.step("rollback", "run-1"), (*Release).Rollback)
	if code != report.Done || !strings.Contains(last, "nothing to roll back") {
		t.Errorf("code %d: %s", code, last)
	}
}

// A newer revision takes over from a release that has traffic. Wherever its canary-init dies, or
// istiod refuses it, nobody is left with traffic that nobody judges: the target's pods are the
// newer revision's by then.
func TestTakeoverIsCutOff(t *testing.T) {
	t.Parallel()
	begin := func() *apiserver {
		a := afterInit(t)
		a.apply(shop("2"))
		must(t, a.init("run-2"), a.shift("run-2", 20), a.judge("run-2"), a.shift("run-2", 40))
		a.apply(shop("3"))
		return a
	}
	for k := 0; ; k++ {
		a := begin()
		err := a.killed(k, func() error { return a.init("run-3") })
		if err == nil {
			break
		}
		holder := a.state().Phase == Initializing
		if got := a.weights(); holder && got != "100/0" {
			t.Errorf("killed after %d writes: run-3 has the lock, and the weights are %s", k, got)
		}
		must(t, a.rollback("run-3"), a.rollback("run-2"))
		if got := a.weights(); got != "100/0" {
			t.Errorf("killed after %d writes and rolled back: the weights are %s", k, got)
		}
	}
	a := begin() // istiod's webhook refuses
	a.refuses = 1000
	if err := a.init("run-3"); err == nil {
		t.Error("it took over")
	}
	a.refuses = 0
	wantCode(t, a.shift("run-2", 40), report.Undecided, "superseded")
	if got := a.weights(); got != "100/0" {
		t.Errorf("refused: the weights are %s", got)
	}
	// the older run writes a weight between the two writes of the takeover
	for step, do := range map[string]func(*apiserver) error{
		"shift-weight": func(a *apiserver) error { return a.shift("run-2", 60) },
		"rollback":     func(a *apiserver) error { return a.rollback("run-2") },
	} {
		a := begin()
		r := a.step("canary-init", "run-3")
		r.Config = testConfig("run-3")
		s, err := r.observe(t.Context(), scope{services: true, copies: true})
		must(t, err)
		if p := r.planInit(s); p.writes[0].Kind != kube.VirtualService {
			t.Fatalf("it takes the lock before the traffic is safe: %v", p.writes)
		}
		must(t, r.Client.Do(t.Context(), s.write(r.begin(s), ""))) // and dies
		if got := a.state(); got.Weights != "60/40" || got.Phase != Initializing {
			t.Fatalf("%s: it is %+v", step, got)
		}
		_ = do(a)
		if got := a.weights(); got != "100/0" {
			t.Errorf("%s of the older run leaves %s", step, got)
		}
	}
}

// Every step that is terminated says so in the record, so that the next run need not wait.
func TestTerminated(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc    string
		prepare func(*apiserver)
		step    string
		do      func(*apiserver, *Release, context.Context) error
		at      string // the write after which it is terminated
		weights string
	}{
		{"canary-init", func(a *apiserver) { a.apply(shop("2")) }, "canary-init",
			func(_ *apiserver, r *Release, ctx context.Context) error {
				r.Config = testConfig("run-2")
				return r.Init(ctx, nil)
			}, "patch deployments/shop-primary", "100/0"},
		{"rollback", func(a *apiserver) { a.release("run-2") }, "rollback",
			func(_ *apiserver, r *Release, ctx context.Context) error { return r.Rollback(ctx) },
			"patch configmaps/shop-canary-release", "100/0"},
		{"rollback by hand", func(a *apiserver) { a.release("run-2"); must(a.t, a.promote("run-2")) }, "rollback",
			func(_ *apiserver, r *Release, ctx context.Context) error {
				r.Step.RunID = ""
				return r.Rollback(ctx)
			}, "patch configmaps/shop-canary-release", "100/0"},
		{"detach", func(*apiserver) {}, "rollback", func(_ *apiserver, r *Release, ctx context.Context) error {
			r.Step.Mode = config.Detach
			return r.Rollback(ctx)
		}, "patch configmaps/shop-canary-release", "100/0"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			a := afterInit(t)
			c.prepare(a)
			ctx, cancel := context.WithCancel(t.Context())
			a.mu.Lock()
			a.onWrite = func(did string) {
				if did == c.at {
					cancel()
				}
			}
			a.mu.Unlock()
			r := a.step(c.step, "run-2")
			wantCode(t, c.do(a, r, ctx), report.Undecided, "ended before it was done")
			a.mu.Lock()
			a.onWrite = nil
			a.mu.Unlock()
			s, err := a.step("anyone", "x").observe(t.Context(), scope{recordOnly: true})
			must(t, err)
			if !s.record.Interrupted {
				t.Errorf("it is not noted: phase %s", s.record.Phase)
			}
			if got := a.weights(); got != c.weights {
				t.Errorf("weights %s", got)
			}
			a.apply(shop("3"))
			must(t, a.init("run-3")) // at once
			if got := a.state(); got.Candidate != "shop:3 x2" || got.Weights != "100/0" {
				t.Errorf("%+v", got)
			}
		})
	}
}

// A ConfigMap changed since the promotion, and numbers of the record have other types: detach ends,
// with as few writes as ever.
func TestDetachAfterAChange(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.apply(strings.Replace(settings, "blue", "green", 1))
	before := len(a.Writes)
	must(t, a.detach())
	if n := len(a.Writes) - before; n > 20 {
		t.Errorf("%d writes: %v", n, a.Writes[before:])
	}
	if diff := cmp.Diff(state{Candidate: "shop:1 x2", Selects: "shop"}, a.state()); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
}

// A plan that changes nothing, or that somebody undoes each time, ends.
func TestFight(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	r := a.step("anyone", "run-1")
	synctest.Test(t, func(t *testing.T) {
		before, begin := len(a.Writes), time.Now()
		err := r.drive(t.Context(), scope{}, func(s *snapshot) plan {
			return plan{writes: []kube.Write{s.target.scale(0, "")}}
		})
		wantCode(t, err, report.Undecided, "Deployment/shop was written")
		if n, took := len(a.Writes)-before, time.Since(begin); n > 60 || took > 2*maxFight {
			t.Errorf("%d writes in %s", n, took)
		}
	})
}

// Only the release's next weight is given, and only after the one before was judged.
func TestWeightsInOrder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc   string
		weight int32
		says   string
		before func(*apiserver)
	}{
		{"the last first", 40, "the next weight of this release is 20, of [20 40]: set weight=20", func(*apiserver) {}},
		{"one that is not the release's", 90, "the next weight of this release is 20", func(*apiserver) {}},
		{"none", 0, "the next weight of this release is 20", func(*apiserver) {}},
		{"before a verdict", 40, "weight 20 is not judged yet: run analyze first",
			func(a *apiserver) { must(a.t, a.shift("run-2", 20)) }},
		{"more than the last", 60, "the last weight of this release, 40, is judged: run promote", func(a *apiserver) {
			must(a.t, a.shift("run-2", 20), a.judge("run-2"), a.shift("run-2", 40), a.judge("run-2"))
		}},
		{"back to one before", 20, "is judged: run promote", func(a *apiserver) {
			must(a.t, a.shift("run-2", 20), a.judge("run-2"), a.shift("run-2", 40), a.judge("run-2"))
		}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			a := afterInit(t)
			a.apply(shop("2"))
			must(t, a.init("run-2"))
			c.before(a)
			wantCode(t, a.shift("run-2", c.weight), report.Undecided, c.says)
			if got := a.weights(); got != "100/0" {
				t.Errorf("weights %s", got)
			}
			if err := a.promote("run-2"); codeOf(err) == report.Done {
				t.Error("it was promoted")
			}
		})
	}
}

// Steps whose accounts may and may not read Secrets agree on the revision, in one release and from
// one to the next.
func TestSecretsThatOnlySomeMayRead(t *testing.T) {
	t.Parallel()
	mounting := func(version string) string {
		return strings.Replace(shop(version), "[{configMapRef", "[{secretRef: {name: keys}}, {configMapRef", 1)
	}
	const keys = "{kind: Secret, metadata: {name: keys}, data: {token: dA==}}"
	may := func(a *apiserver, read bool) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.denied["get secrets"] = !read
	}
	for _, first := range []bool{true, false} {
		a := newAPIServer(t, settings, keys, shopService, mounting("1"))
		may(a, first)
		must(t, a.init("run-1"))
		may(a, !first)
		must(t, a.init("run-1b"))
		a.want(initialized) // and not a needless release
		may(a, first)
		a.apply(mounting("2"))
		must(t, a.init("run-2"))
		may(a, !first)
		must(t, a.shift("run-2", 20), a.judge("run-2"))
		may(a, first)
		must(t, a.shift("run-2", 40), a.judge("run-2"))
		may(a, !first)
		must(t, a.promote("run-2"))
		a.want(promoted)
		may(a, first)
		before := a.versions()
		must(t, a.init("run-3"))
		if diff := cmp.Diff(before, a.versions()); diff != "" {
			t.Errorf("first %t (-before, +after)\n%s", first, diff)
		}
		may(a, true)
		a.apply(strings.Replace(settings, "blue", "green", 1)) // what counts still counts
		must(t, a.init("run-4"))
		if got := a.state().Phase; got != Progressing {
			t.Errorf("first %t: another ConfigMap is no revision: %s", first, got)
		}
	}
}

// A service account's token is mounted as it is: it cannot be copied.
func TestTokenAmongTheMounts(t *testing.T) {
	t.Parallel()
	a := newAPIServer(
		t, settings, shopService,
		strings.Replace(shop("1"), "[{configMapRef", "[{secretRef: {name: token}}, {configMapRef", 1),
		"{kind: Secret, metadata: {name: token}, type: kubernetes.io/service-account-token, data: {token: dA==}}")
	r := a.step("canary-init", "run-1")
	r.Config = testConfig("run-1")
	must(t, r.Init(t.Context(), nil))
	if log := fmt.Sprint(r.Report.Out); !strings.Contains(log, "Secret/token is the token of a service account") {
		t.Errorf("it does not say so:\n%s", log)
	}
	for key := range a.objects {
		if strings.HasPrefix(key, "secrets/token-") {
			t.Errorf("%s was made", key)
		}
	}
	if stable := fmt.Sprint(a.objects["deployments/shop-primary"]["spec"]); !strings.Contains(
		stable, "secretRef:map[name:token]") {
		t.Errorf("stable mounts another: %s", stable)
	}
}

// canary-init of a run that was rolled back is red when it is run again.
func TestInitAfterTheEnd(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	must(t, a.rollback("run-2"))
	wantCode(t, a.init("run-2"), report.Undecided, "this run ended as aborted already")
}

// Who edits stable by hand is told so by the next run, which has nothing to release. A restart is
// no edit.
func TestStableEditedByHand(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	template := func(change func(template map[string]any)) {
		a.edit("deployments/shop-primary",
			func(o map[string]any) { change(field(o, "spec", "template")) })
	}
	last := func() string {
		r := a.step("canary-init", "run-2")
		r.Config = testConfig("run-2")
		code, last := a.run(r, func(r *Release, ctx context.Context) error { return r.Init(ctx, nil) })
		if code != report.Done {
			t.Errorf("code %d", code)
		}
		return last
	}
	if got := last(); strings.Contains(got, "edited") {
		t.Errorf("nobody did: %s", got)
	}
	template(func(template map[string]any) {
		field(template, "metadata", "annotations")["kubectl.kubernetes.io/restartedAt"] = "2026-01-01T00:00:00Z"
	})
	if got := last(); strings.Contains(got, "edited") {
		t.Errorf("restarted: %s", got)
	}
	template(func(template map[string]any) {
		template["spec"].(map[string]any)["containers"].([]any)[0].(map[string]any)["image"] = "shop:hack"
	})
	if got := last(); !strings.Contains(got, "warning: the pod template of shop-primary was edited since") {
		t.Errorf("edited: %s", got)
	}
}

// Conflicts are counted only as long as nothing gets on.
func TestConflictsAreForgotten(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	r := a.step("anyone", "run-1")
	synctest.Test(t, func(t *testing.T) {
		n := 0
		must(t, r.drive(t.Context(), scope{}, func(s *snapshot) plan {
			if n++; n > 3*maxConflicts {
				return plan{done: &result{}}
			}
			w := s.target.scale(int32(n), "")
			if n%2 == 0 {
				w.Patch[0].Value = "stale"
			}
			return plan{writes: []kube.Write{w}}
		}))
	})
}

// Nobody answers behind stable's Service: the candidate, which does, has the traffic until somebody
// puts that right.
func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.release("run-2")
	a.edit("services/shop-primary",
		func(o map[string]any) { o["spec"].(map[string]any)["selector"] = map[string]any{"app": "typo"} })
	wantCode(t, a.rollback("run-2"), report.Undecided,
		"not rolled back: Service shop-primary has no ready endpoint; shop has all the traffic")
	if got := a.state(); got.Weights != "0/100" || got.Candidate != "shop:2 x2" {
		t.Errorf("nobody answers, and it is %+v", got)
	}
	a.edit("services/shop-primary",
		func(o map[string]any) { o["spec"].(map[string]any)["selector"] = map[string]any{"app": "shop-primary"} })
	must(t, a.rollback("run-2"))
	a.want(state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted})
}
