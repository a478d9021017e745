package metrics

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// busy is a service as one side sees it: 20 pods and 10 callers, 20 bounds.
type busy struct {
	reporter string
	proxies  int // that report
	sources  int // that each tells apart
	begin    time.Time
}

var bothSides = []busy{
	{reporter: "source", proxies: 10, sources: 1}, {reporter: "destination", proxies: 20, sources: 10}}

// answer is Prometheus' at a look in mid-release: three scrapes of each series, which is what is
// younger than 10 s before the last one.
func (c busy) answer(look int) string {
	const bounds = 20
	var out strings.Builder
	out.WriteString(`{"status":"success","data":{"resultType":"matrix","result":[`)
	comma := ""
	series := func(labels string, value int) {
		fmt.Fprintf(&out, `%s{"metric":{%s},"values":[`, comma, labels)
		comma = ","
		for i := range 3 {
			if i > 0 {
				out.WriteString(",")
			}
			at := c.begin.Add(time.Duration(look+i) * 5 * time.Second).Unix()
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
				labels := fmt.Sprintf(
					`"reporter":"%s","source_workload":"caller-%d","source_workload_namespace":"web",`+
						`"destination_workload":"%s","destination_workload_namespace":"web",`+
						`"destination_service":"%s.web.svc.cluster.local","response_flags":"-",`+
						`"request_protocol":"http","connection_security_policy":"mutual_tls","job":"pods",`+
						`"instance":"10.0.0.%d:15020","pod":"pod-%d","namespace":"web"`,
					c.reporter, source, workload, service, proxy, proxy)
				series(`"__name__":"istio_requests_total","response_code":"200",`+labels, 50)
				series(`"__name__":"istio_requests_total","response_code":"500",`+labels, 1)
				for le := range bounds {
					series(fmt.Sprintf(
						`"__name__":"istio_request_duration_milliseconds_bucket","response_code":"200","le":"%d",`,
						1<<le)+labels, 40+le)
				}
			}
		}
	}
	out.WriteString(`]}}`)
	return out.String()
}

// observe begins to look at what next points to.
func (c busy) observe(t testing.TB, next *string) *Observer {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.FormValue("query"), `"source|waypoint"`) != (c.reporter == "source") {
			_, _ = fmt.Fprint(w, `{"status":"success","data":{"resultType":"matrix","result":[]}}`)
			return
		}
		_, _ = io.WriteString(w, *next)
	}))
	t.Cleanup(server.Close)
	client, err := New(server.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	o := client.Observe(target, c.begin)
	o.keepUp()
	return o
}

// keepUp lets an observer look just after the last scrape that it knows.
func (o *Observer) keepUp() {
	o.clock = func() time.Time {
		if o.state.To.IsZero() {
			return o.state.Since.Add(lag)
		}
		return o.state.To.Add(lag)
	}
}

// A look late in a release costs what one at its beginning does.
func TestLooksStaySmall(t *testing.T) { // not parallel: allocations of other tests would be counted
	for _, c := range bothSides {
		t.Run(c.reporter, func(t *testing.T) {
			c.begin = time.Now().Add(-time.Hour).Truncate(time.Second)
			next := ""
			o := c.observe(t, &next)
			look := func() {
				if _, err := o.Look(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			const runs = 3
			allocations := func(from int) float64 {
				var answers []string
				for i := range runs + 1 {
					answers = append(answers, c.answer(from+i))
				}
				return testing.AllocsPerRun(runs, func() {
					next, answers = answers[0], answers[1:]
					look()
				})
			}
			for i := 0; i < 20; i += 5 {
				next = c.answer(i)
				look()
			}
			early := allocations(20)
			for i := 20 + runs + 1; i < 700; i += 50 {
				next = c.answer(i)
				look()
			}
			if late := allocations(700); late > 1.05*early {
				t.Errorf("the 700th look allocates %.0f times, the 20th %.0f", late, early)
			}
		})
	}
}

// BenchmarkLook is one look in mid-release, the answer's decoding included, 720 looks before. What
// answers is a process of its own.
func BenchmarkLook(b *testing.B) {
	for _, c := range bothSides {
		b.Run(c.reporter, func(b *testing.B) {
			c.begin = time.Now().Add(-time.Hour).Truncate(time.Second)
			address := c.apart(b)
			client, err := New(address, "")
			if err != nil {
				b.Fatal(err)
			}
			observer := client.Observe(target, c.begin)
			observer.keepUp()
			b.SetBytes(int64(len(c.answer(720))))
			look := func(n int) time.Duration {
				post(b, address, n)
				before := cpu()
				if _, err := observer.Look(b.Context()); err != nil {
					b.Fatal(err)
				}
				return cpu() - before
			}
			for n := range 720 {
				if n%100 == 0 || n > 715 {
					look(n)
				}
			}
			took := time.Duration(0)
			n := 720
			for b.Loop() {
				took += look(n)
				n++
			}
			b.ReportMetric(float64(took.Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// apart starts this program once more, to answer in Prometheus' place, and returns its address.
func (c busy) apart(t testing.TB) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), apartVariable+"="+c.reporter+" "+c.begin.Format(time.RFC3339))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(address)
}

const apartVariable = "CANARY_TEST_ANSWERS"

// TestMain lets this program be what answers apart.
func TestMain(m *testing.M) {
	if address := os.Getenv(readsVariable); address != "" {
		read(address)
		return
	}
	reporter, begin, ok := strings.Cut(os.Getenv(apartVariable), " ")
	if !ok {
		os.Exit(m.Run())
	}
	var next []byte
	mux := http.NewServeMux()
	mux.HandleFunc("POST /look/{look}", func(_ http.ResponseWriter, r *http.Request) {
		i := slices.IndexFunc(bothSides, func(c busy) bool { return c.reporter == reporter })
		c := bothSides[i]
		c.begin, _ = time.Parse(time.RFC3339, begin)
		look, _ := strconv.Atoi(r.PathValue("look"))
		next = []byte(c.answer(look))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.FormValue("query"), `"source|waypoint"`) != (reporter == "source") {
			_, _ = fmt.Fprint(w, `{"status":"success","data":{"resultType":"matrix","result":[]}}`)
			return
		}
		_, _ = w.Write(next)
	})
	fmt.Println(httptest.NewServer(mux).URL)
	select {}
}

// post sets which look's answer is next.
func post(t testing.TB, address string, look int) {
	t.Helper()
	resp, err := http.Post(fmt.Sprintf("%s/look/%d", address, look), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

// cpu is the time that all processors spent on this process.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
