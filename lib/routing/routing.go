// Package routing reads how an Istio VirtualService divides traffic between stable and the
// candidate, and plans how to change it.
//
// A change is a JSON Patch of the two weights and nothing else: routes, headers, mirrors and fields
// that this program does not know stay as they are. The annotation TARGET.canary-tasks.dev/fence
// says which release of a target may write: every change tests it, so that a step of a release that
// was taken over can no longer move traffic.
package routing

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
	istiov1 "istio.io/client-go/pkg/apis/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// Route says which route divides the traffic, and between which hosts.
type Route struct {
	Target    string // that is released: its releases fence one another off
	Name      string // of the HTTP route; empty: the only one that leads to both hosts
	Stable    string // host of the destination that serves
	Candidate string // host of the destination that is being released
}

// Split is how a route of a VirtualService divides the traffic now.
type Split struct {
	Stable    int32 // weight; the two make 100
	Candidate int32 // weight
	Fence     string
	Shared    bool // other routes of the VirtualService lead to stable, too: not all its requests are divided
	target    string
	object    *kube.Object
	route     int // index of the HTTP route
	stable    int // index of stable's destination
	candidate int // index of the candidate's destination
	hosts     [2]string
}

// Find reads the split. The error says which routes the VirtualService has and what would help.
func Find(object *kube.Object, r Route) (Split, error) {
	var vs istiov1.VirtualService
	if err := kube.Decode(object.Object, &vs); err != nil {
		return Split{}, fmt.Errorf("reading VirtualService %s: %w", object.GetName(), err)
	}
	var found []Split
	toStable := 0
	for i, h := range vs.Spec.Http {
		if s, _ := destinations(h, vs.Namespace, r); s >= 0 {
			toStable++
		}
		if r.Name != "" && h.Name != r.Name {
			continue
		}
		s, c := destinations(h, vs.Namespace, r)
		if s < 0 || c < 0 || len(h.Route) != 2 {
			continue
		}
		found = append(found, Split{
			Stable: h.Route[s].Weight, Candidate: h.Route[c].Weight,
			Fence:  vs.Annotations[workload.RouteFence(r.Target)],
			target: r.Target, object: object, route: i, stable: s, candidate: c,
			hosts: [2]string{h.Route[s].Destination.Host, h.Route[c].Destination.Host},
		})
	}
	named := ""
	if r.Name != "" {
		named = fmt.Sprintf(" named %q", r.Name)
	}
	switch len(found) {
	case 1:
		found[0].Shared = toStable > 1
		return found[0], nil
	case 0:
		return Split{}, fmt.Errorf(
			"no HTTP route%s leads to exactly the destinations %s and %s; it has %s", named, r.Stable, r.Candidate,
			Describe(object))
	default:
		return Split{}, fmt.Errorf(
			"%d HTTP routes%s lead to %s and %s: name one of them (route); it has %s", len(found), named, r.Stable,
			r.Candidate, Describe(object))
	}
}

// destinations returns the indices of the destinations that lead to the two versions; -1 for none.
func destinations(h *networking.HTTPRoute, namespace string, r Route) (stable, candidate int) {
	index := func(host string) int {
		return slices.IndexFunc(h.Route, func(d *networking.HTTPRouteDestination) bool {
			return fullHost(d.GetDestination().GetHost(), namespace) == fullHost(host, namespace)
		})
	}
	return index(r.Stable), index(r.Candidate)
}

// fullHost completes a short host as Istio does: with the namespace of the VirtualService.
func fullHost(host, namespace string) string {
	if strings.Contains(host, ".") {
		return host
	}
	return host + "." + namespace + ".svc.cluster.local"
}

// Shift plans the write that gives the candidate its weight, in percent, and stable the rest; nil
// when it has it. The write is refused unless the fence is that of the epoch.
func (s Split) Shift(candidate int32, epoch int64) *kube.Write {
	if s.has(candidate) {
		return nil
	}
	test := kube.Operation{Op: "test", Path: kube.AnnotationPath(workload.RouteFence(s.target)), Value: fence(epoch)}
	return &kube.Write{
		Kind: kube.VirtualService, Name: s.object.GetName(),
		Patch: append([]kube.Operation{test}, s.weights(candidate)...)}
}

// Raise plans the write that fences off every earlier epoch and, in the same request, sets the
// weight; nil when both are so.
func (s Split) Raise(candidate int32, epoch int64) *kube.Write {
	if s.Fence == fence(epoch) && s.has(candidate) {
		return nil
	}
	patch := append([]kube.Operation{kube.Unchanged(s.object)},
		kube.Annotate(s.object, workload.RouteFence(s.target), fence(epoch))...)
	return &kube.Write{
		Kind: kube.VirtualService, Name: s.object.GetName(), Patch: append(patch, s.weights(candidate)...)}
}

// Fenced reports whether the fence is that of the epoch.
func (s Split) Fenced(epoch int64) bool { return s.Fence == fence(epoch) }

// has reports whether the candidate has this weight, and stable the rest.
func (s Split) has(candidate int32) bool {
	return s.Candidate == candidate && s.Stable == 100-candidate
}

// fence is the value of an epoch's fence.
func fence(epoch int64) string { return strconv.FormatInt(epoch, 10) }

// weights are the operations that set both weights, for the destinations that were read. "add"
// replaces a weight that is set; one of zero is not.
func (s Split) weights(candidate int32) []kube.Operation {
	path := func(destination int, field string) string {
		return fmt.Sprintf("/spec/http/%d/route/%d/%s", s.route, destination, field)
	}
	return []kube.Operation{
		{Op: "test", Path: path(s.stable, "destination/host"), Value: s.hosts[0]},
		{Op: "test", Path: path(s.candidate, "destination/host"), Value: s.hosts[1]},
		{Op: "add", Path: path(s.stable, "weight"), Value: 100 - candidate},
		{Op: "add", Path: path(s.candidate, "weight"), Value: candidate},
	}
}

// ByHand is the command by which a person sends all traffic to stable.
func (s Split) ByHand() string {
	patch, err := json.Marshal(s.weights(0))
	if err != nil {
		panic(err) // names and numbers
	}
	return fmt.Sprintf(
		"kubectl patch virtualservice %s -n %s --type=json -p '%s'", s.object.GetName(), s.object.GetNamespace(), patch)
}

// Whole is a route that leads to one Service only: what an application has before its first
// release.
type Whole struct {
	object *kube.Object
	route  int
}

// FindWhole finds the route that leads to a Service and nowhere else.
func FindWhole(object *kube.Object, name, service string) (Whole, error) {
	var vs istiov1.VirtualService
	if err := kube.Decode(object.Object, &vs); err != nil {
		return Whole{}, fmt.Errorf("reading VirtualService %s: %w", object.GetName(), err)
	}
	var found []Whole
	for i, h := range vs.Spec.Http {
		if name != "" && h.Name != name || len(h.Route) != 1 {
			continue
		}
		d := h.Route[0].GetDestination()
		if fullHost(d.GetHost(), vs.Namespace) == fullHost(service, vs.Namespace) && d.GetSubset() == "" {
			found = append(found, Whole{object, i})
		}
	}
	if len(found) != 1 {
		return Whole{}, fmt.Errorf("%d HTTP routes lead to %s alone; it has %s", len(found), service, Describe(object))
	}
	return found[0], nil
}

// Divide plans the write that lets the route lead to stable with all, and to the candidate with
// none of the traffic. All else that its destination has, both get.
func (w Whole) Divide(r Route, epoch int64) *kube.Write {
	path := fmt.Sprintf("/spec/http/%d/route", w.route)
	https, _, _ := unstructured.NestedSlice(w.object.Object, "spec", "http")
	route, _, _ := unstructured.NestedSlice(https[w.route].(map[string]any), "route")
	side := func(host string, weight int64) map[string]any {
		d := runtime.DeepCopyJSON(route[0].(map[string]any))
		d["destination"].(map[string]any)["host"], d["weight"] = host, weight
		return d
	}
	patch := append([]kube.Operation{kube.Unchanged(w.object)},
		kube.Annotate(w.object, workload.RouteFence(r.Target), fence(epoch))...)
	return &kube.Write{Kind: kube.VirtualService, Name: w.object.GetName(), Patch: append(patch,
		kube.Operation{Op: "add", Path: path, Value: []any{side(r.Stable, 100), side(r.Candidate, 0)}})}
}

// Unite plans the reverse of Divide: the route leads to one Service alone, as the candidate's
// destination did, and the fence is removed.
func (s Split) Unite(service string) *kube.Write {
	path := fmt.Sprintf("/spec/http/%d/route", s.route)
	https, _, _ := unstructured.NestedSlice(s.object.Object, "spec", "http")
	route, _, _ := unstructured.NestedSlice(https[s.route].(map[string]any), "route")
	one := route[s.candidate].(map[string]any)
	one["destination"].(map[string]any)["host"] = service
	delete(one, "weight")
	return &kube.Write{Kind: kube.VirtualService, Name: s.object.GetName(), Patch: []kube.Operation{
		kube.Unchanged(s.object), {Op: "add", Path: path, Value: []any{one}},
		{Op: "remove", Path: kube.AnnotationPath(workload.RouteFence(s.target))},
	}}
}

// New is a VirtualService that leads hosts to stable, and to the candidate with weight 0.
func New(hosts, gateways []string, r Route, labels map[string]any, epoch int64) map[string]any {
	destination := func(host string, weight int64) map[string]any {
		return map[string]any{"destination": map[string]any{"host": host}, "weight": weight}
	}
	spec := map[string]any{
		"hosts": anys(hosts),
		"http":  []any{map[string]any{"route": []any{destination(r.Stable, 100), destination(r.Candidate, 0)}}},
	}
	if r.Name != "" {
		spec["http"].([]any)[0].(map[string]any)["name"] = r.Name
	}
	if !slices.Equal(gateways, []string{"mesh"}) {
		spec["gateways"] = anys(gateways)
	}
	return map[string]any{
		"metadata": map[string]any{
			"labels": labels, "annotations": map[string]any{workload.RouteFence(r.Target): fence(epoch)}},
		"spec": spec,
	}
}

// anys converts a list of texts to what JSON decodes to.
func anys(from []string) []any {
	var into []any
	for _, v := range from {
		into = append(into, v)
	}
	return into
}
