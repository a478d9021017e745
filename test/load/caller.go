package load

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Caller is a pod that sends requests, seen by who controls it. The pod serves Handler.
type Caller struct {
	Address string // of its control port: "10.0.0.7:8081"
}

// How the control port is asked. One failed question may be chance; after the last one the pod is
// lost.
const (
	pollEvery      = 200 * time.Millisecond
	pollFailures   = 3 // one after the other
	controlTimeout = 10 * time.Second
)

// Start has the pod send. Attempts are copied into the run while it goes on, and it ends as one of
// load.Start does. Run.Err says afterwards whether the run has all attempts that the pod made.
func (c Caller) Start(ctx context.Context, plan Plan) (*Run, error) {
	var s started
	if err := c.do(ctx, controlTimeout, http.MethodPost, "/runs", plan, &s); err != nil {
		return nil, fmt.Errorf("starting a load: %w", err)
	}
	path := "/runs/" + s.ID
	after := context.WithoutCancel(ctx) // what was sent is fetched, though ctx ends
	following, lost := context.WithCancel(after)
	run := &Run{done: make(chan struct{})}
	run.stop = sync.OnceFunc(func() {
		if following.Err() != nil { // it has ended
			return
		}
		if err := c.do(after, plan.limit()+controlTimeout, http.MethodDelete, path, nil, nil); err != nil {
			run.fail(fmt.Errorf("stopping a load: %w", err))
			lost()
		}
	})
	unwatch := context.AfterFunc(ctx, run.stop)
	go func() {
		defer close(run.done)
		defer lost()
		defer unwatch()
		if err := c.follow(following, path, run); err != nil {
			run.fail(fmt.Errorf("following a load: attempts are missing after %d: %w", len(run.Since(0)), err))
		}
	}()
	return run, nil
}

// follow copies attempts until the pod says that it has made the last one.
func (c Caller) follow(ctx context.Context, path string, run *Run) error {
	for have, failures := 0, 0; ; {
		var p progress
		err := c.do(ctx, controlTimeout, http.MethodGet, fmt.Sprintf("%s?from=%d", path, have), nil, &p)
		if err != nil {
			if failures++; failures == pollFailures || ctx.Err() != nil {
				return err
			}
		} else {
			failures = 0
			run.add(p.Samples...)
			have += len(p.Samples)
			if have != p.Attempts {
				return fmt.Errorf("the pod made %d, %d arrived", p.Attempts, have)
			}
			if p.Ended {
				return nil
			}
		}
		select {
		case <-time.After(pollEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Ask has the pod send one GET over a connection of its own, with headers as names and values in
// turn, and returns what came back: status 0 and the error's text where there was no answer.
// Redirects are not followed.
func (c Caller) Ask(ctx context.Context, url string, headers ...string) (status int, body string) {
	var r reply
	if err := c.do(ctx, askTimeout+controlTimeout, http.MethodPost, "/ask", question{url, headers}, &r); err != nil {
		return 0, err.Error()
	}
	return r.Status, r.Body
}

// do asks the control port, and reads its answer into out unless that is nil.
func (c Caller) do(ctx context.Context, timeout time.Duration, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+c.Address+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // nobody would close a kept connection
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", method, path, err)
	case answer.StatusCode != http.StatusOK:
		return fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, strings.TrimSpace(string(text)))
	case out == nil:
		return nil
	}
	return json.Unmarshal(text, out)
}
