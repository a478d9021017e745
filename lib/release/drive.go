// Package release runs a release: what each of the five steps does, and the record in which they
// meet.
//
// A step observes a snapshot of the cluster (snapshot.go), a pure function plans what to do about
// it, and drive carries the plan out and observes again, until the plan is done. There is no other
// state: a step that was killed is run again and goes on from what it finds. One file a step:
// init.go, shift.go, analyze.go, promote.go, rollback.go.
package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/kube/client"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// Release is a step at work on a target.
type Release struct {
	Request
	Client *client.Client
	Report *report.Reporter
	// Results is the path of one of the step's Tekton results; empty: none are written.
	Results string
	// PrometheusConfig is a directory that says how to get in to Prometheus; empty: none is needed.
	PrometheusConfig string
	// Source is the folder of the workspace that a specification may be in; empty: none is bound.
	Source string
	// Patience bounds how long rollback retries while the API server is unavailable or rejects
	// writes.
	Patience time.Duration
	// Outage bounds how long a step waits while the API server, or a webhook that it calls, is
	// unavailable.
	Outage time.Duration
	// PutRight changes the environment repository after a rollback; nil: the log says what to
	// change.
	PutRight PutRight
	// verdict is how the step ended, in a sentence.
	verdict string
	// stableWatch says how stable fails while it rolls; nil: Prometheus does.
	stableWatch func(context.Context) string
	untold      bool          // that the status of the Canary could not be written was said
	asked       bool          // whether there still is a Canary that events are about
	patience    time.Duration // what drive has of it now
}

// plan is what a step does next: one of writes, a wait, or being done.
type plan struct {
	writes []kube.Write
	wait   *pause
	done   *result
}

// pause is waiting: observing again, until something changed or the limit is over.
type pause struct {
	key   string        // what is waited for: the time begins anew with another one
	text  string        // what to tell people; empty: nothing
	limit time.Duration // 0: until the step is ended
	then  plan          // what to do when the limit is over
	run   string        // that is waited for
	watch *watched      // what will change when it is over; nil: only time will tell
}

// watched is an object whose change is waited for.
type watched struct {
	kind   kube.Kind
	object *kube.Object
}

// result is how a step ended.
type result struct {
	code    report.Code
	text    string // the last line of the log
	warning bool   // it is worth a warning event
	results map[string]string
	undone  bool // a release was rolled back, which Git does not know yet
}

// decided reports whether there is something to do. A plan that decides nothing leaves it to what
// is looked at next.
func (p plan) decided() bool { return len(p.writes) > 0 || p.wait != nil || p.done != nil }

// first returns the plan of the first phase that decides something.
func first(s *snapshot, phases ...func(*snapshot) plan) plan {
	for _, phase := range phases {
		if p := phase(s); p.decided() {
			return p
		}
	}
	return plan{}
}

func ended(code report.Code, format string, args ...any) plan {
	return plan{done: &result{code: code, text: fmt.Sprintf(format, args...), warning: code != report.Done}}
}

const (
	firstPoll    = 100 * time.Millisecond // between two looks at an object that is waited for, at first,
	lastPoll     = time.Second            // and after a while
	lookAround   = 5 * time.Second        // between two looks at everything meanwhile
	sayInterval  = 30 * time.Second       // between two lines that say the same
	maxConflicts = 20
	quiet        = 500 * time.Millisecond // a request is repeated without a word

	patience  = 10 * time.Minute // below the time for finally that the Pipeline is started with
	maxFight  = 30 * time.Second // for which a step writes again what somebody sets back
	maxOutage = 2 * time.Minute  // of the API server or istiod: a restart, or a move to another node
)

// drive observes, plans and applies until the plan is done. It returns an error that is a
// *report.Error where the plan ended with another code than Done.
func (r *Release) drive(ctx context.Context, what scope, next func(*snapshot) plan) error {
	d := &driver{Release: r, what: what, next: next, away: outage{patience: max(r.patience, r.Outage)}}
	for {
		if done, err := d.round(ctx); done || err != nil {
			return err
		}
	}
}

// driver is a plan on its way.
type driver struct {
	*Release
	what scope
	next func(*snapshot) plan

	waiting     *pause    // that was planned last
	since, said time.Time // since when that is waited for, and when people were told so
	conflicts   int       // since a write went through
	same        string    // what the last plan changed
	rounds      int       // in which the plan changed the same
	begun       time.Time // when the first of them was
	away        outage
}

// round observes, plans and applies once. It returns true when the plan is done.
func (d *driver) round(ctx context.Context) (done bool, err error) {
	if err := context.Cause(ctx); err != nil {
		return false, report.Errorf(report.Undecided, "ended before it was done: %v", err)
	}
	s, err := d.observe(ctx, d.what)
	if err != nil && (ctx.Err() != nil || client.Unavailable(err) && d.away.tolerated(ctx, d.Report, err)) {
		return false, nil // terminated, which the next round says, or to be tried again
	}
	if err != nil {
		return false, err
	}
	if d.waiting != nil {
		s.waitedFor = d.waiting.run
	}
	p := d.next(s)
	if !p.decided() {
		return false, errors.New("internal error; please report it with the log above: no plan for what was observed")
	}
	if p.wait != nil {
		if left := d.wait(s.now, p.wait); left > 0 {
			d.away.since = time.Time{}
			err := d.idle(ctx, p.wait.watch, left)
			if ctx.Err() != nil {
				err = nil // which the next round says
			}
			return false, err
		}
		p = p.wait.then
	}
	return d.applied(ctx, s, p, d.apply(ctx, s, p))
}

// applied is what follows from a plan whose writes went through, or did not.
func (d *driver) applied(ctx context.Context, s *snapshot, p plan, err error) (done bool, _ error) {
	switch {
	case errors.Is(err, kube.ErrConflict) && d.conflicts < maxConflicts:
		d.conflicts++
		sleep(ctx, 100*time.Millisecond)
		return false, nil
	case err != nil && (ctx.Err() != nil || d.mayPass(err) && d.away.tolerated(ctx, d.Report, err)):
		return false, nil // terminated, or to be tried again
	case err != nil:
		return false, err
	case p.done != nil:
		return true, d.finish(ctx, *p.done)
	}
	return false, d.progress(ctx, s.now, p)
}

// wait says what is waited for, and returns how long until the next look; 0 once the limit is over.
func (d *driver) wait(now time.Time, p *pause) time.Duration {
	if d.waiting == nil || d.waiting.key != p.key {
		d.since, d.said = now, time.Time{}
	}
	if p.text != "" && (d.waiting == nil || d.waiting.text != p.text || now.Sub(d.said) > sayInterval) {
		d.Report.Say("%s", p.text)
		d.said = now
	}
	d.waiting = p
	if p.limit == 0 {
		return lookAround
	}
	return min(lookAround, max(0, p.limit-now.Sub(d.since)))
}

// apply carries the writes of a plan out, and brings the status of a Canary up to date with them.
func (d *driver) apply(ctx context.Context, s *snapshot, p plan) (err error) {
	told := p.done == nil || d.Config == nil
	for _, w := range p.writes {
		if err = d.Client.Do(ctx, w); err != nil {
			break
		}
		told = told && !s.shown(w)
		d.away.since = time.Time{}
		if w.Say != "" {
			d.Report.Event(ctx, false, "%s", w.Say)
		}
	}
	if !told {
		d.tell(ctx, d.canaryOf(s))
	}
	return err
}

// progress ends a step whose writes went through and are undone each time: somebody sets back what
// it writes.
func (d *driver) progress(ctx context.Context, now time.Time, p plan) error {
	if d.conflicts = 0; p.changes() != d.same {
		d.same, d.rounds, d.begun = p.changes(), 0, now
	}
	if d.rounds++; d.rounds <= maxConflicts {
		return nil
	}
	if took := now.Sub(d.begun); took > max(d.patience, maxFight) {
		return report.Errorf(report.Undecided, "%s was written %d times in %s, and is as it was before each time: "+
			"somebody sets it back, or the API server leaves it out. Look at its managedFields",
			p.writes[0], d.rounds, took.Round(time.Second))
	}
	sleep(ctx, lastPoll)
	return nil
}

// changes is what a plan changes, without the guards of its writes: two plans that are the same
// have changed nothing in between.
func (p plan) changes() string {
	var b strings.Builder
	for _, w := range p.writes {
		w.Patch = slices.DeleteFunc(slices.Clone(w.Patch), func(o kube.Operation) bool { return o.Op == "test" })
		b.Write(marshal(w))
	}
	return b.String()
}

// mayPass reports whether a failed write may succeed later: always in an outage; when rejected,
// only to put traffic back.
func (r *Release) mayPass(err error) bool {
	return client.Unavailable(err) || r.patience > 0 && client.Refused(err)
}

// outage is a time in which the API server, or a webhook that it asks, is away or refuses what has
// to be done all the same.
type outage struct {
	patience    time.Duration
	since, said time.Time
}

// tolerated waits and reports whether to try again.
func (o *outage) tolerated(ctx context.Context, rep *report.Reporter, err error) bool {
	now := time.Now()
	if o.since.IsZero() {
		o.since = now
	}
	if now.Sub(o.since) >= o.patience {
		return false
	}
	if now.Sub(o.said) > sayInterval {
		rep.Say("%v; trying again for %s%s", err, (o.patience - now.Sub(o.since)).Round(time.Second),
			keptWeights(err.Error()))
		o.said = now
	}
	sleep(ctx, lookAround/2)
	return true
}

// keptWeights returns what an outage means for traffic when a VirtualService cannot be written:
// istiod checks each.
func keptWeights(what string) string {
	if strings.HasPrefix(what, "writing VirtualService") {
		return "; until then the proxies keep the weights that they have"
	}
	return ""
}

// waiting returns a callback that logs retries: once a request has been tried for 500 ms, and at
// most every 30 s.
func waiting(rep *report.Reporter) func(what string, tried time.Duration, err error) {
	var mu sync.Mutex // permissions are asked for side by side
	var said time.Time
	return func(what string, tried time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		if tried >= quiet && time.Since(said) > sayInterval {
			rep.Say("%s: %v; trying again%s", what, err, keptWeights(what))
			said = time.Now()
		}
	}
}

// idle waits for an object to change, or until a time is over.
func (r *Release) idle(ctx context.Context, w *watched, left time.Duration) error {
	until := time.Now().Add(left)
	for poll := firstPoll; ; poll = min(poll*3/2, lastPoll) {
		if w == nil {
			poll = left
		}
		sleep(ctx, min(poll, time.Until(until)))
		if w == nil || ctx.Err() != nil || !time.Now().Before(until) {
			return nil
		}
		now, err := r.Client.Get(ctx, w.kind, w.object.GetName(), nil)
		if err != nil || now == nil || now.GetResourceVersion() != w.object.GetResourceVersion() {
			return err
		}
	}
}

// finish writes the results and keeps the verdict, which is the last line of the log.
func (r *Release) finish(ctx context.Context, d result) error {
	if err := report.Results(r.Results, d.results); err != nil {
		return err
	}
	if d.code != report.Done {
		if d.warning {
			r.Report.Record(ctx, true, d.text)
		}
		return &report.Error{Code: d.code, Text: d.text}
	}
	r.verdict = d.text
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
