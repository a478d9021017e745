// Package routing reads and writes how an Istio VirtualService divides traffic between the stable version of a
// workload and its candidate.
//
// A write is a JSON Patch of the two weights and nothing else: routes, headers, mirrors and fields that this program
// does not know stay as they are. It is refused by the API server when anything changed since it was planned, and is
// then planned again.
package routing

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	networking "istio.io/api/networking/v1alpha3"
	istiov1 "istio.io/client-go/pkg/apis/networking/v1"
	istio "istio.io/client-go/pkg/clientset/versioned/typed/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// FieldManager is the name under which the weights are written.
const FieldManager = "canary-tasks"

// Percent is a share of the traffic, from 0 to 100.
type Percent int32

// Route says which route of which VirtualService divides the traffic, and between which hosts.
type Route struct {
	Namespace      string
	VirtualService string
	Name           string // of the HTTP route; empty: the only one that leads to both hosts
	Stable         string // host of the destination that serves today
	Candidate      string // host of the destination that is being released
}

func (r Route) String() string { return "VirtualService " + r.Namespace + "/" + r.VirtualService }

// maxConflicts bounds how often a write is planned again because somebody else wrote in between.
const maxConflicts = 5

// SetWeight gives the candidate that share of the route's traffic and stable the rest. written is false when it was so
// already: then nothing is written. Errors name the VirtualService and what would help.
func SetWeight(ctx context.Context, client istio.VirtualServicesGetter, r Route, candidate Percent) (written bool, err error) {
	if candidate < 0 || candidate > 100 {
		return false, fmt.Errorf("weight %d is not a percentage from 0 to 100", candidate)
	}
	services := client.VirtualServices(r.Namespace)
	for conflicts := 0; ; conflicts++ {
		vs, err := services.Get(ctx, r.VirtualService, metav1.GetOptions{})
		if err != nil {
			return false, fmt.Errorf("reading %s: %w", r, err)
		}
		patch, err := planWeight(vs, r, candidate)
		if err != nil {
			return false, fmt.Errorf("%s: %w", r, err)
		}
		if patch == nil {
			return false, nil
		}
		body, err := json.Marshal(patch)
		if err != nil {
			return false, err
		}
		_, err = services.Patch(ctx, vs.Name, types.JSONPatchType, body, metav1.PatchOptions{FieldManager: FieldManager})
		if err == nil {
			return true, nil
		}
		if !changedMeanwhile(err) || conflicts == maxConflicts {
			return false, fmt.Errorf("writing weight %d to %s: %w", candidate, r, err)
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond << conflicts):
		}
	}
}

// changedMeanwhile tells a failed test of the patch (422, without causes) and a conflict (409) from a refusal.
func changedMeanwhile(err error) bool {
	if apierrors.IsConflict(err) {
		return true
	}
	status, ok := err.(apierrors.APIStatus)
	return ok && status.Status().Code == http.StatusUnprocessableEntity &&
		(status.Status().Details == nil || len(status.Status().Details.Causes) == 0)
}

// operation is one of a JSON Patch (RFC 6902).
type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// planWeight returns the patch that gives the candidate its share, or nil where it has it.
func planWeight(vs *istiov1.VirtualService, r Route, candidate Percent) ([]operation, error) {
	index, stable, cand, err := findRoute(&vs.Spec, vs.Namespace, r)
	if err != nil {
		return nil, err
	}
	destinations := vs.Spec.Http[index].Route
	if destinations[stable].Weight == int32(100-candidate) && destinations[cand].Weight == int32(candidate) {
		return nil, nil
	}
	path := func(destination int, field string) string {
		return fmt.Sprintf("/spec/http/%d/route/%d/%s", index, destination, field)
	}
	return []operation{
		{"test", "/metadata/resourceVersion", vs.ResourceVersion},
		{"test", path(stable, "destination/host"), destinations[stable].Destination.Host},
		{"test", path(cand, "destination/host"), destinations[cand].Destination.Host},
		// "add" replaces a weight that is there; one of zero is not.
		{"add", path(stable, "weight"), 100 - candidate},
		{"add", path(cand, "weight"), candidate},
	}, nil
}

// findRoute returns the index of the HTTP route that leads to the two hosts, and of its two destinations.
func findRoute(spec *networking.VirtualService, namespace string, r Route) (route, stable, candidate int, err error) {
	var found []int
	for i, h := range spec.Http {
		if r.Name != "" && h.Name != r.Name {
			continue
		}
		if s, c := destinationsOf(h, namespace, r); s >= 0 && c >= 0 && len(h.Route) == 2 {
			found = append(found, i)
			route, stable, candidate = i, s, c
		}
	}
	named := ""
	if r.Name != "" {
		named = fmt.Sprintf(" named %q", r.Name)
	}
	switch len(found) {
	case 1:
		return route, stable, candidate, nil
	case 0:
		return 0, 0, 0, fmt.Errorf("no HTTP route%s leads to exactly the destinations %s and %s; it has %s", named, r.Stable, r.Candidate, describe(spec))
	default:
		return 0, 0, 0, fmt.Errorf("%d HTTP routes%s lead to %s and %s: name one of them (route); it has %s", len(found), named, r.Stable, r.Candidate, describe(spec))
	}
}

func destinationsOf(h *networking.HTTPRoute, namespace string, r Route) (stable, candidate int) {
	stable, candidate = -1, -1
	for i, d := range h.Route {
		switch fullHost(d.GetDestination().GetHost(), namespace) {
		case fullHost(r.Stable, namespace):
			stable = i
		case fullHost(r.Candidate, namespace):
			candidate = i
		}
	}
	return stable, candidate
}

// fullHost completes a short host as Istio does: with the namespace of the VirtualService.
func fullHost(host, namespace string) string {
	if strings.Contains(host, ".") {
		return host
	}
	return host + "." + namespace + ".svc.cluster.local"
}

// describe lists the routes of a VirtualService for an error message.
func describe(spec *networking.VirtualService) string {
	var routes []string
	for i, h := range spec.Http {
		var hosts []string
		for _, d := range h.Route {
			hosts = append(hosts, fmt.Sprintf("%s=%d", d.GetDestination().GetHost(), d.Weight))
		}
		routes = append(routes, fmt.Sprintf("http[%d] %q -> %s", i, h.Name, strings.Join(hosts, ", ")))
	}
	if len(routes) == 0 {
		return "no HTTP routes"
	}
	return strings.Join(routes, "; ")
}
