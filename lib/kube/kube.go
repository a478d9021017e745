// Package kube reads objects of one namespace and writes them.
//
// Objects are read whole, as JSON, so that a field this program does not know is never lost; what
// is needed of them is decoded into the types of their API. Every write is a Write: made by a pure
// function, carried out by Client.Do, refused by the API server when the object is no longer what
// the function saw (ErrConflict), and then made again from what is there.
package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
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

// ErrConflict says that an object is not what a write was made for: read it again.
var ErrConflict = errors.New("the object changed meanwhile")

// ErrNotServed says that the cluster does not know a kind of object at all.
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
	Create map[string]any // without apiVersion, kind, namespace and name, which Do adds
	Patch  []Operation
	Delete bool   // where it is there
	Say    string // what to tell people, once it is done; empty: nothing
	// Subresource is the part of the object that is patched, "status"; empty: all but that.
	Subresource string
}

func (w Write) String() string { return w.Kind.Kind + "/" + w.Name }

// Client reads and writes in one namespace.
type Client struct {
	api       dynamic.Interface
	Namespace string
	// Waiting is called before a request is retried: with what is tried, as in "writing
	// VirtualService shop/shop", and for how long so far. Nil: retries are silent.
	Waiting func(what string, tried time.Duration, err error)
	calls   atomic.Int64
}

// Calls is how many requests were sent, those that were repeated included.
func (c *Client) Calls() int { return int(c.calls.Load()) }

// New returns a client of the cluster that the pod runs in, or that KUBECONFIG names.
func New(config *rest.Config, namespace string) (*Client, error) {
	config = rest.CopyConfig(config)
	config.QPS, config.Burst = 100, 200 // a step sends at most some hundred requests in all
	config.UserAgent = FieldManager
	api, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client of the cluster: %w", err)
	}
	return NewWith(api, namespace), nil
}

// NewWith returns a client over one that exists.
func NewWith(api dynamic.Interface, namespace string) *Client {
	return &Client{api: api, Namespace: namespace}
}

// Get reads an object and decodes it into the value that into points to; nil leaves it undecoded.
// It returns nil without an error when there is no such object.
func (c *Client) Get(ctx context.Context, kind Kind, name string, into any) (*Object, error) {
	var o *Object
	what := fmt.Sprintf("reading %s %s/%s", kind.Kind, c.Namespace, name)
	err := c.retry(ctx, what, true, func() (err error) {
		o, err = c.api.Resource(kind.Resource).Namespace(c.Namespace).Get(ctx, name, metav1.GetOptions{})
		return err
	})
	if apierrors.IsNotFound(err) {
		if status := apierrors.APIStatus(nil); errors.As(err, &status) && status.Status().Details != nil &&
			len(status.Status().Details.Causes) > 0 {
			return nil, fmt.Errorf("%s: %w", what, ErrNotServed)
		}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if into != nil {
		if err := Decode(o.Object, into); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
	}
	return o, nil
}

// NamespaceLabels are the labels of the client's own namespace.
func (c *Client) NamespaceLabels(ctx context.Context) (map[string]string, error) {
	var o *Object
	what := "reading Namespace " + c.Namespace
	err := c.retry(ctx, what, true, func() (err error) {
		o, err = c.api.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Get(
			ctx, c.Namespace, metav1.GetOptions{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return o.GetLabels(), nil
}

// In returns a client of the same cluster for another namespace.
func (c *Client) In(namespace string) *Client {
	other := NewWith(c.api, namespace)
	other.Waiting = c.Waiting
	return other
}

// List reads all objects of a kind. There are none of a kind that the cluster does not serve.
func (c *Client) List(ctx context.Context, kind Kind) ([]Object, error) {
	return c.list(ctx, kind, metav1.ListOptions{})
}

// Find reads objects of a kind that have all these labels, at most so many; 0: all.
func (c *Client) Find(ctx context.Context, kind Kind, having map[string]string, limit int64) ([]Object, error) {
	return c.list(ctx, kind, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(having).String(), Limit: limit})
}

func (c *Client) list(ctx context.Context, kind Kind, options metav1.ListOptions) ([]Object, error) {
	var list *unstructured.UnstructuredList
	what := fmt.Sprintf("listing %s of namespace %s", kind.Kind, c.Namespace)
	err := c.retry(ctx, what, true, func() (err error) {
		list, err = c.api.Resource(kind.Resource).Namespace(c.Namespace).List(ctx, options)
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return list.Items, nil
}

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

// Do carries out a write. ErrConflict is returned when the object is not what it was made for.
func (c *Client) Do(ctx context.Context, w Write) error {
	resource := c.api.Resource(w.Kind.Resource).Namespace(c.Namespace)
	var part []string
	if w.Subresource != "" {
		part = append(part, w.Subresource)
	}
	what := fmt.Sprintf("writing %s %s/%s", w.Kind.Kind, c.Namespace, w.Name)
	err := c.retry(ctx, what, false, func() error {
		if w.Delete {
			err := resource.Delete(ctx, w.Name, metav1.DeleteOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		}
		if w.Create != nil {
			o := &Object{Object: map[string]any{}}
			for k, v := range w.Create {
				o.Object[k] = v
			}
			o.SetAPIVersion(w.Kind.Resource.GroupVersion().String())
			o.SetKind(w.Kind.Kind)
			o.SetNamespace(c.Namespace)
			o.SetName(w.Name)
			_, err := resource.Create(ctx, o, metav1.CreateOptions{FieldManager: FieldManager})
			return err
		}
		body, err := json.Marshal(w.Patch)
		if err != nil {
			return err
		}
		_, err = resource.Patch(
			ctx, w.Name, types.JSONPatchType, body, metav1.PatchOptions{FieldManager: FieldManager}, part...)
		return err
	})
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err) &&
		w.Create == nil, failedTest(err), unclear(err):
		return fmt.Errorf("%s: %w (%w)", what, ErrConflict, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Create sends an object that has no name of ours and returns what the API server made of it: a
// review, or an event.
func (c *Client) Create(ctx context.Context, kind Kind, namespaced bool, body map[string]any) (*Object, error) {
	o := &Object{Object: body}
	o.SetAPIVersion(kind.Resource.GroupVersion().String())
	o.SetKind(kind.Kind)
	var made *Object
	err := c.retry(ctx, "creating a "+kind.Kind, true, func() (err error) {
		if namespaced {
			made, err = c.api.Resource(kind.Resource).Namespace(c.Namespace).Create(
				ctx, o, metav1.CreateOptions{FieldManager: FieldManager})
		} else {
			made, err = c.api.Resource(kind.Resource).Create(ctx, o, metav1.CreateOptions{FieldManager: FieldManager})
		}
		return err
	})
	return made, err
}

// failedTest tells a failed test of a JSON Patch, which is a 422 without causes, from a refusal.
func failedTest(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && status.Status().Code == http.StatusUnprocessableEntity &&
		(status.Status().Details == nil || len(status.Status().Details.Causes) == 0)
}

// unclear says that a write may or may not have happened: the answer was lost.
func unclear(err error) bool {
	var netErr net.Error
	return apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || utilnet.IsConnectionReset(err) ||
		utilnet.IsHTTP2ConnectionLost(err) ||
		utilnet.IsProbableEOF(err) || errors.As(err, &netErr) && netErr.Timeout()
}

// Away tells whether an error says that the API server could not answer, which may be over in a
// while.
func Away(err error) bool { return transient(err) || unclear(err) }

// Refused tells whether an error is the API server's answer, or that of a webhook it asks: of a
// write, it may be another one in a while.
func Refused(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status)
}

// again are the waits before a request is sent once more: about 12 s in all. A Cap would end them.
var again = wait.Backoff{Steps: 7, Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.2}

// retry sends a request again while the API server, or a webhook it asks, cannot answer; a read
// also where the answer was lost.
func (c *Client) retry(ctx context.Context, what string, reads bool, send func() error) error {
	backoff, begin := again, time.Now()
	for {
		c.calls.Add(1)
		err := send()
		if repeat := transient(err) || reads && unclear(err); err == nil || !repeat || backoff.Steps <= 1 {
			return err
		}
		if c.Waiting != nil {
			c.Waiting(what, time.Since(begin), err)
		}
		pause := backoff.Step()
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok {
			pause = max(pause, min(time.Duration(seconds)*time.Second, 10*time.Second))
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

func transient(err error) bool {
	return apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsInternalError(err) ||
		utilnet.IsConnectionRefused(err)
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
