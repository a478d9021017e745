package metrics

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"testing"
	"time"
)

// crowd is a service with many callers, each a proxy with 44 series, scraped every 5 s for as long
// as anybody asks.
type crowd int // series

func (n crowd) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.FormValue("query")
	seconds, _ := strconv.ParseFloat(r.FormValue("time"), 64)
	_, span, _ := strings.Cut(query, "}[")
	span, _, _ = strings.Cut(span, "]")
	within, _ := time.ParseDuration(span)
	if strings.HasPrefix(query, "label_replace(") {
		_, _ = fmt.Fprintf(
			w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"is":"series"},"value":[1,`+
				`"%d"]},{"metric":{"is":"scrapes"},"value":[1,"%d"]}]}}`, n, int(within.Seconds()/5))
		return
	}
	out := bufio.NewWriter(w)
	defer out.Flush()
	_, _ = out.WriteString(matrix)
	first, last := (int64(seconds)-int64(within.Seconds()))/5+1, int64(seconds)/5
	for i := range int(n) {
		if i > 0 {
			_ = out.WriteByte(',')
		}
		kind, proxy, arm := i%22, i/44, i/22%2
		name, more := requestsMetric, `"response_code":"`+strconv.Itoa(200+300*(kind%2))+`"`
		if kind > 1 {
			name, more = durationsMetric, fmt.Sprintf(`"response_code":"200","le":"%d"`, 1<<kind)
		}
		workload := []string{"shop-primary", "shop"}[arm]
		service := []string{"shop-primary", "shop-canary"}[arm]
		_, _ = fmt.Fprintf(
			out, `{"metric":{"__name__":"%s",%s,"reporter":"source","source_workload":"caller-%[3]d",`+
				`"source_canonical_service":"caller-%[3]d","source_canonical_revision":"latest",`+
				`"source_workload_namespace":"web",`+
				`"source_principal":"spiffe://cluster.local/ns/web/sa/caller-%[3]d","source_app":"caller-%[3]d",`+
				`"source_version":"v1","source_cluster":"Kubernetes","destination_workload":"%[4]s",`+
				`"destination_workload_namespace":"web",`+
				`"destination_principal":"spiffe://cluster.local/ns/web/sa/shop","destination_app":"shop",`+
				`"destination_version":"unknown","destination_service":"%[5]s.web.svc.cluster.local",`+
				`"destination_service_name":"%[5]s","destination_service_namespace":"web",`+
				`"destination_cluster":"Kubernetes","request_protocol":"http","response_flags":"-",`+
				`"connection_security_policy":"unknown","job":"kubernetes-pods","instance":"10.88.%[3]d.7:15020",`+
				`"namespace":"web","pod":"caller-%[3]d-7c9b5d8f-x2k4z","pod_template_hash":"7c9b5d8f",`+
				`"service_istio_io_canonical_name":"caller-%[3]d"},"values":[`,
			name, more, proxy, workload, service)
		for scrape := first; scrape <= last; scrape++ {
			if scrape > first {
				_ = out.WriteByte(',')
			}
			_, _ = fmt.Fprintf(out, `[%d,"%d"]`, 5*scrape, int64(kind+1)*(scrape-first)+1000000)
		}
		_, _ = out.WriteString("]}")
	}
	_, _ = out.WriteString("]}}")
}

const readsVariable = "CANARY_TEST_READS"

// memoryLimit is what a step sets in a container of 128 MiB.
const memoryLimit = 128 << 20 * 85 / 100

// read is the program that BenchmarkMemory measures: it reads a range as canary-init does, and
// prints the most memory of its heap and of its process, in bytes.
func read(of string) {
	address, ago, _ := strings.Cut(of, " ")
	span, _ := time.ParseDuration(ago)
	debug.SetMemoryLimit(memoryLimit)
	done := make(chan struct{})
	peak := make(chan uint64)
	go func() {
		sample, most := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}, uint64(0)
		for {
			metrics.Read(sample)
			most = max(most, sample[0].Value.Uint64())
			select {
			case <-done:
				peak <- most
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	client, err := New(address, "")
	if err != nil {
		panic(err)
	}
	o := client.Observe(target, time.Now().Add(-span))
	strata, missing := 0, ""
	for more := true; more; {
		w, err := o.Look(context.Background())
		if err != nil {
			panic(err)
		}
		strata, missing, more = strata+len(w.Strata), string(w.Missing), w.More
	}
	close(done)
	status, _ := os.ReadFile("/proc/self/status")
	_, rss, _ := bytes.Cut(status, []byte("VmHWM:"))
	kib, _ := strconv.Atoi(string(bytes.Fields(rss)[0]))
	fmt.Println(<-peak, kib<<10, strata, missing)
}

// memoryOf reads a range in a process of its own. It returns the most memory of its heap and of the
// process, in MiB, and how many strata came.
func memoryOf(t testing.TB, series int, span time.Duration) (heap, rss, strata float64) {
	t.Helper()
	server := httptest.NewServer(crowd(series))
	defer server.Close()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s", readsVariable, server.URL, span))
	out, err := cmd.CombinedOutput()
	if err == nil {
		_, err = fmt.Sscan(string(out), &heap, &rss, &strata)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return heap / (1 << 20), rss / (1 << 20), strata
}

// A long range of many series fits in the container.
func TestMemory(t *testing.T) {
	t.Parallel()
	if heap, _, strata := memoryOf(t, 5000, 10*time.Minute); heap > 70 || strata < 13000 {
		t.Errorf("%.0f MiB of heap for %.0f strata", heap, strata)
	}
}

// BenchmarkMemory measures the most memory that reading takes, by how many series there are and how
// far back it begins. A step's program has some 15 MiB beside. The table is in docs/design.md.
func BenchmarkMemory(b *testing.B) {
	for _, series := range []int{100, 1000, 5000, 10000} {
		for _, span := range []time.Duration{15 * time.Second, 10 * time.Minute, time.Hour} {
			b.Run(fmt.Sprintf("%d-series-over-%s", series, span), func(b *testing.B) {
				var heap, rss float64
				for b.Loop() {
					h, r, _ := memoryOf(b, series, span)
					heap, rss = max(heap, h), max(rss, r)
				}
				b.ReportMetric(float64(series)*span.Seconds()/5, "samples")
				b.ReportMetric(heap, "heap-MiB")
				b.ReportMetric(rss, "rss-MiB")
			})
		}
	}
}
