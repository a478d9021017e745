package workload

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// OfCanary reports whether a Flagger Canary owns an object: the cluster removes it with the Canary.
func OfCanary(o metav1.Object) bool {
	for _, owner := range o.GetOwnerReferences() {
		if owner.Kind == "Canary" && strings.HasPrefix(owner.APIVersion, "flagger.app/") {
			return true
		}
	}
	return false
}

// Disown plans the write that removes Canaries from the owners of an object, and leaves the others.
// From then on it is as if a release of the target had made it.
func Disown(kind kube.Kind, o *kube.Object, target string) kube.Write {
	owners, _, _ := unstructured.NestedSlice(o.Object, "metadata", "ownerReferences")
	var rest []any
	for _, owner := range owners {
		one := &kube.Object{Object: map[string]any{"metadata": map[string]any{"ownerReferences": []any{owner}}}}
		if !OfCanary(one) {
			rest = append(rest, owner)
		}
	}
	const path = "/metadata/ownerReferences"
	change := kube.Operation{Op: "remove", Path: path}
	if len(rest) > 0 {
		change = kube.Operation{Op: "add", Path: path, Value: rest}
	}
	return kube.Write{
		Kind: kind, Name: o.GetName(),
		Patch: append([]kube.Operation{{Op: "test", Path: path, Value: owners}, change},
			kube.Label(o, TargetLabel, target)...)}
}
