package metrics

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/model"
)

// State is what an observation has come to. It can be written as JSON, and another process goes on with it (Client.Resume). It grows with the
// number of series that are scraped, not with time: what went away is forgotten.
type State struct {
	Since     time.Time                              `json:"since"`
	From      time.Time                              `json:"from,omitzero"` // first scrape
	To        time.Time                              `json:"to,omitzero"`   // last scrape
	Scrapes   int                                    `json:"scrapes"`
	Reporter  string                                 `json:"reporter,omitempty"`
	Stable    Counts                                 `json:"stable"`
	Candidate Counts                                 `json:"candidate"`
	Sighted   bool                                   `json:"sighted,omitempty"` // whether there was a series of the candidate
	Last      map[model.Fingerprint]model.SamplePair `json:"last,omitempty"`    // of each series
	Scraped   map[string][]model.Time                `json:"scraped,omitempty"` // the last moments at which each proxy was scraped, rising
	Grid      time.Duration                          `json:"grid,omitempty"`    // at the workloads' side, of each stratum
	Closed    time.Duration                          `json:"closed,omitempty"`  // since From, what is complete of them
	Open      []Stratum                              `json:"open,omitempty"`    // at the workloads' side, strata that some pod has no later scrape for yet
}

// keptScrapes of each proxy tell when it was scraped before, and how often it is.
const keptScrapes = 3

// forgetAfter is how long a series or a proxy that is not scraped is remembered. A look fetches less than that again, so what is forgotten is not
// counted a second time.
const forgetAfter = 5 * time.Minute

// clone is a copy that later looks do not change.
func (s State) clone() State {
	s.Stable, s.Candidate = s.Stable.clone(), s.Candidate.clone()
	s.Open = slices.Clone(s.Open)
	for i := range s.Open {
		s.Open[i].Stable, s.Open[i].Candidate = s.Open[i].Stable.clone(), s.Open[i].Candidate.clone()
	}
	s.Last, s.Scraped = maps.Clone(s.Last), maps.Clone(s.Scraped)
	return s
}

// add adds the increases of series since the last look and returns the strata that are complete with it. All that a scrape brought has to be in
// one call. A counter that is smaller than it was began anew. A series that was not there before begins with a baseline, unless its proxy was scraped
// just before without it: then it was born in between, and its first value is an increase.
func (s *State) add(all []rawSeries, side side) []Stratum {
	since := model.TimeFromUnixNano(s.Since.UnixNano())
	s.scraped(all, since)
	strata := map[stratumKey]*Stratum{}
	for i := range s.Open {
		strata[s.Open[i].key()] = &s.Open[i]
	}
	// count adds an increase between two scrapes of a proxy to a stratum.
	count := func(m model.Metric, in Stratum, increase float64) {
		if strata[in.key()] == nil {
			strata[in.key()] = &in
		}
		side.arm(m, &strata[in.key()].Stable, &strata[in.key()].Candidate).add(m, increase)
	}
	if s.Last == nil {
		s.Last = map[model.Fingerprint]model.SamplePair{}
	}
	for _, one := range all {
		s.Sighted = s.Sighted || side.arm(one.metric, &s.Stable, &s.Candidate) == &s.Candidate
		id, proxy := one.id, proxyOf(one.metric)
		last, known := s.Last[id]
		for _, sample := range one.values {
			if sample.Timestamp < since || known && sample.Timestamp <= last.Timestamp || math.IsNaN(float64(sample.Value)) {
				continue
			}
			from, increase := last.Timestamp, float64(sample.Value)
			if !known {
				from, known = s.bornAfter(proxy, sample.Timestamp)
				if known = known && !one.native; !known {
					increase = 0
				}
			} else if sample.Value >= last.Value {
				increase -= float64(last.Value)
			}
			switch {
			case increase <= 0:
			case side.workloads():
				s.spread(from.Time(), sample.Timestamp.Time(), increase, func(in Stratum, part float64) { count(one.metric, in, part) })
			default:
				count(one.metric, Stratum{From: from.Time().UTC(), To: sample.Timestamp.Time().UTC(), Proxy: proxy}, increase)
			}
			side.arm(one.metric, &s.Stable, &s.Candidate).add(one.metric, max(increase, 0))
			last, known = sample, true
		}
		if known {
			s.Last[id] = last
		}
	}
	sorted := make([]Stratum, 0, len(strata))
	for _, one := range strata {
		sorted = append(sorted, *one)
	}
	slices.SortFunc(sorted, func(a, b Stratum) int { return cmp.Or(a.To.Compare(b.To), cmp.Compare(a.Proxy, b.Proxy)) })
	open := len(sorted)
	if side.workloads() {
		closed := s.closedUntil()
		open = cmp.Or(slices.IndexFunc(sorted, func(one Stratum) bool { return one.To.After(closed) })+1, len(sorted)+1) - 1
	}
	if s.Open = nil; open < len(sorted) {
		s.Open = slices.Clone(sorted[open:])
	}
	for i := range sorted[:open] {
		sorted[i].Stable.know(s.Stable.Within)
		sorted[i].Candidate.know(s.Candidate.Within)
	}
	for proxy, times := range s.Scraped {
		s.Scraped[proxy] = times[max(0, len(times)-keptScrapes):]
	}
	s.forget()
	return sorted[:open]
}

// forget drops what has not been scraped for long, as pods come and go. The time is that before the last scrapes of a proxy that goes on: after
// a break of Prometheus, in which nothing was scraped, all proxies are scraped again before any is forgotten.
func (s *State) forget() {
	var goesOn model.Time
	for _, times := range s.Scraped {
		if len(times) == keptScrapes {
			goesOn = max(goesOn, times[0])
		}
	}
	old := goesOn.Add(-forgetAfter)
	maps.DeleteFunc(s.Scraped, func(_ string, times []model.Time) bool { return times[len(times)-1] < old })
	maps.DeleteFunc(s.Last, func(_ model.Fingerprint, last model.SamplePair) bool { return last.Timestamp < old })
}

// scraped notes when each proxy was scraped.
func (s *State) scraped(all []rawSeries, since model.Time) {
	scraped := map[string][]model.Time{}
	for proxy, times := range s.Scraped {
		scraped[proxy] = slices.Clone(times)
	}
	for _, one := range all {
		proxy := proxyOf(one.metric)
		for _, sample := range one.values {
			if sample.Timestamp >= since {
				scraped[proxy] = append(scraped[proxy], sample.Timestamp)
			}
		}
	}
	for proxy, times := range scraped {
		slices.Sort(times)
		times = slices.Compact(times)
		scraped[proxy] = times
		for _, t := range times {
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
	s.Scraped = scraped
	if s.Grid == 0 {
		for _, times := range scraped {
			s.Grid = max(s.Grid, gap(times))
		}
	}
}

// gap is the smallest time between two of them; 0 where there are no two.
func gap(times []model.Time) time.Duration {
	least := time.Duration(0)
	for i := 1; i < len(times); i++ {
		if d := times[i].Sub(times[i-1]); least == 0 || d < least {
			least = d
		}
	}
	return least
}

// interval is how often proxies are scraped, the most frequent one; 0 where none was twice.
func (s *State) interval() time.Duration {
	least := time.Duration(0)
	for _, times := range s.Scraped {
		if d := gap(times); d > 0 && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}

// bornAfter is the scrape of a proxy just before one. What a proxy brings with its first scrape is a baseline, also where its pod started within the
// observation: no label of a series says when that was, and the metrics that do (the agent's, kube-state-metrics') are not scraped everywhere
// and would be one query more. So the first scrape interval of a new proxy does not count, whichever version it is of.
func (s *State) bornAfter(proxy string, t model.Time) (model.Time, bool) {
	i, _ := slices.BinarySearch(s.Scraped[proxy], t)
	if i == 0 || t.Sub(s.Scraped[proxy][i-1]) > s.interval()*3/2 {
		return 0, false
	}
	return s.Scraped[proxy][i-1], true
}

// spread shares an increase between two scrapes out to the strata of the common grid, by linear interpolation: pods are scraped at moments of their
// own. What belongs to a stratum that is complete goes to the first that is not.
func (s *State) spread(from, to time.Time, increase float64, count func(Stratum, float64)) {
	whole := to.Sub(from)
	if origin := s.From.Add(s.Closed); from.Before(origin) {
		from = origin
	}
	if !from.Before(to) {
		from = to.Add(-1)
	}
	whole = min(whole, to.Sub(from))
	for from.Before(to) {
		cell := s.From.Add(from.Sub(s.From) / s.Grid * s.Grid)
		end := cell.Add(s.Grid)
		if end.After(to) {
			end = to
		}
		count(Stratum{From: cell.UTC(), To: cell.Add(s.Grid).UTC()}, increase*float64(end.Sub(from))/float64(whole))
		from = end
	}
}

// closedUntil is until when every pod that is still scraped has a later scrape.
func (s *State) closedUntil() time.Time {
	until := s.To
	for _, times := range s.Scraped {
		last := times[len(times)-1].Time()
		if gone := s.To.Sub(last) > s.Grid*5/2; !gone && last.Before(until) {
			until = last
		}
	}
	s.Closed = max(s.Closed, until.Sub(s.From)/s.Grid*s.Grid)
	return s.From.Add(s.Closed)
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
