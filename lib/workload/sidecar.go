package workload

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// InjectLabel is how pods ask Istio for a sidecar, or for none.
const InjectLabel = "sidecar.istio.io/inject"

// Injection is whether Istio's injector puts a sidecar into pods.
type Injection int

// What the labels of pods and of their namespace come to.
const (
	NotMeant Injection = iota // no sidecars are asked for
	Meant
	KeptOut // the namespace asks for sidecars, and the pods for none
)

// InjectionOf reads the labels as Istio's injector does: a namespace that is disabled decides, then
// what the pods ask for, then the namespace.
func InjectionOf(namespace map[string]string, pods metav1.ObjectMeta) Injection {
	if namespace["istio-injection"] == "disabled" {
		return NotMeant
	}
	asked := pods.Labels[InjectLabel]
	if asked == "" {
		asked = pods.Annotations[InjectLabel]
	}
	meant := namespace["istio-injection"] == "enabled" || namespace["istio.io/rev"] != ""
	switch {
	case meant && asked == "false":
		return KeptOut
	case meant || asked == "true":
		return Meant
	}
	return NotMeant
}

// HasSidecar reports whether istio-proxy is in a pod: as a container, or as an init container that
// keeps running.
func HasSidecar(pod *corev1.Pod) bool {
	return slices.ContainsFunc(
		append(slices.Clone(pod.Spec.InitContainers), pod.Spec.Containers...),
		func(c corev1.Container) bool { return c.Name == "istio-proxy" })
}
