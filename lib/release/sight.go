package release

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis"
	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/metrics"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// Stable's present traffic is looked at for so long before a release: longer where the first did
// not bring enough scrapes to tell how bursty errors are. With more series than manySeries the
// answer would be too large.
const (
	shortHistory = 10 * time.Minute
	longHistory  = time.Hour
	enoughStrata = 120
)

// prometheus returns a client of the Prometheus of a release. Credentials are sent to no address
// but one that the platform names; where there are none now, none are read later.
func (r *Release) prometheus(cfg *config.Config) (*metrics.Client, error) {
	has, err := metrics.HasCredentials(r.PrometheusConfig)
	if err != nil {
		return nil, err
	}
	address, err := r.Step.Address(cfg.Prometheus, has)
	if err != nil {
		return nil, err
	}
	if !has {
		return metrics.New(address, "")
	}
	return metrics.New(address, r.PrometheusConfig)
}

// atOdds returns an error of prometheus with what to do about a record whose address is not the one
// that this step's credentials are for.
func (s *snapshot) atOdds(err error) error {
	if !errors.Is(err, config.ErrForeign) {
		return err
	}
	return report.Errorf(
		report.Undecided, "ConfigMap %s: %v. Give this step prometheus and allow as canary-init has them; if it "+
			"has them so, somebody changed the record", s.layout.Record(), err)
}

// measured is whose requests are counted.
func (r *Release) measured(s *snapshot) metrics.Target {
	return metrics.Target{Namespace: r.Client.Namespace,
		Stable:    metrics.Arm{Workload: s.layout.Primary(), Service: s.layout.PrimaryService()},
		Candidate: metrics.Arm{Workload: s.layout.Target, Service: s.layout.CanaryService()}}
}

// limitsOf are what a candidate must keep.
func limitsOf(cfg *config.Config) analysis.Limits {
	return analysis.Limits{SuccessRate: cfg.SuccessRate, RequestDuration: cfg.RequestDuration.Duration}
}

// planOf is the plan of the sequential test of a release.
func planOf(cfg *config.Config, objectives []analysis.Objective) analysis.Plan {
	return analysis.Plan{
		Objectives: objectives, Alpha: cfg.Alpha, Intervals: analysis.Intervals(len(cfg.Weights), cfg.Threshold),
		Primary: cfg.Baseline == "primary"}
}

// history is what stable did before the release.
func (r *Release) history(ctx context.Context, s *snapshot) (
	w counts.Window, h *analysis.History, span time.Duration, err error) {
	h = &analysis.History{Limits: limitsOf(r.Config)}
	client, err := r.prometheus(r.Config)
	if err != nil {
		return w, h, 0, err
	}
	for _, span = range []time.Duration{shortHistory, longHistory} {
		h = &analysis.History{Limits: limitsOf(r.Config)}
		observer := client.Observe(r.measured(s), time.Now().Add(-span))
		for more := true; more && err == nil; more = w.More {
			w, err = observer.Look(ctx)
			h.Add(w.Strata)
		}
		if err != nil || h.Strata >= enoughStrata || w.Series > manySeries {
			break
		}
	}
	return w, h, span, err
}

const manySeries = 1000

// judging are the parameters that Sight needs right.
var judging = []string{
	"target", "namespace", "prometheus", "interval", "threshold", "stepWeight", "stepWeights", "maxWeight",
	"requestSuccessRate", "requestDuration", "alpha", "baseline"}

// sight is Sight of what stable answers at present.
func (r *Release) sight(ctx context.Context, s *snapshot) (lines []string, problems config.Problems) {
	w, h, span, err := r.history(ctx, s)
	r.objectives, lines, problems = Sight(r.Config, w, h, span)
	if err != nil { // what it says would be of nothing
		lines = []string{fmt.Sprintf("sight: warning: what stable answers at present could not be read: %v", err)}
	}
	return lines, problems
}

// Sight says what a configuration can see of stable's present traffic, and fixes what the
// sequential test takes from it. w is what stable answered within the last span, and h its strata.
// Problems are why nothing could ever be judged so.
func Sight(cfg *config.Config, w counts.Window, h *analysis.History, span time.Duration) (
	[]analysis.Objective, []string, config.Problems) {
	objectives, err := h.Objectives()
	if err != nil {
		return nil, nil, config.Problems{
			{Parameter: "requestSuccessRate", Value: fmt.Sprint(cfg.SuccessRate), Remedy: err.Error()}}
	}
	lines, problems := sightOfScrapes(cfg, w.Interval)
	if len(problems) > 0 {
		return nil, nil, problems
	}
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	seconds := w.To.Sub(w.From).Seconds()
	switch {
	case w.Missing == counts.TooManySeries:
		say("sight: warning: %s. As it is, requests cannot be judged, and the release ends inconclusive", w.Text)
		return objectives, lines, nil
	case w.Stable.Requests == 0 || seconds <= 0:
		say("sight: stable answered no requests in the last %s: without any the candidate cannot be judged, and the "+
			"release ends inconclusive", span)
		return objectives, lines, nil
	}
	rate := w.Stable.Requests / seconds
	say("sight: stable answers %.3g requests/s (over %s, counted at the %s, scraped every %s)", rate,
		w.To.Sub(w.From).Round(time.Second), sideOf(w.Reporter), w.Interval)
	requests, ofWeights := sightOfWeights(cfg, planOf(cfg, objectives), rate)
	lines = append(lines, ofWeights...)
	ofObjectives, problems := sightOfObjectives(cfg, objectives, w.Stable, requests)
	if len(problems) > 0 {
		return nil, nil, problems
	}
	lines = append(lines, ofObjectives...)
	if few := requests[0]; few < analysis.MinRequests {
		say("sight: warning: at %d %% a check of %s has fewer than %d requests: it is extended until there "+
			"are enough, at most to %s", cfg.Weights[0], cfg.Interval, analysis.MinRequests,
			time.Duration(cfg.Threshold)*cfg.Interval.Duration)
	}
	return objectives, lines, nil
}

// sightOfScrapes says what an interval sees of scrapes that are so far apart.
func sightOfScrapes(cfg *config.Config, scrape time.Duration) (lines []string, problems config.Problems) {
	if scrape >= time.Second {
		scrape = scrape.Round(time.Second) // scrapes are a little late now and then
	}
	if cfg.Interval.Duration < 2*scrape {
		return nil, config.Problems{{Parameter: "interval", Value: cfg.Interval.String(), Remedy: fmt.Sprintf(
			"Prometheus scrapes every %s: give at least two scrapes, %s, and better four", scrape, 2*scrape)}}
	}
	if cfg.Interval.Duration < 4*scrape {
		lines = append(lines, fmt.Sprintf("warning: interval=%s has fewer than four scrapes, which are every %s: a "+
			"burst weighs more than it should; better is %s", cfg.Interval, scrape, 4*scrape))
	}
	if cfg.SuccessRate == 100 {
		lines = append(lines, "warning: requestSuccessRate=100 makes one failed request proof, and a failed check")
	}
	return lines, nil
}

// sightOfWeights says how many requests the candidate gets at each weight, and what they show.
func sightOfWeights(cfg *config.Config, plan analysis.Plan, rate float64) (requests []float64, lines []string) {
	total := 0.0
	for _, weight := range cfg.Weights {
		n := math.Floor(rate * float64(weight) / 100 * cfg.Interval.Seconds())
		requests, total = append(requests, n), total+n
		lines = append(lines, fmt.Sprintf("sight: %d %%: %.0f requests in %s: %s", weight, n, cfg.Interval,
			sightOf(plan, n)))
	}
	if len(requests) > 1 {
		lines = append(lines, fmt.Sprintf("sight: over the release: %.0f requests: %s", total, sightOf(plan, total)))
	}
	return requests, lines
}

// sightOfObjectives says how near stable is to each limit, and how often a candidate like it would
// be rejected.
func sightOfObjectives(cfg *config.Config, objectives []analysis.Objective, answered counts.Counts,
	requests []float64) (lines []string, problems config.Problems) {
	for _, o := range objectives {
		how := fmt.Sprintf("dispersion %.3g", o.Phi)
		if !o.Estimated {
			how += ", assumed: there is too little history to measure it"
		}
		stable, err := o.Count(answered)
		if err != nil && len(answered.Within) > 0 {
			return nil, config.Problems{
				{Parameter: "requestDuration", Value: cfg.RequestDuration.String(), Remedy: err.Error()}}
		}
		if err != nil {
			lines = append(lines, fmt.Sprintf("sight: warning: %s: %v", o.Name, err))
			continue
		}
		low, high := analysis.Wilson(stable.Events, stable.Requests, 0.05)
		lines = append(lines, fmt.Sprintf("sight: %s: of stable's requests %.3g %% are beyond the limit (95 %% "+
			"interval %.2g to %.2g), at most %.3g %% may; a candidate like it is rejected by the checks with "+
			"probability %.2g, and early with at most %v; %s", o.Name, 100*stable.Rate(), 100*low, 100*high,
			100*o.MaxRate, analysis.CheckRejects(requests, cfg.Threshold, o.MaxRate, stable.Rate()), cfg.Alpha, how))
	}
	return lines, nil
}

// sightOf says which share of events is found with so many requests.
func sightOf(plan analysis.Plan, n float64) string {
	var parts []string
	for _, o := range plan.Objectives {
		what := "failing"
		if o.Limit > 0 {
			what = "slower than " + o.Limit.String()
		}
		if s := plan.Sight(o, n); math.IsInf(s.Events, 1) {
			parts = append(parts, "nothing is found early of requests "+what)
		} else {
			parts = append(parts, fmt.Sprintf("from %.2g %% %s", 100*s.Rate, what))
		}
	}
	if len(parts) == 0 {
		return "only the checks judge"
	}
	return "found with probability .8: " + strings.Join(parts, ", ")
}

func sideOf(reporter string) string {
	if reporter == "destination" {
		return "workloads"
	}
	return "callers"
}

// render fills in, parses and asks custom queries: before anything is changed, they are known
// to be PromQL that gives one number, if any.
func (r *Release) render(ctx context.Context) config.Problems {
	var problems config.Problems
	for _, m := range r.Config.Metrics {
		wrong := func(remedy string, args ...any) {
			problems = append(
				problems, config.Problem{Parameter: "metrics", Value: m.Name, Remedy: fmt.Sprintf(remedy, args...)})
		}
		query, reach, err := ownQuery(r.Config, m)
		if err != nil {
			wrong("%v: %s", err, query)
			continue
		}
		if longest := time.Duration(r.Config.Threshold) * r.Config.Interval.Duration; reach > longest {
			wrong("its query looks %s back, and a weight lasts at most %s: give it a shorter "+
				"range, or a longer interval", reach, longest)
		}
		client, err := r.prometheus(r.Config)
		if err != nil {
			continue // the address is named already
		}
		if _, err := client.Value(ctx, query); errors.Is(err, metrics.ErrSeveralSeries) {
			wrong("%v: add them up, sum(...), or choose one", err)
		}
	}
	return problems
}

// ownQuery is a query of people's own, and how far back it looks.
func ownQuery(cfg *config.Config, m config.Metric) (query string, reach time.Duration, err error) {
	query, err = metrics.Render(
		m.Query, metrics.Values{Namespace: cfg.Namespace, Target: cfg.Target, Service: cfg.Service, Ingress: cfg.Target,
			Route: cfg.Target, Interval: m.Every(), Variables: m.TemplateVariables})
	if err != nil {
		return m.Query, 0, err
	}
	reach, err = metrics.Reach(query)
	return query, reach, err
}
