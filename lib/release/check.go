package release

import (
	"context"
	"fmt"
	"strings"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/metrics"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// check looks, before anything is changed, for every reason why this release could not be carried out on this cluster.
func (r *Release) check(ctx context.Context, s *snapshot) config.Problems {
	cfg := r.Config
	var problems config.Problems
	add := func(parameter, value, remedy string, args ...any) {
		problems = append(problems, config.Problem{Parameter: parameter, Value: value, Remedy: fmt.Sprintf(remedy, args...)})
	}
	if err := r.checkPrometheus(ctx); err != nil {
		add("prometheus", cfg.Prometheus, "give the address of the Prometheus that scrapes Istio's metrics: %v", err)
	}
	if s.target == nil {
		add("target", cfg.Target, "there is no such Deployment in namespace %s: give the name of one, or apply it first", r.Client.Namespace)
		return problems
	}
	if selector, err := workload.SelectorOf(s.target.Deployment); err != nil {
		add("target", cfg.Target, "Deployment %s cannot be released: %v", cfg.Target, err)
	} else if s.service != nil && workload.SetBack(s.service, selector.Stable) {
		add("service", cfg.Service, "its selector was set back by %s, so it leads to the candidate: take the Service out of the chart, or let its selector be %v",
			kube.LastManager(s.service), selector.Stable)
	}
	if s.target.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		add("target", cfg.Target, "its strategy is Recreate, which takes all pods away before there are new ones: use RollingUpdate")
	}
	for _, m := range s.missing {
		add("target", cfg.Target, "its pods mount %s, which is not there: create it first", m)
	}
	if s.virtualService != nil && s.split == nil {
		add("virtualService", cfg.VirtualService, "%v", s.splitError)
	}
	if s.service != nil && cfg.Port != "" && !hasPort(s.service, cfg.Port) {
		add("port", cfg.Port, "Service %s has no such port: give the name or the number of one it has", cfg.Service)
	}
	return problems
}

func hasPort(service *kube.Object, port string) bool {
	ports, _, _ := unstructured.NestedSlice(service.Object, "spec", "ports")
	for _, p := range ports {
		if p, ok := p.(map[string]any); ok && (fmt.Sprint(p["port"]) == port || p["name"] == port) {
			return true
		}
	}
	return false
}

func (r *Release) checkPrometheus(ctx context.Context) error {
	if r.Config.Prometheus == "" {
		return nil // its absence was named already
	}
	client, err := metrics.New(r.Config.Prometheus)
	if err != nil {
		return err
	}
	return client.Ready(ctx)
}

// checkPermissions asks the API server whether this account may do all that the steps need.
func (r *Release) checkPermissions(ctx context.Context) config.Problems {
	type rule struct{ group, resource, verb string }
	why := map[rule]Permission{}
	for _, p := range Permissions {
		for _, verb := range p.Verbs {
			if !p.Optional {
				why[rule{p.Group, p.Resource, verb}] = p
			}
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var problems config.Problems
	for q, p := range why {
		wg.Go(func() {
			answer, err := r.Client.Create(ctx, kube.AccessReview, false, map[string]any{"spec": map[string]any{"resourceAttributes": map[string]any{
				"namespace": r.Client.Namespace, "verb": q.verb, "group": q.group, "resource": q.resource,
			}}})
			allowed := false
			if err == nil {
				allowed, _, _ = unstructured.NestedBool(answer.Object, "status", "allowed")
			}
			if allowed {
				return
			}
			remedy := fmt.Sprintf("the ServiceAccount of this run may not %s %s in namespace %s, which %s needs for %s: bind the Role canary-tasks to it", q.verb,
				strings.TrimSuffix(q.resource+"."+q.group, "."), r.Client.Namespace, strings.Join(p.Steps, ", "), p.Why)
			if err != nil {
				remedy = fmt.Sprintf("asking whether this run may %s %s: %v", q.verb, q.resource, err)
			}
			mu.Lock()
			defer mu.Unlock()
			problems = append(problems, config.Problem{Parameter: "namespace", Value: r.Client.Namespace, Remedy: remedy})
		})
	}
	wg.Wait()
	return problems
}
