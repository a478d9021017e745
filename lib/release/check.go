package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/routing"
	"github.com/canary-tasks/canary-tasks/lib/show"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// found collects mistakes: the parameter, its value, and what to do.
type found func(parameter, value, remedy string, args ...any)

// check looks, before anything is changed, for every reason why this release could not be carried
// out on this cluster.
func (r *Release) check(ctx context.Context, s *snapshot) config.Problems {
	var problems config.Problems
	add := func(parameter, value, remedy string, args ...any) {
		problems = append(
			problems, config.Problem{Parameter: parameter, Value: value, Remedy: fmt.Sprintf(remedy, args...)})
	}
	shown := show.Address(r.Config.Prometheus)
	if err := r.checkPrometheus(ctx); errors.Is(err, config.ErrForeign) {
		add("prometheus", shown, "%v: take it out of the specification; or whoever runs the pipeline gives "+
			"prometheus=%s, or has prometheus=%s in allow", err, shown, shown)
	} else if err != nil {
		add("prometheus", shown, "give the address of the Prometheus that scrapes Istio's metrics: %v", err)
	}
	if s.target == nil {
		add("target", r.Config.Target,
			"there is no such Deployment in namespace %s: give the name of one, or apply it first", r.Client.Namespace)
	} else {
		r.checkTarget(ctx, s, add)
	}
	r.tooLarge(s, add)
	r.checkRoute(s, add)
	r.checkService(s, add)
	return problems
}

// checkRoute finds why the VirtualService cannot divide traffic.
func (r Request) checkRoute(s *snapshot, add found) {
	cfg := r.Config
	if s.noMesh != nil {
		add("virtualService", cfg.VirtualService, "%v Install Istio first", s.noMesh)
	}
	if s.virtualService == nil || s.split != nil {
		return
	}
	_, err := routing.FindWhole(s.virtualService, cfg.Route, cfg.Service)
	switch by := workload.ManagedBy(s.virtualService); {
	case err != nil:
		add("virtualService", cfg.VirtualService,
			"%v; let one route lead to %s with weight 100 and to %s with weight 0, or to %s alone", s.splitError,
			s.route.Stable, s.route.Candidate, cfg.Service)
	case by != "":
		add("virtualService", cfg.VirtualService, "%s writes it and would take the route back: let its route lead to "+
			"%s with weight 100 and to %s with weight 0 there", by, s.route.Stable, s.route.Candidate)
	}
}

// checkService finds why the Service that people call cannot lead to stable.
func (r Request) checkService(s *snapshot, add found) {
	cfg := r.Config
	if s.service != nil && s.primary == nil && !r.preparing() && !workload.Protected(s.service) {
		if by := workload.ManagedBy(s.service); by != "" {
			add("service", cfg.Service,
				"%s writes it and would set its selector back to the candidate: take the Service out of what %s "+
					"applies, or let its selector be that of %s there. Where the chart has none once its canary is "+
					"turned on, run canary-init with mode=prepare before that is applied", by, by, s.layout.Primary())
		}
	}
	if selects, ok := s.selectsOther(); ok {
		add("service", cfg.Service, "it %s, not the pods of Deployment %s: give the Service by which people call it",
			selects, cfg.Target)
	}
	if s.service != nil && cfg.Port != "" && !hasPort(s.service, cfg.Port) {
		add("port", cfg.Port, "Service %s has no such port: give the name or the number of one it has", cfg.Service)
	}
	for _, port := range s.movedPorts() {
		add("service", cfg.Service,
			"its port %v leads to %v of the pods and %s's to %v: both versions serve side by side, and the target's "+
				"pods do not have both names, or numbers, for one port. Release pods first in "+
				"which both lead to the same",
			port[0], port[1], s.layout.PrimaryService(), port[2])
	}
}

// selectsOther says what the Service selects, where that is neither the target's pods nor stable's:
// it belongs to another application, and a release would lead it to this one.
func (s *snapshot) selectsOther() (selects string, other bool) {
	if s.service == nil || s.target == nil {
		return "", false
	}
	selector, _, _ := unstructured.NestedStringMap(s.service.Object, "spec", "selector")
	if len(selector) == 0 {
		kind, _, _ := unstructured.NestedString(s.service.Object, "spec", "type")
		return fmt.Sprintf("has no selector (%s), and leads to something else", cmp.Or(kind, "ClusterIP")), true
	}
	is := labels.SelectorFromSet(selector)
	stable := maps.Clone(s.target.Spec.Template.Labels)
	if own, err := workload.SelectorOf(s.target.Deployment); err == nil {
		maps.Copy(stable, own.Stable)
	}
	ofStable := is.Matches(labels.Set(stable)) || s.primary != nil &&
		is.Matches(labels.Set(s.primary.Spec.Template.Labels))
	return "leads to pods with " + is.String(), !ofStable && !is.Matches(labels.Set(s.target.Spec.Template.Labels))
}

// movedPorts are those of the Service that lead to another port of the target's pods than stable's
// Service does, which leads to those pods, too, once they are promoted: port, where it leads, and
// where stable's does.
func (s *snapshot) movedPorts() [][3]any {
	if s.service == nil || s.primaryService == nil || s.primary == nil || s.target == nil || s.fresh() ||
		!s.ours(s.primaryService) {
		return nil
	}
	var moved [][3]any
	has := workload.PortsOf(s.primaryService)
	for _, p := range workload.PortsOf(s.service) {
		if will := workload.TargetPort(p, has, s.primary.object); !workload.SamePort(
			s.target.object, will, p["targetPort"]) {
			moved = append(moved, [3]any{p["port"], p["targetPort"], will})
		}
	}
	return moved
}

// checkTarget looks at the target and at what applies to its pods.
func (r *Release) checkTarget(ctx context.Context, s *snapshot, add found) {
	cfg := r.Config
	if selector, err := s.selector(); err != nil {
		add("target", cfg.Target, "Deployment %s cannot be released: %v", cfg.Target, err)
	} else if s.service != nil && !r.preparing() && workload.SetBack(s.service, selector.Stable) {
		add("service", cfg.Service,
			"its selector was set back by %s, so it leads to the candidate: take the Service out of the chart, or "+
				"let its selector be %v. Where it is in the chart no longer, run canary-init "+
				"with mode=prepare once more",
			kube.LastManager(s.service), selector.Stable)
	}
	r.checkCovered(ctx, s, add)
	if canary, err := r.flagger(ctx); err != nil {
		add("target", cfg.Target, "whether Flagger manages it could not be read: %v", err)
	} else if canary != "" {
		add("target", cfg.Target,
			"Flagger manages it, by Canary %s: set spec.suspend of the Canary to true, also where Flagger has been "+
				"ended: nothing here tells that it was", canary)
	}
	r.checkGit(s, add)
	if s.target.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		add("target", cfg.Target,
			"its strategy is Recreate, which takes all pods away before there are new ones: use RollingUpdate")
	}
	if remedy, err := r.withoutSidecar(ctx, s); err != nil {
		add("namespace", r.Client.Namespace, "whether its pods need a sidecar could not be read: %v", err)
	} else if remedy != "" {
		add("target", cfg.Target, "%s", remedy)
	}
	r.checkMounts(ctx, s, add)
}

// checkCovered finds what applies to the target and would not apply to stable.
func (r *Release) checkCovered(ctx context.Context, s *snapshot, add found) {
	selector, err := workload.SelectorOf(s.target.Deployment)
	if err != nil {
		return // which is a mistake by itself
	}
	names, err := r.uncovered(ctx, s, selector)
	if err != nil {
		add("namespace", r.Client.Namespace, "what selects the target's pods could not be read: %v", err)
	}
	accepted := r.Config.AcceptUncovered
	for _, name := range names {
		if !slices.Contains(accepted, name) {
			add("acceptUncovered", strings.Join(accepted, ","),
				"%s applies to the target and not to %s, which will have the traffic: let it select %s=%s too, "+
					"or accept it by its name, acceptUncovered=%s", name, s.layout.Primary(), selector.Key,
				selector.Stable[selector.Key], strings.Join(append(slices.Clone(accepted), name), ","))
		}
	}
}

// checkMounts finds what the target mounts, and both versions cannot.
func (r *Release) checkMounts(ctx context.Context, s *snapshot, add found) {
	for _, name := range workload.TemplateOf(s.target.object).Claims() {
		if remedy, err := r.notShared(ctx, name); err != nil {
			add("target", r.Config.Target, "its pods mount the claim %s, which could not be read: %v", name, err)
		} else if remedy != "" {
			add("target", r.Config.Target, "its pods mount the claim %s, %s", name, remedy)
		}
	}
	for _, m := range s.missing {
		add("target", r.Config.Target, "its pods mount %s, which is not there: create it first", m)
	}
}

// withoutSidecar says what to do where the mesh needs a sidecar in the target's pods and they have
// none: it is kept out, or was never put in.
func (r *Release) withoutSidecar(ctx context.Context, s *snapshot) (string, error) {
	namespace, err := r.Client.NamespaceLabels(ctx)
	if err != nil {
		return "", err
	}
	switch workload.InjectionOf(namespace, s.target.Spec.Template.ObjectMeta) {
	case workload.NotMeant:
		return "", nil
	case workload.KeptOut:
		return fmt.Sprintf(
			"its pods are kept out of the mesh by %s=false, so its namespace's sidecars are not in them: take that "+
				"away, or nobody counts their requests", workload.InjectLabel), nil
	}
	pods, err := r.Client.Find(ctx, kube.Pod, s.target.Spec.Selector.MatchLabels, maxPods)
	if err != nil {
		return "", err
	}
	for _, o := range pods {
		var pod corev1.Pod
		if err := kube.Decode(o.Object, &pod); err != nil {
			return "", err
		}
		// A pod that is terminating or has ended may predate injection.
		ended := pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed ||
			pod.Status.Phase == corev1.PodSucceeded
		if !ended && !workload.HasSidecar(&pod) {
			return fmt.Sprintf(
				"its pods are to have a sidecar and Pod %s has no istio-proxy: start them again (kubectl rollout "+
					"restart deployment %s), and look at istiod if they still have none",
				pod.Name, s.target.Name), nil
		}
	}
	return "", nil
}

// maxPods is how many pods are looked at for a sidecar.
const maxPods = 100

// notShared says what to do about a claim that pods of two versions cannot mount at the same time.
func (r *Release) notShared(ctx context.Context, name string) (string, error) {
	var claim corev1.PersistentVolumeClaim
	o, err := r.Client.Get(ctx, kube.PersistentVolumeClaim, name, &claim)
	switch {
	case err != nil:
		return "", err
	case o == nil:
		return "which is not there: create it first", nil
	case slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteMany),
		slices.Contains(claim.Spec.AccessModes, corev1.ReadOnlyMany):
		return "", nil
	}
	return fmt.Sprintf(
		"which is %v: stable and the candidate cannot both mount it; use a claim that is ReadWriteMany "+
			"or ReadOnlyMany, or none", claim.Spec.AccessModes), nil
}

// uncovered names what selects the target's pods, or claims the Service's host, and would not cover
// stable.
func (r *Release) uncovered(ctx context.Context, s *snapshot, selector workload.Selector) ([]string, error) {
	var objects []kube.Object
	for _, kind := range workload.Selecting {
		found, err := r.Client.List(ctx, kind)
		if err != nil {
			return nil, err
		}
		objects = append(objects, found...)
	}
	services, err := r.Client.List(ctx, kube.VirtualService)
	if err != nil {
		return nil, err
	}
	candidate := s.target.Spec.Template.Labels
	stable := maps.Clone(candidate)
	maps.Copy(stable, selector.Stable)
	return append(workload.Uncovered(objects, candidate, stable),
		workload.Claims(services, s.layout.VirtualService, s.layout.Service, r.Client.Namespace)...), nil
}

// flagger names the Canary by which a Flagger manages the target: one whose status Flagger has
// written and that is not suspended. A Canary that is there only as configuration has no status, or
// one of ours.
func (r *Release) flagger(ctx context.Context) (string, error) {
	canaries, err := r.Client.List(ctx, kube.Canary)
	if err != nil {
		return "", err
	}
	for _, c := range canaries {
		target, _, _ := unstructured.NestedString(c.Object, "spec", "targetRef", "name")
		suspended, _, _ := unstructured.NestedBool(c.Object, "spec", "suspend")
		phase, _, _ := unstructured.NestedString(c.Object, "status", "phase")
		if target == r.Config.Target && !suspended && phase != "" && !ownStatus(&c) {
			return c.GetName(), nil
		}
	}
	return "", nil
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
	client, err := r.prometheus(r.Config)
	if err != nil {
		return err
	}
	return client.Ready(ctx)
}
