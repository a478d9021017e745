package main

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestPickCluster(t *testing.T) {
	t.Parallel()
	split := []weighted{{"stable", 80}, {"candidate", 20}}
	counts := map[string]int{}
	for n := range uint32(100) { // every number that random can give, once
		counts[pickCluster(split, func(sum uint32) uint32 {
			if sum != 100 {
				t.Fatalf("asked for a number below %d, want 100", sum)
			}
			return n
		})]++
	}
	if diff := cmp.Diff(map[string]int{"stable": 80, "candidate": 20}, counts); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
	if got := pickCluster([]weighted{{"stable", 0}}, nil); got != "" {
		t.Errorf("a split without weights gave %q", got)
	}
}

func TestFindRoute(t *testing.T) {
	t.Parallel()
	to := func(cluster string, m *route.RouteMatch) *route.Route {
		return &route.Route{Match: m, Action: &route.Route_Route{Route: &route.RouteAction{
			ClusterSpecifier: &route.RouteAction_Cluster{Cluster: cluster}}}}
	}
	prefix := func(p string) *route.RouteMatch {
		return &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: p}}
	}
	header := func(name string, m *matcher.StringMatcher, invert bool) *route.RouteMatch {
		r := prefix("/")
		r.Headers = []*route.HeaderMatcher{{Name: name, InvertMatch: invert,
			HeaderMatchSpecifier: &route.HeaderMatcher_StringMatch{StringMatch: m}}}
		return r
	}
	exact := func(s string) *matcher.StringMatcher {
		return &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_Exact{Exact: s}}
	}
	config := &route.RouteConfiguration{VirtualHosts: []*route.VirtualHost{
		{Domains: []string{"*"}, Routes: []*route.Route{to("any", prefix("/"))}},
		{Domains: []string{"*.example.com"}, Routes: []*route.Route{to("wild", prefix("/"))}},
		{Domains: []string{"web.shop.svc.cluster.local", "web.shop", "web"}, Routes: []*route.Route{
			to("next", header("x-version", exact("next"), false)),
			to("regex", header("cookie", &matcher.StringMatcher{MatchPattern: &matcher.StringMatcher_SafeRegex{
				SafeRegex: &matcher.RegexMatcher{Regex: ".*canary=yes.*"}}}, false)),
			to("post", header(":method", exact("POST"), false)),
			to("exact", &route.RouteMatch{PathSpecifier: &route.RouteMatch_Path{Path: "/exact"}}),
			to("separated", &route.RouteMatch{PathSpecifier: &route.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: "/api"}}),
			to("not-mobile", header("x-device", exact("mobile"), true)),
			to("main", prefix("/")),
		}},
	}}
	for _, c := range []struct{ desc, method, url, header, value, want string }{
		{"header", "GET", "http://web.shop/", "X-Version", "next", "next"},
		{"another value of the header", "GET", "http://web.shop/", "X-Version", "nextish", "not-mobile"},
		{"regex over the whole value", "GET", "http://web/", "Cookie", "a=1; canary=yes", "regex"},
		{"method", "POST", "http://web/", "", "", "post"},
		{"exact path", "GET", "http://web/exact", "", "", "exact"},
		{"longer than the exact path", "GET", "http://web/exactly", "", "", "not-mobile"},
		{"whole segment", "GET", "http://web/api/v1", "", "", "separated"},
		{"part of a segment", "GET", "http://web/apiary", "", "", "not-mobile"},
		{"inverted match", "GET", "http://web:80/", "X-Device", "mobile", "main"},
		{"suffix domain", "GET", "http://a.example.com/", "", "", "wild"},
		{"any domain", "GET", "http://example.com/", "", "", "any"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewRequest(c.method, c.url, nil)
			if c.header != "" {
				r.Header.Set(c.header, c.value)
			}
			if got := findRoute(config, r).GetRoute().GetCluster(); got != c.want {
				t.Errorf("went to %q, want %q", got, c.want)
			}
		})
	}
}

func TestRetries(t *testing.T) {
	t.Parallel()
	// What istiod sends for a VirtualService that says nothing about retries.
	defaults := retriesOf(&route.RouteAction{RetryPolicy: &route.RetryPolicy{
		RetryOn: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", NumRetries: wrapperspb.UInt32(2),
		PerTryTimeout: durationpb.New(time.Second)}})
	if defaults.attempts != 2 || defaults.perTry != time.Second {
		t.Errorf("attempts %d, each %s; want 2, each 1s", defaults.attempts, defaults.perTry)
	}
	fiveHundreds := retriesOf(&route.RouteAction{RetryPolicy: &route.RetryPolicy{RetryOn: "5xx"}})
	for _, c := range []struct {
		desc   string
		policy retries
		ended  outcome
		want   bool
	}{
		{"no policy", retries{}, outcome{status: 503, flag: flagConnectFailure}, false},
		{"default: no connection", defaults, outcome{status: 503, flag: flagConnectFailure}, true},
		{"default: connection lost", defaults, outcome{status: 503, flag: flagUpstreamReset}, false},
		{"default: 503 from the app", defaults, outcome{status: 503}, false},
		{"default: gRPC unavailable", defaults, outcome{status: 200, grpcStatus: "14"}, true},
		{"default: gRPC internal", defaults, outcome{status: 200, grpcStatus: "13"}, false},
		{"5xx: 500 from the app", fiveHundreds, outcome{status: 500}, true},
		{"5xx: connection lost", fiveHundreds, outcome{status: 503, flag: flagUpstreamReset}, true},
		{"5xx: 404", fiveHundreds, outcome{status: http.StatusNotFound}, false},
		{"5xx: good", fiveHundreds, outcome{status: 200}, false},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			if got := c.policy.again(c.ended); got != c.want {
				t.Errorf("again: %t, want %t", got, c.want)
			}
		})
	}
}
