package workload

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// parsed reads JSON as the API server's is read; nil where it is no object.
func parsed(text string) *kube.Object {
	o := &kube.Object{}
	if err := utiljson.Unmarshal([]byte(text), &o.Object); err != nil {
		return nil
	}
	return o
}

func written(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Whatever a Deployment is: stable can be made from it, which changes nothing of it, and its
// revision depends on nothing else.
func FuzzTemplate(f *testing.F) {
	f.Add(`{"metadata":{"labels":{"app":"shop"}},"spec":{"replicas":2,"selector":{"matchLabels":{"app":"shop"}},` +
		`"template":{"metadata":{"labels":{"app":"shop"}},"spec":{"volumes":[{"configMap":{"name":"a"}},` +
		`{"secret":{"secretName":"b","optional":true}},{"projected":{"sources":[{"secret":{"name":"c"}}]}},` +
		`{"persistentVolumeClaim":{"claimName":"d"}}],"containers":[{"image":"shop:1",` +
		`"env":[{"valueFrom":{"secretKeyRef":{"name":"e"}}}],"envFrom":[{"configMapRef":{"name":"f"}}]}],` +
		`"affinity":{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[` +
		`{"labelSelector":{"matchLabels":{"app":"shop"}}}]}},` +
		`"topologySpreadConstraints":[{"labelSelector":{"matchLabels":{"app":"shop"}}}]}}}}`)
	f.Add(`{"spec":{"template":{"metadata":null,"spec":{"volumes":[null,1,{"configMap":null}],` +
		`"containers":{"a":1},"initContainers":[[]]}}}}`)
	f.Add(`{"spec":{"selector":{"matchLabels":{"name":"a"}},` +
		`"strategy":{"type":"Recreate","rollingUpdate":{"maxSurge":"0%"}},"template":{}}}`)
	f.Add(`{"sPec":{"selector":{"matchLabels":{"name":"a"}},"template":{}}}`) // Go's JSON takes it for spec
	f.Add(`{"metadata":1,"spec":[]}`)
	f.Fuzz(func(t *testing.T, text string) {
		o := parsed(text)
		if o == nil {
			return
		}
		before := written(t, o.Object)
		template := TemplateOf(o)
		contents := Contents{}
		for i, m := range template.Mounts() {
			contents[Mount{Kind: m.Kind, Name: m.Name}] = map[string]any{"data": i}
		}
		revision := template.Revision(contents)
		if again := template.Revision(contents); again != revision {
			t.Errorf("revisions %s and %s", revision, again)
		}
		template.Claims()
		template.Images()
		var typed appsv1.Deployment
		if err := kube.Decode(o.Object, &typed); err == nil {
			RolloutOf(&typed, 100)
			RevisionOf(&typed)
			if selector, err := SelectorOf(&typed); err == nil {
				checkPrimary(t, o, selector, contents)
			}
		}
		if diff := cmp.Diff(before, written(t, o.Object)); diff != "" {
			t.Errorf("it was changed (-before, +after)\n%s", diff)
		}
	})
}

// checkPrimary checks that the Deployment of stable can be made from a target, and that it has
// copies of what the target mounts.
func checkPrimary(t *testing.T, target *kube.Object, selector Selector, contents Contents) {
	t.Helper()
	if selector.Stable[selector.Key] == selector.Candidate[selector.Key] ||
		len(selector.Stable) != len(selector.Candidate) {
		t.Errorf("%+v", selector)
	}
	template := TemplateOf(target)
	mounts, revision := template.Mounts(), template.Revision(contents)
	primary := NewPrimary(target, selector, revision, contents, 2, map[string]string{FenceAnnotation: "1"})
	var made appsv1.Deployment
	if err := kube.Decode(primary, &made); err != nil {
		t.Errorf("what is made is no Deployment: %v", err)
	}
	if RevisionOf(&made) != revision {
		t.Errorf("made with revision %s, not %s", RevisionOf(&made), revision)
	}
	stable := template.ForStable(selector, revision, contents)
	for _, m := range stable.Mounts() {
		if len(m.Name) > 253 || CopiedFor(m.Name) != revision && slices.Contains(mounts, m) &&
			contents[Mount{Kind: m.Kind, Name: m.Name}] != nil {
			t.Errorf("stable mounts %s", m)
		}
	}
}

// Whatever other objects are: they can be looked at, and what was held is let go to what it was.
func FuzzObjects(f *testing.F) {
	f.Add(`{"metadata":{"name":"shop"},"spec":{"scaleTargetRef":{"kind":"Deployment","name":"shop"},` +
		`"minReplicas":2,"maxReplicas":10}}`)
	f.Add(`{"metadata":{"annotations":{"canary-tasks.dev/floor":"2/5"}},"spec":{"minReplicas":5,"maxReplicas":10}}`)
	f.Add(`{"spec":{"selector":{"app":"shop"},` +
		`"ports":[{"port":80,"targetPort":"http","name":"http"},null,{"port":"a"}]}}`)
	f.Add(`{"spec":{"host":"shop","trafficPolicy":{},"subsets":[{}],"hosts":["shop",1],` +
		`"podSelector":{"matchLabels":{"app":"shop"}}}}`)
	f.Add(`{"spec":{"ports":1,"selector":[],"maxReplicas":1e30,` +
		`"template":{"spec":{"containers":[{"ports":[{"containerPort":80,"name":"http"}]}]}}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		o := parsed(text)
		if o == nil {
			return
		}
		before := written(t, o.Object)
		kind := *o
		for _, k := range Selecting {
			kind.Object = map[string]any{}
			for key, value := range o.Object {
				kind.Object[key] = value
			}
			kind.SetKind(k.Kind)
			Uncovered([]kube.Object{kind}, map[string]string{"app": "shop"}, map[string]string{"app": "shop-primary"})
		}
		if AutoscalerOf([]kube.Object{*o}, "shop") != nil {
			NewAutoscaler(o, "shop", "shop-primary")
			Follow(o, o, "shop-primary")
		}
		MinReplicas(o)
		Hold(o, 5)
		if w := LetGo(o); w != nil {
			written(t, w.Patch)
		}
		if rule := ForService([]kube.Object{*o}, "shop", "web"); rule != nil {
			CarryOver(rule, "shop", "shop-primary")
		}
		Claims([]kube.Object{*o}, "but", "shop", "web")
		ports := PortsOf(o)
		for _, p := range ports {
			SamePort(o, TargetPort(p, ports, o), p["targetPort"])
		}
		if w := FollowPorts(o, o, o); w != nil {
			written(t, w.Patch)
		}
		ServicePorts(o, &appsv1.Deployment{}, "80")
		Selects(o, map[string]string{"app": "shop"})
		SetBack(o, map[string]string{"app": "shop"})
		Protected(o)
		ManagedBy(o)
		if diff := cmp.Diff(before, written(t, o.Object)); diff != "" {
			t.Errorf("it was changed (-before, +after)\n%s", diff)
		}
	})
}
