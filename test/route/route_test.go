package route

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	api "istio.io/api/networking/v1"
	networking "istio.io/client-go/pkg/apis/networking/v1"

	"github.com/canary-tasks/canary-tasks/test/load"
)

func TestDuring(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	at := func(seconds float64) time.Time { return begin.Add(time.Duration(seconds * float64(time.Second))) }
	var h History
	for _, s := range []Split{{at(0), "100/0"}, {at(10), "80/20"}, {at(11), "80/20"}, {at(20), "100/0"}} {
		h.note(s.At, s.Weights)
	}
	var samples []load.Sample
	for _, seconds := range []float64{1, 5, 10.5, 12.5, 19, 20.5, 30} {
		samples = append(samples, load.Sample{Sent: at(seconds)})
	}
	for weights, want := range map[string][]float64{"100/0": {5, 30}, "80/20": {12.5, 19}, "60/40": nil} {
		var got []float64
		for _, s := range h.During(weights, samples) {
			got = append(got, s.Sent.Sub(begin).Seconds())
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want, +got)\n%s", weights, diff)
		}
	}
}

func TestWeights(t *testing.T) {
	t.Parallel()
	two := []*api.HTTPRouteDestination{{Weight: 60}, {Weight: 40}}
	for want, routes := range map[string][]*api.HTTPRoute{
		"":      {{Route: two}, {Route: two[:1]}},
		"60/40": {{Route: two[:1]}, {Route: two}},
	} {
		vs := &networking.VirtualService{}
		if vs.Spec.Http = routes; Weights(vs) != want {
			t.Errorf("weights %q, want %q", Weights(vs), want)
		}
	}
}
