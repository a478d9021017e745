package workload

import (
	"cmp"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// AutoscalerOf finds the autoscaler of a Deployment; nil when there is none.
func AutoscalerOf(autoscalers []kube.Object, deployment string) *kube.Object {
	for i := range autoscalers {
		ref, _, _ := unstructured.NestedStringMap(autoscalers[i].Object, "spec", "scaleTargetRef")
		if ref["kind"] == "Deployment" && ref["name"] == deployment {
			return &autoscalers[i]
		}
	}
	return nil
}

// forPrimary is what stable's autoscaler does, out of the target's.
func forPrimary(autoscaler *kube.Object, primary string) map[string]any {
	spec := runtime.DeepCopyJSON(object(autoscaler.Object, "spec"))
	object(spec, "scaleTargetRef")["name"] = primary
	if was, held := heldSince(autoscaler); held {
		setMin(spec, was)
	}
	return spec
}

// NewAutoscaler is stable's autoscaler, made from the target's. The result has no name, kind and
// namespace.
func NewAutoscaler(autoscaler *kube.Object, target, primary string) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"labels": map[string]any{TargetLabel: target}},
		"spec":     forPrimary(autoscaler, primary)}
}

// MinReplicas is the least that an autoscaler keeps, but for what Hold has set; 1 when it does not
// say.
func MinReplicas(autoscaler *kube.Object) int32 {
	if was, held := heldSince(autoscaler); held {
		least, _ := strconv.ParseInt(cmp.Or(was, "1"), 10, 32)
		return int32(least)
	}
	return least(autoscaler)
}

// MaxReplicas is the most that an autoscaler keeps.
func MaxReplicas(autoscaler *kube.Object) int32 {
	return int32(asInt(object(autoscaler.Object, "spec")["maxReplicas"], 0))
}

// least is the minReplicas of an autoscaler; 1 by default.
func least(autoscaler *kube.Object) int32 {
	return int32(asInt(object(autoscaler.Object, "spec")["minReplicas"], 1))
}

// FloorAnnotation is on an autoscaler while a release keeps it from removing pods: the least it
// kept before (empty where it did not say) and what was set, as WAS/IS.
const FloorAnnotation = "canary-tasks.dev/floor"

// heldSince returns what an autoscaler kept before Hold. It is not held where somebody has set
// another number since.
func heldSince(autoscaler *kube.Object) (was string, held bool) {
	was, is, found := strings.Cut(autoscaler.GetAnnotations()[FloorAnnotation], "/")
	return was, found && is == fmt.Sprint(least(autoscaler))
}

// setMin sets minReplicas; a text that is no number removes it.
func setMin(spec map[string]any, replicas string) {
	n, err := strconv.ParseInt(replicas, 10, 32)
	if err != nil {
		delete(spec, "minReplicas")
		return
	}
	spec["minReplicas"] = n
}

// Hold plans the write that lets an autoscaler keep at least so many, as far as its maxReplicas
// goes, and notes what it kept before: the candidate's would remove pods as long as there is little
// traffic, and stable's the room that going back needs. nil when it keeps them.
func Hold(autoscaler *kube.Object, replicas int32) *kube.Write {
	replicas = min(replicas, MaxReplicas(autoscaler))
	if least(autoscaler) >= replicas {
		return nil
	}
	was, held := heldSince(autoscaler)
	if now, given := object(autoscaler.Object, "spec")["minReplicas"]; !held && given {
		was = fmt.Sprint(asInt(now, 1))
	} else if !held {
		was = ""
	}
	patch := append([]kube.Operation{kube.Unchanged(autoscaler)},
		kube.Annotate(autoscaler, FloorAnnotation, fmt.Sprintf("%s/%d", was, replicas))...)
	patch = append(patch, kube.Operation{Op: "add", Path: "/spec/minReplicas", Value: replicas})
	return &kube.Write{Kind: kube.HorizontalPodAutoscaler, Name: autoscaler.GetName(), Patch: patch}
}

// LetGo plans the write that ends Hold; nil where nothing is held. A number that somebody has set
// since stays.
func LetGo(autoscaler *kube.Object) *kube.Write {
	if _, noted := autoscaler.GetAnnotations()[FloorAnnotation]; !noted {
		return nil
	}
	patch := []kube.Operation{kube.Unchanged(autoscaler), {Op: "remove", Path: kube.AnnotationPath(FloorAnnotation)}}
	if was, held := heldSince(autoscaler); held {
		spec := runtime.DeepCopyJSON(object(autoscaler.Object, "spec"))
		setMin(spec, was)
		patch = append(patch, kube.Operation{Op: "add", Path: "/spec", Value: spec})
	}
	return &kube.Write{Kind: kube.HorizontalPodAutoscaler, Name: autoscaler.GetName(), Patch: patch}
}

// Follow plans the write that lets stable's autoscaler do what the target's does; nil when it does.
func Follow(stable, target *kube.Object, primary string) *kube.Write {
	want := forPrimary(target, primary)
	if reflect.DeepEqual(want, object(stable.Object, "spec")) {
		return nil
	}
	return &kube.Write{Kind: kube.HorizontalPodAutoscaler, Name: stable.GetName(), Patch: []kube.Operation{
		kube.Unchanged(stable), {Op: "add", Path: "/spec", Value: want},
	}}
}
