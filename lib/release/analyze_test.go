package release

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis"
	"github.com/canary-tasks/canary-tasks/lib/metrics"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// A Prometheus that does not answer, or warns, is asked until the deadline. Then the verdict is an
// error with its own reason, and never a failed check.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc   string
		code   int
		body   string
		reason analysis.Reason
	}{
		{"it cannot", http.StatusUnprocessableEntity,
			`{"status":"error","errorType":"execution","error":"too many samples"}`, analysis.QueryFails},
		{"it cannot, for another reason each time", http.StatusUnprocessableEntity,
			`{"status":"error","errorType":"execution","error":"NUMBER samples are too many"}`, analysis.QueryFails},
		{"it warns", http.StatusOK,
			`{"status":"success","warnings":["a store is away"],"data":{"resultType":"matrix","result":[]}}`,
			analysis.Warns},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			asked := 0
			prometheus := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked++
				w.WriteHeader(c.code)
				fmt.Fprint(w, strings.Replace(c.body, "NUMBER", strconv.Itoa(asked), 1))
			}))
			t.Cleanup(prometheus.Close)
			client, err := metrics.New(prometheus.URL, "")
			if err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			r := &Release{Report: &report.Reporter{Out: &log}}
			w := &watch{observer: client.Observe(metrics.Target{}, time.Now()), observed: time.Now().Add(time.Hour),
				judge: analysis.Judge{Deadline: time.Now().Add(1500 * time.Millisecond)}}
			got, err := r.await(t.Context(), w)
			if err != nil || got.Verdict != analysis.Error || got.Reason != c.reason ||
				!w.judge.Deadline.Before(time.Now()) {
				t.Errorf("%s, %q: %v", got.Verdict, got.Reason, err)
			}
			if said := strings.Count(log.String(), "retrying; not counted as a failed check"); said != 1 {
				t.Errorf("it is said %d times:\n%s", said, log.String())
			}
		})
	}
}

// A step that begins late judges by all that there is, also where it is read in slices.
func TestCatchesUp(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second)
	ranges := regexp.MustCompile(`\[([0-9ms]+)\]$`)
	prometheus := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.FormValue("query")
		span := ranges.FindStringSubmatch(query)
		if span == nil || !strings.Contains(query, `"source|waypoint"`) {
			fmt.Fprint(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"is":"series"},"value":[1,"2"]},{"metric":{"is":"scrapes"},"value":[1,"120"]}]}}`)
			return
		}
		seconds, _ := strconv.ParseFloat(r.FormValue("time"), 64)
		within, _ := time.ParseDuration(span[1])
		if within > 5*time.Minute { // the answer is too large
			fmt.Fprint(w, strings.Repeat(" ", 33<<20))
			return
		}
		var values []string
		for at := int64(seconds-within.Seconds())/5*5 + 5; at <= min(int64(seconds), now.Unix()); at += 5 {
			values = append(values, fmt.Sprintf(`[%d,"%d"]`, at, at))
		}
		series := func(service string) string {
			return `{"metric":{"__name__":"istio_requests_total","reporter":"source","response_code":"200","destination_service":"` + service + `.web.svc.cluster.local"},"values":[` + strings.Join(values, ",") + "]}"
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"matrix","result":[%s,%s]}}`, series("shop"),
			series("shop-canary"))
	}))
	t.Cleanup(prometheus.Close)
	client, err := metrics.New(prometheus.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	target := metrics.Target{
		Namespace: "web", Stable: metrics.Arm{Workload: "shop-primary", Service: "shop"},
		Candidate: metrics.Arm{Workload: "shop", Service: "shop-canary"}}
	w := &watch{observer: client.Observe(target, now.Add(-10*time.Minute)), record: &Record{},
		judge: analysis.Judge{
			Limits: analysis.Limits{SuccessRate: 99}, Interval: 8 * time.Minute, Weight: .5,
			Deadline: now.Add(time.Hour)}}
	got, ok, err := (&Release{}).look(t.Context(), w)
	if err != nil || !ok || got.Verdict != analysis.Pass || got.Counts.Requests < 590 {
		t.Errorf("%v requests, %t, %s: %v", got.Counts.Requests, ok, got.Text, err)
	}
}
