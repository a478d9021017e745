// Package client reads the objects of one namespace from the API server, and writes them.
//
// A request that the API server could not answer is sent again. A write fails with
// kube.ErrConflict when the object is no longer what it was made for.
package client

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

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
	config.UserAgent = kube.FieldManager
	config.Wrap(func(transport http.RoundTripper) http.RoundTripper { return once{transport} })
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
func (c *Client) Get(ctx context.Context, kind kube.Kind, name string, into any) (*kube.Object, error) {
	var o *kube.Object
	what := fmt.Sprintf("reading %s %s/%s", kind.Kind, c.Namespace, name)
	err := c.retry(ctx, what, true, func() (err error) {
		o, err = c.resource(kind).Get(ctx, name, metav1.GetOptions{})
		return err
	})
	if apierrors.IsNotFound(err) {
		if hasCauses(err) {
			return nil, fmt.Errorf("%s: %w", what, kube.ErrNotServed)
		}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if into != nil {
		if err := kube.Decode(o.Object, into); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
	}
	return o, nil
}

// NamespaceLabels are the labels of the client's own namespace.
func (c *Client) NamespaceLabels(ctx context.Context) (map[string]string, error) {
	var o *kube.Object
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
func (c *Client) List(ctx context.Context, kind kube.Kind) ([]kube.Object, error) {
	return c.list(ctx, kind, metav1.ListOptions{})
}

// Find reads objects of a kind that have all these labels, at most so many; 0: all.
func (c *Client) Find(
	ctx context.Context, kind kube.Kind, having map[string]string, limit int64) ([]kube.Object, error) {
	return c.list(ctx, kind, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(having).String(), Limit: limit})
}

// list reads objects of a kind; none of a kind that the cluster does not serve.
func (c *Client) list(ctx context.Context, kind kube.Kind, options metav1.ListOptions) ([]kube.Object, error) {
	var list *unstructured.UnstructuredList
	what := fmt.Sprintf("listing %s of namespace %s", kind.Kind, c.Namespace)
	err := c.retry(ctx, what, true, func() (err error) {
		list, err = c.resource(kind).List(ctx, options)
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

// Do carries out a write. The error is kube.ErrConflict when the object is not what it was made
// for.
func (c *Client) Do(ctx context.Context, w kube.Write) error {
	what := fmt.Sprintf("writing %s %s/%s", w.Kind.Kind, c.Namespace, w.Name)
	err := c.retry(ctx, what, false, func() error {
		switch {
		case w.Delete:
			return c.delete(ctx, w)
		case w.Create != nil:
			return c.create(ctx, w)
		}
		return c.patch(ctx, w)
	})
	switch {
	case err == nil:
		return nil
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err) &&
		w.Create == nil, failedTest(err), unclear(err):
		return fmt.Errorf("%s: %w (%w)", what, kube.ErrConflict, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// delete sends the removal of an object. It is no error when there is none.
func (c *Client) delete(ctx context.Context, w kube.Write) error {
	err := c.resource(w.Kind).Delete(ctx, w.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// create sends a new object.
func (c *Client) create(ctx context.Context, w kube.Write) error {
	o := &kube.Object{Object: map[string]any{}}
	maps.Copy(o.Object, w.Create)
	o.SetAPIVersion(w.Kind.Resource.GroupVersion().String())
	o.SetKind(w.Kind.Kind)
	o.SetNamespace(c.Namespace)
	o.SetName(w.Name)
	_, err := c.resource(w.Kind).Create(ctx, o, metav1.CreateOptions{FieldManager: kube.FieldManager})
	return err
}

// patch sends the patch of an object, or of its subresource.
func (c *Client) patch(ctx context.Context, w kube.Write) error {
	var part []string
	if w.Subresource != "" {
		part = append(part, w.Subresource)
	}
	body, err := json.Marshal(w.Patch)
	if err != nil {
		return err
	}
	_, err = c.resource(w.Kind).Patch(
		ctx, w.Name, types.JSONPatchType, body, metav1.PatchOptions{FieldManager: kube.FieldManager}, part...)
	return err
}

// resource is a kind of objects in the client's namespace.
func (c *Client) resource(kind kube.Kind) dynamic.ResourceInterface {
	return c.api.Resource(kind.Resource).Namespace(c.Namespace)
}

// Create sends an object that the API server names, a review or an event, and returns what the API
// server made of it.
func (c *Client) Create(
	ctx context.Context, kind kube.Kind, namespaced bool, body map[string]any) (*kube.Object, error) {
	o := &kube.Object{Object: body}
	o.SetAPIVersion(kind.Resource.GroupVersion().String())
	o.SetKind(kind.Kind)
	resource := dynamic.ResourceInterface(c.api.Resource(kind.Resource))
	if namespaced {
		resource = c.resource(kind)
	}
	var made *kube.Object
	err := c.retry(ctx, "creating a "+kind.Kind, true, func() (err error) {
		made, err = resource.Create(ctx, o, metav1.CreateOptions{FieldManager: kube.FieldManager})
		return err
	})
	return made, err
}
