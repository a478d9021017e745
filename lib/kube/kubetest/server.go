// Package kubetest is a fake API server of Kubernetes, for tests of what uses lib/kube/client.
//
// It keeps objects in memory and serves the kinds of lib/kube: get, list with label selectors,
// create, JSON Patch and delete, with resourceVersions, generations and the status subresource. It
// knows nothing of what controllers do; a test adds that as Stored. A test also says what is
// denied, what fails, and whose answer is lost.
//
// A Server is an http.Handler and an http.RoundTripper: requests need no network, and may be sent
// in a bubble of testing/synctest.
package kubetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/kube/client"
)

// Server is a fake API server. Names are unique in it: an object is in one namespace only.
type Server struct {
	// Mu guards all other fields. Hooks are called with it held, and may release it for a while.
	Mu sync.Mutex

	// Objects are those that are stored, by resource and name: "deployments/shop".
	Objects map[string]map[string]any
	// Writes are those that were carried out, in order: "create services/shop", "patch
	// canaries/shop/status". Reviews and Events are none.
	Writes []string
	// Events are those that were created. They are not stored.
	Events []map[string]any
	// Reviews are the specs of the LocalSubjectAccessReviews that were answered.
	Reviews []map[string]any

	// Unserved are resources that are not installed: "virtualservices".
	Unserved map[string]bool
	// Denied are the rights that the client does not have: "patch canaries/status"; or that
	// another account does not have: "namespace:account patch services".
	Denied map[string]bool
	// Budget is how many writes are carried out before all others are refused. Negative: all.
	Budget int

	// Before is called before a request is carried out, and makes it fail.
	Before func(Request) *Failure
	// Stored is called when an object was stored, and does what its controller would: it changes
	// the status, or stores other objects. They get the resourceVersion of the object.
	Stored func(key string, o map[string]any)
	// After is called after each write, as Writes has it.
	After func(write string)
	// Lists are resources that a controller makes out of other objects: they are listed, and not
	// stored.
	Lists map[string]func(labels.Selector) []map[string]any

	t           testing.TB
	namespace   string
	version     int64 // the last resourceVersion
	made        int   // how many names were made
	generations map[string]generation
}

// generation is what an object was, when it was stored last.
type generation struct {
	number int64
	spec   string
}

// New returns a server that has one namespace and these objects in it.
func New(t testing.TB, namespace string, manifests ...string) *Server {
	t.Helper()
	s := &Server{
		Objects:  map[string]map[string]any{},
		Unserved: map[string]bool{}, Denied: map[string]bool{}, Budget: -1,
		Lists: map[string]func(labels.Selector) []map[string]any{},
		t:     t, namespace: namespace, generations: map[string]generation{}}
	s.Apply("{kind: Namespace, metadata: {name: " + namespace + "}}")
	for _, m := range manifests {
		s.Apply(m)
	}
	return s
}

// Clone returns a server with the same objects and nothing else: to begin from the same state many
// times.
func (s *Server) Clone() *Server {
	s.t.Helper()
	s.Mu.Lock()
	defer s.Mu.Unlock()
	other := New(s.t, s.namespace)
	other.version, other.made, other.Objects = s.version, s.made, nil
	text, err := json.Marshal(s.Objects)
	if err == nil {
		err = json.Unmarshal(text, &other.Objects)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	maps.Copy(other.generations, s.generations)
	return other
}

// Client returns a client of the server's namespace.
func (s *Server) Client() *client.Client {
	s.t.Helper()
	c, err := client.New(&rest.Config{Host: "http://api", Transport: s}, s.namespace)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// Apply stores an object, in place of one that is there, as somebody else would: kubectl, Helm.
func (s *Server) Apply(manifest string) {
	s.t.Helper()
	var o map[string]any
	if err := yaml.Unmarshal([]byte(manifest), &o); err != nil {
		s.t.Fatal(err)
	}
	of := unstructured.Unstructured{Object: o}
	i := slices.IndexFunc(kinds, func(k kube.Kind) bool { return k.Kind == of.GetKind() })
	if i < 0 {
		s.t.Fatalf("kind %q is not served", of.GetKind())
	}
	s.Mu.Lock()
	defer s.Mu.Unlock()
	s.Put(kinds[i].Resource.Resource+"/"+of.GetName(), o)
}

// Put stores an object, and gives it what it lacks: kind, name, namespace, and each time a
// resourceVersion. Mu must be held.
func (s *Server) Put(key string, o map[string]any) {
	s.t.Helper()
	resource, name, _ := strings.Cut(key, "/")
	i := slices.IndexFunc(kinds, func(k kube.Kind) bool { return k.Resource.Resource == resource })
	if i < 0 {
		s.t.Errorf("resource %q is not served", resource)
		return
	}
	s.version++
	of := unstructured.Unstructured{Object: o}
	of.SetAPIVersion(kinds[i].Resource.GroupVersion().String())
	of.SetKind(kinds[i].Kind)
	of.SetName(name)
	if of.GetNamespace() == "" && kinds[i] != namespaces {
		of.SetNamespace(s.namespace)
	}
	of.SetResourceVersion(fmt.Sprint(s.version))
	if o["spec"] != nil {
		of.SetGeneration(s.generation(key, string(encode(o["spec"]))))
	}
	s.Objects[key] = o
	if s.Stored != nil {
		s.Stored(key, o)
	}
}

// generation is how many specs an object has had, this one included.
func (s *Server) generation(key, spec string) int64 {
	last := s.generations[key]
	if s.Objects[key] == nil {
		last = generation{}
	}
	if last.spec != spec {
		last = generation{last.number + 1, spec}
	}
	s.generations[key] = last
	return last.number
}

// Versions are the resourceVersions of all objects, by resource and name.
func (s *Server) Versions() map[string]string {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	versions := map[string]string{}
	for key, o := range s.Objects {
		versions[key] = (&unstructured.Unstructured{Object: o}).GetResourceVersion()
	}
	return versions
}

// Killed does something that ends after so many writes, as a process does that is killed.
func (s *Server) Killed(after int, do func() error) error {
	s.setBudget(after)
	defer s.setBudget(-1)
	return do()
}

// setBudget sets how many writes are carried out from now on.
func (s *Server) setBudget(n int) {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	s.Budget = n
}
