package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// Envoy's response flags, as far as this stand-in sets them.
const (
	flagNoRoute        = "NR"
	flagNoHealthy      = "UH"
	flagConnectFailure = "UF"
	flagUpstreamReset  = "UC"
	flagTimeout        = "UT"
	flagClientGone     = "DC"
)

// outcome is how a request, or one attempt of it, ended.
type outcome struct {
	status     int    // 0: the client was gone before an answer
	grpcStatus string // "" where it is not gRPC
	flag       string // Envoy's response flag, "" where all went well
}

// splitHeader tells in each answer which split it was chosen by, as "cluster=weight,…". Envoy has no such header; it is
// there so that a test can see when a new split is in force.
const splitHeader = "X-Mesh-Split"

// maxBuffered is how much of a request's body is kept for another attempt. A longer one gets a single attempt.
const maxBuffered = 1 << 20

// caller is the proxy of one workload that sends requests: a sidecar, or an ingress gateway.
type caller struct {
	follower
	gateway  bool
	workload workload
	target   *target
	meters   *meters
	address  string // where it listens
	stop     context.CancelFunc

	inFlight sync.Map // pod address -> *atomic.Int64
	warned   sync.Map // what of a route is not supported, said once
}

// The transports keep connections to the pods, as Envoy does.
var http1, http2 = transports()

func transports() (*http.Transport, *http.Transport) {
	dialer := &net.Dialer{Timeout: 10 * time.Second} // Istio's default connect timeout
	one := &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 256, DisableCompression: true}
	two := one.Clone()
	two.Protocols = new(http.Protocols)
	two.Protocols.SetUnencryptedHTTP2(true)
	return one, two
}

// handler serves the caller's requests, over HTTP/1.1 and HTTP/2 in clear.
func (c *caller) handler() http.Handler {
	return &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.Out.Host = r.In.Host },
		Transport:     c,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(c.log.Handler(), slog.LevelDebug),
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
}

// RoundTrip does with a request what Envoy would do by the routes that istiod sent, and counts it when it ends.
func (c *caller) RoundTrip(req *http.Request) (*http.Response, error) {
	begin := time.Now()
	rec := record{source: c.workload, grpc: strings.HasPrefix(req.Header.Get("Content-Type"), "application/grpc")}
	finish := func(o outcome) {
		rec.outcome, rec.duration = o, time.Since(begin)
		c.meters.source(c.target, rec)
	}
	config := c.current.Load()
	name := portOf(req)
	if c.gateway {
		name = "http." + name
	}
	var r *route.Route
	if config != nil {
		r = findRoute(config.routes[name], req)
	}
	if r == nil || r.GetRoute() == nil && r.GetDirectResponse() == nil {
		return c.local(req, finish, outcome{http.StatusNotFound, "", flagNoRoute}, "no route for "+req.Host), nil
	}
	c.warnUnsupported(r)
	if direct := r.GetDirectResponse(); direct != nil {
		return c.local(req, finish, outcome{status: int(direct.Status)}, direct.GetBody().GetInlineString()), nil
	}
	action := r.GetRoute()
	split := weightedClusters(action)
	cluster := pickCluster(split, rand.Uint32N)
	rec.service = cluster[strings.LastIndex(cluster, "|")+1:]
	changeRequest(req, r)

	ctx, cancel := req.Context(), context.CancelFunc(func() {})
	if t := action.GetTimeout().AsDuration(); t > 0 {
		ctx, cancel = context.WithTimeout(ctx, t)
	}
	policy := retriesOf(action)
	body, repeatable, err := bufferBody(req)
	if err != nil {
		cancel()
		finish(outcome{flag: flagClientGone})
		return nil, err
	}
	if !repeatable {
		policy.attempts = 0
	}
	var tried []string
	for n := 0; ; n++ {
		pod, ok := c.pickUpstream(config.endpoints[cluster], tried)
		if !ok {
			cancel()
			rec.destination = workload{}
			return c.local(req, finish, outcome{http.StatusServiceUnavailable, "", flagNoHealthy}, "no healthy upstream"), nil
		}
		tried = append(tried, pod.address)
		rec.destination = pod.workload
		again := req.Clone(ctx)
		if body != nil {
			again.Body = io.NopCloser(bytes.NewReader(body))
		}
		resp, o, settle := c.attempt(again, pod, rec, policy.perTry)
		if n < policy.attempts && ctx.Err() == nil && policy.again(o) {
			if resp != nil {
				_, _ = io.CopyN(io.Discard, resp.Body, 4096)
				resp.Body.Close()
			}
			settle(o)
			select {
			case <-time.After(backoff(n)):
				continue
			case <-ctx.Done():
			}
			resp, o = nil, ended(ctx, req.Context(), ctx.Err())
		}
		if resp == nil {
			settle(o)
			cancel()
			if o.flag == flagClientGone {
				finish(o)
				return nil, req.Context().Err()
			}
			return c.local(req, finish, o, localText[o.flag]), nil
		}
		resp.Header.Set(splitHeader, splitText(split))
		changeResponse(resp, r, action, cluster)
		resp.Body = &countedBody{ReadCloser: resp.Body, ended: func(err error) {
			o := o
			o.grpcStatus = cmp.Or(o.grpcStatus, resp.Trailer.Get("Grpc-Status"))
			switch {
			case err == nil: // the answer was whole; a client may well be gone by now, since it has all of it
			case req.Context().Err() != nil:
				o.flag = flagClientGone
			case ctx.Err() != nil:
				o.flag = flagTimeout
			default:
				o.flag = flagUpstreamReset
			}
			cancel()
			settle(o)
			finish(o)
		}}
		return resp, nil
	}
}

// attempt sends the request to one pod. settle must be called once, when the attempt has ended: it counts it for the
// pod, unless it never reached it. Without an answer resp is nil and o says why.
func (c *caller) attempt(req *http.Request, pod upstream, rec record, perTry time.Duration) (resp *http.Response, o outcome, settle func(outcome)) {
	begin := time.Now()
	load, _ := c.inFlight.LoadOrStore(pod.address, new(atomic.Int64))
	load.(*atomic.Int64).Add(1)
	ctx, cancel := context.WithCancel(req.Context())
	settle = func(o outcome) {
		cancel()
		load.(*atomic.Int64).Add(-1)
		if o.flag == flagConnectFailure {
			return
		}
		if o.flag == flagTimeout { // what the pod's proxy saw is that its client went away
			o = outcome{flag: flagClientGone}
		}
		rec.outcome, rec.duration = o, time.Since(begin)
		c.meters.destination(pod.address, rec)
	}
	timedOut := new(atomic.Bool)
	if perTry > 0 { // until the headers are there
		timer := time.AfterFunc(perTry, func() { timedOut.Store(true); cancel() })
		defer timer.Stop()
	}
	out := req.Clone(ctx)
	out.URL.Scheme, out.URL.Host = "http", pod.address
	transport := http1
	if rec.grpc {
		transport = http2
	} else if out.Body == nil || out.Body == http.NoBody {
		out.Body = io.NopCloser(strings.NewReader("")) // the transport sends what it could replay once more by itself
	}
	resp, err := transport.RoundTrip(out)
	if err != nil {
		o := ended(req.Context(), req.Context(), err)
		if timedOut.Load() {
			o = outcome{http.StatusGatewayTimeout, "", flagTimeout}
		}
		return nil, o, settle
	}
	return resp, outcome{status: resp.StatusCode, grpcStatus: resp.Header.Get("Grpc-Status")}, settle
}

// ended says how a request ended that got no answer. client is the context of who asked, ctx adds the route's timeout.
func ended(ctx, client context.Context, err error) outcome {
	var dial *net.OpError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && !errors.Is(client.Err(), context.Canceled):
		return outcome{http.StatusGatewayTimeout, "", flagTimeout}
	case client.Err() != nil:
		return outcome{flag: flagClientGone}
	case errors.As(err, &dial) && dial.Op == "dial":
		return outcome{http.StatusServiceUnavailable, "", flagConnectFailure}
	}
	return outcome{http.StatusServiceUnavailable, "", flagUpstreamReset}
}

// localText is what Envoy answers when it answers itself.
var localText = map[string]string{
	flagConnectFailure: "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
	flagUpstreamReset:  "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
	flagTimeout:        "upstream request timeout",
}

// grpcOf maps the status of an answer that the proxy made to gRPC's, as Envoy does.
var grpcOf = map[int]string{404: "12", 502: "14", 503: "14", 504: "14"}

// local answers in the place of an upstream.
func (c *caller) local(req *http.Request, finish func(outcome), o outcome, text string) *http.Response {
	header := http.Header{"Content-Type": {"text/plain"}}
	status := o.status
	if strings.HasPrefix(req.Header.Get("Content-Type"), "application/grpc") {
		o.status, o.grpcStatus = http.StatusOK, cmp.Or(grpcOf[o.status], "2")
		status = o.status
		header = http.Header{"Content-Type": {"application/grpc"}, "Grpc-Status": {o.grpcStatus}, "Grpc-Message": {text}}
		text = ""
	}
	finish(o)
	return &http.Response{
		StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, Request: req,
		Body: io.NopCloser(strings.NewReader(text)), ContentLength: int64(len(text)),
	}
}

// pickUpstream takes the less busy of two pods at random, as Istio's default does, and avoids those already tried.
func (c *caller) pickUpstream(pods []upstream, tried []string) (upstream, bool) {
	fresh := make([]upstream, 0, len(pods))
	for _, p := range pods {
		avoid := false
		for _, t := range tried {
			avoid = avoid || t == p.address
		}
		if !avoid {
			fresh = append(fresh, p)
		}
	}
	if len(fresh) == 0 {
		fresh = pods
	}
	if len(fresh) == 0 {
		return upstream{}, false
	}
	busy := func(p upstream) int64 {
		if n, ok := c.inFlight.Load(p.address); ok {
			return n.(*atomic.Int64).Load()
		}
		return 0
	}
	a, b := fresh[rand.IntN(len(fresh))], fresh[rand.IntN(len(fresh))]
	if busy(b) < busy(a) {
		return b, true
	}
	return a, true
}

// backoff is Envoy's: at random up to (2^n - 1) x 25 ms, at most 250 ms.
func backoff(n int) time.Duration {
	limit := min(25*time.Millisecond*time.Duration(1<<min(n+1, 6)-1), 250*time.Millisecond)
	return rand.N(limit)
}

// bufferBody reads the body of a request, so that it can be sent again. A stream or a long body cannot.
func bufferBody(req *http.Request) (body []byte, repeatable bool, err error) {
	if req.Body == nil || req.Body == http.NoBody || req.ContentLength == 0 {
		return nil, true, nil
	}
	if req.ContentLength < 0 || req.ContentLength > maxBuffered {
		return nil, false, nil
	}
	body, err = io.ReadAll(req.Body)
	return body, true, err
}

// changeRequest does the route's rewrites and header operations.
func changeRequest(req *http.Request, r *route.Route) {
	if to := r.GetRoute().GetPrefixRewrite(); to != "" {
		from := cmp.Or(r.GetMatch().GetPrefix(), r.GetMatch().GetPathSeparatedPrefix(), r.GetMatch().GetPath())
		req.URL.Path, req.URL.RawPath = to+strings.TrimPrefix(req.URL.Path, from), ""
	}
	if host := r.GetRoute().GetHostRewriteLiteral(); host != "" {
		req.Host = host
	}
	changeHeaders(req.Header, r.GetRequestHeadersToAdd(), r.GetRequestHeadersToRemove())
}

// changeResponse does the header operations of the route and of the destination that was picked.
func changeResponse(resp *http.Response, r *route.Route, a *route.RouteAction, cluster string) {
	for _, c := range a.GetWeightedClusters().GetClusters() {
		if c.Name == cluster {
			changeHeaders(resp.Header, c.GetResponseHeadersToAdd(), c.GetResponseHeadersToRemove())
		}
	}
	changeHeaders(resp.Header, r.GetResponseHeadersToAdd(), r.GetResponseHeadersToRemove())
}

func changeHeaders(header http.Header, add []*core.HeaderValueOption, remove []string) {
	for _, name := range remove {
		header.Del(name)
	}
	for _, h := range add {
		if h.AppendAction == core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD {
			header.Set(h.Header.Key, h.Header.Value)
		} else {
			header.Add(h.Header.Key, h.Header.Value)
		}
	}
}

func splitText(split []weighted) string {
	var parts []string
	for _, w := range split {
		host := w.name[strings.LastIndex(w.name, "|")+1:]
		short, _, _ := strings.Cut(host, ".")
		parts = append(parts, short+"="+strconv.FormatUint(uint64(w.weight), 10))
	}
	return strings.Join(parts, ",")
}

func (c *caller) warnUnsupported(r *route.Route) {
	for _, what := range unsupported(r) {
		if _, said := c.warned.LoadOrStore(what, true); !said {
			c.log.Warn("the stand-in does not do this part of the route; requests go on as if it were not there", "part", what)
		}
	}
}

// countedBody tells once when a body has ended: wholly read (nil or the error), or closed before.
type countedBody struct {
	io.ReadCloser
	once  sync.Once
	ended func(error)
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.once.Do(func() {
			if errors.Is(err, io.EOF) {
				b.ended(nil)
			} else {
				b.ended(err)
			}
		})
	}
	return n, err
}

func (b *countedBody) Close() error {
	err := b.ReadCloser.Close()
	b.once.Do(func() { b.ended(context.Canceled) })
	return err
}
