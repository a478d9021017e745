package simulate

import (
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// scraped plays the release second by second as the workloads report it: each pod is scraped at its
// own moment, and every counter is put on one grid, on which the strata are, by linear
// interpolation. A stratum is complete when every pod has a later sample, so the first is left out.
func (r *release) scraped() func(func(interval) bool) {
	return func(yield func(interval) bool) {
		var all []interval
		var ticks []counts.Stratum // of every second and pod: the pods of stable, then the candidate
		pods := r.Pods + 1
		c := checks{Scenario: r.Scenario}
		second := func(weight int, in *interval) {
			for pod := range pods {
				var s counts.Stratum
				if pod < r.Pods {
					s.Stable = r.arm((1-r.Weights[weight])/float64(r.Pods), r.Stable, time.Second, 1)
				} else {
					s.Candidate = r.arm(r.Weights[weight], r.rate(weight), time.Second, 1)
				}
				ticks = append(ticks, s)
				in.total.Candidate, in.total.Stable = sum(in.total.Candidate, s.Candidate, 1),
					sum(in.total.Stable, s.Stable, 1)
			}
			r.now += time.Second
		}
		for !c.ended() {
			in := interval{weight: c.weight, from: r.now}
			for range int(r.Interval / time.Second) {
				second(c.weight, &in)
			}
			c.judge(in.total)
			all = append(all, in)
		}
		every := int(r.Scrape / time.Second)
		for range every { // for the last samples
			second(min(c.weight, len(r.Weights)-1), &interval{})
		}
		phase := make([]int, pods) // seconds after the grid at which each is scraped
		for i := range phase {
			phase[i] = int(uniform(r.src) * float64(every))
		}
		// increase is what one pod counted in the scrape interval that ends phase after a point of
		// the grid.
		increase := func(pod, point int) (s counts.Stratum) {
			end := point*every + phase[pod]
			for t := max(0, end-every); t < end; t++ {
				s.Stable, s.Candidate = sum(s.Stable, ticks[t*pods+pod].Stable, 1),
					sum(s.Candidate, ticks[t*pods+pod].Candidate, 1)
			}
			return s
		}
		point := 0
		for _, in := range all {
			for range int(r.Interval / r.Scrape) {
				point++
				var s counts.Stratum
				for pod := range pods {
					late := float64(phase[pod]) / float64(every)
					for k, share := range []float64{late, 1 - late} {
						one := increase(pod, point-1+k)
						s.Stable, s.Candidate = sum(s.Stable, one.Stable, share), sum(s.Candidate, one.Candidate, share)
					}
				}
				in.strata = append(in.strata, s)
			}
			if !yield(in) {
				return
			}
		}
	}
}
