package metrics

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/common/model"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// bothWays are what an answer is read as, by a decoder that has read it before, and by one that has
// not.
var bothWays = cmp.Options{cmp.AllowUnexported(rawSeries{}, labels{}), cmpopts.EquateNaNs(), cmpopts.EquateEmpty(),
	cmpopts.SortSlices(func(a, b rawSeries) bool { return a.within < b.within })}

// Whatever an answer is: it is read the same way by a decoder that knows its series, and one that
// knows another's; and what is left is JSON.
func FuzzAnswer(f *testing.F) {
	const one = `{"metric":{"__name__":"istio_requests_total","pod":"a"},"values":[[1764000000,"1"],` +
		`[1764000005.125,"1.5"]]}`
	f.Add(matrix+one+`]}}`, matrix+one+`,{"metric":{},"values":[[1,"2"]]}]}}`)
	f.Add(matrix+one+`]},"warnings":["w"]}`, `{"data":{"result":[`+one+`],"resultType":"matrix"},"status":"success"}`)
	f.Add(matrix+`{"metric":{"le":"1"},"histograms":[[1,{"count":"3","sum":"1","buckets":[[0,"0","2","3"],[0,"2",`+
		`"+Inf","0"]]}]]}]}}`, matrix+one)
	f.Add(`{"data":{"resultType":"vector","result":[{"metric":{},"value":[1,"NaN"]}]}}`,
		`{"status":"error","error":"no"}`)
	f.Add(matrix+`{"metric":{"a":"\ud800"},"values":[[1e308,"1"]]}]}}`, `[`)
	f.Fuzz(func(t *testing.T, text, another string) {
		fresh := answer{decoder: &decoder{}}
		want, wrong := fresh.read(strings.NewReader(text))
		if wrong == nil && !json.Valid(want) && json.Valid([]byte(text)) {
			t.Errorf("the rest of %s is %s", text, want)
		}
		for _, before := range []string{text, another} {
			readAgain(t, before, text, fresh.series, wrong)
		}
		s := State{Since: time.Unix(1763999999, 0)}
		s.add(fresh.series, side{stable: "s.", candidate: "c.", label: "destination_service"})
		for _, c := range []counts.Counts{s.Stable, s.Candidate} {
			if c.Requests < 0 || c.Errors < 0 || c.Errors > c.Requests && !math.IsInf(c.Errors, 0) || c.Aborted < 0 {
				t.Errorf("%+v", c)
			}
		}
	})
}

// readAgain reads an answer with a decoder that has read another one before. The result has to be
// that of a decoder that has read none.
func readAgain(t *testing.T, before, text string, want []rawSeries, wrong error) {
	t.Helper()
	d := &decoder{}
	_, _ = (&answer{decoder: d}).read(strings.NewReader(before))
	again := answer{decoder: d}
	rest, err := again.read(strings.NewReader(text))
	if (err == nil) != (wrong == nil) && wrong == nil {
		t.Errorf("%v, and the first time %v", err, wrong)
	}
	if err != nil || wrong != nil {
		return
	}
	if diff := cmp.Diff(want, again.series, bothWays); diff != "" {
		t.Errorf("(-the first time, +later)\n%s", diff)
	}
	if json.Valid([]byte(text)) && !json.Valid(rest) {
		t.Errorf("the rest of %s is later %s", text, rest)
	}
}

// However scrapes are cut into looks, as many requests are counted.
func FuzzCuts(f *testing.F) {
	f.Add([]byte{1, 5, 3, 0, 7, 255, 2}, uint8(3), false)
	f.Add([]byte{0, 0, 9, 9, 1}, uint8(1), true)
	f.Fuzz(func(t *testing.T, increases []byte, every uint8, atPods bool) {
		if len(increases) < 4 || len(increases) > 200 || every == 0 {
			return
		}
		of := side{reporters: "source|waypoint", stable: "s.web.svc.", candidate: "c.web.svc.",
			label: "destination_service"}
		if atPods {
			of = side{reporters: "destination", stable: "s", candidate: "c", label: "destination_workload",
				namespace: "web"}
		}
		want, all := countInLooks(increases, of, 1000)
		got, some := countInLooks(increases, of, max(2, int(every)))
		if diff := cmp.Diff(
			want.Candidate, got.Candidate, cmpopts.EquateApprox(0, 1e-6), cmpopts.EquateEmpty()); diff != "" ||
			want.Scrapes != got.Scrapes {
			t.Errorf("%d and %d scrapes (-at once, +in looks)\n%s", want.Scrapes, got.Scrapes, diff)
		}
		sum := func(strata []counts.Stratum) (n float64) {
			for _, s := range strata {
				n += s.Candidate.Requests
			}
			return n
		}
		if a, b := sum(all), sum(some); math.Abs(a-b) > 1e-6 {
			t.Errorf("strata of %v and of %v requests: %v", a, b, increases)
		}
		text, err := json.Marshal(got)
		var back State
		if err != nil || json.Unmarshal(text, &back) != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if diff := cmp.Diff(got, back, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("the state in JSON (-want, +got)\n%s", diff)
		}
	})
}

// countInLooks counts a counter with these increases, in looks of so many scrapes. 255 resets it.
func countInLooks(increases []byte, of side, scrapes int) (State, []counts.Stratum) {
	s, value := State{Since: time.Unix(100, 0)}, 0.0
	var strata []counts.Stratum
	var now []model.SamplePair
	for i, n := range increases {
		if value += float64(n); n == 255 {
			value = 0
		}
		now = append(now, model.SamplePair{
			Timestamp: model.Time(100_000 + 5000*i), Value: model.SampleValue(value)})
		if (i+1)%scrapes == 0 && i > 0 || i == len(increases)-1 { // the last one is fetched again
			strata = append(strata,
				s.add([]rawSeries{
					{labels: &labels{service: "c.web.svc.local", workload: "c", code: "200", proxy: "p"},
						values: slices.Clone(now)}}, of)...)
			now = now[len(now)-1:]
		}
	}
	return s, strata
}
