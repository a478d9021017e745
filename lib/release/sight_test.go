package release

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/metrics"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// What the present traffic says is wrong is in one report with what else is.
func TestSightIsPartOfTheReport(t *testing.T) {
	t.Parallel()
	prometheus := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		result, kind := "[]", "matrix"
		switch query := r.FormValue("query"); {
		case query == "vector(1)":
			result, kind = `[{"metric":{},"value":[1,"1"]}]`, "vector"
		case strings.Contains(query, `"source|waypoint"`):
			var values []string
			for i := range 20 { // every 30 s
				values = append(values, fmt.Sprintf(`[%d,"%d"]`, time.Now().Add(time.Duration(i-20)*30*time.Second).Unix(), 100*i))
			}
			result = `[{"metric":{"__name__":"istio_requests_total","reporter":"source","response_code":"200","destination_workload":"shop-primary",` +
				`"destination_workload_namespace":"web","destination_service_name":"shop-primary","destination_service_namespace":"web"},"values":[` + strings.Join(values, ",") + "]}]"
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":%q,"result":%s}}`, kind, result)
	}))
	t.Cleanup(prometheus.Close)
	a := afterInit(t)
	a.apply(shop("2"))
	cfg := testConfig("run-2")
	cfg.Port, cfg.Prometheus = "8443", prometheus.URL
	err := a.initWith(cfg)
	for _, want := range []string{"2 mistakes", `port is "8443"`, `interval is "10s": Prometheus scrapes every 30s: give at least two scrapes, 1m0s`} {
		wantCode(t, err, report.Misconfig, want)
	}
}

// An interval needs two scrapes, and is better with four; that a scrape is a little late is no matter.
func TestScrapesOfAnInterval(t *testing.T) {
	t.Parallel()
	cfg := testConfig("run") // 10 s
	for scrape, want := range map[time.Duration]string{
		time.Second: "", 2500 * time.Millisecond: "better is 12s", 5 * time.Second: "better is 20s", 5300 * time.Millisecond: "better is 20s", 0: "",
		6 * time.Second: "give at least two scrapes, 12s", 30 * time.Second: "give at least two scrapes, 1m0s", 15002 * time.Millisecond: "give at least two scrapes, 30s, and better four",
	} {
		_, lines, problems := Sight(cfg, metrics.Window{Interval: scrape}, time.Minute)
		got := strings.Join(lines, "\n")
		if len(problems) > 0 {
			got += problems.Error()
		}
		if !strings.Contains(got, want) || want == "" && strings.Contains(got, "scrapes") || strings.Contains(want, "give") != (len(problems) > 0) {
			t.Errorf("scraped every %s: %q, not %q", scrape, got, want)
		}
	}
}
