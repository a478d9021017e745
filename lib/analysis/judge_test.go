package analysis

import (
	"strings"
	"testing"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// counted is a scrape of a release as a caller's proxy counts it: so many requests of each version
// with so many errors.
type counted struct{ candidate, failed, stable, stableFailed float64 }

// play feeds a judge look by look, one stratum each, until there is a judgement.
func play(t *testing.T, j *Judge, reporter string, strata ...counted) (r Result, ok bool, looks int) {
	t.Helper()
	begin := time.Unix(1e9, 0)
	w := counts.Window{From: begin, To: begin, Reporter: reporter}
	for _, c := range strata {
		looks++
		from := w.To
		w.To = from.Add(5 * time.Second)
		candidate, stable := counts.Counts{Requests: c.candidate, Errors: c.failed},
			counts.Counts{Requests: c.stable, Errors: c.stableFailed}
		w.Candidate.Requests, w.Candidate.Errors = w.Candidate.Requests+c.candidate, w.Candidate.Errors+c.failed
		w.Stable.Requests, w.Stable.Errors = w.Stable.Requests+c.stable, w.Stable.Errors+c.stableFailed
		w.Strata = []counts.Stratum{{From: from, To: w.To, Candidate: candidate, Stable: stable}}
		if r, ok = j.Look(w); ok {
			return r, ok, looks
		}
		if j.Due(w, w.To) {
			if r, ok = j.Check(w, nil, w.To); ok {
				return r, ok, looks
			}
		}
	}
	return r, false, looks
}

func newJudge(t *testing.T, weight float64) *Judge {
	t.Helper()
	limits := Limits{SuccessRate: 99}
	objectives, err := limits.Objectives(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSequential(Plan{Objectives: objectives, Alpha: .05, Intervals: Intervals(3, 5)}, Evidence{})
	if err != nil {
		t.Fatal(err)
	}
	return &Judge{Limits: limits, Interval: 60 * time.Second, Weight: weight,
		Deadline: time.Unix(1e9, 0).Add(6 * time.Minute), Sequential: s}
}

func repeat(n int, c counted) []counted {
	all := make([]counted, n)
	for i := range all {
		all[i] = c
	}
	return all
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc     string
		reporter string
		strata   []counted
		verdict  Verdict // "": none by then
		reason   Reason
		early    bool
		looks    int
		text     string
	}{
		{"good for an interval", "source|waypoint", repeat(12, counted{100, 0, 400, 0}), Pass, Good, false, 12,
			"success rate 100.00% >= 99%"},
		{"a fifth fails: found with the first scrape", "source|waypoint", repeat(12, counted{100, 20, 400, 0}), Fail,
			Failing, true, 1, "beyond the limit and worse than stable: 20 of 100 requests failed"},
		{"at the workloads' side it takes two", "destination", repeat(12, counted{100, 20, 400, 0}), Fail, Failing,
			true, 2, "beyond the limit and worse than stable"},
		{"all fail", "source|waypoint", repeat(12, counted{100, 100, 400, 0}), Fail, AllFailing, true, 1,
			"100 of 100 requests failed"},
		{"hardly beyond the limit: the check", "source|waypoint", repeat(12, counted{100, 1.1, 400, 4}), Fail, Failing,
			false, 12, "success rate 98.90% < 99%"},
		{"both fail", "source|waypoint", repeat(12, counted{100, 20, 400, 80}), Inconclusive, Environment, false, 1,
			"environment: both versions are beyond the limit"},
		{"one noisy scrape", "source|waypoint", append(repeat(11, counted{100, 0, 400, 0}), counted{100, 5, 400, 1}),
			Pass, Good, false, 12, ""},
		{"too few: extended", "source|waypoint", repeat(36, counted{.5, .01, 2, 0}), "", "", false, 36, ""},
		{"too few by the deadline", "source|waypoint", repeat(90, counted{.1, 0, .4, 0}), Inconclusive, TooFew, false,
			72, "too few: the candidate answered 7 requests, 3 more are needed"},
		{"extended until there are ten", "source|waypoint", repeat(36, counted{.5, 0, 2, 0}), Pass, Good, false, 20,
			""},
		{"the mesh gives it half of what it should", "source|waypoint", repeat(90, counted{50, 0, 450, 0}),
			Inconclusive, SplitNotHonoured, false, 72,
			"split not honoured: the candidate gets 10.0 % of the requests, expected are 16.0 to 24.0 %"},
		{"at the workloads' side others may send requests, too", "destination", repeat(90, counted{50, 0, 450, 0}),
			Pass, Good, false, 12, "split not honoured: the candidate gets 10.0 %"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			r, ok, looks := play(t, newJudge(t, .2), c.reporter, c.strata...)
			if ok != (c.verdict != "") || ok &&
				(r.Verdict != c.verdict || r.Reason != c.reason || r.Early != c.early ||
					!strings.Contains(r.Text, c.text)) || looks != c.looks {
				t.Errorf("%v %s, %q, early %v after %d looks: %s", ok, r.Verdict, r.Reason, r.Early, looks, r.Text)
			}
		})
	}
}

// Where other routes lead to stable, too, its share says nothing.
func TestJudgeOfSharedStable(t *testing.T) {
	t.Parallel()
	j := newJudge(t, .2)
	j.Shared = true
	if r, ok, _ := play(t, j, "source|waypoint", repeat(12, counted{50, 0, 450, 0})...); !ok || r.Verdict != Pass ||
		strings.Contains(r.Text, "split") {
		t.Errorf("%v %s: %s", ok, r.Verdict, r.Text)
	}
}

// A failed check is of an interval of its own, and the evidence goes on through all of them.
func TestJudgeGoesOn(t *testing.T) {
	t.Parallel()
	j := newJudge(t, .2)
	if r, ok, _ := play(t, j, "source|waypoint", repeat(12, counted{100, 1.1, 400, 4})...); !ok || r.Verdict != Fail {
		t.Fatalf("%v %+v", ok, r)
	}
	if got := j.Sequential.Evidence(); got.Interval != 1 {
		t.Errorf("%d intervals after the first", got.Interval)
	}
	w := counts.Window{
		From: time.Unix(1e9, 0), To: time.Unix(1e9+65, 0), Reporter: "source|waypoint",
		Candidate: counts.Counts{Requests: 1300, Errors: 13.2}, Stable: counts.Counts{Requests: 5200, Errors: 48}}
	if _, ok := j.Look(w); ok || j.Due(w, w.To) {
		t.Error("the next interval is over with its first scrape")
	}
	if got := j.Sequential.Evidence(); got.Interval != 2 {
		t.Errorf("%d intervals in the second", got.Interval)
	}
	w.To, w.Candidate.Requests, w.Stable.Requests = time.Unix(1e9+120, 0), 2400, 9600
	if r, ok := j.Check(w, nil, w.To); !ok || r.Verdict != Pass || r.Counts.Requests != 1200 {
		t.Errorf("%v %+v", ok, r)
	}
}

// Custom queries are checks like the built-in ones; without a value nothing is decided.
func TestCheckOfOwnQueries(t *testing.T) {
	t.Parallel()
	one, two := 1.0, 2.0
	for _, c := range []struct {
		desc    string
		own     Measured
		verdict Verdict
		reason  Reason
		text    string
	}{
		{"in its range, ends included", Measured{Name: "queue", Value: 2, Min: &one, Max: &two}, Pass, Good,
			"queue 2 (1000 requests)"},
		{"below", Measured{Name: "queue", Value: .5, Min: &one, Max: &two}, Fail, Failing,
			"queue 0.5 < 1 (1000 requests)"},
		{"above", Measured{Name: "queue", Value: 2.5, Max: &two}, Fail, Failing, "queue 2.5 > 2 (1000 requests)"},
		{"no value", Measured{Name: "queue", Missing: NoValues, Text: "no values: it gives no number"}, Inconclusive,
			NoValues, "queue: no values: it gives no number (1000 requests)"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			got := Check(Limits{}, window(1000, 0, nil), c.own)
			if got.Verdict != c.verdict || got.Reason != c.reason || got.Text != c.text {
				t.Errorf("%s, %q, %q", got.Verdict, got.Reason, got.Text)
			}
		})
	}
}
