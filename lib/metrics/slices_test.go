package metrics

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// rising is a counter that is scraped every so many seconds, from one time to another, in seconds
// before now.
func rising(from, to, every, by float64) map[float64]float64 {
	points := map[float64]float64{}
	for ago, n := from, 0.0; ago >= to; ago, n = ago-every, n+by {
		points[ago] = n
	}
	return points
}

// catchUp looks until there is no more, and returns the last window with the strata of all.
func catchUp(t *testing.T, o *Observer) counts.Window {
	t.Helper()
	var strata []counts.Stratum
	for looks := 0; ; looks++ {
		w, err := o.Look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if strata = append(strata, w.Strata...); !w.More {
			w.Strata, w.Series = strata, 0 // which are those of the last look
			return w
		}
		if looks > 1000 {
			t.Fatal("it never ends")
		}
	}
}

// What is read in slices is what is read at once: no scrape is lost or counted twice at a cut.
func TestSlices(t *testing.T) {
	t.Parallel()
	again := rising(600, 0, 5, 10) // a counter that begins anew in the middle
	for ago := range again {
		if ago < 300 {
			again[ago] -= 500
		}
	}
	atPods := func(arm, instance string, points map[float64]float64) series {
		return requests("x", "200", instance, points, "reporter", "destination", "destination_workload", arm)
	}
	for _, c := range []struct {
		desc   string
		series []series
	}{
		{"callers", []series{
			requests("shop-primary", "200", "a", again), requests("shop-canary", "200", "a", rising(600, 0, 5, 7)),
			requests("shop-canary", "503", "a", rising(330, 0, 5, 1)),
			requests("shop-primary", "200", "b", rising(597, 100, 5, 3)),
			requests("shop-canary", "200", "c", rising(201, 0, 5, 2))}},
		{"seldom scraped",
			[]series{requests("shop-primary", "200", "a", rising(590, 0, 60, 100)),
				requests("shop-canary", "200", "a", rising(590, 0, 60, 10))}},
		{"an application that is young",
			[]series{requests("shop-primary", "200", "a", rising(95, 0, 5, 100)),
				requests("shop-canary", "200", "a", rising(95, 0, 5, 10))}},
		{"callers that are young, and workloads that are not",
			[]series{requests("shop-primary", "200", "a", rising(95, 0, 5, 100)),
				atPods("shop-primary", "p", rising(600, 0, 5, 20))}},
		{"workloads", []series{
			atPods("shop-primary", "p", again), atPods("shop", "q", rising(598, 0, 5, 7)),
			atPods("shop", "r", rising(303, 0, 5, 5))}},
		{"a break of Prometheus", []series{requests("shop-canary", "200", "a", func() map[float64]float64 {
			points := rising(600, 400, 5, 1)
			for ago, n := range rising(100, 0, 5, 1) {
				points[ago] = n + 1000
			}
			return points
		}())}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			p := &prometheus{now: time.Now().Truncate(time.Second), series: c.series}
			client := start(t, p)
			observe := func(most float64) (counts.Window, int) {
				p.queries = nil
				o := client.Observe(target, p.now.Add(-600*time.Second))
				o.most = most
				return catchUp(t, o), len(p.queries)
			}
			want, few := observe(1e9)
			got, many := observe(10)
			approximately := cmpopts.EquateApprox(0, 1e-9)
			if diff := cmp.Diff(want, got, approximately, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-at once, +in slices)\n%s", diff)
			}
			if want.Stable.Requests+want.Candidate.Requests == 0 || few > 4 || c.desc == "callers" && many < 10 {
				t.Errorf("%d queries at once and %d in slices, %+v", few, many, want)
			}
		})
	}
}

var ranges = regexp.MustCompile(`\[([0-9a-z]+)\]$`)

// An answer that is too large is asked for in smaller ones.
func TestAnswerTooLarge(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc    string
		since   time.Duration
		most    time.Duration // from which on an answer is too large
		missing counts.Missing
		text    string
	}{
		{"some", 600 * time.Second, 200 * time.Second, "", ""},
		{"all", 150 * time.Second, 0, counts.TooManySeries,
			"not evaluated: 2 series: what they have in 38s is more than 32 MiB; let the proxies tell less apart"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			p := &prometheus{now: time.Now().Truncate(time.Second),
				series: []series{requests("shop-canary", "200", "a", rising(600, 0, 5, 7)),
					requests("shop-primary", "200", "a", rising(600, 0, 5, 7))}}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if m := ranges.FindStringSubmatch(r.FormValue("query")); m != nil {
					if asked, err := time.ParseDuration(m[1]); err != nil || asked > c.most {
						_, _ = io.WriteString(w, matrix)
						_, _ = io.Copy(w, io.LimitReader(endless{}, maxSamplesBody))
						return
					}
				}
				p.ServeHTTP(w, r)
			}))
			t.Cleanup(server.Close)
			client, err := New(server.URL, "")
			if err != nil {
				t.Fatal(err)
			}
			w := catchUp(t, client.Observe(target, p.now.Add(-c.since)))
			if w.Missing != c.missing || !strings.HasPrefix(w.Text, c.text) || c.missing == "" &&
				(w.Candidate.Requests != 840 || w.Scrapes != 121) {
				t.Errorf("%q %s: %v requests in %d scrapes", w.Missing, w.Text, w.Candidate.Requests, w.Scrapes)
			}
		})
	}
}

// How many series there are is asked before they are, and once they were too many, so that an
// answer that is thrown away is fetched once.
func TestTooManySeriesAreNotFetched(t *testing.T) {
	t.Parallel()
	p := &prometheus{now: time.Now()}
	for i := range maxSeries + 2 {
		p.series = append(
			p.series, requests("shop-canary", "200", "a", at(17, 0, 7, 1), "source_workload", fmt.Sprint(i)))
	}
	client := start(t, p)
	fetched := func() (n int) {
		for _, query := range p.queries {
			if ranges.MatchString(query) {
				n++
			}
		}
		return n
	}
	const want = "not evaluated: 10002 series, and at most 10000 are; let the proxies tell less apart"
	for _, c := range []struct {
		since time.Duration
		looks int
		most  int
	}{{600 * time.Second, 1, 0}, {20 * time.Second, 3, 1}} {
		p.queries = nil
		o := client.Observe(target, p.now.Add(-c.since))
		for range c.looks {
			w, err := o.Look(t.Context())
			if err != nil || w.Missing != counts.TooManySeries || !strings.HasPrefix(w.Text, want) || w.More {
				t.Errorf("%+v, %v", w, err)
			}
		}
		if n := fetched(); n != c.most {
			t.Errorf("since %s: fetched %d times, want %d", c.since, n, c.most)
		}
		if c.most == 1 { // some are gone
			p.series = p.series[:100]
			if w, err := o.Look(t.Context()); err != nil || w.Candidate.Requests != 100 {
				t.Errorf("%+v, %v", w, err)
			}
		}
	}
}
