// Package engine has the tests that ask the real Prometheus engine, with its own test storage. It
// is a module of its own because of what it needs.
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"github.com/prometheus/prometheus/util/teststorage"

	"github.com/canary-tasks/canary-tasks/lib/analysis"
	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
	"github.com/canary-tasks/canary-tasks/lib/metrics"
)

// prometheus is the engine and its storage behind the part of the HTTP interface that is asked.
type prometheus struct {
	t       *testing.T
	store   *teststorage.TestStorage
	engine  *promql.Engine
	now     time.Time
	client  *metrics.Client
	partial atomic.Bool // a part of the storage does not answer
}

func start(t *testing.T) *prometheus {
	t.Helper()
	p := &prometheus{t: t, store: teststorage.New(t), engine: promqltest.NewTestEngine(t, false, 5*time.Minute, 1e6),
		now: time.Now()}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	var err error
	if p.client, err = metrics.New(server.URL, ""); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *prometheus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text := r.FormValue("query")
	at := time.Now()
	if s := r.FormValue("time"); s != "" {
		seconds, err := strconv.ParseFloat(s, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		at = time.UnixMilli(int64(seconds * 1000))
	}
	answer := func(code int, body any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
	var from storage.Queryable = p.store
	if p.partial.Load() {
		from = storage.QueryableFunc(func(mint, maxt int64) (storage.Querier, error) {
			q, err := p.store.Querier(mint, maxt)
			return partial{q}, err
		})
	}
	query, err := p.engine.NewInstantQuery(r.Context(), from, nil, text, at)
	if err != nil {
		answer(http.StatusBadRequest, map[string]any{"status": "error", "errorType": "bad_data", "error": err.Error()})
		return
	}
	defer query.Close()
	result := query.Exec(r.Context())
	if result.Err != nil {
		answer(http.StatusUnprocessableEntity,
			map[string]any{"status": "error", "errorType": "execution", "error": result.Err.Error()})
		return
	}
	warnings, _ := result.Warnings.AsStrings(text, 10, 10)
	answer(http.StatusOK,
		map[string]any{"status": "success", "warnings": warnings,
			"data": map[string]any{"resultType": result.Value.Type(), "result": result.Value}})
}

// partial warns, as Thanos does when a store is unavailable.
type partial struct{ storage.Querier }

func (q partial) Select(
	ctx context.Context, sorted bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	return warned{q.Querier.Select(ctx, sorted, hints, matchers...)}
}

type warned struct{ storage.SeriesSet }

func (warned) Warnings() annotations.Annotations {
	return annotations.New().Add(errors.New("a store is away"))
}

// series are a metric's samples: seconds ago, value, seconds ago, value and so on, the oldest
// first.
type series struct {
	labels []string
	points []float64
}

func (p *prometheus) put(all ...series) {
	p.t.Helper()
	app := p.store.Appender(p.t.Context())
	for _, s := range all {
		for i := 0; i < len(s.points); i += 2 {
			at := p.now.Add(-time.Duration(s.points[i] * float64(time.Second)))
			if _, err := app.Append(0, labels.FromStrings(s.labels...), at.UnixMilli(), s.points[i+1]); err != nil {
				p.t.Fatal(err)
			}
		}
	}
	if err := app.Commit(); err != nil {
		p.t.Fatal(err)
	}
}

// sent is what a caller's proxy counts, caller being the one that is scraped.
func sent(caller, service, code string, points []float64, more ...string) series {
	return series{append(
		[]string{"__name__", "istio_requests_total", "reporter", "source", "job", "pods", "instance", caller,
			"source_workload", caller, "source_workload_namespace", "web",
			"destination_service", service + ".web.svc.cluster.local", "destination_workload",
			strings.TrimSuffix(service, "-canary"), "destination_workload_namespace", "web", "response_code", code},
		more...), points}
}

// got is what a pod's own proxy counts.
func got(pod, workload, code string, points []float64, more ...string) series {
	return series{append(
		[]string{"__name__", "istio_requests_total", "reporter", "destination", "job", "pods", "instance", pod,
			"destination_service", "shop.web.svc.cluster.local",
			"destination_workload", workload, "destination_workload_namespace", "web", "response_code", code}, more...),
		points}
}

// by is what another kind of proxy counts.
func by(reporter string, s series) series {
	s.labels[3] = reporter
	return s
}

// took is a bucket of either.
func took(s series, name, le string, points []float64) series {
	l := append([]string{}, s.labels...)
	l[1] = name
	return series{append(l, "le", le), points}
}

const (
	milliseconds = "istio_request_duration_milliseconds_bucket"
	seconds      = "istio_request_duration_seconds_bucket"
)

var target = metrics.Target{
	Namespace: "web", Stable: metrics.Arm{Workload: "shop-primary", Service: "shop-primary"},
	Candidate: metrics.Arm{Workload: "shop", Service: "shop-canary"}}

func (p *prometheus) observe(ago float64) *metrics.Observer {
	return p.client.Observe(target, p.now.Add(-time.Duration(ago*float64(time.Second))))
}

func (p *prometheus) look(o *metrics.Observer) counts.Window {
	p.t.Helper()
	w, err := o.Look(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	return w
}

func counted(requests, failed, aborted float64) counts.Counts {
	return counts.Counts{Requests: requests, Errors: failed, Aborted: aborted}
}

// What was counted since 60 s ago.
func TestCounts(t *testing.T) {
	t.Parallel()
	stable := sent("a", "shop-primary", "200", []float64{62, 900, 57, 1000, 52, 1100, 47, 1200})
	for _, c := range []struct {
		desc              string
		series            []series
		stable, candidate counts.Counts
		reporter          string
	}{
		{"from the first scrape after the shift", []series{stable}, counted(200, 0, 0), counted(0, 0, 0),
			"source|waypoint"},
		{"a scrape at the very moment is the baseline",
			[]series{sent("a", "shop-canary", "200", []float64{65, 1, 60, 5, 55, 12})}, counted(0, 0, 0),
			counted(7, 0, 0), "source|waypoint"},
		{"a counter that began anew",
			[]series{sent("a", "shop-canary", "200", []float64{57, 90, 52, 100, 47, 4, 42, 9})}, counted(0, 0, 0),
			counted(19, 0, 0), "source|waypoint"},
		{"a series that is born at 30 beside others of its proxy",
			[]series{stable, sent("a", "shop-canary", "500", []float64{52, 30, 47, 30})}, counted(200, 0, 0),
			counted(30, 30, 0), "source|waypoint"},
		{"a proxy that was not scraped just before",
			[]series{stable, sent("b", "shop-canary", "200", []float64{52, 30, 47, 33})}, counted(200, 0, 0),
			counted(3, 0, 0), "source|waypoint"},
		{"a proxy that was not scraped for a while",
			[]series{sent("a", "shop-primary", "200", []float64{57, 0, 52, 0, 32, 9, 27, 9}),
				sent("a", "shop-canary", "200", []float64{32, 30, 27, 33})}, counted(9, 0, 0), counted(3, 0, 0),
			"source|waypoint"},
		{"a proxy that went away", []series{stable, sent("b", "shop-canary", "200", []float64{57, 0, 52, 8})},
			counted(200, 0, 0), counted(8, 0, 0), "source|waypoint"},
		{"callers before pods, and never both",
			[]series{stable, got("p", "shop", "200", []float64{57, 0, 52, 500}),
				sent("a", "shop-canary", "200", []float64{57, 0, 52, 20})}, counted(200, 0, 0), counted(20, 0, 0),
			"source|waypoint"},
		{"a waypoint is a caller",
			[]series{stable, got("p", "shop", "200", []float64{57, 0, 52, 500}),
				by("waypoint", sent("w", "shop-canary", "200", []float64{57, 0, 52, 20}))}, counted(200, 0, 0),
			counted(20, 0, 0), "source|waypoint"},
		{"no caller has a sidecar",
			[]series{got("p", "shop", "200", []float64{57, 0, 52, 500}),
				got("q", "shop-primary", "503", []float64{57, 0, 52, 5})}, counted(5, 5, 0), counted(500, 0, 0),
			"destination"},
		{"another namespace's",
			[]series{stable, {
				append([]string{},
					strings.Split("__name__ istio_requests_total reporter source destination_service "+
						"shop-canary.other.svc.cluster.local response_code 200", " ")...), []float64{57, 0, 52, 9}}},
			counted(200, 0, 0), counted(0, 0, 0), "source|waypoint"},
		{"gRPC that is unavailable",
			[]series{sent("a", "shop-canary", "200", []float64{57, 0, 52, 9}, "grpc_response_status", "14"),
				sent("a", "shop-canary", "200", []float64{57, 0, 52, 90}, "grpc_response_status", "5")},
			counted(0, 0, 0), counted(99, 9, 0), "source|waypoint"},
		{"callers that gave up", []series{stable, sent("a", "shop-canary", "0", []float64{57, 0, 52, 9})},
			counted(200, 0, 0), counted(0, 0, 9), "source|waypoint"},
		{"no endpoint: nothing but the Service is known",
			[]series{sent("a", "shop-canary", "503", []float64{57, 0, 52, 9}, "response_flags", "UH")},
			counted(0, 0, 0),
			counted(9, 9, 0), "source|waypoint"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			p.put(c.series...)
			w := p.look(p.observe(60))
			if diff := cmp.Diff(
				[]counts.Counts{c.stable, c.candidate}, []counts.Counts{w.Stable, w.Candidate}, cmpopts.EquateEmpty(),
				cmpopts.IgnoreFields(counts.Counts{}, "Within")); diff != "" || w.Reporter != c.reporter {
				t.Errorf("by %s (-want, +got)\n%s", w.Reporter, diff)
			}
			var sum counts.Counts
			for _, s := range w.Strata {
				sum.Requests += s.Candidate.Requests
				sum.Errors += s.Candidate.Errors
			}
			if w.Reporter != "destination" &&
				(sum.Requests != w.Candidate.Requests || sum.Errors != w.Candidate.Errors) {
				t.Errorf("strata have %+v together, all %+v", sum, w.Candidate)
			}
		})
	}
}

// Bounds are those that the proxies have, in milliseconds.
func TestBounds(t *testing.T) {
	t.Parallel()
	all := sent("a", "shop-canary", "200", []float64{57, 0, 52, 10})
	for _, c := range []struct {
		desc   string
		series []series
		want   map[string]float64
		p99    string
	}{
		{"as Istio has them",
			[]series{all, took(all, milliseconds, "250", []float64{57, 0, 52, 0}),
				took(all, milliseconds, "500", []float64{57, 0, 52, 8}),
				took(all, milliseconds, "+Inf", []float64{57, 0, 52, 10})},
			map[string]float64{"250": 0, "500": 8, "+Inf": 10},
			"too few: request duration 500.000001ms > 500ms, 90 more requests are needed"},
		{"seconds, before Istio 1.5",
			[]series{all, took(all, seconds, "0.25", []float64{57, 0, 52, 10}),
				took(all, seconds, "2.5", []float64{57, 0, 52, 10}),
				took(all, seconds, "+Inf", []float64{57, 0, 52, 10})},
			map[string]float64{"250": 10, "2500": 10, "+Inf": 10}, "request duration 248ms <= 500ms"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			p.put(c.series...)
			w := p.look(p.observe(60))
			if diff := cmp.Diff(c.want, w.Candidate.Within); diff != "" {
				t.Errorf("(-want, +got)\n%s", diff)
			}
			if len(w.Strata) != 1 || cmp.Diff(c.want, w.Strata[0].Candidate.Within) != "" {
				t.Errorf("strata %+v", w.Strata)
			}
			if r := analysis.Check(analysis.Limits{RequestDuration: 500 * time.Millisecond}, w); !strings.Contains(
				r.Text, c.p99) {
				t.Errorf("%s", r.Text)
			}
		})
	}
}

// putNative adds a native histogram of the requests of a series: at each of its scrapes, which are
// every 5 s, the counts of the buckets.
func (p *prometheus) putNative(of series, shape histogram.Histogram, counts [][]int64) {
	p.t.Helper()
	l := append([]string{}, of.labels...)
	l[1] = "istio_request_duration_milliseconds"
	app := p.store.Appender(p.t.Context())
	for i, at := range counts {
		h, before := shape.Copy(), int64(0)
		for _, n := range at {
			h.Count += uint64(n)
			h.PositiveBuckets, before = append(h.PositiveBuckets, n-before), n
		}
		if _, err := app.AppendHistogram(
			0, labels.FromStrings(l...), p.now.Add(-time.Duration(57-5*i)*time.Second).UnixMilli(), h,
			nil); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := app.Commit(); err != nil {
		p.t.Fatal(err)
	}
}

// Native histograms have the bounds that Prometheus writes, which are those of the buckets that are
// not empty.
func TestNativeHistograms(t *testing.T) {
	t.Parallel()
	all := sent("a", "shop-canary", "200", []float64{57, 0, 52, 10, 47, 20})
	classic := []series{
		took(all, milliseconds, "250", []float64{57, 0, 52, 10, 47, 20}),
		took(all, milliseconds, "+Inf", []float64{57, 0, 52, 10, 47, 20})}
	for _, c := range []struct {
		desc   string
		series []series
		want   map[string]float64
	}{
		{"alone", []series{all}, map[string]float64{"100": 12, "250": 14, "1000": 18, "+Inf": 20}},
		{"beside classic ones, which Prometheus can keep as well", append([]series{all}, classic...),
			map[string]float64{"250": 20, "+Inf": 20}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			p.put(c.series...)
			p.putNative(all, histogram.Histogram{
				Schema: histogram.CustomBucketsSchema, CustomValues: []float64{100, 250, 1000},
				PositiveSpans: []histogram.Span{{Length: 4}}},
				[][]int64{{3, 0, 0, 0}, {9, 2, 1, 1}, {15, 2, 4, 2}}) // up to 100, 250, 1000 and above
			if w := p.look(p.observe(60)); cmp.Diff(c.want, w.Candidate.Within) != "" || w.Candidate.Requests != 20 {
				t.Errorf("(-want, +got)\n%s", cmp.Diff(c.want, w.Candidate.Within))
			}
		})
	}
}

// Native histograms with exponential bounds, which Prometheus keeps of classic ones if it is asked
// to: of schema 3 there are eight to a doubling, and only those that are not empty are written.
func TestExponentialHistograms(t *testing.T) {
	t.Parallel()
	p := start(t)
	all := sent("a", "shop-canary", "200", []float64{57, 0, 52, 90, 47, 200})
	p.put(all)
	p.putNative(all, histogram.Histogram{
		Schema: 3, ZeroThreshold: 1e-3,
		PositiveSpans: []histogram.Span{{Offset: 64, Length: 1}, {Offset: 7, Length: 2}}},
		[][]int64{{0, 0, 0}, {80, 10, 0}, {150, 46, 4}}) // up to 2^(64/8), 2^(72/8) and 2^(73/8) milliseconds
	w := p.look(p.observe(60))
	within := map[string]float64{}
	for le, n := range w.Candidate.Within {
		if bound, err := strconv.ParseFloat(le, 64); err == nil && !math.IsInf(bound, 0) {
			within[strconv.FormatFloat(bound, 'f', 1, 64)] = n
		}
	}
	if diff := cmp.Diff(map[string]float64{"256.0": 150, "512.0": 196, "558.3": 200}, within); diff != "" ||
		w.Candidate.Within["+Inf"] != 200 {
		t.Errorf("(-want, +got)\n%s", diff)
	}
	r := analysis.Check(analysis.Limits{RequestDuration: 500 * time.Millisecond}, w)
	if r.Reason != analysis.Slow || !strings.Contains(r.Text, "request duration 535ms > 500ms") {
		t.Errorf("%q: %s", r.Reason, r.Text)
	}
}

// A Prometheus that lost its data does not turn stable's past into one stratum.
func TestDataLost(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.put(sent("a", "shop-primary", "200", []float64{57, 1000, 52, 1100}),
		sent("a", "shop-canary", "200", []float64{57, 0, 52, 20}))
	o := p.observe(60)
	if w := p.look(o); w.Stable.Requests != 100 || w.Candidate.Requests != 20 {
		t.Fatalf("%+v", w)
	}
	after := start(t)
	after.now = p.now
	after.put(sent("a", "shop-primary", "200", []float64{12, 5000, 7, 5100}),
		sent("a", "shop-canary", "200", []float64{12, 70, 7, 90}),
		sent("b", "shop-primary", "200", []float64{12, 1e6, 7, 1e6 + 5}))
	w := after.look(after.client.Resume(target, o.State()))
	if w.Stable.Requests != 4100+5 || w.Candidate.Requests != 90 {
		t.Errorf("stable %v, candidate %v", w.Stable.Requests, w.Candidate.Requests)
	}
	for _, s := range w.Strata {
		if s.Stable.Requests > 4000 {
			t.Errorf("one stratum has stable's %v requests since %s", s.Stable.Requests, s.From)
		}
	}
}

// Of a long range it is asked first how many series there are, whichever metrics have them.
func TestLongRange(t *testing.T) {
	t.Parallel()
	p := start(t)
	points := func(by float64) (points []float64) {
		for i := range 60 {
			points = append(points, float64(300-5*i)-.5, by*float64(i))
		}
		return points
	}
	stable, candidate := sent("a", "shop-primary", "200", points(10)), sent("a", "shop-canary", "200", points(5))
	// what a native histogram has: the labels are those of another metric
	same := sent("a", "shop-canary", "200", points(5))
	same.labels[1] = "istio_request_duration_milliseconds"
	p.put(stable, candidate, same, took(candidate, milliseconds, "25", points(2)),
		took(candidate, milliseconds, "+Inf", points(5)))
	if w := p.look(p.observe(300)); w.Stable.Requests != 590 || w.Candidate.Within["25"] != 118 || w.More ||
		w.Missing != "" {
		t.Errorf("%+v", w)
	}
}

// Looks one after the other see what one look sees, also where scrapes are far apart.
func TestLooksAddUp(t *testing.T) {
	t.Parallel()
	p := start(t)
	o := p.observe(100)
	p.put(sent("a", "shop-primary", "200", []float64{95, 0, 65, 300}),
		sent("a", "shop-canary", "200", []float64{95, 0, 65, 60}))
	first := p.look(o)
	p.put(sent("a", "shop-primary", "200", []float64{35, 600, 5, 900}),
		sent("a", "shop-canary", "200", []float64{35, 120, 5, 180}), sent("a", "shop-canary", "500", []float64{5, 6}))
	second := p.look(o)
	all := p.look(p.observe(100))
	if len(first.Strata) != 1 || len(second.Strata) != 2 || second.Interval != 30*time.Second {
		t.Errorf("%d strata, then %d, every %s", len(first.Strata), len(second.Strata), second.Interval)
	}
	if diff := cmp.Diff(all.Candidate, second.Candidate, cmpopts.EquateEmpty()); diff != "" ||
		all.Candidate.Requests != 186 {
		t.Errorf("(-one look, +two)\n%s", diff)
	}
	if third := p.look(o); len(third.Strata) != 0 {
		t.Errorf("nothing was scraped, and there are %d strata", len(third.Strata))
	}
}

// Pods that are scraped at moments of their own share a grid, and nothing is lost on it but what is
// not complete.
func TestCommonGrid(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.put(got("p", "shop-primary", "200", []float64{55, 0, 45, 100, 35, 200, 25, 300, 15, 400}),
		got("q", "shop", "200", []float64{52, 0, 42, 20, 32, 40, 22, 60, 12, 80}))
	w := p.look(p.observe(60))
	if w.Reporter != "destination" || len(w.Strata) != 4 {
		t.Fatalf("%d strata by %s", len(w.Strata), w.Reporter)
	}
	for i, s := range w.Strata {
		want := 20.0
		if i == 0 {
			want = 14 // 7 s of 10: before it was not scraped
		}
		if math.Abs(s.Stable.Requests-100) > 1e-6 || math.Abs(s.Candidate.Requests-want) > 1e-6 {
			t.Errorf("%d: %v and %v", i, s.Stable.Requests, s.Candidate.Requests)
		}
	}
}

// A stratum waits for every pod that is still scraped, and for none that is gone.
func TestGridWaits(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.put(got("p", "shop-primary", "200", []float64{55, 0, 45, 100, 35, 200, 25, 300}),
		got("q", "shop", "200", []float64{52, 0, 42, 20}), got("r", "shop", "200", []float64{54, 7}))
	o := p.observe(60)
	if w := p.look(o); len(w.Strata) != 1 {
		t.Errorf("%d strata before q was scraped again", len(w.Strata))
	}
	p.put(got("q", "shop", "200", []float64{32, 40, 22, 60}))
	if w := p.look(o); len(w.Strata) != 2 {
		t.Errorf("%d more strata after it was", len(w.Strata))
	}
}

func TestMissing(t *testing.T) {
	t.Parallel()
	up := func(pod string, up float64) series {
		return series{[]string{"__name__", "up", "namespace", "web", "pod", pod}, []float64{57, up, 52, up, 2, up}}
	}
	atPods := got("p", "shop-primary", "200", []float64{57, 0, 52, 5, 47, 10}, "source_workload", "cart")
	outside := got("p", "shop-primary", "200", []float64{57, 0, 52, 20, 47, 40}, "source_workload", "unknown")
	for _, c := range []struct {
		desc   string
		series []series
		want   counts.Missing
		says   string
	}{
		{"nothing at all", nil, counts.NoScrape, "are the proxies scraped?"},
		{"nothing since", []series{sent("a", "shop-primary", "200", []float64{90, 5})}, counts.NoScrape,
			"are the proxies scraped?"},
		{"others of the namespace only",
			[]series{sent("a", "cart", "200", []float64{52, 5}), sent("a", "queue", "200", []float64{52, 5}),
				sent("b", "queue", "200", []float64{52, 5})}, counts.NoSeries,
			"Prometheus has 3 series of istio_requests_total, none of shop-primary or shop in namespace web; likely " +
				"cause: another name, labels that do not match, or pods without a sidecar: the namespace " +
				"has series of cart, queue"},
		{"other namespaces only",
			[]series{sent("a", "cart", "200", []float64{90, 5}),
				{[]string{"__name__", "istio_requests_total", "destination_workload", "cart",
					"destination_workload_namespace", "other"}, []float64{52, 5}}}, counts.NoSeries,
			"likely cause: the namespace is not labelled for injection, its pods were not started again since, " +
				"or they are not scraped"},
		{"stable's pods only", []series{atPods}, counts.NoSeries,
			"no proxy counts any of shop: it got none, or its pods have no sidecar that is scraped"},
		{"stable's pods only, and Prometheus knows none of the candidate's",
			[]series{atPods, up("shop-primary-5d8f-x2k4z", 1), up("shop-cart-5d8f-x2k4z", 1)}, counts.NoSeries,
			"; likely cause: Prometheus scrapes the pods of shop-primary, and none of shop"},
		{"stable's pods only, and scraping the candidate's fails",
			[]series{atPods, up("shop-primary-5d8f-x2k4z", 1), up("shop-7c9b-x2k4z", 0)}, counts.NoSeries,
			"; likely cause: scraping the pods of shop fails"},
		{"stable's pods only, and one of the candidate's is scraped",
			[]series{atPods, up("shop-primary-5d8f-x2k4z", 1), up("shop-7c9b-x2k4z", 0), up("shop-7c9b-x2k4y", 1)},
			counts.NoSeries, "no proxy counts any of shop: it got none"},
		{"callers without a sidecar", []series{atPods, outside}, counts.NoSeries,
			"; likely cause: traffic enters outside the mesh: about "},
		{"callers without a sidecar, and the candidate is counted",
			[]series{atPods, outside, got("q", "shop", "200", []float64{57, 5, 52, 5, 47, 5})}, counts.NoRequests,
			"stable got 50 and the candidate none; likely cause: traffic enters outside the mesh: about "},
		{"callers without a sidecar, and one with that asks no more",
			[]series{sent("a", "shop-primary", "200", []float64{57, 5, 52, 5}), outside}, counts.NoRequests,
			"neither stable nor the candidate got any; likely cause: traffic enters outside the mesh"},
		{"nobody asks", []series{
			sent("a", "shop-primary", "200", []float64{57, 5, 52, 5}),
			sent("a", "shop-canary", "200", []float64{57, 5, 52, 5})}, counts.NoRequests,
			"neither stable nor the candidate got any"},
		{"nobody asks the candidate", []series{sent("a", "shop-primary", "200", []float64{57, 5, 52, 9})},
			counts.NoRequests, "stable got 4 and the candidate none"},
		{"all give up", []series{sent("a", "shop-canary", "0", []float64{57, 0, 52, 9})}, counts.NoneAnswered,
			"the callers of 9 gave up"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			p.put(c.series...)
			if w := p.look(p.observe(60)); w.Missing != c.want || !strings.Contains(w.Text, c.says) {
				t.Errorf("%q: %s", w.Missing, w.Text)
			}
		})
	}
}

// Custom queries, as Flagger's users write them.
func TestOwnQueries(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.put(series{[]string{"__name__", "queue_length", "namespace", "web", "pod", "shop-1"}, []float64{32, 7, 1, 9}},
		series{[]string{"__name__", "queue_length", "namespace", "web", "pod", "shop-2"}, []float64{20, 5}},
		series{[]string{"__name__", "jobs_total", "quoted", `a"}`},
			[]float64{50, 0, 40, 60, 30, 120, 20, 180, 10, 240}})
	values := metrics.Values{
		Namespace: "web", Target: "shop", Interval: time.Minute,
		Variables: map[string]string{"pod": "shop-1", "odd": `a"}`}}
	for _, c := range []struct {
		desc, query string
		value       float64
		reach       time.Duration
		err         error
	}{
		{"one number", `max(queue_length{namespace="{{ namespace }}", pod=~"{{ target }}-.*"})`, 9, 0, nil},
		{"with a range", `sum(max_over_time(queue_length{pod="{{ variables.pod }}"}[{{ interval }}]))`, 9, time.Minute,
			nil},
		{"further back", `sum(max_over_time(queue_length{pod="shop-1"}[30s] offset 30s))`, 7, time.Minute, nil},
		{"a value with quotes stays one", `sum(max_over_time(jobs_total{quoted="{{ variables.odd }}"}[2m:10s]))`, 240,
			2 * time.Minute, nil},
		{"a scalar", `scalar(queue_length{pod="shop-2"})`, 5, 0, nil},
		{"several", `queue_length`, 0, 0, metrics.ErrSeveralSeries},
		{"none", `sum(queue_length{pod="other"})`, 0, 0, metrics.ErrNoValues},
		{"no number", `sum(queue_length) * NaN`, 0, 0, metrics.ErrNoValues},
		{"nothing by nothing", `sum(queue_length{pod="other"}) / sum(queue_length{pod="other"})`, 0, 0,
			metrics.ErrNoValues},
		{"what warns is not evaluated", `quantile(3, queue_length)`, 0, 0, metrics.ErrWarning},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			query, err := metrics.Render(c.query, values)
			if err != nil {
				t.Fatal(err)
			}
			reach, err := metrics.Reach(query)
			if err != nil || reach != c.reach {
				t.Errorf("%s reaches %s: %v", query, reach, err)
			}
			value, err := p.client.Value(t.Context(), query)
			if value != c.value || !errors.Is(err, c.err) || c.err == nil && err != nil {
				t.Errorf("%s is %v: %v", query, value, err)
			}
		})
	}
	for query, want := range map[string]string{
		`{{ nothing }}`: "its template cannot be read", `{{ variables.other }}`: "its template cannot be filled in",
		`sum(rate(a[1m])`: "it is no PromQL",
		`a[1m]`:           "it gives a matrix", ``: "it is empty", `"text"`: "it gives a string",
		`sum(rate(a[1m] @ 1700000000))`:        "it looks at a fixed time",
		`max_over_time(sum(a)[5m:1m] @ end())`: "leave the @ modifier out"} {
		text, err := metrics.Render(query, values)
		if err == nil {
			_, err = metrics.Reach(text)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", query, err, want)
		}
	}
	if _, err := p.client.Value(t.Context(), `sum(`); !errors.Is(err, metrics.ErrQuery) {
		t.Errorf("what Prometheus refuses: %v", err)
	}
}

// Who sends what to which version.
func TestCallers(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.put(sent("cart", "shop-primary", "200", []float64{57, 0, 7, 800}),
		sent("cart", "shop-canary", "200", []float64{57, 0, 7, 200}),
		sent("outside", "shop-primary", "200", []float64{57, 0, 7, 100}))
	o := p.observe(60)
	p.look(o)
	all, err := o.Callers(t.Context())
	if err != nil || len(all) != 2 || !strings.HasPrefix(all[0].String(), "web/cart 20.0 % of") ||
		!strings.HasPrefix(all[1].String(), "web/outside 0.0 % of") {
		t.Errorf("%v: %v", all, err)
	}
}

// How the candidate's requests ended: what an application answered, what a proxy answered in its
// place, and gRPC, which is 200 for HTTP.
func TestAnswers(t *testing.T) {
	t.Parallel()
	p := start(t)
	ended := func(code, grpc, flags string, n float64) series {
		return sent("cart", "shop-canary", code, []float64{57, 0, 7, n}, "grpc_response_status", grpc, "response_flags",
			flags)
	}
	p.put(sent("cart", "shop-primary", "200", []float64{57, 0, 7, 800}), ended("200", "14", "-", 60),
		sent("cart", "shop-canary", "503", []float64{7, 30}, "grpc_response_status", "", "response_flags", "UH"),
		ended("500", "", "-", 10))
	o := p.observe(60)
	p.look(o)
	all, err := o.Answers(t.Context())
	if got, want := fmt.Sprint(all),
		"[200 gRPC 14 (Unavailable) 60 % 503 UH (no healthy upstream) 30 % 500 10 %]"; err != nil || got != want {
		t.Errorf("%s: %v, not %s", got, err, want)
	}
}

// The whole way from scrapes to a judgement.
func TestJudge(t *testing.T) {
	t.Parallel()
	rising := func(each float64) []float64 { // a scrape every 5 s
		var points []float64
		for i := range 8 {
			points = append(points, 57-5*float64(i), each*float64(i))
		}
		return points
	}
	stable, candidate := sent("a", "shop-primary", "200", rising(400)), sent("a", "shop-canary", "200", rising(100))
	// durations of both versions: how many requests of each scrape took no longer than a bound.
	durations := func(le string, ofStable, ofCandidate float64) []series {
		all := []series{stable, candidate, took(stable, milliseconds, "+Inf", rising(400)),
			took(candidate, milliseconds, "+Inf", rising(100))}
		return append(all, took(stable, milliseconds, "100", rising(1)),
			took(candidate, milliseconds, "100", rising(1)), took(stable, milliseconds, le, rising(ofStable)),
			took(candidate, milliseconds, le, rising(ofCandidate)))
	}
	var many []series
	for i := range 10001 {
		many = append(many, sent("a", "shop-canary", "200", []float64{57, 0, 22, 1}, "source_version", strconv.Itoa(i)))
	}
	limits, fast := analysis.Limits{SuccessRate: 99}, analysis.Limits{RequestDuration: 500 * time.Millisecond}
	for _, c := range []struct {
		desc      string
		limits    analysis.Limits
		series    []series
		verdict   analysis.Verdict
		reason    analysis.Reason
		early     bool
		nothingIn bool // there is no judgement before the deadline
		text      string
	}{
		{"healthy", limits, []series{stable, candidate}, analysis.Pass, analysis.Good, false, false,
			"success rate 100.00% >= 99%"},
		{"it fails", limits,
			[]series{stable, sent("a", "shop-canary", "200", rising(80)), sent("a", "shop-canary", "500", rising(20))},
			analysis.Fail, analysis.Failing, true, false, "140 of 700 requests failed"},
		{"it fails always", limits, []series{stable, sent("a", "shop-canary", "503", rising(100))}, analysis.Fail,
			analysis.AllFailing, true, false, "700 of 700 requests failed"},
		{"both fail", limits,
			[]series{sent("a", "shop-primary", "200", rising(320)), sent("a", "shop-primary", "500", rising(80)),
				sent("a", "shop-canary", "200", rising(80)), sent("a", "shop-canary", "500", rising(20))},
			analysis.Inconclusive, analysis.Environment, false, false, "both versions are beyond the limit"},
		{"it is slow", fast, durations("500", 400, 50), analysis.Fail, analysis.Slow, true, false,
			"350 of 700 requests took longer than 500ms"},
		{"it is hardly slow: the check", fast, durations("500", 400, 98.5), analysis.Fail, analysis.Slow, false, false,
			"request duration > 500ms, where the proxies' longest bucket ends"},
		{"as fast as it has to be", fast, durations("500", 400, 100), analysis.Pass, analysis.Good, false, false,
			"request duration 496ms <= 500ms"},
		{"nobody measures durations", fast, []series{stable, candidate}, analysis.Inconclusive, analysis.NoDurations,
			false, true, "no proxy measured how long its requests took"},
		{"the longest bucket ends below the limit", fast, durations("400", 400, 50), analysis.Inconclusive,
			analysis.NoDurations, false, true,
			"request duration > 400ms, where the proxies' longest bucket ends: whether it is <= 500ms cannot be told"},
		{"it gets a hundredth", limits, []series{stable, sent("a", "shop-canary", "200", rising(4))},
			analysis.Inconclusive, analysis.SplitNotHonoured, false, true, "the candidate gets 1.0 % of the requests"},
		{"it gets nothing", limits, []series{stable}, analysis.Inconclusive, analysis.SplitNotHonoured, false, true,
			"the candidate gets 0.0 % of the requests"},
		{"hardly any requests", limits,
			[]series{sent("a", "shop-primary", "200", rising(4)), sent("a", "shop-canary", "200", rising(1))},
			analysis.Inconclusive, analysis.TooFew, false, true, "3 more are needed"},
		{"nobody asks for either", limits, []series{sent("a", "shop-primary", "200", rising(0))}, analysis.Inconclusive,
			analysis.Reason(counts.NoRequests), false, true, "neither stable nor the candidate got any"},
		{"it hangs until all give up", limits, []series{stable, sent("a", "shop-canary", "0", rising(100))},
			analysis.Inconclusive, analysis.Reason(counts.NoneAnswered), false, true, "the callers of 700 gave up"},
		{"nobody counts it", limits, []series{got("p", "shop-primary", "200", rising(400))}, analysis.Inconclusive,
			analysis.Reason(counts.NoSeries), false, true, "no proxy counts any of shop"},
		{"nothing is scraped", limits, nil, analysis.Inconclusive, analysis.Reason(counts.NoScrape), false, true,
			"are the proxies scraped?"},
		{"more series than are looked at", limits, many, analysis.Inconclusive, analysis.Reason(counts.TooManySeries),
			false, true, "series, and at most 10000 are"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			p.put(c.series...)
			j := p.judge(c.limits, 30*time.Second)
			w := p.look(p.observe(60))
			r, ok := j.Look(w)
			if !ok && j.Due(w, p.now) {
				r, ok = j.Check(w, nil, p.now)
			}
			if ok == c.nothingIn {
				t.Fatalf("a judgement %v: %s", ok, r.Text)
			}
			if late := j.Deadline; !ok && j.Due(w, late) {
				r, ok = j.Check(w, nil, late)
			}
			if !ok || r.Verdict != c.verdict || r.Reason != c.reason || r.Early != c.early ||
				!strings.Contains(r.Text, c.text) {
				t.Errorf("%v %s, %q, early %v: %s", ok, r.Verdict, r.Reason, r.Early, r.Text)
			}
		})
	}
}

// judge judges at a weight of 20 %.
func (p *prometheus) judge(limits analysis.Limits, interval time.Duration) *analysis.Judge {
	p.t.Helper()
	objectives, err := limits.Objectives(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	sequential, err := analysis.NewSequential(
		analysis.Plan{Objectives: objectives, Alpha: .05, Intervals: 3}, analysis.Evidence{})
	if err != nil {
		p.t.Fatal(err)
	}
	return &analysis.Judge{
		Limits: limits, Interval: interval, Weight: .2, Deadline: p.now.Add(time.Minute), Sequential: sequential}
}

// With a scrape every 30 s an interval of a minute is two of them: it is over with the third
// scrape, and not before.
func TestScrapesFarApart(t *testing.T) {
	t.Parallel()
	p := start(t)
	o, j := p.observe(100), p.judge(analysis.Limits{SuccessRate: 99}, time.Minute)
	for i, ago := range []float64{95, 65, 35, 5} {
		n := float64(i)
		p.put(sent("a", "shop-primary", "200", []float64{ago, 400 * n}),
			sent("a", "shop-canary", "200", []float64{ago, 100 * n}))
		w := p.look(o)
		if r, ok := j.Look(w); ok {
			t.Fatalf("%v s ago: %s", ago, r.Text)
		}
		if due := j.Due(w, p.now); due != (i == 2) {
			t.Fatalf("%v s ago it is due: %v", ago, due)
		} else if !due {
			continue
		}
		if r, ok := j.Check(w, nil, p.now); !ok || r.Verdict != analysis.Pass || r.Counts.Requests != 200 ||
			r.To.Sub(r.From) != time.Minute || w.Interval != 30*time.Second {
			t.Errorf("%v %s in %s, scraped every %s: %s", ok, r.Verdict, r.To.Sub(r.From), w.Interval, r.Text)
		}
	}
}

// A range has no left end: a scrape just so long ago is not in it. It is asked for nevertheless, as
// the baseline that the next scrape is counted from.
func TestLeftOpenRange(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.now = time.Now().Truncate(time.Second)
	p.put(sent("a", "shop-canary", "200", []float64{65, 1, 60, 5, 55, 12, 50, 20}))
	at := p.now.Add(-50 * time.Second).Unix()
	// the scrapes 50 and 55 s ago; that of 60 s ago only with a little more
	for query, want := range map[string]float64{
		"sum(count_over_time(istio_requests_total[10s] @ %d))": 2,
		"sum(count_over_time(istio_requests_total[11s] @ %d))": 3,
	} {
		if n, err := p.client.Value(t.Context(), fmt.Sprintf(query, at)); err != nil || n != want {
			t.Errorf("%s is %v: %v", query, n, err)
		}
	}
	if w := p.look(p.observe(60)); w.Candidate.Requests != 15 || w.Scrapes != 3 {
		t.Errorf("%v requests in %d scrapes", w.Candidate.Requests, w.Scrapes)
	}
}

// An answer that may not be whole is not evaluated, and nothing is lost by that.
func TestWarning(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.put(sent("a", "shop-canary", "200", []float64{57, 0, 52, 20}))
	o := p.observe(60)
	p.look(o)
	p.put(sent("a", "shop-canary", "200", []float64{47, 40}))
	p.partial.Store(true)
	if w, err := o.Look(t.Context()); !errors.Is(err, metrics.ErrWarning) ||
		!strings.Contains(err.Error(), "warns: a store is away") || w.Candidate.Requests != 0 {
		t.Errorf("%v requests: %v", w.Candidate.Requests, err)
	}
	p.partial.Store(false)
	if w := p.look(o); w.Candidate.Requests != 40 || len(w.Strata) != 1 {
		t.Errorf("%v requests in %d strata", w.Candidate.Requests, len(w.Strata))
	}
}
