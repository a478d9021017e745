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
)

// The metrics of Istio's proxies that are counted.
const (
	requestsMetric     = "istio_requests_total"
	durationsMetric    = "istio_request_duration_milliseconds_bucket"
	oldDurationsMetric = "istio_request_duration_seconds_bucket" // before Istio 1.5
	histogramsMetric   = "istio_request_duration_milliseconds"   // where Prometheus keeps native histograms
)

// maxSeries is how many series are looked at; with more the answer would be too large.
const maxSeries = 10000

// lag is how long after its time a scrape may appear in Prometheus: what is so young is fetched again.
const lag = 10 * time.Second

// Observer counts the requests of a target since a moment. Each look asks for new scrapes only. It is for one goroutine.
type Observer struct {
	client *Client
	target Target
	state  State
	decoder
}

// Observe begins to count requests that end after a moment: the first scrape at or after it is what increases are counted from.
func (c *Client) Observe(t Target, since time.Time) *Observer {
	return c.Resume(t, State{Since: since})
}

// Resume goes on with an observation where another Observer of the same target was.
func (c *Client) Resume(t Target, s State) *Observer {
	return &Observer{client: c, target: t, state: s.clone()}
}

// State is what Resume needs to go on from here.
func (o *Observer) State() State { return o.state.clone() }

// side is how series are found: at the callers, by the Service they asked for, or at the workloads.
type side struct{ reporters, stable, candidate, label, namespace string }

func (s side) workloads() bool { return s.namespace != "" }

// sides are the two places where requests are counted. The callers' is better: it has the requests that never reached a pod, and both versions at
// the same moments. They are never added up. Callers are asked for destination_service, which is the only label that has the destination when no
// pod of it could be chosen.
func (o *Observer) sides() []side {
	host := func(service string) string { return service + "." + o.target.Namespace + ".svc." }
	return []side{
		{"source|waypoint", host(o.target.Stable.Service), host(o.target.Candidate.Service), "destination_service", ""},
		{"destination", o.target.Stable.Workload, o.target.Candidate.Workload, "destination_workload", o.target.Namespace},
	}
}

// selector is the series of both versions, which one query gives as of the same moment: what one scrape brought is in it whole or not at all. Names
// are escaped: they match as they are.
func (s side) selector(names ...string) string {
	tail := ""
	if !s.workloads() { // the cluster's domain follows
		tail = ".+"
	}
	value := regexp.QuoteMeta(s.stable) + tail + "|" + regexp.QuoteMeta(s.candidate) + tail
	text := fmt.Sprintf("{__name__=~%q,reporter=~%q,%s=~%s", strings.Join(names, "|"), s.reporters, s.label, strconv.Quote(value))
	if s.workloads() {
		text += ",destination_workload_namespace=" + strconv.Quote(s.namespace)
	}
	return text + "}"
}

// stables tells whether requests to a destination, the value of the side's label, are stable's. Nothing was asked for but stable's and the candidate's.
func (s side) stables(destination string) bool {
	return destination == s.stable || !s.workloads() && strings.HasPrefix(destination, s.stable)
}

// of returns the counts of a series' version: one of both.
func (s side) of(l *labels, stable, candidate *Counts) *Counts {
	destination := l.service
	if s.workloads() {
		destination = l.workload
	}
	if s.stables(destination) {
		return stable
	}
	return candidate
}

// Look fetches what was scraped since the last look and returns all that was counted since the observation began. An error is Prometheus',
// and is ErrQuery.
func (o *Observer) Look(ctx context.Context) (Window, error) {
	now := time.Now()
	var strata []Stratum
	looked := 0
	for _, s := range o.sides() {
		if o.state.Reporter != "" && o.state.Reporter != s.reporters {
			continue
		}
		series, err := o.fetch(ctx, s.selector(requestsMetric, durationsMetric, oldDurationsMetric, histogramsMetric), now)
		if err != nil {
			return Window{}, err
		}
		if len(series) == 0 {
			continue
		}
		if o.state.Reporter == "" && s.workloads() && !twice(series, model.TimeFromUnixNano(o.state.Since.UnixNano())) {
			return Window{Missing: NoScrape, Text: "no scrape but one since the candidate got its weight"}, nil
		}
		if len(series) > maxSeries {
			return Window{Missing: TooManySeries, Text: fmt.Sprintf("not evaluated: more than %d series", maxSeries)}, nil
		}
		o.state.Reporter, looked = s.reporters, len(series)
		strata = o.state.add(series, s)
		break
	}
	w := Window{From: o.state.From, To: o.state.To, Scrapes: o.state.Scrapes, Reporter: o.state.Reporter, Series: looked, Interval: o.state.interval(),
		Stable: o.state.Stable.clone(), Candidate: o.state.Candidate.clone(), Strata: strata}
	return w, o.whatIsMissing(ctx, &w, now)
}

// fetch returns the raw samples since the last look. More than maxSeries are not all of them.
func (o *Observer) fetch(ctx context.Context, selector string, now time.Time) ([]rawSeries, error) {
	from := o.state.Since
	if young := o.state.To.Add(-max(lag, o.state.interval()*3/2)); young.After(from) {
		from = young
	}
	span := model.Duration(max(0, now.Sub(from)).Truncate(time.Second) + time.Second)
	a := answer{decoder: &o.decoder}
	v, err := o.client.query(into(ctx, &a), selector+"["+span.String()+"]", now, v1.WithLimit(maxSeries+1))
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

// twice says that something was scraped twice since a moment: by then the callers' proxies would have been, too. Only then the workloads' side is settled for.
func twice(all []rawSeries, since model.Time) bool {
	return slices.ContainsFunc(all, func(one rawSeries) bool {
		first := slices.IndexFunc(one.values, func(v model.SamplePair) bool { return v.Timestamp >= since })
		return first >= 0 && len(one.values) > first+1
	})
}
