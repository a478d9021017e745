package kubetest

import (
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// namespaces is the one kind of stored objects that are in no namespace.
var namespaces = kube.Kind{
	Kind: "Namespace", Resource: schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}}

// kinds are those that are served: all of lib/kube, and namespaces.
var kinds = []kube.Kind{
	namespaces, kube.Deployment, kube.ReplicaSet, kube.Service, kube.ConfigMap, kube.Secret, kube.Pod,
	kube.EndpointSlice, kube.PersistentVolumeClaim, kube.Event, kube.VirtualService, kube.DestinationRule,
	kube.Sidecar, kube.AuthorizationPolicy, kube.RequestAuthentication, kube.NetworkPolicy,
	kube.PodDisruptionBudget, kube.HorizontalPodAutoscaler, kube.Canary, kube.MetricTemplate, kube.PipelineRun,
	kube.AccessReview, kube.LocalAccessReview}

// Request is a request, as the server understands it.
type Request struct {
	Verb        string // as RBAC names it: get, list, create, patch, delete
	Kind        kube.Kind
	Namespace   string // empty: none
	Name        string // empty: a list, or a name that the body has
	Subresource string // "status"; empty: the object itself
	Body        []byte

	query url.Values
}

// Key is the object that is meant, as in Objects.
func (r Request) Key() string { return r.Kind.Resource.Resource + "/" + r.Name }

// String is a request as Writes has it.
func (r Request) String() string {
	return strings.TrimSuffix(r.Verb+" "+r.Key()+"/"+r.Subresource, "/")
}

// Writes reports whether the request is to change what is stored.
func (r Request) Writes() bool {
	return r.Verb != "get" && r.Verb != "list" && notStored[r.Kind] == nil
}

// right is what the client needs, as in Denied.
func (r Request) right() string { return right(r.Verb, r.Kind.Resource.Resource, r.Subresource) }

// right is a verb and what it is for.
func right(verb, resource, subresource string) string {
	return strings.TrimSuffix(verb+" "+resource+"/"+subresource, "/")
}

// methods are the verbs of HTTP's methods.
var methods = map[string]string{
	http.MethodGet: "get", http.MethodPost: "create", http.MethodPatch: "patch", http.MethodDelete: "delete"}

// understand reads a request. It is not served when its path names no kind that is.
func (s *Server) understand(q *http.Request) (r Request, served bool, err error) {
	parts := strings.Split(strings.Trim(q.URL.Path, "/"), "/")
	var resource schema.GroupVersionResource
	switch {
	case parts[0] == "api" && len(parts) > 2:
		resource.Version, parts = parts[1], parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		resource.Group, resource.Version, parts = parts[1], parts[2], parts[3:]
	default:
		return r, false, nil
	}
	if parts[0] == namespaces.Resource.Resource && len(parts) > 2 {
		r.Namespace, parts = parts[1], parts[2:]
	}
	parts = append(parts, "", "")
	resource.Resource, r.Name, r.Subresource = parts[0], parts[1], parts[2]
	i := slices.IndexFunc(kinds, func(k kube.Kind) bool { return k.Resource == resource })
	if i < 0 || s.Unserved[resource.Resource] {
		return r, false, nil
	}
	r.Kind, r.Verb, r.query = kinds[i], methods[q.Method], q.URL.Query()
	if r.Verb == "get" && r.Name == "" {
		r.Verb = "list"
	}
	if q.Body != nil {
		r.Body, err = io.ReadAll(q.Body)
	}
	return r, true, err
}
