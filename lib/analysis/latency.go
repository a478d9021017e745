package analysis

import (
	"fmt"
	"math"
	"time"
)

// durationQuantile is the share of requests that a limit for the duration is for.
const durationQuantile = 0.99

// Bounds are the ends of the bucket that a limit is in. Nothing is interpolated: between two bounds
// nothing is known.
type Bounds struct {
	Below, Above float64 // milliseconds; the same where the limit is a bound
	// Slower took longer than Above, so certainly longer than the limit: this is what can fail a
	// candidate. MaybeSlower took longer than Below: if they are few enough, the limit is certainly
	// kept.
	Slower, MaybeSlower Arm
}

// BoundsAround counts the requests on both sides of a limit. within is counts.Counts.Within. It is
// an error if no duration was measured, or if the limit is above the top finite bound: then it
// cannot be told which requests are slower.
func BoundsAround(limit time.Duration, within map[string]float64) (Bounds, error) {
	buckets := cumulative(within)
	if len(buckets) == 0 {
		return Bounds{}, fmt.Errorf("no proxy measured how long its requests took")
	}
	n := buckets[len(buckets)-1].count
	b := Bounds{Above: math.Inf(1), MaybeSlower: Arm{Requests: n, Events: n}}
	ms := float64(limit) / float64(time.Millisecond)
	for _, bucket := range buckets[:len(buckets)-1] {
		if bucket.bound <= ms {
			b.Below, b.MaybeSlower.Events = bucket.bound, n-bucket.count
		}
		if bucket.bound >= ms {
			b.Above, b.Slower = bucket.bound, Arm{Requests: n, Events: n - bucket.count}
			return b, nil
		}
	}
	return b, fmt.Errorf(
		"a request duration of %s cannot be judged: the proxies' longest bucket ends at %v ms; give at most that",
		limit, b.Below)
}

// QuantileInterval returns a confidence sequence for the quantile q of the durations: with
// probability 1-alpha it covers that quantile at every look, however many there are. Its ends are
// bucket bounds in milliseconds, 0 and +Inf where the buckets do not tell; for many requests it is
// tightest at about narrowest of them. Only one alpha is spent for all bounds: if the quantile is
// at most b, then at least as many are within b as within the quantile, so a crossing at any bound
// is one at the quantile. ok is false where no duration was measured.
//
// Source: Howard & Ramdas, arXiv 1906.09712, theorem 1, with the two-sided beta-binomial mixture.
func QuantileInterval(q float64, within map[string]float64, alpha, narrowest float64) (low, high float64, ok bool) {
	buckets := cumulative(within)
	if len(buckets) == 0 {
		return 0, math.Inf(1), false
	}
	t := buckets[len(buckets)-1].count
	below, above := quantileRadii(q, t, alpha, narrowest)
	high = math.Inf(1)
	for _, b := range buckets {
		if b.count <= t*(q-below) {
			low = b.bound
		}
		if b.count >= t*(q+above) && math.IsInf(high, 1) {
			high = b.bound
		}
	}
	return low, high, true
}

// quantileRadii returns how far the share of observations below the quantile p may be from p after
// t observations, downwards and upwards.
func quantileRadii(p, t, alpha, narrowest float64) (below, above float64) {
	v, best := p*(1-p)*t, p*(1-p)*narrowest
	return boundary(v, 1-p, p, best, alpha) / t, boundary(v, p, 1-p, best, alpha) / t
}

// boundary returns the smallest s at which the mixture crosses 1/alpha, by bisection; +Inf where it
// does not up to v/g, which s cannot exceed.
func boundary(v, g, h, best, alpha float64) float64 {
	low, high := 0.0, v/g
	if logBetaBinomial(high, v, g, h, best, alpha) < -math.Log(alpha) {
		return math.Inf(1)
	}
	for range 100 {
		if s := (low + high) / 2; logBetaBinomial(s, v, g, h, best, alpha) < -math.Log(alpha) {
			low = s
		} else {
			high = s
		}
	}
	return high
}

// logBetaBinomial returns ln of the two-sided beta-binomial mixture at the sum s and the variance
// v, for increments in [-g, h], tuned to be tight at the variance best (Howard, Ramdas, McAuliffe &
// Sekhon, arXiv 1810.08240, proposition 7).
func logBetaBinomial(s, v, g, h, best, alpha float64) float64 {
	r := max(mixturePrecision(best, alpha)-g*h, 1e-3*g*h)
	return v/(g*h)*math.Log(g+h) - (v+h*s)/(h*(g+h))*math.Log(g) - (v-g*s)/(g*(g+h))*math.Log(h) +
		logBeta((r+v-g*s)/(g*(g+h)), (r+v+h*s)/(h*(g+h))) - logBeta(r/(g*(g+h)), r/(h*(g+h)))
}

// mixturePrecision returns rho of Howard et al., arXiv 1810.08240, 3.5: the mixture with it is
// tight at the variance best.
func mixturePrecision(best, alpha float64) float64 {
	l := -math.Log(alpha)
	return best / (2*l + math.Log1p(2*l))
}

// logBeta returns ln of the beta function.
func logBeta(a, b float64) float64 { return logGamma(a) + logGamma(b) - logGamma(a+b) }

// logGamma returns ln of the absolute value of the gamma function.
func logGamma(a float64) float64 {
	v, _ := math.Lgamma(a)
	return v
}
