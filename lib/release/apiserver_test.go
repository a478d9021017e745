package release

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/canary-tasks/canary-tasks/lib/kube/client"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// apiserver speaks as much of the Kubernetes API as a release needs: get, create and JSON Patch,
// with resourceVersions. Deployments are rolled out at once, unless stuck says otherwise. The real
// one is in test/e2e.
type apiserver struct {
	t       *testing.T
	target  string // that the steps are of
	mu      sync.Mutex
	objects map[string]map[string]any // "deployments/shop"
	version int
	writes  []string // "patch deployments/shop", in order; events and reviews are left out
	budget  int      // how many writes are carried out before all others are refused; negative: all
	refuses int      // how many writes of VirtualServices a webhook refuses before it lets them pass
	// how many writes of VirtualServices are answered with 503, as when istiod's webhook is
	// unavailable
	away    int
	stuck   map[string]bool // Deployments that never get ready
	denied  map[string]bool // "verb resource", or "namespace:account verb resource", that a review denies
	onWrite func(string)    // called after each write, with the lock held
	events  []string
	reviews []string // of other accounts: user, groups and namespace
	about   []string // of each event, as Kind/name

	unserved string // a resource that is not installed
}

func newAPIServer(t *testing.T, manifests ...string) *apiserver {
	t.Helper()
	a := &apiserver{t: t, target: "shop", objects: map[string]map[string]any{}, budget: -1, stuck: map[string]bool{},
		denied: map[string]bool{}}
	a.apply("{kind: Namespace, metadata: {name: web}}")
	for _, m := range manifests {
		a.apply(m)
	}
	return a
}

// clone returns a server with the same objects: to begin from the same state many times.
func (a *apiserver) clone() *apiserver {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	b := newAPIServer(a.t)
	b.version = a.version
	text, err := json.Marshal(a.objects)
	if err == nil {
		err = json.Unmarshal(text, &b.objects)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return b
}

// killed does something that ends after so many writes, as a process does that is killed.
func (a *apiserver) killed(after int, do func() error) error {
	set := func(n int) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.budget = n
	}
	set(after)
	defer set(-1)
	return do()
}

var resources = map[string]string{
	"Deployment": "deployments", "Service": "services", "ConfigMap": "configmaps", "Secret": "secrets",
	"VirtualService": "virtualservices", "DestinationRule": "destinationrules",
	"PodDisruptionBudget": "poddisruptionbudgets", "HorizontalPodAutoscaler": "horizontalpodautoscalers",
	"AuthorizationPolicy": "authorizationpolicies", "PipelineRun": "pipelineruns", "Canary": "canaries",
	"MetricTemplate": "metrictemplates",
	"Namespace":      "namespaces", "Pod": "pods", "PersistentVolumeClaim": "persistentvolumeclaims"}

// apply puts an object as somebody else would: kubectl, Helm.
func (a *apiserver) apply(manifest string) {
	a.t.Helper()
	var o map[string]any
	if err := yaml.Unmarshal([]byte(manifest), &o); err != nil {
		a.t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	key := resources[o["kind"].(string)] + "/" + o["metadata"].(map[string]any)["name"].(string)
	a.put(key, o)
}

// put stores an object and does what a controller would. The lock is held.
func (a *apiserver) put(key string, o map[string]any) {
	a.version++
	metadata := o["metadata"].(map[string]any)
	if metadata["namespace"] == nil {
		metadata["namespace"] = "web"
	}
	metadata["resourceVersion"] = fmt.Sprint(a.version)
	if strings.HasPrefix(key, "deployments/") {
		metadata["generation"] = a.version
		replicas := o["spec"].(map[string]any)["replicas"]
		if replicas == nil {
			replicas = 1
		}
		o["status"] = map[string]any{
			"observedGeneration": a.version, "replicas": replicas, "updatedReplicas": replicas,
			"availableReplicas": replicas}
		if a.stuck[key] {
			o["status"] = map[string]any{
				"observedGeneration": a.version, "replicas": replicas, "updatedReplicas": replicas,
				"availableReplicas": 0}
		}
	}
	a.objects[key] = o
	if name, ok := strings.CutPrefix(key, "deployments/"); ok { // each template has a ReplicaSet, which is kept
		template := field(o, "spec", "template")
		of, _ := template["metadata"].(map[string]any)
		annotations, _ := of["annotations"].(map[string]any)
		if set := fmt.Sprint("replicasets/", name, "-", annotations[workload.RevisionAnnotation]); annotations != nil &&
			a.objects[set] == nil {
			a.put(set, map[string]any{
				"metadata": map[string]any{"name": set, "labels": of["labels"]},
				"spec":     map[string]any{"template": template}})
		}
	}
}

// endpointSlices is what the controller makes of a Service: one endpoint for each pod that is
// available and that it selects.
func (a *apiserver) endpointSlices(selector string) []any {
	_, name, _ := strings.Cut(selector, "=")
	service := a.objects["services/"+name]
	if service == nil {
		return []any{}
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
	return []any{map[string]any{
		"metadata": map[string]any{"name": name + "-1"}, "addressType": "IPv4", "endpoints": endpoints}}
}

// available is how many pods of a Deployment serve.
func available(o map[string]any) int {
	n, _ := strconv.Atoi(fmt.Sprint(o["status"].(map[string]any)["availableReplicas"]))
	return n
}

// having reports whether an object has the labels of a selector.
func having(selector string, o map[string]any) bool {
	s, err := labels.Parse(selector)
	of := &unstructured.Unstructured{Object: o}
	return err == nil && s.Matches(labels.Set(of.GetLabels()))
}

// field returns a map within an object, by the names of the fields that lead to it.
func field(o map[string]any, path ...string) map[string]any {
	for _, name := range path {
		o = o[name].(map[string]any)
	}
	return o
}

// client returns a client of the server.
func (a *apiserver) client() *client.Client {
	c, err := client.New(&rest.Config{Host: "http://api", Transport: direct{a}}, "web")
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// direct hands requests to a handler without a network, so that a test may run in a bubble of
// virtual time.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	recorder := httptest.NewRecorder()
	d.ServeHTTP(recorder, r)
	return recorder.Result(), nil
}

func (a *apiserver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		a.t.Error(err)
	}
	parts := strings.Split(r.URL.Path, "/")
	resource, name := parts[len(parts)-1], ""
	if r.Method != http.MethodPost {
		resource, name = parts[len(parts)-2], parts[len(parts)-1]
	}
	part := ""
	if r.Method == http.MethodPatch && name == "status" {
		part, resource, name = name, parts[len(parts)-3], parts[len(parts)-2]
	}
	answer := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	refuse := func(status int, reason string) {
		answer(status, map[string]any{
			"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "reason": reason,
			"message": reason, "details": map[string]any{"name": name}})
	}
	var sent map[string]any
	if r.Method == http.MethodPost {
		if err := json.Unmarshal(body, &sent); err != nil {
			a.t.Error(err)
		}
	}
	switch resource {
	case "selfsubjectaccessreviews":
		q := field(sent, "spec", "resourceAttributes")
		sent["status"] = map[string]any{
			"allowed": !a.denied[strings.TrimSuffix(
				fmt.Sprint(q["verb"], " ", q["resource"], "/", q["subresource"]), "/")]}
		answer(http.StatusCreated, sent)
		return
	case "localsubjectaccessreviews":
		if a.denied["create localsubjectaccessreviews"] {
			refuse(http.StatusForbidden, "Forbidden")
			return
		}
		spec := sent["spec"].(map[string]any)
		q := spec["resourceAttributes"].(map[string]any)
		if of := sent["metadata"].(map[string]any)["namespace"]; q["namespace"] != of { // as the real one does
			refuse(http.StatusUnprocessableEntity, "Invalid")
			return
		}
		a.reviews = append(a.reviews, fmt.Sprint(spec["user"], " ", spec["groups"], " ", q["namespace"]))
		_, account, _ := strings.Cut(spec["user"].(string), "system:serviceaccount:")
		sent["status"] = map[string]any{
			"allowed": !a.denied[strings.TrimSuffix(
				fmt.Sprint(account, " ", q["verb"], " ", q["resource"], "/", q["subresource"]), "/")]}
		answer(http.StatusCreated, sent)
		return
	case "events":
		a.events = append(a.events, fmt.Sprint(sent["message"]))
		of, _ := sent["involvedObject"].(map[string]any)
		a.about = append(a.about, fmt.Sprint(of["kind"], "/", of["name"]))
		sent["metadata"].(map[string]any)["name"] = fmt.Sprint(len(a.events))
		answer(http.StatusCreated, sent)
		return
	}
	if a.unserved != "" && slices.Contains(parts, a.unserved) {
		http.NotFound(w, r) // as the real one does, without a Status
		return
	}
	// a list: /…/namespaces/web/RESOURCE
	if r.Method == http.MethodGet && len(parts) > 3 && parts[len(parts)-2] == "web" {
		items := []any{}
		if name == "endpointslices" {
			items = a.endpointSlices(r.URL.Query().Get("labelSelector"))
		}
		for _, key := range slices.Sorted(maps.Keys(a.objects)) {
			if strings.HasPrefix(key, name+"/") && having(r.URL.Query().Get("labelSelector"), a.objects[key]) {
				items = append(items, a.objects[key])
			}
		}
		answer(http.StatusOK, map[string]any{"kind": "List", "apiVersion": "v1", "items": items})
		return
	}
	if r.Method == http.MethodPost {
		name, _ = sent["metadata"].(map[string]any)["name"].(string)
	}
	key := resource + "/" + name
	now := a.objects[key]
	if r.Method == http.MethodGet {
		if a.denied["get "+resource] {
			refuse(http.StatusForbidden, "Forbidden")
			return
		}
		if now == nil {
			refuse(http.StatusNotFound, "NotFound")
			return
		}
		answer(http.StatusOK, now)
		return
	}
	if part != "" && a.denied["patch "+resource+"/"+part] {
		refuse(http.StatusForbidden, "Forbidden")
		return
	}
	if a.budget == 0 {
		refuse(http.StatusForbidden, "Forbidden") // as good as killed: nothing more is written
		return
	}
	if resource == "virtualservices" && a.refuses > 0 {
		a.refuses--
		refuse(http.StatusForbidden, "Forbidden")
		return
	}
	if resource == "virtualservices" && a.away > 0 {
		a.away--
		refuse(http.StatusServiceUnavailable, "ServiceUnavailable")
		return
	}
	switch {
	case r.Method == http.MethodPost && now != nil:
		refuse(http.StatusConflict, "AlreadyExists")
		return
	case r.Method == http.MethodPost:
		a.put(key, sent)
	case now == nil:
		refuse(http.StatusNotFound, "NotFound")
		return
	case r.Method == http.MethodDelete:
		delete(a.objects, key)
		maps.DeleteFunc(a.objects, func(of string, _ map[string]any) bool {
			return resource == "deployments" && strings.HasPrefix(of, "replicasets/"+name+"-")
		})
	default:
		before, _ := json.Marshal(now)
		patch, err := jsonpatch.DecodePatch(body)
		if err != nil {
			a.t.Error(err)
		}
		after, err := patch.Apply(before)
		if err != nil {
			answer(http.StatusUnprocessableEntity,
				map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422,
					"message": err.Error()})
			return
		}
		var changed map[string]any
		if err := json.Unmarshal(after, &changed); err != nil {
			a.t.Error(err)
		}
		if part != "" { // nothing else is changed
			status := changed[part]
			changed = maps.Clone(now)
			changed[part] = status
		} else if resource == "canaries" {
			changed["status"] = now["status"]
		}
		a.put(key, changed)
	}
	a.budget--
	did := strings.TrimSuffix(strings.ToLower(r.Method)+" "+key+"/"+part, "/")
	a.writes = append(a.writes, did)
	if a.onWrite != nil {
		a.onWrite(did)
	}
	if now = a.objects[key]; now == nil {
		now = map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Success"}
	}
	answer(http.StatusOK, now)
}

// versions are the resourceVersions of all objects but the lock.
func (a *apiserver) versions() map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	versions := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(a.objects)) {
		if key != "configmaps/shop-canary-release" {
			versions[key] = a.objects[key]["metadata"].(map[string]any)["resourceVersion"].(string)
		}
	}
	return versions
}
