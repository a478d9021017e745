package release

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/kube/client"
	"github.com/canary-tasks/canary-tasks/lib/kube/kubetest"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// apiserver is a cluster that releases are made on. Deployments are rolled out at once, unless
// stuck says otherwise. The real one is in test/e2e.
type apiserver struct {
	*kubetest.Server
	t       *testing.T
	target  string                    // that the steps are of
	mu      *sync.Mutex               // the server's, as are objects and denied
	objects map[string]map[string]any // "deployments/shop"
	denied  map[string]bool           // "verb resource", or "namespace:account verb resource"
	// how many writes of VirtualServices a webhook refuses before it lets them pass
	refuses int
	// how many writes of VirtualServices are answered with 503, as when istiod's webhook is
	// unavailable
	away    int
	stuck   map[string]bool // Deployments that never get ready
	onWrite func(string)    // called after each write, with the lock held
}

func newAPIServer(t *testing.T, manifests ...string) *apiserver {
	t.Helper()
	a := onServer(t, kubetest.New(t, "web"))
	for _, m := range manifests {
		a.apply(m)
	}
	return a
}

// onServer makes a cluster of what a server stores.
func onServer(t *testing.T, s *kubetest.Server) *apiserver {
	a := &apiserver{
		Server: s, t: t, target: "shop", mu: &s.Mu, objects: s.Objects, denied: s.Denied, stuck: map[string]bool{}}
	s.Before, s.Stored, s.After = a.webhook, a.control, a.wrote
	s.Lists["endpointslices"] = a.endpointSlices
	return a
}

// clone returns a server with the same objects: to begin from the same state many times.
func (a *apiserver) clone() *apiserver {
	a.t.Helper()
	return onServer(a.t, a.Clone())
}

// killed does something that ends after so many writes, as a process does that is killed.
func (a *apiserver) killed(after int, do func() error) error { return a.Killed(after, do) }

// apply puts an object as somebody else would: kubectl, Helm.
func (a *apiserver) apply(manifest string) {
	a.t.Helper()
	a.Apply(manifest)
}

// put stores an object and does what a controller would. The lock is held.
func (a *apiserver) put(key string, o map[string]any) { a.Put(key, o) }

// client returns a client of the server.
func (a *apiserver) client() *client.Client { return a.Client() }

// webhook is istiod's, which looks at each VirtualService.
func (a *apiserver) webhook(r kubetest.Request) *kubetest.Failure {
	switch {
	case r.Kind != kube.VirtualService || !r.Writes():
	case a.refuses > 0:
		a.refuses--
		return &kubetest.Failure{Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden}
	case a.away > 0:
		a.away--
		return &kubetest.Failure{Code: http.StatusServiceUnavailable, Reason: metav1.StatusReasonServiceUnavailable}
	}
	return nil
}

// control does what the controller of Deployments does: all pods are up at once, and each template
// has a ReplicaSet, which is kept.
func (a *apiserver) control(key string, o map[string]any) {
	name, ok := strings.CutPrefix(key, "deployments/")
	if !ok {
		return
	}
	replicas := o["spec"].(map[string]any)["replicas"]
	if replicas == nil {
		replicas = 1
	}
	status := map[string]any{
		"observedGeneration": field(o, "metadata")["generation"], "replicas": replicas, "updatedReplicas": replicas,
		"availableReplicas": replicas}
	if a.stuck[key] {
		status["availableReplicas"] = 0
	}
	o["status"] = status
	template := field(o, "spec", "template")
	of, _ := template["metadata"].(map[string]any)
	annotations, _ := of["annotations"].(map[string]any)
	if set := fmt.Sprint("replicasets/", name, "-", annotations[workload.RevisionAnnotation]); annotations != nil &&
		a.objects[set] == nil {
		a.put(set, map[string]any{
			"metadata": map[string]any{"labels": of["labels"]}, "spec": map[string]any{"template": template}})
	}
}

// wrote is told of each write. The ReplicaSets of a Deployment go with it.
func (a *apiserver) wrote(did string) {
	if name, ok := strings.CutPrefix(did, "delete deployments/"); ok {
		maps.DeleteFunc(a.objects, func(key string, _ map[string]any) bool {
			return strings.HasPrefix(key, "replicasets/"+name+"-")
		})
	}
	if a.onWrite != nil {
		a.onWrite(did)
	}
}

// about are the objects that Events were about, as Kind/name.
func (a *apiserver) about() (about []string) {
	for _, e := range a.Events {
		of := field(e, "involvedObject")
		about = append(about, fmt.Sprint(of["kind"], "/", of["name"]))
	}
	return about
}

// reviews are those of other accounts: user, groups and namespace.
func (a *apiserver) reviews() (reviews []string) {
	for _, spec := range a.Reviews {
		reviews = append(
			reviews, fmt.Sprint(spec["user"], " ", spec["groups"], " ", field(spec, "resourceAttributes")["namespace"]))
	}
	return reviews
}

// endpointSlices is what the controller makes of a Service: one endpoint for each pod that is
// available and that it selects.
func (a *apiserver) endpointSlices(selector labels.Selector) []map[string]any {
	name, _ := selector.RequiresExactMatch(discoveryv1.LabelServiceName)
	service := a.objects["services/"+name]
	if service == nil {
		return nil
	}
	selects, _, _ := unstructured.NestedStringMap(service, "spec", "selector")
	var endpoints []any
	for key, o := range a.objects {
		of, _, _ := unstructured.NestedStringMap(o, "spec", "template", "metadata", "labels")
		if !strings.HasPrefix(key, "deployments/") || !labels.SelectorFromSet(selects).Matches(labels.Set(of)) {
			continue
		}
		for range available(o) {
			endpoints = append(
				endpoints, map[string]any{"addresses": []any{"10.0.0.1"}, "conditions": map[string]any{"ready": true}})
		}
	}
	return []map[string]any{{
		"metadata": map[string]any{"name": name + "-1"}, "addressType": "IPv4", "endpoints": endpoints}}
}

// available is how many pods of a Deployment serve.
func available(o map[string]any) int {
	n, _ := strconv.Atoi(fmt.Sprint(o["status"].(map[string]any)["availableReplicas"]))
	return n
}

// field returns a map within an object, by the names of the fields that lead to it.
func field(o map[string]any, path ...string) map[string]any {
	for _, name := range path {
		o = o[name].(map[string]any)
	}
	return o
}

// versions are the resourceVersions of all objects but the lock.
func (a *apiserver) versions() map[string]string {
	versions := a.Versions()
	delete(versions, "configmaps/shop-canary-release")
	return versions
}
