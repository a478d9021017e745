package analysis

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// With fewer strata than minHistory, or fewer events in them than minEvents, the dispersion cannot
// be estimated: defaultPhi stands in.
const (
	minHistory = 120
	minEvents  = 30
	defaultPhi = 0.05
)

// Dispersion estimates how bursty events are from the strata of stable before the release, each
// proxy's separately and in their order: phi is the variance of the multipliers that a stratum's
// rate has (0: none), by moments of successive differences, which are not biased by a slow trend or
// by proxies whose rates differ (von Neumann et al. 1941, Ann Math Stat 12:153):
//
//	phi = max(0, (mean_t (x_t/n_t - x_(t-1)/n_(t-1))² - mean_t p(1/n_t + 1/n_(t-1))) / (2 p²)),
//	p = sum x / sum n.
//
// estimated is false, and phi .05, where there are fewer than 120 successive strata with requests,
// or fewer than 30 events. It is estimated once, before the release: the evidence stays valid only
// if its exponents do not depend on what it judges.
func Dispersion(proxies ...[]Arm) (phi float64, estimated bool) {
	_, total := withRequests(slices.Concat(proxies...))
	phi, differences := moments(proxies, total.Rate())
	if differences < minHistory-1 || total.Events < minEvents {
		return defaultPhi, false
	}
	return phi, true
}

// withRequests returns the strata that have requests, and their total.
func withRequests(history []Arm) (strata []Arm, total Arm) {
	for _, a := range history {
		if a.Requests > 0 {
			strata, total = append(strata, a), total.plus(a, 1)
		}
	}
	return strata, total
}

// moments returns phi and how many differences it is computed from; without any phi is NaN.
func moments(proxies [][]Arm, p float64) (phi float64, differences int) {
	excess := 0.0
	for _, history := range proxies {
		strata, _ := withRequests(history)
		for t := 1; t < len(strata); t++ {
			now, before := strata[t], strata[t-1]
			d := now.Rate() - before.Rate()
			excess += d*d - p*(1/now.Requests+1/before.Requests)
			differences++
		}
	}
	return max(0, excess/float64(differences)/(2*p*p)), differences
}

// Objective is one limit as the sequential test sees it: at most a share of the requests may be
// events.
type Objective struct {
	Name    string        `json:"name"`            // request-success-rate or request-duration
	MaxRate float64       `json:"maxRate"`         // share of the requests that may be events, in [0, 1)
	Limit   time.Duration `json:"limit,omitempty"` // an event is a request that took longer; 0: one that failed
	Weight  float64       `json:"weight"`          // of alpha; those of all objectives are 1 together
	Phi     float64       `json:"phi"`             // dispersion, see Dispersion
	// Rate is stable's share of events before the release; MaxRate where that is not known.
	Rate      float64 `json:"rate"`
	Estimated bool    `json:"estimated,omitempty"` // whether Phi was
}

// Objectives returns the limits that are checked, with equal weights and with the dispersion that
// the history of stable shows: its strata before the release, of which there may be none. An error
// means a limit that no candidate can be shown to break.
func (l Limits) Objectives(history []counts.Stratum) ([]Objective, error) {
	h := History{Limits: l}
	h.Add(history)
	return h.Objectives()
}

// History is stable's strata before a release, of which it keeps only what the limits count: a long
// history is read piece by piece, as all of it would be too large. A History is for one goroutine.
type History struct {
	Limits Limits
	Strata int // how many were added

	arms []map[string][]Arm // by objective, then by proxy, in order
}

// Add adds strata, which come oldest first for each proxy.
func (h *History) Add(strata []counts.Stratum) {
	h.Strata += len(strata)
	for i, o := range h.Limits.objectives() {
		if len(h.arms) <= i {
			h.arms = append(h.arms, map[string][]Arm{})
		}
		for _, s := range strata {
			if a, err := o.Count(s.Stable); err == nil {
				h.arms[i][s.Proxy] = append(h.arms[i][s.Proxy], a)
			}
		}
	}
}

// Objectives returns what Limits.Objectives returns for all strata that were added.
func (h *History) Objectives() ([]Objective, error) {
	if rate := h.Limits.SuccessRate; rate < 0 || rate > 100 {
		return nil, fmt.Errorf("a success rate of %v%% cannot be judged: give more than 0 and at most 100", rate)
	}
	all := h.Limits.objectives()
	for i := range all {
		o := &all[i]
		var proxies [][]Arm
		if len(h.arms) > i {
			for _, proxy := range slices.Sorted(maps.Keys(h.arms[i])) {
				proxies = append(proxies, h.arms[i][proxy])
			}
		}
		o.Weight, o.Rate = 1/float64(len(all)), o.MaxRate
		o.Phi, o.Estimated = Dispersion(proxies...)
		if strata, total := withRequests(slices.Concat(proxies...)); len(strata) >= minHistory {
			o.Rate = total.Rate()
		}
	}
	return all, nil
}

// objectives returns the limits that are checked, without what the history shows.
func (l Limits) objectives() []Objective {
	var all []Objective
	if l.SuccessRate != 0 {
		all = append(all, Objective{Name: "request-success-rate", MaxRate: (100 - l.SuccessRate) / 100})
	}
	if l.RequestDuration > 0 {
		all = append(all, Objective{Name: "request-duration", MaxRate: 1 - durationQuantile, Limit: l.RequestDuration})
	}
	return all
}

// Count returns what the objective counts. An error means that durations were not measured, or that
// the buckets cannot tell.
func (o Objective) Count(c counts.Counts) (Arm, error) {
	if o.Limit == 0 {
		return Arm{Requests: c.Requests, Events: c.Errors}, nil
	}
	bounds, err := BoundsAround(o.Limit, c.Within)
	return bounds.Slower, err
}
