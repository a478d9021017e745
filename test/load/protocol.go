package load

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// Protocol is what attempts are made by. None sends a request again that has left.
type Protocol string

const (
	// HTTP1 asks by GET, over a new connection for each request.
	HTTP1 Protocol = "http1"
	// KeepAlive asks over kept connections of HTTP/1.1. It does so by POST: a GET whose kept
	// connection breaks is sent again by Go's transport.
	KeepAlive Protocol = "keepalive"
	// HTTP2 asks by POST over kept connections of unencrypted HTTP/2, spoken from the first byte.
	HTTP2 Protocol = "http2"
	// GRPC calls /canary.Version/Get over one kept connection.
	GRPC Protocol = "grpc"
	// Stream asks by HTTP2 for an answer of 12 s. A good one comes to its regular end.
	Stream Protocol = "stream"
)

var protocols = []Protocol{HTTP1, KeepAlive, HTTP2, GRPC, Stream}

// target returns the request of each attempt.
func (p Plan) target() vegeta.Target {
	t := vegeta.Target{Method: http.MethodPost, URL: p.URL, Header: http.Header{}}
	for name, values := range p.Header { // vegeta finds the host only by "Host"
		for _, value := range values {
			t.Header.Add(name, value)
		}
	}
	switch p.Protocol {
	case "", HTTP1:
		t.Method = http.MethodGet
	case Stream:
		t.Method = http.MethodGet
		u, _ := url.Parse(p.URL) // a plan that was validated
		u = u.JoinPath("stream")
		u.RawQuery = url.Values{"for": {streamTime.String()}}.Encode()
		t.URL = u.String()
	}
	return t
}

// client returns what sends the requests. No proxy of the environment is used.
func (p Plan) client() (*http.Client, error) {
	client := &http.Client{Timeout: p.limit()}
	transport := &http.Transport{MaxIdleConnsPerHost: MaxRate, Protocols: new(http.Protocols)}
	client.Transport = transport
	switch p.Protocol {
	case GRPC:
		conn, err := p.dial()
		if err != nil {
			return nil, err
		}
		client.Transport = calls{conn}
	case HTTP2, Stream:
		transport.Protocols.SetUnencryptedHTTP2(true)
		client.Transport = once{transport}
	case KeepAlive:
		transport.Protocols.SetHTTP1(true)
	default:
		transport.Protocols.SetHTTP1(true)
		transport.DisableKeepAlives = true
	}
	return client, nil
}

// once is a transport of HTTP/2 that sends a request at most once. Without it, one that the server
// refused (REFUSED_STREAM, GOAWAY) is sent again, unless it has a body that cannot be read twice.
type once struct{ *http.Transport }

func (o once) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Body, req.GetBody = io.NopCloser(strings.NewReader("")), nil
	return o.Transport.RoundTrip(req)
}

// grpcStatus is the header by which calls hands the code of a call on.
const grpcStatus = "Grpc-Status"

// dial returns the one connection that all calls go over.
func (p Plan) dial() (*grpc.ClientConn, error) {
	u, err := url.Parse(p.URL)
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "80"))
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority(cmp.Or(p.target().Header.Get("Host"), u.Host)),
		grpc.WithNoProxy(),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		// While no connection can be made, calls fail at once; that shall end soon after one can.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithStatsHandler(sendings{}))
	if err != nil {
		return nil, fmt.Errorf("preparing gRPC to %s: %w", address, err)
	}
	return conn, nil
}

// calls makes a gRPC call of each request and an HTTP answer of its end, so that vegeta sends both.
type calls struct{ conn *grpc.ClientConn }

func (c calls) RoundTrip(req *http.Request) (*http.Response, error) {
	sent := new(atomic.Int32)
	out := metadata.MD{}
	for name, values := range req.Header {
		if name != "Host" {
			out.Append(name, values...)
		}
	}
	ctx := metadata.NewOutgoingContext(context.WithValue(req.Context(), sendings{}, sent), out)
	var header, trailer metadata.MD
	var message []byte
	err := c.conn.Invoke(ctx, "/canary.Version/Get", []byte{}, &message, grpc.ForceCodec(rawBytes{}),
		grpc.Header(&header), grpc.Trailer(&trailer))
	in := metadata.Join(header, trailer)
	switch {
	case err != nil && req.Context().Err() != nil:
		return nil, req.Context().Err()
	case sent.Load() > 1:
		return nil, fmt.Errorf(
			"gRPC sent the call %d times, it ended with: %s", sent.Load(), status.Convert(err).Message())
	case err != nil && in.Len() == 0: // the code is the client's own
		return nil, err
	case err != nil:
		message = []byte(status.Convert(err).Message())
	}
	answer := &http.Response{
		StatusCode: http.StatusOK, Status: "200 OK", Proto: "HTTP/2.0", ProtoMajor: 2, Request: req,
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader(string(message))),
	}
	for name, values := range in {
		for _, value := range values {
			answer.Header.Add(name, value)
		}
	}
	answer.Header.Set(grpcStatus, strconv.Itoa(int(status.Code(err))))
	return answer, nil
}

// CloseIdleConnections closes the connection; http.Client calls it so.
func (c calls) CloseIdleConnections() { _ = c.conn.Close() }

// sendings counts how often a call left. gRPC sends one again that the server did not process, and
// no option turns that off. It is also the key of the count in the call's context.
type sendings struct{}

// HandleRPC is told of each step of a call.
func (sendings) HandleRPC(ctx context.Context, step stats.RPCStats) {
	if sent, ok := ctx.Value(sendings{}).(*atomic.Int32); ok {
		if _, left := step.(*stats.OutHeader); left {
			sent.Add(1)
		}
	}
}

// TagRPC and the others have nothing to do.
func (sendings) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// TagConn has nothing to do.
func (sendings) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn has nothing to do.
func (sendings) HandleConn(context.Context, stats.ConnStats) {}

// rawBytes is a codec whose messages are bytes. Without a name, the content type has no suffix.
type rawBytes struct{}

// Marshal returns a []byte as it is.
func (rawBytes) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

// Unmarshal sets a *[]byte.
func (rawBytes) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

// Name is empty.
func (rawBytes) Name() string { return "" }
