package workload

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

const manifest = `
metadata:
  name: shop
  labels: {app: shop, team: web, app.kubernetes.io/managed-by: Helm, argocd.argoproj.io/instance: prod,
    jenkins.io/chart-release: shop}
  annotations: {meta.helm.sh/release-name: shop}
spec:
  replicas: 3
  revisionHistoryLimit: 1
  selector: {matchLabels: {app: shop, tier: front}}
  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 50%, maxSurge: 0}}
  aFieldOfTheFuture: {keep: me}
  template:
    metadata:
      labels: {app: shop, tier: front, version: v2}
    spec:
      anotherFieldOfTheFuture: [1]
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 1
            podAffinityTerm:
              topologyKey: zone
              labelSelector: {matchExpressions: [{key: app, operator: In, values: [shop, other]}]}
      topologySpreadConstraints: [{maxSkew: 1, labelSelector: {matchLabels: {app: shop}}}]
      containers:
      - name: app
        image: shop:2
        envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: maybe, optional: true}}]
        env: [{name: KEY, valueFrom: {secretKeyRef: {name: keys, key: a}}}, {name: PLAIN, value: settings}]
      volumes:
      - {name: a, configMap: {name: files}}
      - {name: b, secret: {secretName: certs}}
      - name: c
        projected:
          sources: [{configMap: {name: files}}, {secret: {name: keys}}, {serviceAccountToken: {path: t}}]
      - {name: d, csi: {driver: x, nodePublishSecretRef: {name: untouched}}}
`

func read(t *testing.T, text string) *kube.Object {
	t.Helper()
	o := &kube.Object{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

func deployment(t *testing.T, text string) *appsv1.Deployment {
	t.Helper()
	d := &appsv1.Deployment{}
	if err := yaml.Unmarshal([]byte(text), d); err != nil {
		t.Fatal(err)
	}
	return d
}

func mounts(names ...string) Contents {
	contents := Contents{}
	for _, n := range names {
		kind, name, _ := strings.Cut(n, "/")
		contents[Mount{Kind: kind, Name: name}] = map[string]any{"data": map[string]any{"k": n}}
	}
	return contents
}

func TestMounts(t *testing.T) {
	t.Parallel()
	got := fmt.Sprint(TemplateOf(read(t, manifest)).Mounts())
	if want := "[ConfigMap/files ConfigMap/settings Secret/certs Secret/keys Secret/maybe]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for _, m := range TemplateOf(read(t, manifest)).Mounts() {
		if m.Optional != (m.Name == "maybe") {
			t.Errorf("%s optional: %t", m, m.Optional)
		}
	}
}

// The revision changes with the template and with what it mounts, and with nothing else.
func TestRevision(t *testing.T) {
	t.Parallel()
	content := mounts("ConfigMap/files", "Secret/keys")
	revision := TemplateOf(read(t, manifest)).Revision(content)
	if len(revision) != 10 {
		t.Errorf("revision %q", revision)
	}
	same := read(t, strings.Replace(manifest, "replicas: 3", "replicas: 9", 1))
	if got := TemplateOf(same).Revision(content); got != revision {
		t.Error("replicas change the revision")
	}
	for _, from := range []string{"shop:2", "anotherFieldOfTheFuture: [1]", "version: v2"} {
		if got := TemplateOf(
			read(t, strings.Replace(manifest, from, from[:len(from)-1]+"x"+from[len(from)-1:], 1))).Revision(
			content); got == revision {
			t.Errorf("%s does not change the revision", from)
		}
	}
	content[Mount{Kind: "Secret", Name: "keys"}] = map[string]any{"data": map[string]any{"k": "another"}}
	if got := TemplateOf(read(t, manifest)).Revision(content); got == revision {
		t.Error("a Secret does not change the revision")
	}
}

func TestNewPrimary(t *testing.T) {
	t.Parallel()
	target := read(t, manifest)
	before := fmt.Sprint(target.Object)
	selector, err := SelectorOf(deployment(t, manifest))
	if err != nil {
		t.Fatal(err)
	}
	got := &kube.Object{
		Object: NewPrimary(
			target, selector, "abc", mounts("ConfigMap/files", "ConfigMap/settings", "Secret/certs", "Secret/keys"), 3,
			map[string]string{FenceAnnotation: "7"})}
	want := read(t, `
metadata:
  labels: {app: shop-primary, tier: front, team: web, canary-tasks.dev/target: shop}
  annotations: {canary-tasks.dev/fence: "7"}
spec:
  replicas: 3
  revisionHistoryLimit: 3
  selector: {matchLabels: {app: shop-primary, tier: front}}
  strategy: {type: RollingUpdate, rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  aFieldOfTheFuture: {keep: me}
  template:
    metadata:
      labels: {app: shop-primary, tier: front, version: v2}
      annotations: {canary-tasks.dev/revision: abc}
    spec:
      anotherFieldOfTheFuture: [1]
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 1
            podAffinityTerm:
              topologyKey: zone
              labelSelector: {matchExpressions: [{key: app, operator: In, values: [shop-primary, other]}]}
      topologySpreadConstraints: [{maxSkew: 1, labelSelector: {matchLabels: {app: shop-primary}}}]
      containers:
      - name: app
        image: shop:2
        envFrom: [{configMapRef: {name: settings-primary-abc}}, {secretRef: {name: maybe, optional: true}}]
        env: [{name: KEY, valueFrom: {secretKeyRef: {name: keys-primary-abc, key: a}}}, {name: PLAIN, value: settings}]
      volumes:
      - {name: a, configMap: {name: files-primary-abc}}
      - {name: b, secret: {secretName: certs-primary-abc}}
      - name: c
        projected:
          sources: [{configMap: {name: files-primary-abc}}, {secret: {name: keys-primary-abc}},
            {serviceAccountToken: {path: t}}]
      - {name: d, csi: {driver: x, nodePublishSecretRef: {name: untouched}}}
`)
	if diff := cmp.Diff(asJSON(t, want), asJSON(t, got)); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
	if fmt.Sprint(target.Object) != before {
		t.Error("the target was changed")
	}
}

// A selector may have the label by which Argo CD tells what is its own: it would prune a stable
// that has it.
func TestPrimaryIsNobodyElses(t *testing.T) {
	t.Parallel()
	const instance = "app.kubernetes.io/instance"
	helm := strings.ReplaceAll(manifest, "tier: front", "tier: front, "+instance+": shop")
	selector, err := SelectorOf(deployment(t, helm))
	if err != nil || selector.Stable[instance] != "shop" {
		t.Fatalf("%v, %v", selector, err)
	}
	primary := &kube.Object{
		Object: NewPrimary(read(t, helm), selector, "abc", Contents{}, 3, map[string]string{FenceAnnotation: "7"})}
	if labels := primary.GetLabels(); labels[instance] != "" || labels["app"] != "shop-primary" {
		t.Errorf("labels %v", labels)
	}
	if pods, _, _ := unstructured.NestedStringMap(
		primary.Object, "spec", "template", "metadata", "labels"); pods[instance] != "shop" {
		t.Errorf("its pods have %v, and its selector wants %v", pods, selector.Stable)
	}
}

func asJSON(t *testing.T, o *kube.Object) any {
	t.Helper()
	var v any
	if err := kube.Decode(o.Object, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSelectorOfRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ desc, selector, want string }{
		{"no label that could differ", "matchLabels: {tier: front}", "none of app, name, app.kubernetes.io/name"},
		{"expressions", "matchExpressions: [{key: app, operator: Exists}]", "must have matchLabels only"},
		{"a label that would get too long", "matchLabels: {app: " + strings.Repeat("a", 56) + "}", "longer than 55"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			_, err := SelectorOf(deployment(t, "spec: {selector: {"+c.selector+"}}"))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v does not say %q", err, c.want)
			}
		})
	}
}

func TestRolloutOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc, status string
		threshold    int32
		want         Rollout
	}{
		{"all serve", "status: {observedGeneration: 2, replicas: 3, updatedReplicas: 3, availableReplicas: 3}", 100,
			Rollout{Done: true}},
		{"as many as asked for",
			"status: {observedGeneration: 2, replicas: 3, updatedReplicas: 3, availableReplicas: 2}", 60,
			Rollout{Done: true}},
		{"one is missing", "status: {observedGeneration: 2, replicas: 3, updatedReplicas: 3, availableReplicas: 2}",
			100,
			Rollout{Text: "waiting for rollout to finish: 2 of 3 (readyThreshold 100%) updated replicas are " +
				"available"}},
		{"not seen yet", "status: {observedGeneration: 1, replicas: 3, updatedReplicas: 3, availableReplicas: 3}", 100,
			Rollout{Text: "waiting for rollout to finish: observed deployment generation less than desired " +
				"generation"}},
		{"an old one is left", "status: {observedGeneration: 2, replicas: 4, updatedReplicas: 3, availableReplicas: 4}",
			100,
			Rollout{Text: "waiting for rollout to finish: 1 old replicas are pending termination"}},
		{"its own deadline is over",
			"status: {observedGeneration: 2, conditions: [{type: Progressing, reason: ProgressDeadlineExceeded}, " +
				"{type: ReplicaFailure, status: 'True', message: exceeded quota}]}", 100,
			Rollout{Failed: true, Text: "deployment exceeded its progress deadline: exceeded quota"}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			got := RolloutOf(deployment(t, "metadata: {generation: 2}\nspec: {replicas: 3}\n"+c.status), c.threshold)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want, +got)\n%s", diff)
			}
		})
	}
	if got := RolloutOf(deployment(t, "spec: {replicas: 0}"), 100); got.Done {
		t.Error("a Deployment of no replicas counts as serving")
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	scaler := func(least any, note string) *kube.Object {
		spec := map[string]any{
			"maxReplicas": int64(10), "scaleTargetRef": map[string]any{"kind": "Deployment", "name": "shop"}}
		if least != nil {
			spec["minReplicas"] = least
		}
		o := &kube.Object{
			Object: map[string]any{"metadata": map[string]any{"name": "scale", "resourceVersion": "1"}, "spec": spec}}
		if note != "" {
			o.SetAnnotations(map[string]string{FloorAnnotation: note})
		}
		return o
	}
	text := func(w *kube.Write) string {
		if w == nil {
			return "nothing"
		}
		b, err := json.Marshal(w.Patch[1:])
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const path = `"path":"/metadata/annotations/canary-tasks.dev~1floor"`
	for _, c := range []struct {
		desc        string
		autoscaler  *kube.Object
		least       int32
		hold, letGo string
	}{
		{"as it is", scaler(int64(2), ""), 2,
			`[{"op":"add","path":"/metadata/annotations","value":{"canary-tasks.dev/floor":"2/7"}},` +
				`{"op":"add","path":"/spec/minReplicas","value":7}]`, "nothing"},
		{"does not say", scaler(nil, ""), 1,
			`[{"op":"add","path":"/metadata/annotations","value":{"canary-tasks.dev/floor":"/7"}},` +
				`{"op":"add","path":"/spec/minReplicas","value":7}]`, "nothing"},
		{"held lower", scaler(int64(5), "2/5"), 2,
			`[{"op":"add",` + path + `,"value":"2/7"},{"op":"add","path":"/spec/minReplicas","value":7}]`,
			`[{"op":"remove",` + path +
				`},{"op":"add","path":"/spec","value":{"maxReplicas":10,"minReplicas":2,` +
				`"scaleTargetRef":{"kind":"Deployment","name":"shop"}}}]`},
		{"held", scaler(int64(7), "/7"), 1, "nothing",
			`[{"op":"remove",` + path +
				`},{"op":"add","path":"/spec","value":{"maxReplicas":10,` +
				`"scaleTargetRef":{"kind":"Deployment","name":"shop"}}}]`},
		{"changed while held", scaler(int64(3), "2/7"), 3,
			`[{"op":"add",` + path + `,"value":"3/7"},{"op":"add","path":"/spec/minReplicas","value":7}]`,
			`[{"op":"remove",` + path + `}]`},
	} {
		if got := MinReplicas(c.autoscaler); got != c.least {
			t.Errorf("%s: keeps %d by itself, want %d", c.desc, got, c.least)
		}
		if got := text(Hold(c.autoscaler, 7)); got != c.hold {
			t.Errorf("%s: Hold is %s, want %s", c.desc, got, c.hold)
		}
		if got := text(LetGo(c.autoscaler)); got != c.letGo {
			t.Errorf("%s: LetGo is %s, want %s", c.desc, got, c.letGo)
		}
	}
	if got := text(Hold(scaler(int64(2), ""), 20)); !strings.Contains(got, `"2/10"`) {
		t.Errorf("beyond its maximum: %s", got)
	}
}

// A host is the Service's by its whole name, and not by how it begins.
func TestClaims(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"shop": true, "shop.web": true, "shop.web.svc": true, "shop.web.svc.cluster.local": true,
		"shop.website.com": false, "shop.web2": false, "shop.web2.svc.cluster.local": false, "shopping": false,
		"shop.web.example.com": false, "shop.web.svcs": false, "other": false, "*": false,
	} {
		of := kube.Object{Object: map[string]any{
			"metadata": map[string]any{"name": "theirs"}, "spec": map[string]any{"hosts": []any{host}}}}
		if got := len(Claims([]kube.Object{of}, "shop", "shop", "web")) > 0; got != want {
			t.Errorf("%s: %t, want %t", host, got, want)
		}
		if len(Claims([]kube.Object{of}, "theirs", "shop", "web")) > 0 {
			t.Errorf("%s: the one that is left out is named", host)
		}
	}
}
