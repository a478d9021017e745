// Package counts has the data that is judged: how many requests each version answered, and how. It
// depends on nothing that counts them.
package counts

import (
	"maps"
	"time"
)

// Counts are the requests of one version that ended.
type Counts struct {
	Requests float64 `json:"requests"`
	Errors   float64 `json:"errors"`            // answered with 5xx, or with a gRPC status that means so
	Aborted  float64 `json:"aborted,omitempty"` // the client was gone before an answer: neither good nor bad
	// Within is how many requests took at most so many milliseconds; the bounds are the ones that
	// the proxies have. The key "+Inf" is all requests whose duration was measured.
	Within map[string]float64 `json:"within,omitempty"`
}

// Minus returns the counts since earlier ones.
func (c Counts) Minus(before Counts) Counts {
	d := Counts{Requests: c.Requests - before.Requests, Errors: c.Errors - before.Errors,
		Aborted: c.Aborted - before.Aborted, Within: map[string]float64{}}
	for le, n := range c.Within {
		d.Within[le] = n - before.Within[le]
	}
	return d
}

// Clone returns a copy that shares nothing with the original.
func (c Counts) Clone() Counts {
	c.Within = maps.Clone(c.Within)
	return c
}

// AddShare adds a share of other counts.
func (c *Counts) AddShare(other Counts, share float64) {
	c.Requests += share * other.Requests
	c.Errors += share * other.Errors
	c.Aborted += share * other.Aborted
	if c.Within == nil && other.Within != nil {
		c.Within = make(map[string]float64, len(other.Within))
	}
	for le, n := range other.Within {
		c.Within[le] += share * n
	}
}

// AddBounds adds the bounds that the proxies have and below which nothing was counted: without them
// it would seem that there is no such bound. It adds none where no duration was measured.
func (c *Counts) AddBounds(bounds map[string]float64) {
	if c.Within["+Inf"] == 0 {
		return
	}
	for le := range bounds {
		c.Within[le] += 0
	}
}

// Stratum is what was counted in one scrape interval. At the callers' side it is that of one proxy,
// which counted for both versions at the same moments. At the workloads' side, where each pod is
// scraped at a moment of its own, it is one of a grid that is common to all of them: counts are
// interpolated, and have fractions.
type Stratum struct {
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Proxy     string    `json:"proxy,omitempty"` // the proxy that was scraped; empty at the workloads' side
	Stable    Counts    `json:"stable"`
	Candidate Counts    `json:"candidate"`
}

// Missing is why there is nothing to judge: a closed list.
type Missing string

// What can be missing.
const (
	// NoScrape: Prometheus has no scrape of Istio's metrics since the candidate got its weight.
	NoScrape      Missing = "no scrape"
	NoSeries      Missing = "no series"       // proxies are scraped, and none counts requests for this workload
	NoRequests    Missing = "no requests"     // nobody sent a request
	NoneAnswered  Missing = "none answered"   // requests were sent, and every caller gave up before an answer
	TooManySeries Missing = "too many series" // more than are evaluated
)

// Window is what was counted since the observation began.
type Window struct {
	From, To time.Time // of the first and the last scrape; zero where there is none
	Scrapes  int       // of all proxies together
	// Reporter says who counted: source|waypoint (the callers' side) or destination; empty until it
	// is known.
	Reporter          string
	Series            int           // looked at this time
	Interval          time.Duration // how often a proxy is scraped; 0 until one was scraped twice
	Stable, Candidate Counts
	More              bool // there is more in Prometheus already: look again at once
	// Strata are the ones that had requests and were completed since the last look, oldest first.
	Strata  []Stratum
	Missing Missing // "" where the candidate has requests
	Text    string  // what is missing, in a sentence
}
