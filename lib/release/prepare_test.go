package release

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// byHelm is the Service of a chart, as Helm has made it.
const byHelm = `
kind: Service
metadata:
  name: shop
  labels: {app.kubernetes.io/managed-by: Helm}
  annotations: {meta.helm.sh/release-name: shop, meta.helm.sh/release-namespace: web}
spec: {selector: {app: shop}, ports: [{name: http, port: 80, targetPort: 8080}]}
`

func (a *apiserver) prepare(run string) error {
	cfg := testConfig(run)
	cfg.Mode = config.Prepare
	return a.initWith(cfg)
}

func (a *apiserver) detach() error {
	r := a.step("rollback", "")
	r.Step.Mode = config.Detach
	return r.Rollback(a.t.Context())
}

func (a *apiserver) metadata(key string) string {
	m := a.objects[key]["metadata"].(map[string]any)
	return fmt.Sprint(m["labels"], m["annotations"])
}

// prepared: the target stays up, because until the next apply its chart may lead the Service back
// to it.
var prepared = state{"100/0", "shop:1 x2", "shop:1 x2", "shop-primary", Succeeded, Initialized}

// An application that serves gets a canary: prepare, whatever write it is killed after, then the
// apply of a chart without the Service, two releases, and the way back to a chart that has it
// again.
func TestPrepare(t *testing.T) {
	t.Parallel()
	for k := 0; ; k++ {
		a := newAPIServer(t, settings, byHelm, shop("1"))
		wantCode(t, a.init("run-1"), report.Misconfig, "run canary-init with mode=prepare before that is applied")
		a.onWrite = func(did string) {
			serving := field(a.objects["services/shop"], "spec", "selector")["app"].(string)
			if a.objects["deployments/"+serving] == nil {
				t.Errorf("after %s the Service leads to %s, which is not there", did, serving)
			}
		}
		killed := a.killed(k, func() error { return a.prepare("run-1") }) != nil
		a.onWrite = nil
		if killed {
			must(t, a.prepare("run-1"))
		}
		if diff := cmp.Diff(prepared, a.state()); diff != "" {
			t.Errorf("killed after %d writes (-want, +got)\n%s", k, diff)
		}
		if got, want := a.metadata("services/shop"),
			"map[app.kubernetes.io/managed-by:Helm] map[argocd.argoproj.io/sync-options:Prune=false "+
				"canary-tasks.dev/protected:helm.sh/resource-policy,argocd.argoproj.io/sync-options,"+
				"kustomize.toolkit.fluxcd.io/prune "+
				"canary-tasks.dev/target:shop helm.sh/resource-policy:keep "+
				"kustomize.toolkit.fluxcd.io/prune:disabled meta.helm.sh/release-name:shop "+
				"meta.helm.sh/release-namespace:web]"; got != want {
			t.Errorf("killed after %d writes: the Service has %s\nwant %s", k, got, want)
		}
		if killed {
			continue
		}
		before := len(a.Writes)
		must(t, a.prepare("run-1"), a.prepare("run-2"), a.rollback("run-1")) // which is not what finally undoes
		if len(a.Writes) != before {
			t.Errorf("prepared again it wrote %v", a.Writes[before:])
		}

		for _, version := range []string{"2", "3"} { // the same run may have prepared
			run := "run-" + strings.Replace(version, "2", "1", 1)
			a.apply(shop(version))
			must(t, a.init(run))
			a.want(state{"100/0", "shop:" + map[string]string{"2": "1", "3": "2"}[version] + " x2",
				"shop:" + version + " x2", "shop-primary", Progressing, ""})
			must(t, a.shift(run, 20), a.judge(run), a.shift(run, 40), a.judge(run), a.promote(run))
		}
		must(t, a.detach())
		if diff := cmp.Diff(state{Candidate: "shop:3 x2", Selects: "shop"}, a.state()); diff != "" {
			t.Errorf("detached (-want, +got)\n%s", diff)
		}
		if got, want := a.metadata("services/shop"),
			"map[app.kubernetes.io/managed-by:Helm] map[meta.helm.sh/release-name:shop "+
				"meta.helm.sh/release-namespace:web]"; got != want {
			t.Errorf("detached: the Service has %s\nwant %s", got, want)
		}
		return
	}
}

// Somebody applied the chart as it was: the Service leads to the target again, which is up, and
// prepare once more puts it right, though the target has another revision by then.
func TestPrepareOnceMore(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t, settings, byHelm, shop("1"))
	must(t, a.prepare("run-1"))
	delete(field(a.objects["services/shop"], "metadata", "annotations"),
		"helm.sh/resource-policy")
	must(t, a.prepare("run-1"))
	if got := a.metadata("services/shop"); !strings.Contains(got, "helm.sh/resource-policy:keep") {
		t.Errorf("the Service has %s", got)
	}
	a.objects["services/shop"]["spec"].(map[string]any)["selector"] = map[string]any{"app": "shop"}
	a.apply(shop("2"))
	wantCode(t, a.init("run-2"), report.Misconfig, "run canary-init with mode=prepare once more")
	must(t, a.prepare("run-2"))
	a.want(state{"100/0", "shop:1 x2", "shop:2 x2", "shop-primary", Succeeded, Initialized})
	must(t, a.init("run-2"))
	a.want(state{"100/0", "shop:1 x2", "shop:2 x2", "shop-primary", Progressing, ""})
	must(t, a.rollback("run-2"))
	a.want(state{"100/0", "shop:1 x2", "shop:2 x0", "shop-primary", Failed, Aborted})
	a.objects["services/shop"]["spec"].(map[string]any)["selector"] = map[string]any{"app": "shop"}
	must(t, a.detach())
	if got := a.metadata("services/shop"); strings.Contains(got, "canary-tasks") || strings.Contains(got, "keep") {
		t.Errorf("detached: the Service has %s", got)
	}
	if diff := cmp.Diff(state{Candidate: "shop:1 x2", Selects: "shop"}, a.state()); diff != "" {
		t.Errorf("detached (-want, +got)\n%s", diff)
	}
}

// A Service that releases made is handed to the chart of the target, which has one again: without
// its marks Helm would refuse.
func TestDetachHandsOver(t *testing.T) {
	t.Parallel()
	helm := "metadata: {name: shop, labels: {app: shop, app.kubernetes.io/managed-by: Helm}, annotations: " +
		"{meta.helm.sh/release-name: shop, meta.helm.sh/release-namespace: web}}"
	a := newAPIServer(t, settings, strings.Replace(shop("1"), "metadata: {name: shop, labels: {app: shop}}", helm, 1))
	must(t, a.init("run-1"), a.detach())
	if got, want := a.metadata("services/shop"),
		"map[app.kubernetes.io/managed-by:Helm] map[meta.helm.sh/release-name:shop "+
			"meta.helm.sh/release-namespace:web]"; got != want {
		t.Errorf("the Service has %s\nwant %s", got, want)
	}
	a.want(state{Candidate: "shop:1 x2", Selects: "shop"})
}

// An autoscaler that comes after prepare is stable's with the next one.
func TestPrepareWithAutoscaler(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t, settings, byHelm, shop("1"))
	must(t, a.prepare("run-1"))
	a.apply(autoscaler)
	must(t, a.prepare("run-2"))
	a.wantNoFloors("prepared once more", "scale", "scale-primary")
	before := a.versions()
	must(t, a.prepare("run-3"))
	if diff := cmp.Diff(before, a.versions()); diff != "" {
		t.Errorf("(-before, +after)\n%s", diff)
	}
}
