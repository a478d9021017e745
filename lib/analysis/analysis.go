// Package analysis judges a candidate by the counts of its requests. It is pure: counts go in, a
// verdict comes out.
//
// Check is the comparison at the end of an interval: where there is enough to judge by, every limit
// has to be kept. It compares exact values; only the text is rounded, and never so that it
// contradicts the verdict.
package analysis

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// Verdict is the outcome of a judgement.
type Verdict string

// The verdicts.
const (
	Pass         Verdict = "pass"
	Fail         Verdict = "fail"
	Inconclusive Verdict = "inconclusive" // there is too little to judge by
	Error        Verdict = "error"        // Prometheus did not answer
)

// Reason is why there is a verdict: a closed list, which includes the values of counts.Missing.
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
	// Prometheus answered and warned, so that the answer may not be whole.
	Warns Reason = "warning"
	// A custom query gave more than one series, or none.
	SeveralSeries Reason = "several series"
	NoValues      Reason = "no values"
	// The mesh does not give the candidate the share of the requests that its weight asks for.
	SplitNotHonoured Reason = "split not honoured"
	// Stable is beyond the limits as well.
	Environment Reason = "environment"
)

// Limits are what a candidate must keep.
type Limits struct {
	SuccessRate     float64       // percent, at least; 0: not checked
	RequestDuration time.Duration // of 99 % of the requests, at most; 0: not checked
}

// narrowestAt is the number of requests at which the interval of a duration is narrowest. It is the
// same for all checks: if it were chosen by the counts, the coverage would be lower than stated.
const narrowestAt = 1000

// MinRequests is the least number of requests that a judgement needs: with fewer, one failure would
// be more than ten percent.
const MinRequests = 10

// Metric is one check of a judgement.
type Metric struct {
	Name     string  `json:"name"` // request-success-rate or request-duration, as Flagger calls them
	Value    float64 `json:"value"`
	Limit    float64 `json:"limit"`
	Unit     string  `json:"unit,omitempty"` // percent or milliseconds; a custom query has none
	Requests float64 `json:"requests,omitempty"`
	Passed   bool    `json:"passed"`
	// Low and High are the 95 % confidence interval of the value: of a success rate the Wilson
	// interval, in percent; of a request duration the ends of QuantileInterval in milliseconds,
	// which are bounds of buckets, where a High of 0 means that no bucket is long enough to tell.
	// They describe, and decide nothing.
	Low  float64 `json:"low,omitempty"`
	High float64 `json:"high,omitempty"`
}

// Measured is the value of a custom query.
type Measured struct {
	Name     string
	Value    float64
	Min, Max *float64 // the range it has to be in, ends included; nil: none
	Missing  Reason   // why there is no value; "" where there is
	Text     string   // what is missing, in a sentence
}

// Result is a judgement, with everything that is needed to compute it again.
type Result struct {
	Verdict Verdict       `json:"verdict"`
	Reason  Reason        `json:"reason,omitempty"`
	Early   bool          `json:"early,omitempty"` // by the sequential test, which ends the release
	Text    string        `json:"text"`
	From    time.Time     `json:"from,omitzero"`
	To      time.Time     `json:"to,omitzero"`
	Counts  counts.Counts `json:"counts"` // of the candidate
	Stable  counts.Counts `json:"stable"`
	LogE    float64       `json:"logE,omitempty"` // of the sequential test
	Metrics []Metric      `json:"metrics,omitempty"`
}

// Check compares what the candidate did with the limits, as Flagger does: every metric must be
// within its own. A metric that fails decides, even where another could not be measured.
func Check(limits Limits, w counts.Window, own ...Measured) Result {
	c := w.Candidate
	r := Result{Verdict: Pass, From: w.From, To: w.To, Counts: c, Stable: w.Stable}
	if w.Missing != "" {
		r.Verdict, r.Reason, r.Text = Inconclusive, Reason(w.Missing), w.Text
		return r
	}
	if c.Requests < MinRequests {
		r.Verdict, r.Reason = Inconclusive, TooFew
		r.Text = fmt.Sprintf(
			"too few: the candidate answered %.0f requests, %.0f more are needed", c.Requests,
			math.Ceil(MinRequests-c.Requests))
		return r
	}
	if limits.SuccessRate > 0 {
		r.checkSuccessRate(c, limits.SuccessRate)
	}
	if limits.RequestDuration > 0 {
		r.checkDuration(c, limits.RequestDuration)
	}
	for _, m := range own {
		r.checkMeasured(m)
	}
	r.Text = fmt.Sprintf("%s (%.0f requests)", cmp.Or(r.Text, "nothing is checked"), c.Requests)
	return r
}

// add adds the finding of one check. A failure outranks what is inconclusive, which outranks a
// pass; of equals the first gives the reason.
func (r *Result) add(verdict Verdict, reason Reason, format string, args ...any) {
	if r.Text != "" {
		r.Text += ", "
	}
	r.Text += fmt.Sprintf(format, args...)
	if verdict == Fail && r.Verdict != Fail || verdict == Inconclusive && r.Verdict == Pass {
		r.Verdict, r.Reason = verdict, reason
	}
}

// checkSuccessRate checks the share of requests that did not fail, in percent.
func (r *Result) checkSuccessRate(c counts.Counts, limit float64) {
	arm := Arm{Requests: c.Requests, Events: c.Errors}
	maxRate := (100 - limit) / 100
	rate := 100 * (1 - arm.Rate())
	m := Metric{Name: "request-success-rate", Value: rate, Limit: limit, Unit: "percent",
		Requests: c.Requests, Passed: rate >= limit}
	low, high := Wilson(arm.Events, arm.Requests, 0.05)
	m.Low, m.High = 100*(1-high), 100*(1-low)
	r.Metrics = append(r.Metrics, m)
	interval := fmt.Sprintf("(95 %% interval %.2f%% to %.2f%%)", m.Low, m.High)
	switch {
	case m.Passed:
		r.add(Pass, Good, "success rate %.2f%% >= %v%% %s", rate, limit, interval)
	case !Enough(arm, maxRate):
		r.add(Inconclusive, TooFew, "too few: success rate %s%% < %v%% %s, %.0f more requests are needed",
			below(rate, limit), limit, interval, needed(maxRate)-c.Requests)
	case c.Errors >= c.Requests:
		r.add(Fail, AllFailing, "all failing: success rate 0%% < %v%% %s", limit, interval)
	default:
		r.add(Fail, Failing, "success rate %s%% < %v%% %s", below(rate, limit), limit, interval)
	}
}

// checkDuration checks the 99th percentile of the durations.
func (r *Result) checkDuration(c counts.Counts, limit time.Duration) {
	p99, ok := quantile(durationQuantile, c.Within)
	if !ok {
		r.add(Inconclusive, NoDurations, "no durations: no proxy measured how long its requests took")
		return
	}
	limitMS := float64(limit) / float64(time.Millisecond)
	capped := isTop(p99, c.Within) // it took longer, and how much is not known
	m := Metric{Name: "request-duration", Value: p99, Limit: limitMS, Unit: "milliseconds",
		Requests: c.Within["+Inf"], Passed: p99 <= limitMS && !capped}
	m.Low, m.High, _ = QuantileInterval(durationQuantile, c.Within, 0.05, narrowestAt)
	if math.IsInf(m.High, 1) { // which JSON has no number for
		m.High = 0
	}
	r.Metrics = append(r.Metrics, m)
	took := time.Duration(p99 * float64(time.Millisecond))
	shown := took.Round(time.Millisecond)
	switch few := m.Requests < needed(1-durationQuantile); {
	case capped && p99 < limitMS:
		r.add(Inconclusive, NoDurations,
			"no durations: request duration > %s, where the proxies' longest bucket ends: whether it "+
				"is <= %s cannot be told", shown, limit)
	case m.Passed:
		r.add(Pass, Good, "request duration %s <= %s", min(shown, limit), limit)
	case capped && !few:
		r.add(Fail, Slow, "request duration > %s, where the proxies' longest bucket ends", shown)
	case few:
		r.add(Inconclusive, TooFew, "too few: request duration %s > %s, %.0f more requests are needed",
			max(shown, limit+1), limit, needed(1-durationQuantile)-m.Requests)
	case shown > limit:
		r.add(Fail, Slow, "request duration %s > %s", shown, limit)
	default:
		r.add(Fail, Slow, "request duration %s > %s", max(took.Round(time.Microsecond), limit+1), limit)
	}
}

// checkMeasured checks that the value of a custom query is in its range.
func (r *Result) checkMeasured(m Measured) {
	switch {
	case m.Missing != "":
		r.add(Inconclusive, m.Missing, "%s: %s", m.Name, m.Text)
	case m.Min != nil && m.Value < *m.Min:
		r.add(Fail, Failing, "%s %v < %v", m.Name, m.Value, *m.Min)
		r.Metrics = append(r.Metrics, Metric{Name: m.Name, Value: m.Value, Limit: *m.Min})
	case m.Max != nil && m.Value > *m.Max:
		r.add(Fail, Failing, "%s %v > %v", m.Name, m.Value, *m.Max)
		r.Metrics = append(r.Metrics, Metric{Name: m.Name, Value: m.Value, Limit: *m.Max})
	default:
		r.add(Pass, Good, "%s %v", m.Name, m.Value)
		r.Metrics = append(r.Metrics, Metric{Name: m.Name, Value: m.Value, Passed: true})
	}
}

// below formats a number with two decimals, or with as many more as show that it is below a limit.
func below(value, limit float64) string {
	for decimals := 2; decimals < 15; decimals++ {
		text := strconv.FormatFloat(value, 'f', decimals, 64)
		if shown, err := strconv.ParseFloat(text, 64); err == nil && shown < limit {
			return text
		}
	}
	return strconv.FormatFloat(value, 'f', -1, 64)
}

// quantile is the value below which a share q of the observations are, by linear interpolation
// within the bucket, as Prometheus' histogram_quantile computes it: in the last bucket it is the
// bound before.
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

// isTop reports whether a quantile is the longest finite bound because more requests took longer
// than that.
func isTop(value float64, within map[string]float64) bool {
	buckets := cumulative(within)
	top := len(buckets) - 2
	return top >= 0 && value == buckets[top].bound && buckets[top].count < durationQuantile*buckets[top+1].count
}

// bucket has the observations up to a bound.
type bucket struct{ bound, count float64 }

// cumulative sorts the buckets of a histogram, at least one and +Inf, by their bounds in
// milliseconds; nil where nothing was observed.
func cumulative(within map[string]float64) []bucket {
	var buckets []bucket
	for le, n := range within {
		if bound, err := strconv.ParseFloat(le, 64); err == nil {
			buckets = append(buckets, bucket{bound, n})
		}
	}
	slices.SortFunc(buckets, func(a, b bucket) int { return cmp.Compare(a.bound, b.bound) })
	for i := range buckets { // proxies may have different bounds; Prometheus repairs this in the same way
		if i > 0 {
			buckets[i].count = max(buckets[i].count, buckets[i-1].count)
		}
	}
	if len(buckets) < 2 || !math.IsInf(buckets[len(buckets)-1].bound, 1) || buckets[len(buckets)-1].count <= 0 {
		return nil
	}
	return buckets
}
