package config

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/canary-tasks/canary-tasks/lib/show"
)

// Whatever a parameter is: either it is a mistake, each on a line of its own, or the configuration
// can be used, and reads from the record as it was.
func FuzzLoadInit(f *testing.F) {
	parameters := Of(CanaryInit)
	add := func(name, value string) {
		f.Add(uint8(slices.IndexFunc(parameters, func(p Parameter) bool { return p.Name == name })), value)
	}
	for name, value := range map[string]string{
		"stepWeights": "5,20,50", "stepWeight": "3", "interval": "1h30m", "threshold": "1000",
		"hosts": "*.example.com,shop", "gateways": "istio-system/a,mesh",
		"requestSuccessRate": "99.5", "requestDuration": "off", "prometheus": "http://me:secret@h/?a#b",
		"alpha": "0.05", "acceptUncovered": "Kind/name", "git": "commit", "gitRepository": "git@h:a/b.git",
		"deadline": "9000h", "port": "http", "expect": "a\nb",
		"metrics": "[{name: a, query: up, thresholdRange: {max: 1e308}, interval: 1m, templateVariables: {a: b}}]",
		"spec": "kind: Canary\napiVersion: flagger.app/v1beta1\nspec: {targetRef: {name: shop}, analysis: " +
			"{interval: 1m, threshold: 5, metrics: [{name: a, query: b, thresholdRange: {min: 1}}]}}"} {
		add(name, value)
	}
	f.Fuzz(func(t *testing.T, which uint8, value string) {
		p := parameters[int(which)%len(parameters)]
		c, err := LoadInit(t.Context(), environment(CanaryInit, p.Env(), value))
		if err != nil {
			problems := AsProblems(err)
			if len(problems) == 0 || len(problems) > 1000 {
				t.Errorf("%d mistakes: %v", len(problems), err)
			}
			checkLines(t, problems)
			return
		}
		if len(c.Weights) == 0 || !slices.IsSorted(c.Weights) || c.Weights[len(c.Weights)-1] > 100 ||
			c.Longest() > c.Deadline.Duration || c.Longest() <= 0 {
			t.Errorf("%v, %s of %s", c.Weights, c.Longest(), c.Deadline)
		}
		b, err := json.Marshal(c)
		var back Config
		if err != nil || json.Unmarshal(b, &back) != nil {
			t.Fatalf("%s: %v", b, err)
		}
		again, err := json.Marshal(back)
		if diff := cmp.Diff(string(b), string(again)); diff != "" || err != nil {
			t.Errorf("out of the record (-want, +got) %v\n%s", err, diff)
		}
	})
}

// checkLines checks that each mistake is one line.
func checkLines(t *testing.T, problems Problems) {
	t.Helper()
	for _, problem := range problems {
		if line := problem.String(); show.Line(line) != line {
			t.Errorf("%q is not one line", line)
		}
	}
}

// A step that has to put traffic back takes whatever else it is given.
func FuzzLoadStep(f *testing.F) {
	f.Add("git@h:a/b.git", "pull-request", "run\n1", "rollback")
	f.Add("https://me:secret@h/a", "commit", "", "detach")
	f.Add(":", "off", "a", "")
	f.Fuzz(func(t *testing.T, repository, git, run, mode string) {
		s, err := LoadStep(
			t.Context(), Rollback,
			environment(Rollback, "CANARY_GIT_REPOSITORY", repository, "CANARY_GIT", git, "CANARY_RUN_NAME", run,
				"CANARY_MODE", mode))
		if problems := AsProblems(err); err != nil && (len(problems) != 1 || !problems.Names("mode")) {
			t.Errorf("%v", err)
		}
		if err == nil && (s.Target != "shop" || s.Namespace != "web") {
			t.Errorf("%+v", s)
		}
		checkLines(t, s.GitProblems)
	})
}

// A duration is written as it is read.
func FuzzDuration(f *testing.F) {
	for _, text := range []string{"1m", "1h30m", "0s", "-1ns", "2562047h47m16.854775807s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var d, back Duration
		if d.UnmarshalText([]byte(text)) != nil {
			return
		}
		b, err := d.MarshalText()
		if err != nil || back.UnmarshalText(b) != nil || back != d {
			t.Errorf("%s is %s, %s: %v", text, d.Duration, back, err)
		}
	})
}
