package kubetest

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/kube/client"
)

const (
	settings = "{kind: ConfigMap, metadata: {name: settings, labels: {app: shop}}, data: {color: blue}}"
	shop     = "{kind: Deployment, metadata: {name: shop, labels: {app: shop, tier: web}}, spec: {replicas: 2}}"
	cart     = "{kind: Deployment, metadata: {name: cart, labels: {app: cart, tier: web}}, spec: {replicas: 2}}"
	canary   = "{kind: Canary, metadata: {name: shop}, spec: {stepWeight: 20}, status: {phase: Initialized}}"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// scale is a patch of a Deployment.
func scale(name string, replicas int, guards ...kube.Operation) kube.Write {
	return kube.Write{Kind: kube.Deployment, Name: name,
		Patch: append(guards, kube.Operation{Op: "add", Path: "/spec/replicas", Value: replicas})}
}

// version is the resourceVersion in a patch: guarded by "test", or named by "add".
func version(op, is string) kube.Operation {
	return kube.Operation{Op: op, Path: "/metadata/resourceVersion", Value: is}
}

// get reads an object that has to be there.
func get(t *testing.T, c *client.Client, kind kube.Kind, name string) *kube.Object {
	t.Helper()
	o, err := c.Get(t.Context(), kind, name, nil)
	must(t, err)
	if o == nil {
		t.Fatalf("there is no %s %s", kind.Kind, name)
	}
	return o
}

// Every kind of lib/kube is served.
func TestKinds(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "../kube.go", nil, 0)
	must(t, err)
	var want []string
	ast.Inspect(file, func(n ast.Node) bool {
		if c, ok := n.(*ast.CompositeLit); ok {
			if of, ok := c.Type.(*ast.Ident); ok && of.Name == "Kind" {
				want = append(want, c.Elts[0].(*ast.BasicLit).Value)
			}
		}
		return true
	})
	got := []string{}
	for _, k := range kinds {
		if k != namespaces {
			got = append(got, fmt.Sprintf("%q", k.Kind))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-lib/kube, +served)\n%s", diff)
	}
}

func TestWrites(t *testing.T) {
	t.Parallel()
	s := New(t, "web", shop)
	c, ctx := s.Client(), t.Context()
	first := get(t, c, kube.Deployment, "shop")
	if first.GetNamespace() != "web" || first.GetGeneration() != 1 || first.GetAPIVersion() != "apps/v1" {
		t.Errorf("applied it is %v", first)
	}
	must(t, c.Do(ctx, scale("shop", 3, kube.Unchanged(first))))
	second := get(t, c, kube.Deployment, "shop")
	if second.GetGeneration() != 2 || second.GetResourceVersion() == first.GetResourceVersion() {
		t.Errorf("patched it is %v", second)
	}
	must(t, c.Do(ctx, scale("shop", 3))) // which it has
	if third := get(t, c, kube.Deployment, "shop"); third.GetResourceVersion() != second.GetResourceVersion() {
		t.Errorf("a patch that changes nothing makes it version %s", third.GetResourceVersion())
	}
	must(t, c.Do(ctx, kube.Write{Kind: kube.Deployment, Name: "shop", Patch: kube.Label(second, "app", "store")}))
	if o := get(t, c, kube.Deployment, "shop"); o.GetGeneration() != 2 || o.GetLabels()["app"] != "store" {
		t.Errorf("with another label it is %v", o)
	}
	must(t, c.Do(ctx, kube.Write{Kind: kube.Service, Name: "new", Create: map[string]any{"spec": map[string]any{}}}),
		c.Do(ctx, kube.Write{Kind: kube.Service, Name: "new", Delete: true}))
	if o, err := c.Get(ctx, kube.Service, "new", nil); o != nil || err != nil {
		t.Errorf("deleted it is %v, %v", o, err)
	}
	if o, err := c.In("elsewhere").Get(ctx, kube.Deployment, "shop", nil); o != nil || err != nil {
		t.Errorf("in another namespace it is %v, %v", o, err)
	}
	want := []string{"patch deployments/shop", "patch deployments/shop", "patch deployments/shop",
		"create services/new", "delete services/new"}
	if diff := cmp.Diff(want, s.Writes); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
}

// What is refused changes nothing.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc     string
		prepare  func(*Server)
		write    kube.Write
		conflict bool             // it is kube.ErrConflict
		is       func(error) bool // nil: it is no error
	}{
		{"a patch that names another resourceVersion", nil, scale("shop", 3, version("add", "1")), true,
			apierrors.IsConflict},
		{"a patch whose test fails", nil, scale("shop", 3, version("test", "1")), true, hasCode(422)},
		{"a patch whose path is not there", nil,
			kube.Write{Kind: kube.Deployment, Name: "shop",
				Patch: []kube.Operation{{Op: "remove", Path: "/spec/paused"}}}, true, hasCode(422)},
		{"a field that is invalid", func(s *Server) {
			s.Before = func(Request) *Failure {
				return &Failure{Code: 422, Reason: metav1.StatusReasonInvalid,
					Causes: []metav1.StatusCause{{Field: "spec.replicas", Message: "is negative"}}}
			}
		}, scale("shop", -1), false, apierrors.IsInvalid},
		{"a patch of what is not there", nil, scale("other", 3), true, apierrors.IsNotFound},
		{"what is there is created", nil,
			kube.Write{Kind: kube.Deployment, Name: "shop", Create: map[string]any{}}, true, apierrors.IsAlreadyExists},
		{"what is not there is deleted", nil,
			kube.Write{Kind: kube.Deployment, Name: "other", Delete: true}, false, nil},
		{"a right that is denied", func(s *Server) { s.Denied["patch deployments"] = true }, scale("shop", 3), false,
			apierrors.IsForbidden},
		{"a right that is denied, on what is not there", func(s *Server) { s.Denied["delete services"] = true },
			kube.Write{Kind: kube.Service, Name: "other", Delete: true}, false, apierrors.IsForbidden},
		{"a budget that is used up", func(s *Server) { s.Budget = 0 }, scale("shop", 3), false, apierrors.IsForbidden},
		{"a subresource that there is not", nil,
			kube.Write{Kind: kube.Deployment, Name: "shop", Subresource: "scale",
				Patch: []kube.Operation{{Op: "add", Path: "/spec/replicas", Value: 3}}}, true, apierrors.IsNotFound},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			s := New(t, "web", shop)
			if c.prepare != nil {
				c.prepare(s)
			}
			before := s.Versions()
			err := s.Client().Do(t.Context(), c.write)
			if c.is == nil && err != nil || c.is != nil && (err == nil || !c.is(err)) {
				t.Errorf("the error is %v", err)
			}
			if errors.Is(err, kube.ErrConflict) != c.conflict {
				t.Errorf("a conflict, %t: %v", !c.conflict, err)
			}
			if diff := cmp.Diff(before, s.Versions()); diff != "" || len(s.Writes) > 0 {
				t.Errorf("it wrote %v (-before, +after)\n%s", s.Writes, diff)
			}
		})
	}
}

// hasCode reports whether an error is an answer with a code.
func hasCode(code int32) func(error) bool {
	return func(err error) bool {
		var status apierrors.APIStatus
		return errors.As(err, &status) && status.Status().Code == code
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	s := New(t, "web", shop, cart, settings)
	c, ctx := s.Client(), t.Context()
	names := func(list []kube.Object, err error) (names []string) {
		t.Helper()
		must(t, err)
		for _, o := range list {
			names = append(names, o.GetKind()+"/"+o.GetName())
		}
		return names
	}
	s.Lists["endpointslices"] = func(selector labels.Selector) []map[string]any {
		name, _ := selector.RequiresExactMatch("app")
		return []map[string]any{{"metadata": map[string]any{"name": name + "-1"}}}
	}
	for _, l := range []struct {
		kind   kube.Kind
		having map[string]string
		limit  int64
		want   []string
	}{
		{kube.Deployment, nil, 0, []string{"Deployment/cart", "Deployment/shop"}},
		{kube.Deployment, map[string]string{"app": "shop"}, 0, []string{"Deployment/shop"}},
		{kube.Deployment, map[string]string{"tier": "web"}, 0, []string{"Deployment/cart", "Deployment/shop"}},
		{kube.Deployment, map[string]string{"tier": "web"}, 1, []string{"Deployment/cart"}},
		{kube.Deployment, map[string]string{"app": "shop", "tier": "db"}, 0, nil},
		{kube.Service, nil, 0, nil},
		{kube.EndpointSlice, map[string]string{"app": "shop"}, 0, []string{"EndpointSlice/shop-1"}},
	} {
		if diff := cmp.Diff(l.want, names(c.Find(ctx, l.kind, l.having, l.limit))); diff != "" {
			t.Errorf("%s with %v (-want, +got)\n%s", l.kind.Kind, l.having, diff)
		}
	}
	if got := names(c.In("elsewhere").List(ctx, kube.Deployment)); got != nil {
		t.Errorf("another namespace has %v", got)
	}
	if got, err := c.NamespaceLabels(ctx); got != nil || err != nil {
		t.Errorf("the namespace has labels %v, %v", got, err)
	}
	s.Unserved["deployments"] = true
	if _, err := c.Get(ctx, kube.Deployment, "shop", nil); !errors.Is(err, kube.ErrNotServed) {
		t.Errorf("of what is not installed: %v", err)
	}
	if got := names(c.List(ctx, kube.Deployment)); got != nil {
		t.Errorf("what is not installed has %v", got)
	}
	s.Denied["get configmaps"] = true
	if _, err := c.Get(ctx, kube.ConfigMap, "settings", nil); !apierrors.IsForbidden(err) {
		t.Errorf("what is denied: %v", err)
	}
	if got := names(c.List(ctx, kube.ConfigMap)); len(got) != 1 { // which is another right
		t.Errorf("the list is %v", got)
	}
}

// The status and the rest of an object are patched apart.
func TestStatus(t *testing.T) {
	t.Parallel()
	s := New(t, "web", canary)
	c, ctx := s.Client(), t.Context()
	both := []kube.Operation{
		{Op: "add", Path: "/spec/stepWeight", Value: 40}, {Op: "add", Path: "/status/phase", Value: "Progressing"}}
	must(t, c.Do(ctx, kube.Write{Kind: kube.Canary, Name: "shop", Subresource: "status", Patch: both}))
	o := get(t, c, kube.Canary, "shop")
	if got := fmt.Sprint(o.Object["spec"], o.Object["status"], o.GetGeneration()); got !=
		"map[stepWeight:20] map[phase:Progressing] 1" {
		t.Errorf("after a patch of the status: %s", got)
	}
	both[1].Value = "Failed"
	must(t, c.Do(ctx, kube.Write{Kind: kube.Canary, Name: "shop", Patch: both}))
	o = get(t, c, kube.Canary, "shop")
	if got := fmt.Sprint(o.Object["spec"], o.Object["status"], o.GetGeneration()); got !=
		"map[stepWeight:40] map[phase:Progressing] 2" {
		t.Errorf("after a patch of the rest: %s", got)
	}
	must(t, c.Do(ctx, kube.Write{Kind: kube.Canary, Name: "new",
		Create: map[string]any{"status": map[string]any{"phase": "Failed"}}}))
	if o := get(t, c, kube.Canary, "new"); o.Object["status"] != nil {
		t.Errorf("created with a status it is %v", o)
	}
	s.Denied["patch canaries/status"] = true
	err := c.Do(ctx, kube.Write{Kind: kube.Canary, Name: "shop", Subresource: "status", Patch: both})
	if !apierrors.IsForbidden(err) {
		t.Errorf("of a status that is denied: %v", err)
	}
	if want := []string{"patch canaries/shop/status", "patch canaries/shop", "create canaries/new"}; !slices.Equal(
		s.Writes, want) {
		t.Errorf("it wrote %v, want %v", s.Writes, want)
	}
}

// failing lets the next requests fail, and counts all.
func failing(s *Server, times int, f Failure) *int {
	requests := 0
	s.Before = func(Request) *Failure {
		if requests++; requests > times {
			return nil
		}
		return &f
	}
	return &requests
}

// A request that was not carried out is sent again, by client-go itself where the answer says when.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	for _, f := range []struct {
		failure  Failure
		times    int
		requests int
		calls    int           // of lib/kube/client, which are all: client-go repeats none
		takes    time.Duration // at least
		done     bool
	}{
		{Failure{Code: 429, Reason: metav1.StatusReasonTooManyRequests, RetryAfter: 3}, 2, 3, 3, 6 * time.Second, true},
		{Failure{Code: 503, Reason: metav1.StatusReasonServiceUnavailable, RetryAfter: 60}, 100, 7, 7, time.Minute,
			false},
		{Failure{Code: 429, Reason: metav1.StatusReasonTooManyRequests}, 2, 3, 3, 400 * time.Millisecond, true},
		{Failure{Code: 500, Reason: metav1.StatusReasonInternalError}, 2, 3, 3, 400 * time.Millisecond, true},
		{Failure{Code: 503, Reason: metav1.StatusReasonServiceUnavailable}, 2, 3, 3, 400 * time.Millisecond, true},
		{Failure{Code: 503, Reason: metav1.StatusReasonServiceUnavailable}, 100, 7, 7, 10 * time.Second, false},
	} {
		t.Run(fmt.Sprint(f.failure.Code, " ", f.failure.RetryAfter, " ", f.times), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := New(t, "web", shop)
				requests, begin := failing(s, f.times, f.failure), time.Now()
				c := s.Client()
				err := c.Do(t.Context(), scale("shop", 3))
				if (err == nil) != f.done || errors.Is(err, kube.ErrConflict) ||
					err != nil && !client.Unavailable(err) {
					t.Errorf("the error is %v", err)
				}
				took := time.Since(begin)
				if *requests != f.requests || c.Calls() != f.calls || took < f.takes || took > 2*time.Minute {
					t.Errorf("%d requests by %d calls in %s, want %d by %d in %s",
						*requests, c.Calls(), took, f.requests, f.calls, f.takes)
				}
				if wrote := len(s.Writes) == 1; wrote != f.done {
					t.Errorf("it wrote %v", s.Writes)
				}
			})
		})
	}
}

// A read whose answer is lost is sent again. A write may have been done, and nobody sends it again.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for _, lost := range []Failure{
		{Done: true}, {Code: http.StatusGatewayTimeout, Reason: metav1.StatusReasonTimeout, Done: true},
		{Code: http.StatusGatewayTimeout, Reason: metav1.StatusReasonTimeout, RetryAfter: 1, Done: true}} {
		t.Run(fmt.Sprint(lost.Code, " ", lost.RetryAfter), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := New(t, "web", shop)
				c, ctx := s.Client(), t.Context()
				requests := failing(s, 1, lost)
				get(t, c, kube.Deployment, "shop")
				if *requests != 2 {
					t.Errorf("%d requests for a read", *requests)
				}
				for n, w := range []kube.Write{
					scale("shop", 3), {Kind: kube.Service, Name: "new", Create: map[string]any{}},
					{Kind: kube.Service, Name: "new", Delete: true}} {
					requests = failing(s, 1, lost)
					if err := c.Do(ctx, w); !errors.Is(err, kube.ErrConflict) || !client.Unavailable(err) {
						t.Errorf("writing %s: %v", w, err)
					}
					if *requests != 1 || len(s.Writes) != n+1 {
						t.Errorf("%d requests for %s; all wrote %v", *requests, w, s.Writes)
					}
				}
			})
		})
	}
}

// With a network, a lost answer is a connection that ends.
func TestNetwork(t *testing.T) {
	t.Parallel()
	s := New(t, "web", shop)
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	c, err := client.New(&rest.Config{Host: server.URL}, "web")
	must(t, err, c.Do(t.Context(), scale("shop", 3)))
	s.Mu.Lock()
	failing(s, 1, Failure{Done: true})
	s.Mu.Unlock()
	if err := c.Do(t.Context(), scale("shop", 4)); !errors.Is(err, kube.ErrConflict) {
		t.Errorf("the error is %v", err)
	}
	if got := fmt.Sprint(get(t, c, kube.Deployment, "shop").Object["spec"]); got != "map[replicas:4]" {
		t.Errorf("it is %s", got)
	}
	c, err = client.New(&rest.Config{Host: "http://api", Transport: &Failure{Code: 403, Reason: "Forbidden"}}, "web")
	must(t, err)
	if err := c.Do(t.Context(), scale("shop", 5)); !apierrors.IsForbidden(err) {
		t.Errorf("the error is %v", err)
	}
}

func TestReviews(t *testing.T) {
	t.Parallel()
	s := New(t, "web")
	s.Denied["patch services"], s.Denied["ci:deployer patch canaries/status"] = true, true
	for _, c := range []struct {
		desc string
		kind kube.Kind
		spec map[string]any
		want string
	}{
		{"denied", kube.AccessReview, asks("patch", "services", ""), "map[allowed:false]"},
		{"another verb", kube.AccessReview, asks("get", "services", ""), "map[allowed:true]"},
		{"denied to somebody else", kube.AccessReview, asks("patch", "canaries", "status"), "map[allowed:true]"},
		{"somebody else", kube.LocalAccessReview, asks("patch", "canaries", "status"), "map[allowed:false]"},
		{"denied to the client", kube.LocalAccessReview, asks("patch", "services", ""), "map[allowed:true]"},
	} {
		c.spec["user"] = "system:serviceaccount:ci:deployer"
		o, err := s.Client().Create(t.Context(), c.kind, c.kind == kube.LocalAccessReview,
			map[string]any{"metadata": map[string]any{"namespace": "web"}, "spec": c.spec})
		must(t, err)
		if got := fmt.Sprint(o.Object["status"]); got != c.want {
			t.Errorf("%s: %s", c.desc, got)
		}
	}
	if len(s.Reviews) != 2 || len(s.Writes) != 0 {
		t.Errorf("reviews %v, writes %v", s.Reviews, s.Writes)
	}
	_, err := s.Client().Create(t.Context(), kube.LocalAccessReview, true, map[string]any{"spec": map[string]any{
		"resourceAttributes": map[string]any{"namespace": "other"}}})
	if !apierrors.IsInvalid(err) {
		t.Errorf("of another namespace: %v", err)
	}
}

// asks is the spec of a review.
func asks(verb, resource, subresource string) map[string]any {
	return map[string]any{"resourceAttributes": map[string]any{
		"namespace": "web", "verb": verb, "resource": resource, "subresource": subresource}}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	s := New(t, "web")
	s.Budget = 0 // of which an Event needs none
	for _, want := range []string{"shop-00001", "shop-00002"} {
		o, err := s.Client().Create(t.Context(), kube.Event, true,
			map[string]any{"metadata": map[string]any{"generateName": "shop-"}, "message": "promoted"})
		must(t, err)
		if o.GetName() != want {
			t.Errorf("it is %s, not %s", o.GetName(), want)
		}
	}
	if len(s.Events) != 2 || s.Events[1]["message"] != "promoted" || len(s.Objects) != 1 {
		t.Errorf("events %v, objects %v", s.Events, s.Objects)
	}
}

// A process that is killed has done some of its writes, and another begins with what it left.
func TestKilled(t *testing.T) {
	t.Parallel()
	before := New(t, "web", shop, cart)
	for k := range 3 {
		s := before.Clone()
		var order []string
		s.Stored = func(key string, o map[string]any) { // as a controller
			order = append(order, "stored "+key)
			o["status"] = map[string]any{"observedGeneration": field(o, "generation")}
		}
		s.After = func(write string) {
			order = append(order, write)
			s.Mu.Unlock()
			s.Apply(settings) // somebody else, meanwhile
			s.Mu.Lock()
		}
		c := s.Client()
		err := s.Killed(k, func() error {
			return errors.Join(c.Do(t.Context(), scale("shop", 3)), c.Do(t.Context(), scale("cart", 3)))
		})
		if (err == nil) != (k == 2) {
			t.Errorf("killed after %d writes: %v", k, err)
		}
		want := []string{"stored deployments/shop", "patch deployments/shop", "stored configmaps/settings",
			"stored deployments/cart", "patch deployments/cart", "stored configmaps/settings"}
		if !slices.Equal(want[:3*k], order) {
			t.Errorf("killed after %d writes: %v, want %v", k, order, want[:3*k])
		}
		status := fmt.Sprint(get(t, c, kube.Deployment, "shop").Object["status"])
		if k > 0 && status != "map[observedGeneration:2]" {
			t.Errorf("the controller's status is %s", status)
		}
		must(t, c.Do(t.Context(), scale("cart", 4))) // by the next
	}
	if got := before.Objects["deployments/shop"]["spec"]; fmt.Sprint(got) != "map[replicas:2]" {
		t.Errorf("what was cloned is %v", got)
	}
}

// field is a field of an object's metadata.
func field(o map[string]any, name string) any { return o["metadata"].(map[string]any)[name] }
