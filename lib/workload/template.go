package workload

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// Template is a pod template as the API server has it: fields that this program does not know stay
// in it.
type Template map[string]any

// TemplateOf reads the pod template of a Deployment.
func TemplateOf(deployment *unstructured.Unstructured) Template {
	template, _, _ := unstructured.NestedMap(deployment.Object, "spec", "template")
	return template
}

// Mount is a ConfigMap or a Secret that pods mount or read into their environment.
type Mount struct {
	Kind     string // "ConfigMap" or "Secret"
	Name     string
	Optional bool
}

func (m Mount) String() string { return m.Kind + "/" + m.Name }

// Mounts lists the ConfigMaps and Secrets of a template, each once, in order.
func (t Template) Mounts() []Mount {
	found := map[Mount]bool{} // value: some use needs it
	t.eachMount(func(kind string, ref map[string]any, key string) {
		if name, _ := ref[key].(string); name != "" {
			optional, _ := ref["optional"].(bool)
			m := Mount{Kind: kind, Name: name}
			found[m] = found[m] || !optional
		}
	})
	mounts := slices.Collect(maps.Keys(found))
	for i := range mounts {
		mounts[i].Optional = !found[mounts[i]]
	}
	slices.SortFunc(mounts, func(a, b Mount) int { return cmp.Compare(a.String(), b.String()) })
	return mounts
}

// Claims lists the persistent volume claims of a template by name.
func (t Template) Claims() []string {
	var claims []string
	for _, volume := range list(object(t, "spec"), "volumes") {
		if name, _ := object(volume, "persistentVolumeClaim")["claimName"].(string); name != "" {
			claims = append(claims, name)
		}
	}
	return claims
}

// eachMount calls f for every reference to a ConfigMap or a Secret: ref[key] is its name.
func (t Template) eachMount(f func(kind string, ref map[string]any, key string)) {
	visit := func(kind string, from map[string]any, field, key string) {
		if ref, ok := from[field].(map[string]any); ok {
			f(kind, ref, key)
		}
	}
	spec := object(t, "spec")
	for _, volume := range list(spec, "volumes") {
		visit("ConfigMap", volume, "configMap", "name")
		visit("Secret", volume, "secret", "secretName")
		for _, source := range list(object(volume, "projected"), "sources") {
			visit("ConfigMap", source, "configMap", "name")
			visit("Secret", source, "secret", "name")
		}
	}
	for _, containers := range []string{"initContainers", "containers"} {
		for _, container := range list(spec, containers) {
			for _, env := range list(container, "env") {
				visit("ConfigMap", object(env, "valueFrom"), "configMapKeyRef", "name")
				visit("Secret", object(env, "valueFrom"), "secretKeyRef", "name")
			}
			for _, env := range list(container, "envFrom") {
				visit("ConfigMap", env, "configMapRef", "name")
				visit("Secret", env, "secretRef", "name")
			}
		}
	}
}

// Contents is the data of what is mounted, as the API server has it; one that is missing is not in
// it.
type Contents map[Mount]map[string]any

// Revision identifies what a template runs: a hash of its canonical JSON and of all that it mounts,
// in one, so that no single Secret can be guessed from it.
func (t Template) Revision(mounted Contents) string {
	var parts []any
	parts = append(parts, map[string]any(t))
	for _, m := range t.Mounts() {
		parts = append(parts, m.String(), mounted[Mount{Kind: m.Kind, Name: m.Name}])
	}
	canonical, err := json.Marshal(parts) // keys of maps come sorted
	if err != nil {
		return "" // what came as JSON can be written as JSON
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:5])
}

// CopyName is the name of a mounted object's copy for stable: the revision makes it one that is
// never changed.
func CopyName(name, revision string) string {
	tail := "-primary-" + revision
	return name[:min(len(name), 253-len(tail))] + tail
}

// Equal reports whether two templates are the same as JSON: what was read from a record has other
// types for its numbers than what the API server sent.
func (t Template) Equal(other Template) bool {
	a, errA := json.Marshal(t)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// WithoutRestart is a template without the annotation of kubectl rollout restart.
func (t Template) WithoutRestart() Template {
	c := Template(runtime.DeepCopyJSON(t))
	metadata := object(c, "metadata")
	annotations := object(metadata, "annotations")
	if delete(annotations, "kubectl.kubernetes.io/restartedAt"); len(annotations) == 0 {
		delete(metadata, "annotations")
	}
	delete(metadata, "creationTimestamp")
	return c
}

// WithoutSecrets are the contents of ConfigMaps alone.
func (c Contents) WithoutSecrets() Contents {
	open := maps.Clone(c)
	maps.DeleteFunc(open, func(m Mount, _ map[string]any) bool { return m.Kind == "Secret" })
	return open
}

// Without are the contents of all but some mounts.
func (c Contents) Without(mounts []Mount) Contents {
	rest := maps.Clone(c)
	for _, m := range mounts {
		delete(rest, Mount{Kind: m.Kind, Name: m.Name})
	}
	return rest
}

var copyName = regexp.MustCompile(`-primary-([0-9a-f]{10})$`)

// CopiedFor is the revision that a copy of a mounted object belongs to, by its name; empty where
// that is not the name of one.
func CopiedFor(name string) string {
	if m := copyName.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}

// ForStable makes stable's pod template out of the candidate's: the selector's label tells them
// apart, the revision is noted, and what it mounts are copies. copied says of which mounts there
// are copies.
func (t Template) ForStable(s Selector, revision string, copied Contents) Template {
	stable := Template(runtime.DeepCopyJSON(t))
	if stable == nil { // a record may have none
		stable = Template{}
	}
	metadata := within(stable, "metadata")
	labels := within(metadata, "labels")
	for k, v := range s.Stable {
		labels[k] = v
	}
	within(metadata, "annotations")[RevisionAnnotation] = revision
	delete(metadata, "creationTimestamp")
	stable.eachMount(func(kind string, ref map[string]any, key string) {
		name, _ := ref[key].(string)
		if _, ok := copied[Mount{Kind: kind, Name: name}]; ok {
			ref[key] = CopyName(name, revision)
		}
	})
	spec := object(stable, "spec")
	for _, constraint := range list(spec, "topologySpreadConstraints") {
		forStable(object(constraint, "labelSelector"), s)
	}
	anti := object(object(spec, "affinity"), "podAntiAffinity")
	for _, term := range list(anti, "requiredDuringSchedulingIgnoredDuringExecution") {
		forStable(object(term, "labelSelector"), s)
	}
	for _, term := range list(anti, "preferredDuringSchedulingIgnoredDuringExecution") {
		forStable(object(object(term, "podAffinityTerm"), "labelSelector"), s)
	}
	return stable
}

// forStable lets a selector by which a workload's pods avoid each other select stable's.
func forStable(selector map[string]any, s Selector) {
	if labels := object(selector, "matchLabels"); labels[s.Key] == s.Candidate[s.Key] && labels != nil {
		labels[s.Key] = s.Stable[s.Key]
	}
	for _, e := range list(selector, "matchExpressions") {
		values, _ := e["values"].([]any)
		for i := range values {
			if e["key"] == s.Key && values[i] == s.Candidate[s.Key] {
				values[i] = s.Stable[s.Key]
			}
		}
	}
}

// RevisionOf is the revision that stable's pods are made of; empty when it was not made by a
// release.
func RevisionOf(primary *appsv1.Deployment) string {
	return primary.Spec.Template.Annotations[RevisionAnnotation]
}

// object returns the object in a field; nil where there is none.
func object(from map[string]any, field string) map[string]any {
	o, _ := from[field].(map[string]any)
	return o
}

// within is object, made where there is none.
func within(from map[string]any, field string) map[string]any {
	o := object(from, field)
	if o == nil {
		o = map[string]any{}
		from[field] = o
	}
	return o
}

// list returns the objects of the list in a field.
func list(from map[string]any, field string) []map[string]any {
	values, _ := from[field].([]any)
	var objects []map[string]any
	for _, v := range values {
		if o, ok := v.(map[string]any); ok {
			objects = append(objects, o)
		}
	}
	return objects
}

// NewPrimary is the Deployment of stable, made from the target as it serves now, with notes as
// annotations. The result has no name, kind and namespace.
func NewPrimary(target *unstructured.Unstructured, s Selector, revision string, copied Contents, replicas int32,
	notes map[string]string) map[string]any {
	spec := runtime.DeepCopyJSON(object(target.Object, "spec"))
	if spec == nil {
		spec = map[string]any{}
	}
	spec["replicas"] = int64(replicas)
	spec["selector"] = map[string]any{"matchLabels": strings2any(s.Stable)}
	spec["template"] = map[string]any(TemplateOf(target).ForStable(s, revision, copied))
	spec["strategy"] = SafeStrategy(object(spec, "strategy"))
	spec["revisionHistoryLimit"] = max(asInt(spec["revisionHistoryLimit"], 10), 3)
	delete(spec, "paused")
	// also those of its selector, which only pods need: who tracks by one of them would prune
	// stable
	labels := withoutTracking(target.GetLabels(), nil)
	maps.Copy(labels, withoutTracking(s.Stable, nil))
	labels[TargetLabel] = target.GetName()
	return map[string]any{
		"metadata": map[string]any{"labels": labels, "annotations": strings2any(notes)},
		"spec":     spec,
	}
}

// SafeStrategy is how stable rolls: never with fewer pods than it has, at least one more at a time.
func SafeStrategy(own map[string]any) map[string]any {
	surge := object(own, "rollingUpdate")["maxSurge"]
	if surge == nil || fmt.Sprint(surge) == "0" || fmt.Sprint(surge) == "0%" {
		surge = int64(1)
	}
	return map[string]any{
		"type": "RollingUpdate", "rollingUpdate": map[string]any{"maxUnavailable": int64(0), "maxSurge": surge}}
}

// strings2any converts a map of texts to what JSON decodes to.
func strings2any(from map[string]string) map[string]any {
	into := make(map[string]any, len(from))
	for k, v := range from {
		into[k] = v
	}
	return into
}

// asInt reads a number, whichever type JSON gave it.
func asInt(v any, otherwise int64) int64 {
	switch n := v.(type) {
	case int64:
		return n
	case float64:
		return int64(n)
	}
	return otherwise
}

// Images lists the images of a template's containers, in order.
func (t Template) Images() []string {
	var images []string
	for _, container := range list(object(t, "spec"), "containers") {
		if image, _ := container["image"].(string); image != "" {
			images = append(images, image)
		}
	}
	return images
}
