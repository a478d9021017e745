package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// istiod is a real xDS server with the few answers that a test needs.
type istiod struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	routes    chan *route.RouteConfiguration
	endpoints []*endpoint.ClusterLoadAssignment
}

func (s *istiod) StreamAggregatedResources(stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	asked := make(chan *discovery.DiscoveryRequest)
	go func() {
		defer close(asked)
		for {
			req, err := stream.Recv()
			if err != nil {
				return
			}
			asked <- req
		}
	}()
	version := 0
	answer := func(typeURL string, resources ...proto.Message) error {
		version++
		resp := &discovery.DiscoveryResponse{TypeUrl: typeURL, VersionInfo: fmt.Sprint(version), Nonce: fmt.Sprint(version)}
		for _, r := range resources {
			packed, err := anypb.New(r)
			if err != nil {
				return err
			}
			resp.Resources = append(resp.Resources, packed)
		}
		return stream.Send(resp)
	}
	wantsRoutes := false
	for {
		routes := s.routes
		if !wantsRoutes {
			routes = nil
		}
		select {
		case req, ok := <-asked:
			switch {
			case !ok:
				return nil
			case req.TypeUrl == routeType:
				wantsRoutes = true
			case req.ResponseNonce != "":
			case req.TypeUrl == listenerType:
				if err := answer(listenerType, listenerFor("80")); err != nil {
					return err
				}
			case req.TypeUrl == endpointType:
				var all []proto.Message
				for _, e := range s.endpoints {
					all = append(all, e)
				}
				if err := answer(endpointType, all...); err != nil {
					return err
				}
			}
		case rc := <-routes:
			if err := answer(routeType, rc); err != nil {
				return err
			}
		}
	}
}

func listenerFor(routeName string) *listener.Listener {
	manager, err := anypb.New(&hcm.HttpConnectionManager{RouteSpecifier: &hcm.HttpConnectionManager_Rds{
		Rds: &hcm.Rds{RouteConfigName: routeName}}})
	if err != nil {
		panic(err)
	}
	return &listener.Listener{Name: "0.0.0.0_80", FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{
		{Name: "http", ConfigType: &listener.Filter_TypedConfig{TypedConfig: manager}}}}}}
}

const stable, candidate = "outbound|80||web-primary.shop.svc.cluster.local", "outbound|80||web-canary.shop.svc.cluster.local"

// split is a route configuration for host web.shop; change may add to its route.
func split(toStable, toCandidate uint32, change func(*route.RouteAction)) *route.RouteConfiguration {
	action := &route.RouteAction{ClusterSpecifier: &route.RouteAction_WeightedClusters{WeightedClusters: &route.WeightedCluster{
		Clusters: []*route.WeightedCluster_ClusterWeight{
			{Name: stable, Weight: wrapperspb.UInt32(toStable)}, {Name: candidate, Weight: wrapperspb.UInt32(toCandidate)},
		}}}}
	if change != nil {
		change(action)
	}
	return &route.RouteConfiguration{Name: "80", VirtualHosts: []*route.VirtualHost{{Name: "web", Domains: []string{"web.shop"},
		Routes: []*route.Route{{Match: &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}},
			Action: &route.Route_Route{Route: action}}}}}}
}

func pods(cluster, workload string, addresses ...string) *endpoint.ClusterLoadAssignment {
	var all []*endpoint.LbEndpoint
	for _, a := range addresses {
		host, port, err := net.SplitHostPort(a)
		if err != nil {
			panic(err)
		}
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			panic(err)
		}
		all = append(all, &endpoint.LbEndpoint{
			HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: &core.Address{
				Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{Address: host,
					PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(number)}}}}}},
			Metadata: &core.Metadata{FilterMetadata: map[string]*structpb.Struct{"istio": {Fields: map[string]*structpb.Value{
				"workload": structpb.NewStringValue(workload + ";shop;web;latest;Kubernetes")}}}},
		})
	}
	return &endpoint.ClusterLoadAssignment{ClusterName: cluster, Endpoints: []*endpoint.LocalityLbEndpoints{{LbEndpoints: all}}}
}

// start runs a caller that follows a server with these answers, and returns a client that asks through it.
func start(t *testing.T, first *route.RouteConfiguration, endpoints ...*endpoint.ClusterLoadAssignment) (*mesh, *istiod, *http.Client) {
	t.Helper()
	server := &istiod{routes: make(chan *route.RouteConfiguration, 8), endpoints: endpoints}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(g, server)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	server.routes <- first

	m := &mesh{ctx: t.Context(), istiod: l.Addr().String(), callers: map[string]*caller{}, meters: newMeters()}
	c, err := m.add("sidecar", "shop", "client", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.log = slog.New(slog.NewTextHandler(io.Discard, nil))
	until(t, func() bool { return c.current.Load() != nil })
	proxy := &url.URL{Scheme: "http", Host: c.address}
	return m, server, &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}}
}

func until(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within 10 s")
		}
	}
}

func get(t *testing.T, client *http.Client, address string) (status int, body string) {
	t.Helper()
	resp, err := client.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(content)
}

// app answers a version with a status.
func app(t *testing.T, version string, status int) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, version)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// counted returns "workload code flags" of one side, with how often it was counted.
func (m *mesh) counted(t *testing.T, reporter string) map[string]int {
	t.Helper()
	counts := map[string]int{}
	m.meters.mu.Lock()
	defer m.meters.mu.Unlock()
	for _, target := range m.meters.targets {
		families, err := target.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != "istio_requests_total" {
				continue
			}
			for _, series := range f.Metric {
				labels := map[string]string{}
				for _, l := range series.Label {
					labels[l.GetName()] = l.GetValue()
				}
				if labels["reporter"] == reporter {
					counts[labels["destination_workload"]+" "+labels["response_code"]+" "+labels["response_flags"]] += int(series.Counter.GetValue())
				}
			}
		}
	}
	return counts
}

func (m *mesh) wantCounted(t *testing.T, reporter string, want map[string]int) {
	t.Helper()
	var got map[string]int
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if got = m.counted(t, reporter); cmp.Equal(want, got) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("counted by %s (-want, +got)\n%s", reporter, cmp.Diff(want, got))
		}
	}
}

func TestFollowsTheSplit(t *testing.T) {
	t.Parallel()
	v1, v2 := app(t, "1", 200), app(t, "2", 200)
	m, server, client := start(t, split(100, 0, nil), pods(stable, "web-primary", v1), pods(candidate, "web", v2))
	for range 20 {
		if status, body := get(t, client, "http://web.shop/"); status != 200 || body != "1" {
			t.Fatalf("at 100/0: %d %q", status, body)
		}
	}
	m.wantCounted(t, "source", map[string]int{"web-primary 200 -": 20})
	m.wantCounted(t, "destination", map[string]int{"web-primary 200 -": 20})

	server.routes <- split(0, 100, nil)
	until(t, func() bool { _, body := get(t, client, "http://web.shop/"); return body == "2" })
	for range 20 {
		if _, body := get(t, client, "http://web.shop/"); body != "2" {
			t.Fatalf("after the shift to 0/100: %q", body)
		}
	}
}

func TestNoEndpoint(t *testing.T) {
	t.Parallel()
	m, _, client := start(t, split(0, 100, nil), pods(stable, "web-primary"), pods(candidate, "web"))
	if status, body := get(t, client, "http://web.shop/"); status != 503 || body != "no healthy upstream" {
		t.Errorf("%d %q, want 503 and Envoy's words", status, body)
	}
	m.wantCounted(t, "source", map[string]int{"unknown 503 UH": 1})
	m.wantCounted(t, "destination", map[string]int{})
	labels := record{service: "web-canary.shop.svc.cluster.local", outcome: outcome{status: 503, flag: flagNoHealthy}}.labels()
	if labels["destination_service"] != "web-canary.shop.svc.cluster.local" || labels["destination_service_name"] != "unknown" ||
		labels["destination_service_namespace"] != "unknown" {
		t.Errorf("only destination_service is to be known: %v", labels)
	}
}

func TestRetriesElsewhere(t *testing.T) {
	t.Parallel()
	bad, good := app(t, "bad", 503), app(t, "good", 200)
	retry := func(a *route.RouteAction) {
		a.RetryPolicy = &route.RetryPolicy{RetryOn: "5xx", NumRetries: wrapperspb.UInt32(3)}
	}
	m, _, client := start(t, split(100, 0, retry), pods(stable, "web-primary", bad, good), pods(candidate, "web"))
	for range 20 {
		if status, body := get(t, client, "http://web.shop/"); status != 200 || body != "good" {
			t.Fatalf("%d %q", status, body)
		}
	}
	// The caller's side counts requests, the pods' side each attempt.
	m.wantCounted(t, "source", map[string]int{"web-primary 200 -": 20})
	if got := m.counted(t, "destination"); got["web-primary 200 -"] != 20 || got["web-primary 503 -"] == 0 {
		t.Errorf("attempts counted at the pods: %v", got)
	}
}

func TestConnectFailure(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	m, _, client := start(t, split(0, 100, nil), pods(stable, "web-primary"), pods(candidate, "web", nobody))
	if status, _ := get(t, client, "http://web.shop/"); status != 503 {
		t.Errorf("status %d, want 503", status)
	}
	m.wantCounted(t, "source", map[string]int{"web 503 UF": 1})
	m.wantCounted(t, "destination", map[string]int{})
}

func TestTimeoutAndClientGone(t *testing.T) {
	t.Parallel()
	asked := new(atomic.Int32)
	hang := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked.Add(1); <-r.Context().Done() }))
	t.Cleanup(hang.Close)
	pod := strings.TrimPrefix(hang.URL, "http://")
	timeout := func(a *route.RouteAction) { a.Timeout = durationpb.New(50 * time.Millisecond) }
	m, server, client := start(t, split(0, 100, timeout), pods(stable, "web-primary"), pods(candidate, "web", pod))
	if status, body := get(t, client, "http://web.shop/"); status != 504 || body != "upstream request timeout" {
		t.Errorf("%d %q, want 504 and Envoy's words", status, body)
	}
	m.wantCounted(t, "source", map[string]int{"web 504 UT": 1})
	m.wantCounted(t, "destination", map[string]int{"web 0 DC": 1})

	server.routes <- split(0, 100, nil) // now without a timeout: the client goes away first
	c := m.callers["callers/shop/client"]
	until(t, func() bool {
		return c.current.Load().routes["80"].VirtualHosts[0].Routes[0].GetRoute().GetTimeout() == nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://web.shop/", nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		until(t, func() bool { return asked.Load() == 2 })
		cancel()
	}()
	if resp, err := client.Do(req); err == nil {
		resp.Body.Close()
		t.Fatal("the client that went away got an answer")
	}
	m.wantCounted(t, "source", map[string]int{"web 504 UT": 1, "web 0 DC": 1})
	m.wantCounted(t, "destination", map[string]int{"web 0 DC": 2})
}

func TestGRPC(t *testing.T) {
	t.Parallel()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	protocols.SetHTTP1(true)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("the pod was asked by %s, want HTTP/2", r.Proto)
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = io.WriteString(w, "message")
		w.Header().Set("Grpc-Status", "14")
	}))
	s.Config.Protocols = protocols
	s.Start()
	t.Cleanup(s.Close)
	m, _, _ := start(t, split(0, 100, nil), pods(stable, "web-primary"), pods(candidate, "web", strings.TrimPrefix(s.URL, "http://")))
	only2 := new(http.Protocols)
	only2.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: only2}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+m.callers["callers/shop/client"].address+"/pkg.Service/Method", strings.NewReader("message"))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "web.shop"
	req.Header.Set("Content-Type", "application/grpc")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "message" || resp.Trailer.Get("Grpc-Status") != "14" {
		t.Fatalf("%q, trailer %v, %v", body, resp.Trailer, err)
	}
	m.wantCounted(t, "source", map[string]int{"web 200 -": 1})
	var got string
	m.meters.mu.Lock()
	families, err := m.meters.targets["callers/shop/client"].registry.Gather()
	m.meters.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, l := range f.Metric[0].Label {
			if l.GetName() == "grpc_response_status" || l.GetName() == "request_protocol" {
				got += l.GetValue() + " "
			}
		}
	}
	if got != "14 grpc 14 grpc " {
		t.Errorf("grpc_response_status and request_protocol of both metrics: %q", got)
	}
}

func TestASideCanBeSwitchedOff(t *testing.T) {
	t.Parallel()
	m, _, client := start(t, split(100, 0, nil), pods(stable, "web-primary", app(t, "1", 200)), pods(candidate, "web"))
	m.meters.switchSide("destination", true)
	get(t, client, "http://web.shop/")
	m.wantCounted(t, "source", map[string]int{"web-primary 200 -": 1})
	m.meters.switchSide("destination", false)
	m.meters.switchSide("source", true)
	get(t, client, "http://web.shop/")
	m.wantCounted(t, "destination", map[string]int{"web-primary 200 -": 1})
	m.wantCounted(t, "source", map[string]int{"web-primary 200 -": 1})
}

// Envoy sends a request once more only where the route says so; Go's client would, when a kept connection breaks.
func TestABrokenConnectionIsNotHidden(t *testing.T) {
	t.Parallel()
	asked := new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if asked.Add(1)%2 == 0 {
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(s.Close)
	m, _, client := start(t, split(0, 100, nil), pods(stable, "web-primary"), pods(candidate, "web", strings.TrimPrefix(s.URL, "http://")))
	for range 10 {
		get(t, client, "http://web.shop/")
	}
	if n := asked.Load(); n != 10 {
		t.Errorf("the pod was asked %d times", n)
	}
	m.wantCounted(t, "source", map[string]int{"web 200 -": 5, "web 503 UC": 5})
}

// A client that has the whole answer may hang up before the proxy has seen its end.
func TestAClientThatHasAllIsNotGone(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(s.Close)
	m, _, _ := start(t, split(0, 100, nil), pods(stable, "web-primary"), pods(candidate, "web", strings.TrimPrefix(s.URL, "http://")))
	ctx, hangUp := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://web.shop/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := m.callers["callers/shop/client"].RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	hangUp()
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	m.wantCounted(t, "source", map[string]int{"web 200 -": 1})
}
