package load

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// pod serves a control port, whose runs end with the test.
func pod(t *testing.T, handler http.Handler) (*httptest.Server, Caller) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server, Caller{Address: strings.TrimPrefix(server.URL, "http://")}
}

// until waits for what comes by itself.
func until(t *testing.T, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to that")
		}
	}
}

func TestCallerSends(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc string
		plan Plan
		end  func(*Run, context.CancelFunc)
	}{
		{"its time ends", Plan{For: 500 * time.Millisecond}, func(r *Run, _ context.CancelFunc) { r.Wait() }},
		{"it is stopped", Plan{For: MaxTime}, func(r *Run, _ context.CancelFunc) { r.Stop() }},
		{"its context ends", Plan{For: MaxTime, Protocol: HTTP2}, func(r *Run, cancel context.CancelFunc) {
			cancel()
			r.Wait()
		}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			a, address := serve(t,
				turn{Answer{Version: "1.0.0", Status: 200}, answer(200, "1.0.0")},
				turn{Answer{Status: 503}, answer(503, "no healthy upstream")},
				turn{Answer{Error: "connection"}, breaks},
				turn{Answer{Error: "timeout"}, hangs},
			)
			_, caller := pod(t, Handler(t.Context()))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c.plan.URL, c.plan.Rate, c.plan.Timeout = address, 100, 200*time.Millisecond
			run, err := caller.Start(ctx, c.plan)
			if err != nil {
				t.Fatal(err)
			}
			until(t, func() bool { return Count(run.Samples())[Answer{Error: "timeout"}] > 0 }) // while it goes on
			c.end(run, cancel)
			a.want(t, run)
			samples := run.Samples()
			sorted := slices.IsSortedFunc(samples, func(a, b Sample) int { return a.Sent.Compare(b.Sent) })
			if !sorted || samples[0].Latency == 0 {
				t.Error(samples)
			}
		})
	}
}

func TestCallerNamesMistakes(t *testing.T) {
	t.Parallel()
	_, caller := pod(t, Handler(t.Context()))
	_, err := caller.Start(t.Context(), Plan{URL: "web"})
	if err == nil || !strings.Contains(err.Error(), "rate 0") || !strings.Contains(err.Error(), `"web"`) {
		t.Error(err)
	}
}

// A run without all attempts is never one that looks whole.
func TestCallerMissesSamples(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc     string
		progress progress
		status   int
		want     string
	}{
		{"fewer arrive", progress{Samples: make([]Sample, 2), Attempts: 3, Ended: true}, 200, "made 3, 2 arrived"},
		{"the pod began anew", progress{}, 404, "404 Not Found"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			_, caller := pod(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.Method {
				case http.MethodPost:
					_ = json.NewEncoder(w).Encode(started{ID: "1"})
				default:
					w.WriteHeader(c.status)
					_ = json.NewEncoder(w).Encode(c.progress)
				}
			}))
			run, err := caller.Start(t.Context(), Plan{})
			if err != nil {
				t.Fatal(err)
			}
			run.Wait()
			if err := run.Err(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}

func TestCallerLosesThePod(t *testing.T) {
	t.Parallel()
	for desc, end := range map[string]func(*Run){"it waits": (*Run).Wait, "it stops": (*Run).Stop} {
		t.Run(desc, func(t *testing.T) {
			t.Parallel()
			_, address := serve(t, turn{Answer{}, answer(200, "")})
			server, caller := pod(t, Handler(t.Context()))
			run, err := caller.Start(t.Context(), Plan{URL: address, Rate: 100, For: MaxTime})
			if err != nil {
				t.Fatal(err)
			}
			until(t, func() bool { return len(run.Samples()) > 0 })
			server.Close()
			end(run)
			if run.Err() == nil {
				t.Errorf("%d attempts, as if these were all", len(run.Samples()))
			}
		})
	}
}

// A run that has ended needs its pod no more.
func TestCallerStopsWhatHasEnded(t *testing.T) {
	t.Parallel()
	a, address := serve(t, turn{Answer{Version: "1.0.0", Status: 200}, answer(200, "1.0.0")})
	server, caller := pod(t, Handler(t.Context()))
	run, err := caller.Start(t.Context(), Plan{URL: address, Rate: 100, For: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	run.Wait()
	server.Close()
	run.Stop()
	a.want(t, run)
}

// One question that fails is no loss: the next one gets what that did not.
func TestCallerAsksOnceMore(t *testing.T) {
	t.Parallel()
	a, address := serve(t, turn{Answer{Version: "1.0.0", Status: 200}, answer(200, "1.0.0")})
	handler, asked := Handler(t.Context()), new(atomic.Int64)
	_, caller := pod(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && asked.Add(1)%3 != 0 {
			panic(http.ErrAbortHandler)
		}
		handler.ServeHTTP(w, r)
	}))
	run, err := caller.Start(t.Context(), Plan{URL: address, Rate: 100, For: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	run.Wait()
	a.want(t, run)
}

func TestAsk(t *testing.T) {
	t.Parallel()
	_, caller := pod(t, Handler(t.Context()))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
		_, _ = w.Write([]byte(strings.Join([]string{r.Method, r.Host, r.URL.String(), r.Header.Get("X-User")}, " ")))
	}))
	t.Cleanup(server.Close)
	status, body := caller.Ask(t.Context(), server.URL+"/a?b=c", "host", "web.shop", "X-User", "a=b")
	if diff := cmp.Diff("GET web.shop /a?b=c a=b", body); status != http.StatusFound || diff != "" {
		t.Errorf("%d (-want, +got)\n%s", status, diff)
	}
	server.Close()
	for _, c := range []struct{ desc, url, want string }{
		{"nobody listens", server.URL, "connection refused"},
		{"no address", "://", "missing protocol scheme"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			if status, body := caller.Ask(t.Context(), c.url); status != 0 || !strings.Contains(body, c.want) {
				t.Errorf("%d %q, want %s", status, body, c.want)
			}
		})
	}
}
