// Package analysis judges a candidate by what was counted of its requests. It is pure: counts go in, a verdict comes out.
//
// Check is the comparison at the end of an interval: where there is enough to judge by, every limit has to be kept. It compares exact values; only
// what is said is rounded, and never so that it contradicts the verdict.
package analysis

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/metrics"
)

// Verdict is what a judgement comes to.
type Verdict string

// The verdicts.
const (
	Pass         Verdict = "pass"
	Fail         Verdict = "fail"
	Inconclusive Verdict = "inconclusive" // there is too little to judge by
	Error        Verdict = "error"        // Prometheus did not answer
)

// Reason is why: a closed list. What can be missing of the metrics is in it, too.
type Reason string

// The reasons.
const (
	Good        Reason = ""
	TooFew      Reason = "too few"
	NoDurations Reason = "no durations" // a duration is to be checked, and no proxy measures it
	AllFailing  Reason = "all failing"
	Failing     Reason = "failing"
	Slow        Reason = "slow"
	QueryFails  Reason = "query failed"
)

// Limits are what a candidate must keep.
type Limits struct {
	SuccessRate     float64       // percent, at least; 0: not checked
	RequestDuration time.Duration // of 99 % of the requests, at most; 0: not checked
}

// minRequests is how many requests a judgement needs at least: with fewer one failure would be more than ten percent.
const minRequests = 10

// Metric is one check of a judgement.
type Metric struct {
	Name     string  `json:"name"` // request-success-rate or request-duration, as Flagger calls them
	Value    float64 `json:"value"`
	Limit    float64 `json:"limit"`
	Unit     string  `json:"unit"` // percent or milliseconds
	Requests float64 `json:"requests"`
	Passed   bool    `json:"passed"`
}

// Result is a judgement, with all that it can be computed from again.
type Result struct {
	Verdict Verdict        `json:"verdict"`
	Reason  Reason         `json:"reason,omitempty"`
	Text    string         `json:"text"`
	From    time.Time      `json:"from,omitzero"`
	To      time.Time      `json:"to,omitzero"`
	Counts  metrics.Counts `json:"counts"`
	Metrics []Metric       `json:"metrics,omitempty"`
}

// Check compares what the candidate did with the limits, as Flagger does: every metric must be within its own. A metric that fails decides, even
// where another could not be measured.
func Check(limits Limits, w metrics.Window) Result {
	c := w.Candidate
	r := Result{Verdict: Pass, From: w.From, To: w.To, Counts: c}
	if w.Missing != "" {
		r.Verdict, r.Reason, r.Text = Inconclusive, Reason(w.Missing), w.Text
		return r
	}
	if c.Requests < minRequests {
		r.Verdict, r.Reason = Inconclusive, TooFew
		r.Text = fmt.Sprintf("too few: the candidate answered %.0f requests, %.0f more are needed", c.Requests, minRequests-c.Requests)
		return r
	}
	texts := ""
	say := func(reason Reason, format string, args ...any) {
		if texts != "" {
			texts += ", "
		}
		texts += fmt.Sprintf(format, args...)
		if reason != Good && r.Reason == Good {
			r.Verdict, r.Reason = Fail, reason
		}
	}
	if limits.SuccessRate > 0 {
		rate := 100 * (1 - c.Errors/c.Requests)
		m := Metric{Name: "request-success-rate", Value: rate, Limit: limits.SuccessRate, Unit: "percent", Requests: c.Requests, Passed: rate >= limits.SuccessRate}
		r.Metrics = append(r.Metrics, m)
		switch {
		case m.Passed:
			say(Good, "success rate %.2f%% >= %v%%", rate, limits.SuccessRate)
		case c.Errors >= c.Requests:
			say(AllFailing, "all failing: success rate 0%% < %v%%", limits.SuccessRate)
		default:
			say(Failing, "success rate %s%% < %v%%", below(rate, limits.SuccessRate), limits.SuccessRate)
		}
	}
	if limits.RequestDuration > 0 {
		p99, ok := quantile(0.99, c.Within)
		if !ok {
			say(Good, "no durations: no proxy measured how long its requests took")
			if r.Verdict == Pass {
				r.Verdict, r.Reason = Inconclusive, NoDurations
			}
		} else {
			limit := float64(limits.RequestDuration) / float64(time.Millisecond)
			m := Metric{Name: "request-duration", Value: p99, Limit: limit, Unit: "milliseconds", Requests: c.Within["+Inf"], Passed: p99 <= limit}
			r.Metrics = append(r.Metrics, m)
			took := time.Duration(p99 * float64(time.Millisecond))
			switch shown := took.Round(time.Millisecond); {
			case m.Passed:
				say(Good, "request duration %s <= %s", min(shown, limits.RequestDuration), limits.RequestDuration)
			case shown > limits.RequestDuration:
				say(Slow, "request duration %s > %s", shown, limits.RequestDuration)
			default:
				say(Slow, "request duration %s > %s", max(took.Round(time.Microsecond), limits.RequestDuration+1), limits.RequestDuration)
			}
		}
	}
	r.Text = fmt.Sprintf("%s (%.0f requests)", cmp.Or(texts, "nothing is checked"), c.Requests)
	return r
}

// below writes a number with two decimals, or as many more as it takes to be seen below a limit.
func below(value, limit float64) string {
	for decimals := 2; decimals < 15; decimals++ {
		text := strconv.FormatFloat(value, 'f', decimals, 64)
		if shown, err := strconv.ParseFloat(text, 64); err == nil && shown < limit {
			return text
		}
	}
	return strconv.FormatFloat(value, 'f', -1, 64)
}

// quantile is the value below which a share q of the observations are, by linear interpolation within the bucket, as Prometheus'
// histogram_quantile computes it: in the last bucket it is the bound before.
func quantile(q float64, within map[string]float64) (float64, bool) {
	buckets := cumulative(within)
	if len(buckets) == 0 {
		return 0, false
	}
	rank := q * buckets[len(buckets)-1].count
	i := slices.IndexFunc(buckets, func(b bucket) bool { return b.count >= rank })
	if i == len(buckets)-1 {
		return buckets[i-1].bound, true
	}
	low, below := 0.0, 0.0
	if i > 0 {
		low, below = buckets[i-1].bound, buckets[i-1].count
	}
	return low + (buckets[i].bound-low)*(rank-below)/(buckets[i].count-below), true
}

// bucket has the observations up to a bound.
type bucket struct{ bound, count float64 }

// cumulative sorts the buckets of a histogram, at least one and +Inf, by their bounds in milliseconds; nil where nothing was observed.
func cumulative(within map[string]float64) []bucket {
	var buckets []bucket
	for le, n := range within {
		if bound, err := strconv.ParseFloat(le, 64); err == nil {
			buckets = append(buckets, bucket{bound, n})
		}
	}
	slices.SortFunc(buckets, func(a, b bucket) int { return cmp.Compare(a.bound, b.bound) })
	for i := range buckets { // proxies may have different bounds; Prometheus repairs it in the same way
		if i > 0 {
			buckets[i].count = max(buckets[i].count, buckets[i-1].count)
		}
	}
	if len(buckets) < 2 || !math.IsInf(buckets[len(buckets)-1].bound, 1) || buckets[len(buckets)-1].count <= 0 {
		return nil
	}
	return buckets
}
