package gitops

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	nethttp "net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/client"
	"github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/plumbing/transport/ssh"

	"github.com/canary-tasks/canary-tasks/lib/config"
)

// access is what a server is reached with. None of it is in any message.
type access struct {
	git            transport.AuthMethod // nil: anonymous
	user, password string               // "" without
	ca             []byte               // certificates of authorities, beside the system's
}

// with does something with the credentials, and keeps them out of the error.
func (r Repository) with(do func(access) (Done, error)) (Done, error) {
	setUp()
	a, err := r.access()
	if err != nil {
		return Done{}, a.said(err)
	}
	done, err := do(a)
	return done, a.said(err)
}

// access reads the mounted Secret.
func (r Repository) access() (access, error) {
	var a access
	if _, err := config.HostOf(r.URL); err != nil {
		return a, fmt.Errorf("the address of the environment repository: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(r.Secrets, "[^.]*"))
	if r.Secrets == "" || err == nil && len(files) == 0 { // a Secret that is not there is an empty folder
		return a, nil
	}
	secret := func(name string) string {
		text, err := os.ReadFile(filepath.Join(r.Secrets, name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	a.user, a.password, a.ca = secret("username"), secret("password"), []byte(secret("ca.crt"))
	if len(a.ca) > 0 && !x509.NewCertPool().AppendCertsFromPEM(a.ca) {
		return a, errors.New("ca.crt in the Secret of the environment repository has no certificate: it has to be PEM")
	}
	u, err := url.Parse(r.URL)
	if err != nil || u.Scheme == "ssh" { // git@host:path is no URL
		a.git, err = r.ssh(secret("ssh-privatekey"), secret("known_hosts"))
		return a, err
	}
	switch {
	case u.Scheme == "http" && secret("insecure") != "true":
		return a, errors.New(
			"gitRepository is http://, which would send the password of its Secret unencrypted, so it was not sent: " +
				"use https://, or add insecure=true to the Secret if everything between here " +
				"and the server may read it")
	case a.user == "":
		return a, errors.New("the Secret of the environment repository has no username")
	case a.password == "":
		return a, errors.New("the Secret of the environment repository has no password")
	}
	a.git = &http.BasicAuth{Username: a.user, Password: a.password}
	return a, nil
}

// ssh is the key of the client, and those that the server may have.
func (r Repository) ssh(private, hosts string) (transport.AuthMethod, error) {
	switch {
	case private == "":
		return nil, errors.New("the Secret of the environment repository has no ssh-privatekey")
	case hosts == "" && !exists(filepath.Join(r.Secrets, "known_hosts")):
		return nil, errors.New(
			"the Secret of the environment repository has no known_hosts; the server's key has to be known: " +
				"put the output of ssh-keyscan into it, once it is checked")
	}
	keys, err := ssh.NewPublicKeys("git", []byte(private+"\n"), "")
	if err != nil {
		return nil, errors.New(
			"ssh-privatekey in the Secret of the environment repository is no private key without a " +
				"passphrase")
	}
	known, err := ssh.NewKnownHostsDb(filepath.Join(r.Secrets, "known_hosts"))
	if err != nil {
		return nil, fmt.Errorf("known_hosts in the Secret of the environment repository: %w", err)
	}
	keys.HostKeyCallback = known.HostKeyCallback()
	// the server may have other keys, which are not known
	if endpoint, err := transport.NewEndpoint(r.URL); err == nil {
		address := net.JoinHostPort(endpoint.Host, strconv.Itoa(cmp.Or(endpoint.Port, 22)))
		keys.HostKeyAlgorithms = known.HostKeyAlgorithms(address)
		keys.User = cmp.Or(endpoint.User, keys.User)
	}
	return keys, nil
}

// exists reports whether there is a file.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// said returns an error as people may see it, whatever the server answered: one line of bounded
// length, without the credentials.
func (a access) said(err error) error {
	if err == nil {
		return nil
	}
	text := a.mask(err.Error())
	if authority := (x509.UnknownAuthorityError{}); errors.As(err, &authority) {
		text += ": put the certificate of its authority into the Secret, as ca.crt"
	}
	text = a.mask(oneLine(text, len(text))) // a password with spaces may have come of line breaks
	return said{oneLine(text, maxError), err}
}

// said is an error with a text of its own.
type said struct {
	text string
	err  error
}

func (s said) Error() string { return s.text }
func (s said) Unwrap() error { return s.err }

// mask replaces the credentials, in all the forms in which they are sent.
func (a access) mask(text string) string {
	if a.password == "" {
		return text
	}
	basic := base64.StdEncoding.EncodeToString([]byte(a.user + ":" + a.password))
	return strings.NewReplacer(basic, "***", a.password, "***",
		url.QueryEscape(a.password), "***", url.PathEscape(a.password), "***").Replace(text)
}

// errRedirected is the error for a server that sends requests to another one.
var errRedirected = errors.New("the server redirects")

// sameServer is http.Client.CheckRedirect for requests with credentials: they stay with the scheme,
// the host and the port that they were given for.
func sameServer(req *nethttp.Request, via []*nethttp.Request) error {
	to := *req.URL
	to.User, to.RawQuery, to.Fragment = nil, "", ""
	to.Path, to.RawPath = strings.TrimSuffix(to.Path, "/info/refs"), ""
	switch from := via[0]; {
	case origin(from.URL) != origin(req.URL), from.Method != req.Method:
		// what changes something would become a question
		return fmt.Errorf("%w to %s, and nothing was sent there: set gitRepository to the new address if it is right",
			errRedirected, to.String())
	case len(via) >= maxRedirects:
		return fmt.Errorf("%w more than %d times, last to %s", errRedirected, maxRedirects, to.String())
	}
	return nil
}

const maxRedirects = 5

// origin is whom a request goes to.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return strings.ToLower(u.Scheme) + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// setUp makes go-git follow redirects within one server only, and announce multi_ack, without which
// Azure DevOps refuses a clone: that go-git does not implement it matters to later fetches, of
// which there are none. Both are global in go-git.
var setUp = sync.OnceFunc(func() {
	t := http.NewClient(&nethttp.Client{Transport: newTransport(nil), CheckRedirect: sameServer})
	client.InstallProtocol("http", t)
	client.InstallProtocol("https", t)
	transport.UnsupportedCapabilities = []capability.Capability{capability.ThinPack}
})

// newTransport returns a transport that trusts the system's authorities and some more. It is an
// *http.Transport, as go-git expects.
func newTransport(ca []byte) nethttp.RoundTripper {
	t, ok := nethttp.DefaultTransport.(*nethttp.Transport)
	if !ok {
		return nethttp.DefaultTransport
	}
	t = t.Clone()
	if len(ca) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		pool.AppendCertsFromPEM(ca)
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return t
}
