package analysis

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if !(math.Abs(got-want) <= within) && got != want {
		t.Errorf("%s is %.15g, want %.15g within %g", what, got, want, within)
	}
}

func stratum(nc, np, xc, xp float64) counts.Stratum {
	return counts.Stratum{
		Candidate: counts.Counts{Requests: nc, Errors: xc}, Stable: counts.Counts{Requests: np, Errors: xp}}
}

// three strata with errors that begin at the second, the candidate at 5 and 10 percent.
var three = []counts.Stratum{stratum(75, 1425, 0, 1), stratum(75, 1425, 3, 2), stratum(150, 1350, 6, 1)}

// The likelihood ratios are binomial, mixed over 33 alternatives; the values were computed
// independently in multiple precision.
func TestAbsolute(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ n, x, want float64 }{
		{1, 1, 2.533463178003}, {30, 3, 3.379068379474}, {600, 12, 0.586806923993}, {600, 18, 5.989485303667},
		{1200, 25, 3.338437226529}, {0, 0, 0},
	} {
		near(t, fmt.Sprintf("ln E_abs of %v in %v", c.x, c.n), absolute(Arm{c.n, c.x}, .01), c.want, 1e-9)
	}
	if got := absolute(Arm{1e6, 1}, 0); !math.IsInf(got, 1) {
		t.Errorf("where nothing may fail, one failure is proof; ln E is %v", got)
	}
	near(t, "ln E_abs of none in many where nothing may fail", absolute(Arm{1e6, 0}, 0), 0, 0)
}

// The two-sample case of Lindon & Malek, arXiv 2011.03567, stratified; the values were computed
// independently in multiple precision.
func TestRelative(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc      string
		margin    float64
		phi, rate float64
		want      []float64
	}{
		{"plain", 1, 0, 0, []float64{-0.395342893382, 4.261553645641, 14.632197904036}},
		{"with a margin", 1.25, 0, 0, []float64{math.NaN(), math.NaN(), 12.925667945583}},
		{"tempered", 1, .2, .001, []float64{-0.320018642387, 3.257199297889, math.NaN()}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			o := term{Objective{MaxRate: .01, Phi: c.phi, Rate: c.rate}, newLimit(.01), c.margin}
			starts := make([]start, 1)
			near(t, "ln E_rel at the beginning", logMean(starts[0].Relative[:]), 0, 0)
			for i, s := range three {
				table, _ := o.table(s)
				o.add(starts, table)
				if !math.IsNaN(c.want[i]) {
					near(t, fmt.Sprintf("ln E_rel after stratum %d", i+1), logMean(starts[0].Relative[:]), c.want[i],
						1e-9)
				}
			}
		})
	}
}

// The mean over two starts of what TestRelative tests; the value was computed independently in
// multiple precision.
func TestStarts(t *testing.T) {
	t.Parallel()
	o := term{Objective{MaxRate: .01}, newLimit(.01), 1}
	starts := make([]start, 1, 2)
	for i, s := range three {
		if i == 2 {
			starts = append(starts, start{})
		}
		table, _ := o.table(s)
		o.add(starts, table)
	}
	near(t, "ln E_rel with starts at strata 1 and 3",
		logMean([]float64{logMean(starts[0].Relative[:]), logMean(starts[1].Relative[:])}), 13.948575843636, 1e-9)
}

// By moments of successive differences (von Neumann et al. 1941, Ann Math Stat 12:153); the value
// was computed independently.
func TestMoments(t *testing.T) {
	t.Parallel()
	var strata []Arm
	for i, x := range []float64{3, 5, 2, 8, 4, 1, 6, 3} {
		strata = append(strata, Arm{[]float64{1500, 1480, 1510, 1500, 1490, 1505, 1495, 1500}[i], x})
	}
	_, total := withRequests(strata)
	phi, _ := moments([][]Arm{strata}, total.Rate())
	near(t, "phi", phi, .236022916239, 1e-9)
	if phi, estimated := Dispersion(strata); phi != .05 || estimated {
		t.Errorf("of 8 strata: phi %v, estimated %v", phi, estimated)
	}
}

// What two proxies differ by is not dispersion: successive strata are those of one proxy.
func TestDispersionWithinProxies(t *testing.T) {
	t.Parallel()
	var history []counts.Stratum
	for proxy := range 100 {
		failed := float64(proxy % 2 * 80)
		for range 3 {
			history = append(history,
				counts.Stratum{Proxy: fmt.Sprintf("caller-%02d", proxy),
					Stable: counts.Counts{Requests: 1000, Errors: failed}})
		}
	}
	all, err := Limits{SuccessRate: 99}.Objectives(history)
	if err != nil || len(all) != 1 || !all[0].Estimated || all[0].Phi != 0 {
		t.Errorf("%+v, %v: want one objective without dispersion", all, err)
	}
}

// The value is published in the documentation of savvi, the reference implementation of Lindon &
// Malek, arXiv 2011.03567; the second is the same test of a split of 440 to 3560 requests at a
// weight of 10 percent.
func TestMultinomial(t *testing.T) {
	t.Parallel()
	got := logMultinomial([]float64{40, 129, 233}, []float64{.1, .4, .5}, []float64{10, 40, 50})
	near(t, "p of (40, 129, 233)", math.Exp(-got), 0.04845591105969517, 1e-12)
	near(t, "p of 440 in 4000",
		min(1, math.Exp(-logMultinomial([]float64{440, 3560}, []float64{.1, .9}, []float64{10, 90}))), .817, .0005)
}

// The candidate requests after which the limit is shown to be kept, at alpha .05, with so many
// errors: the first n at which a mixture of binomial likelihood ratios crosses 20 (Ville 1939),
// computed independently. A test that looks once needs 299 of them where there are no errors.
func TestKeepsLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ p, x, want float64 }{
		{.01, 0, 395}, {.01, 1, 668}, {.01, 2, 876}, {.01, 5, 1407}, {.01, 10, 2178},
		{.001, 0, 3965}, {.001, 1, 6702}, {.001, 2, 8790}, {.001, 5, 14103}, {.001, 10, 21824},
	} {
		n := 1.0
		for keepsLimit(Arm{n, c.x}, c.p) < -math.Log(.05) {
			n++
		}
		near(t, fmt.Sprintf("requests needed with %v errors at %v", c.x, c.p), n, c.want, 0)
	}
	near(t, "ln E at the beginning", keepsLimit(Arm{}, .01), 0, 1e-15)
	n := 1.0
	// one-sided .05, 1 - .05^(1/n): Clopper & Pearson 1934, Biometrika 26:404
	for _, high := ClopperPearson(0, n, .1); high > .01; _, high = ClopperPearson(0, n, .1) {
		n++
	}
	near(t, "requests needed by a test that looks once", n, 299, 0)
}

// The constants are those of the unit tests of confseq, the reference implementation of Howard &
// Ramdas, arXiv 1906.09712, to its five places.
func TestBetaBinomial(t *testing.T) {
	t.Parallel()
	near(t, "rho", mixturePrecision(100, .05), 12.60056, 1e-5)
	near(t, "ln of the mixture", logBetaBinomial(10, 100, .2, .8, 100, .05), -.6941012, 1e-6)
	near(t, "its boundary", boundary(100, .2, .8, 100, .05), 31.4308, 1e-4)
	near(t, "the mixture at the beginning", logBetaBinomial(0, 0, .2, .8, 100, .05), 0, 1e-12)
	for _, c := range []struct{ x, n, best, low, high float64 }{
		{700, 1000, 100, .651629, .745949}, {15, 50, 50, .129556, .511896}, {5, 50, 50, .013021, .269264},
		{1, 50, 50, 0, .13489}, {100, 200, 1, .328923, .671076},
	} {
		outside := func(p float64) bool { // the share of a coin's heads, by the same mixture
			return logBetaBinomial(c.x-c.n*p, c.n*p*(1-p), p, 1-p, c.best*p*(1-p), .05) >= -math.Log(.05)
		}
		low, high := c.x/c.n, c.x/c.n
		for low > 1e-9 && !outside(low) {
			low -= 1e-6
		}
		for high < 1 && !outside(high) {
			high += 1e-6
		}
		near(t, fmt.Sprintf("low end for %v in %v", c.x, c.n), low, c.low, 3e-6)
		near(t, fmt.Sprintf("high end for %v in %v", c.x, c.n), high, c.high, 3e-6)
	}
}

// Howard & Ramdas, arXiv 1906.09712, theorem 1; radii computed with their reference implementation.
func TestQuantileInterval(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ p, n, below, above float64 }{
		{.5, 1000, .047950, .047950}, {.99, 1000, .011388, .007647}, {.99, 1e4, .003202, .002836},
	} {
		below, above := quantileRadii(c.p, c.n, .05, c.n)
		near(t, fmt.Sprintf("lower radius of %v at %v", c.p, c.n), below, c.below, 1e-6)
		near(t, fmt.Sprintf("upper radius of %v at %v", c.p, c.n), above, c.above, 1e-6)
	}
	within := map[string]float64{
		"1": 10, "5": 400, "10": 1500, "25": 4000, "50": 7000, "100": 9000, "250": 9800, "500": 9960, "1000": 9990,
		"2500": 9998, "5000": 10000, "+Inf": 10000}
	for _, c := range []struct{ q, low, high float64 }{
		{.5, 25, 50}, {.9, 50, 250}, {.99, 250, 500}, {.9999, 1000, math.Inf(1)}} {
		low, high, ok := QuantileInterval(c.q, within, .05, 1e4)
		if low != c.low || high != c.high || !ok {
			t.Errorf("the quantile %v is between %v and %v (%v), want %v and %v", c.q, low, high, ok, c.low, c.high)
		}
	}
	if low, high, ok := QuantileInterval(.99, nil, .05, 1e4); low != 0 || !math.IsInf(high, 1) || ok {
		t.Errorf("of nothing: %v, %v, %v", low, high, ok)
	}
}

// The table is of Newcombe 1998, Stat Med 17:857.
func TestIntervals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ x, n, w1, w2, c1, c2, e1, e2 float64 }{
		{81, 263, .2553, .3662, .2535, .3682, .2527, .3676},
		{15, 148, .0624, .1605, .0598, .1644, .0578, .1617},
		{0, 20, 0, .1611, 0, .2005, 0, .1684},
		{1, 29, .0061, .1718, .0018, .1963, .0009, .1776},
	} {
		for name, one := range map[string]struct {
			interval  func(x, n, alpha float64) (float64, float64)
			low, high float64
		}{"Wilson": {Wilson, c.w1, c.w2}, "Wilson, corrected": {WilsonCorrected, c.c1, c.c2},
			"Clopper-Pearson": {ClopperPearson, c.e1, c.e2}} {
			low, high := one.interval(c.x, c.n, .05)
			near(t, fmt.Sprintf("%s, %v in %v, low", name, c.x, c.n), low, one.low, 5e-5)
			near(t, fmt.Sprintf("%s, %v in %v, high", name, c.x, c.n), high, one.high, 5e-5)
			low, high = one.interval(c.n-c.x, c.n, .05)
			near(t, fmt.Sprintf("%s, %v in %v, low", name, c.n-c.x, c.n), low, 1-one.high, 5e-5)
			near(t, fmt.Sprintf("%s, %v in %v, high", name, c.n-c.x, c.n), high, 1-one.low, 5e-5)
			if low, high := one.interval(0, 0, .05); low != 0 || high != 1 {
				t.Errorf("%s of nothing is %v to %v", name, low, high)
			}
		}
	}
}

// A negative binomial with a probability of its own at each weight.
func TestCheckRejects(t *testing.T) {
	t.Parallel()
	n := []float64{1200, 2400, 3600}
	near(t, "at p=.009", CheckRejects(n, 5, .01, .009), .016, .0005)
	near(t, "at p=.01", CheckRejects(n, 5, .01, .01), .143, .0005)
	near(t, "without failures", CheckRejects(n, 5, .01, 0), 0, 1e-12)
	near(t, "with nothing else", CheckRejects(n, 5, .01, 1), 1, 0)
	p := binomialTail(13, 1200, .01)
	near(t, "with one weight and one check", CheckRejects(n[:1], 1, .01, .01), p, 1e-12)
	near(t, "with one weight and three checks", CheckRejects(n[:1], 3, .01, .01), p*p*p, 1e-12)
}

// Tails are compared with the sum of their terms, in which nothing cancels.
func TestBinomialTail(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ n, p, x float64 }{
		{1200, .01, 13}, {1200, .01, 60}, {3600, .001, 40}, {20, .5, 20}, {1e6, 1e-6, 30}} {
		sum := 0.0
		for x := c.x; x <= min(c.n, c.x+400); x++ {
			sum += math.Exp(-math.Log1p(c.n) - logBeta(x+1, c.n-x+1) + x*math.Log(c.p) + (c.n-x)*math.Log1p(-c.p))
		}
		near(t, fmt.Sprintf("P(Bin(%v, %v) >= %v) by its sum", c.n, c.p, c.x), binomialTail(c.x, c.n, c.p)/sum, 1, 1e-8)
	}
}

func TestBoundsAround(t *testing.T) {
	t.Parallel()
	within := map[string]float64{"100": 900, "250": 950, "500": 990, "+Inf": 1000}
	for _, c := range []struct {
		limit         time.Duration
		below, above  float64
		slower, maybe float64
	}{
		{300 * time.Millisecond, 250, 500, 10, 50}, {500 * time.Millisecond, 500, 500, 10, 10},
		{50 * time.Millisecond, 0, 100, 100, 1000},
	} {
		b, err := BoundsAround(c.limit, within)
		if err != nil || b.Below != c.below || b.Above != c.above || b.Slower != (Arm{1000, c.slower}) ||
			b.MaybeSlower != (Arm{1000, c.maybe}) {
			t.Errorf("%s: %+v, %v", c.limit, b, err)
		}
	}
	const want = "a request duration of 600ms cannot be judged: the proxies' longest bucket ends at " +
		"500 ms; give at most that"
	if b, err := BoundsAround(600*time.Millisecond, within); err == nil || err.Error() != want ||
		b.MaybeSlower != (Arm{1000, 10}) {
		t.Errorf("%+v, %v", b, err)
	}
	if _, err := BoundsAround(time.Second, nil); err == nil {
		t.Error("without buckets there is no error")
	}
}

// Wald 1945, Ann Math Stat 16:117: requests of both versions together, and of the candidate.
func TestOracle(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ w, stable, candidate, all, own float64 }{
		{.05, .001, .01, 4891, 245}, {.05, .01, .02, 16565, 828}, {.25, .01, .02, 4429, 1107}} {
		got := Oracle(c.w, c.stable, c.candidate, .05)
		near(t, fmt.Sprintf("requests to find %v at %v", c.candidate, c.w), got/c.w, c.all, .5)
		near(t, fmt.Sprintf("of the candidate to find %v at %v", c.candidate, c.w), got, c.own, .5)
	}
	near(t, "requests to find all failing where half may", OracleBeyond(.5, 1, .25), 2, 1e-12)
}

func TestEnough(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n, x, p float64
		want    bool
	}{{9, 0, .01, false}, {10, 0, .01, true}, {99, 1, .01, false}, {100, 1, .01, true}, {100, 50, .01, true},
		{1000, 1, .001, true}, {999, 1, .001, false}, {20, 1, 0, true}, {9, 1, 0, false}} {
		if got := Enough(Arm{c.n, c.x}, c.p); got != c.want {
			t.Errorf("%v failures in %v with %v allowed are enough: %v", c.x, c.n, c.p, got)
		}
	}
}
