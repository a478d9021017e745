package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis"
	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/metrics"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// errStableFails ends a promotion: what was judged fails where it is to serve.
var errStableFails = errors.New("stable fails")

// guarded does something as long as stable's requests do not fail. Stable becomes what was judged
// meanwhile, so there is no other version to compare it with: it has to be shown to be beyond the
// limit. How long answers take is left out: pods that just began are slow. The error is a
// *report.Error where stable failed, and the record says why.
func (r *Release) guarded(ctx context.Context, do func(context.Context) error) error {
	s, err := r.observe(ctx, scope{})
	if err != nil {
		return err
	}
	watch, err := r.watchOfStable(s)
	if err != nil {
		return err
	}
	if watch == nil {
		return do(ctx) // which says so, or has nothing to roll
	}
	guarded, stop := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var text string
		if err := attempt(func() error { text = watch(guarded); return nil }); err != nil {
			r.Report.Say("what stable answers while it rolls is looked at no more: %v", err)
		}
		if text != "" {
			stop(fmt.Errorf("%w: %s", errStableFails, text))
		}
	}()
	err = do(guarded)
	stop(nil)
	<-ended
	why := context.Cause(guarded)
	if err == nil || !errors.Is(why, errStableFails) {
		return err
	}
	reason := fmt.Sprintf("%v while it becomes revision %s", why, s.record.Candidate.Revision)
	r.Report.Event(ctx, true, "Promotion of %s failed, %s", s.id(), reason)
	if err := r.stableFailed(ctx, reason); err != nil {
		return err
	}
	return r.finish(ctx,
		result{code: report.Rejected, text: fmt.Sprintf("%s: not promoted: %s", s.id(), reason),
			results: map[string]string{"outcome": string(Rejected)}})
}

// watchOfStable returns what says how stable fails while it rolls; nil where nothing can or need be
// looked at.
func (r *Release) watchOfStable(s *snapshot) (func(context.Context) string, error) {
	if !s.mine(r.Step.RunID) || s.record.Phase != Progressing && s.record.Phase != Promoting {
		return nil, nil
	}
	errorsOnly := slices.DeleteFunc(
		slices.Clone(s.record.Objectives), func(o analysis.Objective) bool { return o.Limit > 0 })
	for i := range errorsOnly {
		errorsOnly[i].Weight = 1 / float64(len(errorsOnly))
	}
	if len(errorsOnly) == 0 || r.stableWatch != nil {
		return r.stableWatch, nil
	}
	client, err := r.prometheus(&s.record.Config)
	if errors.Is(err, config.ErrForeign) {
		return nil, s.atOdds(err)
	}
	if err != nil { // that Prometheus cannot be asked is no failure
		r.Report.Say("what stable answers while it rolls is not looked at: %v", err)
		return nil, nil
	}
	test, err := analysis.NewSequential(
		analysis.Plan{Objectives: errorsOnly, Alpha: s.record.Config.Alpha, Intervals: 1}, analysis.Evidence{})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) string {
		return fails(ctx, client.Observe(r.measured(s), time.Now()), test)
	}, nil
}

// fails looks at each scrape until the context ends, and says how stable is shown to fail.
func fails(ctx context.Context, o *metrics.Observer, test *analysis.Sequential) string {
	test.Begin(true)
	for {
		sleep(ctx, leastPause)
		if ctx.Err() != nil {
			return ""
		}
		w, err := o.Look(ctx)
		if err != nil {
			continue
		}
		strata := slices.Clone(w.Strata)
		for i := range strata {
			strata[i].Candidate, strata[i].Stable = strata[i].Stable, counts.Counts{}
		}
		if signal := test.Look(w.Reporter, strata); signal.Reject {
			return signal.String()
		}
	}
}

// stableFailed ends a release whose version fails as stable: traffic goes where it is safe, and
// stable back to its own version.
func (r *Release) stableFailed(ctx context.Context, reason string) error {
	err := r.update(ctx, func(record *Record) {
		record.reject(reason, time.Now())
		record.StableFails = true
	})
	if err == nil {
		r.rollbackHere(ctx)
	}
	return err
}
