package workload

import (
	"reflect"

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
	return spec
}

// NewAutoscaler is stable's autoscaler, made from the target's. The result has no name, kind and namespace.
func NewAutoscaler(autoscaler *kube.Object, target, primary string) map[string]any {
	return map[string]any{"metadata": map[string]any{"labels": map[string]any{TargetLabel: target}}, "spec": forPrimary(autoscaler, primary)}
}

// MinReplicas is the least that an autoscaler keeps; 1 when it does not say.
func MinReplicas(autoscaler *kube.Object) int32 {
	return int32(asInt(object(autoscaler.Object, "spec")["minReplicas"], 1))
}

// Floor plans the write that lets an autoscaler keep at least so many; nil when it does.
func Floor(autoscaler *kube.Object, replicas int32) *kube.Write {
	if MinReplicas(autoscaler) >= replicas {
		return nil
	}
	patch := []kube.Operation{kube.Unchanged(autoscaler), {Op: "add", Path: "/spec/minReplicas", Value: replicas}}
	if asInt(object(autoscaler.Object, "spec")["maxReplicas"], 0) < int64(replicas) {
		patch = append(patch, kube.Operation{Op: "add", Path: "/spec/maxReplicas", Value: replicas})
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
