package release

import (
	"context"
	"fmt"
	"math"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// Shift is the step shift-weight: it gives the candidate a weight, once both versions serve.
func (r *Release) Shift(ctx context.Context) error {
	return r.orToStable(ctx, func() error { return r.drive(ctx, scope{autoscalers: true}, r.planShift) })
}

func (r Request) planShift(s *snapshot) plan {
	weight := int32(r.Step.Weight)
	if p := r.mayGoOn(s, Progressing); p.decided() {
		return p
	}
	if remedy := s.record.refused(weight); remedy != "" {
		return ended(report.Undecided, "%s: parameter weight is %d: %s", s.id(), weight, remedy)
	}
	last := s.record.shift()
	done := &result{text: fmt.Sprintf(
		"%s has %d %% of the traffic, stable %d %%", s.id(), weight, 100-weight),
		results: map[string]string{"weight": fmt.Sprint(weight)}}
	if s.split.Candidate == weight && s.split.Stable == 100-weight {
		if last != nil && last.Weight == weight {
			return plan{done: done}
		}
		next := s.record.clone()
		next.Shifts = append(next.Shifts, Shift{Weight: weight, At: s.now.UTC()})
		return plan{writes: []kube.Write{s.write(next, "")}, done: done}
	}
	for _, d := range []*deployment{s.target, s.primary} {
		if p := r.planRollout(s, d, "for "+fmt.Sprint(weight)+" %"); p.decided() {
			return p
		}
	}
	if p := r.shiftPods(s, weight); p.decided() {
		return p
	}
	w := s.split.Shift(weight, s.record.Epoch)
	w.Say = fmt.Sprintf("Advance %s canary weight %d", s.id(), weight)
	return plan{writes: []kube.Write{*w}}
}

// shiftPods gives the candidate at least the share of pods that it gets of the traffic.
func (r Request) shiftPods(s *snapshot, weight int32) plan {
	stable := s.primary.Status.AvailableReplicas
	has, needs := s.target.Status.AvailableReplicas, int32(math.Ceil(float64(stable)*float64(weight)/100))
	if has >= needs {
		return plan{}
	}
	if writes := s.hold(needs, 0); len(writes) > 0 {
		return plan{writes: writes}
	}
	if workload.Replicas(s.target.Deployment) < needs { // stable has grown
		return plan{writes: []kube.Write{s.target.scale(needs,
			fmt.Sprintf("Scaling up %s to %d pods for %d %% of the traffic", s.id(), needs, weight))}}
	}
	return plan{wait: &pause{
		key: "pods for the weight", watch: &watched{kube.Deployment, s.target.object},
		limit: s.record.Config.ProgressDeadline.Duration,
		text: fmt.Sprintf("%s has %d pods; %d %% of the traffic needs %d beside stable's %d", s.id(), has, weight,
			needs, stable),
		then: ended(report.Undecided, "%s did not get the %d pods that %d %% of the traffic needs", s.id(), needs,
			weight)}}
}

// refused returns why a weight is not the next one of the release, and what to do; "" when it is.
// The present weight is given again.
func (r *Record) refused(weight int32) string {
	last, next := r.shift(), int32(0)
	if last != nil && last.Weight == weight {
		return ""
	}
	for _, w := range r.Config.Weights {
		if last == nil || int32(w) > last.Weight {
			next = int32(w)
			break
		}
	}
	switch {
	case last != nil && !last.Passed:
		return fmt.Sprintf("weight %d is not judged yet: run analyze first", last.Weight)
	case next == 0:
		return fmt.Sprintf("the last weight of this release, %d, is judged: run promote", last.Weight)
	case next != weight:
		return fmt.Sprintf(
			"the next weight of this release is %d, of %v: set weight=%d, or run rollback to end the release", next,
			r.Config.Weights, next)
	}
	return ""
}

// mayGoOn checks what every step after canary-init begins with: this run holds the target, the
// release is in the phase, the target is still what is being released, and the weights are those
// that were set last. It is the plan to end with where not, and decides nothing otherwise.
func (r Request) mayGoOn(s *snapshot, phase Phase) plan {
	return first(s,
		r.holds,
		func(s *snapshot) plan { return r.isIn(s, phase) },
		r.routeIsOurs,
		func(s *snapshot) plan { return r.isCurrent(s, phase) },
		func(s *snapshot) plan { return r.weightIsOurs(s, phase) })
}

// holds checks that this run holds the target.
func (r Request) holds(s *snapshot) plan {
	switch record := s.record; {
	case record == nil && s.lost():
		return ended(report.Undecided, "%s: %s", s.id(), s.noRecord())
	case record == nil:
		return ended(report.Undecided, "%s: there is no release record (ConfigMap %s): canary-init has not run",
			s.id(), s.layout.Record())
	case s.unchanged(r.Step.RunID): // not every pipeline can leave out the steps that have nothing to do then
		return plan{done: &result{
			text: fmt.Sprintf("%s: nothing to do: stable runs revision %s already", s.id(), s.revision)}}
	case !s.mine(r.Step.RunID):
		return ended(report.Undecided, "%s: superseded: run %s holds the target now (revision %s)", s.id(),
			record.Run, record.Candidate.Revision)
	}
	return plan{}
}

// isIn checks that the release is in a phase and has not ended.
func (r Request) isIn(s *snapshot, phase Phase) plan {
	switch record := s.record; {
	case record.Outcome == Rejected:
		return ended(report.Rejected, "%s: this release was rejected: %s", s.id(), record.Reason)
	case record.Phase == Succeeded: // initialized or unchanged
		return plan{done: &result{
			text: fmt.Sprintf("%s: nothing to do: the release ended as %s", s.id(), record.Outcome)}}
	case record.Phase != phase || record.Outcome != "":
		return ended(report.Undecided, "%s: the release is %s (%s), not %s: nothing was changed", s.id(),
			record.Phase, record.Outcome, phase)
	}
	return plan{}
}

// routeIsOurs checks that both versions are there, and that the route is as this release left it.
func (r Request) routeIsOurs(s *snapshot) plan {
	switch {
	case s.target == nil || s.primary == nil:
		return ended(report.Undecided, "%s: Deployment %s or %s is gone", s.id(), s.layout.Target, s.layout.Primary())
	case s.split == nil:
		return ended(report.Undecided, "%s: %s", s.id(), s.misrouted())
	case s.split.Fence == "":
		return ended(report.Undecided, "%s: VirtualService %s was replaced: it lost the annotation %s. %s wrote it",
			s.id(), s.layout.VirtualService, workload.RouteFence(s.layout.Target), kube.LastManager(s.virtualService))
	case !s.split.Fenced(s.record.Epoch):
		return ended(report.Undecided, "%s: VirtualService %s was fenced off by another release", s.id(),
			s.layout.VirtualService)
	}
	return plan{}
}

// isCurrent checks that the target is still what is being released, and that there is time left.
func (r Request) isCurrent(s *snapshot, phase Phase) plan {
	switch record := s.record; {
	case phase != Progressing:
		return plan{}
	case record.Candidate.Revision != s.revision:
		return r.superseded(s)
	case s.now.After(record.Expires.Add(-toEnd)):
		return ended(report.Undecided,
			"%s: the release did not end within deadline=%s: give a longer one, or fewer weights", s.id(),
			record.Config.Deadline)
	}
	return plan{}
}

// weightIsOurs checks that the candidate has the weight that this release gave it last.
func (r Request) weightIsOurs(s *snapshot, phase Phase) plan {
	want, now := int32(0), s.split.Candidate
	if last := s.record.shift(); last != nil {
		want = last.Weight
	}
	// A process may have ended before it noted what it gave.
	given := r.Step.Weight > 0 && now == int32(r.Step.Weight) || phase == Promoting && now == 0
	if now == want || given {
		return plan{}
	}
	return ended(report.Undecided,
		"%s: the candidate's weight is %d, this release set %d: %s wrote VirtualService %s", s.id(), now, want,
		kube.LastManager(s.virtualService), s.layout.VirtualService)
}

// orToStable ends a step that did not do what it is for: the candidate's traffic is taken away,
// whatever the reason, as long as this run holds the target. It is all that runs when a pipeline is
// cancelled.
func (r *Release) orToStable(ctx context.Context, do func() error) error {
	failed := attempt(do)
	if failed == nil {
		return nil
	}
	told := ctx.Err() != nil
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceful)
	defer cancel()
	if err := r.toStable(ctx); err != nil {
		r.Report.Say("the candidate's traffic could not be taken away: %v", err)
	}
	if told {
		if err := r.noteInterrupted(ctx); err != nil {
			r.Report.Say("it could not be noted that this run was interrupted: %v", err)
		}
	}
	return failed
}

// noteInterrupted notes that a step was terminated, so that the next run need not wait for this
// one.
func (r *Release) noteInterrupted(ctx context.Context) error {
	return r.drive(ctx, scope{recordOnly: true}, func(s *snapshot) plan {
		byHand := s.record != nil && r.Step.RunID == "" && s.record.Phase == RollingBack
		if s.record == nil || !s.mine(r.Step.RunID) && !byHand || s.record.Phase.ended() || s.record.Interrupted {
			return plan{done: &result{}}
		}
		next := s.record.clone()
		next.Interrupted = true
		return plan{writes: []kube.Write{s.write(next, "")}}
	})
}

// toStable leads traffic to where it is safe. It is an error where the candidate has to keep some.
func (r *Release) toStable(ctx context.Context) error {
	patient := *r
	patient.patience = min(r.Patience, graceful*3/4) // what is left is for the record
	return patient.drive(ctx, scope{endpoints: true}, r.planBack)
}
