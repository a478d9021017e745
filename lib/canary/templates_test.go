package canary

import (
	"slices"
	"strings"
	"testing"
)

func TestTemplates(t *testing.T) {
	t.Parallel()
	text := []byte(`apiVersion: flagger.app/v1beta1
kind: Canary
spec:
  targetRef: {name: shop}
  analysis:
    metrics:
    - {name: latency, templateRef: {name: latency, namespace: istio-system}, thresholdRange: {max: 500}, interval: 1m}
    - {name: again, templateRef: {name: latency, namespace: istio-system}}
    - {name: near, templateRef: {name: latency}}
    - {name: own, templateRef: {name: other}, query: up}
`)
	far, near := Reference{"istio-system", "latency"}, Reference{"", "latency"}
	if got := References(text); !slices.Equal(got, []Reference{far, near}) {
		t.Errorf("%v", got)
	}
	if _, err := Read(text); err == nil || !strings.Contains(err.Error(), "spec.analysis.metrics[0].templateRef") {
		t.Errorf("a reference that nobody followed: %v", err)
	}
	out, err := Inline(text, map[Reference]string{far: "q{{ interval }}", near: "n"})
	if err != nil {
		t.Fatal(err)
	}
	spec, err := Read(out)
	if err != nil {
		t.Fatal(err)
	}
	if got := spec.Values["metrics"]; strings.Count(got, "query: q{{ interval }}") != 2 ||
		!strings.Contains(got, "query: "+`"n"`) && !strings.Contains(got, "query: n") ||
		!strings.Contains(got, "query: up") {
		t.Errorf("%s", got)
	}
	if got := References([]byte("{")); got != nil {
		t.Errorf("%v", got)
	}
}
