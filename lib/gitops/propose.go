package gitops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/jenkins-x/go-scm/scm"
	"github.com/jenkins-x/go-scm/scm/factory"
)

// Propose makes a change as a pull request on a branch of its own. There is one open pull request
// for each version that was rolled back and the one that serves, so that twice makes one. The error
// is that of Commit.
func (r Repository) Propose(ctx context.Context, c Change) (Done, error) {
	return r.with(func(a access) (Done, error) { return r.propose(ctx, c, a) })
}

// propose is Propose with the credentials.
func (r Repository) propose(ctx context.Context, c Change, a access) (Done, error) {
	e, err := r.edit(ctx, c, a)
	done := Done{Edit: e.Edit, To: e.to}
	if err != nil {
		return done, err
	}
	pulls, err := r.pullRequests(a)
	if err != nil {
		return done, err
	}
	title, text, _ := strings.Cut(c.Message, "\n")
	input := &scm.PullRequestInput{Title: oneLine(title, maxError), Body: verbatim(text), Base: e.branch.Short()}
	input.Head = "canary-rollback-" +
		strings.NewReplacer("+", "-", "..", "-", ".lock", "-lock").Replace(c.App+"-"+c.From+"-to-"+e.to)
	there, err := e.remote(ctx, a, plumbing.NewBranchReferenceName(input.Head))
	if err != nil {
		return done, err
	}
	if there != plumbing.ZeroHash { // of an earlier attempt: what people added to it stays
		done.Branch, done.Commit = input.Head, there.String()
		if done.PullRequest, err = pulls.open(ctx, input.Head); err != nil || done.PullRequest != "" {
			return done, err
		}
		// its pull request was merged or closed, or was never made: this one is of what the branch
		// is now
		input.Head += "-" + e.before.String()[:10]
		if there, err = e.remote(ctx, a, plumbing.NewBranchReferenceName(input.Head)); err != nil {
			return done, err
		}
	}
	done.Branch, done.Commit = input.Head, there.String()
	if there == plumbing.ZeroHash {
		own := plumbing.NewBranchReferenceName(input.Head)
		if err := e.repository.Storer.SetReference(plumbing.NewHashReference(own, e.after)); err != nil {
			return done, fmt.Errorf("making the branch: %w", err)
		}
		e.branch, e.before = own, plumbing.ZeroHash
		if err := e.push(ctx, a); err != nil {
			return done, err
		}
		done.Commit = e.after.String()
	}
	if done.PullRequest, err = pulls.open(ctx, input.Head); err != nil || done.PullRequest != "" {
		return done, err
	}
	if done.PullRequest, err = pulls.create(ctx, input); err != nil {
		return done, fmt.Errorf("branch %s is pushed, but its pull request could not be made on %s: %w",
			input.Head, pulls.repository, err)
	}
	return done, nil
}

// verbatim returns a text as Markdown that shows it as it is: nothing in it is a heading, a link, a
// mention or a command.
func verbatim(text string) string {
	return "```text\n" + strings.ReplaceAll(strings.TrimSpace(text), "`", "'") + "\n```"
}

// pullRequests are those of a repository.
type pullRequests struct {
	client     *scm.Client
	transport  *retrying
	repository string // as its server calls it: OWNER/NAME
}

// pages is how many pages of open pull requests are looked through.
const pages = 10

// open returns the address of the open pull request of a branch; "" where there is none.
func (p *pullRequests) open(ctx context.Context, branch string) (link string, err error) {
	for page := 1; page <= pages; page++ {
		var open []*scm.PullRequest
		if err := p.ask(func() (answer *scm.Response, err error) {
			options := &scm.PullRequestListOptions{Open: true, Page: page, Size: 100}
			open, answer, err = p.client.PullRequests.List(ctx, p.repository, options)
			return answer, err
		}); err != nil {
			return "", fmt.Errorf("listing the pull requests of %s: %w", p.repository, err)
		}
		for _, one := range open {
			if one.Source == branch || one.Head.Ref == branch {
				return oneLine(one.Link, maxError), nil
			}
		}
		if len(open) == 0 { // servers have limits of their own for a page
			break
		}
	}
	return "", nil
}

// create makes a pull request and returns its address.
func (p *pullRequests) create(ctx context.Context, input *scm.PullRequestInput) (link string, err error) {
	var made *scm.PullRequest
	if err := p.ask(func() (answer *scm.Response, err error) {
		made, answer, err = p.client.PullRequests.Create(ctx, p.repository, input)
		return answer, err
	}); err != nil {
		return "", err
	}
	return oneLine(made.Link, maxError), nil
}

// ask calls the server. go-scm's client of Bitbucket Server panics where a request fails.
func (p *pullRequests) ask(do func() (*scm.Response, error)) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = cmp.Or(p.transport.failed, fmt.Errorf("reading the answer: %v", panicked))
		}
	}()
	p.transport.failed = nil
	answer, err := do()
	if err != nil {
		return explain(err, answer)
	}
	return nil
}

// explain says what a status means where the server's words do not.
func explain(err error, answer *scm.Response) error {
	if answer == nil {
		return err
	}
	switch answer.Status {
	case http.StatusUnauthorized:
		return fmt.Errorf("%w (401: the token is wrong or has expired)", err)
	case http.StatusForbidden:
		return fmt.Errorf("%w (403: the token may not do this)", err)
	case http.StatusNotFound:
		return fmt.Errorf("%w (404: there is no such repository, or the token may not see it)", err)
	}
	return err
}

// pullRequests returns a client of the server's pull requests. The token is the Secret's password.
func (r Repository) pullRequests(a access) (*pullRequests, error) {
	server, repository, err := serverOf(r.URL)
	if err != nil {
		return nil, err
	}
	if a.password == "" {
		return nil, errors.New(
			"the Secret of the environment repository has no password: put the token in it that may make " +
				"pull requests (an SSH key cannot)")
	}
	if host := server[strings.LastIndex(server, "/")+1:]; host == "github.com" || host == "bitbucket.org" {
		server = "" // its API is elsewhere, which go-scm knows
	}
	driver := r.Provider
	if driver == "gitea" { // whose own client follows redirects with the token; its pull requests are as GitHub's
		driver, server = "github", server+"/api/v1"
	}
	// Without the token, which go-scm would send wherever it is redirected to.
	client, err := factory.NewClient(driver, server, "")
	if err != nil {
		return nil, fmt.Errorf("finding the server of pull requests: %w", err)
	}
	once := &http.Client{CheckRedirect: sameServer,
		Transport: &signed{access: a, provider: r.Provider, origin: origin(client.BaseURL), next: newTransport(a.ca)}}
	again := retryablehttp.NewClient()
	again.HTTPClient, again.Logger, again.RetryMax = once, nil, 4
	again.CheckRetry = func(ctx context.Context, answer *http.Response, err error) (bool, error) {
		if errors.Is(err, errRedirected) {
			return false, err
		}
		return retryablehttp.DefaultRetryPolicy(ctx, answer, err)
	}
	transport := &retrying{again: &retryablehttp.RoundTripper{Client: again}, once: once}
	client.Client = &http.Client{Transport: transport}
	return &pullRequests{client, transport, repository}, nil
}

// signed adds the token to requests, for the one server that it is meant for.
type signed struct {
	access
	provider, origin string
	next             http.RoundTripper
}

// maxRefusal is how much is read of an answer that refuses, in bytes.
const maxRefusal = 4 << 10

// RoundTrip sends a request and returns its answer. Where that refuses, the credentials are kept
// out of it: clients log it.
func (s *signed) RoundTrip(req *http.Request) (*http.Response, error) {
	if to := origin(req.URL); to != s.origin {
		return nil, fmt.Errorf("%w to %s, and nothing was sent there", errRedirected, to)
	}
	req = req.Clone(req.Context())
	switch s.provider {
	case "gitlab":
		req.Header.Set("Private-Token", s.password)
	case "gitea":
		req.Header.Set("Authorization", "token "+s.password)
	case "bitbucketcloud":
		req.SetBasicAuth(s.user, s.password)
	default:
		req.Header.Set("Authorization", "Bearer "+s.password)
	}
	answer, err := s.next.RoundTrip(req)
	if err != nil || answer.StatusCode < http.StatusMultipleChoices {
		return answer, err
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxRefusal))
	if err = errors.Join(err, answer.Body.Close()); err != nil {
		return nil, err
	}
	masked := s.mask(string(text))
	answer.Body, answer.ContentLength = io.NopCloser(strings.NewReader(masked)), int64(len(masked))
	return answer, nil
}

// retrying sends again what reads, and nothing else: a pull request is asked for once, as an answer
// that got lost would make it twice.
type retrying struct {
	again  http.RoundTripper
	once   *http.Client
	failed error // of the last request
}

// RoundTrip sends a request and returns its answer, of wherever in the same server it is redirected
// to.
func (r *retrying) RoundTrip(req *http.Request) (answer *http.Response, err error) {
	if req.Method == http.MethodGet {
		answer, err = r.again.RoundTrip(req)
	} else {
		answer, err = r.once.Do(req)
	}
	if err != nil {
		r.failed = err
	}
	return answer, err
}

// serverOf returns the address of a server's API and what it calls the repository.
func serverOf(address string) (server, repository string, err error) {
	name := func(path string) string {
		// Bitbucket Server clones from /scm
		return strings.TrimPrefix(strings.TrimSuffix(strings.Trim(path, "/"), ".git"), "scm/")
	}
	if user, rest, found := strings.Cut(address, "@"); found && !strings.Contains(user, "://") {
		host, path, _ := strings.Cut(rest, ":")
		return "https://" + host, name(path), nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", "", errors.New("the address of the environment repository cannot be read")
	}
	if u.Scheme == "ssh" {
		return "https://" + u.Hostname(), name(u.Path), nil
	}
	return u.Scheme + "://" + u.Host, name(u.Path), nil
}
