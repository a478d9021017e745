package workload

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// What is there already is kept, when a Service is protected and when it is let go.
func TestProtection(t *testing.T) {
	t.Parallel()
	const both = "argocd.argoproj.io/sync-options,kustomize.toolkit.fluxcd.io/prune"
	for _, c := range []struct {
		desc       string
		has        map[string]string
		with, back map[string]string
	}{
		{"nothing", nil, map[string]string{
			"helm.sh/resource-policy": "keep", "argocd.argoproj.io/sync-options": "Prune=false",
			"kustomize.toolkit.fluxcd.io/prune": "disabled",
			"canary-tasks.dev/protected":        "helm.sh/resource-policy," + both}, map[string]string{}},
		{"options, and kept already",
			map[string]string{"helm.sh/resource-policy": "keep", "argocd.argoproj.io/sync-options": "Validate=false"},
			map[string]string{
				"helm.sh/resource-policy": "keep", "argocd.argoproj.io/sync-options": "Validate=false,Prune=false",
				"kustomize.toolkit.fluxcd.io/prune": "disabled",
				"canary-tasks.dev/protected":        both},
			map[string]string{"helm.sh/resource-policy": "keep", "argocd.argoproj.io/sync-options": "Validate=false"}},
		{"all of it", map[string]string{
			"helm.sh/resource-policy": "keep", "argocd.argoproj.io/sync-options": "Prune=false",
			"kustomize.toolkit.fluxcd.io/prune": "disabled"},
			map[string]string{
				"helm.sh/resource-policy": "keep", "argocd.argoproj.io/sync-options": "Prune=false",
				"kustomize.toolkit.fluxcd.io/prune": "disabled", "canary-tasks.dev/protected": "by others"},
			map[string]string{
				"helm.sh/resource-policy": "keep", "argocd.argoproj.io/sync-options": "Prune=false",
				"kustomize.toolkit.fluxcd.io/prune": "disabled"}},
	} {
		with := withProtection(c.has)
		if diff := cmp.Diff(c.with, with); diff != "" {
			t.Errorf("%s (-want, +got)\n%s", c.desc, diff)
		}
		if diff := cmp.Diff(c.with, withProtection(with)); diff != "" {
			t.Errorf("%s, twice (-want, +got)\n%s", c.desc, diff)
		}
		if diff := cmp.Diff(c.back, withoutProtection(with)); diff != "" {
			t.Errorf("%s, and back (-want, +got)\n%s", c.desc, diff)
		}
	}
}

// The labels by which Jenkins X deletes are removed.
func TestProtectedFromJenkinsX(t *testing.T) {
	t.Parallel()
	for _, label := range []string{"gitops.jenkins-x.io/pipeline", "jenkins.io/chart-release"} {
		service := read(t, "{metadata: {name: shop, labels: {app: shop, "+label+": x}}}")
		w := Protect(service, "shop", nil)
		if got, want := w.Patch[len(w.Patch)-1],
			(kube.Operation{Op: "remove", Path: kube.LabelPath(label)}); got != want {
			t.Errorf("%v, want %v", got, want)
		}
		service.SetAnnotations(withProtection(nil))
		if !Unprotected(service) || ManagedBy(service) != "Jenkins X" {
			t.Errorf("with %s it is protected, and %q writes it", label, ManagedBy(service))
		}
		service.SetLabels(nil)
		if Unprotected(service) {
			t.Errorf("without %s it is not protected", label)
		}
	}
}
