// Package load sends requests at a steady rate and counts what came back: each attempt's answer by
// version, status and connection error, over time. The pace is vegeta's.
//
// Start sends from this process. Caller.Start has a pod send, whose program serves Handler, and
// copies what it counts. Nothing is sent again: an attempt that breaks is counted as broken.
//
// The application is examples/app. It names itself in the headers X-Version and X-Pod of its
// answers; what comes without them was answered by a proxy.
package load

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
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

// streamTime is how long the app is asked to keep a stream open.
const streamTime = 12 * time.Second

// Plan says what to send.
type Plan struct {
	URL      string        // as the caller's application would ask: "http://shop/"
	Rate     int           // attempts per second, 1 to MaxRate
	For      time.Duration // at most MaxTime
	Timeout  time.Duration // of one attempt, of a stream beyond its 12 s; 0: 10 s
	Header   http.Header   // of each request; Host is the host that is asked for
	Protocol Protocol      // "": HTTP1
}

// validate returns all mistakes of a plan.
func (p Plan) validate() error {
	var errs []error
	if p.Rate < 1 || p.Rate > MaxRate {
		errs = append(errs, fmt.Errorf("rate %d is not between 1 and %d requests per second", p.Rate, MaxRate))
	}
	if p.For <= 0 || p.For > MaxTime {
		errs = append(errs, fmt.Errorf("time %s is not between 0 and %s", p.For, MaxTime))
	}
	if p.Timeout < 0 || p.Timeout > MaxTime {
		errs = append(errs, fmt.Errorf("timeout %s is not between 0 and %s", p.Timeout, MaxTime))
	}
	if u, err := url.Parse(p.URL); err != nil || u.Scheme != "http" || u.Host == "" {
		errs = append(errs, fmt.Errorf("address %q is not http://host/", p.URL))
	}
	if p.Protocol != "" && !slices.Contains(protocols, p.Protocol) {
		errs = append(errs, fmt.Errorf("protocol %q is not one of %q", p.Protocol, protocols))
	}
	return errors.Join(errs...)
}

// limit returns the longest time that one attempt may take.
func (p Plan) limit() time.Duration {
	limit := cmp.Or(p.Timeout, 10*time.Second)
	if p.Protocol == Stream {
		limit += streamTime
	}
	return limit
}

// Answer is what one attempt got.
type Answer struct {
	Version string // what the app named; empty when the answer was not the app's
	Status  int    // of HTTP, 200 for a gRPC call that is OK; 0: no answer, or GRPC has its status
	GRPC    int    // the code of a gRPC call that is not OK
	Error   string // "" when there was an answer, else "timeout" or "connection"
}

func (a Answer) String() string {
	by := " by " + cmp.Or(a.Version, "the proxy")
	switch {
	case a.Error != "" && a.Version == "":
		return a.Error
	case a.Error != "": // of a stream that had begun
		return a.Error + by
	case a.GRPC != 0:
		return fmt.Sprintf("gRPC %d%s", a.GRPC, by)
	}
	return fmt.Sprintf("%d%s", a.Status, by)
}

// Sample is an answer with the time at which its request was sent.
type Sample struct {
	Answer
	Sent    time.Time
	Latency time.Duration
	Says    string // why, of one that failed
	Pod     string // that answered, as it names itself
}

func (s Sample) String() string {
	return fmt.Sprintf("%s of %s after %s: %s", s.Answer, s.Sent.Format("15:04:05.000"),
		s.Latency.Round(time.Millisecond), s.Says)
}

// Run is a load that is still sent, or has ended.
type Run struct {
	stop    func() // begins the end; may be called again
	done    chan struct{}
	mu      sync.Mutex
	samples []Sample // in the order in which they ended
	err     error
}

// Start sends from this process. The run ends after plan.For, with ctx, or by Stop, whichever is
// first. Its error names all mistakes of the plan.
func Start(ctx context.Context, plan Plan) (*Run, error) {
	if err := plan.validate(); err != nil {
		return nil, err
	}
	client, err := plan.client()
	if err != nil {
		return nil, err
	}
	attacker := vegeta.NewAttacker(vegeta.Client(client), vegeta.MaxBody(256), vegeta.Redirects(vegeta.NoFollow))
	rate := vegeta.Rate{Freq: plan.Rate, Per: time.Second}
	results := attacker.Attack(vegeta.NewStaticTargeter(plan.target()), rate, plan.For, "load")
	run := &Run{stop: func() { attacker.Stop() }, done: make(chan struct{})}
	unwatch := context.AfterFunc(ctx, run.stop)
	go func() {
		defer close(run.done)
		defer client.CloseIdleConnections()
		defer unwatch()
		for r := range results {
			run.add(sampleOf(r))
		}
	}()
	return run, nil
}

// sampleOf is what an attempt of vegeta got.
func sampleOf(r *vegeta.Result) Sample {
	s := Sample{
		Answer: Answer{Status: int(r.Code), Version: r.Headers.Get("X-Version")},
		Sent:   r.Timestamp, Latency: r.Latency, Pod: r.Headers.Get("X-Pod"),
	}
	body := string(r.Body)
	switch {
	case r.Code == 0 && (strings.Contains(r.Error, "Client.Timeout") || strings.Contains(r.Error, "deadline exceeded")):
		s.Error = "timeout"
	case r.Code == 0:
		s.Error = "connection"
	case r.Headers.Get(grpcStatus) != "":
		if s.GRPC, _ = strconv.Atoi(r.Headers.Get(grpcStatus)); s.GRPC != 0 {
			s.Status = 0
		}
	}
	switch {
	case s.Error != "":
		s.Says = r.Error
	case s.Status != http.StatusOK:
		s.Says = cmp.Or(strings.TrimSpace(body), r.Error)
	}
	// Of an answer that broke vegeta keeps no headers, but what was read of its body. Of a stream
	// these are lines of the version.
	if line, _, whole := strings.Cut(body, "\n"); s.Error != "" && whole {
		s.Version = line
	}
	return s
}

// add adds attempts that have ended.
func (r *Run) add(samples ...Sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples = append(r.samples, samples...)
}

// fail notes why samples are missing.
func (r *Run) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = errors.Join(r.err, err)
}

// Stop ends the run; requests under way are waited for.
func (r *Run) Stop() {
	r.stop()
	<-r.done
}

// Wait returns when the run has ended.
func (r *Run) Wait() { <-r.done }

// Done is closed when the run has ended.
func (r *Run) Done() <-chan struct{} { return r.done }

// Err returns why attempts are missing from Samples: the pod that sends could not be reached. It is
// nil for a run of this process.
func (r *Run) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Samples returns every attempt that has ended so far, in the order in which they were sent.
func (r *Run) Samples() []Sample {
	samples := r.Since(0)
	slices.SortFunc(samples, func(a, b Sample) int { return a.Sent.Compare(b.Sent) })
	return samples
}

// Since returns the attempts that have ended after the first n, in the order in which they ended.
func (r *Run) Since(n int) []Sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.samples[min(n, len(r.samples)):])
}

// Counts says how often each answer came.
type Counts map[Answer]int

// Count counts samples.
func Count(samples []Sample) Counts {
	counts := Counts{}
	for _, s := range samples {
		counts[s.Answer]++
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
