package routing

import (
	"testing"

	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// object reads JSON as the API server's is read; nil where it is no object.
func object(text string) *kube.Object {
	o := &kube.Object{}
	if err := utiljson.Unmarshal([]byte(text), &o.Object); err != nil || o.Object == nil {
		return nil
	}
	metadata, _ := o.Object["metadata"].(map[string]any)
	if metadata == nil {
		metadata = map[string]any{}
	}
	metadata["name"], metadata["namespace"], metadata["resourceVersion"] = "shop", "web", "7"
	o.Object["metadata"] = metadata
	return o
}

// Whatever a VirtualService is: what is found in it can be changed, and what was set is what is
// read back.
func FuzzFind(f *testing.F) {
	const routes = `{"metadata":{"annotations":{"shop.canary-tasks.dev/fence":"3"}},` +
		`"spec":{"hosts":["shop"],"http":[{"name":"main","route":[` +
		`{"destination":{"host":"shop-primary"},"weight":80},` +
		`{"destination":{"host":"shop-canary","subset":"a"},"weight":20,"headers":{}}]}]}}`
	f.Add(routes, "", 20)
	f.Add(routes, "main", 0)
	f.Add(`{"spec":{"http":[{"route":[{"destination":{"host":"shop-canary.web.svc.cluster.local"}},`+
		`{"destination":{"host":"shop-primary"},"weight":100}]},null]}}`, "", 100)
	f.Add(`{"spec":{"http":[{"route":[null,{"destination":null}]},`+
		`{"route":[{"destination":{"host":"shop-primary"}},{"destination":{"host":"shop-primary"}}]}]}}`, "", 50)
	f.Add(`{"metadata":{"annotations":null},"spec":{"http":[{}]}}`, "a\nb", 1)
	f.Fuzz(func(t *testing.T, text, name string, weight int) {
		o := object(text)
		if o == nil || weight < 0 || weight > 100 {
			return
		}
		route := shop
		route.Name = name
		split, err := Find(o, route)
		if err != nil {
			return
		}
		split.ByHand()
		w := split.Raise(int32(weight), 4)
		if w == nil {
			return
		}
		raised, err := Find(patched(t, o, w), route)
		if err != nil || raised.Candidate != int32(weight) || raised.Stable != int32(100-weight) || !raised.Fenced(4) {
			t.Fatalf("%+v, %v", raised, err)
		}
		checkShift(t, raised, route, int32(100-weight))
		if _, err := FindWhole(patched(t, raised.object, raised.Unite("shop")), name, "shop"); err != nil &&
			split.object != nil {
			t.Logf("united, and not found: %v", err) // another route leads there, or a subset is kept
		}
	})
}

// checkShift checks that what a step of epoch 4 sets is what is read back, and that a step of
// another epoch may not write.
func checkShift(t *testing.T, raised Split, route Route, weight int32) {
	t.Helper()
	if w := raised.Shift(weight, 4); w != nil {
		shifted, err := Find(patched(t, raised.object, w), route)
		if err != nil || shifted.Candidate != weight {
			t.Errorf("%+v, %v", shifted, err)
		}
	}
	if w := raised.Shift(weight, 5); w != nil {
		if _, err := apply(t, raised.object, w); err == nil {
			t.Error("a step of another epoch may write")
		}
	}
}

// A route that leads to one Service becomes one that is divided.
func FuzzFindWhole(f *testing.F) {
	f.Add(`{"spec":{"http":[{"route":[{"destination":{"host":"shop","port":{"number":80}},"headers":{}}]}]}}`, "")
	f.Add(`{"metadata":{"annotations":{"a":"b"}},"spec":{"http":[{"name":"a","route":[`+
		`{"destination":{"host":"shop.web.svc.cluster.local"},"weight":1}]},{"route":[]}]}}`, "a")
	f.Add(`{"spec":{"http":[null,{"route":[null]}]}}`, "")
	f.Fuzz(func(t *testing.T, text, name string) {
		o := object(text)
		if o == nil {
			return
		}
		whole, err := FindWhole(o, name, "shop")
		if err != nil {
			return
		}
		route := shop
		route.Name = name
		divided := patched(t, o, whole.Divide(route, 1))
		if split, err := Find(divided, route); err == nil &&
			(split.Stable != 100 || split.Candidate != 0 || !split.Fenced(1)) {
			t.Errorf("%+v", split)
		} else if err != nil && name == "" {
			t.Logf("divided, and not found: %v", err) // another route is divided as well
		}
	})
}
