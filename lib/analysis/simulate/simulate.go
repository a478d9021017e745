// Package simulate simulates releases as counts and judges them by the same code that judges real
// ones, and by Flagger's rule. It measures the error rates and the detection times of the judge.
// The same seed gives the same releases, whatever the number of processors.
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

// Scenario is one release. Requests come at an even pace, as all that is computed of them is
// conditional on their number; with Poisson they do not.
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
	Onset            int     // at so many weights the candidate is like stable before it fails
	// Phi is the variance of the gamma variables that each version's share of failures is
	// multiplied by, one for each scrape.
	Phi     float64
	History int // scrapes of stable before the release
	Outage  Outage
	// Hold gives each weight one interval until the onset, and then keeps the weight until all but
	// the checks have rejected, for at most four hours. Flagger then counts from the onset.
	Hold bool
	// Pods is how many pods stable has (the candidate has one), which report at the workloads'
	// side, each pod at a moment of its own; with 0 the callers report.
	Pods int
}

// Outage makes requests of both versions fail for a while that begins at random within the time
// that a healthy release takes.
type Outage struct {
	Length time.Duration
	Share  float64 // of the requests that fail in addition
}

// Found is when a rule rejected the release.
type Found struct {
	Rejected bool
	At       time.Duration // after the onset; negative: before it
	Requests float64       // of the candidate by then, since the onset
}

// Outcome is the outcome of each rule.
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

// Share returns the share of the outcomes that have something, and its standard error.
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

// Mean returns the mean time and the mean number of requests of the rejected ones, and their share.
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

// Run plays a scenario a number of times, on all processors.
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

// interval is what was counted in one interval: scrape by scrape, and in total.
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

// newRelease returns a release that has not begun, with the beginning of its outage drawn.
func newRelease(s Scenario, src rand.Source) *release {
	r := &release{Scenario: s, src: src}
	if s.Outage.Length > 0 {
		healthy := int64(s.Interval) * int64(len(s.Weights))
		r.outage = time.Duration(rand.New(src).Int64N(healthy - int64(s.Outage.Length)))
	}
	return r
}

// play plays one release by all rules.
func (s Scenario) play(src rand.Source) Outcome {
	r := newRelease(s, src)
	rules := newRules(s, r.history())
	for in := range r.intervals() {
		rules.begin(in)
		for i, stratum := range in.strata {
			rules.look(in.from+time.Duration(i+1)*s.Scrape, stratum)
		}
		if rules.end(in); rules.decided() {
			break
		}
	}
	out := rules.out
	out.Promoted = rules.checks.weight == len(s.Weights)
	if !s.Hold {
		out.Flagger, out.FlaggerPromoted = s.flagger(src)
	}
	return out
}

// rules are all rules as they judge one release.
type rules struct {
	Scenario
	sequential, single *analysis.Sequential
	reporter           string
	checks             checks
	fresh              bool // the interval begins anew for the checks
	failing            bool // the onset is over
	onset              time.Duration
	requests           float64 // of the candidate since the onset
	flagged            int     // failed checks by Flagger's rule, where the weight is held
	out                Outcome
}

// newRules returns the rules, which know the history of stable.
func newRules(s Scenario, history []counts.Stratum) *rules {
	limits := analysis.Limits{SuccessRate: s.SuccessRate}
	objectives, err := limits.Objectives(history)
	if err != nil {
		panic(err)
	}
	plan := analysis.Plan{
		Objectives: objectives, Alpha: s.Alpha, Intervals: analysis.Intervals(len(s.Weights), s.Threshold)}
	alone := plan
	alone.Intervals, alone.Objectives = 1, []analysis.Objective{{MaxRate: objectives[0].MaxRate, Weight: 1}}
	p := &rules{Scenario: s, sequential: newSequential(plan), single: newSequential(alone), reporter: "source",
		checks: checks{Scenario: s}, fresh: true}
	if s.Pods > 0 {
		p.reporter = "destination"
	}
	return p
}

// begin begins an interval, which may be the onset.
func (p *rules) begin(in interval) {
	if p.fresh {
		p.sequential.Begin(false)
	}
	if in.weight >= min(p.Onset, len(p.Weights)-1) && !p.failing {
		p.failing, p.onset, p.requests = true, in.from, 0
	}
}

// look lets the sequential tests look at one scrape.
func (p *rules) look(now time.Duration, stratum counts.Stratum) {
	p.requests += stratum.Candidate.Requests
	if p.Hold && p.out.Sequential.Rejected && p.out.Single.Rejected {
		return // time only goes on for the checks
	}
	p.out.Looks++
	signal := p.sequential.Look(p.reporter, []counts.Stratum{stratum})
	p.out.Environment = p.out.Environment || signal.Environment
	if signal.Reject {
		p.found(&p.out.Sequential, now)
	}
	if !p.failing {
		return
	}
	if one := p.single.Look(p.reporter, []counts.Stratum{stratum}); one.Worse >= one.Bound {
		p.found(&p.out.Single, now)
	}
}

// end checks an interval that is over.
func (p *rules) end(in interval) {
	now := in.from + p.Interval
	if p.fresh = p.checks.judge(in.total); p.checks.failed >= p.Threshold {
		p.found(&p.out.Check, now)
	}
	if !p.Hold || !p.failing {
		return
	}
	if flaggerFails(in.total.Candidate, p.SuccessRate) {
		p.flagged++
	}
	if p.flagged >= p.Threshold {
		p.found(&p.out.Flagger, now)
	}
}

// decided reports whether a weight that is held need not be held any longer.
func (p *rules) decided() bool {
	return p.Hold && p.failing && p.out.Sequential.Rejected && p.out.Single.Rejected && p.out.Flagger.Rejected
}

// found notes that a rule rejects; only the first time counts.
func (p *rules) found(f *Found, at time.Duration) {
	if !f.Rejected {
		*f = Found{Rejected: true, At: at - p.onset, Requests: p.requests}
	}
}

// newSequential returns a sequential test without evidence.
func newSequential(p analysis.Plan) *analysis.Sequential {
	s, err := analysis.NewSequential(p, analysis.Evidence{})
	if err != nil {
		panic(err) // a scenario is not a user's configuration
	}
	return s
}

// checks is the state of the checks: the weight moves on with each check that passes.
type checks struct {
	Scenario
	weight, failed int
	waited         int // intervals at this weight
	window         counts.Window
}

// judge checks an interval, together with those before it that had too little to judge by. It
// reports whether the next one begins anew.
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

// ended reports whether the checks reject, promote, or have waited too long.
func (c *checks) ended() bool {
	return c.failed >= c.Threshold || c.weight >= len(c.Weights) || c.waited >= c.Threshold
}

// intervals plays one interval after the other, until the checks end the release or the weight has
// been held for long enough.
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

// interval plays one interval at a weight.
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

// rate returns the share of the candidate's requests that fail.
func (r *release) rate(weight int) float64 {
	if weight < r.Onset {
		return r.Stable
	}
	return r.Candidate
}

// burst draws what a version's share of failures is multiplied by during one scrape.
func (r *release) burst() float64 {
	if r.Phi == 0 {
		return 1
	}
	return distuv.Gamma{Alpha: 1 / r.Phi, Beta: 1 / r.Phi, Src: r.src}.Rand()
}

// arm draws the requests that a version gets in a length of time from now on.
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

// history plays the scrapes of stable before the release.
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
	r := newRelease(s, src)
	r.Pods = 0 // how it is scraped changes little in a minute
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

// flaggerFails reports whether an interval is a failed check by Flagger's rule.
func flaggerFails(n counts.Counts, successRate float64) bool {
	return n.Requests == 0 || 100*(n.Requests-n.Errors)/n.Requests < successRate
}

// sum returns a and a share of b.
func sum(a, b counts.Counts, share float64) counts.Counts {
	return counts.Counts{Requests: a.Requests + b.Requests*share, Errors: a.Errors + b.Errors*share}
}

// binomial draws exactly; few expected events are the usual case, for which the chop-down search
// is the fastest (Devroye 1986, X.1.2).
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

// poisson draws exactly.
func poisson(src rand.Source, mean float64) float64 {
	if mean == 0 {
		return 0
	}
	return distuv.Poisson{Lambda: mean, Src: src}.Rand()
}

// uniform draws a number in [0, 1).
func uniform(src rand.Source) float64 { return float64(src.Uint64()>>11) / (1 << 53) }
