package routing

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// place is a destination of a VirtualService that leads to one of the two versions. HTTP, TLS and
// TCP routes have the same form.
type place struct {
	protocol     string
	rule, index  int
	destination  map[string]any
	share        int32 // of the rule's traffic, in percent; a sole destination has 100
	stable, sole bool
}

// path is where a JSON Patch finds a field of the destination.
func (p place) path(field string) string {
	return fmt.Sprintf("/spec/%s/%d/route/%d/%s", p.protocol, p.rule, p.index, field)
}

// rulePath names the rule of the destination.
func (p place) rulePath() string { return fmt.Sprintf("%s[%d]", p.protocol, p.rule) }

// places lists the destinations of a VirtualService that lead to stable or to the candidate, in
// order.
func places(object *kube.Object, r Route) []place {
	if object == nil {
		return nil
	}
	var found []place
	for _, protocol := range []string{"http", "tls", "tcp"} {
		rules, _, _ := unstructured.NestedSlice(object.Object, "spec", protocol)
		for i, rule := range rules {
			rule, _ := rule.(map[string]any)
			route, _, _ := unstructured.NestedSlice(rule, "route")
			for j, one := range route {
				d, _ := one.(map[string]any)
				host, _, _ := unstructured.NestedString(d, "destination", "host")
				full := fullHost(host, object.GetNamespace())
				stable := full == fullHost(r.Stable, object.GetNamespace())
				if !stable && full != fullHost(r.Candidate, object.GetNamespace()) {
					continue
				}
				p := place{protocol: protocol, rule: i, index: j, destination: d, stable: stable, sole: len(route) == 1}
				if p.share = weightOf(d); p.sole {
					p.share = 100
				}
				found = append(found, p)
			}
		}
	}
	return found
}

// weightOf reads the weight of a destination, whichever type JSON gave it.
func weightOf(d map[string]any) int32 {
	switch w := d["weight"].(type) {
	case int64:
		return int32(w)
	case float64:
		return int32(w)
	}
	return 0
}

// ToCandidate returns the largest share of its traffic, in percent, that any rule of a
// VirtualService gives to the candidate. It reads also what Find does not understand: three
// destinations, one alone, TLS and TCP.
func ToCandidate(object *kube.Object, r Route) int32 {
	share := int32(0)
	for _, p := range places(object, r) {
		if !p.stable {
			share = max(share, p.share)
		}
	}
	return share
}

// Withdraw plans the write that removes the candidate's traffic wherever a VirtualService leads to
// it, for one that Find does not understand; nil when the candidate has none. Stable gets the
// candidate's weight in the same rule. Where the rule does not lead to stable, the candidate's
// destination leads to stable instead. Other destinations keep their weights.
func Withdraw(object *kube.Object, r Route) *kube.Write {
	var patch []kube.Operation
	var rules []string
	all := places(object, r)
	for i, p := range all {
		if p.stable || p.share == 0 {
			continue
		}
		rules = append(rules, p.rulePath())
		to := stableOf(all, p)
		if to < 0 {
			patch = append(patch, kube.Operation{Op: "add", Path: p.path("destination/host"), Value: r.Stable})
			// stable's host has no subsets
			if d, _, _ := unstructured.NestedMap(p.destination, "destination"); d["subset"] != nil {
				patch = append(patch, kube.Operation{Op: "remove", Path: p.path("destination/subset")})
			}
			continue
		}
		all[to].share += p.share
		all[i].share = 0
		patch = append(patch, kube.Operation{Op: "add", Path: all[to].path("weight"), Value: all[to].share},
			kube.Operation{Op: "add", Path: p.path("weight"), Value: 0})
	}
	if len(patch) == 0 {
		return nil
	}
	guards := append([]kube.Operation{kube.Unchanged(object)}, patch...)
	return &kube.Write{Kind: kube.VirtualService, Name: object.GetName(), Patch: guards,
		Say: fmt.Sprintf("Routing all traffic to primary: VirtualService %s is not as this release left it; the "+
			"candidate's traffic is taken away at %s",
			object.GetName(), strings.Join(rules, ", "))}
}

// stableOf returns the index of the destination that leads to stable in the same rule; -1 when
// there is none.
func stableOf(all []place, p place) int {
	for i, other := range all {
		if other.stable && other.protocol == p.protocol && other.rule == p.rule {
			return i
		}
	}
	return -1
}

// Describe lists the routes of a VirtualService, for a sentence.
func Describe(object *kube.Object) string {
	var all []string
	for _, protocol := range []string{"http", "tls", "tcp"} {
		rules, _, _ := unstructured.NestedSlice(object.Object, "spec", protocol)
		for i, rule := range rules {
			rule, _ := rule.(map[string]any)
			route, _, _ := unstructured.NestedSlice(rule, "route")
			var to []string
			for _, one := range route {
				d, _ := one.(map[string]any)
				host, _, _ := unstructured.NestedString(d, "destination", "host")
				if subset, _, _ := unstructured.NestedString(d, "destination", "subset"); subset != "" {
					host += " (subset " + subset + ")"
				}
				weight := weightOf(d)
				if len(route) == 1 {
					weight = 100
				}
				to = append(to, fmt.Sprintf("%s=%d", host, weight))
			}
			name, _, _ := unstructured.NestedString(rule, "name")
			all = append(all, fmt.Sprintf("%s[%d] %q -> %s", protocol, i, name, strings.Join(to, ", ")))
		}
	}
	if len(all) == 0 {
		return "no HTTP routes"
	}
	return strings.Join(all, "; ")
}

// Move plans a write of the weights that leaves the fence as it is, for a caller that may only send
// traffic back; nil when they are so. The write is refused when the VirtualService is not the one
// that was read.
func (s Split) Move(candidate int32) *kube.Write {
	if s.has(candidate) {
		return nil
	}
	return &kube.Write{
		Kind: kube.VirtualService, Name: s.object.GetName(),
		Patch: append([]kube.Operation{kube.Unchanged(s.object)}, s.weights(candidate)...)}
}

// Epoch returns the epoch of a target's fence on an object; 0 when it has none.
func Epoch(object *kube.Object, target string) int64 {
	if object == nil {
		return 0
	}
	return workload.EpochOf(object.GetAnnotations()[workload.RouteFence(target)])
}
