package workload

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// ServicePorts are the ports of the Services that a release makes: those of the Service that is
// there, or, where there is none, one port (number, default 80) that leads to the target's first
// container port.
func ServicePorts(service *unstructured.Unstructured, target *appsv1.Deployment, port string) []any {
	if service != nil {
		ports := []any{}
		for _, p := range PortsOf(service) {
			ports = append(ports, p)
		}
		return ports
	}
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		number = 80
	}
	p := map[string]any{"name": "http", "port": number, "protocol": "TCP"}
	for _, c := range target.Spec.Template.Spec.Containers {
		if len(c.Ports) > 0 && c.Name != "istio-proxy" {
			p["targetPort"] = int64(c.Ports[0].ContainerPort)
			break
		}
	}
	return []any{p}
}

// PortsOf are copies of a Service's ports, without those of nodes.
func PortsOf(service *unstructured.Unstructured) []map[string]any {
	ports, _, _ := unstructured.NestedSlice(service.Object, "spec", "ports")
	var all []map[string]any
	for _, p := range ports {
		if p, ok := p.(map[string]any); ok {
			delete(p, "nodePort")
			all = append(all, p)
		}
	}
	return all
}

// FollowPorts plans the write that gives the Service of one version the ports of the Service that
// people call; nil where it has them. Where its pods are given, and are not what those ports were
// made for, a port keeps its target.
func FollowPorts(service, called, pods *unstructured.Unstructured) *kube.Write {
	has, want := PortsOf(service), PortsOf(called)
	if pods != nil {
		for _, p := range want {
			p["targetPort"] = TargetPort(p, has, pods)
		}
	}
	if reflect.DeepEqual(has, want) || len(want) == 0 {
		return nil
	}
	return &kube.Write{
		Kind: kube.Service, Name: service.GetName(),
		Patch: []kube.Operation{kube.Unchanged(service), {Op: "add", Path: "/spec/ports", Value: want}}}
}

// TargetPort is where a port of the Service that people call is to lead of pods, whose own Service
// has others: to the same, by the new name where that is the same.
func TargetPort(p map[string]any, has []map[string]any, pods *unstructured.Unstructured) any {
	i := slices.IndexFunc(
		has, func(one map[string]any) bool { return one["port"] == p["port"] && one["protocol"] == p["protocol"] })
	if i < 0 || SamePort(pods, has[i]["targetPort"], p["targetPort"]) {
		return p["targetPort"]
	}
	return has[i]["targetPort"]
}

// SamePort reports whether two targetPorts, names or numbers, are the same port of a Deployment's
// pods.
func SamePort(pods *unstructured.Unstructured, a, b any) bool {
	number := func(target any) any {
		for _, c := range list(object(object(object(pods.Object, "spec"), "template"), "spec"), "containers") {
			for _, p := range list(c, "ports") {
				if p["name"] == target && target != nil {
					return fmt.Sprint(p["containerPort"])
				}
			}
		}
		return fmt.Sprint(target)
	}
	return a == b || number(a) == number(b)
}

// NewService is a Service that leads to the pods with these labels. The result has no name, kind
// and namespace.
func NewService(target string, selects map[string]string, ports []any) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"labels": map[string]any{TargetLabel: target}},
		"spec":     map[string]any{"selector": strings2any(selects), "ports": runtime.DeepCopyJSONValue(ports)},
	}
}

// Selects reports whether a Service leads to exactly the pods with these labels.
func Selects(service *unstructured.Unstructured, labels map[string]string) bool {
	selector, _, _ := unstructured.NestedStringMap(service.Object, "spec", "selector")
	return maps.Equal(selector, labels)
}

// SelectStable plans the write that leads a Service to stable's pods.
func SelectStable(service *unstructured.Unstructured, target string, labels map[string]string) kube.Write {
	patch := []kube.Operation{
		kube.Unchanged(service), {Op: "add", Path: "/spec/selector", Value: labels}}
	// Noted on it: a selector that was set back differs from one that was never changed.
	return kube.Write{
		Kind: kube.Service, Name: service.GetName(),
		Patch: append(patch, kube.Annotate(service, TargetLabel, target)...)}
}

// SetBack reports whether a Service that was led to stable leads elsewhere again.
func SetBack(service *unstructured.Unstructured, labels map[string]string) bool {
	return service.GetAnnotations()[TargetLabel] != "" && !Selects(service, labels)
}
