package workload

import (
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// ProtectedAnnotation is on a Service that is protected from being deleted with the chart that no
// longer has it: the annotations that were added for it.
const ProtectedAnnotation = "canary-tasks.dev/protected"

// protection are the annotations of a live object by which tools leave it when it is no longer
// among what they apply.
var protection = []struct{ annotation, value string }{
	{"helm.sh/resource-policy", "keep"}, // Helm 3 reads it again before it deletes
	{syncOptions, "Prune=false"},
	{"kustomize.toolkit.fluxcd.io/prune", "disabled"},
}

// syncOptions are several, by comma.
const syncOptions = "argocd.argoproj.io/sync-options"

// deletedBy are the labels by which Jenkins X, 3 and 2, finds what to delete; it sets them anew
// with the next apply of an object.
var deletedBy = []string{"gitops.jenkins-x.io/pipeline", "jenkins.io/chart-release"}

// Protected reports whether a Service was protected.
func Protected(service metav1.Object) bool {
	return service.GetAnnotations()[ProtectedAnnotation] != ""
}

// Unprotected reports whether something is missing of a Service's protection.
func Unprotected(service metav1.Object) bool {
	return !Protected(service) ||
		slices.ContainsFunc(deletedBy, func(label string) bool { return service.GetLabels()[label] != "" }) ||
		!maps.Equal(service.GetAnnotations(), withProtection(service.GetAnnotations()))
}

// withProtection adds the annotations to others, with a note of which were not there.
func withProtection(has map[string]string) map[string]string {
	next := maps.Clone(has)
	if next == nil {
		next = map[string]string{}
	}
	added := split(has[ProtectedAnnotation])
	for _, p := range protection {
		value := p.value
		if p.annotation == syncOptions {
			if options := split(has[p.annotation]); !slices.Contains(options, p.value) {
				value = strings.Join(append(options, p.value), ",")
			} else {
				value = has[p.annotation]
			}
		}
		if has[p.annotation] != value && !slices.Contains(added, p.annotation) {
			added = append(added, p.annotation)
		}
		next[p.annotation] = value
	}
	if len(added) == 0 {
		added = []string{"by others"}
	}
	next[ProtectedAnnotation] = strings.Join(added, ",")
	return next
}

// withoutProtection is the reverse of withProtection.
func withoutProtection(has map[string]string) map[string]string {
	next := maps.Clone(has)
	for _, annotation := range split(has[ProtectedAnnotation]) {
		left := ""
		if annotation == syncOptions {
			left = strings.Join(
				slices.DeleteFunc(split(has[annotation]), func(option string) bool { return option == "Prune=false" }),
				",")
		}
		if next[annotation] = left; left == "" {
			delete(next, annotation)
		}
	}
	delete(next, ProtectedAnnotation)
	return next
}

// split returns the elements of a list, by comma.
func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

// Protect plans the write that leads a Service to stable's pods, and protects it.
func Protect(service *unstructured.Unstructured, target string, labels map[string]string) kube.Write {
	annotations := withProtection(service.GetAnnotations())
	annotations[TargetLabel] = target
	patch := []kube.Operation{
		kube.Unchanged(service), {Op: "add", Path: "/spec/selector", Value: labels},
		{Op: "add", Path: "/metadata/annotations", Value: annotations}}
	for _, label := range deletedBy {
		if service.GetLabels()[label] != "" {
			patch = append(patch, kube.Operation{Op: "remove", Path: kube.LabelPath(label)})
		}
	}
	return kube.Write{Kind: kube.Service, Name: service.GetName(), Patch: patch}
}

// marks are those by which Helm 3 knows that an object may become a chart's: without them it
// refuses to apply one that is there.
var marks = struct{ annotations, labels []string }{
	[]string{"meta.helm.sh/release-name", "meta.helm.sh/release-namespace"}, []string{"app.kubernetes.io/managed-by"}}

// Led reports whether releases of a target have written a Service, or made it.
func Led(service metav1.Object, target string) bool {
	return service.GetAnnotations()[TargetLabel] != "" || Protected(service) ||
		service.GetLabels()[TargetLabel] == target
}

// SelectTarget plans the write that leads a Service back to the target's pods, and forgets that it
// ever led elsewhere. One that releases made gets the target's marks of Helm, so that the chart can
// have it.
func SelectTarget(service *unstructured.Unstructured, target metav1.Object, selects map[string]string) kube.Write {
	annotations, labels := withoutProtection(service.GetAnnotations()), maps.Clone(service.GetLabels())
	delete(annotations, TargetLabel)
	if labels[TargetLabel] == target.GetName() {
		delete(labels, TargetLabel)
		if annotations == nil {
			annotations = map[string]string{}
		}
		if target.GetAnnotations()[marks.annotations[0]] != "" {
			for _, key := range marks.annotations {
				annotations[key] = target.GetAnnotations()[key]
			}
			for _, key := range marks.labels {
				labels[key] = target.GetLabels()[key]
			}
		}
	}
	patch := []kube.Operation{kube.Unchanged(service), {Op: "add", Path: "/spec/selector", Value: selects}}
	if len(service.GetAnnotations())+len(annotations) > 0 {
		patch = append(patch, kube.Operation{Op: "add", Path: "/metadata/annotations", Value: annotations})
	}
	if !maps.Equal(labels, service.GetLabels()) {
		patch = append(patch, kube.Operation{Op: "add", Path: "/metadata/labels", Value: labels})
	}
	return kube.Write{Kind: kube.Service, Name: service.GetName(), Patch: patch}
}
