package routing

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"sigs.k8s.io/yaml"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

var shop = Route{Target: "shop", Stable: "shop-primary", Candidate: "shop-canary"}

// virtualService is one with these routes, as the API server has it.
func virtualService(t *testing.T, metadata, routes string) *kube.Object {
	t.Helper()
	o := &kube.Object{}
	text := "metadata: {name: shop, namespace: web, resourceVersion: '7'" + metadata +
		"}\nspec:\n  hosts: [shop]\n  aFieldOfTheFuture: {keep: me}\n  http:\n" + routes
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

// patched is the object as the API server makes it out of a write, which must not fail.
func patched(t *testing.T, o *kube.Object, w *kube.Write) *kube.Object {
	t.Helper()
	after, err := apply(t, o, w)
	if err != nil {
		t.Fatal(err)
	}
	return after
}

func apply(t *testing.T, o *kube.Object, w *kube.Write) (*kube.Object, error) {
	t.Helper()
	before, err := json.Marshal(o.Object)
	if err != nil {
		t.Fatal(err)
	}
	operations, err := json.Marshal(w.Patch)
	if err != nil {
		t.Fatal(err)
	}
	patch, err := jsonpatch.DecodePatch(operations)
	if err != nil {
		t.Fatal(err)
	}
	after, err := patch.Apply(before)
	if err != nil {
		return nil, err
	}
	changed := &kube.Object{}
	if err := json.Unmarshal(after, &changed.Object); err != nil {
		t.Fatal(err)
	}
	return changed, nil
}

func find(t *testing.T, o *kube.Object, r Route) Split {
	t.Helper()
	s, err := Find(o, r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const fenced = ", annotations: {shop.canary-tasks.dev/fence: '3', other.canary-tasks.dev/fence: '9', theirs: kept}"

// Only the weights change: other routes, headers, mirrors and fields that nobody here knows stay.
func TestShiftChangesTheWeightsOnly(t *testing.T) {
	t.Parallel()
	routes := func(weights string) string {
		return `
  - name: pinned
    match: [{headers: {x-version: {exact: next}}}]
    route: [{destination: {host: shop-canary}}]
  - name: main
    somethingNew: [1, 2]
    mirror: {host: audit}
    headers: {request: {set: {a: b}}}
    route:
    - {destination: {host: shop-canary.web.svc.cluster.local, port: {number: 80}},
       headers: {response: {set: {c: d}}}` + strings.Split(weights, "/")[1] + `}
    - {destination: {host: shop-primary}` + strings.Split(weights, "/")[0] + `}
`
	}
	before := virtualService(t, fenced, routes(", weight: 100/"))
	s := find(t, before, shop)
	if s.Stable != 100 || s.Candidate != 0 || !s.Fenced(3) || s.Fenced(2) {
		t.Errorf("read %+v", s)
	}
	want := virtualService(t, fenced, routes(", weight: 60/, weight: 40"))
	after := patched(t, before, s.Shift(40, 3))
	wantJSON, gotJSON := asJSON(t, want), asJSON(t, after)
	if diff := cmp.Diff(wantJSON, gotJSON); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
	if w := find(t, after, shop).Shift(40, 3); w != nil {
		t.Errorf("the same again writes %v", w.Patch)
	}
	if w := find(t, after, shop).Raise(40, 3); w != nil {
		t.Errorf("the same fence again writes %v", w.Patch)
	}
	if w := find(t, after, shop).Raise(0, 4); w == nil {
		t.Error("a higher fence writes nothing")
	}
}

func asJSON(t *testing.T, o *kube.Object) any {
	t.Helper()
	b, err := json.Marshal(o.Object)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

const both = `
  - name: main
    route: [{destination: {host: shop-primary}, weight: 80}, {destination: {host: shop-canary}, weight: 20}]
`

// A write is refused when another release fenced this one off, or somebody changed the
// destinations.
func TestWritesAreRefused(t *testing.T) {
	t.Parallel()
	before := virtualService(t, fenced, both)
	s := find(t, before, shop)
	for _, c := range []struct {
		desc string
		now  *kube.Object
		w    *kube.Write
	}{
		{"another epoch", virtualService(t, strings.Replace(fenced, "3", "4", 1), both), s.Shift(40, 3)},
		{"no fence", virtualService(t, "", both), s.Shift(40, 3)},
		{"destinations swapped",
			virtualService(t, fenced,
				strings.Replace(strings.Replace(
					strings.Replace(both, "shop-primary", "x", 1), "shop-canary", "shop-primary", 1), "x",
					"shop-canary", 1)), s.Shift(40, 3)},
		{"written meanwhile",
			func() *kube.Object { o := virtualService(t, fenced, both); o.SetResourceVersion("8"); return o }(),
			s.Raise(0, 4)},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			if _, err := apply(t, c.now, c.w); err == nil {
				t.Error("it was accepted")
			}
		})
	}
}

func TestRaise(t *testing.T) {
	t.Parallel()
	for _, metadata := range []string{"", fenced, ", annotations: {theirs: kept}"} {
		before := virtualService(t, metadata, both)
		after := patched(t, before, find(t, before, shop).Raise(0, 4))
		s := find(t, after, shop)
		if !s.Fenced(4) || s.Candidate != 0 || s.Stable != 100 {
			t.Errorf("from %q: %+v", metadata, s)
		}
		if strings.Contains(metadata, "theirs") && after.GetAnnotations()["theirs"] != "kept" {
			t.Errorf("from %q: annotations %v", metadata, after.GetAnnotations())
		}
	}
}

func TestFindRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ desc, routes, name, want string }{
		{"no routes", "  # none", "", "it has no HTTP routes"},
		{"another host", "  - route: [{destination: {host: shop}}]", "", `it has http[0] "" -> shop=100`},
		{"the same short host of another namespace",
			"  - route: [{destination: {host: shop-primary}}, {destination: {host: " +
				"shop-canary.other.svc.cluster.local}}]", "", "no HTTP route leads to exactly"},
		{"three destinations",
			"  - route: [{destination: {host: shop-primary}}, {destination: {host: shop-canary}}, " +
				"{destination: {host: old}}]", "", "no HTTP route leads to exactly"},
		{"two that could be meant", both + strings.Replace(both, "main", "other", 1), "",
			"2 HTTP routes lead to shop-primary and shop-canary: name one of them"},
		{"none of that name", both, "other", `no HTTP route named "other"`},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			r := shop
			r.Name = c.name
			if _, err := Find(virtualService(t, "", c.routes), r); err == nil ||
				!strings.Contains(err.Error(), c.want) {
				t.Errorf("%v does not say %q", err, c.want)
			}
		})
	}
	r := shop
	r.Name = "other"
	if s := find(t, virtualService(t, "", both+strings.Replace(both, "main", "other", 1)), r); s.route != 1 {
		t.Errorf("found route %d", s.route)
	}
}

func TestNewLeadsToStable(t *testing.T) {
	t.Parallel()
	o := &kube.Object{Object: New([]string{"shop"}, []string{"mesh"}, shop, map[string]any{"a": "b"}, 5)}
	s := find(t, o, shop)
	if s.Stable != 100 || s.Candidate != 0 || !s.Fenced(5) {
		t.Errorf("%+v", s)
	}
}

// A route that leads to the Service alone is divided; what else its destination has, both get.
func TestDivide(t *testing.T) {
	t.Parallel()
	before := virtualService(t, ", annotations: {theirs: kept}", `
  - name: pinned
    route: [{destination: {host: other}}]
  - name: main
    timeout: 3s
    route: [{destination: {host: shop, port: {number: 80}}, headers: {response: {set: {a: b}}}}]
`)
	w, err := FindWhole(before, "", "shop")
	if err != nil {
		t.Fatal(err)
	}
	after := patched(t, before, w.Divide(shop, 1))
	want := virtualService(t, ", annotations: {theirs: kept, shop.canary-tasks.dev/fence: '1'}", `
  - name: pinned
    route: [{destination: {host: other}}]
  - name: main
    timeout: 3s
    route:
    - {destination: {host: shop-primary, port: {number: 80}}, headers: {response: {set: {a: b}}}, weight: 100}
    - {destination: {host: shop-canary, port: {number: 80}}, headers: {response: {set: {a: b}}}, weight: 0}
`)
	if diff := cmp.Diff(asJSON(t, want), asJSON(t, after)); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
	if s := find(t, after, shop); s.Stable != 100 || !s.Fenced(1) {
		t.Errorf("%+v", s)
	}
	for _, routes := range []string{
		both, "  - route: [{destination: {host: shop, subset: v1}}]",
		"  - route: [{destination: {host: shop}}]\n  - route: [{destination: {host: shop}}]"} {
		if _, err := FindWhole(virtualService(t, "", routes), "", "shop"); err == nil {
			t.Errorf("found one in %s", routes)
		}
	}
}

// Where another route leads to stable, too, its requests are not divided by the weights.
func TestShared(t *testing.T) {
	t.Parallel()
	for routes, want := range map[string]bool{
		both: false, both +
			"\n  - match: [{uri: {prefix: /admin}}]\n    route: [{destination: {host: shop-primary}}]": true,
		both + "\n  - match: [{uri: {prefix: /admin}}]\n    route: [{destination: {host: admin}}]": false} {
		if got, err := Find(virtualService(t, "", routes), shop); err != nil || got.Shared != want {
			t.Errorf("%s\nshared: %v, %v", routes, got.Shared, err)
		}
	}
}
