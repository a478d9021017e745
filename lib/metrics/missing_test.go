package metrics

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// What is missing is said with what there was instead, and with the likely cause where Prometheus
// has something that tells it.
func TestTextOfWhatIsMissing(t *testing.T) {
	t.Parallel()
	stable := requests("shop-primary", "200", "a", at(17, 0, 7, 30))
	atPods := requests(
		"shop-primary", "200", "c", at(17, 0, 7, 30), "reporter", "destination", "destination_workload", "shop-primary")
	idle := requests("shop", "200", "d", at(17, 5, 7, 5), "reporter", "destination", "destination_workload", "shop")
	up := func(arm, up string) map[string]string { return map[string]string{"is": arm, "=": up} }
	outside := map[string]string{"is": "outside", "=": "29.6"}
	const unscraped = "no series: stable got 30 requests, and no proxy counts any of shop"
	const unmeshed = "; likely cause: traffic enters outside the mesh: about 30 requests of stable are of callers " +
		"without a sidecar, which follow no weight"
	for _, c := range []struct {
		desc   string
		series []series
		beside []map[string]string
		want   string
	}{
		{"the candidate got none of callers with a sidecar", []series{stable}, []map[string]string{outside},
			"no requests: stable got 30 and the candidate none"},
		{"all gave up", []series{stable, requests("shop-canary", "0", "a", at(17, 0, 7, 10))}, nil,
			"none answered: the callers of 10 gave up"},
		{"nobody asks", []series{requests("shop-primary", "200", "a", at(17, 30, 7, 30))}, nil,
			"no requests: neither stable nor the candidate got any"},
		{"nobody asks but from outside", []series{requests("shop-primary", "200", "a", at(17, 30, 7, 30))},
			[]map[string]string{outside}, "no requests: neither stable nor the candidate got any" + unmeshed},
		{"one scrape", []series{
			requests("shop", "200", "d", at(3, 30), "reporter", "destination", "destination_workload", "shop")}, nil,
			"no scrape but one since the candidate got its weight"},
		{"the candidate is counted by nobody", []series{atPods}, nil,
			unscraped + ": it got none, or its pods have no sidecar that is scraped"},
		{"both are scraped", []series{atPods}, []map[string]string{up("stable", "1"), up("candidate", "1")},
			unscraped + ": it got none, or its pods have no sidecar that is scraped"},
		{"the candidate is not scraped", []series{atPods}, []map[string]string{up("stable", "1"), outside},
			unscraped + "; likely cause: Prometheus scrapes the pods of shop-primary, and none of shop"},
		{"scraping it fails", []series{atPods}, []map[string]string{up("candidate", "0")},
			unscraped + "; likely cause: scraping the pods of shop fails"},
		{"neither is known to be scraped", []series{atPods}, []map[string]string{up("stable", "0")},
			unscraped + ": it got none, or its pods have no sidecar that is scraped"},
		{"traffic from outside", []series{atPods}, []map[string]string{outside}, unscraped + unmeshed},
		{"traffic from outside, and the candidate is counted", []series{atPods, idle}, []map[string]string{outside},
			"no requests: stable got 30 and the candidate none" + unmeshed},
		{"others of the namespace", []series{{map[string]string{"__name__": "another"}, at(7, 1)}},
			[]map[string]string{
				{"is": "workload", "destination_workload": "queue", "=": "2"},
				{"is": "workload", "destination_workload": "cart", "=": "1"}},
			"no series: Prometheus has 1 series of istio_requests_total, none of shop-primary or shop in namespace " +
				"web; likely cause: another name, labels that do not match, or pods without a sidecar: the " +
				"namespace has series of cart, queue"},
		{"none of the namespace", []series{{map[string]string{"__name__": "another"}, at(7, 1)}}, nil,
			"no series: Prometheus has 1 series of istio_requests_total, none of shop-primary or shop in namespace " +
				"web; likely cause: the namespace is not labelled for injection, its pods were not started again " +
				"since, or they are not scraped"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			if got, err := look(t, &prometheus{series: c.series, beside: c.beside}); err != nil || got.Text != c.want {
				t.Errorf("%q, %v\nwant %q", got.Text, err, c.want)
			}
		})
	}
}

// What was counted is not lost where the likely cause is not known; where nothing was, it is the
// query that failed.
func TestCauseThatIsNotKnown(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc   string
		series []series
		want   counts.Missing
	}{
		{"something was counted",
			[]series{requests(
				"shop-primary", "200", "c", at(17, 0, 12, 20, 7, 30), "reporter", "destination", "destination_workload",
				"shop-primary")}, counts.NoSeries},
		{"nothing was", nil, ""},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			p := &prometheus{series: c.series, now: time.Now()}
			p.fail = func(w http.ResponseWriter) bool {
				if strings.HasPrefix(p.queries[len(p.queries)-1], "label_replace(") {
					w.WriteHeader(http.StatusUnprocessableEntity)
					return true
				}
				return false
			}
			got, err := look(t, p)
			if got.Missing != c.want || (err != nil) != (c.want == "") || len(got.Strata) != 2*len(c.series) {
				t.Errorf("%q, %v, %d strata", got.Text, err, len(got.Strata))
			}
		})
	}
}
