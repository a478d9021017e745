package simulate

import (
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// pods is a release as its pods count it, second by second.
type pods struct {
	*release
	number int
	every  int              // seconds between two scrapes of a pod
	phase  []int            // seconds after the common grid at which each pod is scraped
	ticks  []counts.Stratum // of every second and pod: the pods of stable, then the candidate
}

// scraped plays the release second by second as the workloads report it: each pod is scraped at its
// own moment, and every counter is put on a common grid by linear interpolation, which the strata
// are on. A stratum is complete when every pod has a later sample, so the first is left out.
func (r *release) scraped() func(func(interval) bool) {
	return func(yield func(interval) bool) {
		p := pods{release: r, number: r.Pods + 1, every: int(r.Scrape / time.Second)}
		all := p.play()
		p.phase = make([]int, p.number)
		for i := range p.phase {
			p.phase[i] = int(uniform(r.src) * float64(p.every))
		}
		point := 0
		for _, in := range all {
			for range int(r.Interval / r.Scrape) {
				point++
				in.strata = append(in.strata, p.stratum(point))
			}
			if !yield(in) {
				return
			}
		}
	}
}

// play plays all intervals, without their strata, and the time until the last samples after them.
func (p *pods) play() (all []interval) {
	c := checks{Scenario: p.Scenario}
	for !c.ended() {
		in := interval{weight: c.weight, from: p.now}
		for range int(p.Interval / time.Second) {
			p.second(c.weight, &in)
		}
		c.judge(in.total)
		all = append(all, in)
	}
	for range p.every {
		p.second(min(c.weight, len(p.Weights)-1), &interval{})
	}
	return all
}

// second plays one second of an interval.
func (p *pods) second(weight int, in *interval) {
	for pod := range p.number {
		var s counts.Stratum
		if pod < p.Pods {
			s.Stable = p.arm((1-p.Weights[weight])/float64(p.Pods), p.Stable, time.Second, 1)
		} else {
			s.Candidate = p.arm(p.Weights[weight], p.rate(weight), time.Second, 1)
		}
		p.ticks = append(p.ticks, s)
		in.total.Candidate, in.total.Stable = sum(in.total.Candidate, s.Candidate, 1),
			sum(in.total.Stable, s.Stable, 1)
	}
	p.now += time.Second
}

// stratum returns what all pods counted in the interval of the common grid that ends at a point.
func (p *pods) stratum(point int) (s counts.Stratum) {
	for pod := range p.number {
		late := float64(p.phase[pod]) / float64(p.every)
		for k, share := range []float64{late, 1 - late} {
			one := p.increase(pod, point-1+k)
			s.Stable, s.Candidate = sum(s.Stable, one.Stable, share), sum(s.Candidate, one.Candidate, share)
		}
	}
	return s
}

// increase returns what one pod counted in its scrape interval that ends a phase after a point of
// the common grid.
func (p *pods) increase(pod, point int) (s counts.Stratum) {
	end := point*p.every + p.phase[pod]
	for t := max(0, end-p.every); t < end; t++ {
		tick := p.ticks[t*p.number+pod]
		s.Stable, s.Candidate = sum(s.Stable, tick.Stable, 1), sum(s.Candidate, tick.Candidate, 1)
	}
	return s
}
