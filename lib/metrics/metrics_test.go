package metrics

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/common/model"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// prometheus speaks its HTTP API and answers with series that a test has set. A real one is in
// test/e2e.
type prometheus struct {
	mu      sync.Mutex
	series  []series
	queries []string
	beside  []map[string]string              // what it has beside the series: labels, and the value as "="
	fail    func(w http.ResponseWriter) bool // answers in its place when it returns true
	warn    string
	asked   func(*http.Request)
	limits  bool // how many series it answers with, where it is asked to, as Prometheus does since 3.2
	now     time.Time
}

// series are samples of a metric, each so many seconds before now.
type series struct {
	labels map[string]string
	points map[float64]float64 // seconds ago -> value
}

func start(t *testing.T, p *prometheus) *Client {
	t.Helper()
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	c, err := New(s.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (p *prometheus) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queries = append(p.queries, r.FormValue("query"))
	if p.asked != nil {
		p.asked(r)
	}
	if p.now.IsZero() {
		p.now = time.Now() // all series of a scrape have its time
	}
	if p.fail != nil && p.fail(w) {
		return
	}
	result, kind := p.evaluate(p.parse(r))
	var warnings []string
	if p.warn != "" {
		warnings = append(warnings, p.warn)
	}
	if limit, _ := strconv.Atoi(r.FormValue("limit")); p.limits && limit > 0 && len(result) > limit {
		result, warnings = result[:limit], append(warnings, "results truncated due to limit")
	}
	answer := map[string]any{"status": "success", "data": map[string]any{"resultType": kind, "result": result}}
	if len(warnings) > 0 {
		answer["warnings"] = warnings
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// query is what a request asks for.
type query struct {
	text    string
	at      time.Time
	metrics []string
	within  time.Duration // the range of a selector
}

// parse reads a request.
func (p *prometheus) parse(r *http.Request) query {
	q := query{text: r.FormValue("query"), at: p.now}
	if seconds, err := strconv.ParseFloat(r.FormValue("time"), 64); err == nil {
		q.at = time.UnixMilli(int64(seconds * 1000))
	}
	_, span, _ := strings.Cut(q.text, "}[")
	span, _, _ = strings.Cut(span, "]")
	q.within, _ = time.ParseDuration(span)
	_, names, _ := strings.Cut(q.text, `{__name__=~"`)
	names, _, _ = strings.Cut(names, `"`)
	q.metrics = strings.Split(names, "|")
	return q
}

// evaluate returns the result of a query and its type.
func (p *prometheus) evaluate(q query) (result []any, kind string) {
	switch {
	case strings.HasPrefix(q.text, "label_replace(count(last_over_time("):
		return p.sizes(q), "vector"
	case q.text == "vector(1)":
		return []any{map[string]any{"metric": map[string]string{}, "value": []any{1, "1"}}}, "vector"
	case strings.HasPrefix(q.text, "label_replace("):
		return p.whatElse(q), "vector"
	}
	return p.rawSamples(q), "matrix"
}

// samples returns the samples of a series in the range of a query, as seconds before now, the
// oldest first.
func (p *prometheus) samples(q query, s series) (ago []float64) {
	if !slices.Contains(q.metrics, s.labels["__name__"]) ||
		strings.Contains(q.text, `"source|waypoint"`) == (s.labels["reporter"] == "destination") {
		return nil
	}
	for a := range s.points {
		if t := p.time(a); t.After(q.at.Add(-q.within)) && !t.After(q.at) {
			ago = append(ago, a)
		}
	}
	slices.Sort(ago)
	slices.Reverse(ago)
	return ago
}

// time returns the time that was so many seconds before now.
func (p *prometheus) time(ago float64) time.Time {
	return p.now.Add(-time.Duration(ago * float64(time.Second)))
}

// sizes returns the number of series in a range, and the most samples that one of them has.
func (p *prometheus) sizes(q query) []any {
	result := []any{}
	n, most := 0, 0
	for _, s := range p.series {
		if scrapes := len(p.samples(q, s)); scrapes > 0 {
			n, most = n+1, max(most, scrapes)
		}
	}
	if n == 0 {
		return result
	}
	for is, value := range map[string]int{"series": n, "scrapes": most} {
		result = append(result,
			map[string]any{"metric": map[string]string{"is": is}, "value": []any{1, strconv.Itoa(value)}})
	}
	return result
}

// whatElse returns the number of series since a moment, and what there is beside them.
func (p *prometheus) whatElse(q query) []any {
	result := []any{}
	var since, n int64
	_, _ = fmt.Sscanf(q.text, "label_replace(count(timestamp(istio_requests_total) >= %d", &since)
	for _, s := range p.series {
		for ago := range s.points {
			if p.time(ago).Unix() >= since {
				n++
				break
			}
		}
	}
	for _, labels := range append([]map[string]string{{"is": "series", "=": fmt.Sprint(n)}}, p.beside...) {
		metric := maps.Clone(labels)
		delete(metric, "=")
		result = append(result, map[string]any{"metric": metric, "value": []any{1, labels["="]}})
	}
	return result
}

// rawSamples returns the series that have samples in a range.
func (p *prometheus) rawSamples(q query) []any {
	result := []any{}
	for _, s := range p.series {
		var values []any
		for _, ago := range p.samples(q, s) {
			values = append(values, []any{float64(p.time(ago).UnixMilli()) / 1000, fmt.Sprint(s.points[ago])})
		}
		if len(values) > 0 {
			result = append(result, map[string]any{"metric": s.labels, "values": values})
		}
	}
	return result
}

// at returns points of a series: seconds before now and a value, in turn.
func at(points ...float64) map[float64]float64 {
	m := map[float64]float64{}
	for i := 0; i < len(points); i += 2 {
		m[points[i]] = points[i+1]
	}
	return m
}

// requests is a series of istio_requests_total as the callers' proxies have it.
func requests(service, code, instance string, points map[float64]float64, more ...string) series {
	labels := map[string]string{
		"__name__": "istio_requests_total", "reporter": "source",
		"destination_service": service + ".web.svc.cluster.local",
		"response_code":       code, "instance": instance}
	for i := 0; i < len(more); i += 2 {
		labels[more[i]] = more[i+1]
	}
	return series{labels, points}
}

var target = Target{
	Namespace: "web", Stable: Arm{"shop-primary", "shop-primary"}, Candidate: Arm{"shop", "shop-canary"}}

// The observation begins 20 s ago; scrapes are every 5 s.
func look(t *testing.T, p *prometheus) (counts.Window, error) {
	t.Helper()
	if p.now.IsZero() {
		p.now = time.Now()
	}
	return start(t, p).Observe(target, p.now.Add(-20*time.Second)).Look(t.Context())
}

func TestLook(t *testing.T) {
	t.Parallel()
	stable := requests("shop-primary", "200", "a", at(22, 900, 17, 1000, 12, 1100, 7, 1200))
	for _, c := range []struct {
		desc      string
		series    []series
		stable    counts.Counts
		candidate counts.Counts
		missing   counts.Missing
	}{
		{"what was before does not count",
			[]series{stable, requests("shop-canary", "200", "a", at(20.5, 5, 17, 10, 12, 30, 7, 60))},
			counts.Counts{Requests: 200}, counts.Counts{Requests: 50}, ""},
		{"a series born at 30 counts from zero",
			[]series{stable, requests("shop-canary", "200", "a", at(17, 10, 12, 20, 7, 30)),
				requests("shop-canary", "503", "a", at(7, 30))},
			counts.Counts{Requests: 200}, counts.Counts{Requests: 50, Errors: 30}, ""},
		{"but not where its target is as new: a restarted Prometheus",
			[]series{stable, requests("shop-canary", "200", "b", at(12, 5000, 7, 5010))},
			counts.Counts{Requests: 200}, counts.Counts{Requests: 10}, ""},
		{"nor where its target was not scraped for a while",
			[]series{requests("shop-primary", "200", "a", at(18, 900, 16, 1000, 14, 1100, 7, 1200)),
				requests("shop-canary", "200", "a", at(7, 30, 5, 31))},
			counts.Counts{Requests: 300}, counts.Counts{Requests: 1}, ""},
		{"a counter that began anew", []series{stable, requests("shop-canary", "200", "a", at(17, 100, 12, 4, 7, 10))},
			counts.Counts{Requests: 200}, counts.Counts{Requests: 10}, ""},
		{"failures of gRPC are answered with 200",
			[]series{stable, requests("shop-canary", "200", "a", at(17, 0, 7, 10), "grpc_response_status", "14"),
				requests("shop-canary", "200", "a", at(17, 0, 7, 5), "grpc_response_status", "0")},
			counts.Counts{Requests: 200}, counts.Counts{Requests: 15, Errors: 10}, ""},
		{"who gave up says nothing",
			[]series{stable, requests("shop-canary", "0", "a", at(17, 0, 7, 10)),
				requests("shop-canary", "404", "a", at(17, 0, 7, 20))},
			counts.Counts{Requests: 200}, counts.Counts{Requests: 20, Aborted: 10}, ""},
		{"a waypoint is a caller",
			[]series{stable, requests("shop-canary", "200", "w", at(17, 0, 7, 20), "reporter", "waypoint"),
				requests("shop-canary", "200", "c", at(17, 0, 7, 20), "reporter", "destination", "destination_workload",
					"shop")},
			counts.Counts{Requests: 200}, counts.Counts{Requests: 20}, ""},
		{"callers before workloads, never both", []series{stable, requests("shop-canary", "200", "a", at(17, 0, 7, 20)),
			requests("shop-canary", "500", "c", at(17, 0, 7, 20), "reporter", "destination", "destination_workload",
				"shop")},
			counts.Counts{Requests: 200}, counts.Counts{Requests: 20}, ""},
		{"workloads where no caller counts", []series{
			requests("shop-primary", "200", "c", at(17, 0, 7, 30), "reporter", "destination", "destination_workload",
				"shop-primary"),
			requests("shop-canary", "500", "d", at(17, 0, 7, 20), "reporter", "destination", "destination_workload",
				"shop")},
			counts.Counts{Requests: 30}, counts.Counts{Requests: 20, Errors: 20}, ""},
		{"nothing is added up of a single scrape at the workloads: the callers' may be yet to come", []series{
			requests("shop", "200", "d", at(3, 30), "reporter", "destination", "destination_workload", "shop")},
			counts.Counts{}, counts.Counts{}, counts.NoScrape},
		{"nor of one since the moment, with another just before", []series{
			requests("shop", "200", "d", at(20.5, 5, 7, 30), "reporter", "destination", "destination_workload",
				"shop")}, counts.Counts{}, counts.Counts{}, counts.NoScrape},
		{"the candidate's pods are not scraped", []series{
			requests("shop-primary", "200", "c", at(17, 0, 7, 30), "reporter", "destination", "destination_workload",
				"shop-primary")}, counts.Counts{Requests: 30}, counts.Counts{}, counts.NoSeries},
		{"they are, and got none", []series{
			requests("shop-primary", "200", "c", at(17, 0, 7, 30), "reporter", "destination", "destination_workload",
				"shop-primary"),
			requests("shop", "200", "d", at(17, 5, 7, 5), "reporter", "destination", "destination_workload", "shop")},
			counts.Counts{Requests: 30}, counts.Counts{}, counts.NoRequests},
		{"callers that gave up", []series{requests("shop-canary", "0", "a", at(17, 0, 7, 10))}, counts.Counts{},
			counts.Counts{Aborted: 10}, counts.NoneAnswered},
		{"nobody asks for either", []series{requests("shop-primary", "200", "a", at(17, 7, 7, 7))}, counts.Counts{},
			counts.Counts{},
			counts.NoRequests},
		{"all scrapes are from before", []series{requests("shop-canary", "200", "a", at(25, 5, 22, 10))},
			counts.Counts{},
			counts.Counts{}, counts.NoScrape},
		{"the candidate got none", []series{stable, requests("shop-canary", "200", "a", at(17, 7, 7, 7))},
			counts.Counts{Requests: 200}, counts.Counts{}, counts.NoRequests},
		{"others are scraped", []series{{map[string]string{"__name__": "another"}, at(7, 1)}}, counts.Counts{},
			counts.Counts{},
			counts.NoSeries},
		{"nothing is scraped", nil, counts.Counts{}, counts.Counts{}, counts.NoScrape},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			got, err := look(t, &prometheus{series: c.series})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(
				[]counts.Counts{c.stable, c.candidate}, []counts.Counts{got.Stable, got.Candidate},
				cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want, +got)\n%s", diff)
			}
			if got.Missing != c.missing || (got.Missing == "") != (got.Text == "") {
				t.Errorf("missing %q: %s", got.Missing, got.Text)
			}
		})
	}
}

func TestDurations(t *testing.T) {
	t.Parallel()
	bucket := func(le string, first, last float64) series {
		s := requests("shop-canary", "200", "a", at(17, first, 7, last), "le", le)
		s.labels["__name__"] = "istio_request_duration_milliseconds_bucket"
		return s
	}
	got, err := look(t,
		&prometheus{series: []series{
			requests("shop-canary", "200", "a", at(17, 0, 7, 10)), bucket("25", 3, 10), bucket("+Inf", 5, 15)}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]float64{"25": 7, "+Inf": 10}, got.Candidate.Within); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
}

// Each look adds what is new and asks for no more than that, be it by the same observer or by one
// in another process.
func TestLooksAddUp(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc string
		next func(*Client, *Observer) *Observer
	}{
		{"the same observer", func(_ *Client, o *Observer) *Observer { return o }},
		{"another one", func(c *Client, o *Observer) *Observer {
			b, err := json.Marshal(o.State())
			var s State
			if err != nil || json.Unmarshal(b, &s) != nil {
				t.Errorf("%s: %v", b, err)
			}
			if diff := cmp.Diff(o.State(), s); diff != "" {
				t.Errorf("the state in JSON (-want, +got)\n%s", diff)
			}
			return c.Resume(target, s)
		}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			p := &prometheus{now: time.Now(),
				series: []series{requests("shop-canary", "200", "a", at(47, 0, 42, 10, 37, 20))}}
			client := start(t, p)
			o := client.Observe(target, p.now.Add(-50*time.Second))
			first, err := o.Look(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p.mu.Lock() // two scrapes more; in the last one the first failures
			p.series = []series{
				requests("shop-canary", "200", "a", at(47, 0, 42, 10, 37, 20, 12, 25, 7, 30)),
				requests("shop-canary", "503", "a", at(7, 3))}
			p.mu.Unlock()
			second, err := c.next(client, o).Look(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(
				counts.Counts{Requests: 13, Errors: 3}, second.Candidate.Minus(first.Candidate),
				cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("between them (-want, +got)\n%s", diff)
			}
			if first.Candidate.Requests != 20 || first.Scrapes != 3 || second.Scrapes != 5 ||
				!second.From.Equal(first.From) {
				t.Errorf("%+v, then %+v", first, second)
			}
			if last := p.queries[len(p.queries)-1]; !strings.HasSuffix(last, "[47s]") &&
				!strings.HasSuffix(last, "[48s]") {
				t.Errorf("the second look asked %s: more than is younger than 10 s before the last scrape", last)
			}
		})
	}
}

// A stratum is what one caller's proxy counted from one scrape to the next, of both versions.
func TestStrata(t *testing.T) {
	t.Parallel()
	bucket := requests("shop-canary", "200", "a", at(17, 0, 12, 2, 7, 4), "le", "25")
	bucket.labels["__name__"] = durationsMetric
	all := requests("shop-canary", "200", "a", at(17, 0, 12, 20, 7, 40), "le", "+Inf")
	none := requests("shop-canary", "200", "a", at(17, 0, 12, 0, 7, 0), "le", "5")
	all.labels["__name__"], none.labels["__name__"] = durationsMetric, durationsMetric
	now := time.Now()
	callers := []series{all, none,
		requests("shop-primary", "200", "a", at(17, 0, 12, 100, 7, 200)),
		requests("shop-canary", "200", "a", at(17, 0, 12, 20, 7, 40)), bucket,
		requests("shop-canary", "500", "a", at(7, 5)),
		requests("shop-primary", "200", "b", at(16, 0, 11, 50, 6, 50)),
	}
	workloads := []series{
		requests("shop-primary", "200", "c", at(17, 0, 7, 30), "reporter", "destination", "destination_workload",
			"shop-primary"),
		requests("shop", "500", "d", at(16, 0, 6, 20), "reporter", "destination", "destination_workload", "shop")}
	ago := func(s int) time.Time {
		return now.Add(-time.Duration(s) * time.Second).Truncate(time.Millisecond).UTC()
	}
	for _, c := range []struct {
		desc   string
		series []series
		want   []counts.Stratum
	}{
		{"at the callers", callers, []counts.Stratum{
			{From: ago(17), To: ago(12), Proxy: " a ", Stable: counts.Counts{Requests: 100},
				Candidate: counts.Counts{Requests: 20, Within: map[string]float64{"5": 0, "25": 2, "+Inf": 20}}},
			{From: ago(16), To: ago(11), Proxy: " b ", Stable: counts.Counts{Requests: 50}},
			{From: ago(12), To: ago(7), Proxy: " a ", Stable: counts.Counts{Requests: 100},
				Candidate: counts.Counts{
					Requests: 25, Errors: 5, Within: map[string]float64{"5": 0, "25": 2, "+Inf": 20}}},
		}},
		{"at the workloads, which are scraped at different moments", workloads, []counts.Stratum{
			// 9 s of 10, the rest is not complete
			{From: ago(17), To: ago(7), Stable: counts.Counts{Requests: 30},
				Candidate: counts.Counts{Requests: 18, Errors: 18}},
		}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			got, err := look(t, &prometheus{now: now, series: c.series})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got.Strata, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want, +got)\n%s", diff)
			}
		})
	}
}

// What is kept does not grow with the release.
func TestStateIsBounded(t *testing.T) {
	t.Parallel()
	s := State{}
	for i := range model.Time(1000) {
		s.add([]rawSeries{
			{labels: &labels{service: "c.web.svc.local", code: "200"},
				values: []model.SamplePair{{Timestamp: 5000 * i, Value: model.SampleValue(i)}}}},
			side{stable: "s.web.svc.", candidate: "c.web.svc.", label: "destination_service"})
	}
	if s.Candidate.Requests != 999 || s.Scrapes != 1000 || len(s.Open) != 0 || len(s.Scraped[""]) != keptScrapes ||
		len(s.Last) != 1 {
		t.Errorf("%v requests, %d scrapes, %d strata, %v, %d series", s.Candidate.Requests, s.Scrapes, len(s.Open),
			s.Scraped, len(s.Last))
	}
}

// churn is a Prometheus that scrapes pods which live for a while, with a new one every so many
// scrapes.
type churn struct {
	reporter        string
	begin           time.Time
	now             int // the scrape that a look is at
	every, lifetime int // in scrapes
	queries         int
}

// scraped returns when a scrape was.
func (p *churn) scraped(scrape int) time.Time {
	return p.begin.Add(time.Duration(scrape) * 5 * time.Second)
}

// ServeHTTP answers a look with the last three scrapes of all pods that had one.
func (p *churn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.queries++
	var result []any
	for born := 0; born <= p.now+2 && strings.Contains(r.FormValue("query"), `"`+p.reporter); born += p.every {
		var values []any
		for scrape := max(p.now, born); scrape < min(p.now+3, born+p.lifetime); scrape++ {
			values = append(values, []any{p.scraped(scrape).Unix(), fmt.Sprint(10 * (scrape - born))})
		}
		if len(values) == 0 {
			continue
		}
		for _, code := range []string{"200", "500"} {
			s := requests("shop-canary", code, fmt.Sprint("pod-", born), nil, "reporter", p.reporter,
				"destination_workload", "shop")
			result = append(result, map[string]any{"metric": s.labels, "values": values})
		}
	}
	_ = json.NewEncoder(w).Encode(
		map[string]any{"status": "success", "data": map[string]any{"resultType": "matrix", "result": result}})
}

// In an hour dozens of pods come and go: none is counted twice, all are forgotten, and a look asks
// once.
func TestPodsComeAndGo(t *testing.T) {
	t.Parallel()
	const looks = 720
	for _, c := range []struct {
		reporter string
		queries  int
	}{{"source", looks}, {"destination", looks + 1}} { // the callers were asked before
		t.Run(c.reporter, func(t *testing.T) {
			t.Parallel()
			p := &churn{reporter: c.reporter, begin: time.Now().Add(-time.Hour).Truncate(time.Second), every: 20,
				lifetime: 60}
			server := httptest.NewServer(p)
			t.Cleanup(server.Close)
			client, err := New(server.URL, "")
			if err != nil {
				t.Fatal(err)
			}
			want := 0.0
			for born := 0; born < looks+2; born += p.every {
				want += 10 * float64(min(p.lifetime-1, looks+1-born))
			}
			o := client.Observe(target, p.begin)
			o.clock = func() time.Time { return p.scraped(p.now + 2) }
			var last counts.Counts
			for p.now = range looks {
				w, err := o.Look(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if s := o.state; len(s.Scraped) > 8 || len(s.Last) > 16 || len(o.known) > 16 || len(s.Open) > 10 {
					t.Fatalf("look %d: %d proxies, %d series, %d labels and %d strata are kept", p.now, len(s.Scraped),
						len(s.Last), len(o.known), len(s.Open))
				}
				last = w.Candidate
			}
			if last.Errors != want || last.Requests != 2*want {
				t.Errorf("%v errors in %v requests, want %v in %v", last.Errors, last.Requests, want, 2*want)
			}
			if p.queries != c.queries {
				t.Errorf("%d queries, want %d", p.queries, c.queries)
			}
		})
	}
}

// After an outage of Prometheus that is longer than what is remembered, a proxy that is scraped a
// little later than another goes on, too.
func TestNothingIsForgottenInABreak(t *testing.T) {
	t.Parallel()
	s, callers := State{}, side{
		reporters: "source|waypoint", stable: "s.web.svc.", candidate: "c.web.svc.", label: "destination_service"}
	scrape := func(proxy string, second model.Time, n model.SampleValue) {
		of := labels{proxy: proxy, service: "c.web.svc.local", code: "200"}
		s.add([]rawSeries{
			{id: model.Fingerprint(proxy[0]), labels: &of,
				values: []model.SamplePair{{Timestamp: second * 1000, Value: n}}}}, callers)
	}
	for i := range model.Time(3) {
		scrape("a", 100+5*i, 0)
		scrape("b", 102+5*i, 0)
	}
	scrape("a", 3000, 100)
	scrape("b", 3002, 10)
	if s.Candidate.Requests != 110 {
		t.Errorf("%v requests", s.Candidate.Requests)
	}
	for i := range model.Time(3) {
		scrape("a", 3005+5*i, 100)
	}
	if len(s.Last) != 2 {
		t.Errorf("%d series are kept just after the break", len(s.Last))
	}
	for i := range model.Time(65) {
		scrape("a", 3020+5*i, 100)
	}
	if len(s.Last) != 1 || len(s.Scraped) != 1 {
		t.Errorf("%d series of %d proxies are kept", len(s.Last), len(s.Scraped))
	}
}

func TestTooManySeries(t *testing.T) {
	t.Parallel()
	for _, p := range []*prometheus{{}, {limits: true}} {
		for i := range maxSeries + 2 {
			p.series = append(
				p.series, requests("shop-canary", "200", "a", at(17, 0, 7, 1), "source_workload", fmt.Sprint(i)))
		}
		got, err := look(t, p)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(
			counts.Window{Missing: counts.TooManySeries, Text: tooMany(maxSeries+2, "")}, got); diff != "" {
			t.Errorf("(-want, +got)\n%s", diff)
		}
	}
}

// Values are data: whatever they are, they select series by their whole value.
func TestQueries(t *testing.T) {
	t.Parallel()
	p := &prometheus{}
	hostile := Target{Namespace: `w"b`, Stable: Arm{"shop.primary", "s"}, Candidate: Arm{`x"} or vector(1)#`, "c.*"}}
	since := time.Now().Add(-9500 * time.Millisecond)
	if _, err := start(t, p).Observe(hostile, since).Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	const counted = `{__name__=~"istio_requests_total|istio_request_duration_milliseconds_bucket|` +
		`istio_request_duration_seconds_bucket|istio_request_duration_milliseconds",reporter=~`
	want := []string{
		counted + `"source|waypoint",destination_service=~"s\\.w\"b\\.svc\\..+|c\\.\\*\\.w\"b\\.svc\\..+"}[10s]`,
		counted + `"destination",destination_workload=~"shop\\.primary|x\"\\} or vector\\(1\\)#",` +
			`destination_workload_namespace="w\"b"}[10s]`,
		fmt.Sprintf(`label_replace(count(timestamp(istio_requests_total) >= %d), "is", "series", "", "")`,
			since.Unix()) +
			` or label_replace(sum(increase(istio_requests_total{reporter="destination",` +
			`destination_workload="shop.primary",destination_workload_namespace="w\"b",` +
			`source_workload="unknown"}[10s])), "is", "outside", "", "")` +
			fmt.Sprintf(` or label_replace(topk(3, count by (destination_workload) `+
				`(timestamp(istio_requests_total{destination_workload_namespace="w\"b",`+
				`destination_workload!~"|unknown"}) >= %d)), "is", "workload", "", "")`, since.Unix()) +
			` or label_replace(max(up{namespace="w\"b",pod=~"shop\\.primary-[a-z0-9]+-[a-z0-9]+"}), ` +
			`"is", "stable", "", "")` +
			` or label_replace(max(up{namespace="w\"b",pod=~"x\"\\} or vector\\(1\\)#-[a-z0-9]+-[a-z0-9]+"}), ` +
			`"is", "candidate", "", "")`,
	}
	if diff := cmp.Diff(want, p.queries); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc string
		p    *prometheus
		want string
	}{
		{"a refusal, with the server's words", &prometheus{fail: func(w http.ResponseWriter) bool {
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = fmt.Fprint(
				w, `{"status":"error","errorType":"execution","error":"query processing would load too many samples"}`)
			return true
		}}, "query processing would load too many samples"},
		{"a query that is refused", &prometheus{fail: func(w http.ResponseWriter) bool {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprint(w, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\""}`)
			return true
		}}, `bad_data invalid parameter "query"`},
		{"something else answers", &prometheus{fail: func(w http.ResponseWriter) bool {
			w.WriteHeader(http.StatusNotFound)
			_, _ = fmt.Fprint(w, "<h1>\n not here</h1>")
			return true
		}}, "<h1> not here</h1>"},
		{"a warning: the answer may not be whole", &prometheus{warn: "a store did not answer"},
			"warns: a store did not answer"},
		{"an answer that was cut off",
			&prometheus{warn: "results truncated due to limit",
				series: []series{requests("shop-canary", "200", "a", at(17, 0, 7, 10))}},
			"warns: results truncated due to limit"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			_, err := look(t, c.p)
			if !errors.Is(err, ErrQuery) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v does not say %q", err, c.want)
			}
			if errors.Is(err, ErrWarning) != (c.p.warn != "") {
				t.Errorf("%v is a warning: %t", err, errors.Is(err, ErrWarning))
			}
		})
	}
}

func TestAsksAgain(t *testing.T) {
	t.Parallel()
	failures := 2
	p := &prometheus{fail: func(w http.ResponseWriter) bool {
		if failures--; failures >= 0 {
			w.Header().Set("Retry-After", "3600") // which is not waited for
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return failures >= 0
	}}
	if err := start(t, p).Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, address := range []string{
		"prometheus:9090", "/api", "ftp://prometheus", "http://me:secret@prometheus:9090"} {
		if _, err := New(address, ""); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", address, err)
		}
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	c, err := New(gone.URL+"/?token=secret", "")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(gone.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Ready(t.Context()); !errors.Is(err, ErrQuery) || !strings.Contains(err.Error(), u.Host) ||
		strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}
