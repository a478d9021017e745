package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	pipelinev1 "github.com/tektoncd/pipeline/pkg/apis/pipeline/v1"
	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/release"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

const (
	version  = "0.1"
	module   = "github.com/canary-tasks/canary-tasks"
	account  = "canary-tasks"
	maxSteps = 10 // weights that canary-init has results for in the shipped Pipeline
)

// about is what a step is for, in a sentence, and the names of its results.
var about = map[string]struct {
	title, text string
	results     [][2]string
}{
	config.CanaryInit: {
		"canary init", "Checks a release, takes the lock of its target, makes or repairs the two copies of the " +
			"workload and brings the candidate up.",
		[][2]string{{"outcome", "initialized or unchanged where there is nothing to release, else empty"},
			{"revision", "the revision that is released"}}},
	config.ShiftWeight: {
		"shift weight", "Gives the candidate of a release a share of the traffic, once both versions serve.",
		[][2]string{{"weight", "the candidate's weight in percent"}}},
	config.Analyze: {"analyze",
		"Judges the candidate by what Prometheus counted since it got its weight, and takes its traffic away " +
			"the moment it has failed.",
		[][2]string{{"verdict", "pass, fail, inconclusive or error"},
			{"reason", "why, out of a closed list; empty when it passed"}}},
	config.Promote: {"promote",
		"Makes stable what was judged, gives it all the traffic and scales the candidate to zero. Says so where " +
			"there is nothing to promote.",
		[][2]string{{"outcome", "promoted, initialized or unchanged"}}},
	config.Rollback: {
		"rollback", "Sends all traffic to stable, brings stable back to the revision it had and scales the " +
			"candidate to zero. In a Pipeline's finally it undoes its own run; by hand, without " +
			"runId, the last release.",
		[][2]string{{"outcome", "how the release ended"},
			{"git", "the commit, or the address of the pull request, that puts Git right; empty where there is none"}}},
}

// labels is the metadata of an object with this name.
func labels(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/version": version}}
}

// task is the Task of a step, for a Pipeline of at most so many weights.
func task(step string, steps int) *pipelinev1.Task {
	t := &pipelinev1.Task{
		TypeMeta: metav1.TypeMeta{APIVersion: "tekton.dev/v1", Kind: "Task"}, ObjectMeta: labels(step)}
	t.Annotations = map[string]string{
		"tekton.dev/pipelines.minVersion": "0.50.0", "tekton.dev/categories": "Deployment",
		"tekton.dev/tags":        "canary, istio",
		"tekton.dev/displayName": about[step].title, "tekton.dev/platforms": "linux/amd64,linux/arm64",
	}
	// A label, because the webhook selects pods by labels. With an annotation istiod would be
	// asked, and no step could start while it is unavailable.
	t.Labels[workload.InjectLabel] = "false"
	t.Spec.Description = about[step].text
	s := pipelinev1.Step{
		Name: step, Image: "ko://" + module + "/images/" + step, Command: []string{"/ko-app/" + step},
		ComputeResources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")},
		},
	}
	if step == config.Rollback { // a clone of the environment repository is in memory
		s.ComputeResources.Limits[corev1.ResourceMemory] = resource.MustParse("256Mi")
	}
	if step == config.CanaryInit {
		t.Spec.Workspaces = []pipelinev1.WorkspaceDeclaration{
			{Name: source, Description: aboutSource, Optional: true, ReadOnly: true}}
		s.Env = append(s.Env, corev1.EnvVar{Name: "CANARY_SOURCE", Value: "$(workspaces." + source + ".path)"})
	}
	for _, p := range config.Of(step) {
		spec := pipelinev1.ParamSpec{Name: p.Name, Type: pipelinev1.ParamTypeString, Description: describe(p)}
		if p.Name != "target" && p.Name != "weight" && (p.Name != "runId" || step == config.Rollback) {
			spec.Default = pipelinev1.NewStructuredValues(p.TaskDefault())
		}
		t.Spec.Params = append(t.Spec.Params, spec)
		if variable, ok := mounts[p.Name]; ok { // mounted, and not read
			optional, name := true, strings.ToLower(strings.TrimSuffix(p.Name, "Secret"))
			t.Spec.Volumes = append(t.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
				Secret: &corev1.SecretVolumeSource{SecretName: "$(params." + p.Name + ")", Optional: &optional}}})
			s.VolumeMounts = append(
				s.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/etc/canary-tasks/" + name, ReadOnly: true})
			s.Env = append(s.Env, corev1.EnvVar{Name: variable, Value: "/etc/canary-tasks/" + name})
			continue
		}
		s.Env = append(s.Env, corev1.EnvVar{Name: p.Env(), Value: "$(params." + p.Name + ")"})
	}
	for _, r := range results(step, steps) {
		t.Spec.Results = append(
			t.Spec.Results, pipelinev1.TaskResult{Name: r[0], Type: pipelinev1.ResultsTypeString, Description: r[1]})
	}
	s.Env = append(s.Env,
		corev1.EnvVar{Name: "CANARY_RESULTS", Value: "$(results." + t.Spec.Results[0].Name + ".path)"})
	yes, no, user := true, false, int64(65532)
	t.Spec.StepTemplate = &pipelinev1.StepTemplate{SecurityContext: &corev1.SecurityContext{
		RunAsNonRoot: &yes, RunAsUser: &user, ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: &no,
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}}
	t.Spec.Steps = []pipelinev1.Step{s}
	return t
}

// source is the workspace that canary-init reads a specification from, in custom pipelines. Ours
// has none: tkn would ask everybody for it.
const source, aboutSource = "source", "where specFile is: a clone, or a ConfigMap"

// describe is what a parameter is, with the default that the step itself knows.
func describe(p config.Parameter) string {
	text := p.Description + " (" + p.Unit + ")"
	if p.TaskDefault() != p.Default {
		text += "; default " + p.Default
	}
	return text
}

// mounts are the parameters that name a Secret: the step gets its folder, in a variable of its
// environment.
var mounts = map[string]string{ //nolint:gosec // names of variables
	"prometheusSecret": "CANARY_PROMETHEUS_CONFIG",
	"gitSecret":        "CANARY_GIT_SECRETS"}

// results lists the results of a step, each with what it is.
func results(step string, steps int) [][2]string {
	all := slices.Clone(about[step].results)
	if step == config.CanaryInit {
		for n := 1; n <= max(steps, release.MaxWeights); n++ {
			all = append(all, [2]string{
				fmt.Sprintf("weight-%d", n),
				"the candidate's weight number " + fmt.Sprint(n) + " in percent; empty where there is none"})
		}
	}
	return all
}

// people are the parameters of the Pipeline: those that a person gives.
func people() []config.Parameter {
	var given []config.Parameter
	for _, p := range config.Parameters {
		if p.Name == "namespace" {
			p.Default = "$(context.pipelineRun.namespace)"
		}
		if !p.Hidden && p.Name != "weight" { // which canary-init gives
			given = append(given, p)
		}
	}
	return given
}

// pipeline chains the steps: each weight is a task that shifts and a task that judges, skipped
// where canary-init has no such weight.
func pipeline(steps int) *pipelinev1.Pipeline {
	p := &pipelinev1.Pipeline{
		TypeMeta: metav1.TypeMeta{APIVersion: "tekton.dev/v1", Kind: "Pipeline"}, ObjectMeta: labels("canary-release")}
	p.Annotations = map[string]string{
		"tekton.dev/pipelines.minVersion": "0.50.0", "tekton.dev/displayName": "canary release",
		"tekton.dev/categories": "Deployment", "tekton.dev/tags": "canary, istio"}
	p.Spec.Description = "Releases a new version of a Deployment through Istio: a growing share of the traffic, " +
		"judged at each weight, then promoted, or rolled back and red."
	for _, q := range people() {
		spec := pipelinev1.ParamSpec{Name: q.Name, Type: pipelinev1.ParamTypeString, Description: describe(q)}
		if q.Name != "target" {
			spec.Default = pipelinev1.NewStructuredValues(q.TaskDefault())
		}
		p.Spec.Params = append(p.Spec.Params, spec)
	}
	p.Spec.Tasks = append(p.Spec.Tasks, stepTask(config.CanaryInit, "canary init", config.CanaryInit, steps))
	for n := 1; n <= steps; n++ {
		p.Spec.Tasks = append(p.Spec.Tasks, weightTasks(n, steps, p.Spec.Tasks[len(p.Spec.Tasks)-1].Name)...)
	}
	promote := stepTask(config.Promote, "promote", config.Promote, steps)
	promote.RunAfter = []string{p.Spec.Tasks[len(p.Spec.Tasks)-1].Name}
	promote.When = pipelinev1.WhenExpressions{begun}
	p.Spec.Tasks = append(p.Spec.Tasks, promote)
	p.Spec.Finally = rollbackTasks(steps)
	return p
}

// stepTask is the task of a Pipeline that runs a step, with the parameters of the Pipeline.
func stepTask(name, display, step string, steps int) pipelinev1.PipelineTask {
	t := pipelinev1.PipelineTask{Name: name, DisplayName: display, TaskRef: &pipelinev1.TaskRef{Name: step}}
	for _, q := range config.Of(step) {
		value := "$(params." + q.Name + ")"
		switch {
		case q.Name == "runId":
			value = "$(context.pipelineRun.uid)"
		case q.Name == "runName":
			value = "$(context.pipelineRun.name)"
		case q.Name == "maxSteps":
			value = fmt.Sprint(steps)
		case q.Hidden || q.Name == "weight":
			continue
		}
		t.Params = append(t.Params, pipelinev1.Param{Name: q.Name, Value: *pipelinev1.NewStructuredValues(value)})
	}
	return t
}

// weightTasks are the two tasks of weight number n, after another task.
func weightTasks(n, steps int, after string) []pipelinev1.PipelineTask {
	weight := fmt.Sprintf("$(tasks.canary-init.results.weight-%d)", n)
	shift := stepTask(fmt.Sprintf("shift-%d", n), fmt.Sprintf("weight %d: shift", n), config.ShiftWeight, steps)
	shift.Params = append(shift.Params,
		pipelinev1.Param{Name: "weight", Value: *pipelinev1.NewStructuredValues(weight)})
	analyze := stepTask(fmt.Sprintf("analyze-%d", n), fmt.Sprintf("weight %d: analyze", n), config.Analyze, steps)
	shift.RunAfter, analyze.RunAfter = []string{after}, []string{shift.Name}
	when := pipelinev1.WhenExpressions{{Input: weight, Operator: selection.NotIn, Values: []string{""}}}
	shift.When, analyze.When = when, when
	return []pipelinev1.PipelineTask{shift, analyze}
}

// rollbackTasks are those of finally, of which at most one runs. Tekton leaves out a task of
// finally that asks for a result which there is not, so canary-init has one of its own for when it
// did not end well.
func rollbackTasks(steps int) []pipelinev1.PipelineTask {
	rollback := stepTask(config.Rollback, "rollback", config.Rollback, steps)
	rollback.When = pipelinev1.WhenExpressions{
		succeeded(config.CanaryInit, selection.In), begun, succeeded(config.Promote, selection.NotIn)}
	rollbackInit := stepTask("rollback-init", "rollback of canary init", config.Rollback, steps)
	rollbackInit.When = pipelinev1.WhenExpressions{succeeded(config.CanaryInit, selection.NotIn)}
	return []pipelinev1.PipelineTask{rollback, rollbackInit}
}

// begun is true when canary-init began a release.
var begun = pipelinev1.WhenExpression{
	Input: "$(tasks.canary-init.results.outcome)", Operator: selection.NotIn,
	Values: []string{string(release.Initialized), string(release.Unchanged)}}

// succeeded is true when a task succeeded, or when it did not, by the operator.
func succeeded(task string, operator selection.Operator) pipelinev1.WhenExpression {
	return pipelinev1.WhenExpression{
		Input: "$(tasks." + task + ".status)", Operator: operator, Values: []string{"Succeeded"}}
}

// runByAccounts is a run of the Pipeline in which each step has its own account.
func runByAccounts(steps int) *pipelinev1.PipelineRun {
	r := &pipelinev1.PipelineRun{
		TypeMeta:   metav1.TypeMeta{APIVersion: "tekton.dev/v1", Kind: "PipelineRun"},
		ObjectMeta: metav1.ObjectMeta{GenerateName: "canary-release-"}}
	r.Spec.PipelineRef = &pipelinev1.PipelineRef{Name: "canary-release"}
	r.Spec.Timeouts = &pipelinev1.TimeoutFields{
		Pipeline: &metav1.Duration{Duration: 75 * time.Minute}, Tasks: &metav1.Duration{Duration: 55 * time.Minute},
		Finally: &metav1.Duration{Duration: 20 * time.Minute}}
	var accounts []string
	for _, step := range config.StepNames[1:] {
		accounts = append(accounts, step+"="+nameOf(step))
	}
	r.Spec.Params = pipelinev1.Params{{Name: "target", Value: *pipelinev1.NewStructuredValues("shop")},
		{Name: "stepAccounts", Value: *pipelinev1.NewStructuredValues(strings.Join(accounts, ","))}}
	p := pipeline(steps)
	for _, t := range append(p.Spec.Tasks, p.Spec.Finally...) {
		r.Spec.TaskRunSpecs = append(
			r.Spec.TaskRunSpecs,
			pipelinev1.PipelineTaskRunSpec{PipelineTaskName: t.Name, ServiceAccountName: nameOf(t.TaskRef.Name)})
	}
	return r
}

// access is a ServiceAccount with the rules that some steps need. What is optional is a Role of its
// own, which may be left out.
func access(name string, steps ...string) []any {
	objects := []any{&corev1.ServiceAccount{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: metav1.ObjectMeta{Name: name}}}
	role := func(name string, rules []rbacv1.PolicyRule) {
		if len(rules) == 0 {
			return
		}
		objects = append(objects,
			&rbacv1.Role{TypeMeta: metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "Role"},
				ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules},
			&rbacv1.RoleBinding{
				TypeMeta:   metav1.TypeMeta{APIVersion: "rbac.authorization.k8s.io/v1", Kind: "RoleBinding"},
				ObjectMeta: metav1.ObjectMeta{Name: name},
				RoleRef:    rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: name}})
		objects[len(objects)-1].(*rbacv1.RoleBinding).Subjects = []rbacv1.Subject{
			{Kind: "ServiceAccount", Name: objects[0].(*corev1.ServiceAccount).Name}}
	}
	role(name, rules("", steps))
	role(name+"-secrets", rules("secrets", steps))
	if len(steps) == 1 { // the shared account neither detaches nor asks about other accounts
		role(name+"-detach", rules("detach", steps))
		role(name+"-reviews", rules("reviews", steps))
	}
	return objects
}

// accountOf is an account for one step alone, with the rules it needs.
func accountOf(step string) []any { return access(nameOf(step), step) }

// nameOf is the name of a step's account.
func nameOf(step string) string {
	if step == config.CanaryInit {
		return step
	}
	return "canary-" + step
}

// rules merges the permissions of some steps: one rule for each resource.
func rules(role string, steps []string) []rbacv1.PolicyRule {
	verbs := map[[2]string]map[string]bool{}
	var order [][2]string
	for _, p := range release.Permissions {
		if p.InRole() != role ||
			!slices.ContainsFunc(steps, func(s string) bool { return slices.Contains(p.Steps, s) }) {
			continue
		}
		key := [2]string{p.Group, p.Resource}
		if verbs[key] == nil {
			verbs[key] = map[string]bool{}
			order = append(order, key)
		}
		for _, v := range p.Verbs {
			verbs[key][v] = true
		}
	}
	var merged []rbacv1.PolicyRule
	for _, key := range order {
		merged = append(merged,
			rbacv1.PolicyRule{
				APIGroups: []string{key[0]}, Resources: []string{key[1]}, Verbs: slices.Sorted(maps.Keys(verbs[key]))})
	}
	return merged
}

// asYAML writes objects without what is empty.
func asYAML(objects ...any) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# Generated by make generate.\n")
	for i, o := range objects {
		j, err := json.Marshal(o)
		if err != nil {
			return nil, err
		}
		var v map[string]any
		if err := json.Unmarshal(j, &v); err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteString("---\n")
		}
		e := yaml.NewEncoder(&b)
		e.SetIndent(2)
		e.CompactSeqIndent()
		if err := errors.Join(e.Encode(node(pruned(v))), e.Close()); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// before are the keys that come first in an object, as people write them; the others follow by
// their names.
var before = []string{
	"apiVersion", "kind", "metadata", "name", "displayName", "type", "description", "default", "input", "operator",
	"image", "command",
	"taskRef", "runAfter", "when", "params", "workspaces", "results", "stepTemplate", "steps", "tasks", "finally"}

// node orders the keys of objects.
func node(v any) *yaml.Node {
	n := &yaml.Node{}
	switch v := v.(type) {
	case map[string]any:
		n.Kind = yaml.MappingNode
		rank := func(key string) int {
			if i := slices.Index(before, key); i >= 0 {
				return i
			}
			return len(before)
		}
		for _, key := range slices.SortedFunc(
			maps.Keys(v), func(a, b string) int { return cmp.Or(rank(a)-rank(b), cmp.Compare(a, b)) }) {
			n.Content = append(n.Content, node(key), node(v[key]))
		}
	case []any:
		n.Kind = yaml.SequenceNode
		for _, item := range v {
			n.Content = append(n.Content, node(item))
		}
	default:
		if err := n.Encode(v); err != nil {
			panic(err) // a string, a number or a truth value
		}
	}
	return n
}

// pruned leaves out what the types of an API write although it was not set.
func pruned(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			if p := pruned(value); p == nil || key == "creationTimestamp" {
				delete(v, key)
			} else {
				v[key] = p
			}
		}
		if len(v) == 0 {
			return nil
		}
	case []any:
		for i := range v {
			if p := pruned(v[i]); p != nil {
				v[i] = p
			}
		}
	}
	return v
}

// oneLine is a text for a cell of a table.
func oneLine(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
