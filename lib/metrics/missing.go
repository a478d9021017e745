package metrics

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// whatIsMissing finds out why the candidate has no requests. Only where the counts do not tell is
// Prometheus asked once more, for what else it has.
func (o *Observer) whatIsMissing(ctx context.Context, w *counts.Window, now time.Time) error {
	switch {
	case w.Candidate.Requests > 0:
		return nil
	case w.Candidate.Aborted > 0:
		w.Missing, w.Text = counts.NoneAnswered,
			fmt.Sprintf("none answered: the callers of %.0f gave up", w.Candidate.Aborted)
		return nil
	case w.Stable.Requests > 0 && w.Reporter != "destination":
		// They came through proxies: the share by caller tells more.
		w.Missing, w.Text = counts.NoRequests,
			fmt.Sprintf("no requests: stable got %.0f and the candidate none", w.Stable.Requests)
		return nil
	}
	has, err := o.lookBeside(ctx, now)
	if err != nil && w.Scrapes == 0 {
		return err // otherwise only the cause is lost, and the counts must not be
	}
	candidate, cause := o.target.Candidate.Workload, ""
	switch {
	case w.Stable.Requests > 0 && !o.state.Sighted:
		w.Missing, w.Text = counts.NoSeries,
			fmt.Sprintf("no series: stable got %.0f requests, and no proxy counts any of %s", w.Stable.Requests,
				candidate)
		cause = cmp.Or(o.unscraped(has), has.fromOutside())
		w.Text += cmp.Or(cause, ": it got none, or its pods have no sidecar that is scraped")
		return nil
	case w.Stable.Requests > 0:
		w.Missing, w.Text = counts.NoRequests,
			fmt.Sprintf("no requests: stable got %.0f and the candidate none", w.Stable.Requests)
		cause = has.fromOutside()
	case w.Scrapes > 0:
		w.Missing, w.Text = counts.NoRequests, "no requests: neither stable nor the candidate got any"
		cause = has.fromOutside()
	case has.series > 0:
		w.Missing, w.Text = counts.NoSeries,
			fmt.Sprintf("no series: Prometheus has %.0f series of %s, none of %s or %s in namespace %s", has.series,
				requestsMetric, o.target.Stable.Workload, candidate, o.target.Namespace)
		cause = likely("the namespace is not labelled for injection, its pods were not started again since, " +
			"or they are not scraped")
		if len(has.workloads) > 0 {
			cause = likely("another name, labels that do not match, or pods without a sidecar: the " +
				"namespace has series of " + strings.Join(has.workloads, ", "))
		}
	default:
		w.Missing, w.Text = counts.NoScrape,
			fmt.Sprintf("no scrape: Prometheus has no %s scraped since %s; are the proxies scraped?", requestsMetric,
				o.state.Since.UTC().Format(time.TimeOnly))
	}
	w.Text += cause
	return nil
}

// likely formats a likely cause.
func likely(cause string) string { return "; likely cause: " + cause }

// beside is what else Prometheus has since the observation began, besides what is counted.
type beside struct {
	series    float64  // of all requests
	outside   float64  // requests of stable from callers without a sidecar
	workloads []string // of the namespace that have series, at most three
	// up is, for stable and candidate, where Prometheus has a target of their pods: 1 if one is
	// scraped, 0 if scraping fails.
	up map[string]float64
}

// fromOutside returns the likely cause where requests did not come through a proxy. Such a caller
// finds the pods by the Service, and these are stable's.
func (b beside) fromOutside() string {
	if b.outside <= 0 {
		return ""
	}
	return likely(fmt.Sprintf(
		"traffic enters outside the mesh: about %.0f requests of stable are of callers without a "+
			"sidecar, which follow no weight", b.outside))
}

// unscraped returns the likely cause where stable's pods are scraped and the candidate's are not.
func (o *Observer) unscraped(b beside) string {
	stable, candidate := o.target.Stable.Workload, o.target.Candidate.Workload
	switch up, found := b.up["candidate"]; {
	case found && up == 0:
		return likely(fmt.Sprintf("scraping the pods of %s fails", candidate))
	case !found && b.up["stable"] > 0:
		return likely(fmt.Sprintf("Prometheus scrapes the pods of %s, and none of %s", stable, candidate))
	}
	return ""
}

// lookBeside asks, in one query, for everything that a likely cause is found by. Names are escaped.
// A Deployment's pods are known by their names, where the scrape configuration keeps them.
func (o *Observer) lookBeside(ctx context.Context, now time.Time) (b beside, err error) {
	since, namespace, stable := o.state.Since, strconv.Quote(o.target.Namespace), o.target.Stable.Workload
	within := span(since, now)
	var parts []string
	part := func(is, format string, args ...any) {
		parts = append(parts, fmt.Sprintf(`label_replace(%s, "is", %q, "", "")`, fmt.Sprintf(format, args...), is))
	}
	part("series", "count(timestamp(%s) >= %d)", requestsMetric, since.Unix())
	part("outside", `sum(increase(%s{reporter="destination",destination_workload=%q,`+
		`destination_workload_namespace=%s,source_workload="unknown"}[%s]))`, requestsMetric, stable, namespace, within)
	part("workload", `topk(3, count by (destination_workload) (timestamp(%s{destination_workload_namespace=%s,`+
		`destination_workload!~"|unknown"}) >= %d))`, requestsMetric, namespace, since.Unix())
	up := func(workload string) string {
		return fmt.Sprintf(
			"max(up{namespace=%s,pod=~%q})", namespace, regexp.QuoteMeta(workload)+"-[a-z0-9]+-[a-z0-9]+")
	}
	part("stable", "%s", up(stable))
	part("candidate", "%s", up(o.target.Candidate.Workload))
	v, err := o.client.query(ctx, strings.Join(parts, " or "), now)
	if err != nil {
		return b, err
	}
	vector, ok := v.(model.Vector)
	if !ok {
		return b, fmt.Errorf("%w: Prometheus at %s answered with a %s", ErrQuery, o.client.address, v.Type())
	}
	b.up = map[string]float64{}
	for _, one := range vector {
		switch is := string(one.Metric["is"]); is {
		case "series":
			b.series = float64(one.Value)
		case "outside":
			b.outside = float64(one.Value)
		case "workload":
			b.workloads = append(b.workloads, string(one.Metric["destination_workload"]))
		default:
			b.up[is] = float64(one.Value)
		}
	}
	slices.Sort(b.workloads)
	return b, nil
}
