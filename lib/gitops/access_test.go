package gitops

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/canary-tasks/canary-tasks/lib/config"
)

// inFront puts a server in front of the Git server and returns it.
func (s *server) inFront(
	start func(http.Handler) *httptest.Server,
	answer func(w http.ResponseWriter, r *http.Request, git http.Handler)) *httptest.Server {
	s.t.Helper()
	behind, err := url.Parse(strings.TrimSuffix(s.url, "/env.git"))
	if err != nil {
		s.t.Fatal(err)
	}
	git := httputil.NewSingleHostReverseProxy(behind)
	front := start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, git) }))
	s.t.Cleanup(front.Close)
	return front
}

// stranger is a server that was not meant. It counts the requests that it gets.
func stranger(t *testing.T) (address string, requests *atomic.Int32) {
	t.Helper()
	requests = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		fmt.Fprint(w, "[]")
	}))
	t.Cleanup(s.Close)
	return s.URL, requests
}

// A server that sends requests elsewhere is an error with the new address, and nothing is sent
// there.
func TestRedirects(t *testing.T) {
	t.Parallel()
	ofAPI := func(r *http.Request) bool { return !strings.HasPrefix(r.URL.Path, "/env.git") }
	for _, c := range []struct {
		desc      string
		some      func(r *http.Request) bool
		providers []string
	}{
		{"all", func(*http.Request) bool { return true }, config.Providers[:1]},
		{"the clone", func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/git-upload-pack") },
			config.Providers[:1]},
		{"the push", func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/git-receive-pack") },
			config.Providers[:1]},
		{"what is read of the API", func(r *http.Request) bool { return ofAPI(r) && r.Method == http.MethodGet },
			config.Providers},
		{"what is written to the API", func(r *http.Request) bool { return ofAPI(r) && r.Method == http.MethodPost },
			config.Providers},
	} {
		for _, provider := range c.providers {
			for _, status := range []int{http.StatusFound, http.StatusPermanentRedirect} {
				t.Run(fmt.Sprint(c.desc, " ", provider, " ", status), func(t *testing.T) {
					t.Parallel()
					s := serve(t, helmfile, says("1.2.9"), says("1.3.0"))
					elsewhere, requests := stranger(t)
					var redirects atomic.Int32
					front := s.inFront(
						httptest.NewServer, func(w http.ResponseWriter, r *http.Request, git http.Handler) {
							switch {
							case c.some(r):
								redirects.Add(1)
								http.Redirect(w, r, elsewhere+r.URL.RequestURI(), status)
							case !ofAPI(r):
								git.ServeHTTP(w, r)
							case strings.HasSuffix(r.URL.Path, "pulls"),
								strings.HasSuffix(r.URL.Path, "merge_requests"):
								fmt.Fprint(w, "[]")
							default:
								fmt.Fprint(w, "{}")
							}
						})
					r := s.repository()
					r.URL, r.Provider = front.URL+"/env.git", provider
					_, err := r.Propose(t.Context(), change)
					if err == nil || !strings.Contains(err.Error(), elsewhere) ||
						strings.Contains(err.Error(), "s3cret") {
						t.Errorf("%v", err)
					}
					if n := requests.Load(); n > 0 {
						t.Errorf("%d requests to another server", n)
					}
					if n := redirects.Load(); n != 1 {
						t.Errorf("asked %d times", n)
					}
				})
			}
		}
	}
}

// A repository that was moved within its server is found.
func TestRedirectWithinServer(t *testing.T) {
	t.Parallel()
	s := serve(t, helmfile, says("1.2.9"), says("1.3.0"))
	front := s.inFront(httptest.NewServer, func(w http.ResponseWriter, r *http.Request, git http.Handler) {
		if rest, old := strings.CutPrefix(r.URL.RequestURI(), "/old.git"); old {
			http.Redirect(w, r, "/env.git"+rest, http.StatusMovedPermanently)
			return
		}
		git.ServeHTTP(w, r)
	})
	r := s.repository()
	r.URL = front.URL + "/old.git"
	if _, err := r.Commit(t.Context(), change); err != nil || s.now(helmfile)+"\n" != says("1.2.9") {
		t.Errorf("%v", err)
	}
}

// Azure DevOps refuses clients that do not announce multi_ack.
func TestAzureDevOps(t *testing.T) {
	t.Parallel()
	s := serve(t, helmfile, says("1.2.9"), says("1.3.0"))
	front := s.inFront(httptest.NewServer, func(w http.ResponseWriter, r *http.Request, git http.Handler) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if strings.HasSuffix(r.URL.Path, "/git-upload-pack") && !bytes.Contains(body, []byte("multi_ack")) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, "TF401041: The Git protocol sent is not as expected (Clients must support multi-ack.).")
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		git.ServeHTTP(w, r)
	})
	r := s.repository()
	r.URL = front.URL + "/env.git"
	c := change
	c.To = ""
	if _, err := r.Commit(t.Context(), c); err != nil || s.now(helmfile)+"\n" != says("1.2.9") {
		t.Errorf("%v", err)
	}
}

// What changes something is not asked as a question because a server redirects it.
func TestRedirectOfAPost(t *testing.T) {
	t.Parallel()
	s := serve(t, helmfile, says("1.2.9"), says("1.3.0"))
	front := s.inFront(httptest.NewServer, func(w http.ResponseWriter, r *http.Request, git http.Handler) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/env.git"):
			git.ServeHTTP(w, r)
		case r.Method == http.MethodPost:
			http.Redirect(w, r, "/api/v3/moved", http.StatusFound)
		case r.URL.Path == "/api/v3/moved":
			fmt.Fprint(w, `{"html_url": "https://git.example.com/1"}`)
		default:
			fmt.Fprint(w, "[]")
		}
	})
	r := s.repository()
	r.URL, r.Provider = front.URL+"/env.git", "github"
	if done, err := r.Propose(t.Context(), change); err == nil ||
		!strings.Contains(err.Error(), front.URL+"/api/v3/moved") || done.PullRequest != "" {
		t.Errorf("%+v: %v", done, err)
	}
}

// The token is sent to the one server it is for, and is not in what a client logs of a refusal.
func TestSigned(t *testing.T) {
	t.Parallel()
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, r.Header, strings.Repeat("x", 100000))
	}))
	t.Cleanup(echo.Close)
	for _, provider := range config.Providers {
		for _, mine := range []bool{true, false} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, echo.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			s := &signed{access: access{user: "jx", password: "s3cret"}, provider: provider,
				origin: "https://git.example.com:443", next: http.DefaultTransport}
			if mine {
				s.origin = origin(req.URL)
			}
			answer, err := s.RoundTrip(req)
			if !mine {
				if !errors.Is(err, errRedirected) {
					t.Errorf("%s: %v", provider, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(answer.Body)
			if err != nil || len(text) > 2*maxRefusal || !strings.Contains(string(text), "***") ||
				strings.Contains(string(text), "s3cret") || strings.Contains(string(text), "ang6czNjcmV0") {
				t.Errorf("%s: %d bytes, %v: %.200s", provider, len(text), err, text)
			}
		}
	}
}

// A password is sent to http:// only where its Secret says so.
func TestUnencrypted(t *testing.T) {
	t.Parallel()
	s := serve(t, helmfile, says("1.2.9"), says("1.3.0"))
	var requests atomic.Int32
	front := s.inFront(httptest.NewServer, func(w http.ResponseWriter, r *http.Request, git http.Handler) {
		requests.Add(1)
		git.ServeHTTP(w, r)
	})
	for _, c := range []struct {
		insecure map[string]string
		refused  bool
	}{{map[string]string{}, true}, {map[string]string{"insecure": "false"}, true},
		{map[string]string{"insecure": "true\n"}, false}} {
		c.insecure["username"], c.insecure["password"] = "jx", "s3cret"
		for _, scheme := range []string{"http", "HTTP"} {
			requests.Store(0)
			r := Repository{URL: scheme + strings.TrimPrefix(front.URL, "http") + "/env.git",
				Secrets: secrets(t, c.insecure), Provider: "github"}
			for _, do := range []func(context.Context, Change) (Done, error){r.Show, r.Commit, r.Propose} {
				_, err := do(t.Context(), change)
				if refused := err != nil && strings.Contains(err.Error(), "insecure=true"); refused != c.refused ||
					refused && requests.Load() > 0 {
					t.Errorf("%s %v: %v, after %d requests", scheme, c.insecure, err, requests.Load())
				}
			}
		}
	}
}

// A server whose certificate is of a private authority is trusted by ca.crt of the Secret, for Git
// and for pull requests.
func TestPrivateAuthority(t *testing.T) {
	t.Parallel()
	s := serve(t, helmfile, says("1.2.9"), says("1.3.0"))
	front := s.inFront(httptest.NewTLSServer, func(w http.ResponseWriter, r *http.Request, git http.Handler) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/env.git"):
			git.ServeHTTP(w, r)
		case r.Method == http.MethodPost:
			fmt.Fprintf(w, `{"html_url": "https://%s/1"}`, r.Host)
		default:
			fmt.Fprint(w, "[]")
		}
	})
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw}))
	r := s.repository()
	r.URL, r.Provider = front.URL+"/env.git", "github"
	for _, c := range []struct{ ca, says string }{
		{"", "put the certificate of its authority into the Secret, as ca.crt"}, {"x", "has no certificate"},
		{ca, ""}} {
		files := map[string]string{"username": "jx", "password": "s3cret"}
		if c.ca != "" {
			files["ca.crt"] = c.ca
		}
		r.Secrets = secrets(t, files)
		done, err := r.Propose(t.Context(), change)
		if c.says == "" && (err != nil || done.PullRequest != front.URL+"/1") {
			t.Errorf("%+v: %v", done, err)
		}
		if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%v", err)
		}
	}
}

// Whatever a server answers, an error is one line of bounded length, without the credentials.
func TestErrorsOfServers(t *testing.T) {
	t.Parallel()
	for _, status := range []int{
		http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusConflict,
		http.StatusNotImplemented} {
		for _, api := range []bool{false, true} {
			for _, provider := range []string{"github", "gitlab", "gitea"} {
				t.Run(fmt.Sprint(status, api, provider), func(t *testing.T) {
					t.Parallel()
					s := serve(t, helmfile, says("1.2.9"), says("1.3.0"))
					front := s.inFront(
						httptest.NewServer, func(w http.ResponseWriter, r *http.Request, git http.Handler) {
							if strings.HasPrefix(r.URL.Path, "/api/") != api {
								git.ServeHTTP(w, r)
								return
							}
							w.WriteHeader(status)
							_, password, _ := r.BasicAuth()
							fmt.Fprintf(w, "{\"message\": \"%v\"}\r\n17:00:00 all is well %s\n%s", r.Header, password,
								strings.Repeat("x", 100000))
						})
					r := s.repository()
					r.URL, r.Provider = front.URL+"/env.git", provider
					_, err := r.Propose(t.Context(), change)
					if err == nil {
						t.Fatal("no error")
					}
					for _, never := range []string{"\n", "\r", "s3cret", "ang6czNjcmV0"} { // jx:s3cret, as sent
						if text := err.Error(); strings.Contains(text, never) || len(text) > 2*maxError {
							t.Errorf("%d bytes, with %q: %s", len(text), never, text)
						}
					}
				})
			}
		}
	}
}

// Addresses that are no Git server's are refused before anything is asked, and nothing of them is
// printed.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for _, address := range []string{
		"", "env", "/srv/s3cret.git", "file:///srv/s3cret.git", "git://git.example.com/s3cret.git", "ext::sh -c s3cret",
		"ftp://git.example.com/s3cret", "https:///s3cret", "https://s3cret",
		"https://jx:s3cret@git.example.com/env.git", "https://s3cret@git.example.com/env.git",
		"ssh://git:s3cret@git.example.com/env.git", "jx:s3cret@git.example.com:env.git",
		"https://git.example.com/env.git?token=s3cret", "https://git.example.com/env.git#s3cret",
		"https://git.example.com/s3cret\nenv", "https://%zz:s3cret@git.example.com/env",
		"git@evil.example.com@s3cret:env", "git@-oProxyCommand=s3cret:env", "ssh://-oProxyCommand=s3cret/env",
	} {
		r := Repository{URL: address,
			Secrets: secrets(t, map[string]string{"username": "jx", "password": "s3cret", "ssh-privatekey": "s3cret"})}
		if _, err := r.Commit(t.Context(), change); err == nil ||
			!strings.Contains(err.Error(), "the address of the environment repository") ||
			strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", address, err)
		}
	}
}

// A message is shown as it is written, whatever is in it.
func TestVerbatim(t *testing.T) {
	t.Parallel()
	got := verbatim("\n\na `b`\n```\n# heading\n/approve\n@team [x](http://evil.example.com)\n")
	if want := "```text\na 'b'\n'''\n# heading\n/approve\n@team [x](http://evil.example.com)\n```"; got != want {
		t.Errorf("%s", got)
	}
}
