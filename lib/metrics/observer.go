package metrics

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
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
	// Within says how many requests took at most so many milliseconds; the bounds are those that the proxies have. The key "+Inf" is all
	// whose duration was measured.
	Within map[string]float64 `json:"within,omitempty"`
}

// Minus are the counts since those of before.
func (c Counts) Minus(before Counts) Counts {
	d := Counts{Requests: c.Requests - before.Requests, Errors: c.Errors - before.Errors, Aborted: c.Aborted - before.Aborted, Within: map[string]float64{}}
	for le, n := range c.Within {
		d.Within[le] = n - before.Within[le]
	}
	return d
}

// Missing is why there is nothing to judge: a closed list.
type Missing string

// What can be missing.
const (
	NoScrape   Missing = "no scrape"   // Prometheus has no scrape of Istio's metrics since the candidate got its weight
	NoSeries   Missing = "no series"   // proxies are scraped, and none counts requests for this workload
	NoRequests Missing = "no requests" // nobody sent a request
)

// Window is what was counted since the observation began.
type Window struct {
	From, To          time.Time // of the first and the last scrape; zero where there is none
	Scrapes           int       // how many different moments
	Reporter          string    // who counted: source, waypoint (the callers' side) or destination
	Stable, Candidate Counts
	Missing           Missing // "" where the candidate has requests
	Text              string  // what is missing, in a sentence
}

// maxSeries is how many series are looked at; with more the answer would be too large.
const maxSeries = 5000

// gRPC statuses that are the server's fault: unknown, deadline exceeded, unimplemented, internal, unavailable, data loss.
var grpcErrors = []string{"2", "4", "12", "13", "14", "15"}

// Observer counts the requests of a target since a moment. Each look asks for new scrapes only.
type Observer struct {
	client *Client
	target Target
	since  time.Time
	side   side
	last   map[model.Fingerprint]model.SamplePair // of each series
	seen   map[string]model.Time                  // first scrape of each target of Prometheus
	times  map[model.Time]bool
	until  time.Time // up to where scrapes were fetched
	window Window
}

// side is how series are found: at the callers, by the Service they asked for, or at the workloads.
type side struct{ reporters, stable, candidate, label, namespace string }

// Observe begins to count requests that end after a moment.
func (c *Client) Observe(t Target, since time.Time) *Observer {
	return &Observer{client: c, target: t, since: since, until: since, last: map[model.Fingerprint]model.SamplePair{}, seen: map[string]model.Time{},
		times: map[model.Time]bool{}, window: Window{Stable: Counts{Within: map[string]float64{}}, Candidate: Counts{Within: map[string]float64{}}}}
}

// sides are the two places where requests are counted. The callers' is better: it has the requests that never reached a pod. They are never
// added up.
func (o *Observer) sides() []side {
	host := func(service string) string { return service + "." + o.target.Namespace + ".svc." }
	return []side{
		{"source|waypoint", host(o.target.Stable.Service), host(o.target.Candidate.Service), "destination_service", ""},
		{"destination", o.target.Stable.Workload, o.target.Candidate.Workload, "destination_workload", o.target.Namespace},
	}
}

// selector is the series of one metric for both versions, which one query gives as of the same moment.
func (s side) selector(metric string) string {
	tail := ""
	if s.namespace == "" { // the cluster's domain follows
		tail = ".+"
	}
	value := regexp.QuoteMeta(s.stable) + tail + "|" + regexp.QuoteMeta(s.candidate) + tail
	text := fmt.Sprintf("%s{reporter=~%q,%s=~%s", metric, s.reporters, s.label, strconv.Quote(value))
	if s.namespace != "" {
		text += ",destination_workload_namespace=" + strconv.Quote(s.namespace)
	}
	return text + "}"
}

// arm tells whose series it is.
func (o *Observer) arm(m model.Metric) *Counts {
	value := string(m[model.LabelName(o.side.label)])
	switch {
	case o.side.namespace == "" && strings.HasPrefix(value, o.side.stable), value == o.side.stable:
		return &o.window.Stable
	case o.side.namespace == "" && strings.HasPrefix(value, o.side.candidate), value == o.side.candidate:
		return &o.window.Candidate
	}
	return &Counts{Within: map[string]float64{}}
}

// Look fetches what was scraped since the last look and returns all that was counted since the observation began. An error is Prometheus',
// and is ErrQuery.
func (o *Observer) Look(ctx context.Context) (Window, error) {
	now := time.Now()
	span := model.Duration(now.Sub(o.until).Truncate(time.Second) + time.Second)
	fetch := func(s side, metric string) (model.Matrix, error) {
		v, err := o.client.query(ctx, s.selector(metric)+"["+span.String()+"]", now)
		if err != nil {
			return nil, err
		}
		matrix, ok := v.(model.Matrix)
		if !ok {
			return nil, fmt.Errorf("%w: Prometheus at %s answered with a %s", ErrQuery, o.client.address, v.Type())
		}
		if len(matrix) > maxSeries {
			return nil, fmt.Errorf("%w: %d series of %s: more than %d are not evaluated", ErrQuery, len(matrix), metric, maxSeries)
		}
		return matrix, nil
	}
	sides := o.sides()
	if o.side != (side{}) {
		sides = []side{o.side}
	}
	for _, s := range sides {
		requests, err := fetch(s, "istio_requests_total")
		if err != nil {
			return Window{}, err
		}
		if len(requests) == 0 {
			continue
		}
		durations, err := fetch(s, "istio_request_duration_milliseconds_bucket")
		if err != nil {
			return Window{}, err
		}
		o.side = s
		o.add(requests, func(m model.Metric, n float64) { o.countRequests(m, n) })
		o.add(durations, func(m model.Metric, n float64) { o.arm(m).Within[string(m["le"])] += n })
		o.until = now
		break
	}
	o.window.Reporter, o.window.Scrapes = o.side.reporters, len(o.times)
	if times := slices.Sorted(maps.Keys(o.times)); len(times) > 0 {
		o.window.From, o.window.To = times[0].Time(), times[len(times)-1].Time()
	}
	w := o.window
	w.Stable.Within, w.Candidate.Within = maps.Clone(w.Stable.Within), maps.Clone(w.Candidate.Within)
	return w, o.whatIsMissing(ctx, &w)
}

// add hands the increase of each series to count.
func (o *Observer) add(matrix model.Matrix, count func(model.Metric, float64)) {
	since := model.TimeFromUnixNano(o.since.UnixNano())
	for _, series := range matrix { // when each target of Prometheus was first scraped
		key := scraped(series.Metric)
		for _, sample := range series.Values {
			if sample.Timestamp >= since {
				o.times[sample.Timestamp] = true
				if first, ok := o.seen[key]; !ok || sample.Timestamp < first {
					o.seen[key] = sample.Timestamp
				}
			}
		}
	}
	for _, series := range matrix {
		id := series.Metric.Fingerprint()
		before, known := o.last[id]
		for _, sample := range series.Values {
			if sample.Timestamp < since || known && sample.Timestamp <= before.Timestamp || math.IsNaN(float64(sample.Value)) {
				continue
			}
			switch {
			case known && sample.Value >= before.Value:
				count(series.Metric, float64(sample.Value-before.Value))
			case known: // the counter began anew
				count(series.Metric, float64(sample.Value))
			case o.seen[scraped(series.Metric)] < sample.Timestamp: // its target was scraped before without it: it is new
				count(series.Metric, float64(sample.Value))
			}
			before, known = sample, true
		}
		if known {
			o.last[id] = before
		}
	}
}

// scraped names the target of Prometheus that a series is from.
func scraped(m model.Metric) string {
	return string(m["job"] + "\x00" + m["instance"] + "\x00" + m["pod"])
}

func (o *Observer) countRequests(m model.Metric, n float64) {
	arm, code, grpc := o.arm(m), string(m["response_code"]), string(m["grpc_response_status"])
	switch {
	case code == "0":
		arm.Aborted += n
		return
	case strings.HasPrefix(code, "5"), slices.Contains(grpcErrors, grpc):
		arm.Errors += n
	}
	arm.Requests += n
}

// whatIsMissing tells apart why the candidate has no requests.
func (o *Observer) whatIsMissing(ctx context.Context, w *Window) error {
	if w.Candidate.Requests > 0 {
		return nil
	}
	if w.Scrapes > 0 {
		w.Missing, w.Text = NoRequests, "no requests: neither stable nor the candidate got any"
		if w.Stable.Requests > 0 {
			w.Text = fmt.Sprintf("no requests: stable got %.0f and the candidate none", w.Stable.Requests)
		}
		if w.Candidate.Aborted > 0 {
			w.Text = fmt.Sprintf("no requests were answered: the callers of %.0f gave up", w.Candidate.Aborted)
		}
		return nil
	}
	v, err := o.client.query(ctx, "count(istio_requests_total) or vector(0)", time.Now())
	if err != nil {
		return err
	}
	vector, _ := v.(model.Vector)
	slices.SortFunc(vector, func(a, b *model.Sample) int { return cmp.Compare(b.Value, a.Value) })
	if len(vector) == 0 || vector[0].Value == 0 {
		w.Missing, w.Text = NoScrape, "no scrape: Prometheus has no istio_requests_total at all; are the proxies scraped?"
		return nil
	}
	w.Missing, w.Text = NoSeries, fmt.Sprintf("no series: Prometheus has %.0f series of istio_requests_total, none of %s or %s in namespace %s; do their pods, or their callers, have a sidecar that is scraped?",
		float64(vector[0].Value), o.target.Stable.Workload, o.target.Candidate.Workload, o.target.Namespace)
	return nil
}
