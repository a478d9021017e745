package load

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// app answers attempts in turn, and counts what callers shall have counted.
type app struct {
	turns []turn

	mu    sync.Mutex
	tally Counts
	conns int // that were opened
}

// turn is one way to answer, and the answer that the caller sees.
type turn struct {
	answer Answer
	serve  func(w http.ResponseWriter, r *http.Request)
}

// ServeHTTP answers by the next turn.
func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	next := a.turns[a.tally.Total()%len(a.turns)]
	a.tally[next.answer]++
	a.mu.Unlock()
	if next.answer.Version != "" {
		w.Header().Set("X-Version", next.answer.Version)
		w.Header().Set("X-Pod", "web-"+next.answer.Version)
	}
	next.serve(w, r)
}

// serve starts a server of HTTP/1.1 and unencrypted HTTP/2.
func serve(t *testing.T, turns ...turn) (*app, string) {
	t.Helper()
	a := &app{turns: turns, tally: Counts{}}
	server := httptest.NewUnstartedServer(a)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	count := server.Config.ConnState
	server.Config.ConnState = func(c net.Conn, s http.ConnState) {
		if s == http.StateNew {
			a.mu.Lock()
			a.conns++
			a.mu.Unlock()
		}
		if count != nil {
			count(c, s)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	return a, server.URL + "/"
}

func answer(status int, body string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func breaks(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func hangs(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.ReadAll(r.Body) // or the end of the connection is not seen
	<-r.Context().Done()
}

// want fails the test unless the run has each attempt that the app has seen, and there was one of
// each turn.
func (a *app) want(t *testing.T, run *Run) {
	t.Helper()
	if err := run.Err(); err != nil {
		t.Error(err)
	}
	samples := run.Samples()
	a.mu.Lock()
	defer a.mu.Unlock()
	if diff := cmp.Diff(a.tally, Count(samples)); diff != "" {
		t.Errorf("(-want, +got)\n%s\n%v", diff, samples)
	}
	if len(a.tally) != len(a.turns) {
		t.Errorf("it was asked only for %v", a.tally)
	}
	for _, s := range samples {
		if s.Error == "" && s.Version != "" && s.Pod != "web-"+s.Version {
			t.Errorf("pod %q answered %s", s.Pod, s)
		}
		if (s.Says == "") != (s.Status == http.StatusOK) {
			t.Errorf("%s says %q", s.Answer, s.Says)
		}
	}
}

func TestCountsEachAttempt(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		protocol Protocol
		method   string
		major    int  // version of HTTP
		kept     bool // connections
	}{
		{"", http.MethodGet, 1, false},
		{HTTP1, http.MethodGet, 1, false},
		{KeepAlive, http.MethodPost, 1, true},
		{HTTP2, http.MethodPost, 2, true},
	} {
		t.Run(string(c.protocol), func(t *testing.T) {
			t.Parallel()
			a, address := serve(t,
				turn{Answer{Version: "1.0.0", Status: 200}, func(w http.ResponseWriter, r *http.Request) {
					if r.Host != "web.shop" || r.Header.Get("X-User") != "ada" || r.Method != c.method ||
						r.ProtoMajor != c.major {
						t.Errorf("%s %s of host %q, header %v", r.Proto, r.Method, r.Host, r.Header)
					}
					_, _ = io.WriteString(w, "1.0.0")
				}},
				turn{Answer{Version: "2.0.0", Status: 500}, answer(500, "2.0.0")},
				turn{Answer{Status: 503}, answer(503, "no healthy upstream")},
				turn{Answer{Status: 200}, answer(200, "word")}, // of a proxy, though it reads like a version
				turn{Answer{Status: 302}, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Location", "/")
					answer(302, "moved")(w, r)
				}},
				turn{Answer{Error: "connection"}, breaks},
				turn{Answer{Error: "timeout"}, hangs},
			)
			run, err := Start(t.Context(), Plan{
				URL: address, Rate: 100, For: 500 * time.Millisecond, Timeout: 200 * time.Millisecond,
				Protocol: c.protocol,
				Header:   http.Header{"host": {"web.shop"}, "X-User": {"ada"}},
			})
			if err != nil {
				t.Fatal(err)
			}
			run.Wait()
			a.want(t, run)
			if kept := a.conns < a.tally.Total(); kept != c.kept {
				t.Errorf("%d connections for %d requests", a.conns, a.tally.Total())
			}
		})
	}
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	call := func(code int, message string) func(http.ResponseWriter, *http.Request) { // as examples/app does it
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Host != "web.shop" || r.URL.Path != "/canary.Version/Get" || r.Header.Get("X-User") != "ada" ||
				r.Header.Get("Content-Type") != "application/grpc" {
				t.Errorf("call of %s%s with %v", r.Host, r.URL, r.Header)
			}
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", fmt.Sprint(code))
			w.Header().Set(http.TrailerPrefix+"Grpc-Message", message)
			_, _ = io.WriteString(w, "\x00\x00\x00\x00\x051.0.0")
		}
	}
	a, address := serve(t,
		turn{Answer{Version: "1.0.0", Status: 200}, call(0, "")},
		turn{Answer{Version: "2.0.0", GRPC: 14}, call(14, "told so")},
		turn{Answer{GRPC: 14}, func(w http.ResponseWriter, _ *http.Request) { // as Envoy says it: only headers
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", "14")
			w.Header().Set("Grpc-Message", "no healthy upstream")
		}},
		turn{Answer{Error: "connection"}, breaks},
		turn{Answer{Error: "timeout"}, hangs},
	)
	run, err := Start(t.Context(), Plan{
		URL: address, Rate: 100, For: 500 * time.Millisecond, Timeout: 200 * time.Millisecond, Protocol: GRPC,
		Header: http.Header{"Host": {"web.shop"}, "X-User": {"ada"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	run.Wait()
	a.want(t, run)
	if a.conns != 1 {
		t.Errorf("%d connections", a.conns)
	}
	for _, s := range run.Samples() {
		want := map[string]string{"": "no healthy upstream", "2.0.0": "told so"}[s.Version]
		if s.GRPC == 14 && s.Says != want {
			t.Errorf("%s, want %q", s, want)
		}
	}
}

func TestGRPCWithoutConnection(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(nil)
	server.Close()
	run, err := Start(t.Context(), Plan{URL: server.URL, Rate: 100, For: 100 * time.Millisecond, Protocol: GRPC})
	if err != nil {
		t.Fatal(err)
	}
	run.Wait()
	if c := Count(run.Samples()); c.Total() == 0 || c[Answer{Error: "connection"}] != c.Total() {
		t.Error(c)
	}
}

func TestStream(t *testing.T) {
	t.Parallel()
	begin := func(w http.ResponseWriter, r *http.Request, line string) {
		if r.URL.String() != "/shop/stream?for=12s" || r.ProtoMajor != 2 || r.Method != http.MethodGet {
			t.Errorf("%s %s by %s", r.Method, r.URL, r.Proto)
		}
		_, _ = io.WriteString(w, line)
		w.(http.Flusher).Flush()
	}
	a, address := serve(t,
		turn{Answer{Version: "1.0.0", Status: 200}, func(w http.ResponseWriter, r *http.Request) {
			begin(w, r, "1.0.0\n")
			_, _ = io.WriteString(w, "1.0.0\n")
		}},
		turn{Answer{Version: "2.0.0", Error: "connection"}, func(w http.ResponseWriter, r *http.Request) {
			begin(w, r, "2.0.0\n")
			panic(http.ErrAbortHandler)
		}},
		turn{Answer{Version: "2.0.0", Status: 500}, answer(500, "2.0.0")},
		turn{Answer{Status: 503}, answer(503, "upstream connect error")},
		turn{Answer{Error: "connection"}, breaks},
	)
	run, err := Start(
		t.Context(), Plan{URL: address + "shop", Rate: 100, For: 500 * time.Millisecond, Protocol: Stream})
	if err != nil {
		t.Fatal(err)
	}
	run.Wait()
	a.want(t, run)
}

// The timeout of a stream begins when it should have ended.
func TestStreamLimit(t *testing.T) {
	t.Parallel()
	for plan, want := range map[*Plan]time.Duration{
		{}:                                       10 * time.Second,
		{Timeout: time.Second}:                   time.Second,
		{Protocol: Stream}:                       22 * time.Second,
		{Protocol: Stream, Timeout: time.Second}: 13 * time.Second,
	} {
		if got := plan.limit(); got != want {
			t.Errorf("of %+v: %s, want %s", *plan, got, want)
		}
	}
}

func TestStopEndsTheRun(t *testing.T) {
	t.Parallel()
	for _, protocol := range protocols {
		t.Run(string(protocol), func(t *testing.T) {
			t.Parallel()
			_, address := serve(t, turn{Answer{}, answer(200, "")})
			run, err := Start(t.Context(), Plan{URL: address, Rate: 100, For: MaxTime, Protocol: protocol})
			if err != nil {
				t.Fatal(err)
			}
			run.Stop()
			n := len(run.Samples())
			time.Sleep(50 * time.Millisecond)
			if more := len(run.Samples()); more != n {
				t.Errorf("%d attempts after the end", more-n)
			}
		})
	}
}

func TestPlanMistakes(t *testing.T) {
	t.Parallel()
	_, err := Start(t.Context(), Plan{
		URL: "https://web", Rate: MaxRate + 1, For: MaxTime + 1, Timeout: -1, Protocol: "http3",
	})
	if err == nil {
		t.Fatal("it ran")
	}
	for _, want := range []string{"rate 1001", "time 30m0", `"https://web"`, "timeout -1ns", `"http3"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
}

func TestAnswerString(t *testing.T) {
	t.Parallel()
	for a, want := range map[Answer]string{
		{Version: "1.0.0", Status: 200}:         "200 by 1.0.0",
		{Status: 503}:                           "503 by the proxy",
		{GRPC: 14}:                              "gRPC 14 by the proxy",
		{Version: "2.0.0", GRPC: 14}:            "gRPC 14 by 2.0.0",
		{Error: "timeout"}:                      "timeout",
		{Version: "2.0.0", Error: "connection"}: "connection by 2.0.0",
	} {
		if got := a.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
