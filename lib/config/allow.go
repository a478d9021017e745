package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/canary-tasks/canary-tasks/lib/show"
)

// Allow is what the platform lets specifications claim beyond their own namespace. A specification
// is the application team's: a Canary, or the values of its chart. What is given as a parameter is
// the platform's own word, and is not checked against this.
type Allow struct {
	Hosts      []string // of a VirtualService: a name, or *. for any labels in front of one
	Gateways   []string // namespace/name, or a name in the target's namespace
	Prometheus []string // addresses that credentials may be sent to
}

const allowed = "give host=NAME, gateway=NAMESPACE/NAME or prometheus=URL, by comma: " +
	"host=*.shop.example.com,gateway=istio-ingress/shared"

// allow reads the parameter allow.
func (r *reader) allow() (a Allow) {
	v := r.text("allow")
	if v == "" {
		return a
	}
	for part := range strings.SplitSeq(v, ",") {
		kind, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch {
		case kind == "host" && isHost(value):
			a.Hosts = append(a.Hosts, value)
		case kind == "gateway" && isGateway(value):
			a.Gateways = append(a.Gateways, value)
		case kind == "prometheus" && isAddress(value):
			a.Prometheus = append(a.Prometheus, value)
		default:
			r.add("allow", cmp.Or(show.Address(strings.TrimSpace(part)), v), allowed)
		}
	}
	return a
}

// isAddress reports whether a text is an absolute http or https URL without a password.
func isAddress(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && u.User == nil
}

// ownNames are the names by which callers in the mesh know a Service.
func ownNames(service, namespace string) []string {
	full := service + "." + namespace + ".svc"
	return []string{service, service + "." + namespace, full, full + ".cluster.local"}
}

// covers reports whether one of the allowed hosts is the claimed one, or has a * for its first
// labels. As in Istio, a * stands for one label or more. A claimed *.shop.example.com needs an
// allowed *.shop.example.com, *.example.com or *.
func covers(allowed []string, claimed string) bool {
	return slices.ContainsFunc(allowed, func(host string) bool {
		tail, wildcard := strings.CutPrefix(host, "*")
		return host == claimed || wildcard && strings.HasSuffix(claimed, tail) && len(claimed) > len(tail)
	})
}

// mesh is the gateway that stands for all sidecars.
const mesh = "mesh"

// inNamespace returns a gateway of a VirtualService as namespace/name, as Istio reads it: a name
// alone is one of the VirtualService's own namespace, and name.namespace.svc.cluster.local is the
// old way to write namespace/name.
func inNamespace(gateway, namespace string) string {
	if gateway == mesh || strings.Contains(gateway, "/") {
		return gateway
	}
	labels := strings.SplitN(gateway, ".", 3)
	if len(labels) == 1 {
		return namespace + "/" + gateway
	}
	return labels[1] + "/" + labels[0]
}

// claims refuses the hosts and gateways of a specification that are not its own to claim. Where the
// pipeline runs in another namespace, its account makes the VirtualService with rights that the
// team need not have: there a specification gets the names of its own Service in the mesh, and
// beyond that only what allow lists. In the target's own namespace it may claim what it likes,
// unless allow lists something of the kind.
func (r *reader) claims(c *Config, allow Allow) {
	elsewhere := c.RunNamespace != c.Namespace
	own := ownNames(c.Service, c.Namespace)
	var gateways []string
	for _, gateway := range allow.Gateways {
		gateways = append(gateways, inNamespace(gateway, c.Namespace))
	}
	refused := func(parameter string, restricted bool, claimed []string, may func(string) bool) []string {
		if !r.specified(parameter) || !elsewhere && !restricted || r.problems.Names(parameter) {
			return nil
		}
		return slices.DeleteFunc(slices.Clone(claimed), may)
	}
	hosts := refused("hosts", len(allow.Hosts) > 0, c.Hosts, func(host string) bool {
		return slices.Contains(own, host) || covers(allow.Hosts, host)
	})
	doors := refused("gateways", len(allow.Gateways) > 0, c.Gateways, func(gateway string) bool {
		return gateway == mesh || slices.Contains(gateways, inNamespace(gateway, c.Namespace))
	})
	var more []string
	if given := r.text("allow"); given != "" {
		more = append(more, given)
	}
	for _, host := range hosts {
		more = append(more, "host="+host)
	}
	for _, gateway := range doors {
		more = append(more, "gateway="+inNamespace(gateway, c.Namespace))
	}
	where := "in namespace " + c.RunNamespace
	if c.RunNamespace == "" {
		where = "whose namespace is not known (runNamespace)"
	}
	const remedy = "the specification claims it, and in a run %s it may claim %s and what allow lists: " +
		"take it out there; or whoever runs the pipeline gives %s, or allow=%s"
	if len(hosts) > 0 {
		r.add("hosts", strings.Join(hosts, ","), remedy, where, strings.Join(own, ", "), "hosts",
			strings.Join(more, ","))
	}
	if len(doors) > 0 {
		r.add("gateways", strings.Join(doors, ","), remedy, where, "gateway mesh", "gateways",
			strings.Join(more, ","))
	}
}

// specified reports whether a parameter has its value from the specification.
func (r *reader) specified(name string) bool { return r.spec[name] != "" && r.fromEnv(name) == "" }

// fromEnv returns what the environment alone gives, "" where the step takes no such parameter.
func (r *reader) fromEnv(name string) string {
	for _, p := range Of(r.step) {
		if p.Name == name {
			return r.env(p)
		}
	}
	return ""
}

// ErrForeign is an address of Prometheus that the credentials at hand are not for.
var ErrForeign = errors.New("the credentials of prometheusSecret are for another address")

// Address returns the address of Prometheus to ask. chosen is what canary-init came to, which a
// specification may have named, or what the release record says, which anybody may have written who
// may write ConfigMaps.
//
// With credentials only an address that the platform names is asked: the parameter prometheus of
// this step, without one its default or an address that allow lists. It is returned in the
// platform's own spelling. Another one is ErrForeign. Without credentials the parameter comes
// first, and then whatever was chosen.
func (s Step) Address(chosen string, credentials bool) (string, error) {
	if !credentials {
		return cmp.Or(s.Prometheus, chosen), nil
	}
	named := []string{s.Prometheus}
	if s.Prometheus == "" {
		named = append([]string{DefaultPrometheus}, s.Allow.Prometheus...)
	}
	for _, address := range named {
		if sameAddress(address, chosen) {
			return address, nil
		}
	}
	are, is := show.Address(named[0]), show.Address(chosen)
	if are == is {
		is = "the same with another query string"
	}
	return "", fmt.Errorf("%w: they are for %s, not for %s, and nothing was sent", ErrForeign, are, is)
}

// sameAddress reports whether requests to two addresses go to the same place: scheme, host, port,
// path and query string. The release record keeps no query string: without one b is a's.
func sameAddress(a, b string) bool {
	place := func(address string) (where [5]string, ok bool) {
		u, err := url.Parse(address)
		if err != nil || u.Hostname() == "" {
			return where, false
		}
		port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
		return [5]string{u.Scheme, strings.ToLower(u.Hostname()), port, path.Clean("/" + u.Path), u.RawQuery}, true
	}
	one, ok := place(a)
	other, isOne := place(b)
	if other[4] == "" {
		one[4] = ""
	}
	return ok && isOne && one == other
}
