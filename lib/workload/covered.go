package workload

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// Selecting are the kinds of objects that select pods by their labels: one that selects the
// target's pods and not stable's no longer does what it is for once stable has the traffic.
var Selecting = []kube.Kind{
	kube.PodDisruptionBudget, kube.NetworkPolicy, kube.AuthorizationPolicy, kube.RequestAuthentication, kube.Sidecar}

// where each kind has its selector, and whether an absent one selects all pods.
var selectorOf = map[string]struct {
	path []string
	all  bool
}{
	"PodDisruptionBudget":   {[]string{"spec", "selector"}, false},
	"NetworkPolicy":         {[]string{"spec", "podSelector"}, true},
	"AuthorizationPolicy":   {[]string{"spec", "selector"}, true},
	"RequestAuthentication": {[]string{"spec", "selector"}, true},
	"Sidecar":               {[]string{"spec", "workloadSelector"}, true},
}

// Uncovered names, as Kind/name, each object that selects pods with the target's labels and not
// those with stable's.
func Uncovered(objects []kube.Object, target, stable map[string]string) []string {
	var names []string
	for _, o := range objects {
		where, known := selectorOf[o.GetKind()]
		if !known {
			continue
		}
		raw, found, _ := unstructured.NestedMap(o.Object, where.path...)
		if !found && where.all {
			continue
		}
		selector := labels.Nothing()
		var s metav1.LabelSelector
		if simple, ok := raw["labels"].(map[string]any); ok { // a Sidecar's
			raw = map[string]any{"matchLabels": simple}
		}
		if err := kube.Decode(raw, &s); found && err == nil {
			if parsed, err := metav1.LabelSelectorAsSelector(&s); err == nil {
				selector = parsed
			}
		}
		if selector.Matches(labels.Set(target)) && !selector.Matches(labels.Set(stable)) {
			names = append(names, o.GetKind()+"/"+o.GetName())
		}
	}
	slices.Sort(names)
	return names
}

// ForService finds the DestinationRule of a Service; nil when there is none.
func ForService(rules []kube.Object, service, namespace string) *kube.Object {
	for i := range rules {
		host, _, _ := unstructured.NestedString(rules[i].Object, "spec", "host")
		if host == service || host == service+"."+namespace || strings.HasPrefix(host, service+"."+namespace+".svc") {
			return &rules[i]
		}
	}
	return nil
}

// CarryOver is a DestinationRule for another host with the traffic policy of one that there is; nil
// when it has none. The result has no name, kind and namespace.
func CarryOver(rule *kube.Object, target, host string) map[string]any {
	policy, found, _ := unstructured.NestedMap(rule.Object, "spec", "trafficPolicy")
	if !found || len(policy) == 0 {
		return nil
	}
	spec := map[string]any{"host": host, "trafficPolicy": policy}
	if to, ok, _ := unstructured.NestedSlice(rule.Object, "spec", "exportTo"); ok {
		spec["exportTo"] = to
	}
	return map[string]any{"metadata": map[string]any{"labels": map[string]any{TargetLabel: target}}, "spec": spec}
}

// Claims names, as Kind/name, the VirtualServices but for one that claim a host of the mesh.
func Claims(services []kube.Object, but, host, namespace string) []string {
	var names []string
	for _, o := range services {
		hosts, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "hosts")
		gateways, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "gateways")
		inMesh := len(gateways) == 0 || slices.Contains(gateways, "mesh")
		claimed := slices.ContainsFunc(hosts, func(h string) bool { return isService(h, host, namespace) })
		if o.GetName() != but && inMesh && claimed {
			names = append(names, "VirtualService/"+o.GetName())
		}
	}
	return names
}

// isService reports whether a host is that of a Service: NAME, NAME.NAMESPACE, NAME.NAMESPACE.svc,
// or the latter with the domain of the cluster.
func isService(host, name, namespace string) bool {
	qualified := name + "." + namespace
	return host == name || host == qualified || host == qualified+".svc" || strings.HasPrefix(host, qualified+".svc.")
}
