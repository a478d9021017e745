package release

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/canary-tasks/canary-tasks/lib/analysis"
	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/metrics"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// What the present traffic says is wrong is in one report with what else is.
func TestSightIsPartOfTheReport(t *testing.T) {
	t.Parallel()
	prometheus := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		result, kind := "[]", "matrix"
		switch query := r.FormValue("query"); {
		case query == "vector(1)":
			result, kind = `[{"metric":{},"value":[1,"1"]}]`, "vector"
		case strings.HasPrefix(query, "label_replace("):
			result, kind = `[{"metric":{"is":"series"},"value":[1,"1"]},{"metric":{"is":"scrapes"},"value":[1,"20"]}]`,
				"vector"
		case strings.Contains(query, `"source|waypoint"`):
			var values []string
			for i := range 20 { // every 30 s
				values = append(values,
					fmt.Sprintf(`[%d,"%d"]`, time.Now().Add(time.Duration(i-20)*30*time.Second).Unix(), 100*i))
			}
			result = `[{"metric":{"__name__":"istio_requests_total","reporter":"source","response_code":"200","destination_workload":"shop-primary",` +
				`"destination_workload_namespace":"web","destination_service_name":"shop-primary","destination_service_namespace":"web"},"values":[` + strings.Join(values, ",") + "]}]"
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":%q,"result":%s}}`, kind, result)
	}))
	t.Cleanup(prometheus.Close)
	a := afterInit(t)
	a.apply(shop("2"))
	cfg := testConfig("run-2")
	cfg.Port, cfg.Prometheus = "8443", prometheus.URL
	err := a.initWith(cfg)
	for _, want := range []string{
		"2 mistakes", `port is "8443"`,
		`interval is "10s": Prometheus scrapes every 30s: give at least two scrapes, 1m0s`} {
		wantCode(t, err, report.Misconfig, want)
	}
}

// An interval needs two scrapes, and is better with four; that a scrape is a little late is no
// matter.
func TestScrapesOfAnInterval(t *testing.T) {
	t.Parallel()
	cfg := testConfig("run") // 10 s
	for scrape, want := range map[time.Duration]string{
		time.Second: "", 2500 * time.Millisecond: "better is 12s", 5 * time.Second: "better is 20s",
		5300 * time.Millisecond: "better is 20s", 0: "",
		6 * time.Second: "give at least two scrapes, 12s", 30 * time.Second: "give at least two scrapes, 1m0s",
		15002 * time.Millisecond: "give at least two scrapes, 30s, and better four",
	} {
		_, lines, problems := Sight(
			cfg, counts.Window{Interval: scrape}, &analysis.History{Limits: limitsOf(cfg)}, time.Minute)
		got := strings.Join(lines, "\n")
		if len(problems) > 0 {
			got += problems.Error()
		}
		if !strings.Contains(got, want) || want == "" && strings.Contains(got, "scrapes") ||
			strings.Contains(want, "give") != (len(problems) > 0) {
			t.Errorf("scraped every %s: %q, not %q", scrape, got, want)
		}
	}
	cfg.Interval = config.Duration{Duration: time.Minute}
	const want = "warning: interval=1m0s has fewer than four scrapes, which are every 30s: a burst weighs more than " +
		"it should; better is 2m0s"
	if _, lines, problems := Sight(
		cfg, counts.Window{Interval: 30 * time.Second}, &analysis.History{Limits: limitsOf(cfg)}, time.Minute); len(
		problems) > 0 || !slices.Contains(lines, want) {
		t.Errorf("%v, %q", problems, lines)
	}
}

// Where no request may fail, one failure is proof, which is said before it happens.
func TestSightWhereNothingMayFail(t *testing.T) {
	t.Parallel()
	cfg := testConfig("run")
	for rate, want := range map[float64]bool{100: true, 99.999: false, 0: false} {
		cfg.SuccessRate = rate
		_, lines, problems := Sight(
			cfg, counts.Window{Interval: time.Second}, &analysis.History{Limits: limitsOf(cfg)}, time.Minute)
		if got := slices.Contains(
			lines, "warning: requestSuccessRate=100 makes one failed request proof, and a failed check"); got != want ||
			len(problems) > 0 {
			t.Errorf("%v %%: %q, %v", rate, lines, problems)
		}
	}
}

// A query of people's own says nothing of the candidate as long as it looks at what was before the
// shift.
func TestOwnQueriesWait(t *testing.T) {
	t.Parallel()
	queries := 0
	prometheus := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		queries++
		fmt.Fprint(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"7"]}]}}`)
	}))
	t.Cleanup(prometheus.Close)
	client, err := metrics.New(prometheus.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	most := 9.0
	cfg := testConfig("run")
	cfg.Metrics = []config.Metric{
		{Name: "queue", Query: `sum(max_over_time(queue[20s:5s] offset 10s))`,
			ThresholdRange: config.ThresholdRange{Max: &most}}}
	for _, c := range []struct {
		since time.Duration // the shift
		want  analysis.Measured
	}{
		{9600 * time.Millisecond,
			analysis.Measured{
				Name: "queue", Max: &most, Missing: analysis.TooFew,
				Text: "too few: its query looks 30s back, which is before the shift for 20s more"}},
		{28600 * time.Millisecond,
			analysis.Measured{
				Name: "queue", Max: &most, Missing: analysis.TooFew,
				Text: "too few: its query looks 30s back, which is before the shift for 1s more"}},
		{31 * time.Second, analysis.Measured{Name: "queue", Max: &most, Value: 7}},
	} {
		w := watch{client: client, record: &Record{Config: *cfg, Shifts: []Shift{{At: time.Now().Add(-c.since)}}}}
		got, err := w.own(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]analysis.Measured{c.want}, got); diff != "" {
			t.Errorf("%s after the shift (-want, +got)\n%s", c.since, diff)
		}
	}
	if queries != 1 {
		t.Errorf("Prometheus was asked %d times", queries)
	}
}

// A name that is not built in needs a query, which is told with what is.
func TestNeitherBuiltInNorAQuery(t *testing.T) {
	t.Parallel()
	cfg := testConfig("run")
	cfg.Metrics = []config.Metric{{Name: "request-succes-rate"}, {Name: "queue", Query: "sum(queue @ 1700000000)"}}
	got := (&Release{Request: Request{Config: cfg}}).render(t.Context()).Error()
	for _, want := range []string{
		`"request-succes-rate": it is empty: give PromQL that gives one number; request-success-rate and request-duration alone are built in`, `"queue": it looks at a fixed time`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s\ndoes not say %s", got, want)
		}
	}
}
