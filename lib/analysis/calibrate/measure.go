package main

import (
	"math"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis"
	"github.com/canary-tasks/canary-tasks/lib/analysis/simulate"
)

// seed is the seed of all simulations.
const seed = 20260101

// sigmas is how many standard errors an estimate is allowed to be off: one in a hundred is further.
const sigmas = 2.33

// usual is the configuration that is simulated: the one in the README, at 100 requests a second.
var usual = simulate.Scenario{
	Rate: 100, Weights: []float64{
		.2, .4, .6}, Interval: time.Minute, Scrape: 5 * time.Second, Threshold: 5, SuccessRate: 99, Alpha: .05,
	Stable: .001, Candidate: .001, History: 120,
}

// long has 80 looks at a release that passes every check.
var long = func() simulate.Scenario {
	s := usual
	s.Weights, s.Interval, s.Scrape = []float64{.05, .1, .25, .5}, 5*time.Minute, 15*time.Second
	return s
}()

type share struct{ P, SE float64 }

// healthy is how often releases are rejected whose candidate is as good as stable.
type healthy struct {
	Rate, Phi                            float64
	Sequential, Untrained, Check, Either share
	// Formula is the formula for the check's rejections; NaN where failures come in bursts, or
	// where a check waits for more requests.
	Formula, Looks                        float64
	WithinAlpha, UntrainedOK, FormulaHold bool
}

// measureHealthy simulates healthy releases, with the limit as it is or with every release just at
// it: there the least evidence is needed to be wrong.
func measureHealthy(base simulate.Scenario, atLimit bool, runs int) (rows []healthy) {
	for _, rate := range []float64{1e-4, 1e-3, 1e-2} {
		for _, phi := range []float64{0, .05, .2, 1} {
			s := base
			s.Stable, s.Candidate, s.Phi = rate, rate, phi
			if atLimit {
				s.SuccessRate = map[float64]float64{1e-4: 99.99, 1e-3: 99.9, 1e-2: 99}[rate]
			}
			all := simulate.Run(s, runs, seed)
			h := healthy{Rate: rate, Phi: phi, Formula: math.NaN(), FormulaHold: true}
			h.Sequential = of(all, func(o simulate.Outcome) bool { return o.Sequential.Rejected })
			h.Check = of(all, func(o simulate.Outcome) bool { return o.Check.Rejected })
			h.Either = of(all, func(o simulate.Outcome) bool { return o.Sequential.Rejected || o.Check.Rejected })
			for _, o := range all {
				h.Looks += float64(o.Looks) / float64(runs)
			}
			h.WithinAlpha = h.Sequential.P+sigmas*h.Sequential.SE <= s.Alpha
			s.History = 0
			h.Untrained = of(simulate.Run(s, runs, seed),
				func(o simulate.Outcome) bool { return o.Sequential.Rejected })
			h.UntrainedOK = h.Untrained.P+sigmas*h.Untrained.SE <= s.Alpha
			if enough := s.Rate*s.Weights[0]*s.Interval.Seconds() >= 100/(100-s.SuccessRate)-1e-6; enough && phi == 0 {
				var n []float64
				for _, w := range s.Weights {
					n = append(n, s.Rate*w*s.Interval.Seconds())
				}
				h.Formula = analysis.CheckRejects(n, s.Threshold, 1-s.SuccessRate/100, rate)
				h.FormulaHold = math.Abs(h.Check.P-h.Formula) <= sigmas*math.Sqrt(
					h.Formula*(1-h.Formula)/float64(runs))+1e-12
			}
			rows = append(rows, h)
		}
	}
	return rows
}

// of returns the share of the outcomes that have something.
func of(all []simulate.Outcome, has func(simulate.Outcome) bool) share {
	p, se := simulate.Share(all, has)
	return share{p, se}
}

// outage is how often healthy releases are rejected when both versions fail for 30 seconds.
type outage struct {
	Reporter              string
	Scrape                time.Duration
	Sequential, Check     share
	Environment           share // seen as the environment's failure
	SequentialWithinLimit bool
}

// outageLimit is the share of healthy releases that an outage of both versions may cost.
const outageLimit = .02

// measureOutages simulates healthy releases with an outage of both versions.
func measureOutages(runs int) (rows []outage) {
	for _, pods := range []int{0, 1, 4} {
		for _, scrape := range []time.Duration{5 * time.Second, 15 * time.Second, 30 * time.Second} {
			s := usual
			s.Scrape, s.Pods, s.Outage = scrape, pods, simulate.Outage{Length: 30 * time.Second, Share: .1}
			all := simulate.Run(s, runs, seed)
			o := outage{Reporter: map[int]string{
				0: "callers", 1: "workloads, 1/1 pods", 4: "workloads, 1/4 pods"}[pods], Scrape: scrape}
			o.Sequential = of(all, func(o simulate.Outcome) bool { return o.Sequential.Rejected })
			o.Check = of(all, func(o simulate.Outcome) bool { return o.Check.Rejected })
			o.Environment = of(all, func(o simulate.Outcome) bool { return o.Environment })
			o.SequentialWithinLimit = o.Sequential.P <= outageLimit
			rows = append(rows, o)
		}
	}
	return rows
}

// detection is how fast a failing candidate is found.
type detection struct {
	Stable, Candidate, SuccessRate float64
	Weight                         float64 // of the candidate when it begins to fail
	Onset                          int     // which weight that is, from 1
	Single, Sequential, Flagger    mean
	// Oracle and OracleBoth are the least requests of the candidate: to show that it is worse than
	// stable, and that it is that and beyond the limit.
	Oracle, OracleBoth         float64
	PerScrape                  float64 // requests of the candidate that a scrape brings
	Fine                       mean    // Single with scrapes of a second
	SingleGoal, SequentialGoal float64 // of the mean by the bound
}

type mean struct {
	At       time.Duration
	Requests float64
	Share    float64
}

// singleRatio and sequentialRatio return the mean number of requests by its lower bound.
func (d detection) singleRatio() float64     { return d.Single.Requests / d.Oracle }
func (d detection) sequentialRatio() float64 { return d.Sequential.Requests / d.OracleBoth }

// met reports whether both means are within their goals, and all failing candidates were found
// after they began to fail.
func (d detection) met() bool {
	return d.singleRatio() <= d.SingleGoal && d.sequentialRatio() <= d.SequentialGoal && d.Single.Share == 1 &&
		d.Sequential.Share == 1
}

// measureDetection simulates failing candidates.
func measureDetection(runs int) (rows []detection) {
	for _, c := range []struct{ stable, candidate, limit float64 }{
		{.001, .01, 99.9}, {.01, .02, 99}, {.01, .05, 99}, {0, .01, 99.9}} {
		for _, w := range []struct {
			weights []float64
			onset   int
		}{{[]float64{.05, .05, .05}, 0}, {[]float64{.2, .2, .2}, 0}, {[]float64{.2, .4, .6}, 1},
			{[]float64{.2, .4, .6}, 2}} {
			s := usual
			s.Hold, s.Weights, s.Onset, s.Stable, s.Candidate, s.SuccessRate = true, w.weights, w.onset, c.stable,
				c.candidate, c.limit
			d := detection{Stable: c.stable, Candidate: c.candidate, SuccessRate: c.limit, Weight: w.weights[w.onset],
				Onset: w.onset + 1, SingleGoal: 1.8, SequentialGoal: 3.2}
			if c.stable == 0 {
				d.SingleGoal = 2.1
			}
			d.Oracle = analysis.Oracle(d.Weight, c.stable, c.candidate, s.Alpha)
			d.OracleBoth = max(d.Oracle, analysis.OracleBeyond(1-c.limit/100, c.candidate, s.Alpha))
			d.PerScrape = s.Rate * d.Weight * s.Scrape.Seconds()
			all := simulate.Run(s, runs, seed)
			after := func(f simulate.Found) simulate.Found { // one before the onset is no detection
				f.Rejected = f.Rejected && f.At > 0
				return f
			}
			d.Single.At, d.Single.Requests,
				d.Single.Share = simulate.Mean(all, func(o simulate.Outcome) simulate.Found { return after(o.Single) })
			d.Sequential.At, d.Sequential.Requests,
				d.Sequential.Share = simulate.Mean(
				all, func(o simulate.Outcome) simulate.Found { return after(o.Sequential) })
			d.Flagger.At, d.Flagger.Requests,
				d.Flagger.Share = simulate.Mean(
				all, func(o simulate.Outcome) simulate.Found { return after(o.Flagger) })
			s.Scrape = time.Second
			d.Fine.At, d.Fine.Requests,
				d.Fine.Share = simulate.Mean(
				simulate.Run(s, runs, seed), func(o simulate.Outcome) simulate.Found { return after(o.Single) })
			rows = append(rows, d)
		}
	}
	return rows
}

// quiet is how many healthy releases are not promoted where there are few requests.
type quiet struct {
	Requests      float64 // per second, of both versions
	Rate          float64
	Ours, Flagger share
	Rejected      share // by ours; the rest is inconclusive
}

// measureQuiet simulates healthy releases with few requests.
func measureQuiet(runs int) (rows []quiet) {
	for _, rate := range []float64{.001, .005} {
		for _, requests := range []float64{.5, 1, 2, 5} {
			s := usual
			s.Poisson, s.Rate, s.Stable, s.Candidate = true, requests, rate, rate
			all := simulate.Run(s, runs, seed)
			q := quiet{Requests: requests, Rate: rate}
			q.Ours = of(all, func(o simulate.Outcome) bool { return !o.Promoted || o.Sequential.Rejected })
			q.Rejected = of(all, func(o simulate.Outcome) bool { return o.Check.Rejected || o.Sequential.Rejected })
			q.Flagger = of(all, func(o simulate.Outcome) bool { return !o.FlaggerPromoted })
			rows = append(rows, q)
		}
	}
	return rows
}
