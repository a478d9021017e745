package release

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube/client"
	"github.com/canary-tasks/canary-tasks/lib/kube/kubetest"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/routing"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

var (
	seeds     = flag.Int("seeds", 200, "how many random worlds TestRandom runs")
	firstSeed = flag.Uint64("seed", 1, "the first of them")
)

// TestRandom lets several pipelines release one target, with kills, SIGTERM, lost answers and
// people who edit what is being released. Whatever comes, these hold:
//   - No version that fails is in stable. One that fails as stable only, is not there once its
//     release has ended.
//   - After a rollback stable runs what it ran before.
//   - Nobody gives the candidate traffic but the run that holds the target.
//   - The weights of the route add up to 100.
//   - The target passes from one run to another only when stable has all the traffic.
//   - A stable that is noted to fail gets no more traffic while the candidate it was made of is up.
//   - Once all finally tasks have ended, no version has traffic that was not judged.
//   - The next run repairs every state.
//   - The last sentence of a step is true.
//
// A failure says its seed: go test -run 'TestRandom' ./lib/release -seeds 1 -seed N.
func TestRandom(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]int{}
	t.Cleanup(func() { // once all worlds have ended
		t.Logf("%d seeds, %d states seen: %v", *seeds, len(seen), slices.Sorted(maps.Keys(seen)))
		for _, must := range []string{
			"kill", "sigterm", "lost", "nested", "takeover", "promoted", "rejected", "aborted", "stable fails",
			"hand: weights",
			"hand: third destination", "hand: candidate alone", "hand: route deleted", "hand: chart's route",
			"hand: record deleted", "hand: target scaled",
			"hand: selector set back", "hand: stable has no pods", "new revision"} {
			if *seeds >= 200 && seen[must] == 0 {
				t.Errorf("%q was never seen", must)
			}
		}
	})
	for i := range *seeds {
		seed := *firstSeed + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			var w *world
			synctest.Test(t, func(t *testing.T) {
				w = newWorld(t, seed)
				w.live()
				w.end()
			})
			mu.Lock()
			defer mu.Unlock()
			for s, n := range w.seen {
				seen[s] += n
			}
		})
	}
}

// nature is what a version is really like, whatever a release finds out.
type nature int

const (
	good          nature = iota
	bad                  // the analysis rejects it
	badAsStable          // it passes as candidate, and fails as stable
	notJudged            // the analysis ends inconclusive
	howManyNature        // how many there are
)

// world is a cluster on which pipelines release one target.
type world struct {
	t         *testing.T
	rand      *rand.Rand
	api       *apiserver
	mu        sync.Mutex        // of natures and seen: stable is watched beside a step
	natures   map[string]nature // by image
	version   int
	pipelines []*pipeline
	seen      map[string]int
	log       bytes.Buffer
	depth     int
	weight    int32           // of stable, when it was looked at last
	epoch     int64           // of the record, when it was looked at last
	holder    string          // of the record then
	meanwhile bool            // something else happened within the step that runs
	exempt    map[string]bool // versions that only fail as stable, whose record somebody deleted
	noPods    bool            // somebody scaled stable to 0
	loose     bool            // a pipeline without finally was killed
	human     bool            // somebody made a route that a person has to put right
}

// pipeline is a PipelineRun at work.
type pipeline struct {
	id            string
	finally       bool
	seen          bool // it is a PipelineRun
	next          int
	failed, ended bool
	cut           bool // a step was killed or terminated
}

var pipelineSteps = []string{"canary-init", "shift-weight 20", "analyze", "shift-weight 40", "analyze", "promote"}

func newWorld(t *testing.T, seed uint64) *world {
	t.Helper()
	w := &world{t: t, rand: rand.New(rand.NewPCG(seed, 0)), natures: map[string]nature{}, seen: map[string]int{},
		exempt: map[string]bool{}}
	w.api = newAPIServer(t, settings, shopService, autoscaler)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d:\n%s", seed, w.log.String())
		}
	})
	w.api.onWrite = func(string) { w.check() }
	w.newVersion(good)
	first := w.start()
	first.finally = true
	for !first.ended {
		w.advance(first, nil)
	}
	return w
}

func (w *world) say(format string, args ...any) { fmt.Fprintf(&w.log, format+"\n", args...) }

func (w *world) saw(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[what]++
}

// nature is that of an image.
func (w *world) nature(image string) nature {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.natures[image]
}

func (w *world) newVersion(n nature) {
	w.version++
	v := strconv.Itoa(w.version)
	w.mu.Lock()
	w.natures["shop:"+v] = n
	w.mu.Unlock()
	w.say("version %s is applied, nature %d", v, n)
	w.api.apply(shop(v))
}

func (w *world) start() *pipeline {
	p := &pipeline{id: fmt.Sprintf("run-%d", len(w.pipelines)+1), finally: w.rand.IntN(4) > 0, seen: w.rand.IntN(4) > 0}
	w.pipelines = append(w.pipelines, p)
	w.say("%s starts (finally %t, a PipelineRun %t)", p.id, p.finally, p.seen)
	if p.seen {
		w.api.apply("{apiVersion: tekton.dev/v1, kind: PipelineRun, metadata: {name: " + p.id + ", uid: " + p.id +
			"}, status: {conditions: [{type: Succeeded, status: Unknown}]}}")
	}
	return p
}

// live lets a while pass.
func (w *world) live() {
	w.newVersion(nature(w.rand.IntN(int(howManyNature))))
	w.start()
	for range 10 + w.rand.IntN(10) {
		w.tick()
	}
}

// tick is one thing that happens.
func (w *world) tick() {
	var alive []*pipeline
	for _, p := range w.pipelines {
		if !p.ended {
			alive = append(alive, p)
		}
	}
	switch n := w.rand.IntN(20); {
	case n == 0 && len(w.pipelines) < 5:
		w.saw("new revision")
		w.newVersion(nature(w.rand.IntN(int(howManyNature))))
		w.start()
	case n == 1 && len(w.pipelines) < 5:
		w.start() // the same revision
	case n <= 5:
		w.hand()
	case len(alive) == 0:
		w.newVersion(nature(w.rand.IntN(int(howManyNature))))
		w.start()
	default:
		p := alive[w.rand.IntN(len(alive))]
		w.advance(p, w.faults(!p.failed && p.next == len(pipelineSteps)-1))
	}
}

// faults are what goes wrong in a step.
type faults struct {
	kill, term, lose, nest int  // at so many writes; negative: never
	stale                  bool // what else happens comes before the write, which was planned already
}

func (w *world) faults(promotes bool) *faults {
	f := &faults{-1, -1, -1, -1, w.rand.IntN(2) == 0}
	n := w.rand.IntN(12)
	if promotes && w.rand.IntN(2) == 0 { // while stable changes
		n = 5
	}
	switch n {
	case 0, 1:
		f.kill = w.rand.IntN(6)
	case 2:
		f.term = w.rand.IntN(4)
	case 3:
		f.lose = w.rand.IntN(4)
	case 4, 5:
		if w.depth == 0 {
			f.nest = w.rand.IntN(4)
		}
	}
	return f
}

// advance runs a pipeline's next step.
func (w *world) advance(p *pipeline, f *faults) {
	if p.failed || p.next == len(pipelineSteps) {
		if p.finally {
			if _, cut := w.step(p, "rollback", f); cut {
				return // it is tried again
			}
		}
		w.finish(p)
		return
	}
	name := pipelineSteps[p.next]
	p.next++
	err, cut := w.step(p, name, f)
	if cut {
		p.cut = true
		// who is terminated as it is done has nothing left to do
		w.loose = w.loose || !p.finally && (f.term < 0 || err == nil)
	}
	p.failed = err != nil || cut
}

func (w *world) finish(p *pipeline) {
	p.ended = true
	if p.seen {
		w.api.apply("{apiVersion: tekton.dev/v1, kind: PipelineRun, metadata: {name: " + p.id + ", uid: " + p.id +
			"}, status: {conditions: [{type: Succeeded, status: 'False'}]}}")
	}
}

// wire is the connection of one step to the API server.
type wire struct {
	w      *world
	f      *faults
	run    string
	cancel context.CancelFunc
	writes int
	dead   bool
	nested bool
}

// refused is what a process that was killed gets for its writes, which does as well.
var refused = &kubetest.Failure{Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden}

func (c *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if c.dead {
		return refused.RoundTrip(r)
	}
	if c.f == nil || r.Method == http.MethodGet || strings.HasSuffix(r.URL.Path, "events") ||
		strings.HasSuffix(r.URL.Path, "reviews") {
		return c.w.api.RoundTrip(r)
	}
	n := c.writes
	c.writes++
	if c.before(n); c.dead {
		return refused.RoundTrip(r)
	}
	answer, err := c.write(r)
	if n == c.f.nest && !c.f.stale {
		c.nest()
	}
	if n == c.f.lose {
		c.w.saw("lost")
		if err == nil {
			answer.Body.Close()
		}
		return (&kubetest.Failure{Code: http.StatusGatewayTimeout, Reason: metav1.StatusReasonTimeout}).RoundTrip(r)
	}
	return answer, err
}

// before is what happens before a write.
func (c *wire) before(n int) {
	switch n {
	case c.f.kill:
		c.dead = true
		c.w.saw("kill")
		return
	case c.f.term:
		c.w.saw("sigterm")
		c.cancel()
	}
	if n == c.f.nest && c.f.stale {
		c.nest()
	}
}

// write sends a write, and looks whether the candidate gets traffic by one who does not hold the
// target.
func (c *wire) write(r *http.Request) (*http.Response, error) {
	before := c.w.share()
	answer, err := c.w.api.RoundTrip(r)
	if now := c.w.share(); now > before && c.w.up() && c.w.api.holder() != c.run && c.w.api.record() != nil {
		c.w.t.Errorf("%s gives the candidate %d %% while %s holds the target", c.run, now, c.w.api.holder())
	}
	return answer, err
}

// nest lets something else happen.
func (c *wire) nest() {
	c.w.saw("nested")
	c.nested, c.w.meanwhile = true, true
	c.w.depth++
	c.w.say("  meanwhile:")
	if c.w.rand.IntN(3) == 0 && len(c.w.pipelines) < 5 {
		c.w.newVersion(nature(c.w.rand.IntN(int(howManyNature))))
		c.w.advance(c.w.start(), c.w.faults(false)) // which takes over
	} else {
		c.w.tick()
	}
	c.w.say("  and on")
	c.w.depth--
}

// step runs a step of a pipeline, and says whether it was killed or terminated.
func (w *world) step(p *pipeline, name string, f *faults) (err error, cut bool) {
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	name, argument, _ := strings.Cut(name, " ")
	c := &wire{w: w, f: f, run: p.id, cancel: cancel}
	client, err := client.New(&rest.Config{Host: "http://api", Transport: c}, "web")
	if err != nil {
		w.t.Fatal(err)
	}
	r := &Release{Client: client, Report: &report.Reporter{Out: io.Discard, Step: name}}
	r.Step.Namespace, r.Step.Target, r.Step.RunID, r.Step.RunName = "web", "shop", p.id, p.id
	if w.depth == 0 {
		w.meanwhile = false
	}
	before := w.api.holder()
	code := r.run(ctx, func(r *Release, ctx context.Context) error { return steps[name](w, ctx, r, argument) })
	if c.dead && name == "rollback" && code == report.Done {
		w.t.Errorf("%s %s was killed and is green: %s", p.id, name, r.verdict)
	}
	w.say("%s %s: %s: %s [%s]", p.id, name, report.Codes[code].Name, r.verdict, w.now())
	if now := w.api.holder(); name == "canary-init" && now == p.id && before != "" && before != now {
		w.saw("takeover")
	}
	if !c.nested && !c.dead && ctx.Err() == nil {
		w.claims(name, r.verdict)
	}
	if code != report.Done {
		err = errors.New(r.verdict)
	}
	return err, c.dead || ctx.Err() != nil
}

// steps are what the steps of a pipeline do, by their name and with its argument.
var steps = map[string]func(w *world, ctx context.Context, r *Release, argument string) error{
	"canary-init": func(_ *world, ctx context.Context, r *Release, _ string) error {
		r.Config = testConfig(r.Step.RunID)
		r.Config.RunNamespace = "web"
		return r.Init(ctx, nil)
	},
	"shift-weight": func(_ *world, ctx context.Context, r *Release, argument string) error {
		n, _ := strconv.Atoi(argument)
		r.Step.Weight = config.Percent(n)
		return r.Shift(ctx)
	},
	"analyze": func(w *world, ctx context.Context, r *Release, _ string) error { return w.analyze(ctx, r) },
	"promote": func(w *world, ctx context.Context, r *Release, _ string) error {
		r.stableWatch = w.watchStable
		return r.Promote(ctx)
	},
	"rollback": func(_ *world, ctx context.Context, r *Release, _ string) error { return r.Rollback(ctx) },
}

// analyze is the step analyze, but for what it measures.
func (w *world) analyze(ctx context.Context, r *Release) error {
	return r.orToStable(ctx, func() error {
		s, err := r.observe(ctx, scope{})
		if err != nil {
			return err
		}
		if p := r.mayGoOn(s, Progressing); p.decided() {
			return r.finish(ctx, *p.done)
		}
		shift := s.record.shift()
		if shift == nil {
			return report.Errorf(report.Undecided, "nothing to judge")
		}
		if shift.Passed {
			return nil
		}
		image := s.target.Spec.Template.Spec.Containers[0].Image
		if n := w.nature(image); n == bad || n == notJudged {
			_ = r.toStable(ctx)
			err := r.update(ctx, func(record *Record) {
				if record.Outcome, record.Reason = Inconclusive, "no requests"; n == bad {
					record.reject("it fails", time.Now())
				}
			})
			if err != nil {
				return err
			}
			return report.Errorf(report.Rejected, "not good")
		}
		return r.update(ctx, func(record *Record) { record.shift().Passed = true })
	})
}

// watchStable says that stable fails as soon as it runs a version that does.
func (w *world) watchStable(ctx context.Context) string {
	for ctx.Err() == nil {
		w.api.mu.Lock()
		image := imageOf(w.api.objects["deployments/shop-primary"])
		w.api.mu.Unlock()
		if w.nature(image) == badAsStable {
			w.saw("stable fails")
			return "90 % of its requests fail"
		}
		sleep(ctx, firstPoll/50)
	}
	return ""
}

func imageOf(deployment map[string]any) string {
	containers, _, _ := unstructured.NestedSlice(deployment, "spec", "template", "spec", "containers")
	if len(containers) == 0 {
		return ""
	}
	image, _ := containers[0].(map[string]any)["image"].(string)
	return image
}

// holder is the run that holds the target, where it is being released.
func (a *apiserver) holder() string {
	if r := a.record(); r != nil && !r.Phase.ended() {
		return r.Holder
	}
	return ""
}

// record is the release record; nil where there is none.
func (a *apiserver) record() *Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.recordLocked()
}

func (a *apiserver) recordLocked() *Record {
	o := a.objects["configmaps/shop-canary-release"]
	if o == nil {
		return nil
	}
	r, err := readRecord(&unstructured.Unstructured{Object: o})
	if err != nil {
		a.t.Error(err)
	}
	return r
}

// hand is somebody who changes what is being released.
func (w *world) hand() {
	r := w.api.record()
	if r == nil || r.Phase.ended() {
		return
	}
	for _, p := range w.pipelines {
		w.loose = w.loose || p.id == r.Holder && !p.finally
	}
	h := hands[w.rand.IntN(len(hands))]
	if h.rare && w.rand.IntN(3) > 0 || h.ofRoute && !w.has("virtualservices/shop") {
		return
	}
	h.do(w)
	w.saw("hand: " + h.name)
	w.say("by hand: %s [%s]", h.name, w.now())
}

// has reports whether there is an object.
func (w *world) has(key string) bool {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	return w.api.objects[key] != nil
}

// hands are what somebody may do to what is being released.
var hands = []struct {
	name    string
	ofRoute bool // only when there is a route
	rare    bool // one time out of three
	do      func(w *world)
}{
	{name: "weights", ofRoute: true, do: func(w *world) { w.api.route(to("shop-primary", 30, "shop-canary", 70)) }},
	{name: "third destination", ofRoute: true, do: func(w *world) {
		w.api.route(to("shop-primary", 50, "shop-canary", 40, "old", 10))
		w.human = true
	}},
	{name: "candidate alone", ofRoute: true, do: func(w *world) {
		w.api.route(to("shop-canary", nil))
		w.human = true
	}},
	{name: "route deleted", ofRoute: true, do: func(w *world) {
		w.api.mu.Lock()
		defer w.api.mu.Unlock()
		delete(w.api.objects, "virtualservices/shop")
	}},
	{name: "chart's route", ofRoute: true, do: func(w *world) { w.api.apply(chartsRoute) }},
	{name: "record deleted", do: func(w *world) {
		w.api.mu.Lock()
		defer w.api.mu.Unlock()
		delete(w.api.objects, "configmaps/shop-canary-release")
		w.exempt[imageOf(w.api.objects["deployments/shop-primary"])] = true
	}},
	{name: "target scaled", do: func(w *world) {
		w.api.edit("deployments/shop",
			func(o map[string]any) { o["spec"].(map[string]any)["replicas"] = w.rand.IntN(5) })
	}},
	{name: "selector set back", do: func(w *world) {
		w.api.edit("services/shop",
			func(o map[string]any) { o["spec"].(map[string]any)["selector"] = map[string]any{"app": "shop"} })
		w.human = true // canary-init names who did it
	}},
	{name: "stable has no pods", rare: true, do: func(w *world) {
		w.api.edit("deployments/shop-primary", func(o map[string]any) { o["spec"].(map[string]any)["replicas"] = 0 })
		w.noPods = true
	}},
}

// chartsRoute is a route as a chart has it.
const chartsRoute = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: shop}, spec: " +
	"{hosts: [shop], http: [{route: [{destination: {host: shop}}]}]}}"

// now is what people see.
func (w *world) now() string {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	phase := ""
	if r := w.api.recordLocked(); r != nil {
		phase = fmt.Sprintf("%s %s %s", r.Holder, r.Phase, r.Outcome)
	}
	return fmt.Sprintf(
		"%s, stable %s, target %s, %s", w.routeLocked(), imageOf(w.api.objects["deployments/shop-primary"]),
		imageOf(w.api.objects["deployments/shop"]), phase)
}

func (w *world) routeLocked() string {
	o := w.api.objects["virtualservices/shop"]
	if o == nil {
		return "no route"
	}
	return routing.Describe(&unstructured.Unstructured{Object: o})
}

// moment is what there is after a write.
type moment struct {
	stable string         // its image
	record *Record        // nil: none
	split  *routing.Split // nil: none that can be read
}

// invariants hold after every write. They are called with the lock held.
var invariants = []func(*world, moment){
	(*world).stableIsJudged, (*world).stableIsBack, (*world).weightsAddUp, (*world).failingStableGetsNoMore,
	(*world).passedOnInPeace}

// check looks at what holds after every write. The lock is held.
func (w *world) check() {
	m := moment{stable: imageOf(w.api.objects["deployments/shop-primary"]), record: w.api.recordLocked()}
	o := w.api.objects["virtualservices/shop"]
	if o != nil {
		split, err := routing.Find(
			&unstructured.Unstructured{Object: o},
			routing.Route{Target: "shop", Stable: "shop-primary", Candidate: "shop-canary"})
		if err == nil {
			m.split = &split
		}
	}
	for _, holds := range invariants {
		holds(w, m)
	}
	switch {
	case m.split != nil:
		w.weight = m.split.Stable
	case o != nil:
		w.weight = 0
	}
	if r := m.record; r != nil {
		w.epoch, w.holder = r.Epoch, r.Holder
		if w.saw(string(r.Phase)); r.Outcome != "" {
			w.saw(string(r.Outcome))
		}
	}
}

// stableIsJudged: no version that fails is in stable, and one that fails as stable only is not
// there once its release has ended.
func (w *world) stableIsJudged(m moment) {
	switch w.nature(m.stable) {
	case bad, notJudged:
		w.t.Errorf("version %s is in stable", m.stable)
	case badAsStable:
		if m.record != nil && m.record.Phase.ended() && !w.exempt[m.stable] {
			w.t.Errorf("version %s, which fails as stable, is there after its release", m.stable)
		}
	}
}

// stableIsBack: after a rollback stable runs what it ran before.
func (w *world) stableIsBack(m moment) {
	r := m.record
	if r == nil || r.Phase != Failed || r.Stable.Revision == "" || w.exempt[m.stable] {
		return
	}
	runs, _, _ := unstructured.NestedString(
		w.api.objects["deployments/shop-primary"], "spec", "template", "metadata", "annotations",
		workload.RevisionAnnotation)
	if runs != r.Stable.Revision {
		w.t.Errorf("the release of %s was rolled back to %s, and stable runs %s", r.Holder, r.Stable.Revision, runs)
	}
}

// weightsAddUp: the weights of the route add up to 100.
func (w *world) weightsAddUp(m moment) {
	if s := m.split; s != nil && s.Stable+s.Candidate != 100 {
		w.t.Errorf("the weights are %d and %d", s.Stable, s.Candidate)
	}
}

// failingStableGetsNoMore: a stable that is noted to fail gets no more traffic while the candidate
// it was made of is up.
func (w *world) failingStableGetsNoMore(m moment) {
	target := w.api.objects["deployments/shop"]
	fails := w.nature(m.stable) == badAsStable && m.record != nil && m.record.StableFails &&
		imageOf(target) == m.stable && available(target) > 0
	if fails && m.split != nil && m.split.Stable > w.weight {
		w.t.Errorf(
			"version %s is shown to fail as stable, and gets %d %% after %d %%", m.stable, m.split.Stable, w.weight)
	}
}

// passedOnInPeace: the target passes from one run to another only when stable has all the traffic.
func (w *world) passedOnInPeace(m moment) {
	r, s := m.record, m.split
	passes := r != nil && r.Epoch > w.epoch && r.Holder != w.holder && w.holder != "" // from one run to another
	if s != nil && passes && !w.meanwhile && s.Candidate > 0 && s.Stable > 0 &&
		available(w.api.objects["deployments/shop-primary"]) > 0 {
		w.t.Errorf("%s takes the target from %s, and the candidate has %d %%", r.Holder, w.holder, s.Candidate)
	}
}

var (
	allTraffic = regexp.MustCompile(`stable runs revision (\S+) and has all the traffic`)
	shares     = regexp.MustCompile(`has (\d+) % of the traffic, stable (\d+) %`)
)

// share is the candidate's share of the traffic.
func (w *world) share() int32 {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	o := w.api.objects["virtualservices/shop"]
	if o == nil {
		return 0
	}
	return routing.ToCandidate(
		&unstructured.Unstructured{Object: o},
		routing.Route{Target: "shop", Stable: "shop-primary", Candidate: "shop-canary"})
}

// up reports whether stable has a pod.
func (w *world) up() bool {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	return available(w.api.objects["deployments/shop-primary"]) > 0
}

// claims compares the last sentence of a step with the cluster.
func (w *world) claims(step, said string) {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	o := w.api.objects["virtualservices/shop"]
	if m := allTraffic.FindStringSubmatch(said); m != nil {
		runs, _, _ := unstructured.NestedString(
			w.api.objects["deployments/shop-primary"], "spec", "template", "metadata", "annotations",
			workload.RevisionAnnotation)
		share := int32(100)
		if o != nil {
			share = routing.ToCandidate(
				&unstructured.Unstructured{Object: o},
				routing.Route{Target: "shop", Stable: "shop-primary", Candidate: "shop-canary"})
		}
		if up := available(w.api.objects["deployments/shop-primary"]); runs != m[1] || share != 0 || up == 0 {
			w.t.Errorf("%s says %q; stable runs %s in %d pods, and the candidate has %d %%", step, said, runs, up,
				share)
		}
	}
	if m := shares.FindStringSubmatch(said); m != nil {
		if got := w.api.weightsLocked(); got != m[2]+"/"+m[1] {
			w.t.Errorf("%s says %q; the weights are %s", step, said, got)
		}
	}
}

// end lets all pipelines end, looks who has traffic, and releases a good version.
func (w *world) end() {
	for _, p := range w.pipelines {
		for !p.ended {
			if !p.finally && p.failed {
				w.finish(p)
				continue
			}
			if !p.failed { // cancelled: it is terminated, and finally runs
				p.failed = true
				if p.next > 0 && p.next < len(pipelineSteps) && !p.cut {
					_, _ = w.step(p, pipelineSteps[p.next], &faults{-1, 0, -1, -1, false})
				}
				continue
			}
			w.advance(p, nil)
		}
	}
	held := false
	for _, p := range w.pipelines { // hands may have come after the first rollback of it
		if p.finally && p.id == w.api.holder() {
			_, _ = w.step(p, "rollback", nil)
			held = true
		}
	}
	w.say("all have ended [%s]", w.now())
	if !w.loose {
		w.safe("all finally tasks ended", held)
	}
	w.repair()
}

// safe looks that no version has traffic that was not judged. held says that a finally task has
// just looked after the target: then it goes where a pod serves.
func (w *world) safe(when string, held bool) {
	w.api.mu.Lock()
	defer w.api.mu.Unlock()
	o := w.api.objects["virtualservices/shop"]
	target := imageOf(w.api.objects["deployments/shop"])
	share := routing.ToCandidate(
		&unstructured.Unstructured{Object: o},
		routing.Route{Target: "shop", Stable: "shop-primary", Candidate: "shop-canary"})
	if o == nil {
		share = 0
	}
	up := available(w.api.objects["deployments/shop-primary"]) > 0
	if share > 0 && up && w.nature(target) != good && w.nature(target) != badAsStable {
		w.t.Errorf("%s: version %s has %d %% of the traffic: %s", when, target, share, w.routeLocked())
	}
	if weights := w.api.weightsLocked(); weights == "100/0" && !up && held &&
		available(w.api.objects["deployments/shop"]) > 0 {
		w.t.Errorf("%s: traffic goes to stable, which has no pod, and the target has some: %s", when, w.routeLocked())
	}
}

// repair releases a good version: whatever was left, it ends as stable with all the traffic.
func (w *world) repair() {
	w.api.mu.Lock()
	if r := w.api.recordLocked(); r != nil && !r.Phase.ended() { // its run is no PipelineRun: time has to pass
		r.Interrupted = true
		w.api.objects["configmaps/shop-canary-release"]["data"].(map[string]any)[recordKey] = r.text()
	}
	w.api.mu.Unlock()
	if w.noPods {
		w.api.edit("deployments/shop-primary", func(o map[string]any) {
			if fmt.Sprint(o["spec"].(map[string]any)["replicas"]) == "0" {
				o["spec"].(map[string]any)["replicas"] = 2
			}
		})
	}
	if w.human {
		w.api.apply(chartsRoute)
		w.api.edit("services/shop",
			func(o map[string]any) { o["spec"].(map[string]any)["selector"] = map[string]any{"app": "shop-primary"} })
	}
	w.newVersion(good)
	p := w.start()
	for !p.ended {
		w.advance(p, nil)
	}
	if got, want := w.api.state(),
		(state{"100/0", fmt.Sprintf("shop:%d", w.version), fmt.Sprintf("shop:%d x0", w.version), "shop-primary",
			Succeeded, Promoted}); got.Weights != want.Weights ||
		!strings.HasPrefix(got.Stable, want.Stable+" x") || got.Candidate != want.Candidate ||
		got.Selects != want.Selects || got.Phase != want.Phase || got.Outcome != want.Outcome {
		w.t.Errorf("the next run does not repair it: %+v", got)
	}
	for _, name := range []string{"scale", "scale-primary"} {
		metadata := field(w.api.objects["horizontalpodautoscalers/"+name], "metadata")
		if notes := fmt.Sprint(metadata["annotations"]); strings.Contains(notes, workload.FloorAnnotation) {
			w.t.Errorf("%s keeps its floor: %s", name, notes)
		}
	}
}
