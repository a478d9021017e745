package release

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/routing"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// graceful is how long a step that was terminated has to take the candidate's traffic away: less
// than the grace period of a pod.
const graceful = 20 * time.Second

// Rollback is the step rollback: all traffic to stable, stable back on the revision it had, the
// candidate scaled to zero. With a run id it undoes what that run did and nothing else; without
// one, which is by hand, the last release.
func (r *Release) Rollback(ctx context.Context) error {
	if r.Step.Mode == config.Detach {
		return r.orToStable(ctx, func() error { return r.Detach(ctx) })
	}
	return r.orToStable(ctx, func() error { return r.rollback(ctx) })
}

func (r *Release) rollback(ctx context.Context) error {
	r.patience = r.Patience
	var last *routing.Split // that could be moved by hand
	var undone *Record
	err := r.drive(ctx, scope{service: true, autoscalers: true, history: true, endpoints: true},
		func(s *snapshot) plan {
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
	if undone == nil {
		return err
	}
	if err == nil {
		return r.putGitRight(ctx, undone)
	}
	r.verdict = fmt.Sprintf("%s.%s has no traffic", r.Step.Target, r.Client.Namespace) // which is what Git waits for
	if git := r.putGitRight(ctx, undone); git != nil {
		r.Report.Say("%v", git)
	}
	return err
}

// planRollback is what rollback does next.
func (r Request) planRollback(s *snapshot) plan {
	return first(s, r.rollbackNothing, r.rollbackBegin, r.rollbackTraffic, r.rollbackStable, r.rollbackCandidate,
		r.rollbackEnd)
}

// rollbackNothing is for a run that has no release to undo.
func (r Request) rollbackNothing(s *snapshot) plan {
	record, byHand := s.record, r.Step.RunID == ""
	switch {
	case record == nil && s.lost() && (s.share() > 0 || workload.Replicas(s.deploymentOfTarget()) > 0):
		return r.planLost(s)
	case record == nil:
		return r.nothingToUndo(s, "there is no release record")
	case !byHand && !s.mine(r.Step.RunID):
		if p := r.planBack(s); len(p.writes) > 0 { // what this run gave, and nobody has taken over yet
			return p
		}
		return r.nothingToUndo(s, fmt.Sprintf("run %s was the last to hold the target", record.Run))
	case record.Phase == Succeeded && (!byHand || record.Outcome != Promoted):
		return r.nothingToUndo(s, fmt.Sprintf("the release ended as %s", record.Outcome))
	case record.Phase == Failed:
		return r.rolledBack(s)
	}
	return plan{}
}

func (r Request) nothingToUndo(s *snapshot, why string) plan {
	outcome := Refused
	if s.record != nil && slices.Contains(s.record.Before, r.Step.RunID) {
		outcome = Superseded
	}
	return plan{done: &result{
		text:    fmt.Sprintf("%s: nothing to roll back: %s", s.id(), why),
		results: map[string]string{"outcome": string(outcome)}}}
}

// rollbackBegin notes that the release rolls back, under a fence of its own.
func (r Request) rollbackBegin(s *snapshot) plan {
	if s.record.Phase == RollingBack {
		return plan{}
	}
	next := s.record.clone()
	next.Phase, next.Epoch = RollingBack, s.lastEpoch()+1
	next.Outcome = cmp.Or(s.record.Outcome, Aborted)
	if s.record.Phase == Succeeded {
		next.Outcome, next.Reason = Aborted, "rolled back by hand after its promotion"
		next.Promoted, next.Former = s.record.Former, Version{}
	}
	return plan{writes: []kube.Write{s.write(next,
		fmt.Sprintf("Rolling back %s %s", s.id(), cmp.Or(s.record.Reason, string(next.Outcome))))}}
}

// rollbackTraffic leads traffic to where it is safe.
func (r Request) rollbackTraffic(s *snapshot) plan {
	if w := s.toSafety(s.record.Epoch); w != nil {
		return plan{writes: []kube.Write{*w}}
	}
	return plan{}
}

// rollbackStable brings stable back to its revision, and waits until it serves.
func (r Request) rollbackStable(s *snapshot) plan {
	stable, epoch := s.record.Stable, s.record.Epoch
	switch {
	case stable.Revision == "": // there is none yet, in a first release
		return plan{}
	case s.primary == nil:
		return r.withoutStable(s)
	case s.primary.Annotations[workload.FenceAnnotation] != epochText(epoch):
		return plan{writes: []kube.Write{s.primary.fence(epoch, s.layout, s.route.Name)}}
	case !s.runs(stable.Revision) && s.runs(s.record.Candidate.Revision):
		return plan{writes: []kube.Write{
			s.primary.roll(stable.Template, max(stable.Replicas, workload.Replicas(s.primary.Deployment)), epoch,
				fmt.Sprintf("Bringing %s.%s back to revision %s", s.layout.Primary(), s.namespace, stable.Revision))}}
	}
	if state := workload.RolloutOf(s.primary.Deployment, int32(s.record.Config.ReadyThreshold)); !state.Done {
		return plan{wait: &pause{
			key: "stable", watch: &watched{kube.Deployment, s.primary.object},
			text:  fmt.Sprintf("%s.%s not ready: %s", s.layout.Primary(), s.namespace, state.Text),
			limit: s.record.Config.ProgressDeadline.Duration,
			then: ended(report.Undecided, "%s: stable does not come back to revision %s: %s; %s", s.id(),
				stable.Revision, state.Text, s.traffic().text)}}
	}
	if s.unanswered() {
		return r.awaitEndpoints(s, "not rolled back")
	}
	if w := s.leadBack(); w != nil {
		return plan{writes: []kube.Write{*w}}
	}
	return plan{}
}

// rollbackCandidate scales the candidate down, once proxies send it nothing, and ends the floors of
// the autoscalers.
func (r Request) rollbackCandidate(s *snapshot) plan {
	if s.record.Stable.Revision != "" && s.target != nil && workload.Replicas(s.target.Deployment) > 0 &&
		s.share() == 0 {
		return settle("drain", s.record.Config.Drain.Duration, plan{writes: []kube.Write{
			s.target.scale(0, fmt.Sprintf("Canary failed! Scaling down %s", s.id()))}})
	}
	return plan{writes: s.endFloors()}
}

// rollbackEnd notes how the release ended, and removes what nobody mounts any more.
func (r Request) rollbackEnd(s *snapshot) plan {
	next := s.record.clone()
	next.Phase, next.StableFails = Failed, false
	p := r.rolledBack(s)
	if p.done != nil {
		p.writes = append(s.history.unused(s.record.Stable.Revision), s.write(next, ""))
	}
	return p
}

// planLost ends a release whose record is gone: traffic goes back, and the run is red. Whose
// release it was, and which revision Git should say, nobody knows any more.
func (r Request) planLost(s *snapshot) plan {
	if p := r.planBack(s); len(p.writes) > 0 || p.done.code != report.Done {
		return p
	}
	return ended(report.Undecided, "%s: %s. %s; %s still has pods. Run canary-init again, or scale it to 0",
		s.id(), s.noRecord(), s.traffic().text, s.layout.Target)
}

// noRecord says why there is no record of a release that was begun.
func (s *snapshot) noRecord() string {
	if s.unreadable != nil {
		return s.unreadable.Error()
	}
	return fmt.Sprintf(
		"the release record, ConfigMap %s, is gone in mid-release: somebody deleted it", s.layout.Record())
}

func (s *snapshot) deploymentOfTarget() *appsv1.Deployment {
	if s.target == nil {
		return nil
	}
	return s.target.Deployment
}

// withoutStable is what is left to do where somebody took stable away: the candidate is all there
// is, whatever was said of it.
func (r Request) withoutStable(s *snapshot) plan {
	return ended(report.Undecided,
		"%s: not rolled back: Deployment %s, which ran revision %s, is gone; %s. Restore it and run rollback again, "+
			"or delete the ConfigMap %s to begin anew",
		s.id(), s.layout.Primary(), s.record.Stable.Revision, s.traffic().text, s.layout.Record())
}

// rolledBack ends a rollback with what was read in this step: the route, the Services and their
// endpoints.
func (r Request) rolledBack(s *snapshot) plan {
	outcome := cmp.Or(s.record.Outcome, Aborted)
	results := map[string]string{"outcome": string(outcome)}
	if s.record.Stable.Revision == "" { // a first release, before there was a stable
		return plan{done: &result{
			text: fmt.Sprintf(
				"%s: %s in its first release: %s", s.id(), outcome, s.traffic().text),
			results: results}}
	}
	now := s.traffic()
	if s.unanswered() {
		return r.awaitEndpoints(s, fmt.Sprintf("rolled back (%s)", outcome))
	}
	text := fmt.Sprintf("%s: rolled back (%s): %s", s.id(), outcome, now.text)
	d := &result{text: text, results: results, undone: s.share() == 0}
	if !now.stable || !now.understood {
		d.code, d.warning = report.Undecided, true
	}
	return plan{done: d}
}
