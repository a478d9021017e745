// Package workload describes the two copies of a workload, stable and candidate: how their objects
// are called, how one is made from the other, what configuration they mount, which revision they
// are, and whether they serve.
//
// All of it is pure: objects go in, objects and sentences come out.
package workload

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Labels and annotations of what a release makes.
const (
	TargetLabel        = "canary-tasks.dev/target"   // on everything made for a target: its name
	RevisionAnnotation = "canary-tasks.dev/revision" // on stable's pods: the revision they serve
	FenceAnnotation    = "canary-tasks.dev/fence"    // on stable: the epoch that may write
	// on stable: the VirtualService and Service of its releases, should their record be lost
	RouteAnnotation = "canary-tasks.dev/route"
)

// EpochOf reads the epoch out of a fence; 0 when there is none.
func EpochOf(fence string) int64 {
	epoch, err := strconv.ParseInt(fence, 10, 64)
	if err != nil {
		return 0
	}
	return epoch
}

// RouteFence is the annotation of a VirtualService with the epoch of a target that may write.
// Targets that share one have a fence each, so that their releases do not end one another.
func RouteFence(target string) string { return target + "." + FenceAnnotation }

// Shared reports whether releases of other targets write an object as well.
func Shared(o metav1.Object, target string) bool {
	for key := range o.GetAnnotations() {
		if strings.HasSuffix(key, "."+FenceAnnotation) && key != RouteFence(target) {
			return true
		}
	}
	return false
}

// Layout names the objects of a release. It is Flagger's, so that charts, dashboards and habits
// carry over.
type Layout struct {
	Target         string // the Deployment that Git and Helm write: the candidate
	Service        string // the Service that people call
	VirtualService string
}

// route is what RouteAnnotation says.
type route struct {
	Service        string `json:"service"`
	VirtualService string `json:"virtualService"`
	Route          string `json:"route,omitempty"`
}

// RouteNote returns what RouteAnnotation says of a layout whose HTTP route has a name, or none.
func (l Layout) RouteNote(name string) string {
	note, err := json.Marshal(route{l.Service, l.VirtualService, name})
	if err != nil {
		panic(err) // strings
	}
	return string(note)
}

// Routed returns a layout with the Service and the VirtualService of a note, and the name of the
// HTTP route. Where the note does not say, both have the target's name.
func (l Layout) Routed(note string) (Layout, string) {
	var r route
	if json.Unmarshal([]byte(note), &r) != nil {
		r = route{}
	}
	l.Service, l.VirtualService = cmp.Or(r.Service, l.Target), cmp.Or(r.VirtualService, r.Service, l.Target)
	return l, r.Route
}

// Primary is the Deployment that serves: stable.
func (l Layout) Primary() string { return l.Target + "-primary" }

// PrimaryService leads to stable's pods.
func (l Layout) PrimaryService() string { return l.Service + "-primary" }

// CanaryService leads to the candidate's pods.
func (l Layout) CanaryService() string { return l.Service + "-canary" }

// Record is the ConfigMap with the release record.
func (l Layout) Record() string { return l.Target + "-canary-release" }

// selectorKeys are the labels of a selector that may tell stable from the candidate; the first one
// present is taken (Flagger's list).
var selectorKeys = []string{"app", "name", "app.kubernetes.io/name"}

// Selector tells stable's pods from the candidate's: both carry the target's full matchLabels, and
// the value of one differs.
type Selector struct {
	Key       string
	Candidate map[string]string
	Stable    map[string]string
}

// SelectorOf reads the selector of a target. The error says what the Deployment lacks.
func SelectorOf(target *appsv1.Deployment) (Selector, error) {
	if target.Spec.Selector == nil || len(target.Spec.Selector.MatchExpressions) > 0 {
		return Selector{}, fmt.Errorf("its spec.selector must have matchLabels only")
	}
	labels := target.Spec.Selector.MatchLabels
	for _, key := range selectorKeys {
		if labels[key] == "" {
			continue
		}
		if len(labels[key])+len("-primary") > 63 {
			return Selector{},
				fmt.Errorf("its label %s=%s is longer than 55 characters, so that %s-primary is no label", key,
					labels[key], labels[key])
		}
		stable := maps.Clone(labels)
		stable[key] += "-primary"
		return Selector{Key: key, Candidate: labels, Stable: stable}, nil
	}
	return Selector{}, fmt.Errorf("its spec.selector.matchLabels have none of %s", strings.Join(selectorKeys, ", "))
}

// tracking are the prefixes of labels and annotations by which other tools recognise what is
// theirs; copies do not carry them.
var tracking = []string{
	"app.kubernetes.io/managed-by", "app.kubernetes.io/instance", "argocd.argoproj.io/", "deployment.kubernetes.io/",
	"gitops.jenkins-x.io/",
	"helm.sh/", "helm.toolkit.fluxcd.io/", "jenkins.io/", "kubectl.kubernetes.io/", "kustomize.toolkit.fluxcd.io/",
	"meta.helm.sh/",
}

// withoutTracking copies labels or annotations, but for those in keep, which a selector needs.
func withoutTracking(from map[string]string, keep map[string]string) map[string]any {
	into := map[string]any{}
	for _, k := range slices.Sorted(maps.Keys(from)) {
		_, needed := keep[k]
		if needed || !slices.ContainsFunc(tracking, func(prefix string) bool { return strings.HasPrefix(k, prefix) }) {
			into[k] = from[k]
		}
	}
	return into
}

// managers are the marks by which tools recognise what they apply again and again.
var managers = []struct{ mark, name string }{
	{"argocd.argoproj.io/instance", "Argo CD"}, {"argocd.argoproj.io/tracking-id", "Argo CD"},
	{"kustomize.toolkit.fluxcd.io/name", "Flux"}, {"helm.toolkit.fluxcd.io/name", "Flux"},
	{"gitops.jenkins-x.io/pipeline", "Jenkins X"}, {"jenkins.io/chart-release", "Jenkins X"},
	{"meta.helm.sh/release-name", "Helm"},
}

// ManagedBy names the tool that applies an object again and again, by the marks it leaves; "" when
// there are none.
func ManagedBy(o metav1.Object) string {
	for _, m := range managers {
		if o.GetLabels()[m.mark] != "" || o.GetAnnotations()[m.mark] != "" {
			return m.name
		}
	}
	return ""
}
