package kubetest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Failure is how a request fails. As an http.RoundTripper it answers any request.
type Failure struct {
	// Code is of HTTP. 0: there is no answer, for the connection ends.
	Code    int
	Reason  metav1.StatusReason
	Message string // empty: the reason
	// Causes name the fields that are invalid, in a 422.
	Causes []metav1.StatusCause
	// RetryAfter is when the client may send the request again, in seconds. 0: nobody knows.
	RetryAfter int
	// Done says that the request is carried out all the same, and its answer is lost.
	Done bool
}

// The server's own answers to what it cannot do.
var (
	notFound      = &Failure{Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound}
	alreadyExists = &Failure{Code: http.StatusConflict, Reason: metav1.StatusReasonAlreadyExists}
	conflict      = &Failure{Code: http.StatusConflict, Reason: metav1.StatusReasonConflict}
	forbidden     = &Failure{Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden}
	notAllowed    = &Failure{Code: http.StatusMethodNotAllowed, Reason: metav1.StatusReasonMethodNotAllowed}
)

// badRequest is the failure of a request that cannot be read.
func badRequest(err error) *Failure {
	return &Failure{Code: http.StatusBadRequest, Reason: metav1.StatusReasonBadRequest, Message: err.Error()}
}

// status is the failure as the API server says it.
func (f *Failure) status(name string) metav1.Status {
	s := metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(f.Code), Reason: f.Reason, Message: f.Message}
	if s.Message == "" {
		s.Message = string(f.Reason)
	}
	if name != "" || len(f.Causes) > 0 || f.RetryAfter > 0 {
		s.Details = &metav1.StatusDetails{Name: name, Causes: f.Causes, RetryAfterSeconds: int32(f.RetryAfter)}
	}
	return s
}

// answer writes the failure, and reports whether there is an answer at all.
func (f *Failure) answer(w http.ResponseWriter, name string) bool {
	if f.Code == 0 {
		return false
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(f.RetryAfter))
	}
	write(w, f.Code, encode(f.status(name)))
	return true
}

// RoundTrip answers a request with the failure.
func (f *Failure) RoundTrip(r *http.Request) (*http.Response, error) {
	return inMemory(r, func(w http.ResponseWriter, _ *http.Request) bool { return f.answer(w, "") })
}

// inMemory sends a request to a handler without a network. A handler that gives no answer is a
// connection that ended.
func inMemory(
	r *http.Request, handler func(http.ResponseWriter, *http.Request) bool) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close()
	}
	recorder := httptest.NewRecorder()
	if !handler(recorder, r) {
		return nil, io.EOF
	}
	return recorder.Result(), nil
}

// encode is a value as JSON.
func encode(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // what was decoded can be encoded
	}
	return text
}

// write sends an answer.
func write(w http.ResponseWriter, code int, body json.RawMessage) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}
