package analysis

import (
	"math"

	"gonum.org/v1/gonum/mathext"
)

// Wilson returns the score interval of a proportion, x of n, with confidence 1-alpha; from 0 to 1
// without observations (Newcombe 1998, Stat Med 17:857, method 3).
func Wilson(x, n, alpha float64) (low, high float64) {
	if n == 0 {
		return 0, 1
	}
	z, p := normalQuantile(alpha), x/n
	middle, half := p+z*z/(2*n), z*math.Sqrt(p*(1-p)/n+z*z/(4*n*n))
	low, high = 0, 1 // exactly, where none or all of them are
	if x > 0 {
		low = max(0, (middle-half)/(1+z*z/n))
	}
	if x < n {
		high = min(1, (middle+half)/(1+z*z/n))
	}
	return low, high
}

// WilsonCorrected returns Wilson's interval with a continuity correction (Newcombe 1998, Stat Med
// 17:857, method 4).
func WilsonCorrected(x, n, alpha float64) (low, high float64) {
	if n == 0 {
		return 0, 1
	}
	z, p := normalQuantile(alpha), x/n
	end := func(p, sign float64) float64 {
		return (2*n*p + z*z + sign + sign*z*math.Sqrt(z*z+sign*2-1/n+4*p*(n*(1-p)-sign))) / (2 * (n + z*z))
	}
	low, high = 0, 1
	if x > 0 {
		low = max(0, end(p, -1))
	}
	if x < n {
		high = min(1, end(p, +1))
	}
	return low, high
}

// ClopperPearson returns the exact interval of a proportion, x of n (Newcombe 1998, Stat Med
// 17:857, method 5).
func ClopperPearson(x, n, alpha float64) (low, high float64) {
	low, high = 0, 1
	if x > 0 {
		low = mathext.InvRegIncBeta(x, n-x+1, alpha/2)
	}
	if x < n {
		high = mathext.InvRegIncBeta(x+1, n-x, 1-alpha/2)
	}
	return low, high
}

// normalQuantile returns the standard normal's two-sided quantile: 1.96 for .05.
func normalQuantile(alpha float64) float64 { return mathext.NormalQuantile(1 - alpha/2) }

// binomialTail returns the probability of at least x events in n, each with probability p: an
// incomplete beta function.
func binomialTail(x, n, p float64) float64 {
	switch {
	case x <= 0:
		return 1
	case x > n:
		return 0
	}
	return mathext.RegIncBeta(x, n-x+1, p)
}
