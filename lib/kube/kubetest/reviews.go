package kubetest

import (
	"encoding/json"
	"net/http"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// notStored are the kinds whose objects are answered when they are created, and not stored.
var notStored = map[kube.Kind]func(*Server, Request) (any, *Failure){
	kube.AccessReview: (*Server).reviewOwn, kube.LocalAccessReview: (*Server).reviewOther, kube.Event: (*Server).event}

// event takes an Event.
func (s *Server) event(r Request) (any, *Failure) {
	var o map[string]any
	if err := json.Unmarshal(r.Body, &o); err != nil {
		return nil, badRequest(err)
	}
	s.Events = append(s.Events, o)
	return o, nil
}

// reviewOwn answers whether the client itself may do something.
func (s *Server) reviewOwn(r Request) (any, *Failure) { return s.review(r, "") }

// reviewOther answers whether another account may do something. Like the real API server, it
// refuses a review that is for another namespace than it is in.
func (s *Server) reviewOther(r Request) (any, *Failure) {
	var o unstructured.Unstructured
	if err := json.Unmarshal(r.Body, &o.Object); err != nil {
		return nil, badRequest(err)
	}
	namespace, _, _ := unstructured.NestedString(o.Object, "spec", "resourceAttributes", "namespace")
	if namespace != o.GetNamespace() {
		return nil, &Failure{Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid}
	}
	spec, _, _ := unstructured.NestedMap(o.Object, "spec")
	s.Reviews = append(s.Reviews, spec)
	user, _, _ := unstructured.NestedString(spec, "user")
	return s.review(r, strings.TrimPrefix(user, "system:serviceaccount:")+" ")
}

// review answers whether a right is not among those that are denied. Those of another account begin
// with its name.
func (s *Server) review(r Request, account string) (any, *Failure) {
	var o map[string]any
	if err := json.Unmarshal(r.Body, &o); err != nil {
		return nil, badRequest(err)
	}
	asked, found, err := unstructured.NestedStringMap(o, "spec", "resourceAttributes")
	if err != nil || !found {
		return nil, &Failure{Code: http.StatusUnprocessableEntity, Reason: metav1.StatusReasonInvalid}
	}
	denied := s.Denied[account+right(asked["verb"], asked["resource"], asked["subresource"])]
	o["status"] = map[string]any{"allowed": !denied}
	return o, nil
}
