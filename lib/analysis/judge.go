package analysis

import (
	"fmt"
	"math"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// Judge judges a candidate at one weight: by the Sequential with every scrape, and by Check at the
// end of each interval. Each failed check is of an interval of its own; one in which there was too
// little to judge is extended instead. It is for one goroutine.
type Judge struct {
	Limits     Limits
	Interval   time.Duration
	Weight     float64     // of the candidate, above 0 and up to 1
	Shared     bool        // stable has requests of other routes, too, so that its share says nothing of the weight
	Deadline   time.Time   // from then on there is a judgement, whatever there is to judge by
	Sequential *Sequential // of the whole release; nil where only queries of people's own judge
	Acceptance *Acceptance // of this weight since its last failed check; nil where a weight is never passed early

	begin    time.Time // first scrape of this interval
	before   counts.Window
	begun    bool
	accepted bool
}

// Look takes what was scraped since the last look. ok says that there is a judgement already: that
// the candidate is shown to be failing (Early), or that candidate and stable are (reason
// Environment).
func (j *Judge) Look(w counts.Window) (r Result, ok bool) {
	if !j.begun && j.Sequential != nil {
		j.Sequential.Begin(j.Weight >= 1)
		j.begun = true
	}
	if j.begin.IsZero() {
		j.begin = w.From
	}
	if w.Missing == counts.TooManySeries || j.Sequential == nil {
		return Result{}, false
	}
	signal := j.Sequential.Look(w.Reporter, w.Strata)
	if j.Acceptance != nil {
		j.accepted = j.Acceptance.Look(w.Strata)
	}
	r = Result{From: w.From, To: w.To, Counts: w.Candidate, Stable: w.Stable, LogE: min(signal.LogE, math.MaxFloat32),
		Text: signal.String()}
	switch {
	case signal.Reject:
		r.Verdict, r.Early = Fail, true
		switch slow := signal.Objective.Limit > 0; {
		case slow && w.Missing == counts.NoneAnswered:
			r.Reason, r.Text = Reason(counts.NoneAnswered),
				fmt.Sprintf("the callers of %.0f gave up; %s", w.Candidate.Aborted, r.Text)
		case slow:
			r.Reason = Slow
		case signal.Candidate.Events >= signal.Candidate.Requests:
			r.Reason = AllFailing
		default:
			r.Reason = Failing
		}
		r.Text = fmt.Sprintf("%s: %s", r.Reason, r.Text)
		return r, true
	case signal.Environment:
		r.Verdict, r.Reason = Inconclusive, Environment
		return r, true
	}
	return Result{}, false
}

// Due says whether there is something to check: an interval is complete, the candidate is shown to
// be good where that is enough, or the deadline is over.
func (j *Judge) Due(w counts.Window, now time.Time) bool {
	return j.complete(w) || j.accepted || !now.Before(j.Deadline)
}

func (j *Judge) complete(w counts.Window) bool {
	return !w.To.IsZero() && w.To.Sub(j.begin) >= j.Interval
}

// Check judges what is Due; own are the queries of people's own, evaluated now. ok is false where
// the interval is extended.
func (j *Judge) Check(w counts.Window, own []Measured, now time.Time) (r Result, ok bool) {
	interval := w
	interval.Candidate, interval.Stable = w.Candidate.Minus(j.before.Candidate), w.Stable.Minus(j.before.Stable)
	r = Check(j.Limits, interval, own...)
	last := !now.Before(j.Deadline)
	// That a candidate has no requests although stable has some is told by its own name only where
	// it is known: all callers gave up.
	known := w.Missing != "" && w.Missing != counts.NoRequests
	if split := CheckSplit(j.Weight, w.Candidate.Requests, w.Stable.Requests); split.Alarm && !j.Shared &&
		r.Verdict != Fail && !known {
		r.Text = fmt.Sprintf("%s: %s; %s", SplitNotHonoured, split, r.Text)
		// The callers' side has exactly the requests that were routed by weight. At the workloads'
		// side there may be others.
		if w.Reporter != "destination" {
			r.Verdict, r.Reason = Inconclusive, SplitNotHonoured
		}
	}
	if r.Verdict == Inconclusive && !last {
		return r, false
	}
	if r.Verdict == Pass && !j.complete(w) && !j.accepted { // time is over, and what was seen is less than an interval
		r.Verdict, r.Reason, r.Text = Inconclusive, TooFew, "too few scrapes in time: "+r.Text
	}
	if r.Verdict == Pass && !j.complete(w) {
		r.Text = "shown to be good before the interval is over: " + r.Text
	}
	// what was good before is no reason to look at less than an interval now
	if r.Verdict == Fail && j.Acceptance != nil {
		j.Acceptance.Forget()
		j.accepted = false
	}
	j.begin, j.before, j.begun = w.To, w, false
	return r, true
}
