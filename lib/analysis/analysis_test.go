package analysis

import (
	"encoding/json"
	"math"
	"regexp"
	"testing"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

func window(requests, failed float64, within map[string]float64) counts.Window {
	return counts.Window{Candidate: counts.Counts{Requests: requests, Errors: failed, Within: within}}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	limits := Limits{SuccessRate: 99, RequestDuration: 500 * time.Millisecond}
	fast := map[string]float64{"100": 1000, "500": 1000, "+Inf": 1000}
	for _, c := range []struct {
		desc    string
		limits  Limits
		w       counts.Window
		verdict Verdict
		reason  Reason
		text    string
	}{
		{"good", limits, window(1000, 1, fast), Pass, Good,
			"success rate 99.90% >= 99%, request duration 99ms <= 500ms (1000 requests)"},
		{"at the limit", limits, window(1000, 10, fast), Pass, Good,
			"success rate 99.00% >= 99%, request duration 99ms <= 500ms (1000 requests)"},
		{"beyond it", limits, window(1000, 11, fast), Fail, Failing,
			"success rate 98.90% < 99%, request duration 99ms <= 500ms (1000 requests)"},
		{"all failing", limits, window(1000, 1000, fast), Fail, AllFailing,
			"all failing: success rate 0% < 99%, request duration 99ms <= 500ms (1000 requests)"},
		{"slow", limits, window(1000, 0, map[string]float64{"500": 980, "1000": 1000, "+Inf": 1000}), Fail, Slow,
			"success rate 100.00% >= 99%, request duration 750ms > 500ms (1000 requests)"},
		{"both: the first is the reason", limits,
			window(1000, 500, map[string]float64{"500": 980, "1000": 1000, "+Inf": 1000}), Fail, Failing,
			"success rate 50.00% < 99%, request duration 750ms > 500ms (1000 requests)"},
		{"hardly beyond it", limits, window(100000, 1004, fast), Fail, Failing,
			"success rate 98.996% < 99%, request duration 99ms <= 500ms (100000 requests)"},
		{"hardly slow", limits, window(1000, 0, map[string]float64{"500": 989.999, "1000": 1000, "+Inf": 1000}), Fail,
			Slow, "success rate 100.00% >= 99%, request duration 500.05ms > 500ms (1000 requests)"},
		{"exactly as slow as it may be", limits,
			window(1000, 0, map[string]float64{"500": 990, "1000": 1000, "+Inf": 1000}), Pass, Good,
			"success rate 100.00% >= 99%, request duration 500ms <= 500ms (1000 requests)"},
		{"no proxy measures durations", limits, window(1000, 0, nil), Inconclusive, NoDurations,
			"success rate 100.00% >= 99%, no durations: no proxy measured how long its requests took (1000 requests)"},
		{"failing, and no proxy measures durations", limits, window(1000, 500, nil), Fail, Failing,
			"success rate 50.00% < 99%, no durations: no proxy measured how long its requests took (1000 requests)"},
		{"too few", limits, window(9, 9, nil), Inconclusive, TooFew,
			"too few: the candidate answered 9 requests, 1 more are needed"},
		{"enough to be good, too few to be bad", limits, window(99, 1, map[string]float64{"500": 99, "+Inf": 99}),
			Inconclusive, TooFew,
			"too few: success rate 98.99% < 99%, 1 more requests are needed, request duration " +
				"495ms <= 500ms (99 requests)"},
		{"too few to be slow", limits, window(99, 0, map[string]float64{"500": 90, "1000": 99, "+Inf": 99}),
			Inconclusive, TooFew,
			"success rate 100.00% >= 99%, too few: request duration 945ms > 500ms, 1 more requests " +
				"are needed (99 requests)"},
		{"failing by one, which is proof where none may", Limits{SuccessRate: 100}, window(20, 1, nil), Fail, Failing,
			"success rate 95.00% < 100% (20 requests)"},
		{"slower than the longest bucket, which is the limit", limits,
			window(1000, 0, map[string]float64{"500": 980, "+Inf": 1000}), Fail, Slow,
			"success rate 100.00% >= 99%, request duration > 500ms, where the proxies' longest " +
				"bucket ends (1000 requests)"},
		{"slower than the longest bucket, and the limit is more", limits,
			window(1000, 0, map[string]float64{"400": 980, "+Inf": 1000}), Inconclusive, NoDurations,
			"success rate 100.00% >= 99%, no durations: request duration > 400ms, where the proxies' longest bucket " +
				"ends: whether it is <= 500ms cannot be told (1000 requests)"},
		{"all within the longest bucket, which is the limit", limits,
			window(1000, 0, map[string]float64{"500": 1000, "+Inf": 1000}), Pass, Good,
			"success rate 100.00% >= 99%, request duration 495ms <= 500ms (1000 requests)"},
		{"one metric is off", Limits{SuccessRate: 99}, window(1000, 0, map[string]float64{"500": 0, "+Inf": 1000}),
			Pass, Good, "success rate 100.00% >= 99% (1000 requests)"},
		{"nothing to judge by", limits, counts.Window{Missing: counts.NoRequests, Text: "no requests: …"},
			Inconclusive, "no requests", "no requests: …"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			got := Check(c.limits, c.w)
			text := intervals.ReplaceAllString(got.Text, "")
			if got.Verdict != c.verdict || got.Reason != c.reason || text != c.text {
				t.Errorf("%s, %q, %q\nwant %s, %q, %q", got.Verdict, got.Reason, text, c.verdict, c.reason, c.text)
			}
		})
	}
}

// intervals are beside rates, and have a test of their own.
var intervals = regexp.MustCompile(` \(95 % interval [^)]*\)`)

// What people read has the interval that the value may be in, and the record has it, too. The
// rates' are Wilson's (Newcombe 1998, Stat Med 17:857, of 15 in 148 and of 0 in 20), the durations'
// Howard & Ramdas' (arXiv 1906.09712).
func TestCheckDescribes(t *testing.T) {
	t.Parallel()
	many := map[string]float64{"100": 9000, "250": 9800, "500": 9960, "1000": 9990, "+Inf": 10000}
	for _, c := range []struct {
		desc      string
		limits    Limits
		w         counts.Window
		text      string
		low, high float64
		within    float64
	}{
		{"a rate", Limits{SuccessRate: 90}, window(148, 15, nil),
			"success rate 89.86% < 90% (95 % interval 83.95% to 93.76%) (148 requests)", 83.95, 93.76, .005},
		{"none failed", Limits{SuccessRate: 90}, window(20, 0, nil),
			"success rate 100.00% >= 90% (95 % interval 83.89% to 100.00%) (20 requests)", 83.89, 100, .005},
		{"all failed", Limits{SuccessRate: 90}, window(20, 20, nil),
			"all failing: success rate 0% < 90% (95 % interval 0.00% to 16.11%) (20 requests)", 0, 16.11, .005},
		{"too few to say", Limits{SuccessRate: 99}, window(29, 1, nil),
			"too few: success rate 96.55% < 99% (95 % interval 82.82% to 99.39%), 71 more requests " +
				"are needed (29 requests)", 82.82, 99.39, .005},
		{"a duration", Limits{RequestDuration: time.Second}, window(10000, 0, many),
			"request duration 406ms <= 1s (10000 requests)", 250, 500, 0},
		{"a duration of few", Limits{RequestDuration: time.Second},
			window(100, 0, map[string]float64{"250": 90, "1000": 100, "+Inf": 100}),
			"request duration 925ms <= 1s (100 requests)", 250, 0, 0},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			got := Check(c.limits, c.w)
			if got.Text != c.text || len(got.Metrics) != 1 {
				t.Fatalf("%s: %+v", got.Text, got.Metrics)
			}
			near(t, "the low end", got.Metrics[0].Low, c.low, c.within)
			near(t, "the high end", got.Metrics[0].High, c.high, c.within)
			if _, err := json.Marshal(got); err != nil {
				t.Errorf("in the record: %v", err)
			}
		})
	}
}

// The figures are those of Prometheus' histogram_quantile on the same buckets: 50, 90, 98, 100
// observations up to 100, 250, 500, +Inf.
func TestQuantile(t *testing.T) {
	t.Parallel()
	within := map[string]float64{"100": 50, "250": 90, "500": 98, "+Inf": 100}
	for q, want := range map[float64]float64{0.5: 100, 0.95: 406.25, 0.99: 500} {
		if got, ok := quantile(q, within); !ok || math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if got, _ := quantile(0.6, map[string]float64{"100": 50, "150": 20, "250": 90, "+Inf": 100}); math.Abs(
		got-175) > 1e-9 {
		t.Errorf("with a bound that some proxies do not have, 60 %% are below %v", got)
	}
	for _, none := range []map[string]float64{nil, {"+Inf": 5}, {"100": 5, "200": 5}, {"100": 0, "+Inf": 0}} {
		if got, ok := quantile(0.99, none); ok {
			t.Errorf("of %v: %v", none, got)
		}
	}
}
