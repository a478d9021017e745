// Package gittest is a real Git server for tests and demonstrations: git http-backend behind basic
// auth.
package gittest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi" //nolint:gosec // Go has not been vulnerable since 1.6.3
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Who may read and write.
const (
	User     = "jx"
	Password = "s3cret"
)

// Server serves one repository, whose branch is main.
type Server struct {
	URL    string // of the repository
	Bare   string // its folder
	Public bool   // anybody may read; set before the first request
	http   *http.Server
}

// Start makes a repository in a folder and serves it at an address, as 127.0.0.1:0.
func Start(ctx context.Context, folder, address string) (*Server, error) {
	s := &Server{Bare: filepath.Join(folder, "env.git")}
	if _, err := run(ctx, folder, nil, "init", "-q", "--bare", "-b", "main", s.Bare); err != nil {
		return nil, err
	}
	if _, err := s.Git(ctx, "config", "http.receivepack", "true"); err != nil {
		return nil, err
	}
	programs, err := s.Git(ctx, "--exec-path")
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening at %s: %w", address, err)
	}
	s.URL = "http://" + l.Addr().String() + "/env.git"
	backend := &cgi.Handler{
		Path: filepath.Join(programs, "git-http-backend"), Root: "/",
		Env: []string{"GIT_PROJECT_ROOT=" + folder, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=" + User}}
	s.http = &http.Server{
		ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			reads := r.URL.Query().Get("service") == "git-upload-pack" ||
				strings.HasSuffix(r.URL.Path, "/git-upload-pack")
			user, password, _ := r.BasicAuth()
			if known := user == User && password == Password; !known && (!s.Public || !reads) {
				w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return
			}
			backend.ServeHTTP(w, r)
		})}
	go func() { _ = s.http.Serve(l) }()
	return s, nil
}

// Close ends the server.
func (s *Server) Close() { _ = s.http.Close() }

// Commit puts a file into a commit on main.
func (s *Server) Commit(ctx context.Context, file, content, message string) error {
	from := ""
	if _, err := s.Git(ctx, "rev-parse", "--verify", "-q", "main"); err == nil {
		from = "from refs/heads/main^0\n"
	}
	stream := fmt.Sprintf(
		"commit refs/heads/main\ncommitter %s <%s@example.com> %d +0000\ndata %d\n%s\n%sM 100644 "+
			"inline %s\ndata %d\n%s\n",
		User, User, time.Now().Unix(), len(message), message, from, file, len(content), content)
	_, err := run(ctx, s.Bare, []byte(stream), "fast-import", "--quiet")
	return err
}

// File returns a file as main has it.
func (s *Server) File(ctx context.Context, file string) (string, error) {
	return s.Git(ctx, "show", "main:"+file)
}

// Git runs git in the repository and returns what it prints.
func (s *Server) Git(ctx context.Context, args ...string) (string, error) {
	return run(ctx, s.Bare, nil, args...)
}

func run(ctx context.Context, folder string, stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Stdin = folder, bytes.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
