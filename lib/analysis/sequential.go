package analysis

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// Plan is what the sequential test must know before the first request. It must not change within a
// release.
type Plan struct {
	Objectives []Objective
	Alpha      float64 // probability of rejecting a healthy release, however often it is looked at
	Intervals  int     // the most that can happen: see Intervals
	Primary    bool    // being clearly worse than stable is enough, even within the limits
}

// Intervals returns how many intervals a release can have: each weight passes once, and up to
// threshold-1 checks fail.
func Intervals(weights, threshold int) int { return weights + threshold - 1 }

// With Plan.Primary, the candidate is worse than stable if its rate is more than primaryMargin
// times stable's and more than primaryFloor of what the limit allows: without the floor, three
// errors in a million against none would roll back.
const (
	primaryMargin = 1.25
	primaryFloor  = 0.1
)

// Sequential is the test that may look at every scrape. It rejects when the candidate is shown to
// be both beyond a limit and worse than stable, at level Alpha over the whole release.
//
// Its evidence E is a nonnegative supermartingale that starts at 1 whenever the candidate is within
// its limits or not worse than stable, so that the probability that E ever reaches 1/Alpha is at
// most Alpha (Ville 1939). It is built from such processes, in three ways that preserve this. The
// minimum of E_abs and E_rel is below each of them, so it is one where either is. A start that
// waits for its interval has E = 1 until then: the mean over the starts sees a failure that begins
// at the last weight as well as one that was always there. And a mean with weights that were fixed
// before is one over the objectives.
//
// It is fed strata in the order of time, each once, at each look. A Sequential is for one
// goroutine.
type Sequential struct {
	plan     Plan
	terms    []term
	evidence Evidence
}

// term is one objective, with how many times worse than stable the candidate may be.
type term struct {
	Objective
	limit
	margin float64
}

// Evidence is the state of a Sequential: of constant size, whatever the number of looks. It is
// written as JSON into the release record.
type Evidence struct {
	Interval int       `json:"interval"`          // intervals begun
	Crossed  int       `json:"crossed,omitempty"` // consecutive looks at which E was beyond its bound
	Terms    [][]start `json:"terms,omitempty"`   // by term, then by start
}

// start is the evidence since one interval began.
type start struct {
	Candidate         Arm  `json:"candidate"` // as it was counted
	Stable            Arm  `json:"stable"`
	TemperedCandidate Arm  `json:"temperedCandidate"` // what E_abs is computed from
	TemperedStable    Arm  `json:"temperedStable"`
	Relative          logs `json:"relative"`
	Alone             bool `json:"alone,omitempty"` // stable gets no traffic by design
}

// NewSequential continues where a Sequential of the same plan stopped; the zero Evidence begins.
// The error names what is wrong with the plan.
func NewSequential(p Plan, e Evidence) (*Sequential, error) {
	terms, err := p.terms()
	if err != nil {
		return nil, err
	}
	s := &Sequential{plan: p, terms: terms, evidence: Evidence{Interval: e.Interval, Crossed: e.Crossed}}
	for _, starts := range e.Terms {
		s.evidence.Terms = append(s.evidence.Terms, slices.Clone(starts))
	}
	if len(e.Terms) == 0 {
		s.evidence.Terms = make([][]start, len(s.terms))
	} else if len(e.Terms) != len(s.terms) {
		return nil, fmt.Errorf("evidence of %d terms is not of this plan with %d", len(e.Terms), len(s.terms))
	}
	return s, nil
}

// terms returns the terms of a plan, two for each objective of a Primary. An error is a plan that
// nothing can be shown with.
func (p Plan) terms() ([]term, error) {
	if !(p.Alpha > 0 && p.Alpha < 1) || p.Intervals < 1 || len(p.Objectives) == 0 {
		return nil, fmt.Errorf(
			"alpha %v of %d intervals and %d objectives: give an alpha between 0 and 1, and at least one of both",
			p.Alpha, p.Intervals, len(p.Objectives))
	}
	var terms []term
	weights := 0.0
	for _, o := range p.Objectives {
		if err := o.validate(); err != nil {
			return nil, err
		}
		weights += o.Weight
		if p.Primary { // each gets half of alpha
			o.Weight /= 2
			floor := o
			floor.MaxRate *= primaryFloor
			terms = append(terms, term{floor, newLimit(floor.MaxRate), primaryMargin})
		}
		terms = append(terms, term{o, newLimit(o.MaxRate), 1})
	}
	if math.Abs(weights-1) > 1e-9 {
		return nil, fmt.Errorf("the weights of the objectives are %v together and not 1", weights)
	}
	return terms, nil
}

// validate returns an error for an objective that cannot be tested.
func (o Objective) validate() error {
	if !(o.MaxRate >= 0 && o.MaxRate < 1) {
		return fmt.Errorf(
			"%s: with %v %% bad requests allowed nothing can be shown: give a limit that a candidate can break",
			o.Name, 100*o.MaxRate)
	}
	if !(o.Weight > 0) || o.Phi < 0 || o.Rate < 0 {
		return fmt.Errorf(
			"%s: weight %v, phi %v and rate %v must not be negative, nor the weight 0", o.Name, o.Weight, o.Phi,
			o.Rate)
	}
	return nil
}

// Evidence returns what NewSequential needs to continue from here.
func (s *Sequential) Evidence() Evidence {
	e := s.evidence
	e.Terms = make([][]start, len(s.evidence.Terms))
	for i, starts := range s.evidence.Terms {
		e.Terms[i] = slices.Clone(starts)
	}
	return e
}

// Begin begins an interval: the strata of later looks are in it. alone says that stable gets no
// traffic by design, so that being beyond the limit is enough. More intervals than were planned
// begin no new start.
func (s *Sequential) Begin(alone bool) {
	s.evidence.Interval++
	if s.evidence.Interval > s.plan.Intervals {
		return
	}
	for i := range s.evidence.Terms {
		s.evidence.Terms[i] = append(s.evidence.Terms[i], start{Alone: alone})
	}
}

// Look adds new strata and returns what all of them show. With the reporter destination, where the
// versions are scraped at different moments, a failure of both can be seen at the candidate first:
// the evidence then has to be there at two consecutive looks that brought strata.
func (s *Sequential) Look(reporter string, strata []counts.Stratum) Signal {
	if s.evidence.Interval == 0 {
		s.Begin(false)
	}
	for i, t := range s.terms {
		for _, stratum := range strata {
			if table, ok := t.table(stratum); ok {
				t.add(s.evidence.Terms[i], table)
			}
		}
	}
	signal := s.signal()
	switch {
	case signal.LogE < signal.Bound:
		s.evidence.Crossed = 0
	case len(strata) > 0:
		s.evidence.Crossed++
	}
	looks := 1
	if reporter == "destination" {
		looks = 2
	}
	signal.Reject = s.evidence.Crossed >= looks
	return signal
}

// table returns a stratum as the objective sees it. The durations of both versions are counted by
// the same bound; where that is impossible, the stratum says nothing.
func (o Objective) table(s counts.Stratum) (Table, bool) {
	if o.Limit == 0 {
		return Table{Candidate: Arm{s.Candidate.Requests, s.Candidate.Errors},
			Stable: Arm{s.Stable.Requests, s.Stable.Errors}}, true
	}
	candidate, err := BoundsAround(o.Limit, s.Candidate.Within)
	stable, err2 := BoundsAround(o.Limit, s.Stable.Within)
	if len(cumulative(s.Candidate.Within)) == 0 { // no requests of one version are no reason to ignore the other's
		return Table{Stable: stable.Slower}, err2 == nil
	}
	if len(cumulative(s.Stable.Within)) == 0 {
		return Table{Candidate: candidate.Slower}, err == nil
	}
	return Table{candidate.Slower, stable.Slower}, err == nil && err2 == nil && candidate.Above == stable.Above
}

// add adds the table of a stratum to the evidence since each start.
func (t term) add(starts []start, table Table) {
	c, p := table.Candidate, table.Stable
	ln := relative(table, t.margin, worse)
	share := temper(t.Phi, t.Rate*max(c.Requests, p.Requests))
	for k := range starts {
		e := &starts[k]
		e.Candidate, e.Stable = e.Candidate.plus(c, 1), e.Stable.plus(p, 1)
		e.TemperedCandidate = e.TemperedCandidate.plus(c, temper(t.Phi, t.MaxRate*c.Requests))
		e.TemperedStable = e.TemperedStable.plus(p, temper(t.Phi, t.MaxRate*p.Requests))
		e.Relative.add(ln, share)
	}
}

// Signal is the outcome of a look.
type Signal struct {
	Reject bool // the candidate is shown to be failing
	// Environment says that candidate and stable are both shown to be beyond the limit, and the
	// candidate is not shown to be worse: take its traffic away at once, and count no failed check.
	// If stable then recovers at once, it was the candidate; otherwise the cause is unknown
	// (Recovery).
	Environment bool
	LogE, Bound float64   // ln of the evidence, and where it rejects: ln 1/Alpha
	Beyond      float64   // ln of E_abs of the largest term: beyond the limit
	Worse       float64   // ln of E_rel of the largest term: worse than stable
	Objective   Objective // of the largest term
	Start       int       // of the largest term: the interval, from 1, that the failure probably began with
	Candidate   Arm       // since that start
	Stable      Arm
}

// signal returns what the evidence so far shows.
func (s *Sequential) signal() Signal {
	var environment Signal
	out := Signal{LogE: math.Inf(-1), Bound: -math.Log(s.plan.Alpha)}
	largest := math.Inf(-1)
	var all []float64
	for i, t := range s.terms {
		starts := s.evidence.Terms[i]
		waiting := math.Log(float64(s.plan.Intervals - len(starts)))
		ln := math.Log(t.Weight / float64(s.plan.Intervals)) // of each start
		var beyond, worst []float64
		for k := range starts {
			e := &starts[k]
			beyond = append(beyond, t.absolute(e.TemperedCandidate))
			worst = append(worst, logMean(e.Relative[:]))
			if e.Alone {
				worst[k] = math.Inf(1)
			}
			both := ln + min(beyond[k], worst[k])
			if all = append(all, both); both >= largest-1e-6 { // the last of equals: before it there was nothing
				largest = both
				out.Objective, out.Start, out.Candidate, out.Stable = t.Objective, k+1, e.Candidate, e.Stable
				out.Beyond, out.Worse = beyond[k], worst[k]
			}
		}
		all = append(all, ln+waiting)
		crosses := func(terms []float64) bool { return ln+logSum(append(terms, waiting)) >= out.Bound }
		// The limit alone is what both can be beyond: the floor of a Primary is a fraction of it,
		// which stable may well have.
		if t.margin == 1 && crosses(beyond) && !crosses(worst) {
			var stable []float64
			for k := range starts {
				stable = append(stable, t.absolute(starts[k].TemperedStable))
			}
			if !environment.Environment && crosses(stable) { // this is what is to be told
				k := slices.Index(beyond, slices.Max(beyond))
				environment = Signal{
					Environment: true, Bound: out.Bound, Objective: t.Objective, Start: k + 1,
					Candidate: starts[k].Candidate, Stable: starts[k].Stable, Beyond: beyond[k], Worse: worst[k]}
			}
		}
	}
	out.LogE = logSum(all)
	if environment.Environment && out.LogE < out.Bound {
		environment.LogE = out.LogE
		return environment
	}
	return out
}

// String describes the signal in a sentence, with the numbers since the failure probably began.
func (s Signal) String() string {
	what := "failed"
	if s.Objective.Limit > 0 {
		what = "took longer than " + s.Objective.Limit.Round(time.Millisecond).String()
	}
	numbers := fmt.Sprintf(
		"%.0f of %.0f requests %s (%.3g %%, allowed are %.3g %%), of stable %.0f of %.0f (%.3g %%), since interval %d",
		s.Candidate.Events, s.Candidate.Requests, what, 100*s.Candidate.Rate(), 100*s.Objective.MaxRate,
		s.Stable.Events, s.Stable.Requests, 100*s.Stable.Rate(), s.Start)
	evidence := fmt.Sprintf("evidence 10^%.1f, 10^%.1f is enough", s.LogE/math.Ln10, s.Bound/math.Ln10)
	switch {
	case s.Reject && math.IsInf(s.Worse, 1): // alone
		return fmt.Sprintf(
			"%s: beyond the limit: %.0f of %.0f requests %s (%.3g %%, allowed are %.3g %%); %s", s.Objective.Name,
			s.Candidate.Events,
			s.Candidate.Requests, what, 100*s.Candidate.Rate(), 100*s.Objective.MaxRate, evidence)
	case s.Reject:
		return fmt.Sprintf(
			"%s: the candidate is beyond the limit and worse than stable: %s; %s", s.Objective.Name, numbers, evidence)
	case s.Environment:
		return fmt.Sprintf(
			"environment: both versions are beyond the limit and the candidate is not shown to be worse: %s", numbers)
	default:
		return fmt.Sprintf("nothing is shown: %s; %s", numbers, evidence)
	}
}
