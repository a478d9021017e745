package main

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
)

// smallProxy is what a sidecar or a gateway asks for: the machine has few cores for many of them.
var smallProxy = map[string]any{
	"requests": map[string]any{"cpu": "5m", "memory": "32Mi"}, "limits": map[string]any{"cpu": "2", "memory": "512Mi"}}

// injection returns Istio's sidecar templates and injection webhook, as its own chart has them.
func injection(ctx context.Context, l layout) (string, error) {
	return renderIstio(ctx, l, "manifests/charts/istio-control/istio-discovery", "istiod", map[string]any{
		"global": map[string]any{
			"imagePullPolicy": "IfNotPresent",
			"proxy":           map[string]any{"image": proxyImage, "resources": smallProxy},
			"proxy_init":      map[string]any{"image": proxyImage},
		},
	}, "istiod-injector-configmap.yaml", "mutatingwebhook.yaml")
}

// ingressGateway returns the gateway of Istio's own chart.
func ingressGateway(ctx context.Context, l layout) (string, error) {
	return renderIstio(ctx, l, "manifests/charts/gateway", "istio-ingressgateway", map[string]any{
		"service":     map[string]any{"type": "ClusterIP", "clusterIP": gatewayIP},
		"autoscaling": map[string]any{"enabled": false},
		"resources":   smallProxy,
		"readinessProbe": map[string]any{ // the template's asks every 15 s only
			"httpGet": map[string]any{"path": "/healthz/ready", "port": 15021}, "periodSeconds": 1,
		},
	})
}

// renderIstio renders a chart of Istio's module for the namespace istio-system: all of it, or the
// templates that are named.
func renderIstio(ctx context.Context, l layout, folder, release string, values map[string]any, only ...string) (
	string, error) {
	istio, err := moduleFolder(ctx, l, "istio.io/istio")
	if err != nil {
		return "", err
	}
	chart, err := loader.Load(filepath.Join(istio, folder))
	if err != nil {
		return "", fmt.Errorf("loading Istio's chart %s: %w", folder, err)
	}
	options := chartutil.ReleaseOptions{Name: release, Namespace: "istio-system", IsInstall: true}
	all, err := chartutil.ToRenderValues(chart, values, options, nil)
	if err != nil {
		return "", fmt.Errorf("the values for Istio's chart %s: %w", folder, err)
	}
	rendered, err := engine.Render(chart, all)
	if err != nil {
		return "", fmt.Errorf("rendering Istio's chart %s: %w", folder, err)
	}
	var names []string
	for name := range rendered {
		if base := path.Base(name); strings.HasSuffix(base, ".yaml") && (only == nil || slices.Contains(only, base)) {
			names = append(names, name)
		}
	}
	if len(names) < max(1, len(only)) {
		return "", fmt.Errorf("chart %s of Istio has not all of %v, but %v", folder, only, names)
	}
	slices.Sort(names)
	var yaml bytes.Buffer
	for _, name := range names {
		fmt.Fprintf(&yaml, "%s\n---\n", rendered[name])
	}
	return yaml.String(), nil
}
