package metrics

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Target says whose requests are counted.
type Target struct {
	Namespace         string
	Stable, Candidate Arm
}

// Arm is one of the two versions: how its Deployment and its Service are called.
type Arm struct{ Workload, Service string }

// Counts are requests that ended, of one version.
type Counts struct {
	Requests float64 `json:"requests"`
	Errors   float64 `json:"errors"`            // answered with 5xx, or with a gRPC status that means so
	Aborted  float64 `json:"aborted,omitempty"` // the client was gone before an answer: neither good nor bad
	// Within says how many requests took at most so many milliseconds; the bounds are those that
	// the proxies have. The key "+Inf" is all whose duration was measured.
	Within map[string]float64 `json:"within,omitempty"`
}

// Minus are the counts since those of before.
func (c Counts) Minus(before Counts) Counts {
	d := Counts{Requests: c.Requests - before.Requests, Errors: c.Errors - before.Errors,
		Aborted: c.Aborted - before.Aborted, Within: map[string]float64{}}
	for le, n := range c.Within {
		d.Within[le] = n - before.Within[le]
	}
	return d
}

func (c Counts) clone() Counts {
	c.Within = maps.Clone(c.Within)
	return c
}

// know adds the bounds that the proxies have and below which nothing was counted: without them it
// would seem that there is no such bound.
func (c *Counts) know(bounds map[string]float64) {
	if c.Within["+Inf"] == 0 {
		return
	}
	for le := range bounds {
		c.Within[le] += 0
	}
}

// envoysBounds is how many bounds Envoy's histograms have where nobody changed them.
const envoysBounds = 20

// gRPC statuses that are the server's fault: unknown, deadline exceeded, unimplemented, internal,
// unavailable, data loss.
var grpcErrors = []string{"2", "4", "12", "13", "14", "15"}

// add counts n more of what a series counts: requests, or those that took at most so long.
func (c *Counts) add(l *labels, n float64) {
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

// plus adds a share of other counts.
func (c *Counts) plus(other Counts, share float64) {
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

// Stratum is what was counted in one scrape interval. At the callers' side it is that of one proxy,
// which counted for both versions at the same moments. At the workloads' side, where each pod is
// scraped at a moment of its own, it is one of a grid that is common to all of them: counts are
// interpolated, and have fractions.
type Stratum struct {
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	Proxy     string    `json:"proxy,omitempty"` // who was scraped; empty at the workloads' side
	Stable    Counts    `json:"stable"`
	Candidate Counts    `json:"candidate"`
}

// Missing is why there is nothing to judge: a closed list.
type Missing string

// What can be missing.
const (
	// Prometheus has no scrape of Istio's metrics since the candidate got its weight
	NoScrape      Missing = "no scrape"
	NoSeries      Missing = "no series"       // proxies are scraped, and none counts requests for this workload
	NoRequests    Missing = "no requests"     // nobody sent a request
	NoneAnswered  Missing = "none answered"   // requests were sent, and all callers gave up before there was an answer
	TooManySeries Missing = "too many series" // more than are evaluated
)

// Window is what was counted since the observation began.
type Window struct {
	From, To time.Time // of the first and the last scrape; zero where there is none
	Scrapes  int       // of all proxies together
	// who counted: source|waypoint (the callers' side) or destination; empty as long as it is not
	// known
	Reporter          string
	Series            int           // looked at this time
	Interval          time.Duration // how often a proxy is scraped; 0 as long as none was twice
	Stable, Candidate Counts
	More              bool // there is more in Prometheus already: look again at once
	// those in which there were requests and that were completed since the last look, oldest first
	Strata  []Stratum
	Missing Missing // "" where the candidate has requests
	Text    string  // what is missing, in a sentence
}
