package client

import (
	"errors"
	"net/http"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// errEnded is that a connection ended before the answer.
var errEnded = errors.New("the connection to the API server ended before its answer")

// once keeps client-go from repeating requests by itself. It would send each up to eleven times for
// one of ours, wait without a word as long as Retry-After says, and repeat a write whose answer was
// lost. What it would repeat it knows by that header, and by how a read's connection ended.
type once struct{ http.RoundTripper }

// RoundTrip sends a request.
func (o once) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := o.RoundTripper.RoundTrip(r)
	switch {
	case err == nil:
		answer.Header.Del("Retry-After") // a Status says it, too
	case utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err) || utilnet.IsHTTP2ConnectionLost(err):
		err = errEnded
	}
	return answer, err
}

// WrappedRoundTripper is for client-go, which looks for the transport itself.
func (o once) WrappedRoundTripper() http.RoundTripper { return o.RoundTripper }
