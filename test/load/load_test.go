package load

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCountsEachAttempt(t *testing.T) {
	t.Parallel()
	asked := new(atomic.Int64)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "web.shop" {
			t.Errorf("asked for host %q", r.Host)
		}
		switch asked.Add(1) % 5 {
		case 0:
			w.Header().Set("X-Mesh-Split", "web-primary=80,web-canary=20")
			_, _ = io.WriteString(w, "1.0.0")
		case 1:
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, "2.0.0")
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, "no healthy upstream")
		case 3:
			panic(http.ErrAbortHandler) // the connection breaks
		case 4:
			<-r.Context().Done()
		}
	}))
	t.Cleanup(proxy.Close)
	run, err := Start(t.Context(), Plan{URL: "http://web.shop/", Proxy: strings.TrimPrefix(proxy.URL, "http://"), Rate: 100,
		For: 500 * time.Millisecond, Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	run.Wait()
	want := Counts{
		{Version: "1.0.0", Status: 200}: 10, {Version: "2.0.0", Status: 500}: 10, {Status: 503}: 10,
		{Error: "connection"}: 10, {Error: "timeout"}: 10,
	}
	got := Count(run.Samples())
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
	if got.Total() != 50 || got.Failed() != 40 || got.Of("1.0.0") != 10 || got.Of("2.0.0") != 0 {
		t.Errorf("total %d, failed %d, of 1.0.0 %d, of 2.0.0 %d", got.Total(), got.Failed(), got.Of("1.0.0"), got.Of("2.0.0"))
	}
}

func TestStopEndsTheRun(t *testing.T) {
	t.Parallel()
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(proxy.Close)
	run, err := Start(t.Context(), Plan{URL: "http://web/", Proxy: strings.TrimPrefix(proxy.URL, "http://"), Rate: 100, For: MaxTime})
	if err != nil {
		t.Fatal(err)
	}
	run.Stop()
	n := len(run.Samples())
	time.Sleep(50 * time.Millisecond)
	if more := len(run.Samples()); more != n {
		t.Errorf("%d attempts after the end", more-n)
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), Plan{URL: "web", Proxy: "192.0.2.1:80", Rate: MaxRate + 1, For: MaxTime + 1})
	if err == nil {
		t.Fatal("it ran")
	}
	for _, want := range []string{"rate 1001", "time 30m0", `"web"`, "192.0.2.1:80"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
}

func TestPerSecond(t *testing.T) {
	t.Parallel()
	at := func(ms int, status int) Sample {
		return Sample{Answer: Answer{Status: status}, Sent: time.UnixMilli(int64(1000 + ms))}
	}
	got := PerSecond([]Sample{at(0, 200), at(999, 200), at(1000, 500), at(3500, 200)})
	want := []Counts{{{Status: 200}: 2}, {{Status: 500}: 1}, {}, {{Status: 200}: 1}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
	if got := PerSecond(nil); got != nil {
		t.Errorf("of nothing: %v", got)
	}
}
