package analysis

import (
	"math"

	"gonum.org/v1/gonum/mathext"
)

// Sight is what can be detected with a number of requests of the candidate.
type Sight struct {
	Events float64 // the least number of events with which the evidence crosses; +Inf: it never does
	Rate   float64 // the share of events that is found with probability .8
}

// Sight returns what the plan can find of the objective in an interval of n requests of the
// candidate, when it begins to fail with that interval: the events x from which E_abs crosses
// alpha's part for this start, and the smallest p with P(Bin(n, p) >= x) >= .8. Being worse than
// stable has to be shown, too.
func (p Plan) Sight(o Objective, n float64) Sight {
	need := math.Log(float64(p.Intervals) / (p.Alpha * o.Weight))
	if p.Primary {
		need += math.Ln2
	}
	low, high := 0.0, math.Floor(n)
	crosses := func(x float64) bool {
		share := temper(o.Phi, n*o.MaxRate)
		return absolute(Arm{Requests: n * share, Events: x * share}, o.MaxRate) >= need
	}
	if !crosses(high) {
		return Sight{Events: math.Inf(1), Rate: 1}
	}
	for high-low > 1 { // E_abs rises with x
		if x := math.Floor((low + high) / 2); crosses(x) {
			high = x
		} else {
			low = x
		}
	}
	return Sight{Events: high, Rate: mathext.InvRegIncBeta(high, n-high+1, 0.8)}
}

// CheckRejects returns the probability that the plain check rejects a candidate whose requests are
// events with probability p, independently: requests are the numbers in an interval at each weight,
// and a failed check (more than a share maxRate of events) keeps the weight. The candidate is
// rejected by the threshold-th failed check before it has passed at every weight. The failures at
// each weight are geometric, and their sum is a negative binomial with unequal probabilities, whose
// distribution is computed term by term.
func CheckRejects(requests []float64, threshold int, maxRate, p float64) float64 {
	failures := make([]float64, threshold) // probability of so many, all weights so far passed
	failures[0] = 1
	for _, n := range requests {
		fails := binomialTail(math.Floor(n*maxRate+1e-9)+1, n, p)
		for k := range failures {
			failures[k] *= 1 - fails
			if k > 0 {
				failures[k] += fails * failures[k-1] // as with one failure fewer, and one more here
			}
		}
	}
	passed := 0.0
	for _, p := range failures {
		passed += p
	}
	return max(0, 1-passed)
}

// Enough reports whether a check has enough to judge by: the 1/maxRate requests with which one
// failure is not too many, or at least ten without any. Until then the window is extended back to
// the shift of this weight.
func Enough(a Arm, maxRate float64) bool {
	return a.Requests >= MinRequests && (a.Events == 0 || a.Requests >= needed(maxRate))
}

// needed returns the number of requests with which one failure is not too many; where no failure is
// allowed, one is enough to know.
func needed(maxRate float64) float64 {
	if maxRate <= 0 {
		return MinRequests
	}
	return math.Ceil(1/maxRate - 1e-9)
}

// Oracle returns how many requests of the candidate any test of level alpha needs on average to
// find that its rate is candidate and not stable's, with a weight from 0 to 1: ln(1/alpha) divided
// by the information of a request, for a test that knows both rates (Wald 1945, Ann Math Stat
// 16:117).
func Oracle(weight, stable, candidate, alpha float64) float64 {
	events := weight*candidate + (1-weight)*stable
	return weight * -math.Log(alpha) / (divergence(weight*candidate/events, weight) * events)
}

// OracleBeyond returns how many requests of the candidate any test of level alpha needs on average
// to find that its rate is candidate and not maxRate.
func OracleBeyond(maxRate, candidate, alpha float64) float64 {
	return -math.Log(alpha) / divergence(candidate, maxRate)
}

// divergence returns the Kullback-Leibler divergence of a coin with p from one with q.
func divergence(p, q float64) float64 {
	d := 0.0
	if p > 0 {
		d += p * math.Log(p/q)
	}
	if p < 1 {
		d += (1 - p) * math.Log((1-p)/(1-q))
	}
	return d
}
