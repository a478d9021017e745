package analysis

import (
	"fmt"
	"math"
)

// Split is how the requests were divided between the versions, compared with the weight.
type Split struct {
	Share     float64 // of the candidate
	Low, High float64 // what the share should be in
	LogO      float64 // ln of the evidence that it is not, 0 or less inside
	Alarm     bool
}

const (
	alphaSplit     = 0.01 // a budget of its own
	splitPrecision = 100  // of the prior
)

// CheckSplit checks whether the candidate gets the share that its weight w, from 0 to 1, gives it,
// of the requests since a scrape after its shift, on the routes with the weight. There is an alarm
// only if the share lies outside w ± max(.02, w/5) and the evidence against the nearer end crosses
// 1/.01; it may be looked at any number of times.
//
// The evidence against a share theta is the multinomial test of Lindon & Malek, arXiv 2011.03567,
// with the prior Beta(100 w, 100 (1-w)), the same for all theta, where w of 0 and 1 count as .01
// and .99. If the true share is in the band, the likelihood at the end nearer to what was observed
// is at least that at the truth, so the evidence is at most that against the truth.
func CheckSplit(w, candidate, stable float64) Split {
	band := max(0.02, w/5)
	s := Split{Share: w, Low: max(0, w-band), High: min(1, w+band)}
	if candidate+stable == 0 {
		return s
	}
	s.Share = candidate / (candidate + stable)
	end := 0.0
	switch {
	case s.Share < s.Low:
		end = s.Low
	case s.Share > s.High:
		end = s.High
	default:
		return s
	}
	mean := min(max(w, 0.01), 0.99)
	prior := []float64{splitPrecision * mean, splitPrecision * (1 - mean)}
	s.LogO = logMultinomial([]float64{candidate, stable}, []float64{end, 1 - end}, prior)
	s.Alarm = s.LogO >= -math.Log(alphaSplit)
	return s
}

// logMultinomial returns ln of the Bayes factor of observed counts against the shares theta, with a
// Dirichlet prior (Lindon & Malek, arXiv 2011.03567, equation 6).
func logMultinomial(observed, theta, prior []float64) float64 {
	ln, n, sum := 0.0, 0.0, 0.0
	for i, s := range observed {
		ln += logGamma(prior[i]+s) - logGamma(prior[i]) - s*math.Log(theta[i])
		n, sum = n+s, sum+prior[i]
	}
	return ln - logGamma(sum+n) + logGamma(sum)
}

// String says which share the candidate gets, and which is expected.
func (s Split) String() string {
	return fmt.Sprintf(
		"the candidate gets %.1f %% of the requests, expected are %.1f to %.1f %%", 100*s.Share, 100*s.Low, 100*s.High)
}
