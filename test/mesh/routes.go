package main

import (
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcher "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// This file is pure: from a route configuration and a request to what is to be done with it.

// weighted is a cluster with its weight among those of a route.
type weighted struct {
	name   string
	weight uint32
}

// weightedClusters lists the clusters that a route sends to.
func weightedClusters(a *route.RouteAction) []weighted {
	if c := a.GetCluster(); c != "" {
		return []weighted{{c, 1}}
	}
	var all []weighted
	for _, c := range a.GetWeightedClusters().GetClusters() {
		all = append(all, weighted{c.Name, c.GetWeight().GetValue()})
	}
	return all
}

// pickCluster chooses a cluster by weight; random returns a number from 0 up to, not with, its argument.
func pickCluster(clusters []weighted, random func(n uint32) uint32) string {
	var sum uint32
	for _, c := range clusters {
		sum += c.weight
	}
	if sum == 0 {
		return ""
	}
	at := random(sum)
	for _, c := range clusters {
		if at < c.weight {
			return c.name
		}
		at -= c.weight
	}
	panic("unreachable: the weights add up to their sum")
}

// findRoute returns the route of a request: the best matching virtual host, then its first matching route.
func findRoute(rc *route.RouteConfiguration, r *http.Request) *route.Route {
	vh := findHost(rc, hostOf(r))
	for _, candidate := range vh.GetRoutes() {
		if matches(candidate.Match, r) {
			return candidate
		}
	}
	return nil
}

// hostOf returns the host that a request asks for, without its port.
func hostOf(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.Host); err == nil {
		return host
	}
	return r.Host
}

// portOf returns the port that a request asks for.
func portOf(r *http.Request) string {
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		return port
	}
	return "80"
}

// findHost prefers, as Envoy does, an exact domain, then the longest "*suffix", then the longest "prefix*", then "*".
func findHost(rc *route.RouteConfiguration, host string) *route.VirtualHost {
	var found *route.VirtualHost
	best := -1
	for _, vh := range rc.GetVirtualHosts() {
		for _, domain := range vh.Domains {
			if score := domainScore(domain, strings.ToLower(host)); score > best {
				found, best = vh, score
			}
		}
	}
	return found
}

func domainScore(domain, host string) int {
	const exact, suffix, prefix = 3 << 16, 2 << 16, 1 << 16
	domain = strings.ToLower(domain)
	switch {
	case domain == host:
		return exact
	case domain == "*":
		return 0
	case strings.HasPrefix(domain, "*") && len(host) > len(domain)-1 && strings.HasSuffix(host, domain[1:]):
		return suffix + len(domain)
	case strings.HasSuffix(domain, "*") && len(host) > len(domain)-1 && strings.HasPrefix(host, domain[:len(domain)-1]):
		return prefix + len(domain)
	}
	return -1
}

func matches(m *route.RouteMatch, r *http.Request) bool {
	path := r.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	fold := m.GetCaseSensitive() != nil && !m.GetCaseSensitive().Value
	equal, hasPrefix := func(a, b string) bool { return a == b }, strings.HasPrefix
	if fold {
		equal = strings.EqualFold
		hasPrefix = func(s, p string) bool { return strings.HasPrefix(strings.ToLower(s), strings.ToLower(p)) }
	}
	switch p := m.GetPathSpecifier().(type) {
	case *route.RouteMatch_Prefix:
		if !hasPrefix(path, p.Prefix) {
			return false
		}
	case *route.RouteMatch_Path:
		if !equal(path, p.Path) {
			return false
		}
	case *route.RouteMatch_PathSeparatedPrefix:
		if !equal(path, p.PathSeparatedPrefix) && !hasPrefix(path, p.PathSeparatedPrefix+"/") {
			return false
		}
	case *route.RouteMatch_SafeRegex:
		if !fullMatch(p.SafeRegex.Regex, path) {
			return false
		}
	}
	for _, h := range m.GetHeaders() {
		value, present := headerValue(h.Name, r)
		if matchesHeader(h, value, present) == h.InvertMatch {
			return false
		}
	}
	query := r.URL.Query()
	for _, q := range m.GetQueryParameters() {
		present := query.Has(q.Name)
		if want := q.GetStringMatch(); want != nil && (!present || !matchesString(want, query.Get(q.Name))) {
			return false
		}
		if q.GetPresentMatch() && !present {
			return false
		}
	}
	return true
}

// headerValue returns a header, or what HTTP/2 carries as one.
func headerValue(name string, r *http.Request) (value string, present bool) {
	switch name {
	case ":authority":
		return r.Host, true
	case ":method":
		return r.Method, true
	case ":scheme":
		return "http", true
	case ":path":
		return r.URL.RequestURI(), true
	}
	values := r.Header.Values(name)
	return strings.Join(values, ","), len(values) > 0
}

func matchesHeader(h *route.HeaderMatcher, value string, present bool) bool {
	switch m := h.GetHeaderMatchSpecifier().(type) {
	case *route.HeaderMatcher_StringMatch:
		return (present || h.TreatMissingHeaderAsEmpty) && matchesString(m.StringMatch, value)
	case *route.HeaderMatcher_PresentMatch:
		return present == m.PresentMatch
	case nil:
		return present
	}
	return false
}

func matchesString(m *matcher.StringMatcher, value string) bool {
	fold := func(s string) string {
		if m.IgnoreCase {
			return strings.ToLower(s)
		}
		return s
	}
	switch p := m.GetMatchPattern().(type) {
	case *matcher.StringMatcher_Exact:
		return fold(value) == fold(p.Exact)
	case *matcher.StringMatcher_Prefix:
		return strings.HasPrefix(fold(value), fold(p.Prefix))
	case *matcher.StringMatcher_Suffix:
		return strings.HasSuffix(fold(value), fold(p.Suffix))
	case *matcher.StringMatcher_Contains:
		return strings.Contains(fold(value), fold(p.Contains))
	case *matcher.StringMatcher_SafeRegex:
		return fullMatch(p.SafeRegex.Regex, value)
	}
	return false
}

// fullMatch matches the whole value, as Envoy does. Both use RE2; checkRoutes has seen that the pattern compiles.
func fullMatch(pattern, value string) bool {
	re, err := regexp.Compile(`^(?:` + pattern + `)$`)
	return err == nil && re.MatchString(value)
}

// retries is the retry policy of a route in the form that the proxy uses.
type retries struct {
	on       []string // Envoy's names: "5xx", "connect-failure", "unavailable", …
	attempts int      // after the first one
	perTry   time.Duration
	statuses []uint32
}

func retriesOf(a *route.RouteAction) retries {
	p := a.GetRetryPolicy()
	if p == nil {
		return retries{}
	}
	r := retries{attempts: 1, perTry: p.GetPerTryTimeout().AsDuration(), statuses: p.GetRetriableStatusCodes()}
	if n := p.GetNumRetries(); n != nil {
		r.attempts = int(n.Value)
	}
	for name := range strings.SplitSeq(p.GetRetryOn(), ",") {
		r.on = append(r.on, strings.TrimSpace(name))
	}
	return r
}

// grpcConditions are the retry conditions that are told by a gRPC status.
var grpcConditions = map[string]string{
	"1": "cancelled", "4": "deadline-exceeded", "8": "resource-exhausted", "13": "internal", "14": "unavailable",
}

// again tells whether an attempt that ended this way is to be repeated.
func (r retries) again(o outcome) bool {
	has := func(name string) bool { return slices.Contains(r.on, name) }
	switch o.flag {
	case flagConnectFailure:
		return has("connect-failure") || has("5xx") || has("gateway-error") || has("reset")
	case flagUpstreamReset:
		return has("reset") || has("5xx")
	case flagTimeout: // of this try
		return has("5xx") || has("gateway-error") || has("reset")
	}
	return o.status >= 500 && has("5xx") ||
		o.status >= 502 && o.status <= 504 && has("gateway-error") ||
		o.status == http.StatusConflict && has("retriable-4xx") ||
		slices.ContainsFunc(r.statuses, func(s uint32) bool { return int(s) == o.status }) && has("retriable-status-codes") ||
		o.grpcStatus != "" && grpcConditions[o.grpcStatus] != "" && has(grpcConditions[o.grpcStatus])
}

// checkRoutes names what istiod sent that this stand-in would not do as Envoy does.
func checkRoutes(rc *route.RouteConfiguration) error {
	for _, vh := range rc.VirtualHosts {
		for _, r := range vh.Routes {
			if re := r.GetMatch().GetSafeRegex(); re != nil {
				if _, err := regexp.Compile(re.Regex); err != nil {
					return fmt.Errorf("virtual host %s: %w", vh.Name, err)
				}
			}
		}
	}
	return nil
}

// unsupported names the parts of a route that this stand-in does not do, so that nobody takes silence for a result.
func unsupported(r *route.Route) []string {
	var names []string
	a := r.GetRoute()
	if len(a.GetRequestMirrorPolicies()) > 0 {
		names = append(names, "mirror")
	}
	if _, ok := r.GetTypedPerFilterConfig()["envoy.filters.http.fault"]; ok {
		names = append(names, "fault")
	}
	if a.GetRegexRewrite() != nil {
		names = append(names, "regex rewrite")
	}
	if len(a.GetHashPolicy()) > 0 {
		names = append(names, "consistent hash")
	}
	if r.GetRedirect() != nil {
		names = append(names, "redirect")
	}
	return names
}
