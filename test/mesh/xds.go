package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	listenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
	routeType    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	endpointType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
)

// configuration is what istiod last told a caller. It is never changed, only replaced.
type configuration struct {
	routes    map[string]*route.RouteConfiguration // by name: the port ("80") for a sidecar, "http.80" for a gateway
	endpoints map[string][]upstream                // by cluster
}

// upstream is one pod of a cluster, as istiod describes it.
type upstream struct {
	address  string // IP:port
	workload workload
}

// follower keeps one caller's configuration as istiod has it: listeners first, then the routes they name, then the
// endpoints of the clusters that the routes name.
type follower struct {
	istiod  string
	node    *core.Node
	log     *slog.Logger
	current atomic.Pointer[configuration]
}

// started waits for the first configuration, at most 30 s: an application starts after its proxy.
func (f *follower) started(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for f.current.Load() == nil {
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
	return true
}

// node describes a caller to istiod. kind is "sidecar" or "router".
func node(kind string, w workload, ip string, labels map[string]string) (*core.Node, error) {
	l := map[string]any{}
	for k, v := range labels {
		l[k] = v
	}
	metadata, err := structpb.NewStruct(map[string]any{
		"NAMESPACE": w.namespace, "CLUSTER_ID": w.cluster, "WORKLOAD_NAME": w.name, "LABELS": l,
	})
	if err != nil {
		return nil, err
	}
	return &core.Node{
		Id:       fmt.Sprintf("%s~%s~%s.%s~%[4]s.svc.cluster.local", kind, ip, w.name, w.namespace),
		Metadata: metadata,
	}, nil
}

// run follows istiod until ctx ends, and connects again when the stream breaks. What was known stays in force meanwhile,
// as with Envoy.
func (f *follower) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := f.follow(ctx); err != nil && ctx.Err() == nil {
			f.log.Warn("the stream from istiod broke; connecting again", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (f *follower) follow(ctx context.Context) error {
	conn, err := grpc.NewClient(f.istiod, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		return err
	}
	s := &subscriptions{
		send: stream.Send, node: f.node,
		wanted: map[string][]string{}, last: map[string]*discovery.DiscoveryResponse{},
	}
	if err := s.want(listenerType, nil); err != nil {
		return err
	}
	known := &configuration{routes: map[string]*route.RouteConfiguration{}, endpoints: map[string][]upstream{}}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		next := &configuration{routes: maps.Clone(known.routes), endpoints: maps.Clone(known.endpoints)}
		rejected := next.take(resp)
		if err := s.answer(resp, rejected); err != nil {
			return err
		}
		if rejected != nil {
			f.log.Error("refused what istiod sent", "type", resp.TypeUrl, "err", rejected)
			continue
		}
		known = next
		switch resp.TypeUrl {
		case listenerType:
			err = s.want(routeType, slices.Sorted(maps.Keys(known.routes)))
		case routeType:
			err = s.want(endpointType, known.clusters())
		}
		if err != nil {
			return err
		}
		if s.complete(known) {
			f.current.Store(known)
		}
	}
}

// take merges one answer of istiod's into the configuration.
func (c *configuration) take(resp *discovery.DiscoveryResponse) error {
	switch resp.TypeUrl {
	case listenerType:
		routes := map[string]*route.RouteConfiguration{}
		for _, r := range resp.Resources {
			var l listener.Listener
			if err := r.UnmarshalTo(&l); err != nil {
				return err
			}
			for _, name := range routeNames(&l) {
				routes[name] = c.routes[name]
			}
		}
		c.routes = routes
	case routeType:
		for _, r := range resp.Resources {
			var rc route.RouteConfiguration
			if err := r.UnmarshalTo(&rc); err != nil {
				return err
			}
			if err := checkRoutes(&rc); err != nil {
				return err
			}
			c.routes[rc.Name] = &rc
		}
	case endpointType:
		for _, r := range resp.Resources {
			var e endpoint.ClusterLoadAssignment
			if err := r.UnmarshalTo(&e); err != nil {
				return err
			}
			c.endpoints[e.ClusterName] = upstreams(&e)
		}
	}
	return nil
}

// clusters lists every cluster that a route names.
func (c *configuration) clusters() []string {
	names := map[string]bool{}
	for _, rc := range c.routes {
		for _, vh := range rc.GetVirtualHosts() {
			for _, r := range vh.Routes {
				for _, w := range weightedClusters(r.GetRoute()) {
					names[w.name] = true
				}
			}
		}
	}
	delete(names, "")
	return slices.Sorted(maps.Keys(names))
}

// routeNames lists the route configurations that a listener asks for by name.
func routeNames(l *listener.Listener) []string {
	var names []string
	chains := slices.Clone(l.FilterChains)
	if l.DefaultFilterChain != nil {
		chains = append(chains, l.DefaultFilterChain)
	}
	for _, chain := range chains {
		for _, filter := range chain.Filters {
			var manager hcm.HttpConnectionManager
			if filter.GetTypedConfig().MessageIs(&manager) && filter.GetTypedConfig().UnmarshalTo(&manager) == nil {
				if name := manager.GetRds().GetRouteConfigName(); name != "" {
					names = append(names, name)
				}
			}
		}
	}
	return names
}

// upstreams lists the endpoints that may get requests.
func upstreams(e *endpoint.ClusterLoadAssignment) []upstream {
	var all []upstream
	for _, locality := range e.Endpoints {
		for _, ep := range locality.LbEndpoints {
			if ep.HealthStatus != core.HealthStatus_UNKNOWN && ep.HealthStatus != core.HealthStatus_HEALTHY {
				continue
			}
			a := ep.GetEndpoint().GetAddress().GetSocketAddress()
			if a == nil {
				continue
			}
			meta := ep.GetMetadata().GetFilterMetadata()["istio"].GetFields()["workload"].GetStringValue()
			all = append(all, upstream{address: fmt.Sprintf("%s:%d", a.Address, a.GetPortValue()), workload: parseWorkload(meta)})
		}
	}
	return all
}

// subscriptions is the asking side of the stream: what is wanted of each type, and the acknowledgements.
type subscriptions struct {
	send   func(*discovery.DiscoveryRequest) error
	node   *core.Node
	wanted map[string][]string
	last   map[string]*discovery.DiscoveryResponse
}

// want asks for resources of a type, unless these are what was asked for before.
func (s *subscriptions) want(typeURL string, names []string) error {
	before, asked := s.wanted[typeURL]
	if asked && slices.Equal(before, names) {
		return nil
	}
	if len(names) == 0 && typeURL != listenerType { // no names would mean all
		return nil
	}
	s.wanted[typeURL] = names
	return s.request(typeURL, nil)
}

// answer acknowledges what istiod sent, or says why it was refused.
func (s *subscriptions) answer(resp *discovery.DiscoveryResponse, rejected error) error {
	if rejected == nil {
		s.last[resp.TypeUrl] = resp
		return s.request(resp.TypeUrl, nil)
	}
	return s.request(resp.TypeUrl, &status.Status{Code: int32(codes.InvalidArgument), Message: rejected.Error()})
}

func (s *subscriptions) request(typeURL string, refusal *status.Status) error {
	req := &discovery.DiscoveryRequest{Node: s.node, TypeUrl: typeURL, ResourceNames: s.wanted[typeURL], ErrorDetail: refusal}
	if last := s.last[typeURL]; last != nil {
		req.VersionInfo, req.ResponseNonce = last.VersionInfo, last.Nonce
	}
	return s.send(req)
}

// complete tells whether everything that was asked for has come: a route whose endpoints are not known yet must not
// replace one that works.
func (s *subscriptions) complete(c *configuration) bool {
	for name := range c.routes {
		if c.routes[name] == nil {
			return false
		}
	}
	for _, cluster := range c.clusters() {
		if _, ok := c.endpoints[cluster]; !ok {
			return false
		}
	}
	return s.last[listenerType] != nil
}
