package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkLook is one look in mid-release, the answer's decoding included: 20 pods and 10 callers, 20 bounds, 720 looks before. Prometheus' answer is made beforehand.
func BenchmarkLook(b *testing.B) {
	const pods, callers, bounds = 20, 10, 20
	for _, c := range []struct {
		reporter string
		proxies  int // that report
		sources  int // that each tells apart
	}{{"source", callers, 1}, {"destination", pods, callers}} {
		b.Run(c.reporter, func(b *testing.B) {
			begin := time.Now().Add(-time.Hour).Truncate(time.Second)
			answer := func(look int) string {
				var out strings.Builder
				out.WriteString(`{"status":"success","data":{"resultType":"matrix","result":[`)
				comma := ""
				series := func(labels string, value int) {
					fmt.Fprintf(&out, `%s{"metric":{%s},"values":[`, comma, labels)
					comma = ","
					for i := range 3 { // what is younger than 10 s before the last scrape
						if i > 0 {
							out.WriteString(",")
						}
						at := begin.Add(time.Duration(look+i) * 5 * time.Second).Unix()
						fmt.Fprintf(&out, `[%d,"%d"]`, at, value*(look+i+1))
					}
					out.WriteString("]}")
				}
				for proxy := range c.proxies {
					for source := range c.sources {
						for arm, workload := range []string{"shop-primary", "shop"} {
							if c.reporter == "destination" && proxy%2 != arm {
								continue
							}
							service := strings.Replace(workload+"-canary", "shop-primary-canary", "shop-primary", 1)
							labels := fmt.Sprintf(`"reporter":"%s","source_workload":"caller-%d","source_workload_namespace":"web","destination_workload":"%s","destination_workload_namespace":"web","destination_service":"%s.web.svc.cluster.local","response_flags":"-","request_protocol":"http","connection_security_policy":"mutual_tls","job":"pods","instance":"10.0.0.%d:15020","pod":"pod-%d","namespace":"web"`,
								c.reporter, source, workload, service, proxy, proxy)
							series(`"__name__":"istio_requests_total","response_code":"200",`+labels, 50)
							series(`"__name__":"istio_requests_total","response_code":"500",`+labels, 1)
							for le := range bounds {
								series(fmt.Sprintf(`"__name__":"istio_request_duration_milliseconds_bucket","response_code":"200","le":"%d",`, 1<<le)+labels, 40+le)
							}
						}
					}
				}
				out.WriteString(`]}}`)
				return out.String()
			}
			next := ""
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.FormValue("query"), `"source|waypoint"`) != (c.reporter == "source") {
					_, _ = fmt.Fprint(w, `{"status":"success","data":{"resultType":"matrix","result":[]}}`)
					return
				}
				_, _ = fmt.Fprint(w, next)
			}))
			defer server.Close()
			client, err := New(server.URL, "")
			if err != nil {
				b.Fatal(err)
			}
			observer := client.Observe(target, begin)
			for look := range 720 {
				if next = answer(look); look%100 == 0 || look > 715 {
					if _, err := observer.Look(b.Context()); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.SetBytes(int64(len(next)))
			before := cpu()
			for b.Loop() {
				if _, err := observer.Look(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpu()-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// cpu is the time that all processors spent on this process, the one that answers in Prometheus' place included.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
