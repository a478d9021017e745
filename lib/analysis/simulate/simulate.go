// Package simulate plays releases as counts, through the same code that judges real ones, and
// Flagger's rule beside it. It is what the error rates and the detection times of the judge are
// measured with. The same seed gives the same releases, whatever the number of processors.
package simulate

import (
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/canary-tasks/canary-tasks/lib/analysis"
	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// Scenario is one release. Requests come at an even pace, as everything that is computed of them is
// given their number; with Poisson they do not.
type Scenario struct {
	Rate             float64   // requests per second, of both versions
	Poisson          bool      // requests come at random
	Weights          []float64 // of the candidate, one after the other, from 0 to 1
	Interval, Scrape time.Duration
	Threshold        int
	SuccessRate      float64 // percent
	Alpha            float64
	Stable           float64 // share of stable's requests that fail
	Candidate        float64 // share of the candidate's that fail
	Onset            int     // at so many weights the candidate is as stable before it fails
	// each version's share of failures is multiplied by gamma variables of this variance, one for
	// each scrape
	Phi     float64
	History int // scrapes of stable before the release
	Outage  Outage
	// Hold gives each weight one interval until the onset, and keeps the weight then until all but
	// the checks have rejected: for at most four hours. Flagger counts from the onset then.
	Hold bool
	// Pods, where it is not 0, is how many pods stable has (the candidate has one), and lets the
	// workloads' side report, each pod at a moment of its own.
	Pods int
}

// Outage makes requests of both versions fail for a while that begins at random within the time
// that a healthy release takes.
type Outage struct {
	Length time.Duration
	Share  float64 // of the requests that fail more
}

// Found is when a rule rejected the release.
type Found struct {
	Rejected bool
	At       time.Duration // after the onset; negative: before it
	Requests float64       // of the candidate by then, since the onset
}

// Outcome is what each rule came to.
type Outcome struct {
	Sequential Found // the rule
	Single     Found // one e-process for worse than stable, from the onset and without tempering
	Check      Found // threshold failed checks
	Flagger    Found
	// Promoted and FlaggerPromoted say that every weight was passed, by the checks alone.
	Promoted, FlaggerPromoted bool
	Environment               bool // at some look
	Looks                     int
}

// Share is the share of the outcomes with something, and its standard error.
func Share(all []Outcome, has func(Outcome) bool) (p, standardError float64) {
	for _, o := range all {
		if has(o) {
			p++
		}
	}
	n := float64(len(all))
	p /= n
	return p, math.Sqrt(p * (1 - p) / n)
}

// Mean is the mean time and number of requests of those that were rejected, and their share.
func Mean(all []Outcome, rule func(Outcome) Found) (at time.Duration, requests, share float64) {
	n := 0
	for _, o := range all {
		if f := rule(o); f.Rejected {
			n, at, requests = n+1, at+f.At, requests+f.Requests
		}
	}
	if n == 0 {
		return 0, math.NaN(), 0
	}
	return at / time.Duration(n), requests / float64(n), float64(n) / float64(len(all))
}

// Run plays a scenario so many times, on all processors.
func Run(s Scenario, runs int, seed uint64) []Outcome {
	outcomes := make([]Outcome, runs)
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < runs; i += workers {
				outcomes[i] = s.play(rand.NewPCG(seed, uint64(i)))
			}
		})
	}
	wg.Wait()
	return outcomes
}

// longest is how long a weight is held.
const longest = 4 * time.Hour

// interval is what was counted in one: scrape by scrape, and together.
type interval struct {
	weight int           // which
	from   time.Duration // since the release began
	strata []counts.Stratum
	total  counts.Window
}

// release is a scenario that is being played.
type release struct {
	Scenario
	src    rand.Source
	now    time.Duration
	outage time.Duration // when it begins
}

func (s Scenario) play(src rand.Source) (out Outcome) {
	r := &release{Scenario: s, src: src}
	if s.Outage.Length > 0 {
		r.outage = time.Duration(rand.New(src).Int64N(int64(s.Interval)*int64(len(s.Weights)) - int64(s.Outage.Length)))
	}
	limits := analysis.Limits{SuccessRate: s.SuccessRate}
	objectives, err := limits.Objectives(r.history())
	if err != nil {
		panic(err)
	}
	plan := analysis.Plan{
		Objectives: objectives, Alpha: s.Alpha, Intervals: analysis.Intervals(len(s.Weights), s.Threshold)}
	sequential := newSequential(plan)
	plan.Intervals, plan.Objectives = 1, []analysis.Objective{{MaxRate: objectives[0].MaxRate, Weight: 1}}
	single := newSequential(plan)
	reporter := "source"
	if s.Pods > 0 {
		reporter = "destination"
	}
	var onset time.Duration
	requests, onsets, flagged := 0.0, false, 0
	found := func(f *Found, at time.Duration) {
		if !f.Rejected {
			*f = Found{Rejected: true, At: at - onset, Requests: requests}
		}
	}
	c, fresh := checks{Scenario: s}, true
	for in := range r.intervals() {
		if fresh {
			sequential.Begin(false)
		}
		if in.weight >= min(s.Onset, len(s.Weights)-1) && !onsets {
			onsets, onset, requests = true, in.from, 0
		}
		for i, stratum := range in.strata {
			now := in.from + time.Duration(i+1)*s.Scrape
			requests += stratum.Candidate.Requests
			if s.Hold && out.Sequential.Rejected && out.Single.Rejected {
				continue // time only goes on for the checks
			}
			out.Looks++
			signal := sequential.Look(reporter, []counts.Stratum{stratum})
			out.Environment = out.Environment || signal.Environment
			if signal.Reject {
				found(&out.Sequential, now)
			}
			if onsets {
				if one := single.Look(reporter, []counts.Stratum{stratum}); one.Worse >= one.Bound {
					found(&out.Single, now)
				}
			}
		}
		now := in.from + s.Interval
		if fresh = c.judge(in.total); c.failed >= s.Threshold {
			found(&out.Check, now)
		}
		if s.Hold && onsets {
			if flaggerFails(in.total.Candidate, s.SuccessRate) {
				flagged++
			}
			if flagged >= s.Threshold {
				found(&out.Flagger, now)
			}
			if out.Sequential.Rejected && out.Single.Rejected && out.Flagger.Rejected {
				break
			}
		}
	}
	out.Promoted = c.weight == len(s.Weights)
	if !s.Hold {
		out.Flagger, out.FlaggerPromoted = s.flagger(src)
	}
	return out
}

func newSequential(p analysis.Plan) *analysis.Sequential {
	s, err := analysis.NewSequential(p, analysis.Evidence{})
	if err != nil {
		panic(err) // a scenario is not a user's configuration
	}
	return s
}

// checks is what the checks have come to: the weight moves on with each that passes.
type checks struct {
	Scenario
	weight, failed int
	waited         int // intervals at this weight
	window         counts.Window
}

// judge checks an interval, together with those before that were too few to judge by. It says
// whether the next begins anew.
func (c *checks) judge(w counts.Window) bool {
	c.waited++
	c.window.Candidate.Requests += w.Candidate.Requests
	c.window.Candidate.Errors += w.Candidate.Errors
	arm := analysis.Arm{Requests: c.window.Candidate.Requests, Events: c.window.Candidate.Errors}
	if !analysis.Enough(arm, 1-c.SuccessRate/100) {
		return false
	}
	switch analysis.Check(analysis.Limits{SuccessRate: c.SuccessRate}, c.window).Verdict {
	case analysis.Pass:
		c.weight, c.waited = c.weight+1, 0
	case analysis.Fail:
		c.failed++
	}
	c.window = counts.Window{}
	return true
}

// ended says whether the checks reject, promote, or have waited too long.
func (c *checks) ended() bool {
	return c.failed >= c.Threshold || c.weight >= len(c.Weights) || c.waited >= c.Threshold
}

// intervals plays one interval after the other, until the checks end the release or what is held is
// over.
func (r *release) intervals() func(func(interval) bool) {
	if r.Pods > 0 {
		return r.scraped()
	}
	return func(yield func(interval) bool) {
		c := checks{Scenario: r.Scenario}
		for i := 0; ; i++ {
			weight := c.weight
			if r.Hold {
				weight = min(i, r.Onset, len(r.Weights)-1)
			}
			in := r.interval(weight)
			if !yield(in) {
				return
			}
			if c.judge(in.total); r.Hold && r.now > longest || !r.Hold && c.ended() {
				return
			}
		}
	}
}

func (r *release) interval(weight int) interval {
	in := interval{weight: weight, from: r.now}
	for range int(r.Interval / r.Scrape) {
		s := counts.Stratum{
			Candidate: r.arm(r.Weights[weight], r.rate(weight), r.Scrape, r.burst()),
			Stable:    r.arm(1-r.Weights[weight], r.Stable, r.Scrape, r.burst()),
		}
		r.now += r.Scrape
		in.strata = append(in.strata, s)
		in.total.Candidate = sum(in.total.Candidate, s.Candidate, 1)
		in.total.Stable = sum(in.total.Stable, s.Stable, 1)
	}
	return in
}

// rate is the share of the candidate's requests that fail.
func (r *release) rate(weight int) float64 {
	if weight < r.Onset {
		return r.Stable
	}
	return r.Candidate
}

// burst is what a version's share of failures is multiplied by during one scrape.
func (r *release) burst() float64 {
	if r.Phi == 0 {
		return 1
	}
	return distuv.Gamma{Alpha: 1 / r.Phi, Beta: 1 / r.Phi, Src: r.src}.Rand()
}

// arm are the requests that a version gets from now on.
func (r *release) arm(weight, rate float64, length time.Duration, burst float64) counts.Counts {
	n := r.Rate * weight * length.Seconds()
	if r.Poisson {
		n = poisson(r.src, n)
	}
	n = math.Round(n)
	x := binomial(r.src, n, min(1, rate*burst))
	if overlap := min(r.now+length, r.outage+r.Outage.Length) - max(r.now, r.outage); overlap > 0 &&
		r.Outage.Share > 0 {
		x += binomial(r.src, math.Round((n-x)*overlap.Seconds()/length.Seconds()), r.Outage.Share)
	}
	return counts.Counts{Requests: n, Errors: x}
}

func (r *release) history() (all []counts.Stratum) {
	before := *r
	before.Outage, before.now = Outage{}, 0
	for range r.History {
		all = append(all, counts.Stratum{Stable: before.arm(1, r.Stable, r.Scrape, r.burst())})
	}
	return all
}

// flagger plays the release by Flagger's rule: an interval whose success rate is below the limit,
// or that has no traffic, is a failed check.
func (s Scenario) flagger(src rand.Source) (f Found, promoted bool) {
	r := &release{Scenario: s, src: src}
	r.Pods = 0 // how it is scraped changes little in a minute
	if s.Outage.Length > 0 {
		r.outage = time.Duration(rand.New(src).Int64N(int64(s.Interval)*int64(len(s.Weights)) - int64(s.Outage.Length)))
	}
	requests := 0.0
	for weight, failed := 0, 0; failed < s.Threshold; {
		n := r.interval(weight).total.Candidate
		requests += n.Requests
		if flaggerFails(n, s.SuccessRate) {
			failed++
			continue
		}
		if weight++; weight == len(s.Weights) {
			return Found{}, true
		}
	}
	return Found{Rejected: true, At: r.now, Requests: requests}, false
}

func flaggerFails(n counts.Counts, successRate float64) bool {
	return n.Requests == 0 || 100*(n.Requests-n.Errors)/n.Requests < successRate
}

func sum(a, b counts.Counts, share float64) counts.Counts {
	return counts.Counts{Requests: a.Requests + b.Requests*share, Errors: a.Errors + b.Errors*share}
}

// binomial and poisson draw exactly; few expected events are the usual case, for which inversion by
// chops is the fastest (Devroye 1986, X.1.2).
func binomial(src rand.Source, n, p float64) float64 {
	if n <= 0 || p <= 0 {
		return 0
	}
	if p >= 1 {
		return n
	}
	if n*p > 20 || p > 0.5 {
		return distuv.Binomial{N: n, P: p, Src: src}.Rand()
	}
	u, odds := uniform(src), p/(1-p)
	chance := math.Exp(n * math.Log1p(-p))
	x := 0.0
	for u > chance && x < n {
		u -= chance
		chance *= odds * (n - x) / (x + 1)
		x++
	}
	return x
}

func poisson(src rand.Source, mean float64) float64 {
	if mean == 0 {
		return 0
	}
	return distuv.Poisson{Lambda: mean, Src: src}.Rand()
}

func uniform(src rand.Source) float64 { return float64(src.Uint64()>>11) / (1 << 53) }
