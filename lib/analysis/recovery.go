package analysis

import (
	"math"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// Recovery distinguishes a candidate that makes both versions fail from a failure that only
// coincides with it: in the first case stable keeps the limits as soon as the candidate has no
// traffic. Stable has one scrape interval to finish the requests in flight, and is judged by the
// two after it. A failure that ends later ends by itself, and is not held against the candidate;
// one that happens to end within these scrapes cannot be distinguished. Where stable has too few
// requests in them to show that it keeps the limits, the cause stays unknown.
type Recovery struct {
	Limits Limits

	first, begin counts.Window
}

// Look takes what was counted since the candidate's traffic was taken away. known is false as long
// as there is too little to tell.
func (r *Recovery) Look(w counts.Window) (recovered, known bool) {
	since := func(before counts.Window) float64 { // scrapes
		if before.To.IsZero() || w.Interval <= 0 {
			return 0
		}
		return w.To.Sub(before.To).Seconds() / w.Interval.Seconds()
	}
	const almost = 0.1 // scrapes are not quite regular
	switch {
	case w.To.IsZero():
	case r.first.To.IsZero():
		r.first = w
	case r.begin.To.IsZero() && since(r.first) >= 1-almost:
		r.begin = w
	case since(r.begin) >= 2-almost:
		stable := w.Stable.Minus(r.begin.Stable)
		checked := Check(r.Limits, counts.Window{From: r.begin.To, To: w.To, Candidate: stable})
		return checked.Verdict == Pass && r.shown(stable), checked.Verdict != Inconclusive
	}
	return false, false
}

// recoveryAlpha is how often stable is taken to have recovered although it has not.
const recoveryAlpha = 0.05

// shown reports whether the limits are shown to be kept: a few good answers are no reason to
// remember a revision as rejected.
func (r *Recovery) shown(c counts.Counts) bool {
	objectives, err := r.Limits.Objectives(nil)
	for _, o := range objectives {
		if keepsLimit(o.generous(c), o.MaxRate) < -math.Log(recoveryAlpha) {
			return false
		}
	}
	return err == nil
}
