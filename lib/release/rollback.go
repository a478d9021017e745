package release

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/routing"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// graceful is how long a step that was told to end has to take the candidate's traffic away: less than the grace period of a pod.
const graceful = 20 * time.Second

// Rollback is the step rollback: all traffic to stable, stable back on the revision it had, the candidate scaled to zero. With a run id it
// undoes what that run did and nothing else; without one, which is by hand, the last release.
func (r *Release) Rollback(ctx context.Context) error {
	if r.Step.Mode == config.Detach {
		return r.Detach(ctx)
	}
	r.patience = r.Patience
	var last *routing.Split // that could be moved by hand
	var undone *Record
	err := r.drive(ctx, scope{service: true, autoscalers: true, history: true}, func(s *snapshot) plan {
		if last = s.split; !s.stableServes() {
			last = nil
		}
		p := r.planRollback(s)
		if p.done != nil && p.done.undone {
			undone = s.record
		}
		return p
	})
	if err != nil && last != nil && last.Candidate > 0 {
		r.Report.Say("to send all traffic to stable by hand: %s", last.ByHand())
	}
	if err != nil || undone == nil {
		return err
	}
	return r.putGitRight(ctx, undone)
}

func (r *Release) planRollback(s *snapshot) plan {
	ns, record := r.Client.Namespace, s.record
	byHand := r.Step.RunID == ""
	nothing := func(why string) plan {
		outcome := Refused
		if record != nil && slices.Contains(record.Before, r.Step.RunID) {
			outcome = Superseded
		}
		return plan{done: &result{text: fmt.Sprintf("%s.%s: nothing of this run to undo: %s", s.layout.Target, ns, why), results: map[string]string{"outcome": string(outcome)}}}
	}
	switch {
	case record == nil:
		return nothing("there is no release record")
	case !byHand && !s.mine(r.Step.RunID):
		return nothing(fmt.Sprintf("run %s was the last to hold the target", record.Run))
	case record.Phase == Succeeded && (!byHand || record.Outcome != Promoted):
		return nothing(fmt.Sprintf("the release ended as %s", record.Outcome))
	case record.Phase == Failed:
		return r.rolledBack(s)
	case record.Phase != RollingBack:
		next := record.clone()
		next.Phase, next.Epoch = RollingBack, record.Epoch+1
		next.Outcome = cmp.Or(record.Outcome, Aborted)
		if record.Phase == Succeeded {
			next.Outcome, next.Reason = Aborted, "rolled back by hand after its promotion"
			next.Promoted, next.Former = record.Former, Version{}
		}
		return plan{writes: []kube.Write{s.write(next, fmt.Sprintf("Rolling back %s %s", s.id(ns), cmp.Or(record.Reason, string(next.Outcome))))}}
	}
	if s.split != nil && (s.mayTakeAll() || s.split.Candidate == 0) {
		if w := s.split.Raise(0, record.Epoch); w != nil {
			return plan{writes: []kube.Write{*w}}
		}
	}
	stable := record.Stable
	if s.primary == nil && stable.Revision != "" {
		return r.withoutStable(s)
	}
	if s.primary != nil && stable.Revision != "" {
		if s.primary.Annotations[workload.FenceAnnotation] != epochText(record.Epoch) {
			return plan{writes: []kube.Write{s.primary.fence(record.Epoch)}}
		}
		if now := workload.RevisionOf(s.primary.Deployment); now != stable.Revision && now == record.Candidate.Revision {
			return plan{writes: []kube.Write{s.primary.roll(stable.Template, max(stable.Replicas, workload.Replicas(s.primary.Deployment)), record.Epoch,
				fmt.Sprintf("Bringing %s.%s back to revision %s", s.layout.Primary(), ns, stable.Revision))}}
		}
		if state := workload.RolloutOf(s.primary.Deployment, int32(record.Config.ReadyThreshold)); !state.Done {
			return plan{wait: &pause{key: "stable", watch: &watched{kube.Deployment, s.primary.object}, text: fmt.Sprintf("%s.%s not ready: %s", s.layout.Primary(), ns, state.Text), limit: record.Config.ProgressDeadline.Duration,
				then: func() plan {
					return ended(report.Undecided, "%s: stable does not come back to revision %s: %s", s.id(ns), stable.Revision, state.Text)
				}}}
		}
		if w := s.leadBack(ns); w != nil {
			return plan{writes: []kube.Write{*w}}
		}
		if s.target != nil && workload.Replicas(s.target.Deployment) > 0 && s.split != nil && s.split.Candidate == 0 {
			return r.settle("drain", record.Config.Drain.Duration, func() plan {
				return plan{writes: []kube.Write{s.target.scale(0, fmt.Sprintf("Canary failed! Scaling down %s", s.id(ns)))}}
			})
		}
	}
	if writes := s.endFloors(); len(writes) > 0 {
		return plan{writes: writes}
	}
	next := record.clone()
	next.Phase = Failed
	p := r.rolledBack(s)
	p.writes = append(s.history.unused(stable.Revision), s.write(next, ""))
	return p
}

// withoutStable is what is left to do where somebody took stable away: the candidate is all there is, whatever was said of it.
func (r *Release) withoutStable(s *snapshot) plan {
	has := "nothing serves"
	if s.target != nil && s.target.Status.AvailableReplicas > 0 {
		has = fmt.Sprintf("%s has all the traffic", s.layout.Target)
		if s.split != nil && s.split.Candidate < 100 {
			w := s.split.Raise(100, s.record.Epoch)
			w.Say = fmt.Sprintf("Routing all traffic to canary: %s: Deployment %s is gone", s.id(r.Client.Namespace), s.layout.Primary())
			return plan{writes: []kube.Write{*w}}
		}
	}
	return ended(report.Undecided, "%s: not rolled back: Deployment %s, which ran revision %s, is gone; %s. Restore it and run rollback again, or delete the ConfigMap %s to begin anew",
		s.id(r.Client.Namespace), s.layout.Primary(), s.record.Stable.Revision, has, s.layout.Record())
}

func (r *Release) rolledBack(s *snapshot) plan {
	if s.record.Stable.Revision == "" { // a first release, before there was a stable
		return plan{done: &result{text: fmt.Sprintf("%s: %s in its first release: what served goes on serving", s.id(r.Client.Namespace), cmp.Or(s.record.Outcome, Aborted)),
			results: map[string]string{"outcome": string(cmp.Or(s.record.Outcome, Aborted))}}}
	}
	return plan{done: &result{undone: true, text: fmt.Sprintf("%s: rolled back (%s): stable runs revision %s and has all the traffic", s.id(r.Client.Namespace),
		cmp.Or(s.record.Outcome, Aborted), s.record.Stable.Revision), results: map[string]string{"outcome": string(cmp.Or(s.record.Outcome, Aborted))}}}
}
