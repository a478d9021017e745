package gitops

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/canary-tasks/canary-tasks/lib/gitops/gittest"
)

// server is a repository on a real Git server.
type server struct {
	t    *testing.T
	bare string // folder of the repository
	url  string
}

func gitCmd(t *testing.T, dir, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=jx",
		"GIT_AUTHOR_EMAIL=jx@example.com", "GIT_COMMITTER_NAME=jx", "GIT_COMMITTER_EMAIL=jx@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// serve makes a repository out of versions of one file, the oldest first.
func serve(t *testing.T, file string, contents ...string) *server {
	t.Helper()
	web, err := gittest.Start(t.Context(), t.TempDir(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(web.Close)
	s := &server{t: t, bare: web.Bare, url: web.URL}
	var stream bytes.Buffer
	for i, content := range contents {
		fmt.Fprintf(&stream,
			"commit refs/heads/main\ncommitter jx <jx@example.com> %d +0000\ndata 4\npush\nM 100644 inline %s\ndata "+
				"%d\n%s\nM 100644 inline README.md\ndata 2\nhi\n", 1700000000+i, file, len(content), content)
	}
	gitCmd(t, s.bare, stream.String(), "fast-import", "--quiet")
	return s
}

func secrets(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (s *server) repository() Repository {
	return Repository{
		URL: s.url, Secrets: secrets(
			s.t, map[string]string{"username": "jx", "password": "s3cret\n", "insecure": "true"}),
		Author: "canary-tasks <canary-tasks@example.com>"}
}

func (s *server) now(file string) string { return gitCmd(s.t, s.bare, "", "show", "main:"+file) }

const helmfile = "helmfiles/jx-production/helmfile.yaml"

func says(version string) string {
	return "# production\nreleases:\n- name: cart\n  version: 7.0.0\n- name: shop # ours\n  version: " + version + "\n"
}

var change = Change{
	Version: Version{App: "shop", Namespace: "jx-production"}, Files: Files("jx-production"), From: "1.3.0",
	To: "1.2.9", Message: "fix: shop back to 1.2.9\n\nRun canary-release-1 rejected 1.3.0: failing."}

// One line changes, in one commit on top of what was there; the second time there is nothing to do.
func TestCommit(t *testing.T) {
	t.Parallel()
	s := serve(t, helmfile, says("1.2.9"), says("1.3.0"))
	head := gitCmd(t, s.bare, "", "rev-parse", "main")
	done, err := s.repository().Commit(t.Context(), change)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.now(helmfile) + "\n"; got != says("1.2.9") {
		t.Errorf("%s", got)
	}
	if got := gitCmd(t, s.bare, "", "log", "-1", "--format=%H %P %an %ae %s", "main"); got != done.Commit+" "+head+
		" canary-tasks canary-tasks@example.com fix: shop back to 1.2.9" {
		t.Errorf("%s", got)
	}
	if got := gitCmd(t, s.bare, "", "diff", "--stat", "main~1", "main"); !strings.Contains(
		got, "1 file changed, 1 insertion(+), 1 deletion(-)") {
		t.Errorf("%s", got)
	}
	gitCmd(t, s.bare, "", "fsck", "--strict")
	if done.Line != 6 || done.Before != "  version: 1.3.0" || done.After != "  version: 1.2.9" {
		t.Errorf("%+v", done.Edit)
	}
	if _, err := s.repository().Commit(t.Context(), change); !errors.Is(err, ErrAlready) {
		t.Errorf("twice: %v", err)
	}
	if got := gitCmd(t, s.bare, "", "rev-list", "--count", "main"); got != "3" {
		t.Errorf("%s commits", got)
	}
}

// Who does not know the version that serves finds it in the history of the line.
func TestEarlierVersion(t *testing.T) {
	t.Parallel()
	s := serve(t, "env/requirements.yaml", "dependencies:\n- {name: shop, version: 1.2.7}\n",
		"dependencies:\n- {name: shop, version: 1.2.8}\n", "dependencies:\n- {name: shop, version: 1.3.0}\n",
		"dependencies:\n- {name: shop, version: 1.3.0} # noted\n")
	c := change
	c.To = ""
	done, err := s.repository().Commit(t.Context(), c)
	if err != nil || done.To != "1.2.8" ||
		s.now("env/requirements.yaml") != "dependencies:\n- {name: shop, version: 1.2.8} # noted" {
		t.Errorf("%+v: %v", done, err)
	}
	head := gitCmd(t, s.bare, "", "rev-parse", "main")
	if _, err := s.repository().Commit(t.Context(), c); !errors.Is(err, ErrMovedOn) ||
		!strings.Contains(err.Error(), "1.2.8 of shop") {
		t.Errorf("what is another version by now: %v", err)
	}
	if now := gitCmd(t, s.bare, "", "rev-parse", "main"); now != head {
		t.Error("the branch moved")
	}
	s = serve(t, helmfile, says(`">=1.0"`), says("1.3.0"))
	if done, err := s.repository().Commit(t.Context(), c); !errors.Is(err, ErrNoHistory) || done.To != "" {
		t.Errorf("what is no version: %+v, %v", done, err)
	}
	s = serve(t, helmfile, says("1.3.0"))
	if _, err := s.repository().Commit(t.Context(), c); !errors.Is(err, ErrNoHistory) {
		t.Errorf("without an earlier one: %v", err)
	}
}

// Of a long history only as much is fetched as is needed.
func TestLongHistory(t *testing.T) {
	t.Parallel()
	var contents []string
	for i := range 4999 {
		contents = append(contents, says("1.2.9")+fmt.Sprintf("# %d\n", i))
	}
	s := serve(t, helmfile, append(contents, says("1.3.0"))...)
	c := change
	c.To = ""
	if done, err := s.repository().Commit(t.Context(), c); err != nil || done.To != "1.2.9" {
		t.Errorf("%+v: %v", done, err)
	}
	if got := gitCmd(t, s.bare, "", "rev-list", "--count", "main"); got != "5001" {
		t.Errorf("%s commits: something was lost", got)
	}
}

// A path may be any application's, so it has to be in one file.
func TestPathInSeveralFiles(t *testing.T) {
	t.Parallel()
	s := serve(t, "apps/cart.yaml", "spec: {version: 1.3.0}\n")
	content := "metadata: {name: shop}\nspec: {version: 1.3.0}\n"
	gitCmd(t, s.bare, fmt.Sprintf(
		"commit refs/heads/main\ncommitter jx <jx@example.com> 1800000000 +0000\ndata 4\npush\nfrom "+
			"refs/heads/main^0\nM 100644 inline apps/shop.yaml\ndata %d\n%s\n", len(content), content), "fast-import",
		"--quiet")
	c := change
	c.Path, c.Files = []string{"spec", "version"}, []string{"apps/none.yaml", "apps/cart.yaml", "apps/shop.yaml"}
	if _, err := s.repository().Commit(t.Context(), c); err == nil ||
		!strings.Contains(err.Error(), "both apps/cart.yaml and apps/shop.yaml have spec version") {
		t.Errorf("%v", err)
	}
	c.Files = c.Files[2:]
	if _, err := s.repository().Commit(t.Context(), c); err != nil ||
		s.now("apps/shop.yaml")+"\n" != strings.Replace(content, "1.3.0", "1.2.9", 1) {
		t.Errorf("%v", err)
	}
}

func TestCommitRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc    string
		prepare func(s *server, r *Repository)
		want    error
		says    string
	}{
		{"somebody moved on", func(s *server, _ *Repository) {
			gitCmd(s.t, s.bare,
				"commit refs/heads/main\ncommitter jx <jx@example.com> 1800000000 +0000\ndata 4\npush\nfrom "+
					"refs/heads/main^0\nM 100644 inline "+helmfile+"\ndata "+fmt.Sprint(len(says("1.4.0")))+"\n"+
					says("1.4.0")+"\n", "fast-import", "--quiet")
		}, ErrMovedOn, "1.4.0 of shop"},
		{"a protected branch", func(s *server, _ *Repository) {
			hook := filepath.Join(s.bare, "hooks", "pre-receive")
			if err := os.WriteFile(hook, []byte("#!/bin/sh\necho 'main is protected'\nexit 1\n"), 0o700); err != nil {
				//nolint:gosec // a hook has to be executable
				s.t.Fatal(err)
			}
		}, nil, "pre-receive hook declined"},
		{"an expired token", func(s *server, r *Repository) {
			r.Secrets = secrets(s.t, map[string]string{"username": "jx", "password": "0ld", "insecure": "true"})
		}, nil, "authentication required"},
		{"no Secret", func(_ *server, r *Repository) { r.Secrets = secrets(t, map[string]string{"..data": ""}) }, nil,
			"authentication required"},
		{"no such branch", func(_ *server, r *Repository) { r.Branch = "other" }, nil,
			"cloning the environment repository"},
		{"a password in the address", func(s *server, r *Repository) {
			r.URL = strings.Replace(s.url, "http://", "http://jx:s3cret@", 1)
		}, nil, "leave the password out of the address"},
		{"a Secret without a password", func(s *server, r *Repository) {
			r.Secrets = secrets(s.t, map[string]string{"username": "jx", "insecure": "true"})
		}, nil, "has no password"},
		{"SSH without known hosts", func(s *server, r *Repository) {
			r.URL, r.Secrets = "git@git.example.com:team/env.git",
				secrets(s.t, map[string]string{"ssh-privatekey": "s3cret"})
		}, nil, "the server's key has to be known"},
		{"SSH with a key that is none", func(s *server, r *Repository) {
			r.URL, r.Secrets = "git@git.example.com:team/env.git",
				secrets(s.t, map[string]string{"ssh-privatekey": "s3cret", "known_hosts": ""})
		}, nil, "is no private key"},
		{"nobody there", func(_ *server, r *Repository) { r.URL = "http://127.0.0.1:1/env.git" }, nil,
			"cloning the environment repository"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			s := serve(t, helmfile, says("1.2.9"), says("1.3.0"))
			r := s.repository()
			c.prepare(s, &r)
			head := gitCmd(t, s.bare, "", "rev-parse", "main")
			_, err := r.Commit(t.Context(), change)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) ||
				strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "0ld") {
				t.Errorf("%v", err)
			}
			if now := gitCmd(t, s.bare, "", "rev-parse", "main"); now != head {
				t.Error("the branch moved")
			}
		})
	}
}

// Several releases that are taken back at once each change their own line, and none is lost.
func TestConcurrentCommits(t *testing.T) {
	t.Parallel()
	content := "releases:\n"
	for i := range 4 {
		content += fmt.Sprintf("- name: app%d\n  version: 1.3.0\n", i)
	}
	s := serve(t, helmfile, content)
	r := s.repository()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			c := change
			c.App = fmt.Sprintf("app%d", i)
			if _, err := r.Commit(t.Context(), c); err != nil {
				t.Errorf("%s: %v", c.App, err)
			}
		})
	}
	wg.Wait()
	if got := s.now(helmfile); strings.Count(got, "version: 1.2.9") != 4 {
		t.Errorf("%s", got)
	}
	if got := gitCmd(t, s.bare, "", "rev-list", "--count", "main"); got != "5" {
		t.Errorf("%s commits", got)
	}
}
