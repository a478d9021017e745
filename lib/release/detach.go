package release

import (
	"context"
	"fmt"
	"slices"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// Detach is the step rollback in mode detach: the target serves again by itself, with what was
// promoted last, and all that releases made is removed. It is for an application that is to have no
// canary releases any more.
func (r *Release) Detach(ctx context.Context) error {
	return r.drive(ctx, scope{services: true, history: true}, r.planDetach)
}

// planDetach is what detach does next: the target comes up on what stable runs, gets the traffic,
// and only then what served so far goes.
func (r Request) planDetach(s *snapshot) plan {
	return first(s, r.detachBegin, r.planTarget, r.detachTraffic, r.detachEnd)
}

// detachBegin takes the lock, where there is something to detach.
func (r Request) detachBegin(s *snapshot) plan {
	record := s.record
	switch {
	case record == nil:
		return r.detached(s)
	case s.target == nil:
		return ended(report.Undecided, "%s: Deployment %s is gone: it cannot take over from %s", s.layout.Target,
			s.layout.Target, s.layout.Primary())
	case !record.Phase.ended() && record.Phase != Detaching:
		return ended(report.Busy, "%s: run %s releases it (%s): end that first", s.id(), record.Run, record.Phase)
	case record.Phase.ended():
		next := record.clone()
		next.Phase, next.Epoch, next.Expires = Detaching, record.Epoch+1, s.now.UTC()
		next.Holder, next.Run = r.Step.RunID, r.Step.RunName
		return plan{writes: []kube.Write{s.write(next, fmt.Sprintf("Detaching %s", s.id()))}}
	}
	if _, err := s.selector(); err != nil {
		return ended(report.Undecided, "Deployment %s: %v", s.layout.Target, err)
	}
	return plan{}
}

// detachTraffic leads all traffic to the target, and then takes releases out of the route.
func (r Request) detachTraffic(s *snapshot) plan {
	selector, _ := s.selector() // which detachBegin has checked
	if s.service != nil &&
		(!workload.Selects(s.service, selector.Candidate) || workload.Led(s.service, s.layout.Target)) {
		return plan{writes: []kube.Write{workload.SelectTarget(s.service, s.target, selector.Candidate)}}
	}
	if s.split == nil {
		return plan{}
	}
	if s.split.Candidate != 100 || !s.split.Fenced(s.record.Epoch) {
		w := s.split.Raise(100, s.record.Epoch)
		w.Say = fmt.Sprintf("Routing all traffic to %s", s.layout.Target)
		return plan{writes: []kube.Write{*w}}
	}
	// Proxies have that before the route itself changes.
	return settle("route", s.record.Config.Drain.Duration, plan{writes: []kube.Write{s.leaveRoute()}})
}

// detachEnd removes what releases made, and the record last.
func (r Request) detachEnd(s *snapshot) plan {
	if writes := s.leftovers(); len(writes) > 0 {
		return settle("leftovers", s.record.Config.Drain.Duration, plan{writes: writes})
	}
	p := r.detached(s)
	p.writes = []kube.Write{{Kind: kube.ConfigMap, Name: s.layout.Record(), Delete: true}}
	return p
}

func (r Request) detached(s *snapshot) plan {
	return plan{done: &result{
		text:    fmt.Sprintf("%s: detached: it serves by itself, and nothing of its releases is left", s.id()),
		results: map[string]string{"outcome": string(Detached)}}}
}

// planTarget brings the target up on what stable runs, with as many pods until it has the traffic:
// from then on its autoscaler sees what it needs.
func (r Request) planTarget(s *snapshot) plan {
	if s.primary == nil {
		return plan{}
	}
	return first(s, r.targetVersion, r.targetPods,
		func(s *snapshot) plan { return r.planRollout(s, s.target, "the target") })
}

// targetVersion gives the target the version that stable runs.
func (r Request) targetVersion(s *snapshot) plan {
	revision, promoted := workload.RevisionOf(s.primary.Deployment), s.record.Promoted
	target := workload.TemplateOf(s.target.object)
	// Where Secrets may not be read, or mounted content has changed, revisions differ.
	same := target.Equal(promoted.Template)
	if revision == "" { // made by Flagger or by hand: there is nothing else to tell it by
		same = slices.Equal(target.Images(), workload.TemplateOf(s.primary.object).Images())
	}
	switch {
	case s.revision == revision || same:
		return plan{}
	case promoted.Revision != revision || revision == "":
		return ended(report.Undecided, "%s: stable runs revision %s, and how the target would run it is not known: "+
			"set the target to that version first", s.id(), s.stable().Revision)
	}
	return plan{writes: []kube.Write{{Kind: kube.Deployment, Name: s.target.Name,
		Say: fmt.Sprintf("Bringing %s back to revision %s", s.id(), revision),
		Patch: []kube.Operation{
			kube.Unchanged(s.target.object), {Op: "add", Path: "/spec/template", Value: promoted.Template}}}}}
}

// targetPods gives the target as many pods as stable has, until it serves.
func (r Request) targetPods(s *snapshot) plan {
	selector, _ := s.selector() // which detachBegin has checked
	serves := s.split != nil && s.split.Candidate == 100 ||
		s.split == nil && s.service != nil && workload.Selects(s.service, selector.Candidate)
	if serves && s.autoscaler != nil {
		return plan{}
	}
	need := workload.Replicas(s.primary.Deployment)
	if s.autoscaler != nil {
		need = min(need, workload.MaxReplicas(s.autoscaler))
	}
	if writes := s.hold(need, 0); len(writes) > 0 {
		return plan{writes: writes}
	}
	if workload.Replicas(s.target.Deployment) < need {
		return plan{writes: []kube.Write{s.target.scale(need, fmt.Sprintf("Scaling up %s", s.id()))}}
	}
	return plan{}
}

// ours reports whether a release of the target made an object.
func (s *snapshot) ours(o *kube.Object) bool {
	return o != nil && o.GetLabels()[workload.TargetLabel] == s.layout.Target
}

// ownRoute reports whether a release of the target made the VirtualService, and no other target's
// releases write it.
func (s *snapshot) ownRoute() bool {
	return s.ours(s.virtualService) && !workload.Shared(s.virtualService, s.layout.Target)
}

// leaveRoute plans the write that takes releases out of the route: their own VirtualService goes.
func (s *snapshot) leaveRoute() kube.Write {
	if s.ownRoute() {
		return kube.Write{Kind: kube.VirtualService, Name: s.layout.VirtualService, Delete: true}
	}
	return *s.split.Unite(s.layout.Service)
}

// leftovers plans the removal of all that releases made or set, but the record.
func (s *snapshot) leftovers() []kube.Write {
	var writes []kube.Write
	remove := func(kind kube.Kind, o *kube.Object) {
		if s.ours(o) {
			writes = append(writes, kube.Write{Kind: kind, Name: o.GetName(), Delete: true})
		}
	}
	if s.autoscaler != nil {
		if w := workload.LetGo(s.autoscaler); w != nil {
			writes = append(writes, *w)
		}
	}
	if s.virtualService != nil && s.split == nil && s.ownRoute() {
		remove(kube.VirtualService, s.virtualService)
	}
	for i := range s.rules {
		if host, _ := s.rules[i].Object["spec"].(map[string]any)["host"].(string); host == s.layout.PrimaryService() ||
			host == s.layout.CanaryService() {
			remove(kube.DestinationRule, &s.rules[i])
		}
	}
	remove(kube.Service, s.primaryService)
	remove(kube.Service, s.canaryService)
	remove(kube.HorizontalPodAutoscaler, s.primaryAutoscaler)
	if s.primary != nil {
		remove(kube.Deployment, s.primary.object)
	}
	for _, c := range s.history.copies {
		writes = append(writes, kube.Write{Kind: c.kind, Name: c.name, Delete: true})
	}
	return writes
}
