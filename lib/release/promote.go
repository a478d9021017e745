package release

import (
	"context"
	"fmt"
	"slices"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// Promote is the step promote: stable becomes what was judged, gets all the traffic, and the
// candidate is scaled to zero.
func (r *Release) Promote(ctx context.Context) error {
	return r.orToStable(ctx, func() error {
		return r.guarded(ctx, func(ctx context.Context) error {
			return r.drive(ctx, scope{service: true, autoscalers: true, history: true}, r.planPromote)
		})
	})
}

// planPromote is what promote does next.
func (r Request) planPromote(s *snapshot) plan {
	return first(s, r.promoteNothing, r.promoteBegin, r.promoteMayGoOn, r.promoteStable, r.promoteTraffic,
		r.promoteCandidate, r.promoteEnd)
}

// promoteNothing is for a release that has nothing to promote, or is promoted already.
func (r Request) promoteNothing(s *snapshot) plan {
	outcome := Unchanged
	if !s.unchanged(r.Step.RunID) {
		if !s.mine(r.Step.RunID) || s.record.Phase != Succeeded {
			return plan{}
		}
		if outcome = s.record.Outcome; outcome == Promoted {
			return r.promoted(s)
		}
	}
	return plan{done: &result{
		text:    fmt.Sprintf("%s: nothing to promote: %s", s.id(), outcome),
		results: map[string]string{"outcome": string(outcome)}}}
}

// promoteBegin notes that the release promotes, once it was judged at every weight.
func (r Request) promoteBegin(s *snapshot) plan {
	if !s.mine(r.Step.RunID) || s.record.Phase != Progressing {
		return plan{}
	}
	if p := r.mayGoOn(s, Progressing); p.decided() {
		return p
	}
	if missing := unjudged(s.record); missing != "" {
		return ended(report.Undecided, "%s: not promoted: weight %s was not judged", s.id(), missing)
	}
	next := s.record.clone()
	next.Phase = Promoting
	return plan{writes: []kube.Write{s.write(next, "")}}
}

func (r Request) promoteMayGoOn(s *snapshot) plan { return r.mayGoOn(s, Promoting) }

// promoteStable lets stable become what was judged, and waits until it is up.
func (r Request) promoteStable(s *snapshot) plan {
	candidate := s.record.Candidate
	if s.revision != candidate.Revision && s.stableServes() { // what the target runs by now nobody judged
		if w := s.split.Shift(0, s.record.Epoch); w != nil {
			w.Say = fmt.Sprintf(
				"Routing all traffic to primary: %s has revision %s by now, which was not judged", s.id(), s.revision)
			return plan{writes: []kube.Write{*w}}
		}
	}
	if workload.RevisionOf(s.primary.Deployment) == candidate.Revision {
		return r.planRollout(s, s.primary, "stable")
	}
	selector, err := s.selector()
	if err != nil {
		return ended(report.Undecided, "Deployment %s: %v", s.layout.Target, err)
	}
	template := candidate.Template.ForStable(selector, candidate.Revision, candidate.contents())
	return plan{writes: []kube.Write{s.primary.roll(template, s.promotedReplicas(), s.record.Epoch,
		fmt.Sprintf("Copying %s template spec to %s.%s", s.id(), s.layout.Primary(), s.namespace))}}
}

// promoteTraffic leads all traffic to stable.
func (r Request) promoteTraffic(s *snapshot) plan {
	if w := s.split.Shift(0, s.record.Epoch); w != nil {
		w.Say = fmt.Sprintf("Routing all traffic to primary: %s", s.id())
		return plan{writes: []kube.Write{*w}}
	}
	if w := s.leadBack(); w != nil {
		return plan{writes: []kube.Write{*w}}
	}
	return plan{}
}

// promoteCandidate scales the candidate down, once proxies send it nothing, and ends the floors of
// the autoscalers.
func (r Request) promoteCandidate(s *snapshot) plan {
	if workload.Replicas(s.target.Deployment) > 0 {
		return settle("drain", s.record.Config.Drain.Duration, plan{writes: []kube.Write{
			s.target.scale(0, fmt.Sprintf("Promotion completed! Scaling down %s", s.id()))}})
	}
	return plan{writes: s.endFloors()}
}

// promoteEnd notes that the release was promoted, and removes what nobody mounts any more.
func (r Request) promoteEnd(s *snapshot) plan {
	if s.unanswered() {
		return r.awaitEndpoints(s, "not promoted")
	}
	next := s.record.clone()
	next.Phase, next.Outcome, next.Promoted, next.Former = Succeeded, Promoted, next.Candidate, next.Promoted
	next.Rejected = slices.DeleteFunc( // it was tried again
		next.Rejected, func(was Rejection) bool { return was.Revision == next.Candidate.Revision })
	p := r.promoted(s)
	p.writes = append(s.history.unused(next.Candidate.Revision, s.record.Stable.Revision), s.write(next, ""))
	return p
}

func (r Request) promoted(s *snapshot) plan {
	return plan{done: &result{text: fmt.Sprintf("%s: promoted: %s", s.id(), s.traffic().text),
		results: map[string]string{"outcome": string(Promoted)}}}
}

// promotedReplicas is how many pods stable gets with what was judged: its autoscaler's business,
// where there is one.
func (s *snapshot) promotedReplicas() int32 {
	if s.primaryAutoscaler != nil {
		return workload.Replicas(s.primary.Deployment)
	}
	return max(s.record.Candidate.Replicas, workload.Replicas(s.primary.Deployment))
}

// unjudged names a weight that the release was to be judged at and was not.
func unjudged(record *Record) string {
	passed := map[int32]bool{}
	for _, shift := range record.Shifts {
		passed[shift.Weight] = passed[shift.Weight] || shift.Passed
	}
	for _, w := range record.Config.Weights {
		if !passed[int32(w)] {
			return fmt.Sprint(w)
		}
	}
	return ""
}

// endFloors plans the writes that end the floors of a release: autoscalers keep what they kept
// before, and stable's does again what the target's does.
func (s *snapshot) endFloors() (writes []kube.Write) {
	for _, autoscaler := range []*kube.Object{s.autoscaler, s.primaryAutoscaler} {
		if autoscaler == nil {
			continue
		}
		if w := workload.LetGo(autoscaler); w != nil {
			writes = append(writes, *w)
		}
	}
	if len(writes) == 0 && s.autoscaler != nil && s.ours(s.primaryAutoscaler) {
		if w := workload.Follow(s.primaryAutoscaler, s.autoscaler, s.layout.Primary()); w != nil {
			writes = append(writes, *w)
		}
	}
	return writes
}

// leadBack plans the write that leads the Service to stable again, where somebody set its selector
// back in mid-release: who calls it from outside the mesh would be left with no pod when the
// candidate is scaled down.
func (s *snapshot) leadBack() *kube.Write {
	stable := s.primary.Spec.Selector.MatchLabels
	// anew
	made := s.target != nil && s.target.Spec.Selector != nil && s.service != nil &&
		workload.Selects(s.service, s.target.Spec.Selector.MatchLabels)
	if s.service == nil || !workload.SetBack(s.service, stable) && !made {
		return nil
	}
	w := workload.SelectStable(s.service, s.layout.Target, stable)
	w.Say = fmt.Sprintf(
		"Service %s.%s leads to %s again: its selector was set back by %s", s.layout.Service, s.namespace,
		s.layout.Primary(), kube.LastManager(s.service))
	return &w
}

// roll plans the write that gives stable another template. It is refused unless the fence is that
// of the epoch.
func (d *deployment) roll(template workload.Template, replicas int32, epoch int64, say string) kube.Write {
	spec, _ := d.object.Object["spec"].(map[string]any)
	strategy, _ := spec["strategy"].(map[string]any)
	return kube.Write{Kind: kube.Deployment, Name: d.Name, Say: say, Patch: []kube.Operation{
		{Op: "test", Path: kube.AnnotationPath(workload.FenceAnnotation), Value: epochText(epoch)},
		{Op: "add", Path: "/spec/template", Value: template},
		{Op: "add", Path: "/spec/replicas", Value: replicas},
		{Op: "add", Path: "/spec/strategy", Value: workload.SafeStrategy(strategy)},
	}}
}
