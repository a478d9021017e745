package release

import (
	"fmt"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/routing"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// planLayout makes what is missing of the layout, in an order in which whatever has traffic serves.
func (r Request) planLayout(s *snapshot) plan {
	if _, err := s.selector(); err != nil {
		return ended(report.Misconfig, "Deployment %s: %v", s.layout.Target, err)
	}
	return first(s, r.layoutStable, r.layoutServices, r.layoutRoute, r.layoutService)
}

// layoutStable makes stable, and waits until it is up.
func (r Request) layoutStable(s *snapshot) plan {
	if writes := s.disown(); len(writes) > 0 {
		return plan{writes: writes}
	}
	if writes := s.copyMounts(); len(writes) > 0 {
		return plan{writes: writes}
	}
	selector, _ := s.selector() // which planLayout has checked
	replicas := max(workload.Replicas(s.target.Deployment), 1)
	if s.primary == nil {
		return plan{writes: []kube.Write{{Kind: kube.Deployment, Name: s.layout.Primary(),
			Say: fmt.Sprintf("Creating %s.%s out of %s, revision %s", s.layout.Primary(), s.namespace,
				s.layout.Target, s.revision),
			Create: workload.NewPrimary(s.target.object, selector, s.revision, s.contents, replicas, map[string]string{
				workload.FenceAnnotation: epochText(s.record.Epoch),
				workload.RouteAnnotation: s.layout.RouteNote(r.Config.Route)}),
		}}}
	}
	// Made out of a revision that is no longer the target's.
	if s.record.Stable.Revision == "" && !s.fresh() && !s.serving(selector.Stable) {
		template := workload.TemplateOf(s.target.object).ForStable(selector, s.revision, s.contents)
		return plan{writes: []kube.Write{s.primary.roll(template, replicas, s.record.Epoch,
			fmt.Sprintf("Bringing %s.%s to revision %s", s.layout.Primary(), s.namespace, s.revision))}}
	}
	return r.planRollout(s, s.primary, "stable")
}

// layoutServices makes the Services that lead to one version alone, what belongs to them, and
// stable's autoscaler.
func (r Request) layoutServices(s *snapshot) plan {
	writes := s.newAutoscaler()
	selector, _ := s.selector()
	ports := workload.ServicePorts(s.service, s.target.Deployment, r.Config.Port)
	for _, one := range []struct {
		name    string
		service *kube.Object
		selects map[string]string
	}{
		{s.layout.PrimaryService(), s.primaryService, selector.Stable},
		{s.layout.CanaryService(), s.canaryService, selector.Candidate},
		{s.layout.Service, s.service, selector.Stable},
	} {
		if one.service == nil {
			writes = append(writes, kube.Write{
				Kind: kube.Service, Name: one.name, Create: workload.NewService(s.layout.Target, one.selects, ports)})
		}
	}
	if s.service != nil {
		writes = append(writes, s.followPorts()...)
	}
	if rule := workload.ForService(s.rules, s.layout.Service, s.namespace); rule != nil {
		for _, host := range []string{s.layout.PrimaryService(), s.layout.CanaryService()} {
			if body := workload.CarryOver(rule, s.layout.Target, host); body != nil &&
				workload.ForService(s.rules, host, s.namespace) == nil {
				writes = append(writes, kube.Write{Kind: kube.DestinationRule, Name: host, Create: body})
			}
		}
	}
	return plan{writes: writes}
}

// followPorts plans the writes that give our Services the ports of the one that people call.
func (s *snapshot) followPorts() (writes []kube.Write) {
	for _, one := range []struct{ service, pods *kube.Object }{
		{s.primaryService, s.primary.object}, {s.canaryService, nil}} {
		if !s.ours(one.service) {
			continue
		}
		if w := workload.FollowPorts(one.service, s.service, one.pods); w != nil {
			writes = append(writes, *w)
		}
	}
	return writes
}

// layoutRoute lets the route divide traffic. Proxies learn of the Services before a route leads to
// them.
func (r Request) layoutRoute(s *snapshot) plan {
	if s.split != nil {
		return plan{}
	}
	var w kube.Write
	if s.virtualService == nil {
		labels := map[string]any{workload.TargetLabel: s.layout.Target}
		w = kube.Write{Kind: kube.VirtualService, Name: s.layout.VirtualService,
			Create: routing.New(r.Config.Hosts, r.Config.Gateways, s.route, labels, s.record.Epoch)}
	} else {
		whole, err := routing.FindWhole(s.virtualService, r.Config.Route, r.Config.Service)
		if err != nil {
			return ended(report.Misconfig, "VirtualService %s: %v", s.layout.VirtualService, s.splitError)
		}
		w = *whole.Divide(s.route, s.record.Epoch)
	}
	return settle("services", r.Config.Drain.Duration, plan{writes: []kube.Write{w}})
}

// layoutService leads the Service that people call to stable.
func (r Request) layoutService(s *snapshot) plan {
	selector, _ := s.selector()
	serves := selector.Stable
	switch {
	case r.unprotected(s):
		return plan{writes: []kube.Write{workload.Protect(s.service, s.layout.Target, serves)}}
	case !workload.Selects(s.service, serves):
		return plan{writes: []kube.Write{workload.SelectStable(s.service, s.layout.Target, serves)}}
	}
	return plan{}
}

func (s *snapshot) serving(stable map[string]string) bool {
	if !s.stableServes() {
		return false
	}
	return s.split != nil && s.split.Stable > 0 || s.service != nil && workload.Selects(s.service, stable)
}

func (s *snapshot) halfMade() bool {
	return s.record != nil && s.record.Stable.Revision == "" && s.record.Promoted.Revision == "" &&
		!s.serving(s.primary.Spec.Selector.MatchLabels)
}

func (s *snapshot) disown() []kube.Write {
	var writes []kube.Write
	for _, o := range s.ofCanary {
		writes = append(writes, workload.Disown(o.kind, o.object, s.layout.Target))
	}
	if len(writes) > 0 {
		writes[len(writes)-1].Say = fmt.Sprintf(
			"%d objects of %s no longer belong to a Canary of Flagger's: deleting it leaves them", len(writes),
			s.id())
	}
	return writes
}

func (s *snapshot) copyMounts() []kube.Write {
	var writes []kube.Write
	if s.primary != nil && workload.RevisionOf(s.primary.Deployment) == s.revision {
		return nil
	}
	for _, m := range workload.TemplateOf(s.target.object).Mounts() {
		content, ok := s.contents[workload.Mount{Kind: m.Kind, Name: m.Name}]
		name := workload.CopyName(m.Name, s.revision)
		if !ok || s.copies[m.Kind+"/"+name] {
			continue
		}
		body := map[string]any{
			"metadata":  map[string]any{"labels": map[string]any{workload.TargetLabel: s.layout.Target}},
			"immutable": true}
		for k, v := range content {
			body[k] = v
		}
		writes = append(writes, kube.Write{Kind: kindOf(m), Name: name, Create: body})
	}
	return writes
}

func (s *snapshot) newAutoscaler() []kube.Write {
	if s.autoscaler == nil || s.primaryAutoscaler != nil {
		return nil
	}
	return []kube.Write{
		{Kind: kube.HorizontalPodAutoscaler, Name: s.autoscaler.GetName() + "-primary",
			Create: workload.NewAutoscaler(s.autoscaler, s.layout.Target, s.layout.Primary())}}
}
