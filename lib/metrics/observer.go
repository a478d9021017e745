package metrics

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// The metrics of Istio's proxies that are counted.
const (
	requestsMetric     = "istio_requests_total"
	durationsMetric    = "istio_request_duration_milliseconds_bucket"
	oldDurationsMetric = "istio_request_duration_seconds_bucket" // before Istio 1.5
	histogramsMetric   = "istio_request_duration_milliseconds"   // where Prometheus keeps native histograms
)

// How much is looked at: the most series, and the most samples of them at once. A range that is
// longer than longRange and has more samples is read in slices, the oldest first, each of some
// scrapes at least.
const (
	maxSeries  = 10000
	maxSamples = 20 * maxSeries
	longRange  = 2 * time.Minute
	leastSlice = 30 * time.Second
	sliceHas   = 4 // scrapes
)

// lag is how long after its time a scrape may appear in Prometheus: what is younger is fetched
// again.
const lag = 10 * time.Second

// Target says whose requests are counted.
type Target struct {
	Namespace         string
	Stable, Candidate Arm
}

// Arm is one of the two versions: the names of its Deployment and its Service.
type Arm struct{ Workload, Service string }

// Observer counts the requests of a target since a moment. Each look asks for new scrapes only. An
// Observer is for one goroutine.
type Observer struct {
	client *Client
	target Target
	state  State
	decoder
	clock func() time.Time
	most  float64       // samples that are read at once
	slice time.Duration // of a long range, while it is read; 0: everything is read at once
	read  time.Time     // until when a long range has been read
	many  bool          // there were too many series at the last look
}

// Observe begins to count the requests that end after a moment: increases are counted from the
// first scrape at or after it.
func (c *Client) Observe(t Target, since time.Time) *Observer {
	return c.Resume(t, State{Since: since})
}

// Resume continues an observation where another Observer of the same target stopped.
func (c *Client) Resume(t Target, s State) *Observer {
	return &Observer{client: c, target: t, state: s.clone(), clock: time.Now, most: maxSamples}
}

// State returns what Resume needs to continue from here.
func (o *Observer) State() State { return o.state.clone() }

// side is how series are found: at the callers, by the Service that they called, or at the
// workloads.
type side struct{ reporters, stable, candidate, label, namespace string }

// workloads reports whether it is the workloads' side.
func (s side) workloads() bool { return s.namespace != "" }

// sides returns the two places where requests are counted. The callers' is better: it has the
// requests that never reached a pod, and both versions at the same moments. They are never added
// up. At the callers' side the label is destination_service, which is the only one that has the
// destination when no pod of it could be chosen.
func (o *Observer) sides() []side {
	host := func(service string) string { return service + "." + o.target.Namespace + ".svc." }
	return []side{
		{"source|waypoint", host(o.target.Stable.Service), host(o.target.Candidate.Service), "destination_service", ""},
		{"destination", o.target.Stable.Workload, o.target.Candidate.Workload, "destination_workload",
			o.target.Namespace},
	}
}

// countedSides returns the side that is counted, or both as long as none is chosen.
func (o *Observer) countedSides() []side {
	return slices.DeleteFunc(o.sides(), func(s side) bool {
		return o.state.Reporter != "" && o.state.Reporter != s.reporters
	})
}

// selector selects the series of both versions, which one query returns as of the same moment: the
// samples of one scrape are in it all or not at all. Names are escaped: they match literally.
func (s side) selector(names ...string) string {
	tail := ""
	if !s.workloads() { // the cluster's domain follows
		tail = ".+"
	}
	value := regexp.QuoteMeta(s.stable) + tail + "|" + regexp.QuoteMeta(s.candidate) + tail
	text := fmt.Sprintf(
		"{__name__=~%q,reporter=~%q,%s=~%s", strings.Join(names, "|"), s.reporters, s.label, strconv.Quote(value))
	if s.workloads() {
		text += ",destination_workload_namespace=" + strconv.Quote(s.namespace)
	}
	return text + "}"
}

// stables reports whether requests to a destination, the value of the side's label, are stable's.
// The query asks for nothing but stable's and the candidate's.
func (s side) stables(destination string) bool {
	return destination == s.stable || !s.workloads() && strings.HasPrefix(destination, s.stable)
}

// of returns the counts of the version that a series belongs to: stable's or the candidate's.
func (s side) of(l *labels, stable, candidate *counts.Counts) *counts.Counts {
	destination := l.service
	if s.workloads() {
		destination = l.workload
	}
	if s.stables(destination) {
		return stable
	}
	return candidate
}

// Look fetches what was scraped since the last look and returns all that was counted since the
// observation began. Where that is long ago it reads a slice and says so (Window.More): the next
// look, at once, continues behind it. An error comes from Prometheus, and is ErrQuery.
func (o *Observer) Look(ctx context.Context) (counts.Window, error) {
	now := o.clock()
	from := o.from()
	if o.many || o.slice == 0 && now.Sub(from) > longRange {
		if w, err := o.measure(ctx, from, now); err != nil || w.Missing != "" {
			return w, err
		}
	}
	to := o.sliceEnd(from, now)
	s, series, err := o.fetchSide(ctx, from, to)
	var strata []counts.Stratum
	switch {
	case errors.Is(err, ErrTooLarge):
		return o.lookAtLess(ctx, from, to, now)
	case err != nil:
		return counts.Window{}, err
	case len(series) == 0:
	case o.state.Reporter == "" && s.workloads() && !twice(series, model.TimeFromUnixNano(o.state.Since.UnixNano())):
		return counts.Window{
			Missing: counts.NoScrape, Text: "no scrape but one since the candidate got its weight"}, nil
	case len(series) > maxSeries:
		o.many = true
		return o.tooMany(ctx, from, now, "")
	default:
		o.state.Reporter = s.reporters
		strata = o.state.add(series, s)
	}
	w := counts.Window{From: o.state.From, To: o.state.To, Scrapes: o.state.Scrapes, Reporter: o.state.Reporter,
		Series: len(series), Interval: o.state.interval(),
		Stable: o.state.Stable.Clone(), Candidate: o.state.Candidate.Clone(), Strata: strata, More: to.Before(now)}
	if w.More {
		o.read = to
		return w, nil
	}
	return w, o.whatIsMissing(ctx, &w, now)
}

// sliceEnd returns until when this look reads: the end of a slice, or now where it is the last one.
func (o *Observer) sliceEnd(from, now time.Time) time.Time {
	if end := from.Add(o.slice); o.slice > 0 && end.Before(now) {
		return end
	}
	o.slice = 0
	return now
}

// fetchSide returns the series of the first side that has any.
func (o *Observer) fetchSide(ctx context.Context, from, to time.Time) (side, []rawSeries, error) {
	for _, s := range o.countedSides() {
		series, err := o.fetch(ctx, s.selector(countedMetrics...), from, to)
		if err != nil || len(series) > 0 {
			return s, series, err
		}
	}
	return side{}, nil, nil
}

// lookAtLess looks again, in slices of half the range whose answer was too large. Where these would
// be too short, there are too many series.
func (o *Observer) lookAtLess(ctx context.Context, from, to, now time.Time) (counts.Window, error) {
	if o.slice = to.Sub(from) / 2; o.slice >= o.leastSlice() {
		return o.Look(ctx)
	}
	o.slice, o.many = 0, true // later looks say how many, as long as there are too many
	return o.tooMany(ctx, from, now,
		fmt.Sprintf("what they have in %s is more than %d MiB", to.Sub(from).Round(time.Second), maxSamplesBody>>20))
}

// countedMetrics are all metrics that one query asks for.
var countedMetrics = []string{requestsMetric, durationsMetric, oldDurationsMetric, histogramsMetric}

// from returns the time since which samples are fetched. What is young is fetched again.
func (o *Observer) from() time.Time {
	from := o.state.Since
	for _, known := range []time.Time{o.state.To, o.read} {
		if young := known.Add(-max(lag, o.state.interval()*3/2)); young.After(from) {
			from = young
		}
	}
	return from
}

// span returns a range for a query, in whole seconds.
func span(from, to time.Time) model.Duration {
	return model.Duration(max(0, to.Sub(from)).Truncate(time.Second) + time.Second)
}

// leastSlice returns the least length of a slice: each has to reach further than what the next one
// fetches again.
func (o *Observer) leastSlice() time.Duration { return max(leastSlice, sliceHas*o.state.interval()) }

// measure asks how many series there are in a long range and how often they were scraped, which
// decides which side is counted, and in which slices it is read. The window says what is missing
// where it cannot be read.
func (o *Observer) measure(ctx context.Context, from, now time.Time) (counts.Window, error) {
	o.slice = 0
	for _, s := range o.countedSides() {
		series, scrapes, err := o.count(ctx, s, from, now)
		if errors.Is(err, ErrWarning) || series == 0 && err == nil {
			continue // fetching tells more
		}
		if err != nil {
			return counts.Window{}, err
		}
		if o.many = series > maxSeries; o.many {
			return counts.Window{Missing: counts.TooManySeries, Text: tooMany(series, "")}, nil
		}
		if s.workloads() && scrapes < 2 {
			return counts.Window{}, nil // nothing is decided yet
		}
		o.state.Reporter = s.reporters
		if length := now.Sub(from); series*scrapes > o.most {
			every := time.Duration(float64(length) / scrapes)
			o.slice = max(leastSlice, sliceHas*every, time.Duration(float64(length)*o.most/(series*scrapes)))
		}
		return counts.Window{}, nil
	}
	o.many = false
	return counts.Window{}, nil
}

// count returns how many series a side has in a range, and how many samples one of them has at
// most.
func (o *Observer) count(ctx context.Context, s side, from, to time.Time) (series, scrapes float64, err error) {
	const format = `label_replace(count(last_over_time(%s[%s])), "is", "series", "", "")` +
		` or label_replace(max(count_over_time(%s[%[2]s])), "is", "scrapes", "", "")`
	v, err := o.client.query(
		ctx, fmt.Sprintf(format, s.selector(countedMetrics...), span(from, to), s.selector(requestsMetric)), to)
	if err != nil {
		return 0, 0, err
	}
	vector, ok := v.(model.Vector)
	if !ok {
		return 0, 0, fmt.Errorf("%w: Prometheus at %s answered with a %s", ErrQuery, o.client.address, v.Type())
	}
	for _, one := range vector {
		if one.Metric["is"] == "series" {
			series = float64(one.Value)
		} else {
			scrapes = float64(one.Value)
		}
	}
	return series, scrapes, nil
}

// tooMany returns the window for more series than are looked at, with their number where Prometheus
// tells it.
func (o *Observer) tooMany(ctx context.Context, from, to time.Time, why string) (counts.Window, error) {
	most := 0.0
	for _, s := range o.countedSides() {
		if series, _, err := o.count(ctx, s, from, to); err == nil {
			most = max(most, series)
		}
	}
	return counts.Window{Missing: counts.TooManySeries, Text: tooMany(most, why)}, nil
}

// tooMany says that there are too many series, and what would help.
func tooMany(series float64, why string) string {
	text := fmt.Sprintf("more than %d series", maxSeries)
	if series > 0 {
		text = fmt.Sprintf("%.0f series, and at most %d are", series, maxSeries)
	}
	if why != "" {
		text = fmt.Sprintf("%.0f series: %s", series, why)
	}
	return "not evaluated: " + text +
		"; let the proxies tell less apart: remove tags from the metrics with Istio's Telemetry (tagOverrides), or " +
		"have fewer bounds of buckets"
}

// fetch returns the raw samples of a range. If there are more than maxSeries series, some may be
// missing.
func (o *Observer) fetch(ctx context.Context, selector string, from, to time.Time) ([]rawSeries, error) {
	a := answer{decoder: &o.decoder}
	v, err := o.client.query(into(ctx, &a), selector+"["+span(from, to).String()+"]", to, v1.WithLimit(maxSeries+1))
	if errors.Is(err, ErrWarning) && len(a.series) > maxSeries { // which is what the warning is about
		return a.series, nil
	}
	if err != nil {
		return nil, err
	}
	if _, ok := v.(model.Matrix); !ok {
		return nil, fmt.Errorf("%w: Prometheus at %s answered with a %s", ErrQuery, o.client.address, v.Type())
	}
	classic := func(one rawSeries) bool { return !one.native && one.within != "" }
	if slices.ContainsFunc(a.series, classic) { // Prometheus keeps both
		return slices.DeleteFunc(a.series, func(one rawSeries) bool { return one.native }), nil
	}
	return a.series, nil
}

// twice reports whether something was scraped twice since a moment: by then the callers' proxies
// would have been, too. Only then is the workloads' side chosen.
func twice(all []rawSeries, since model.Time) bool {
	return slices.ContainsFunc(all, func(one rawSeries) bool {
		first := slices.IndexFunc(one.values, func(v model.SamplePair) bool { return v.Timestamp >= since })
		return first >= 0 && len(one.values) > first+1
	})
}
