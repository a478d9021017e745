package analysis

import (
	"fmt"
	"math"
	"slices"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// Acceptance is the test that may pass a candidate before its interval is over: only where that was
// asked for, and only while the Sequential does not reject. A candidate is accepted when each
// objective is shown to be kept: its rate is below the limit, or below margin times stable's. The
// probability of ever accepting a candidate whose rate is neither is at most alpha, half of it for
// each of the two ways.
//
// As all objectives must be shown, alpha is not shared among them. It is fed strata as the
// Sequential is, but of one weight: a candidate may be good at one and fail at the next, and is
// promoted only where it passed each.
type Acceptance struct {
	objectives    []Objective
	alpha, margin float64
	evidence      AcceptanceEvidence
}

// AcceptanceEvidence is the state of an Acceptance, by objective. It is written as JSON into the
// release record.
type AcceptanceEvidence []kept

type kept struct {
	Candidate Arm  `json:"candidate"` // tempered
	Relative  logs `json:"relative"`
}

// NewAcceptance continues where another of the same objectives, alpha and margin (at least 1)
// stopped; nil begins.
func NewAcceptance(objectives []Objective, alpha, margin float64, e AcceptanceEvidence) (*Acceptance, error) {
	if !(alpha > 0 && alpha < 1) || !(margin >= 1) || len(objectives) == 0 {
		return nil, fmt.Errorf(
			"alpha %v, margin %v and %d objectives: give an alpha between 0 and 1, a margin from 1 and an objective",
			alpha, margin, len(objectives))
	}
	if e == nil {
		e = make(AcceptanceEvidence, len(objectives))
	} else if len(e) != len(objectives) {
		return nil, fmt.Errorf("evidence of %d objectives is not of these %d", len(e), len(objectives))
	}
	return &Acceptance{objectives: slices.Clone(objectives), alpha: alpha, margin: margin, evidence: slices.Clone(e)},
		nil
}

// Forget begins anew.
func (a *Acceptance) Forget() { a.evidence = make(AcceptanceEvidence, len(a.objectives)) }

// Evidence returns what NewAcceptance needs to continue from here.
func (a *Acceptance) Evidence() AcceptanceEvidence { return slices.Clone(a.evidence) }

// Look adds new strata and reports whether the candidate can be accepted. A request that took
// longer than the bucket bound below the limit counts as slow here: it may have been.
func (a *Acceptance) Look(strata []counts.Stratum) bool {
	all := true
	need := -math.Log(a.alpha / 2)
	for i, o := range a.objectives {
		e := &a.evidence[i]
		for _, s := range strata {
			candidate, stable := o.generous(s.Candidate), o.generous(s.Stable)
			e.Candidate = e.Candidate.plus(candidate, temper(o.Phi, o.MaxRate*candidate.Requests))
			e.Relative.add(relative(Table{candidate, stable}, a.margin, better),
				temper(o.Phi, o.Rate*max(candidate.Requests, stable.Requests)))
		}
		all = all && (keepsLimit(e.Candidate, o.MaxRate) >= need || logMean(e.Relative[:]) >= need)
	}
	return all
}

// generous counts every request that may be an event: without buckets nothing is known.
func (o Objective) generous(c counts.Counts) Arm {
	if o.Limit == 0 {
		return Arm{Requests: c.Requests, Events: c.Errors}
	}
	// above the top bound, Below is that bound, which is what is needed here
	bounds, _ := BoundsAround(o.Limit, c.Within)
	return bounds.MaybeSlower
}

// keepsLimit returns ln of the evidence against "at least a share p are events", over the rates
// f p. It is absolute with alternatives below p: the factor of a request falls in its probability,
// and its expectation at p is 1.
func keepsLimit(a Arm, p float64) float64 {
	fractions := []float64{0, .05, .1, .2, .3, .4, .5, .6, .7, .8}
	terms := make([]float64, len(fractions))
	for j, f := range fractions {
		terms[j] = (a.Requests - a.Events) * (math.Log1p(-f*p) - math.Log1p(-p))
		if a.Events > 0 {
			terms[j] += a.Events * math.Log(f)
		}
	}
	return logMean(terms)
}
