package release

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/routing"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// haven is where traffic is safe: on pods that run a version that is known to serve.
type haven struct {
	weight int32 // of the candidate: 0 is stable, 100 the candidate
	known  bool  // false: nothing better is known than the weights as they are
	why    string
}

// safe returns where traffic is safe when a release ends, is taken over, or cannot go on. Every
// step asks it.
//
// Stable is safe as long as a pod of it serves, with two exceptions. In a first release it has to
// be up as a whole, because nothing has been sent to it yet. And where it was shown to fail as it
// became the candidate's version, it has to be back on its own. Then the candidate is safe, if it
// passed at every weight and is up as a whole. Where no pod of stable serves, the candidate is all
// there is.
func (s *snapshot) safe() haven {
	r := s.record
	primary, target := s.layout.Primary(), s.layout.Target
	serves := s.stableServes()
	stable := haven{0, true, primary + " serves"}
	switch {
	case r == nil && !serves:
		return haven{why: "the release record is gone, and " + primary + " has no pod that serves"}
	case r != nil && r.Stable.Revision == "" && !s.whole(s.primary):
		return haven{why: primary + " is not up yet, in its first release"}
	case r == nil || r.Stable.Revision == "":
		return stable
	case serves && (!r.StableFails || s.isBack()):
		if s.rescued() {
			return haven{100, true, target + " passed at every weight, and " + primary + " is not back as a whole"}
		}
		return stable
	case s.proven():
		return haven{100, true, target + " passed at every weight, and " + primary + " fails"}
	case serves:
		return haven{why: primary + " fails as revision " + r.Candidate.Revision + ", and " + target +
			" is not up as a whole"}
	case s.targetServes():
		return haven{100, true, primary + " has no pod that serves"}
	}
	return haven{why: "neither " + primary + " nor " + target + " has a pod that serves"}
}

// isBack reports whether stable is up on its own version.
func (s *snapshot) isBack() bool { return s.runs(s.record.Stable.Revision) && s.whole(s.primary) }

// whole reports whether a version is up with all its pods.
func (s *snapshot) whole(d *deployment) bool {
	return d != nil && workload.RolloutOf(d.Deployment, int32(s.record.Config.ReadyThreshold)).Done
}

// proven reports whether the candidate passed at every weight, and is up with enough pods for all
// the traffic.
func (s *snapshot) proven() bool {
	return s.whole(s.target) && s.revision == s.record.Candidate.Revision && unjudged(s.record) == "" &&
		s.target.Status.AvailableReplicas >= s.servingOfStable()
}

// targetServes reports whether the target has a pod that serves.
func (s *snapshot) targetServes() bool {
	return s.target != nil && s.target.Status.AvailableReplicas > 0
}

// rescued reports whether the candidate has all the traffic because stable failed, and stable is
// not back as a whole.
func (s *snapshot) rescued() bool {
	return s.split != nil && s.split.Candidate == 100 && !s.whole(s.primary) && s.proven()
}

// runs reports whether stable's pods are made of a revision.
func (s *snapshot) runs(revision string) bool {
	return cmp.Or(workload.RevisionOf(s.primary.Deployment), unknownRevision) == revision
}

// servingOfStable is how many pods the traffic that stable has needs.
func (s *snapshot) servingOfStable() int32 {
	if s.primary == nil {
		return 0
	}
	return min(s.primary.Status.AvailableReplicas, workload.Replicas(s.primary.Deployment))
}

// stableServes reports whether stable has at least one pod that serves and, where that was read,
// that its Service leads to.
func (s *snapshot) stableServes() bool {
	return s.primary != nil && s.primary.Status.AvailableReplicas > 0 && !s.unanswered()
}

// unanswered reports whether nobody answers behind stable's Service: its selector was edited, or it
// is gone.
func (s *snapshot) unanswered() bool { return s.endpoints != nil && *s.endpoints == 0 }

// share is the candidate's share of the traffic, in percent, as the route was read. A route that
// this release did not make has one, too.
func (s *snapshot) share() int32 {
	if s.split != nil {
		return s.split.Candidate
	}
	return routing.ToCandidate(s.virtualService, s.route)
}

// toSafety plans the write that leads traffic to where it is safe; nil when it is there, or nothing
// better is known. epoch is that of the record when its holder writes, and raises the fence; 0 for
// who may only send traffic back, and leaves the fence as it is.
func (s *snapshot) toSafety(epoch int64) *kube.Write {
	to := s.safe()
	if !to.known {
		return nil
	}
	if s.split == nil {
		if to.weight == 0 {
			return routing.Withdraw(s.virtualService, s.route)
		}
		return nil
	}
	var w *kube.Write
	if epoch == 0 {
		w = s.split.Move(to.weight)
	} else {
		w = s.split.Raise(to.weight, epoch)
	}
	if w != nil && s.split.Candidate != to.weight {
		if w.Say = fmt.Sprintf("Routing all traffic to primary: %s", s.id()); to.weight > 0 {
			w.Say = fmt.Sprintf("Routing all traffic to canary: %s: %s", s.id(), to.why)
		}
	}
	return w
}

// planBack leads traffic to where it is safe, and does nothing else. It is for a step that did not
// do what it is for. A run that does not hold the target may still send back what no holder has
// fenced: the weights are then of the run before.
func (r Request) planBack(s *snapshot) plan {
	epoch := int64(0)
	switch {
	case s.record == nil:
		if !s.lost() {
			return plan{done: &result{}}
		}
	case !s.mine(r.Step.RunID):
		if !s.unfenced(r.Step.RunID) {
			return plan{done: &result{}}
		}
	case s.split != nil && workload.EpochOf(s.split.Fence) > s.record.Epoch:
		return ended(report.Undecided, "VirtualService %s was fenced off by another release", s.layout.VirtualService)
	default:
		epoch = s.record.Epoch
	}
	if s.share() == 0 {
		return plan{done: &result{}}
	}
	to := s.safe()
	if w := s.toSafety(epoch); w != nil && (s.split == nil || s.split.Candidate != to.weight) {
		return plan{writes: []kube.Write{*w}}
	}
	if !to.known || to.weight > 0 {
		return ended(report.Undecided, "it keeps %d %% of the traffic: %s", s.share(), to.why)
	}
	return plan{done: &result{}}
}

// lost reports whether a release was begun whose record is gone: somebody deleted it.
func (s *snapshot) lost() bool {
	return s.record == nil && s.primary != nil && s.primary.Annotations[workload.FenceAnnotation] != ""
}

// unfenced reports whether the weights are still those of a run that held the target before, as the
// one that holds it now has not written the route.
func (s *snapshot) unfenced(uid string) bool {
	r := s.record
	return slices.Contains(r.Before, uid) && r.Phase == Initializing && s.split != nil && !s.split.Fenced(r.Epoch)
}

// lastEpoch is the highest epoch that any of a target's objects knows: those of the route and of
// stable outlive the record.
func (s *snapshot) lastEpoch() int64 {
	epoch := routing.Epoch(s.virtualService, s.layout.Target)
	if s.primary != nil {
		epoch = max(epoch, workload.EpochOf(s.primary.Annotations[workload.FenceAnnotation]))
	}
	if s.record != nil {
		epoch = max(epoch, s.record.Epoch)
	}
	return epoch
}

// misrouted says what the route of a release is, where it does not divide traffic between the two
// versions as the release left it.
func (s *snapshot) misrouted() string {
	if s.virtualService == nil {
		return fmt.Sprintf("VirtualService %s is gone: somebody deleted it", s.layout.VirtualService)
	}
	return fmt.Sprintf(
		"VirtualService %s is not as this release left it: %v. %s wrote it", s.layout.VirtualService, s.splitError,
		kube.LastManager(s.virtualService))
}
