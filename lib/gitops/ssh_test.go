package gitops

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// key makes a key and its text.
func key(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, string(pem.EncodeToMemory(block))
}

// overSSH serves the repository by real git behind a real SSH server, to one user's key.
func (s *server) overSSH(user ssh.PublicKey, host ssh.Signer) (address string) {
	s.t.Helper()
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(user.Marshal()) {
			return nil, errors.New("who are you?")
		}
		return nil, nil
	}}
	cfg.AddHostKey(host)
	// which clients prefer, and which known_hosts does not have
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromSigner(other)
	if err != nil {
		s.t.Fatal(err)
	}
	cfg.AddHostKey(signer)
	listener, err := (&net.ListenConfig{}).Listen(s.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go s.session(conn, cfg)
		}
	}()
	return listener.Addr().String()
}

// session runs the one git command that a client asks for.
func (s *server) session(conn net.Conn, cfg *ssh.ServerConfig) {
	_, channels, requests, err := ssh.NewServerConn(conn, cfg)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for c := range channels {
		channel, requests, err := c.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			if r.Type != "exec" {
				_ = r.Reply(r.Type == "env", nil)
				continue
			}
			_ = r.Reply(true, nil)
			name, _, _ := strings.Cut(string(r.Payload[4:]), " ")
			if name != "git-upload-pack" && name != "git-receive-pack" {
				_ = channel.Close()
				break
			}
			cmd := exec.Command("git", strings.TrimPrefix(name, "git-"), s.bare) //nolint:gosec // one of two names
			cmd.Stdin, cmd.Stdout, cmd.Stderr = channel, channel, channel.Stderr()
			code := byte(0)
			if err := cmd.Run(); err != nil {
				code = 1
			}
			_, _ = channel.SendRequest("exit-status", false, []byte{0, 0, 0, code})
			_ = channel.Close()
			break
		}
	}
}

// The server's key is checked: nothing is sent to another.
func TestSSH(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ desc, says string }{
		{"a host that is known", ""}, {"another host", "knownhosts: key mismatch"},
		{"another user", "unable to authenticate"}} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			s := serve(t, helmfile, says("1.2.9"), says("1.3.0"))
			host, _ := key(t)
			user, private := key(t)
			known, allowed := host.PublicKey(), user.PublicKey()
			if c.desc == "another host" {
				other, _ := key(t)
				known = other.PublicKey()
			}
			if c.desc == "another user" {
				other, _ := key(t)
				allowed = other.PublicKey()
			}
			address := s.overSSH(allowed, host)
			r := Repository{URL: fmt.Sprintf("ssh://git@%s/%s", address, filepath.Base(s.bare)),
				Author: "canary-tasks <canary-tasks@example.com>",
				Secrets: secrets(t,
					map[string]string{
						"ssh-privatekey": private, "known_hosts": knownhosts.Line([]string{address}, known) + "\n"})}
			_, err := r.Commit(t.Context(), change)
			if c.says == "" && (err != nil || s.now(helmfile)+"\n" != says("1.2.9")) {
				t.Errorf("%v\n%s", err, s.now(helmfile))
			}
			if c.says != "" &&
				(err == nil || !strings.Contains(err.Error(), c.says) || s.now(helmfile)+"\n" != says("1.3.0")) {
				t.Errorf("%v", err)
			}
		})
	}
}
