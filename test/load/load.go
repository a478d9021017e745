// Package load sends requests at a steady rate through the mesh stand-in and counts what came back: each attempt's
// answer by version, status and connection error, over time. The requests are vegeta's.
package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// Bounds of a run, whatever is asked for.
const (
	MaxRate = 1000 // requests per second
	MaxTime = 30 * time.Minute
)

// Plan says what to send.
type Plan struct {
	URL     string        // as the caller's application would ask: "http://web.shop/"
	Proxy   string        // where the caller's proxy listens, on this machine: "127.0.0.1:15001"
	Rate    int           // requests per second, 1 to MaxRate
	For     time.Duration // at most MaxTime
	Timeout time.Duration // of one request; 0: 10 s
	Header  http.Header   // of each request
}

// Answer is what one attempt got.
type Answer struct {
	Version string // what the app answered; empty when the answer was not the app's
	Status  int    // 0: no answer
	Error   string // "" when there was an answer, else "timeout" or "connection"
	Split   string // the split that the stand-in chose by
}

func (a Answer) String() string {
	switch {
	case a.Error != "":
		return a.Error
	case a.Version == "":
		return fmt.Sprintf("%d by the proxy", a.Status)
	}
	return fmt.Sprintf("%d by %s", a.Status, a.Version)
}

// Sample is an answer with the time at which its request was sent.
type Sample struct {
	Answer
	Sent    time.Time
	Latency time.Duration
	Says    string // why, of one that failed
}

func (s Sample) String() string {
	return fmt.Sprintf("%s of %s after %s: %s", s.Answer, s.Sent.Format("15:04:05.000"), s.Latency.Round(time.Millisecond), s.Says)
}

// Run is a load that goes on, or has ended.
type Run struct {
	stop    func() bool
	done    chan struct{}
	mu      sync.Mutex
	samples []Sample
}

// Start begins to send. The run ends after plan.For, with ctx, or by Stop, whichever is first.
func Start(ctx context.Context, plan Plan) (*Run, error) {
	var errs []error
	if plan.Rate < 1 || plan.Rate > MaxRate {
		errs = append(errs, fmt.Errorf("rate %d is not between 1 and %d requests per second", plan.Rate, MaxRate))
	}
	if plan.For <= 0 || plan.For > MaxTime {
		errs = append(errs, fmt.Errorf("time %s is not between 0 and %s", plan.For, MaxTime))
	}
	if _, err := url.ParseRequestURI(plan.URL); err != nil {
		errs = append(errs, err)
	}
	host, _, err := net.SplitHostPort(plan.Proxy)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		errs = append(errs, fmt.Errorf("proxy %q is not an IP:port of this machine's loopback", plan.Proxy))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if plan.Timeout == 0 {
		plan.Timeout = 10 * time.Second
	}
	// On a kept connection that breaks, the client would ask once more by itself.
	attacker := vegeta.NewAttacker(vegeta.KeepAlive(false), vegeta.Timeout(plan.Timeout), vegeta.MaxBody(256), vegeta.Redirects(vegeta.NoFollow),
		vegeta.Proxy(http.ProxyURL(&url.URL{Scheme: "http", Host: plan.Proxy})))
	targets := vegeta.NewStaticTargeter(vegeta.Target{Method: http.MethodGet, URL: plan.URL, Header: plan.Header})
	results := attacker.Attack(targets, vegeta.Rate{Freq: plan.Rate, Per: time.Second}, plan.For, "load")
	run := &Run{stop: attacker.Stop, done: make(chan struct{})}
	unwatch := context.AfterFunc(ctx, func() { attacker.Stop() })
	go func() {
		defer close(run.done)
		defer unwatch()
		for r := range results {
			sample := Sample{Answer: answerOf(r), Sent: r.Timestamp, Latency: r.Latency}
			if sample.Status != http.StatusOK {
				sample.Says = cmp.Or(strings.TrimSpace(string(r.Body)), r.Error)
			}
			run.add(sample)
		}
	}()
	return run, nil
}

// answerOf reads what one attempt got. An app's answer is one word, its version; a proxy's own answer is a sentence.
func answerOf(r *vegeta.Result) Answer {
	a := Answer{Status: int(r.Code), Split: r.Headers.Get("X-Mesh-Split")}
	switch {
	case r.Code == 0 && (strings.Contains(r.Error, "Client.Timeout") || strings.Contains(r.Error, "deadline exceeded")):
		a.Error = "timeout"
	case r.Code == 0:
		a.Error = "connection"
	default:
		if body := strings.TrimSpace(string(r.Body)); !strings.ContainsAny(body, " \n") {
			a.Version = body
		}
	}
	return a
}

func (r *Run) add(s Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples = append(r.samples, s)
}

// Stop ends the run; requests under way are waited for.
func (r *Run) Stop() {
	r.stop()
	<-r.done
}

// Wait returns when the run has ended.
func (r *Run) Wait() { <-r.done }

// Samples returns every attempt that has ended so far, in the order in which they were sent.
func (r *Run) Samples() []Sample {
	r.mu.Lock()
	samples := slices.Clone(r.samples)
	r.mu.Unlock()
	slices.SortFunc(samples, func(a, b Sample) int { return a.Sent.Compare(b.Sent) })
	return samples
}

// Counts says how often each answer came. Splits are left out of it.
type Counts map[Answer]int

// Count counts samples.
func Count(samples []Sample) Counts {
	counts := Counts{}
	for _, s := range samples {
		a := s.Answer
		a.Split = ""
		counts[a]++
	}
	return counts
}

// Total is the number of attempts.
func (c Counts) Total() int {
	n := 0
	for _, k := range c {
		n += k
	}
	return n
}

// Of is the number of good answers (status 200) of a version.
func (c Counts) Of(version string) int { return c[Answer{Version: version, Status: http.StatusOK}] }

// Failed is the number of attempts that were not answered with 200.
func (c Counts) Failed() int {
	n := 0
	for a, k := range c {
		if a.Status != http.StatusOK {
			n += k
		}
	}
	return n
}

// String lists the answers, the most frequent first: "2387 x 200 by v1, 613 x 200 by v2".
func (c Counts) String() string {
	answers := slices.SortedFunc(maps.Keys(c), func(a, b Answer) int {
		if c[a] != c[b] {
			return c[b] - c[a]
		}
		return strings.Compare(a.String(), b.String())
	})
	var parts []string
	for _, a := range answers {
		parts = append(parts, fmt.Sprintf("%d x %s", c[a], a))
	}
	return strings.Join(parts, ", ")
}

// PerSecond groups samples by the second they were sent in, from the first one on.
func PerSecond(samples []Sample) []Counts {
	var seconds []Counts
	if len(samples) == 0 {
		return seconds
	}
	begin, from := samples[0].Sent, 0
	for i := range samples {
		for samples[i].Sent.Sub(begin) >= time.Duration(len(seconds)+1)*time.Second {
			seconds = append(seconds, Count(samples[from:i]))
			from = i
		}
	}
	return append(seconds, Count(samples[from:]))
}
