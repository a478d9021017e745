package routing

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	networking "istio.io/api/networking/v1alpha3"
	istiov1 "istio.io/client-go/pkg/apis/networking/v1"
	"istio.io/client-go/pkg/clientset/versioned/fake"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clienttesting "k8s.io/client-go/testing"
)

var web = Route{Namespace: "shop", VirtualService: "web", Stable: "web-primary", Candidate: "web-canary"}

func to(host string, weight int32) *networking.HTTPRouteDestination {
	return &networking.HTTPRouteDestination{Destination: &networking.Destination{Host: host}, Weight: weight}
}

func virtualService(routes ...*networking.HTTPRoute) *istiov1.VirtualService {
	return &istiov1.VirtualService{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", ResourceVersion: "7"},
		Spec:       networking.VirtualService{Hosts: []string{"web"}, Http: routes},
	}
}

func TestPlanWeight(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc   string
		vs     *istiov1.VirtualService
		route  Route
		weight Percent
		want   []operation
	}{
		{
			desc: "as it is",
			vs:   virtualService(&networking.HTTPRoute{Route: []*networking.HTTPRouteDestination{to("web-primary", 80), to("web-canary", 20)}}), route: web, weight: 20,
		},
		{
			desc: "among other routes, the candidate first, full host names, zero weight not written",
			vs: virtualService(
				&networking.HTTPRoute{Name: "pin", Route: []*networking.HTTPRouteDestination{to("web-canary", 0)}},
				&networking.HTTPRoute{Name: "three", Route: []*networking.HTTPRouteDestination{to("web-canary", 1), to("web-primary", 98), to("old", 1)}},
				&networking.HTTPRoute{Route: []*networking.HTTPRouteDestination{to("web-canary.shop.svc.cluster.local", 0), to("web-primary", 100)}}),
			route: web, weight: 40,
			want: []operation{
				{"test", "/metadata/resourceVersion", "7"},
				{"test", "/spec/http/2/route/1/destination/host", "web-primary"},
				{"test", "/spec/http/2/route/0/destination/host", "web-canary.shop.svc.cluster.local"},
				{"add", "/spec/http/2/route/1/weight", Percent(60)},
				{"add", "/spec/http/2/route/0/weight", Percent(40)},
			},
		},
		{
			desc: "the named one of two",
			vs: virtualService(
				&networking.HTTPRoute{Name: "a", Route: []*networking.HTTPRouteDestination{to("web-primary", 100), to("web-canary", 0)}},
				&networking.HTTPRoute{Name: "b", Route: []*networking.HTTPRouteDestination{to("web-primary", 100), to("web-canary", 0)}}),
			route: Route{Namespace: "shop", VirtualService: "web", Name: "b", Stable: "web-primary", Candidate: "web-canary"}, weight: 0,
		},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			got, err := planWeight(c.vs, c.route, c.weight)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want, +got)\n%s", diff)
			}
		})
	}
}

func TestPlanWeightRefuses(t *testing.T) {
	t.Parallel()
	both := func(name string) *networking.HTTPRoute {
		return &networking.HTTPRoute{Name: name, Route: []*networking.HTTPRouteDestination{to("web-primary", 100), to("web-canary", 0)}}
	}
	named := web
	named.Name = "main"
	for _, c := range []struct {
		desc  string
		vs    *istiov1.VirtualService
		route Route
		want  string
	}{
		{"no routes", virtualService(), web, "it has no HTTP routes"},
		{"another host", virtualService(&networking.HTTPRoute{Route: []*networking.HTTPRouteDestination{to("web", 0)}}), web, `it has http[0] "" -> web=0`},
		{"the same short host of another namespace", virtualService(&networking.HTTPRoute{Route: []*networking.HTTPRouteDestination{
			to("web-primary", 100), to("web-canary.other.svc.cluster.local", 0)}}), web, "no HTTP route leads to exactly"},
		{"two that could be meant", virtualService(both("a"), both("b")), web, "2 HTTP routes lead to web-primary and web-canary: name one of them"},
		{"none of that name", virtualService(both("a")), named, `no HTTP route named "main"`},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			if _, err := planWeight(c.vs, c.route, 20); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v does not say %q", err, c.want)
			}
		})
	}
}

// failing returns a client whose first patches end with these errors.
func failing(errs ...error) (*fake.Clientset, *int) {
	client := fake.NewSimpleClientset(virtualService(&networking.HTTPRoute{
		Route: []*networking.HTTPRouteDestination{to("web-primary", 100), to("web-canary", 0)}}))
	patches := 0
	client.PrependReactor("patch", "virtualservices", func(clienttesting.Action) (bool, runtime.Object, error) {
		patches++
		if patches <= len(errs) {
			return true, nil, errs[patches-1]
		}
		return false, nil, nil
	})
	return client, &patches
}

var (
	resource   = schema.GroupResource{Group: "networking.istio.io", Resource: "virtualservices"}
	conflict   = apierrors.NewConflict(resource, "web", errors.New("written meanwhile"))
	failedTest = apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", "testing failed", 0, false)
)

func TestSetWeight(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc    string
		errs    []error
		patches int
	}{
		{"at once", nil, 1},
		{"after a conflict and a failed test", []error{conflict, failedTest}, 3},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			client, patches := failing(c.errs...)
			written, err := SetWeight(t.Context(), client.NetworkingV1(), web, 20)
			if err != nil || !written || *patches != c.patches {
				t.Fatalf("written %t by %d patches, %v; want true by %d", written, *patches, err, c.patches)
			}
			vs, err := client.NetworkingV1().VirtualServices("shop").Get(t.Context(), "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if d := vs.Spec.Http[0].Route; d[0].Weight != 80 || d[1].Weight != 20 {
				t.Errorf("weights %d/%d, want 80/20", d[0].Weight, d[1].Weight)
			}
			if written, err := SetWeight(t.Context(), client.NetworkingV1(), web, 20); err != nil || written {
				t.Errorf("the same again: written %t, %v", written, err)
			}
		})
	}
}

func TestSetWeightFails(t *testing.T) {
	t.Parallel()
	refused := apierrors.NewInvalid(schema.GroupKind{Kind: "VirtualService"}, "web", nil)
	refused.ErrStatus.Details.Causes = []metav1.StatusCause{{Message: "weight: no"}}
	for _, c := range []struct {
		desc    string
		errs    []error
		patches int
	}{
		{"the API server refuses it", []error{refused}, 1},
		{"forbidden", []error{apierrors.NewForbidden(resource, "web", errors.New("no"))}, 1},
		{"somebody else writes all the time", []error{conflict, conflict, conflict, conflict, conflict, conflict, conflict}, maxConflicts + 1},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			client, patches := failing(c.errs...)
			_, err := SetWeight(t.Context(), client.NetworkingV1(), web, 20)
			if err == nil || !strings.Contains(err.Error(), "writing weight 20 to VirtualService shop/web") || *patches != c.patches {
				t.Errorf("%d patches (want %d), %v", *patches, c.patches, err)
			}
		})
	}
}
