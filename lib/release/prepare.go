package release

import (
	"fmt"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// canary-init in mode prepare is for an application that serves, and whose chart has a Service only
// as long as its canary is turned off: before that is turned on stable is made and gets the
// traffic, and the Service is protected from being deleted.
//
// The target stays up. Until the next apply the chart still has the Service, and whoever applies it
// once more leads it back to the target's pods.

// preparing reports whether canary-init is in mode prepare.
func (r Request) preparing() bool { return r.Config != nil && r.Config.Mode == config.Prepare }

// unprotected reports whether mode prepare has something left to do with the Service: those that
// releases made are nobody else's to delete.
func (r Request) unprotected(s *snapshot) bool {
	if !r.preparing() || s.service == nil || s.ours(s.service) {
		return false
	}
	return workload.Unprotected(s.service) || !workload.Selects(s.service, s.primary.Spec.Selector.MatchLabels)
}

// planPrepared gives the lock back to nobody: the release that follows may be of the same run.
func (r Request) planPrepared(s *snapshot) plan {
	record := s.record.clone()
	record.Phase, record.Outcome, record.Holder, record.Stable = Succeeded, Initialized, "", s.stable()
	if s.fresh() {
		record.Promoted = s.candidate()
	}
	return plan{writes: []kube.Write{s.write(record, fmt.Sprintf("Initialization done! %s", s.id()))},
		done: r.prepared(s)}
}

func (r Request) prepared(s *snapshot) *result {
	return &result{text: fmt.Sprintf(
		"%s is prepared: stable runs revision %s and has all the traffic, and Service %s stays when its chart no "+
			"longer has it. Apply the chart with its canary turned on next, and then release it",
		s.id(), s.stable().Revision, s.layout.Service),
		results: r.initResults(Initialized, s.revision, nil)}
}
