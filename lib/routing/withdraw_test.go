package routing

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// Whatever somebody made of a route, the candidate's traffic goes to stable, and all else stays as
// it is.
func TestWithdraw(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc, protocol, before string
		share                  int32
		after                  string // "": nothing is written
	}{
		{"a third destination", "http",
			"  - route: [{destination: {host: shop-primary}, weight: 50}, {destination: {host: shop-canary}, " +
				"weight: 40}, {destination: {host: old}, weight: 10}]", 40,
			"  - route: [{destination: {host: shop-primary}, weight: 90}, {destination: {host: shop-canary}, " +
				"weight: 0}, {destination: {host: old}, weight: 10}]"},
		{"the candidate alone", "http", "  - route: [{destination: {host: shop-canary, port: {number: 80}}}]", 100,
			"  - route: [{destination: {host: shop-primary, port: {number: 80}}}]"},
		{"a subset of the candidate alone", "http", "  - route: [{destination: {host: shop-canary, subset: v2}}]", 100,
			"  - route: [{destination: {host: shop-primary}}]"},
		{"the candidate beside another", "http",
			"  - route: [{destination: {host: shop-canary.web.svc.cluster.local}, weight: 30}, {destination: " +
				"{host: old}, weight: 70}]", 30,
			"  - route: [{destination: {host: shop-primary}, weight: 30}, {destination: {host: old}, weight: 70}]"},
		{"the candidate twice", "http",
			"  - route: [{destination: {host: shop-canary, subset: a}, weight: 10}, {destination: {host: " +
				"shop-primary}, weight: 60}, {destination: {host: shop-canary, subset: b}, weight: 30}]", 30,
			"  - route: [{destination: {host: shop-canary, subset: a}, weight: 0}, {destination: {host: " +
				"shop-primary}, weight: 100}, {destination: {host: shop-canary, subset: b}, weight: 0}]"},
		{"two rules", "http",
			"  - {timeout: 3s, route: [{destination: {host: shop-canary}}]}\n  - route: [{destination: {host: " +
				"shop-primary}, weight: 60}, {destination: {host: shop-canary}, weight: 40}]", 100,
			"  - {timeout: 3s, route: [{destination: {host: shop-primary}}]}\n  - route: [{destination: {host: " +
				"shop-primary}, weight: 100}, {destination: {host: shop-canary}, weight: 0}]"},
		{"TCP", "tcp", "  - route: [{destination: {host: shop-primary}, weight: 60}, {destination: {host: " +
			"shop-canary}, weight: 40}]", 40,
			"  - route: [{destination: {host: shop-primary}, weight: 100}, {destination: {host: " +
				"shop-canary}, weight: 0}]"},
		{"TLS", "tls", "  - {match: [{port: 443, sniHosts: [shop]}], route: [{destination: {host: shop-canary}}]}", 100,
			"  - {match: [{port: 443, sniHosts: [shop]}], route: [{destination: {host: shop-primary}}]}"},
		{"weight 0", "http",
			"  - route: [{destination: {host: shop-primary}, weight: 90}, {destination: {host: shop-canary}, " +
				"weight: 0}, {destination: {host: old}, weight: 10}]", 0, ""},
		{"the Service alone", "http", "  - route: [{destination: {host: shop}}]", 0, ""},
		{"a Service of that name in another namespace", "http",
			"  - route: [{destination: {host: shop-canary.other.svc.cluster.local}}]", 0, ""},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			object := func(routes string) *unstructured.Unstructured {
				o := virtualService(t, fenced, routes)
				spec := o.Object["spec"].(map[string]any)
				if c.protocol != "http" {
					spec[c.protocol] = spec["http"]
					delete(spec, "http")
				}
				return o
			}
			before := object(c.before)
			if got := ToCandidate(before, shop); got != c.share {
				t.Errorf("the candidate has %d %%, want %d", got, c.share)
			}
			w := Withdraw(before, shop)
			if c.after == "" {
				if w != nil {
					t.Errorf("it writes %v", w.Patch)
				}
				return
			}
			if w == nil {
				t.Fatal("it writes nothing")
			}
			after := patched(t, before, w)
			if diff := cmp.Diff(normal(t, object(c.after)), normal(t, after)); diff != "" {
				t.Errorf("(-want, +got)\n%s", diff)
			}
			if got := ToCandidate(after, shop); got != 0 || Withdraw(after, shop) != nil {
				t.Errorf("after it the candidate has %d %%", got)
			}
			stale := before.DeepCopy()
			stale.SetResourceVersion("other")
			if _, err := apply(t, stale, w); err == nil {
				t.Error("it is written over what somebody else wrote meanwhile")
			}
		})
	}
}

// normal is the specification of an object, with numbers as JSON has them.
func normal(t *testing.T, o *unstructured.Unstructured) (spec any) {
	t.Helper()
	if err := kube.Decode(o.Object["spec"], &spec); err != nil {
		t.Fatal(err)
	}
	return spec
}
