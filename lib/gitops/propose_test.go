package gitops

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/canary-tasks/canary-tasks/lib/config"
)

// forge plays a server of pull requests: it answers as the REST APIs of GitHub and GitLab are
// documented to, in front of a real Git server.
type forge struct {
	*httptest.Server
	mu    sync.Mutex
	made  []map[string]any
	busy  int // how many requests it refuses first
	token string
}

// newForge starts a forge in front of a Git server.
func newForge(t *testing.T, s *server) *forge {
	f := &forge{token: "s3cret"}
	behind, err := url.Parse(strings.TrimSuffix(s.url, "/env.git"))
	if err != nil {
		t.Fatal(err)
	}
	git := httputil.NewSingleHostReverseProxy(behind)
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/") {
			f.serveAPI(t, w, r)
		} else {
			git.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(f.Close)
	return f
}

// serveAPI answers a request of the REST API.
func (f *forge) serveAPI(t *testing.T, w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	github := strings.HasPrefix(r.URL.EscapedPath(), "/api/v3/repos/env/pulls") ||
		strings.HasPrefix(r.URL.EscapedPath(), "/api/v1/repos/env/pulls")
	gitlab := strings.HasPrefix(r.URL.EscapedPath(), "/api/v4/projects/env/merge_requests")
	state := r.URL.Query().Get("state")
	if f.busy > 0 {
		f.busy--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	switch {
	case !f.signed(r):
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"message": "Bad credentials"}`)
	case r.URL.Path == "/api/v4/projects/7":
		fmt.Fprint(w, `{"id": 7, "path": "env", "path_with_namespace": "env", "default_branch": "main"}`)
	case !github && !gitlab:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, `{"message": "Not Found: %s"}`, r.URL)
	case r.Method == http.MethodPost:
		var asked map[string]any
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(f.open(asked, github))
	case gitlab && state != "opened", github && !slices.Contains([]string{"", "open"}, state):
		t.Errorf("not the open ones are asked for: %s", r.URL)
	default:
		_ = json.NewEncoder(w).Encode(f.made)
	}
}

// signed reports whether a request has the token, in any of the ways of the servers.
func (f *forge) signed(r *http.Request) bool {
	return slices.Contains([]string{"Bearer " + f.token, "token " + f.token}, r.Header.Get("Authorization")) ||
		r.Header.Get("Private-Token") == f.token
}

// open makes a pull request of GitHub, or a merge request of GitLab, from what was asked for.
func (f *forge) open(asked map[string]any, github bool) map[string]any {
	n := len(f.made) + 1
	address := fmt.Sprintf("%s/env/pull/%d", f.URL, n)
	made := map[string]any{"iid": n, "source_project_id": 7, "target_project_id": 7, "state": "opened",
		"title": asked["title"], "description": asked["description"], "web_url": address,
		"source_branch": asked["source_branch"], "target_branch": asked["target_branch"]}
	if github {
		made = map[string]any{"number": n, "state": "open", "title": asked["title"], "body": asked["body"],
			"html_url": address,
			"head":     map[string]any{"ref": asked["head"]}, "base": map[string]any{"ref": asked["base"]}}
	}
	f.made = append(f.made, made)
	return made
}

// A pull request has one branch with one commit, and is made once, however often a step is started,
// and though a server is busy at first.
func TestPropose(t *testing.T) {
	t.Parallel()
	for _, provider := range []string{"github", "gitlab", "gitea"} {
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			s := serve(t, helmfile, says("1.2.9"), says("1.3.0"))
			f := newForge(t, s)
			r := s.repository()
			r.URL, r.Provider, f.busy = f.URL+"/env.git", provider, 1
			head := gitCmd(t, s.bare, "", "rev-parse", "main")
			var first Done
			for i := range 3 {
				done, err := r.Propose(t.Context(), change)
				if err != nil {
					t.Fatal(err)
				}
				if i == 0 {
					first = done
				}
				if done != first || done.PullRequest != f.URL+"/env/pull/1" ||
					done.Branch != "canary-rollback-shop-1.3.0-to-1.2.9" {
					t.Errorf("%+v, before %+v", done, first)
				}
			}
			if len(f.made) != 1 || f.made[0]["title"] != "fix: shop back to 1.2.9" ||
				cmp.Or(f.made[0]["body"],
					f.made[0]["description"]) != "```text\nRun canary-release-1 rejected 1.3.0: failing.\n```" {
				t.Errorf("%v", f.made)
			}
			if now := gitCmd(t, s.bare, "", "rev-parse", "main"); now != head {
				t.Error("the branch itself moved")
			}
			if got := gitCmd(t, s.bare, "", "diff", "--numstat", "main", first.Branch); got != "1\t1\t"+helmfile {
				t.Errorf("%s", got)
			}
			gitCmd(t, s.bare, "", "update-ref", "refs/heads/main", first.Branch) // somebody merges it
			if _, err := r.Propose(t.Context(), change); err == nil ||
				!strings.Contains(err.Error(), ErrAlready.Error()) {
				t.Errorf("after it was merged: %v", err)
			}
			// and the same version is promoted and rolled back once more, with the merged branch
			// still there
			gitCmd(t, s.bare, "", "update-ref", "refs/heads/main", head)
			f.mu.Lock()
			f.made = nil
			f.mu.Unlock()
			for range 2 {
				done, err := r.Propose(t.Context(), change)
				if want := first.Branch + "-" + head[:10]; err != nil || done.Branch != want ||
					done.PullRequest != f.URL+"/env/pull/1" || len(f.made) != 1 {
					t.Errorf("once more: %v, %+v, want branch %s", err, done, want)
				}
			}
		})
	}
	t.Run("wrong token", func(t *testing.T) {
		t.Parallel()
		s := serve(t, helmfile, says("1.2.9"), says("1.3.0"))
		f := newForge(t, s)
		f.token = "another"
		r := s.repository()
		r.URL, r.Provider = f.URL+"/env.git", "github"
		_, err := r.Propose(t.Context(), change)
		if err == nil || !strings.Contains(err.Error(), "the token is wrong or has expired") ||
			strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%v", err)
		}
	})
}

// Each provider that the configuration names can be made a client of.
func TestProviders(t *testing.T) {
	t.Parallel()
	secrets := t.TempDir()
	for name, text := range map[string]string{"username": "jx", "password": "s3cret", "insecure": "true"} {
		if err := os.WriteFile(filepath.Join(secrets, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// which Gitea's is asked for
	server := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"version": "1.25.0"}`) }))
	t.Cleanup(server.Close)
	for _, provider := range config.Providers {
		address := server.URL + "/acme/env.git"
		if provider == "bitbucketcloud" {
			address = "https://bitbucket.org/acme/env.git"
		}
		r := Repository{URL: address, Secrets: secrets, Provider: provider}
		a, err := r.access()
		if err != nil {
			t.Fatal(err)
		}
		if p, err := r.pullRequests(a); err != nil || p.repository != "acme/env" {
			t.Errorf("%s: %+v, %v", provider, p, err)
		}
	}
}

func TestServerOf(t *testing.T) {
	t.Parallel()
	for address, want := range map[string][2]string{
		"https://github.com/acme/env.git":            {"https://github.com", "acme/env"},
		"git@github.com:acme/env.git":                {"https://github.com", "acme/env"},
		"ssh://git@git.example.com:7999/acme/env":    {"https://git.example.com", "acme/env"},
		"https://gitlab.example.com/acme/sub/env/":   {"https://gitlab.example.com", "acme/sub/env"},
		"https://bb.example.com:8443/scm/ACME/e.git": {"https://bb.example.com:8443", "ACME/e"},
	} {
		server, name, err := serverOf(address)
		if got := [2]string{server, name}; got != want || err != nil {
			t.Errorf("%s: %v, want %v (%v)", address, got, want, err)
		}
	}
}
