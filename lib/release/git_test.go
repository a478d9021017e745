package release

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

func TestNameAndVersion(t *testing.T) {
	t.Parallel()
	image := func(image string) map[string]any {
		return map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"image": image}}}}
	}
	for _, c := range []struct {
		v             Version
		name, version string
	}{
		{Version{Chart: "shop-1.2.3"}, "shop", "1.2.3"},
		{Version{Chart: "web-2-shop-v1.2.3-rc.1_5"}, "web-2-shop", "v1.2.3-rc.1+5"},
		{Version{Chart: "shop", Template: image("reg:5000/shop:1.2.3@sha256:0")}, "", "1.2.3"},
		{Version{Template: image("reg:5000/shop")}, "", ""},
		{Version{Template: image("shop:latest")}, "", ""},
	} {
		if name, version := nameAndVersion(c.v); name != c.name || version != c.version {
			t.Errorf("%+v: %q %q", c.v, name, version)
		}
	}
}

// After a rollback Git is told, and only then; what goes wrong there changes nothing of where traffic goes.
func TestPutGitRight(t *testing.T) {
	t.Parallel()
	git := config.Git{Mode: "commit", Repository: "https://git.example.com/env.git", Environment: "production"}
	for _, c := range []struct {
		desc   string
		git    config.Git
		wrong  config.Problems
		answer error
		code   report.Code
		says   string // in the error
		logs   string
		asks   int
	}{
		{desc: "a commit", git: git, asks: 1, logs: "jx promote -b --app shop --version 1 --env production --no-poll"},
		{desc: "no repository", git: config.Git{Mode: "pull-request"}, logs: "Git: shop has to say 1, not 2: jx promote"},
		{desc: "off", git: config.Git{Mode: "off", Repository: git.Repository}, asks: 1, logs: "-version: 2"},
		{desc: "off, and no answer", git: config.Git{Mode: "off", Repository: git.Repository}, answer: errors.New("no route to host"), asks: 1, logs: "the edit cannot be shown: no route"},
		{desc: "Git away", git: git, answer: errors.New("no route to host"), code: report.GitPending,
			says: "no route to host. What is left to do: jx promote -b --app shop --version 1", asks: 1},
		{desc: "misconfigured", git: git, wrong: config.Problems{{Parameter: "gitProvider", Value: "x", Remedy: "give github"}}, code: report.GitPending, says: "parameter gitProvider"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			a := afterInit(t)
			a.apply(strings.Replace(shop("2"), "name: shop, ", "name: shop, annotations: {meta.helm.sh/release-name: shop-eu}, ", 1))
			must(t, a.init("run-2"), a.shift("run-2", 20))
			r := a.step("rollback", "run-2")
			var log strings.Builder
			r.Report.Out = &log
			r.Step.Git, r.Step.GitProblems = c.git, c.wrong
			asked := 0
			var undo Undo
			r.PutRight = func(_ context.Context, _ config.Git, u Undo) (Righted, error) {
				asked, undo = asked+1, u
				return Righted{Edit: "f:1\n-version: 2\n+version: 1"}, c.answer
			}
			if err := r.Rollback(t.Context()); c.code == report.Done {
				must(t, err)
			} else {
				wantCode(t, err, c.code, c.says)
			}
			if !strings.Contains(log.String(), c.logs) || asked != c.asks {
				t.Errorf("asked %d times, want %d:\n%s", asked, c.asks, log.String())
			}
			if c.asks > 0 && (undo.App != "shop" || undo.Release != "shop-eu" || undo.From != "2" || undo.To != "1" || !strings.HasPrefix(undo.Message, "fix: shop back to 1\n\nThe canary release of 2 ended as aborted") || !strings.Contains(undo.Message, "Run: run-2")) {
				t.Errorf("%+v", undo)
			}
			if s := a.step("rollback", "run-9"); true { // of another run: nothing to undo
				s.Step.Git, s.PutRight = c.git, r.PutRight
				must(t, s.Rollback(t.Context()))
			}
			if asked != c.asks {
				t.Error("a run that undid nothing changed Git")
			}
			r = a.step("rollback", "run-2") // once more, as after a lost answer
			r.Step.Git, r.PutRight = git, func(context.Context, config.Git, Undo) (Righted, error) { asked++; return Righted{}, nil }
			must(t, r.Rollback(t.Context()))
			if asked != c.asks+1 {
				t.Error("once more, Git is not looked at")
			}
		})
	}
}
