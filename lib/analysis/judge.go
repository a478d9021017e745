package analysis

import (
	"fmt"
	"math"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// Judge judges a candidate at one weight: by the Sequential at every scrape, and by Check at the
// end of each interval. Each failed check has an interval of its own; an interval with too little
// to judge by is extended instead. A Judge is for one goroutine.
type Judge struct {
	Limits     Limits
	Interval   time.Duration
	Weight     float64     // of the candidate, above 0 and up to 1
	Shared     bool        // stable has requests of other routes, too, so that its share says nothing of the weight
	Deadline   time.Time   // from then on there is a judgement, however little there is to judge by
	Sequential *Sequential // of the whole release; nil where only custom queries judge
	Acceptance *Acceptance // of this weight since its last failed check; nil where a weight is never passed early

	begin    time.Time // first scrape of this interval
	before   counts.Window
	begun    bool
	accepted bool
}

// Look takes what was scraped since the last look. ok reports whether there is a judgement already:
// the candidate is shown to be failing (Early), or both versions are (reason Environment).
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
		r.reject(signal, w)
		return r, true
	case signal.Environment:
		r.Verdict, r.Reason = Inconclusive, Environment
		return r, true
	}
	return Result{}, false
}

// reject makes a result the early failure that a signal shows, with the reason in front of its
// text.
func (r *Result) reject(signal Signal, w counts.Window) {
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
}

// Due reports whether a check is due: an interval is complete, the candidate is shown to be good
// where that is enough, or the deadline has passed.
func (j *Judge) Due(w counts.Window, now time.Time) bool {
	return j.complete(w) || j.accepted || !now.Before(j.Deadline)
}

// complete reports whether the interval is.
func (j *Judge) complete(w counts.Window) bool {
	return !w.To.IsZero() && w.To.Sub(j.begin) >= j.Interval
}

// Check judges what is Due; own are the custom queries, evaluated now. ok is false where the
// interval is extended.
func (j *Judge) Check(w counts.Window, own []Measured, now time.Time) (r Result, ok bool) {
	interval := w
	interval.Candidate, interval.Stable = w.Candidate.Minus(j.before.Candidate), w.Stable.Minus(j.before.Stable)
	r = Check(j.Limits, interval, own...)
	if r.Verdict != Fail {
		j.checkSplit(&r, w)
	}
	if last := !now.Before(j.Deadline); r.Verdict == Inconclusive && !last {
		return r, false
	}
	if r.Verdict == Pass && !j.complete(w) && !j.accepted { // time is up, after less than an interval
		r.Verdict, r.Reason, r.Text = Inconclusive, TooFew, "too few scrapes in time: "+r.Text
	}
	if r.Verdict == Pass && !j.complete(w) {
		r.Text = "shown to be good before the interval is over: " + r.Text
	}
	// What was good before is no reason to look at less than an interval now.
	if r.Verdict == Fail && j.Acceptance != nil {
		j.Acceptance.Forget()
		j.accepted = false
	}
	j.begin, j.before, j.begun = w.To, w, false
	return r, true
}

// checkSplit adds to a result that the mesh does not give the candidate its share, where it is
// shown.
func (j *Judge) checkSplit(r *Result, w counts.Window) {
	// A candidate without requests, while stable has some, has a reason of its own only where the
	// cause is known, such as that all callers gave up.
	known := w.Missing != "" && w.Missing != counts.NoRequests
	split := CheckSplit(j.Weight, w.Candidate.Requests, w.Stable.Requests)
	if !split.Alarm || j.Shared || known {
		return
	}
	r.Text = fmt.Sprintf("%s: %s; %s", SplitNotHonoured, split, r.Text)
	// The callers' side has exactly the requests that were routed by weight. At the workloads' side
	// there may be others.
	if w.Reporter != "destination" {
		r.Verdict, r.Reason = Inconclusive, SplitNotHonoured
	}
}
