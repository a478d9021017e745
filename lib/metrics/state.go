package metrics

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// State is the state of an observation. It can be written as JSON, and another process can continue
// with it (Client.Resume). It grows with the number of series that are scraped, not with time:
// series that are gone are forgotten.
type State struct {
	Since     time.Time     `json:"since"`
	From      time.Time     `json:"from,omitzero"` // first scrape
	To        time.Time     `json:"to,omitzero"`   // last scrape
	Scrapes   int           `json:"scrapes"`
	Reporter  string        `json:"reporter,omitempty"`
	Stable    counts.Counts `json:"stable"`
	Candidate counts.Counts `json:"candidate"`
	// Sighted reports whether there was a series of the candidate.
	Sighted bool                                   `json:"sighted,omitempty"`
	Last    map[model.Fingerprint]model.SamplePair `json:"last,omitempty"` // of each series
	// Scraped has the last moments at which each proxy was scraped, rising.
	Scraped map[string][]model.Time `json:"scraped,omitempty"`
	Grid    time.Duration           `json:"grid,omitempty"`   // at the workloads' side, of each stratum
	Closed  time.Duration           `json:"closed,omitempty"` // since From, what is complete of them
	// Open are, at the workloads' side, the strata that some pod has no later scrape for yet.
	Open []counts.Stratum `json:"open,omitempty"`
}

// keptScrapes is how many scrapes of each proxy are kept: they tell when it was scraped before, and
// how often it is.
const keptScrapes = 3

// forgetAfter is how long a series or a proxy that is not scraped is remembered. A look fetches
// less than that again, so what is forgotten is not counted a second time.
const forgetAfter = 5 * time.Minute

// clone returns a copy that later looks do not change.
func (s State) clone() State {
	s.Stable, s.Candidate = s.Stable.Clone(), s.Candidate.Clone()
	s.Open = slices.Clone(s.Open)
	for i := range s.Open {
		s.Open[i].Stable, s.Open[i].Candidate = s.Open[i].Stable.Clone(), s.Open[i].Candidate.Clone()
	}
	s.Last, s.Scraped = maps.Clone(s.Last), maps.Clone(s.Scraped)
	return s
}

// add adds the increases of series since the last look and returns the strata that are complete
// with it. All that a scrape brought has to be in one call. A counter that is smaller than it was
// has been reset. A series that was not there before begins with a baseline, unless its proxy was
// scraped just before without it: then it was born in between, and its first value is an increase.
func (s *State) add(all []rawSeries, side side) []counts.Stratum {
	since := model.TimeFromUnixNano(s.Since.UnixNano())
	s.noteScrapes(all, since)
	between := s.increases(all, side, since)
	for _, one := range between.all {
		s.Stable.AddShare(one.Stable, 1)
		s.Candidate.AddShare(one.Candidate, 1)
	}
	complete := between.sorted()
	if side.workloads() {
		complete = s.close(complete)
	}
	for i := range complete {
		complete[i].Stable.AddBounds(s.Stable.Within)
		complete[i].Candidate.AddBounds(s.Candidate.Within)
	}
	for proxy, times := range s.Scraped {
		s.Scraped[proxy] = times[max(0, len(times)-keptScrapes):]
	}
	s.forget()
	return complete
}

// increases returns the increases of series since the last look, by the two scrapes of a proxy that
// they happened between, and keeps the last sample of each series.
func (s *State) increases(all []rawSeries, side side, since model.Time) strata {
	if s.Last == nil {
		s.Last = map[model.Fingerprint]model.SamplePair{}
	}
	between := strata{all: map[stratumKey]*counts.Stratum{}}
	for _, one := range all {
		total := side.of(one.labels, &s.Stable, &s.Candidate)
		s.Sighted = s.Sighted || total == &s.Candidate
		last, known := s.Last[one.id]
		if !known {
			addTo(total, one.labels, 0) // it has this bound
		}
		for _, sample := range one.values {
			if sample.Timestamp < since || known && sample.Timestamp <= last.Timestamp ||
				math.IsNaN(float64(sample.Value)) {
				continue
			}
			before := last
			if !known {
				before = s.baseline(one, sample)
			}
			if increase := increaseSince(before, sample); increase > 0 {
				in := between.at(before.Timestamp.Time(), sample.Timestamp.Time(), one.proxy)
				addTo(side.of(one.labels, &in.Stable, &in.Candidate), one.labels, increase)
			}
			last, known = sample, true
		}
		if known {
			s.Last[one.id] = last
		}
	}
	return between
}

// baseline returns what the first sample of a series is compared with: zero at the scrape that it
// was born after, or, where that is not known, the sample itself.
func (s *State) baseline(one rawSeries, first model.SamplePair) model.SamplePair {
	if at, born := s.bornAfter(one.proxy, first.Timestamp); born && !one.native {
		return model.SamplePair{Timestamp: at}
	}
	return first
}

// increaseSince returns the increase of a counter between two samples. A counter that is smaller
// than it was has been reset, and counted from zero.
func increaseSince(before, sample model.SamplePair) float64 {
	if sample.Value >= before.Value {
		return float64(sample.Value) - float64(before.Value)
	}
	return float64(sample.Value)
}

// envoysBounds is how many bounds Envoy's histograms have where nobody changed them.
const envoysBounds = 20

// grpcErrors are the gRPC statuses that are the server's fault: unknown, deadline exceeded,
// unimplemented, internal, unavailable, data loss.
var grpcErrors = []string{"2", "4", "12", "13", "14", "15"}

// addTo adds n to what a series counts: requests, or those that took at most so long.
func addTo(c *counts.Counts, l *labels, n float64) {
	switch {
	case l.within != "":
		if c.Within == nil {
			c.Within = make(map[string]float64, envoysBounds)
		}
		c.Within[l.within] += n
	case l.code == "0":
		c.Aborted += n
	default:
		c.Requests += n
		if strings.HasPrefix(l.code, "5") || slices.Contains(grpcErrors, l.grpc) {
			c.Errors += n
		}
	}
}

// close brings the strata of pods to the common grid. It returns those that are complete, and keeps
// the others open.
func (s *State) close(between []counts.Stratum) []counts.Stratum {
	if s.Grid == 0 { // nothing was scraped twice, so there is nothing between two scrapes
		return nil
	}
	grid := strata{all: map[stratumKey]*counts.Stratum{}}
	for i := range s.Open {
		grid.all[keyOf(s.Open[i])] = &s.Open[i]
	}
	for _, one := range between {
		s.spread(one.From, one.To, func(from, to time.Time, share float64) {
			cell := grid.at(from, to, "")
			cell.Stable.AddShare(one.Stable, share)
			cell.Candidate.AddShare(one.Candidate, share)
		})
	}
	sorted, closed := grid.sorted(), s.closedUntil()
	open := slices.IndexFunc(sorted, func(one counts.Stratum) bool { return one.To.After(closed) })
	if open < 0 {
		open = len(sorted)
	}
	s.Open = slices.Clone(sorted[open:])
	return sorted[:open]
}

// strata are found by who counted and when. The series of a proxy mostly come together, and all
// that one scrape brought has its time.
type strata struct {
	all  map[stratumKey]*counts.Stratum
	last *counts.Stratum // the last one found
}

// stratumKey tells strata apart.
type stratumKey struct {
	proxy string
	to    int64
}

// keyOf returns the key of a stratum.
func keyOf(s counts.Stratum) stratumKey { return stratumKey{s.Proxy, s.To.UnixMilli()} }

// at returns a stratum, which begins empty.
func (s *strata) at(from, to time.Time, proxy string) *counts.Stratum {
	if s.last != nil && s.last.Proxy == proxy && s.last.To.Equal(to) {
		return s.last
	}
	key := stratumKey{proxy, to.UnixMilli()}
	in, ok := s.all[key]
	if !ok {
		in = &counts.Stratum{From: from.UTC(), To: to.UTC(), Proxy: proxy}
		s.all[key] = in
	}
	s.last = in
	return in
}

// sorted returns the strata, oldest first.
func (s *strata) sorted() []counts.Stratum {
	all := make([]counts.Stratum, 0, len(s.all))
	for _, one := range s.all {
		all = append(all, *one)
	}
	slices.SortFunc(all,
		func(a, b counts.Stratum) int { return cmp.Or(a.To.Compare(b.To), cmp.Compare(a.Proxy, b.Proxy)) })
	return all
}

// forget drops what has not been scraped for long, as pods come and go. Age is measured from before
// the last scrapes of a proxy that goes on: after an outage of Prometheus, in which nothing was
// scraped, all proxies are scraped again before any is forgotten.
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

// noteScrapes notes when each proxy was scraped.
func (s *State) noteScrapes(all []rawSeries, since model.Time) {
	scraped := s.scrapesWith(all, since)
	for proxy, times := range scraped {
		for _, t := range times {
			if old := s.Scraped[proxy]; len(old) == 0 || t > old[len(old)-1] {
				s.Scrapes++
			}
			at := t.Time()
			if s.From.IsZero() || at.Before(s.From) {
				s.From = at
			}
			if at.After(s.To) {
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

// scrapesWith returns the times at which each proxy was scraped, rising: the ones that are kept and
// those of the samples of series.
func (s *State) scrapesWith(all []rawSeries, since model.Time) map[string][]model.Time {
	scraped := map[string][]model.Time{}
	for proxy, times := range s.Scraped {
		scraped[proxy] = slices.Clone(times)
	}
	proxy, times := "", scraped[""]
	for _, one := range all {
		if one.proxy != proxy { // the series of a proxy mostly come together
			proxy, times = one.proxy, scraped[one.proxy]
		}
		before := len(times)
		for _, sample := range one.values {
			if i, noted := slices.BinarySearch(times, sample.Timestamp); !noted && sample.Timestamp >= since {
				times = slices.Insert(times, i, sample.Timestamp)
			}
		}
		if len(times) > before {
			scraped[proxy] = times
		}
	}
	return scraped
}

// gap returns the shortest time between two scrapes; 0 where there are no two.
func gap(times []model.Time) time.Duration {
	least := time.Duration(0)
	for i := 1; i < len(times); i++ {
		if d := times[i].Sub(times[i-1]); least == 0 || d < least {
			least = d
		}
	}
	return least
}

// interval returns the shortest scrape interval of any proxy; 0 where none was scraped twice.
func (s *State) interval() time.Duration {
	least := time.Duration(0)
	for _, times := range s.Scraped {
		if d := gap(times); d > 0 && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}

// bornAfter returns the scrape of a proxy just before a moment. What a proxy brings with its first
// scrape is a baseline, even where its pod started within the observation: no label of a series
// says when that was, and the metrics that do (the agent's, kube-state-metrics') are not scraped
// everywhere and would take another query. So the first scrape interval of a new proxy does not
// count, for either version.
func (s *State) bornAfter(proxy string, t model.Time) (model.Time, bool) {
	i, _ := slices.BinarySearch(s.Scraped[proxy], t)
	if i == 0 || t.Sub(s.Scraped[proxy][i-1]) > s.interval()*3/2 {
		return 0, false
	}
	return s.Scraped[proxy][i-1], true
}

// spread spreads the time between two scrapes over the strata of the common grid: pods are scraped
// at moments of their own, and what they counted is interpolated linearly. What belongs to a
// stratum that is complete goes to the first that is not.
func (s *State) spread(from, to time.Time, count func(from, to time.Time, share float64)) {
	if origin := s.From.Add(s.Closed); from.Before(origin) {
		from = origin
	}
	if !from.Before(to) {
		from = to.Add(-1)
	}
	whole := to.Sub(from)
	for from.Before(to) {
		cell := s.From.Add(from.Sub(s.From) / s.Grid * s.Grid)
		end := cell.Add(s.Grid)
		if end.After(to) {
			end = to
		}
		count(cell, cell.Add(s.Grid), float64(end.Sub(from))/float64(whole))
		from = end
	}
}

// closedUntil returns the time until which every pod that is still scraped has a later scrape.
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
