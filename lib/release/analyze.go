package release

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/metrics"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// Analyze is the step analyze: it observes the candidate from the moment it got its weight, judges it at the end of each interval, and takes
// its traffic away the moment it has failed too often, or could not be judged in time.
func (r *Release) Analyze(ctx context.Context) error {
	return r.orToStable(ctx, r.analyze(ctx))
}

func (r *Release) analyze(ctx context.Context) error {
	s, err := r.observe(ctx, scope{})
	if err != nil {
		return err
	}
	if p, ok := r.mayGoOn(s, Progressing); !ok {
		return r.finish(ctx, *p.done)
	}
	shift, cfg := s.record.shift(), s.record.Config
	if shift == nil {
		return report.Errorf(report.Undecided, "%s: there is nothing to judge: the candidate has no weight yet", s.id(r.Client.Namespace))
	}
	if shift.Passed {
		return r.finish(ctx, result{text: fmt.Sprintf("%s was judged good at %d %% already", s.id(r.Client.Namespace), shift.Weight), results: verdict(analysis.Pass, "")})
	}
	prometheus, err := metrics.New(cfg.Prometheus)
	if err != nil {
		return err
	}
	target := metrics.Target{Namespace: r.Client.Namespace,
		Stable:    metrics.Arm{Workload: s.layout.Primary(), Service: s.layout.PrimaryService()},
		Candidate: metrics.Arm{Workload: s.layout.Target, Service: s.layout.CanaryService()}}
	j := judge{limits: analysis.Limits{SuccessRate: cfg.SuccessRate, RequestDuration: cfg.RequestDuration.Duration},
		interval: cfg.Interval.Duration, deadline: shift.At.Add(time.Duration(cfg.Threshold+1) * cfg.Interval.Duration)}
	r.Report.Say("observing %s at %d %% for %s: success rate >= %v%%, request duration <= %s, threshold %d (%d failed so far)", s.id(r.Client.Namespace),
		shift.Weight, cfg.Interval, cfg.SuccessRate, cfg.RequestDuration, cfg.Threshold, s.record.FailedChecks)
	observer := prometheus.Observe(target, shift.At)
	pause := min(max(cfg.Interval.Duration/10, time.Second), 5*time.Second)
	said := ""
	for {
		sleep(ctx, pause)
		if err := context.Cause(ctx); err != nil {
			return report.Errorf(report.Undecided, "ended before it was judged: %v", err)
		}
		if s, err = r.observe(ctx, scope{}); err != nil {
			return err
		}
		if p, ok := r.mayGoOn(s, Progressing); !ok {
			return r.finish(ctx, *p.done)
		}
		w, err := observer.Look(ctx)
		if err != nil {
			if said != err.Error() && ctx.Err() == nil {
				said = err.Error()
				r.Report.Say("%s; asking again, this is no failed check", said)
			}
			if time.Now().After(j.deadline) {
				return r.undecided(ctx, s, analysis.Result{Verdict: analysis.Error, Reason: analysis.QueryFails, Text: err.Error()})
			}
			continue
		}
		judged, ok := j.look(w, time.Now())
		if !ok {
			continue
		}
		switch judged.Verdict {
		case analysis.Pass:
			r.Report.Say("%s passed at %d %%: %s", s.id(r.Client.Namespace), shift.Weight, judged.Text)
			if err := r.note(ctx, judged); err != nil {
				return err
			}
			return r.finish(ctx, result{text: fmt.Sprintf("%s is good at %d %% of the traffic", s.id(r.Client.Namespace), shift.Weight), results: verdict(analysis.Pass, "")})
		case analysis.Fail:
			failed := s.record.FailedChecks + 1
			r.Report.Event(ctx, true, "Halt %s advancement %s (failed check %d of %d)", s.id(r.Client.Namespace), judged.Text, failed, cfg.Threshold)
			if failed >= cfg.Threshold {
				return r.reject(ctx, s, judged, failed)
			}
			if err := r.note(ctx, judged); err != nil {
				return err
			}
		default:
			return r.undecided(ctx, s, judged)
		}
	}
}

// judge decides when there is something to decide. Each failed check is of an interval of its own; one in which there was too little to judge
// is extended instead.
type judge struct {
	limits   analysis.Limits
	interval time.Duration
	deadline time.Time
	begin    time.Time // first scrape of this interval
	before   metrics.Window
}

// look returns a judgement when an interval is complete and there is enough to judge, or when the deadline is over.
func (j *judge) look(w metrics.Window, now time.Time) (analysis.Result, bool) {
	if j.begin.IsZero() {
		j.begin = w.From
	}
	interval := w
	interval.Candidate, interval.Stable = w.Candidate.Minus(j.before.Candidate), w.Stable.Minus(j.before.Stable)
	complete := !w.To.IsZero() && w.To.Sub(j.begin) >= j.interval
	if !complete && now.Before(j.deadline) {
		return analysis.Result{}, false
	}
	judged := analysis.Check(j.limits, interval)
	if judged.Verdict == analysis.Inconclusive && now.Before(j.deadline) {
		return analysis.Result{}, false
	}
	if !complete && judged.Verdict == analysis.Pass { // time is over, and what was seen is less than an interval
		judged.Verdict, judged.Reason, judged.Text = analysis.Inconclusive, analysis.TooFew, "too few scrapes in time: "+judged.Text
	}
	j.begin, j.before = w.To, w
	return judged, true
}

func verdict(v analysis.Verdict, reason analysis.Reason) map[string]string {
	return map[string]string{"verdict": string(v), "reason": string(reason)}
}

// note adds a judgement to the record.
func (r *Release) note(ctx context.Context, judged analysis.Result) error {
	return r.update(ctx, func(record *Record) {
		shift := record.shift()
		shift.Checks = append(shift.Checks, judged)
		shift.Passed = judged.Verdict == analysis.Pass
		if judged.Verdict == analysis.Fail {
			record.FailedChecks++
		}
	})
}

// reject ends the release: the candidate's traffic goes first, then it is noted, so that the revision is not released again.
func (r *Release) reject(ctx context.Context, s *snapshot, judged analysis.Result, failed int) error {
	begin := time.Now()
	if err := r.toStable(ctx); err != nil {
		return err
	}
	r.Report.Say("the candidate's traffic was taken away %d ms after the verdict", time.Since(begin).Milliseconds())
	reason := fmt.Sprintf("failed checks threshold reached %d: %s", failed, judged.Text)
	if err := r.note(ctx, judged); err != nil {
		return err
	}
	err := r.update(ctx, func(record *Record) {
		record.Outcome, record.Reason = Rejected, reason
		record.Rejected = append(record.Rejected, Rejection{Revision: record.Candidate.Revision, Reason: reason, Run: record.Run, At: time.Now().UTC()})
		record.Rejected = record.Rejected[max(0, len(record.Rejected)-maxRejected):]
	})
	if err != nil {
		return err
	}
	return r.finish(ctx, result{code: report.Rejected, text: fmt.Sprintf("%s: rejected: %s", s.id(r.Client.Namespace), reason), results: verdict(judged.Verdict, judged.Reason)})
}

// undecided ends a release that could not be judged in time.
func (r *Release) undecided(ctx context.Context, s *snapshot, judged analysis.Result) error {
	if err := r.toStable(ctx); err != nil {
		return err
	}
	if err := r.note(ctx, judged); err != nil {
		return err
	}
	err := r.update(ctx, func(record *Record) { record.Outcome, record.Reason = Inconclusive, judged.Text })
	if err != nil {
		return err
	}
	return r.finish(ctx, result{code: report.Undecided, warning: true, results: verdict(judged.Verdict, judged.Reason),
		text: fmt.Sprintf("%s: inconclusive: %s; not promoted", s.id(r.Client.Namespace), judged.Text)})
}

// update changes the record, as long as this run holds the target.
func (r *Release) update(ctx context.Context, change func(*Record)) error {
	for conflicts := 0; ; conflicts++ {
		s, err := r.observe(ctx, scope{recordOnly: true})
		if err != nil {
			return err
		}
		if s.record == nil || !s.mine(r.Step.RunID) {
			return report.Errorf(report.Undecided, "superseded: another run holds the target now")
		}
		next := s.record.clone()
		change(next)
		if err = r.Client.Do(ctx, s.write(next, "")); !errors.Is(err, kube.ErrConflict) || conflicts == maxConflicts {
			return err
		}
	}
}
