package release

import (
	"fmt"

	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/routing"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// traffic is where traffic goes, as it was read: the last line of a step says no more than that.
type traffic struct {
	text       string
	stable     bool // all of it goes to pods of stable
	understood bool // the route is one that releases make, or leads to the Service alone
}

// traffic says where traffic goes, by the route, the Services and, where they were read, stable's
// endpoints.
func (s *snapshot) traffic() traffic {
	if s.split != nil {
		return s.divided()
	}
	service, toStable := s.leadsTo()
	if s.virtualService == nil {
		was := "is gone"
		if s.record != nil && s.record.Stable.Revision == "" {
			was = "is not there yet"
		}
		return traffic{fmt.Sprintf("VirtualService %s %s: callers in the mesh reach %s", s.layout.VirtualService, was,
			service), toStable, false}
	}
	if share := s.share(); share > 0 {
		return traffic{fmt.Sprintf("%s has up to %d %% of the traffic: %s", s.layout.Target, share, s.misrouted()),
			false, false}
	}
	if _, err := routing.FindWhole(s.virtualService, s.route.Name, s.layout.Service); err == nil {
		return traffic{fmt.Sprintf("VirtualService %s leads to %s", s.layout.VirtualService, service), toStable,
			toStable}
	}
	return traffic{fmt.Sprintf("%s has no traffic; where the rest goes is not known: %s", s.layout.Target,
		s.misrouted()), false, false}
}

// divided says where traffic goes by a route of releases.
func (s *snapshot) divided() traffic {
	toStable := fmt.Sprintf("VirtualService %s leads to %s", s.layout.VirtualService, s.layout.PrimaryService())
	switch {
	case s.split.Candidate == 100:
		return traffic{fmt.Sprintf("%s has all the traffic", s.layout.Target), false, true}
	case s.split.Candidate > 0:
		return traffic{fmt.Sprintf("stable has %d %% of the traffic and %s %d %%", s.split.Stable, s.layout.Target,
			s.split.Candidate), false, true}
	case s.unanswered():
		return traffic{toStable + ", which has no ready endpoint", false, true}
	case !s.stableServes():
		return traffic{fmt.Sprintf("%s, and %s has no pod that serves", toStable, s.layout.Primary()), false, true}
	}
	return traffic{"stable runs revision " + s.stable().Revision + " and has all the traffic", true, true}
}

// leadsTo says where the Service that people call leads, and whether that is stable.
func (s *snapshot) leadsTo() (text string, stable bool) {
	name := "Service " + s.layout.Service
	switch {
	case s.service == nil:
		return name, false
	case s.primary != nil && workload.Selects(s.service, s.primary.Spec.Selector.MatchLabels):
		return fmt.Sprintf("%s, which leads to %s", name, s.layout.Primary()), s.stableServes()
	case s.target != nil && s.target.Spec.Selector != nil &&
		workload.Selects(s.service, s.target.Spec.Selector.MatchLabels):
		return fmt.Sprintf("%s, which leads to %s", name, s.layout.Target), false
	}
	return name + ", which leads elsewhere", false
}

// awaitEndpoints waits until stable's Service has an endpoint that is ready.
func (r Request) awaitEndpoints(s *snapshot, how string) plan {
	text := fmt.Sprintf(
		"%s: %s: Service %s has no ready endpoint; %s", s.id(), how, s.layout.PrimaryService(),
		s.traffic().text)
	return plan{wait: &pause{
		key: "endpoints", text: text, limit: s.record.Config.ProgressDeadline.Duration,
		then: ended(report.Undecided, "%s. Look whether the Service is there, and at its selector", text)}}
}
