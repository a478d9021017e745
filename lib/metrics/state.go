package metrics

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/model"
)

// maxStrata is how many strata are kept: their JSON goes into the release record, which has to be small.
const maxStrata = 120

// State is what an observation has come to. It can be written as JSON, and another process goes on with it (Client.Resume). It grows with the
// number of series, not with time.
type State struct {
	Since     time.Time                              `json:"since"`
	From      time.Time                              `json:"from,omitzero"` // first scrape
	To        time.Time                              `json:"to,omitzero"`   // last scrape
	Scrapes   int                                    `json:"scrapes"`
	Reporter  string                                 `json:"reporter,omitempty"`
	Stable    Counts                                 `json:"stable"`
	Candidate Counts                                 `json:"candidate"`
	Sighted   bool                                   `json:"sighted,omitempty"` // whether there was a series of the candidate
	Strata    []Stratum                              `json:"strata,omitempty"`
	Last      map[model.Fingerprint]model.SamplePair `json:"last,omitempty"`    // of each series
	Scraped   map[string][]model.Time                `json:"scraped,omitempty"` // the last moments at which each proxy was scraped, rising
}

// keptScrapes of each proxy tell when it was scraped before, and how often it is.
const keptScrapes = 3

// clone is a copy that later looks do not change.
func (s State) clone() State {
	s.Stable, s.Candidate = s.Stable.clone(), s.Candidate.clone()
	s.Strata = slices.Clone(s.Strata)
	for i := range s.Strata {
		s.Strata[i].Stable, s.Strata[i].Candidate = s.Strata[i].Stable.clone(), s.Strata[i].Candidate.clone()
	}
	s.Last, s.Scraped = maps.Clone(s.Last), maps.Clone(s.Scraped)
	return s
}

// add adds the increases of series since the last look. All that a scrape brought has to be in one call. A counter that is smaller than it was
// began anew. A series that was not there before begins with a baseline, unless its proxy was scraped just before without it: then it was born in
// between, and its first value is an increase.
func (s *State) add(series model.Matrix, side side) {
	since := model.TimeFromUnixNano(s.Since.UnixNano())
	scraped := map[string][]model.Time{}
	for proxy, times := range s.Scraped {
		scraped[proxy] = slices.Clone(times)
	}
	for _, one := range series {
		proxy := proxyOf(one.Metric)
		for _, sample := range one.Values {
			if sample.Timestamp >= since {
				scraped[proxy] = append(scraped[proxy], sample.Timestamp)
			}
		}
	}
	before, interval := s.To, model.Time(math.MaxInt64)
	for proxy, times := range scraped {
		slices.Sort(times)
		times = slices.Compact(times)
		scraped[proxy] = times
		for i, t := range times {
			if i > 0 {
				interval = min(interval, t-times[i-1])
			}
			if old := s.Scraped[proxy]; len(old) == 0 || t > old[len(old)-1] {
				s.Scrapes++
			}
			if at := t.Time(); s.From.IsZero() || at.Before(s.From) {
				s.From = at
			}
			if at := t.Time(); at.After(s.To) {
				s.To = at
			}
		}
	}
	// bornAfter is the scrape of a proxy just before one.
	bornAfter := func(proxy string, t model.Time) (model.Time, bool) {
		i, _ := slices.BinarySearch(scraped[proxy], t)
		if i == 0 || t-scraped[proxy][i-1] > interval+interval/2 {
			return 0, false
		}
		return scraped[proxy][i-1], true
	}
	if s.Last == nil {
		s.Last = map[model.Fingerprint]model.SamplePair{}
	}
	strata := map[stratumKey]*Stratum{}
	for i := range s.Strata {
		strata[s.Strata[i].key()] = &s.Strata[i]
	}
	for _, one := range series {
		s.Sighted = s.Sighted || side.arm(one.Metric, &s.Stable, &s.Candidate) == &s.Candidate
		id, proxy := one.Metric.Fingerprint(), proxyOf(one.Metric)
		last, known := s.Last[id]
		for _, sample := range one.Values {
			if sample.Timestamp < since || known && sample.Timestamp <= last.Timestamp || math.IsNaN(float64(sample.Value)) {
				continue
			}
			from, increase := last.Timestamp, float64(sample.Value)
			if !known {
				from, known = bornAfter(proxy, sample.Timestamp)
				if !known {
					increase = 0
				}
			} else if sample.Value >= last.Value {
				increase -= float64(last.Value)
			}
			if increase > 0 {
				in := Stratum{From: from.Time().UTC(), To: sample.Timestamp.Time().UTC(), Proxy: proxy}
				if side.workloads() {
					in = Stratum{From: cmp.Or(before, s.From).UTC(), To: s.To.UTC()}
				}
				if strata[in.key()] == nil {
					strata[in.key()] = &in
				}
				side.arm(one.Metric, &s.Stable, &s.Candidate).add(one.Metric, increase)
				side.arm(one.Metric, &strata[in.key()].Stable, &strata[in.key()].Candidate).add(one.Metric, increase)
			}
			last, known = sample, true
		}
		if known {
			s.Last[id] = last
		}
	}
	all := make([]Stratum, 0, len(strata))
	for _, one := range strata {
		all = append(all, *one)
	}
	slices.SortFunc(all, func(a, b Stratum) int { return cmp.Or(a.To.Compare(b.To), cmp.Compare(a.Proxy, b.Proxy)) })
	s.Strata = all[max(0, len(all)-maxStrata):]
	for proxy, times := range scraped {
		scraped[proxy] = times[max(0, len(times)-keptScrapes):]
	}
	s.Scraped = scraped
}

// stratumKey tells strata apart.
type stratumKey struct {
	proxy string
	to    int64
}

func (s Stratum) key() stratumKey { return stratumKey{s.Proxy, s.To.UnixMilli()} }

// proxyOf names what Prometheus scraped a series from.
func proxyOf(m model.Metric) string {
	return string(m[model.JobLabel] + " " + m[model.InstanceLabel] + " " + m["pod"])
}
