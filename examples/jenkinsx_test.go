// Package examples has only tests: that what people copy is what Tekton, Jenkins X and the steps
// themselves read.
package examples

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"text/template"

	"github.com/google/go-cmp/cmp"
	"github.com/sethvargo/go-envconfig"
	pipelinev1 "github.com/tektoncd/pipeline/pkg/apis/pipeline/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/canary-tasks/canary-tasks/examples/jenkinsx2"
	"github.com/canary-tasks/canary-tasks/lib/canary"
	"github.com/canary-tasks/canary-tasks/lib/config"
)

// read reads a file strictly: a field that the type does not have is an error.
func read(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(text, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// inProject is the file of this project that the git resolver is to fetch.
func inProject(t *testing.T, ref pipelinev1.ResolverRef) string {
	t.Helper()
	params := map[string]string{}
	for _, p := range ref.Params {
		params[p.Name] = p.Value.StringVal
	}
	path := params["pathInRepo"]
	delete(params, "pathInRepo")
	want := map[string]string{"url": "https://github.com/canary-tasks/canary-tasks.git", "revision": "v0.1.0"}
	if diff := cmp.Diff(want, params); ref.Resolver != "git" || diff != "" {
		t.Errorf("resolver %q (-want, +got)\n%s", ref.Resolver, diff)
	}
	return filepath.Join("..", path)
}

// checkParams finds parameters that are not there, and those without a default that are not given.
func checkParams(t *testing.T, desc string, given pipelinev1.Params, has pipelinev1.ParamSpecs) {
	t.Helper()
	for _, p := range given {
		if !slices.ContainsFunc(has, func(s pipelinev1.ParamSpec) bool { return s.Name == p.Name }) {
			t.Errorf("%s has no parameter %s", desc, p.Name)
		}
	}
	for _, s := range has {
		if s.Default == nil && !slices.ContainsFunc(given, func(p pipelinev1.Param) bool { return p.Name == s.Name }) {
			t.Errorf("%s is not given %s", desc, s.Name)
		}
	}
}

// pipelineRun reads a PipelineRun as Tekton does, and lets Tekton validate it.
func pipelineRun(t *testing.T, path string) pipelinev1.PipelineRun {
	t.Helper()
	var run pipelinev1.PipelineRun
	read(t, path, &run)
	if run.Name == "" && run.GenerateName != "" { // which the API server does before Tekton is asked
		run.Name = run.GenerateName + "x"
	}
	run.SetDefaults(t.Context())
	if err := run.Validate(t.Context()); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if got := run.Spec.TaskRunTemplate.ServiceAccountName; got != "tekton-bot" {
		t.Errorf("%s: account %s", path, got)
	}
	return run
}

const jenkinsX3 = "jenkins-x-v3/.lighthouse/jenkins-x/"

func TestJenkinsX3(t *testing.T) {
	t.Parallel()
	run := pipelineRun(t, jenkinsX3+"release.yaml")
	spec := run.Spec.PipelineSpec
	var order, weights []string
	for _, task := range append(slices.Clone(spec.Tasks), spec.Finally...) {
		order = append(order, strings.Join(task.RunAfter, ",")+"->"+task.Name)
		if task.TaskRef == nil {
			continue
		}
		var found pipelinev1.Task
		path := inProject(t, task.TaskRef.ResolverRef)
		read(t, path, &found)
		checkParams(t, task.Name, task.Params, found.Spec.Params)
		given := map[string]string{}
		for _, p := range task.Params {
			given[p.Name] = p.Value.StringVal
			if slices.ContainsFunc(spec.Finally, func(f pipelinev1.PipelineTask) bool { return f.Name == task.Name }) &&
				strings.Contains(p.Value.StringVal, ".results.") {
				t.Errorf("%s uses a result, without which it would be skipped", task.Name)
			}
			if p.Name == "weight" {
				weights = append(weights, p.Value.StringVal)
			}
		}
		for name, want := range map[string]string{
			"target": "$(params.target)", "namespace": "jx-production", "runId": "$(context.pipelineRun.uid)",
			"runName": "$(context.pipelineRun.name)"} {
			if given[name] != want {
				t.Errorf("%s: %s is %q, want %q", task.Name, name, given[name], want)
			}
		}
		for _, when := range task.When {
			if verb, n, _ := strings.Cut(task.Name, "-"); (verb == "shift" || verb == "analyze") &&
				when.Input != "$(tasks.canary-init.results.weight-"+n+")" {
				t.Errorf("%s when %s", task.Name, when.Input)
			}
		}
		if task.Name != config.CanaryInit {
			continue
		}
		if given["maxSteps"] != "3" {
			t.Errorf("maxSteps is %q", given["maxSteps"])
		}
		// The Canary that the chart renders in production claims no more than the run lets it.
		env := map[string]string{
			"CANARY_TARGET": "shop", "CANARY_NAMESPACE": given["namespace"], "CANARY_RUN_NAMESPACE": "jx",
			"CANARY_RUN_ID": "1",
			"CANARY_SPEC": string(
				render(t, "canary.yaml", production(t, "jenkins-x-v3/helmfiles/jx-production/shop-values.yaml", ""))),
			"CANARY_ALLOW": strings.ReplaceAll(given["allow"], "$(params.target)", "shop")}
		if _, err := config.LoadInit(t.Context(), envconfig.MapLookuper(env)); err != nil {
			t.Error(err)
		}
	}
	want := []string{"->from-build-pack", "from-build-pack->canary-init", "canary-init->shift-1", "shift-1->analyze-1",
		"analyze-1->shift-2", "shift-2->analyze-2",
		"analyze-2->shift-3", "shift-3->analyze-3", "analyze-3->promote", "->rollback", "->rollback-init"}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
	if got := strings.Join(
		weights, " "); got != "$(tasks.canary-init.results.weight-1) $(tasks.canary-init.results.weight-2) "+
		"$(tasks.canary-init.results.weight-3)" {
		t.Errorf("weights %s", got)
	}

	again := pipelineRun(t, "jenkins-x-v3/release-by-hand.yaml")
	var pipeline pipelinev1.Pipeline
	read(t, inProject(t, again.Spec.PipelineRef.ResolverRef), &pipeline)
	checkParams(t, "the Pipeline", again.Spec.Params, pipeline.Spec.Params)
}

// triggers is as much of Lighthouse's TriggerConfig as the example uses.
type triggers struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       struct {
		Postsubmits []struct {
			Name              string   `json:"name"`
			Context           string   `json:"context"`
			Source            string   `json:"source"`
			Branches          []string `json:"branches"`
			PipelineRunParams []struct {
				Name          string `json:"name"`
				ValueTemplate string `json:"value_template"`
			} `json:"pipeline_run_params"`
		} `json:"postsubmits"`
	} `json:"spec"`
}

// helmfile is as much of a helmfile as the example uses.
type helmfile struct {
	Namespace    string `json:"namespace"`
	Repositories []struct {
		Name string `json:"name"`
		URL  string `json:"url"`
	} `json:"repositories"`
	Releases []struct {
		Chart   string   `json:"chart"`
		Name    string   `json:"name"`
		Version string   `json:"version"`
		Values  []string `json:"values"`
	} `json:"releases"`
}

// Each application has a run of its own, and the helmfile knows its version.
func TestTriggers(t *testing.T) {
	t.Parallel()
	var got triggers
	read(t, jenkinsX3+"triggers.yaml", &got)
	var has helmfile
	read(t, "jenkins-x-v3/helmfiles/jx-production/helmfile.yaml", &has)
	if got.APIVersion != "config.lighthouse.jenkins-x.io/v1alpha1" || got.Kind != "TriggerConfig" {
		t.Errorf("%s %s", got.APIVersion, got.Kind)
	}
	var targets, releases []string
	for _, p := range got.Spec.Postsubmits {
		run := pipelineRun(t, jenkinsX3+p.Source)
		for _, param := range p.PipelineRunParams {
			targets = append(targets, param.ValueTemplate)
			if !slices.ContainsFunc(run.Spec.Params, func(q pipelinev1.Param) bool { return q.Name == param.Name }) {
				t.Errorf("%s has no parameter %s", p.Source, param.Name)
			}
		}
		if want := "release-" + targets[len(targets)-1]; p.Name != want || p.Context != want {
			t.Errorf("postsubmit %s, context %s, want %s", p.Name, p.Context, want)
		}
	}
	for _, r := range has.Releases {
		releases = append(releases, r.Name)
	}
	slices.Sort(targets)
	if slices.Sort(releases); len(targets) < 2 || !slices.Equal(targets, releases) {
		t.Errorf("runs for %v, releases %v", targets, releases)
	}
}

// The account of namespace jx gets the Roles that are shipped, in the namespace of the
// applications.
func TestRoleBindings(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("jenkins-x-v3/rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := os.ReadFile("../pipelines/canary-release/rbac.yaml")
	if err != nil {
		t.Fatal(err)
	}
	roles := map[string]bool{}
	for _, part := range append(strings.Split(string(shipped), "---\n"), strings.Split(string(text), "---\n")...) {
		var role rbacv1.Role
		if err := yaml.UnmarshalStrict([]byte(part), &role); err == nil && role.Kind == "Role" {
			roles[role.Name] = true
		}
	}
	var bound []string
	for _, part := range strings.Split(string(text), "---\n") {
		var binding rbacv1.RoleBinding
		if err := yaml.UnmarshalStrict([]byte(part), &binding); err != nil || binding.Kind != "RoleBinding" {
			continue
		}
		bound = append(bound, binding.Namespace+"/"+binding.RoleRef.Name)
		want := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "tekton-bot", Namespace: "jx"}}
		if diff := cmp.Diff(want, binding.Subjects); diff != "" || !roles[binding.RoleRef.Name] {
			t.Errorf("%s of Role %s (-want, +got)\n%s", binding.Name, binding.RoleRef.Name, diff)
		}
	}
	if diff := cmp.Diff(
		[]string{"jx-production/canary-tasks", "jx-production/canary-tasks-secrets", "jx/canary-tasks-runs"},
		bound); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
}

// released are the containers of a jenkins-x.yml that are run after a merge.
func released(t *testing.T, path string) []jenkinsx2.Container {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	all, err := jenkinsx2.Released(text)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return all
}

// shell runs a container's line as Jenkins X does, with a program in the place of others that
// prints what it is given.
func shell(t *testing.T, c jenkinsx2.Container, program, prints string) string {
	t.Helper()
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, program), []byte("#!/bin/sh\n"+prints+"\n"), 0o700); err != nil {
		//nolint:gosec // it is a program
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", strings.ReplaceAll(c.Line, "/ko-app/", folder+"/"))
	cmd.Env = []string{"PATH=" + folder + ":/usr/bin:/bin", "JOB_NAME=acme/environment/master", "BUILD_NUMBER=7"}
	for name, value := range c.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", c.Line, err, out)
	}
	return strings.TrimSpace(string(out))
}

// The steps get, through /bin/sh -c, a configuration that they take, and all the same run.
func TestJenkinsX2(t *testing.T) {
	t.Parallel()
	var order []string
	var weights, judged []config.Percent
	for _, c := range released(t, "jenkins-x-v2/jenkins-x.yml") {
		order = append(order, c.Name)
		_, program, ours := strings.Cut(c.Line, "/ko-app/")
		if !ours {
			continue
		}
		if want := "registry.example.com/canary-tasks/" + program + ":v0.1.0-shell"; c.Image != want {
			t.Errorf("%s: image %s, want %s", c.Name, c.Image, want)
		}
		env := map[string]string{}
		for line := range strings.Lines(shell(t, c, program, "env")) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			env[name] = value
		}
		s, err := config.LoadStep(t.Context(), program, envconfig.MapLookuper(env))
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		want := config.Step{
			Namespace: "jx-production", Target: "shop", RunID: "acme/environment/master-7", RunName: s.RunName,
			OnFailure: config.Rollback, Weight: s.Weight, Allow: s.Allow}
		if diff := cmp.Diff(want, s); diff != "" {
			t.Errorf("%s (-want, +got)\n%s", c.Name, diff)
		}
		switch program {
		case config.CanaryInit:
			// which canary-init gets from the cluster
			env["CANARY_SPEC"] = string(render(t, "canary.yaml", production(t, "jenkins-x-v2/env/values.yaml", "shop")))
			full, err := config.LoadInit(t.Context(), envconfig.MapLookuper(env))
			if err != nil {
				t.Fatal(err)
			}
			weights = full.Weights
		case config.ShiftWeight:
			judged = append(judged, s.Weight)
		}
	}
	if diff := cmp.Diff(
		[]string{"helm-apply", "canary-init", "shift-weight1", "analyze1", "shift-weight2", "analyze2", "shift-weight3",
			"analyze3", "promote"}, order); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
	if !slices.Equal(weights, judged) || len(weights) == 0 {
		t.Errorf("canary-init has the weights %v, the loop %v", weights, judged)
	}
}

// The one step starts the shipped Pipeline, with parameters that it has.
func TestJenkinsX2ByTkn(t *testing.T) {
	t.Parallel()
	all := released(t, "jenkins-x-v2/jenkins-x-tkn.yml")
	args := strings.Split(shell(t, all[len(all)-1], "tkn", `printf '%s\n' "$@"`), "\n")
	var pipeline pipelinev1.Pipeline
	read(t, "../pipelines/canary-release/canary-release.yaml", &pipeline)
	var given pipelinev1.Params
	for i, arg := range args {
		if name, value, _ := strings.Cut(arg, "="); i > 0 && args[i-1] == "-p" {
			given = append(given, pipelinev1.Param{Name: name, Value: *pipelinev1.NewStructuredValues(value)})
		}
	}
	checkParams(t, "the Pipeline", given, pipeline.Spec.Params)
	if !slices.Equal(args[:3], []string{"pipeline", "start", pipeline.Name}) || !slices.Contains(args, "-E") ||
		!slices.Contains(args, "--showlog") {
		t.Errorf("tkn %q", args)
	}
}

// production are the chart's values with those of a file over them, which may stand under a key.
func production(t *testing.T, path, key string) map[string]any {
	t.Helper()
	values, over := map[string]any{}, map[string]any{}
	read(t, "chart/values.yaml", &values)
	read(t, path, &over)
	if key != "" {
		over, _ = over[key].(map[string]any)
	}
	return merged(values, over)
}

func merged(values, over map[string]any) map[string]any {
	for key, value := range over {
		inner, ok := value.(map[string]any)
		if old, has := values[key].(map[string]any); ok && has {
			value = merged(old, inner)
		}
		values[key] = value
	}
	return values
}

// render renders a template of the chart. Helm has more to offer to templates than this; the chart
// does not use it.
func render(t *testing.T, name string, values map[string]any) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("chart/templates", name))
	if err != nil {
		t.Fatal(err)
	}
	chart := map[string]any{}
	read(t, "chart/Chart.yaml", &chart)
	parsed, err := template.New(name).Option("missingkey=error").Funcs(template.FuncMap{
		"replace": func(from, to, text string) string { return strings.ReplaceAll(text, from, to) },
		"toYaml": func(v any) (string, error) {
			text, err := yaml.Marshal(v)
			return strings.TrimSuffix(string(text), "\n"), err
		},
		"indent": func(n int, text string) string {
			spaces := strings.Repeat(" ", n)
			return spaces + strings.ReplaceAll(text, "\n", "\n"+spaces)
		},
	}).Parse(string(text))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := parsed.Execute(
		&b, map[string]any{
			"Values": values, "Chart": map[string]any{
				"Name": chart["name"], "Version": chart["version"]}}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The block of the chart, with what production says, and the Canary that is made of it say the same
// to canary-init, but for what the chart's template adds: gateways, and the Service's own name as a
// host.
func TestChart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ desc, path, key string }{
		{"v2", "jenkins-x-v2/env/values.yaml", "shop"},
		{"v3", "jenkins-x-v3/helmfiles/jx-production/shop-values.yaml", ""},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			values := production(t, c.path, c.key)
			block, err := yaml.Marshal(values)
			if err != nil {
				t.Fatal(err)
			}
			want := canary.Spec{
				Values: map[string]string{
					"port": "80", "hosts": "shop.example.com", "progressDeadlineSeconds": "60", "interval": "1m",
					"threshold": "5",
					"maxWeight": "60", "stepWeight": "20", "requestSuccessRate": "99", "requestDuration": "500ms"},
				Warnings: []string{
					"canary.host is for callers inside of the mesh, unless parameter gateways names a gateway as well"}}
			got, err := canary.Read(block)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("the values: %v (-want, +got)\n%s", err, diff)
			}
			want.Target, want.Warnings = "shop", nil
			want.Values["hosts"], want.Values["gateways"] = "shop.example.com,shop", "shop,mesh"
			got, err = canary.Read(render(t, "canary.yaml", values))
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("the Canary: %v (-want, +got)\n%s", err, diff)
			}
		})
	}
}

// With a canary the chart has no Service: Helm would set the selector back at each release.
func TestChartWithAndWithoutCanary(t *testing.T) {
	t.Parallel()
	off, on := map[string]any{}, production(t, "jenkins-x-v2/env/values.yaml", "shop")
	read(t, "chart/values.yaml", &off)
	for _, name := range []string{"service.yaml", "canary.yaml"} {
		if got, want := len(bytes.TrimSpace(render(t, name, off))) > 0, name == "service.yaml"; got != want {
			t.Errorf("%s without a canary: %v", name, got)
		}
		if got, want := len(bytes.TrimSpace(render(t, name, on))) > 0, name == "canary.yaml"; got != want {
			t.Errorf("%s with a canary: %v", name, got)
		}
	}
	var service corev1.Service
	if err := yaml.UnmarshalStrict(render(t, "service.yaml", off), &service); err != nil {
		t.Fatal(err)
	}
	var deployment appsv1.Deployment
	if err := yaml.UnmarshalStrict(render(t, "deployment.yaml", on), &deployment); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(deployment.Spec.Selector.MatchLabels, service.Spec.Selector); diff != "" ||
		deployment.Labels["chart"] != "shop-1.0.0" {
		t.Errorf("chart %s (-Deployment, +Service)\n%s", deployment.Labels["chart"], diff)
	}
}
