package release

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
		{Version{Chart: "shop-1.2.2\n  hooks: [{events: [presync], command: sh}]"}, "", ""},
		{Version{Chart: "shop-1.2.2: x"}, "", ""},
		{Version{Chart: "shop-1.2.2-rc_1_5"}, "", ""},
		{Version{Chart: "shop\n-1.2.2"}, "", ""},
		{Version{Chart: "$(id)-1.2.2"}, "", ""},
		{Version{Template: image("shop:1.2.2\n  hooks: []")}, "", ""},
		{Version{Template: image("shop:{{1}}")}, "", ""},
	} {
		if name, version := nameAndVersion(c.v); name != c.name || version != c.version {
			t.Errorf("%+v: %q %q", c.v, name, version)
		}
	}
}

// Which application is edited is never up to its own objects or to the record, which give its
// versions.
func TestUndo(t *testing.T) {
	t.Parallel()
	image := func(tag string) map[string]any {
		return map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"image": "shop:" + tag}}}}
	}
	for _, c := range []struct {
		desc                string
		candidate, promoted Version
		git                 config.Git
		want                Undo
		says                string
	}{
		{"the target's chart", Version{Chart: "shop-1.3.0", Release: "shop"}, Version{Chart: "shop-1.2.9"},
			config.Git{}, Undo{App: "shop", Release: "shop", From: "1.3.0", To: "1.2.9"}, ""},
		{"its image", Version{Template: image("v7")}, Version{Template: image("v6")}, config.Git{},
			Undo{App: "shop", From: "v7", To: "v6"}, ""},
		{"another chart", Version{Chart: "payments-1.2.2"}, Version{Chart: "payments-1.2.1"}, config.Git{}, Undo{},
			"is called payments, by its label helm.sh/chart or chart: set gitApp"},
		{"another chart, by another release", Version{Chart: "payments-1.2.2", Release: "payments"}, Version{},
			config.Git{}, Undo{}, "set gitApp"},
		{"another chart that gitApp allows for", Version{Chart: "service-1.2.2", Release: "payments"},
			Version{Chart: "service-1.2.1"}, config.Git{App: "store"}, Undo{App: "store", From: "1.2.2", To: "1.2.1"},
			""},
		{"another chart, where gitPath says what is edited", Version{Chart: "service-1.2.2"},
			Version{Chart: "service-1.2.1"}, config.Git{Path: []string{"version"}},
			Undo{App: "shop", From: "1.2.2", To: "1.2.1"}, ""},
		{"another chart before", Version{Chart: "shop-1.3.0"}, Version{Chart: "payments-1.2.1"}, config.Git{},
			Undo{App: "shop", From: "1.3.0"}, ""},
		{"no chart before", Version{Chart: "shop-1.3.0"}, Version{Template: image("v6")}, config.Git{},
			Undo{App: "shop", From: "1.3.0"}, ""},
		{"no version before", Version{Chart: "shop-1.3.0"},
			Version{Chart: "shop-1.2.2\n  hooks: []", Template: image("v6")}, config.Git{},
			Undo{App: "shop", From: "1.3.0"}, ""},
		{"a release that is none", Version{Chart: "shop-1.3.0", Release: "shop]\n"}, Version{Chart: "shop-1.2.9"},
			config.Git{}, Undo{App: "shop", From: "1.3.0", To: "1.2.9"}, ""},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			record := &Record{
				Candidate: c.candidate, Promoted: c.promoted,
				Config: config.Config{Target: "payments", Namespace: "other"}}
			got, err := undo(record, c.git, "shop", "web")
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) || got.From != "" {
					t.Errorf("%+v: %v", got, err)
				}
				return
			}
			c.want.Namespace, c.want.Message = "web", got.Message
			if err != nil || got != c.want {
				t.Errorf("%+v, want %+v: %v", got, c.want, err)
			}
		})
	}
}

// What people and programs wrote cannot add a line to a commit, nor a link, a mention or a command.
func TestUndoMessage(t *testing.T) {
	t.Parallel()
	evil := "x\n\nSigned-off-by: Eve\r\u2028\u202e/approve [skip ci] @team closes #1 `x` <b>\x1b[31m" +
		strings.Repeat("y", 5000)
	record := &Record{
		Outcome: Outcome(evil), Reason: evil, Run: evil, RunNamespace: evil,
		Candidate: Version{Chart: "shop-2", Revision: evil, Template: map[string]any{}}}
	u, err := undo(record, config.Git{}, "shop", "web")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(u.Message, "\n"); len(lines) != 9 || len(u.Message) > 3000 {
		t.Errorf("%d lines, %d bytes:\n%s", len(lines), len(u.Message), u.Message)
	}
	for _, never := range []string{"[skip", "@", "#", "`", "<", "\r", "\x1b", "\u2028", "\u202e"} {
		if strings.Contains(u.Message, never) {
			t.Errorf("the message has %q:\n%s", never, u.Message)
		}
	}
}

// A chart that is called otherwise than the application is found by canary-init, and refused by
// rollback.
func TestForeignChart(t *testing.T) {
	t.Parallel()
	repository := config.Git{Mode: "commit", Repository: "https://git.example.com/env.git"}
	off := config.Git{Mode: "off", Repository: repository.Repository}
	named := repository
	named.App = "shop"
	for _, c := range []struct {
		desc    string
		git     config.Git
		refused bool // by canary-init
		asks    int  // of Git, by rollback
		code    report.Code
		logs    string
	}{
		{"a repository", repository, true, 0, report.GitPending, ""},
		{"gitApp", named, false, 1, report.Done, ""},
		{"off", off, false, 0, report.Done, "is called payments"},
		{"no repository", config.Git{Mode: "commit"}, false, 0, report.Done, "is called payments"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			a := afterInit(t)
			a.apply(strings.Replace(
				shop("2"), "labels: {app: shop}", "labels: {app: shop, helm.sh/chart: payments-1.2.2}", 1))
			before := a.objects["configmaps/shop-canary-release"]["data"]
			cfg := testConfig("run-2")
			cfg.Git = c.git
			err := a.initWith(cfg)
			if c.refused {
				wantCode(t, err, report.Misconfig,
					"parameter gitApp is missing: the chart of Deployment shop is called payments")
				if diff := cmp.Diff(before, a.objects["configmaps/shop-canary-release"]["data"]); diff != "" {
					t.Errorf("something was changed\n%s", diff)
				}
				err = a.init("run-2") // an older canary-init
			}
			must(t, err, a.shift("run-2", 20))
			r := a.step("rollback", "run-2")
			var log strings.Builder
			r.Report.Out, r.Step.Git = &log, c.git
			asked := 0
			r.PutRight = func(_ context.Context, _ config.Git, u Undo) (Righted, error) {
				if asked++; u.App != "shop" {
					t.Errorf("%+v", u)
				}
				return Righted{}, nil
			}
			if err := r.Rollback(t.Context()); c.code == report.Done {
				must(t, err)
			} else {
				wantCode(t, err, c.code, "Git was not put right: the chart of Deployment shop is called payments")
			}
			if asked != c.asks || !strings.Contains(log.String(), c.logs) ||
				strings.Contains(log.String(), "--app payments") {
				t.Errorf("asked %d times, want %d:\n%s", asked, c.asks, log.String())
			}
		})
	}
}

// After a rollback Git is told, and only then; what goes wrong there changes nothing of where
// traffic goes.
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
		{desc: "no repository", git: config.Git{Mode: "pull-request"},
			logs: "Git: shop has to say 1, not 2: jx promote"},
		{desc: "off", git: config.Git{Mode: "off", Repository: git.Repository}, asks: 1, logs: "-version: 2"},
		{desc: "off, and no answer", git: config.Git{Mode: "off", Repository: git.Repository},
			answer: errors.New("no route to host"), asks: 1, logs: "the edit cannot be shown: no route"},
		{desc: "Git away", git: git, answer: errors.New("no route to host"), code: report.GitPending,
			says: "no route to host. What is left to do: jx promote -b --app shop --version 1", asks: 1},
		{desc: "misconfigured", git: git,
			wrong: config.Problems{{Parameter: "gitProvider", Value: "x", Remedy: "give github"}},
			code:  report.GitPending, says: "parameter gitProvider"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			a := afterInit(t)
			a.apply(strings.Replace(
				shop("2"), "name: shop, ", "name: shop, annotations: {meta.helm.sh/release-name: shop-eu}, ", 1))
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
			const title = "fix: shop back to 1\n\nThe canary release of 2 ended as aborted"
			if c.asks > 0 && (undo.App != "shop" || undo.Release != "shop-eu" || undo.From != "2" || undo.To != "1" ||
				!strings.HasPrefix(undo.Message, title) || !strings.Contains(undo.Message, "Run: run-2")) {
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
			r.Step.Git, r.PutRight = git,
				func(context.Context, config.Git, Undo) (Righted, error) { asked++; return Righted{}, nil }
			must(t, r.Rollback(t.Context()))
			if asked != c.asks+1 {
				t.Error("once more, Git is not looked at")
			}
		})
	}
}

// A version of whatever labels, images and record say can be written to Git, and the name of a
// chart to a message.
func FuzzNameAndVersion(f *testing.F) {
	for _, seed := range [][2]string{
		{"shop-1.2.3", "shop:1"}, {"web-2-shop-v1.2.3-rc.1_5", ""},
		{"shop-1.2.2\n  hooks: []", "reg:5000/shop:1.2.3@sha256:0"}, {"", "shop:{{1}}"}, {"--1.2.3", "a/b:c/d:e"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, chart, image string) {
		v := Version{Chart: chart,
			Template: map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"image": image}}}}}
		name, version := nameAndVersion(v)
		if version != "" && !config.IsVersion(version) || name != "" && !strings.HasPrefix(chart, name+"-") ||
			name != "" && version == "" {
			t.Errorf("%q, %q: %q %q", chart, image, name, version)
		}
		if strings.ContainsAny(name+version, " \n\r\t{}[]:#&*!|>'\"%@`$;") {
			t.Errorf("%q, %q: %q %q", chart, image, name, version)
		}
	})
}

// Whatever the record says, the message has its nine lines and speaks of the target.
func FuzzUndo(f *testing.F) {
	f.Add("shop-1.3.0", "shop-1.2.9", "shop", "failing", "run-1", "4711")
	f.Add("payments-1.3.0", "shop-1.2.2\nhooks:", "a]b", "x\n\nSigned-off-by: Eve", "[skip ci]", "#1 @team")
	f.Fuzz(func(t *testing.T, candidate, promoted, release, reason, run, revision string) {
		record := &Record{
			Reason: reason, Run: run, RunNamespace: run, Outcome: Outcome(reason),
			Candidate: Version{Chart: candidate, Release: release, Revision: revision},
			Promoted:  Version{Chart: promoted}}
		u, err := undo(record, config.Git{}, "shop", "web")
		if err != nil {
			if u.From != "" || u.To != "" {
				t.Errorf("%+v", u)
			}
			return
		}
		if u.App != "shop" || u.To != "" && !config.IsVersion(u.To) || u.From != "" && !config.IsVersion(u.From) ||
			u.Release != "" && !config.IsApplication(u.Release) {
			t.Errorf("%+v", u)
		}
		if strings.Count(u.Message, "\n") != 8 || strings.ContainsAny(u.Message, "\r[]<>@#`\u2028\u202e\x00") {
			t.Errorf("%q", u.Message)
		}
	})
}
