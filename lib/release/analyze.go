package release

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis"
	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/metrics"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// Analyze is the step analyze: it observes the candidate from the moment it got its weight, judges
// it at the end of each interval, and takes its traffic away the moment it has failed too often, or
// could not be judged in time.
func (r *Release) Analyze(ctx context.Context) error {
	return r.orToStable(ctx, func() error { return r.analyze(ctx) })
}

func (r *Release) analyze(ctx context.Context) error {
	s, err := r.observe(ctx, scope{})
	if err != nil {
		return err
	}
	if p := r.mayGoOn(s, Progressing); p.decided() {
		return r.finish(ctx, *p.done)
	}
	shift, cfg := s.record.shift(), s.record.Config
	if shift == nil {
		return report.Errorf(
			report.Undecided, "%s: there is nothing to judge: the candidate has no weight yet",
			s.id())
	}
	if shift.Passed {
		return r.finish(ctx,
			result{text: fmt.Sprintf("%s was judged good at %d %% already", s.id(), shift.Weight),
				results: verdict(analysis.Pass, "")})
	}
	watch, err := r.watch(s)
	if err != nil {
		return err
	}
	r.Report.Say("observing %s at %d %% for %s: success rate >= %v%%, request duration <= %s, "+
		"threshold %d (%d failed so far)", s.id(),
		shift.Weight, cfg.Interval, cfg.SuccessRate, cfg.RequestDuration, cfg.Threshold, s.record.FailedChecks)
	for {
		judged, err := r.await(ctx, watch)
		if err != nil {
			return err
		}
		if judged.done != nil {
			return r.finish(ctx, *judged.done)
		}
		if again, err := r.conclude(ctx, watch, judged.Result); !again {
			return err
		}
	}
}

// conclude does what follows from a judgement. It returns true where the candidate is looked at
// again: a check failed, and not yet too many.
func (r *Release) conclude(ctx context.Context, w *watch, judged analysis.Result) (again bool, err error) {
	shift, threshold := w.record.shift(), w.record.Config.Threshold
	switch {
	case judged.Verdict == analysis.Pass:
		r.Report.Say("%s passed at %d %%: %s", w.id, shift.Weight, judged.Text)
		if err := r.note(ctx, judged, w); err != nil {
			return false, err
		}
		return false, r.finish(ctx, result{
			text:    fmt.Sprintf("%s is good at %d %% of the traffic", w.id, shift.Weight),
			results: verdict(analysis.Pass, "")})
	case judged.Verdict == analysis.Fail && judged.Early:
		return false, r.reject(ctx, w, judged, judged.Text)
	case judged.Verdict == analysis.Fail:
		failed := w.record.FailedChecks + 1
		r.Report.Event(ctx, true, "Halt %s advancement %s (failed check %d of %d)", w.id, judged.Text, failed,
			threshold)
		if failed >= threshold {
			return false, r.reject(ctx, w, judged,
				fmt.Sprintf("failed checks threshold reached %d: %s", failed, judged.Text))
		}
		if err := r.note(ctx, judged, w); err != nil {
			return false, err
		}
		w.observed = time.Time{}
		return true, nil
	case judged.Reason == analysis.Environment:
		return false, r.environment(ctx, w, judged)
	case judged.Reason == analysis.SplitNotHonoured:
		judged.Text += listed(ctx, "by caller", w.observer.Callers)
	}
	return false, r.undecided(ctx, w, judged)
}

// watch is the observation of one weight.
type watch struct {
	id       string
	record   *Record // as it was seen last
	client   *metrics.Client
	target   metrics.Target
	observer *metrics.Observer
	judge    analysis.Judge
	observed time.Time // when the cluster was looked at last
	said     string    // of Prometheus' errors
	saidAt   time.Time
}

// watch begins to observe where the last judgement at this weight ended, or where the weight was
// given: what was scraped before this process began is seen, too.
func (r *Release) watch(s *snapshot) (*watch, error) {
	shift, cfg := s.record.shift(), s.record.Config
	client, err := r.prometheus(&cfg)
	if err != nil {
		return nil, s.atOdds(err)
	}
	w := &watch{id: s.id(), record: s.record, client: client, target: r.measured(s)}
	since := shift.At
	for _, check := range shift.Checks {
		if check.To.After(since) {
			since = check.To
		}
	}
	w.observer = client.Observe(w.target, since)
	w.judge = analysis.Judge{
		Limits: limitsOf(&cfg), Interval: cfg.Interval.Duration, Weight: float64(shift.Weight) / 100,
		Shared:   s.split != nil && s.split.Shared,
		Deadline: shift.At.Add(time.Duration(cfg.Threshold+1) * cfg.Interval.Duration)}
	if len(s.record.Objectives) == 0 {
		return w, nil
	}
	if w.judge.Sequential,
		err = analysis.NewSequential(planOf(&cfg, s.record.Objectives), s.record.Evidence); err != nil {
		return nil, err
	}
	if cfg.EarlyPass {
		evidence := s.record.Acceptance
		if len(shift.Checks) == 0 { // of the weight before
			evidence = nil
		}
		w.judge.Acceptance, err = analysis.NewAcceptance(s.record.Objectives, cfg.Alpha, acceptanceMargin, evidence)
	}
	return w, err
}

// acceptanceMargin is how many times stable's rate a candidate may have that is passed early.
const acceptanceMargin = 1.25

// judgement is a Result, or how the step ends without one.
type judgement struct {
	analysis.Result
	done *result
}

// Prometheus is asked more often than the cluster: a failing candidate is found with the scrape
// that shows it, and scrapes are seldom.
const (
	mostPause   = 2 * time.Second
	lookAtMesh  = 5 * time.Second
	leastPause  = time.Second
	pauseShares = 10 // of an interval
)

func (w *watch) pause(ctx context.Context) {
	sleep(ctx, min(max(w.judge.Interval/pauseShares, leastPause), mostPause))
}

// await looks until there is a judgement.
func (r *Release) await(ctx context.Context, w *watch) (judgement, error) {
	for {
		w.pause(ctx)
		if err := context.Cause(ctx); err != nil {
			return judgement{}, report.Errorf(report.Undecided, "ended before it was judged: %v", err)
		}
		if time.Since(w.observed) >= lookAtMesh {
			s, err := r.observe(ctx, scope{})
			if err != nil {
				return judgement{}, err
			}
			w.record, w.observed = s.record, time.Now()
			if p := r.mayGoOn(s, Progressing); p.decided() {
				return judgement{done: p.done}, nil
			}
		}
		judged, ok, err := r.look(ctx, w)
		switch {
		case err == nil && ok:
			return judgement{Result: judged}, nil
		case err == nil || ctx.Err() != nil:
			continue
		}
		if w.said != err.Error() && time.Since(w.saidAt) > sayInterval { // some have another number in them each time
			w.said, w.saidAt = err.Error(), time.Now()
			r.Report.Say("%s; retrying; not counted as a failed check", w.said)
		}
		if time.Now().After(w.judge.Deadline) {
			reason := analysis.QueryFails
			if errors.Is(err, metrics.ErrWarning) {
				reason = analysis.Warns
			}
			return judgement{Result: analysis.Result{Verdict: analysis.Error, Reason: reason, Text: err.Error()}}, nil
		}
	}
}

// look looks once. The error is Prometheus'.
func (r *Release) look(ctx context.Context, w *watch) (judged analysis.Result, ok bool, err error) {
	var counted counts.Window
	for more := true; more; more = counted.More { // a step that begins late catches up
		if counted, err = w.observer.Look(ctx); err != nil {
			return judged, false, err
		}
		if judged, ok = w.judge.Look(counted); ok {
			return judged, true, nil
		}
	}
	if !w.judge.Due(counted, time.Now()) {
		return judged, false, nil
	}
	own, err := w.own(ctx)
	if err != nil {
		return judged, false, err
	}
	judged, ok = w.judge.Check(counted, own, time.Now())
	return judged, ok, nil
}

// own evaluates custom queries, each as soon as its whole range lies after the shift.
func (w *watch) own(ctx context.Context) ([]analysis.Measured, error) {
	var all []analysis.Measured
	for _, m := range w.record.Config.Metrics {
		query, reach, err := ownQuery(&w.record.Config, m)
		if err != nil {
			return nil, err
		}
		one := analysis.Measured{Name: m.Name, Min: m.ThresholdRange.Min, Max: m.ThresholdRange.Max}
		if wait := time.Until(w.record.shift().At.Add(reach)); wait > 0 {
			one.Missing, one.Text = analysis.TooFew,
				fmt.Sprintf("too few: its query looks %s back, which is before the shift for %s more", reach,
					wait.Round(time.Second))
		} else if one.Value, err = w.client.Value(ctx, query); errors.Is(err, metrics.ErrSeveralSeries) {
			one.Missing, one.Text = analysis.SeveralSeries, err.Error()
		} else if errors.Is(err, metrics.ErrNoValues) {
			one.Missing, one.Text = analysis.NoValues, err.Error()
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		all = append(all, one)
	}
	return all, nil
}

// listed is what people should know of a judgement beside its numbers: callers with the shares that
// they give the candidate (one that is outside of the mesh gives it none), or how its requests
// ended.
func listed[T fmt.Stringer](ctx context.Context, what string, ask func(context.Context) ([]T, error)) string {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	all, err := ask(ctx)
	if err != nil || len(all) == 0 {
		return ""
	}
	var texts []string
	for _, one := range all[:min(len(all), mostListed)] {
		texts = append(texts, one.String())
	}
	return "; " + what + ": " + strings.Join(texts, ", ")
}

// mostListed are named at most, and asked for no longer than listTime: the judgement is not in the
// record yet.
const (
	mostListed = 5
	listTime   = 5 * time.Second
)

// environment takes the candidate's traffic away, as both versions are beyond the limits, and looks
// whether stable recovers at once: then it was the candidate.
func (r *Release) environment(ctx context.Context, w *watch, judged analysis.Result) error {
	interval := w.judge.Interval
	r.Report.Event(ctx, true,
		"Halt %s advancement %s; stable gets all the traffic and is watched for up to %s, no check failed", w.id,
		judged.Text, 3*interval)
	if err := r.toStable(ctx); err != nil {
		return err
	}
	observer := w.client.Observe(w.target, time.Now())
	recovery := analysis.Recovery{Limits: w.judge.Limits} // stable is judged by the candidate's
	for deadline := time.Now().Add(3 * interval); ; {
		w.pause(ctx)
		if err := context.Cause(ctx); err != nil {
			return report.Errorf(report.Undecided, "ended before it was judged: %v", err)
		}
		recovered, known := false, false
		if now, err := observer.Look(ctx); err == nil {
			recovered, known = recovery.Look(now)
		}
		switch {
		case recovered:
			judged.Verdict, judged.Text = analysis.Fail,
				"stable recovered at once when the candidate was taken away: "+judged.Text
			return r.reject(ctx, w, judged, judged.Text)
		case known || time.Now().After(deadline):
			judged.Text += "; stable is not shown to have recovered at once when the candidate was taken away: " +
				"nobody knows whose fault it was"
			return r.undecided(ctx, w, judged)
		}
	}
}

func verdict(v analysis.Verdict, reason analysis.Reason) map[string]string {
	return map[string]string{"verdict": string(v), "reason": string(reason)}
}

// note adds a judgement to the record, what the sequential test has come to by then, and in the
// same write what follows from it.
func (r *Release) note(ctx context.Context, judged analysis.Result, w *watch, follows ...func(*Record)) error {
	return r.update(ctx, func(record *Record) {
		shift := record.shift()
		shift.Checks = append(shift.Checks, judged)
		shift.Passed = judged.Verdict == analysis.Pass
		if judged.Verdict == analysis.Fail && !judged.Early && judged.Reason != analysis.Environment {
			record.FailedChecks++
		}
		if w.judge.Sequential != nil {
			record.Evidence = w.judge.Sequential.Evidence()
		}
		if w.judge.Acceptance != nil {
			record.Acceptance = w.judge.Acceptance.Evidence()
		}
		for _, change := range follows {
			change(record)
		}
	})
}

// reject ends the release: the candidate's traffic goes first, then it is noted, so that the
// revision is not released again.
func (r *Release) reject(ctx context.Context, w *watch, judged analysis.Result, reason string) error {
	begin := time.Now()
	if err := r.toStable(ctx); err != nil {
		// the verdict stands, and this is tried again at the end
		r.Report.Say("the candidate's traffic could not be taken away: %v", err)
	} else {
		r.Report.Say("the candidate's traffic was taken away %d ms after the verdict", time.Since(begin).Milliseconds())
	}
	answers := listed(ctx, "its answers", w.observer.Answers)
	judged.Text, reason = judged.Text+answers, reason+answers
	err := r.note(ctx, judged, w, func(record *Record) {
		record.reject(reason, time.Now())
	})
	if err != nil {
		return err
	}
	return r.finish(ctx,
		result{code: report.Rejected, text: fmt.Sprintf("%s: rejected: %s", w.id, reason),
			results: verdict(judged.Verdict, judged.Reason)})
}

// undecided ends a release that could not be judged in time.
func (r *Release) undecided(ctx context.Context, w *watch, judged analysis.Result) error {
	if err := r.toStable(ctx); err != nil {
		r.Report.Say("the candidate's traffic could not be taken away: %v", err)
	}
	if err := r.note(ctx, judged, w,
		func(record *Record) { record.Outcome, record.Reason = Inconclusive, judged.Text }); err != nil {
		return err
	}
	return r.finish(ctx, result{code: report.Undecided, warning: true, results: verdict(judged.Verdict, judged.Reason),
		text: fmt.Sprintf("%s: inconclusive: %s; not promoted", w.id, judged.Text)})
}

// update changes the record, as long as this run holds the target.
func (r *Release) update(ctx context.Context, change func(*Record)) error {
	return r.drive(ctx, scope{recordOnly: true}, func(s *snapshot) plan {
		if !s.mine(r.Step.RunID) {
			return plan{done: &result{
				code: report.Undecided, text: "superseded: another run holds the target now"}}
		}
		next := s.record.clone()
		change(next)
		return plan{writes: []kube.Write{s.write(next, "")}, done: &result{}}
	})
}
