package analysis

import (
	"math"
	"strconv"
)

// Arm is what one version did: how many requests ended, and how many of them were events (errors,
// or slow). Fractions are fine.
type Arm struct {
	Requests float64 `json:"n"`
	Events   float64 `json:"x"`
}

// plus returns a and a share of b.
func (a Arm) plus(b Arm, share float64) Arm {
	return Arm{Requests: a.Requests + b.Requests*share, Events: a.Events + b.Events*share}
}

// Rate returns the events per request; 0 without requests.
func (a Arm) Rate() float64 {
	if a.Requests == 0 {
		return 0
	}
	return a.Events / a.Requests
}

// Table is the 2x2 table of one stratum: what both versions did at the same time.
type Table struct{ Candidate, Stable Arm }

const gridPoints = 33

// worse are the alternatives: how many times more frequent the events are than they may be. better
// are their inverses, for the test that accepts.
var worse, better = func() (worse, better [gridPoints]float64) {
	for j := range worse {
		worse[j] = 1.25 * math.Pow(64/1.25, float64(j)/(gridPoints-1))
		better[gridPoints-1-j] = 1 / worse[j]
	}
	return worse, better
}()

var logWorse = func() (ln [gridPoints]float64) {
	for j, r := range worse {
		ln[j] = math.Log(r)
	}
	return ln
}()

// absolute returns ln E_abs of x events in n requests against "at most a share p are events": the
// mean over the alternatives r of the likelihood ratio of the event odds r p/(1-p) to p/(1-p),
// which is r^x / (1 + p(r-1))^n.
//
// It is an e-process whenever each request is an event with at most probability p given those
// before: the factor of a request is linear and rising in that probability, and its expectation at
// p is 1. With p = 0 one event is proof: +Inf.
func absolute(a Arm, p float64) float64 { return newLimit(p).absolute(a) }

// limit is a share of events with ln(1 + p(r-1)) for each alternative, which would otherwise take
// most of the time.
type limit struct {
	p    float64
	cost [gridPoints]float64
}

// newLimit returns the limit for a share p of events.
func newLimit(p float64) limit {
	l := limit{p: p}
	for j, r := range worse {
		l.cost[j] = math.Log1p(p * (r - 1))
	}
	return l
}

// absolute returns ln E_abs against the limit.
func (l limit) absolute(a Arm) float64 {
	if l.p == 0 && a.Events > 0 {
		return math.Inf(1)
	}
	var terms [gridPoints]float64
	for j := range terms {
		terms[j] = a.Events*logWorse[j] - a.Requests*l.cost[j]
	}
	return logMean(terms[:])
}

// relative returns ln of each alternative's factor of E_rel for one stratum, whose mean is against
// "the candidate's rate is at most g times stable's". With q = g n_c/(g n_c + n_p) the share of the
// events that would be the candidate's at g, and theta = q r/(1-q+q r) that at g r, the factor is
// (theta/q)^x_c ((1-theta)/(1-q))^x_p. Given the number of events it is the likelihood ratio of a
// binomial: the two-sample case of Lindon & Malek, arXiv 2011.03567, one-sided.
//
// It is an e-process for all rates p_c <= g p_p, not only for rare events: with a = theta/q > 1 and
// b = (1-theta)/(1-q) < 1
//
//	E = (1+p_c(a-1))^n_c (1+p_p(b-1))^n_p
//	  <= exp(n_c p_c(a-1) + n_p p_p(b-1))
//	  <= exp(p_p (g n_c+n_p) (q(a-1) + (1-q)(b-1))) = 1.
//
// With alternatives r < 1 it is against "at least g times", by the same argument with a < 1 < b.
// Time does not matter: each stratum has its own rates.
func relative(t Table, g float64, alternatives [gridPoints]float64) (ln [gridPoints]float64) {
	q := g * t.Candidate.Requests / (g*t.Candidate.Requests + t.Stable.Requests)
	if t.Candidate.Requests <= 0 || t.Stable.Requests <= 0 { // nothing to compare with
		return ln
	}
	for j, r := range alternatives {
		ln[j] = t.Candidate.Events*math.Log(r) - (t.Candidate.Events+t.Stable.Events)*math.Log1p(q*(r-1))
	}
	return ln
}

// temper returns 1/D, which what a stratum adds to ln E is multiplied by, against bursts: D = 1 +
// phi·(expected events of the larger arm). With D >= 1, known before the stratum, E[e^(1/D)] <=
// E[e]^(1/D) <= 1 (Jensen), so it stays an e-process. That this is enough where events come in
// bursts with index phi is a quasi-likelihood repair (Wedderburn 1974, Biometrika 61:439), which
// simulations show, and no theorem.
func temper(phi, expected float64) float64 { return 1 / (1 + phi*expected) }

// logSum returns ln of the sum of exp, the log-sum-exp of terms.
func logSum(terms []float64) float64 {
	top := math.Inf(-1)
	for _, t := range terms {
		top = max(top, t)
	}
	if math.IsInf(top, 0) {
		return top
	}
	sum := 0.0
	for _, t := range terms {
		if t-top > -40 { // what is left out is below rounding
			sum += math.Exp(t - top)
		}
	}
	return top + math.Log(sum)
}

// logMean returns ln of the mean of exp.
func logMean(terms []float64) float64 { return logSum(terms) - math.Log(float64(len(terms))) }

// logs are sums of logarithms, written with six decimals: that changes E by less than a millionth,
// and the release record stays small.
type logs [gridPoints]float64

// add adds a share of logarithms.
func (l *logs) add(ln [gridPoints]float64, share float64) {
	for j := range ln {
		l[j] += ln[j] * share
	}
}

// MarshalJSON writes an array of numbers.
func (l logs) MarshalJSON() ([]byte, error) {
	text := []byte{'['}
	for j, v := range l {
		if j > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendFloat(text, math.Round(v*1e6)/1e6, 'f', -1, 64)
	}
	return append(text, ']'), nil
}
