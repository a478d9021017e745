// Package kube has the objects of a cluster, as a release reads them, and the writes that change
// them. Both are data: lib/kube/client reads and writes.
//
// Objects are read whole, as JSON, so that a field this program does not know is never lost; what
// is needed of them is decoded into the types of their API. Every write is a Write: made by a pure
// function, carried out by a client, refused by the API server when the object is no longer what
// the function saw (ErrConflict), and then made again from what is there.
package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// FieldManager is the name under which everything is written.
const FieldManager = "canary-tasks"

// Kind is a kind of object, with the resource it is served as.
type Kind struct {
	Kind     string
	Resource schema.GroupVersionResource
}

// The kinds that a release reads or writes.
var (
	Deployment = Kind{
		"Deployment", schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}}
	ReplicaSet = Kind{
		"ReplicaSet", schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}}
	Service       = Kind{"Service", schema.GroupVersionResource{Version: "v1", Resource: "services"}}
	ConfigMap     = Kind{"ConfigMap", schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}}
	Secret        = Kind{"Secret", schema.GroupVersionResource{Version: "v1", Resource: "secrets"}}
	Pod           = Kind{"Pod", schema.GroupVersionResource{Version: "v1", Resource: "pods"}}
	EndpointSlice = Kind{
		"EndpointSlice", schema.GroupVersionResource{
			Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"}}
	PersistentVolumeClaim = Kind{
		"PersistentVolumeClaim", schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}}
	Event          = Kind{"Event", schema.GroupVersionResource{Version: "v1", Resource: "events"}}
	VirtualService = Kind{
		"VirtualService", schema.GroupVersionResource{
			Group: "networking.istio.io", Version: "v1", Resource: "virtualservices"}}
	DestinationRule = Kind{
		"DestinationRule",
		schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "destinationrules"}}
	Sidecar = Kind{
		"Sidecar", schema.GroupVersionResource{Group: "networking.istio.io", Version: "v1", Resource: "sidecars"}}
	AuthorizationPolicy = Kind{
		"AuthorizationPolicy",
		schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: "authorizationpolicies"}}
	RequestAuthentication = Kind{
		"RequestAuthentication",
		schema.GroupVersionResource{Group: "security.istio.io", Version: "v1", Resource: "requestauthentications"}}
	NetworkPolicy = Kind{
		"NetworkPolicy", schema.GroupVersionResource{
			Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"}}
	PodDisruptionBudget = Kind{
		"PodDisruptionBudget",
		schema.GroupVersionResource{Group: "policy", Version: "v1", Resource: "poddisruptionbudgets"}}
	HorizontalPodAutoscaler = Kind{
		"HorizontalPodAutoscaler",
		schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"}}
	Canary = Kind{
		"Canary", schema.GroupVersionResource{Group: "flagger.app", Version: "v1beta1", Resource: "canaries"}}
	MetricTemplate = Kind{
		"MetricTemplate", schema.GroupVersionResource{
			Group: "flagger.app", Version: "v1beta1", Resource: "metrictemplates"}}
	PipelineRun = Kind{
		"PipelineRun", schema.GroupVersionResource{Group: "tekton.dev", Version: "v1", Resource: "pipelineruns"}}
	AccessReview = Kind{
		"SelfSubjectAccessReview",
		schema.GroupVersionResource{Group: "authorization.k8s.io", Version: "v1", Resource: "selfsubjectaccessreviews"}}
	LocalAccessReview = Kind{
		"LocalSubjectAccessReview",
		schema.GroupVersionResource{
			Group: "authorization.k8s.io", Version: "v1", Resource: "localsubjectaccessreviews"}}
)

// ErrConflict is the error for a write whose object is not what it was made for: read it again.
var ErrConflict = errors.New("the object changed meanwhile")

// ErrNotServed is the error for a kind of object that the cluster does not serve at all.
var ErrNotServed = errors.New(
	"the cluster does not serve this kind of object: are its CustomResourceDefinitions installed?")

// Object is an object as the API server has it.
type Object = unstructured.Unstructured

// Operation is one of a JSON Patch (RFC 6902).
type Operation struct {
	Op    string `json:"op"` // test, add, remove
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// MarshalJSON keeps a value of zero, which "remove" alone has not.
func (o Operation) MarshalJSON() ([]byte, error) {
	if o.Op == "remove" {
		return json.Marshal(map[string]any{"op": o.Op, "path": o.Path})
	}
	return json.Marshal(map[string]any{"op": o.Op, "path": o.Path, "value": o.Value})
}

// Unchanged is the guard that an object is still the one that was read.
func Unchanged(o metav1.Object) Operation {
	return Operation{Op: "test", Path: "/metadata/resourceVersion", Value: o.GetResourceVersion()}
}

// Write is a change of one object: it is made (Create), patched (Patch) or removed (Delete).
type Write struct {
	Kind   Kind
	Name   string
	Create map[string]any // without apiVersion, kind, namespace and name, which the client adds
	Patch  []Operation
	Delete bool   // where it is there
	Say    string // what to tell people, once it is done; empty: nothing
	// Subresource is the part of the object that is patched, "status"; empty: all but that.
	Subresource string
}

// String names the object that is written.
func (w Write) String() string { return w.Kind.Kind + "/" + w.Name }

// Decode decodes a part of an object into the type of its API.
func Decode(from, into any) error {
	b, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// Encode is the reverse of Decode: any value of an API's type as a part of an object.
func Encode(from any) map[string]any {
	into := map[string]any{}
	if err := Decode(from, &into); err != nil {
		panic(err) // the types of an API can be encoded
	}
	return into
}

// Annotate are the operations that set an annotation of an object that was read.
func Annotate(o metav1.Object, key, value string) []Operation {
	if len(o.GetAnnotations()) == 0 {
		return []Operation{{Op: "add", Path: "/metadata/annotations", Value: map[string]string{key: value}}}
	}
	return []Operation{{Op: "add", Path: AnnotationPath(key), Value: value}}
}

// Label are the operations that set a label of an object that was read.
func Label(o metav1.Object, key, value string) []Operation {
	if len(o.GetLabels()) == 0 {
		return []Operation{{Op: "add", Path: "/metadata/labels", Value: map[string]string{key: value}}}
	}
	return []Operation{{Op: "add", Path: LabelPath(key), Value: value}}
}

// AnnotationPath is where a JSON Patch finds an annotation.
func AnnotationPath(key string) string { return "/metadata/annotations/" + escaped.Replace(key) }

// LabelPath is where a JSON Patch finds a label.
func LabelPath(key string) string { return "/metadata/labels/" + escaped.Replace(key) }

var escaped = strings.NewReplacer("~", "~0", "/", "~1")

// LastManager names who wrote an object last, out of its managedFields.
func LastManager(o metav1.Object) string {
	last, at := "somebody", time.Time{}
	for _, m := range o.GetManagedFields() {
		if m.Subresource == "" && m.Time != nil && m.Time.After(at) {
			last, at = fmt.Sprintf(
				"field manager %q (%s at %s)", m.Manager, m.Operation, m.Time.UTC().Format("15:04:05")), m.Time.Time
		}
	}
	return last
}
