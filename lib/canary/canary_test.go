package canary

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestRead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		file string
		want Spec
	}{
		{"v1beta1", Spec{Target: "shop",
			Values: map[string]string{
				"progressDeadlineSeconds": "60", "service": "shop-front", "port": "80", "hosts": "shop.example.com",
				"gateways": "istio-system/jx-gateway,mesh",
				"interval": "30s", "threshold": "5", "stepWeights": "5,20,50", "readyThreshold": "90",
				"requestSuccessRate": "99.5", "requestDuration": "off",
				"metrics": "- interval: 30s\n  name: queue\n  query: max(queue_length{pod=~\"{{ variables.pod " +
					"}}-.*\"})\n  templateVariables:\n    pod: shop\n  thresholdRange:\n    max: 100\n"},
			Warnings: []string{
				"spec.autoscalerRef.primaryScalerReplicas is not acted on", "spec.service.retries is not acted on",
				"spec.analysis.webhooks is not acted on"}}},
		{"v1alpha3", Spec{
			Target: "shop", Values: map[string]string{
				"port": "8080", "interval": "1m", "threshold": "10", "maxWeight": "50", "stepWeight": "10",
				"requestSuccessRate": "99", "requestDuration": "500ms"}}},
		{"jenkins-x-v2", Spec{
			Values: map[string]string{
				"port": "80", "progressDeadlineSeconds": "60", "interval": "1m", "threshold": "5", "maxWeight": "60",
				"stepWeight": "20", "requestSuccessRate": "99",
				"requestDuration": "1000ms", "hosts": "acme.com"},
			Warnings: []string{
				"canary.host is for callers inside of the mesh, unless parameter gateways names a gateway as well"}}},
		{"jenkins-x-2019",
			Spec{Values: map[string]string{
				"hosts": "shop.example.com", "gateways": "istio-system/jx-gateway", "interval": "60s", "threshold": "5",
				"maxWeight": "50", "stepWeight": "10",
				"requestSuccessRate": "99", "requestDuration": "off"}}},
		{"jenkins-x-v3", Spec{
			Disabled: true, Values: map[string]string{
				"progressDeadlineSeconds": "60", "interval": "1m", "threshold": "5", "maxWeight": "60",
				"stepWeight": "20", "requestDuration": "500ms"}}},
	} {
		t.Run(c.file, func(t *testing.T) {
			t.Parallel()
			got, err := Read(testdata(t, c.file))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want, +got)\n%s", diff)
			}
		})
	}
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Every mistake is named by its path, and all of them at once.
func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc, file, from, to string
		want                 []string
	}{
		{"misspelt", "v1beta1", "stepWeights:", "stepWeigths:",
			[]string{"spec.analysis.stepWeigths: there is no such field, the nearest is stepWeights"}},
		{"octal-looking", "jenkins-x-v2", "threshold: 5", "threshold: 010",
			[]string{"canary.canaryAnalysis.threshold: 010: write it without leading zeros"}},
		{"octal-looking in a list", "v1beta1", "stepWeights: [5,", "stepWeights: [05,",
			[]string{"spec.analysis.stepWeights[0]: 05: write it"}},
		{"a limit of a query of one's own that is no number", "v1beta1", "thresholdRange: {max: 100}",
			"thresholdRange: {min: '9,5', max: 100}", []string{"thresholdRange.min: \"9,5\" is no number"}},
		{"misspelt within a list", "v1beta1", "thresholdRange: {min: 99.5}", "thresholdRange: {mni: 99.5}",
			[]string{"spec.analysis.metrics[0].thresholdRange.mni: there is no such field, the nearest is min",
				"spec.analysis.metrics[0]: it has no threshold"}},
		{"misspelt in values", "jenkins-x-v2", "requestDuration", "requestDurations",
			[]string{"canary.canaryAnalysis.metrics.requestDurations: there is no such field, the " +
				"nearest is requestDuration"}},
		{"another version", "v1beta1", "flagger.app/v1beta1", "flagger.app/v2",
			[]string{`apiVersion: "flagger.app/v2" is not`}},
		{"another provider, and another kind", "v1beta1",
			"provider: istio\n  targetRef: {apiVersion: apps/v1, kind: Deployment",
			"provider: linkerd\n  targetRef: {apiVersion: apps/v1, kind: DaemonSet",
			[]string{`spec.provider: "linkerd": only istio is supported`, `spec.targetRef.kind: "DaemonSet"`}},
		{"a limit that is no number", "v1beta1", "{min: 99.5}", "{min: high}",
			[]string{`spec.analysis.metrics[0]: its threshold "high" is no number`}},
		{"a limit on the wrong side", "v1beta1", "{min: 99.5}", "{min: 99.5, max: 100}",
			[]string{"spec.analysis.metrics[0].thresholdRange.max: requestSuccessRate has no such limit"}},
		{"a template", "v1beta1", "      query: max(queue_length{pod=~\"{{ variables.pod }}-.*\"})\n",
			"      templateRef: {name: queue}\n",
			[]string{"spec.analysis.metrics[1].templateRef: the MetricTemplate is in a cluster, and none was asked"}},
		{"neither built in nor a query", "v1beta1", "name: request-success-rate", "name: request-succes-rate",
			[]string{`"request-succes-rate" is not built in`}},
		{"blue and green", "v1beta1", "stepWeights: [5, 20, 50]", "iterations: 5",
			[]string{"spec.analysis.iterations: releases by weight only"}},
		{"a list that is none", "v1beta1", "hosts: [shop.example.com]", "hosts: shop.example.com",
			[]string{"spec.service.hosts: shop.example.com is no list"}},
		{"a map that is none", "v1beta1", "thresholdRange: {min: 99.5}", "thresholdRange: 99.5",
			[]string{"spec.analysis.metrics[0].thresholdRange: 99.5 is no map"}},
		{"neither on nor off", "jenkins-x-v2", "enabled: true", "enabled: maybe",
			[]string{`canary.enabled: "maybe" is neither true nor false`}},
		{"something else", "jenkins-x-v2", "canary:", "canry:",
			[]string{"it is neither a Canary of Flagger (kind: Canary) nor the values of a chart with a block canary"}},
		{"no YAML", "jenkins-x-v2", "canary:", "canary: [", []string{"document 1 is no YAML map"}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			text := string(testdata(t, c.file))
			if !strings.Contains(text, c.from) {
				t.Fatalf("%s has no %q", c.file, c.from)
			}
			_, err := Read([]byte(strings.Replace(text, c.from, c.to, 1)))
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v\ndoes not say %s", err, want)
				}
			}
		})
	}
}

// What a Canary leaves out is what it is with Flagger, and not the parameters' default.
func TestDefaultsOfFlagger(t *testing.T) {
	t.Parallel()
	text := strings.NewReplacer("    threshold: 10\n", "", "    maxWeight: 50\n", "").Replace(
		string(testdata(t, "v1alpha3")))
	got, err := Read([]byte(text))
	if err != nil || got.Values["threshold"] != "1" || got.Values["maxWeight"] != "100" ||
		got.Values["stepWeight"] != "10" {
		t.Errorf("%v, %v", got.Values, err)
	}
}
