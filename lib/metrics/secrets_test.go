package metrics

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// folder is a mounted Secret.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// What the Secret says is what the server sees, and no message tells it.
func TestSecrets(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc  string
		files map[string]string
		want  func(r *http.Request) bool
	}{
		{"a token", map[string]string{"http.yaml": "authorization: {credentials_file: token}", "token": "s3cret"},
			func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer s3cret" }},
		{"a password", map[string]string{
			"http.yaml": "basic_auth: {username: me, password_file: password}", "password": "s3cret"},
			func(r *http.Request) bool {
				user, password, ok := r.BasicAuth()
				return ok && user == "me" && password == "s3cret"
			}},
		{"a header", map[string]string{
			"http.yaml": "http_headers: {X-Scope-OrgID: {files: [tenant]}}", "tenant": "s3cret"},
			func(r *http.Request) bool { return r.Header.Get("X-Scope-OrgID") == "s3cret" }},
		{"nothing", nil, func(r *http.Request) bool { return r.Header.Get("Authorization") == "" }},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			p := &prometheus{}
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !c.want(r) {
					http.Error(w, "who are you?", http.StatusUnauthorized)
					return
				}
				p.ServeHTTP(w, r)
			}))
			t.Cleanup(server.Close)
			ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
			files := map[string]string{"ca.pem": ca, "http.yaml": "tls_config: {ca_file: ca.pem}\n"}
			for name, content := range c.files {
				files[name] += content
			}
			dir := folder(t, files)
			client, err := New(server.URL, dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := client.Ready(t.Context()); err != nil {
				t.Fatalf("%s: %v", c.desc, err)
			}
			if len(c.files) < 2 {
				return
			}
			for name := range c.files { // it is changed in the Secret, and read anew
				if name != "http.yaml" {
					if err := os.WriteFile(filepath.Join(dir, name), []byte("an0ther"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			err = client.Ready(t.Context())
			if err == nil || !strings.Contains(err.Error(), "who are you?") ||
				strings.Contains(err.Error(), "an0ther") {
				t.Errorf("with another secret: %v", err)
			}
		})
	}
}

func TestSecretsThatAreWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ desc, text, want string }{
		{"misspelt", "autorization: {credentials: s3cret}",
			"reading http.yaml, which says how to get in to Prometheus"},
		{"both ways", "{authorization: {credentials: s3cret}, basic_auth: {username: me, password: s3cret}}",
			"at most one of"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			_, err := New("http://prometheus:9090", folder(t, map[string]string{"http.yaml": c.text}))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%v", err)
			}
		})
	}
	if c, err := New("http://prometheus:9090", t.TempDir()); err != nil || c == nil {
		t.Errorf("a folder without http.yaml: %v", err)
	}
}
