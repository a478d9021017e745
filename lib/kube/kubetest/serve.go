package kubetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
)

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.serve(w, r) {
		panic(http.ErrAbortHandler) // ends the connection
	}
}

// RoundTrip answers a request without a network, also when its context has ended.
func (s *Server) RoundTrip(r *http.Request) (*http.Response, error) { return inMemory(r, s.serve) }

// serve answers a request, and reports whether there is an answer at all.
func (s *Server) serve(w http.ResponseWriter, q *http.Request) bool {
	s.Mu.Lock()
	defer s.Mu.Unlock()
	r, served, err := s.understand(q)
	if err != nil {
		return badRequest(err).answer(w, "")
	}
	if !served {
		http.NotFound(w, q) // as the real one does, without a Status
		return true
	}
	var failure *Failure
	if s.Before != nil {
		failure = s.Before(r)
	}
	if failure != nil && !failure.Done {
		return failure.answer(w, r.Name)
	}
	body, refused := s.carryOut(r)
	switch {
	case failure != nil:
		return failure.answer(w, r.Name)
	case refused != nil:
		return refused.answer(w, r.Name)
	}
	code := http.StatusOK
	if r.Verb == "create" {
		code = http.StatusCreated
	}
	write(w, code, body)
	return true
}

// verbs are what can be done with stored objects.
var verbs = map[string]func(*Server, Request) (any, *Failure){
	"get": (*Server).get, "list": (*Server).list, "create": (*Server).create, "patch": (*Server).patch,
	"delete": (*Server).delete}

// carryOut does what a request asks for.
func (s *Server) carryOut(r Request) (json.RawMessage, *Failure) {
	if s.Denied[r.right()] {
		return nil, forbidden
	}
	do := verbs[r.Verb]
	if take := notStored[r.Kind]; take != nil && r.Verb == "create" {
		do = take
	}
	if do == nil {
		return nil, notAllowed
	}
	if r.Verb == "create" {
		var failure *Failure
		if r, failure = s.named(r); failure != nil {
			return nil, failure
		}
	}
	if r.Writes() && s.Budget == 0 {
		return nil, forbidden // as good as killed: nothing more is written
	}
	o, failure := do(s, r)
	if failure != nil {
		return nil, failure
	}
	body := encode(o)
	if r.Writes() {
		s.Budget--
		s.Writes = append(s.Writes, r.String())
		if s.After != nil {
			s.After(r.String())
		}
	}
	return body, nil
}

// named gives a request to create an object the name of the object, which the server may have to
// make.
func (s *Server) named(r Request) (Request, *Failure) {
	var o unstructured.Unstructured
	if err := json.Unmarshal(r.Body, &o.Object); err != nil {
		return r, badRequest(err)
	}
	if prefix := o.GetGenerateName(); o.GetName() == "" && prefix != "" {
		s.made++
		o.SetName(fmt.Sprintf("%s%05d", prefix, s.made))
	}
	if o.GetNamespace() == "" && r.Namespace != "" {
		o.SetNamespace(r.Namespace)
	}
	r.Name, r.Body = o.GetName(), encode(o.Object)
	return r, nil
}

// find returns the object that is meant; nil when there is none in the namespace.
func (s *Server) find(r Request) map[string]any {
	o := s.Objects[r.Key()]
	if o == nil || (&unstructured.Unstructured{Object: o}).GetNamespace() != r.Namespace {
		return nil
	}
	return o
}

// get is the object.
func (s *Server) get(r Request) (any, *Failure) {
	if o := s.find(r); o != nil {
		return o, nil
	}
	return nil, notFound
}

// list is the objects of a kind with the labels that are asked for, by name.
func (s *Server) list(r Request) (any, *Failure) {
	selector, err := labels.Parse(r.query.Get("labelSelector"))
	if err != nil {
		return nil, badRequest(err)
	}
	items := []map[string]any{}
	if made := s.Lists[r.Kind.Resource.Resource]; made != nil {
		items = append(items, made(selector)...)
	}
	for _, key := range slices.Sorted(maps.Keys(s.Objects)) {
		if !strings.HasPrefix(key, r.Key()) {
			continue
		}
		of := unstructured.Unstructured{Object: s.Objects[key]}
		if (r.Namespace == "" || of.GetNamespace() == r.Namespace) && selector.Matches(labels.Set(of.GetLabels())) {
			items = append(items, s.Objects[key])
		}
	}
	if limit, _ := strconv.Atoi(r.query.Get("limit")); limit > 0 && limit < len(items) {
		items = items[:limit]
	}
	return map[string]any{
		"kind": r.Kind.Kind + "List", "apiVersion": r.Kind.Resource.GroupVersion().String(),
		"metadata": map[string]any{"resourceVersion": fmt.Sprint(s.version)}, "items": items}, nil
}

// create stores a new object. Its status is nothing that a client decides.
func (s *Server) create(r Request) (any, *Failure) {
	if r.Name == "" {
		return nil, &Failure{Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid,
			Causes: []metav1.StatusCause{{Type: metav1.CauseTypeFieldValueRequired, Field: "metadata.name"}}}
	}
	if s.Objects[r.Key()] != nil {
		return nil, alreadyExists
	}
	var o map[string]any
	if err := json.Unmarshal(r.Body, &o); err != nil {
		return nil, badRequest(err)
	}
	delete(o, "status")
	s.Put(r.Key(), o)
	return o, nil
}

// patch changes an object, or its status, by a JSON Patch. Neither changes the other, and a patch
// that changes nothing leaves the resourceVersion as it is.
func (s *Server) patch(r Request) (any, *Failure) {
	now := s.find(r)
	if now == nil || r.Subresource != "" && r.Subresource != "status" {
		return nil, notFound
	}
	patch, err := jsonpatch.DecodePatch(r.Body)
	if err != nil {
		return nil, badRequest(err)
	}
	before := encode(now)
	after, err := patch.Apply(before)
	if err != nil { // a test failed, or a path is not there
		return nil, &Failure{Code: http.StatusUnprocessableEntity, Message: err.Error()}
	}
	var was, is map[string]any
	for text, into := range map[*map[string]any][]byte{&was: before, &is: after} {
		if err := json.Unmarshal(into, text); err != nil {
			return nil, badRequest(err)
		}
	}
	if stale(was, is) {
		return nil, conflict
	}
	from, into := was, is // the status stays
	if r.Subresource != "" {
		from, into = is, was // the rest does
	}
	if into["status"] = from["status"]; into["status"] == nil {
		delete(into, "status")
	}
	if jsonpatch.Equal(before, encode(into)) {
		return now, nil
	}
	s.Put(r.Key(), into)
	return into, nil
}

// stale reports whether a patch names another resourceVersion than the object has.
func stale(was, is map[string]any) bool {
	old, sent := unstructured.Unstructured{Object: was}, unstructured.Unstructured{Object: is}
	return sent.GetResourceVersion() != "" && sent.GetResourceVersion() != old.GetResourceVersion()
}

// delete removes an object.
func (s *Server) delete(r Request) (any, *Failure) {
	if s.find(r) == nil {
		return nil, notFound
	}
	delete(s.Objects, r.Key())
	return metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess}, nil
}
