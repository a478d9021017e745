package gitops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/jenkins-x/go-scm/scm"
	"github.com/jenkins-x/go-scm/scm/factory"
)

// Propose makes a change as a pull request on a branch of its own. There is one open pull request for each version that was rolled back and the one
// that serves, so that twice makes one. The error is as of Commit.
func (r Repository) Propose(ctx context.Context, c Change) (Done, error) {
	auth, err := r.auth()
	if err != nil {
		return Done{}, err
	}
	e, err := r.edit(ctx, c, auth)
	done := Done{Edit: e.Edit, To: e.to}
	if err != nil {
		return done, err
	}
	client, repository, err := r.provider()
	if err != nil {
		return done, err
	}
	base := e.branch.Short()
	title, text, _ := strings.Cut(c.Message, "\n")
	input := &scm.PullRequestInput{Title: title, Body: strings.TrimSpace(text), Base: base}
	input.Head = strings.NewReplacer("+", "-", "/", "-").Replace("canary-rollback-" + cmp.Or(c.Release, c.App) + "-" + c.From + "-to-" + e.to)
	there, err := e.remote(ctx, auth, plumbing.NewBranchReferenceName(input.Head))
	if err != nil {
		return done, err
	}
	if there != plumbing.ZeroHash { // of an earlier attempt: whatever people added to it stays
		done.Branch, done.Commit = input.Head, there.String()
		if done.PullRequest, err = openPullRequest(ctx, client, repository, input.Head); err != nil || done.PullRequest != "" {
			return done, err
		}
		input.Head += "-" + e.before.String()[:10] // its pull request was merged or closed, or was never made: this one is of what the branch is now
		if there, err = e.remote(ctx, auth, plumbing.NewBranchReferenceName(input.Head)); err != nil {
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
		if err := e.push(ctx, auth); err != nil {
			return done, err
		}
		done.Commit = e.after.String()
	}
	if done.PullRequest, err = openPullRequest(ctx, client, repository, input.Head); err != nil || done.PullRequest != "" {
		return done, err
	}
	made, answer, err := client.PullRequests.Create(ctx, repository, input)
	if err != nil {
		return done, fmt.Errorf("branch %s is pushed, but its pull request could not be made on %s: %w", input.Head, repository, explain(err, answer))
	}
	done.PullRequest = made.Link
	return done, nil
}

// pages is how many pages of open pull requests are looked through.
const pages = 10

// openPullRequest returns the address of the open pull request of a branch; "" where there is none.
func openPullRequest(ctx context.Context, client *scm.Client, repository, branch string) (string, error) {
	for page := 1; page <= pages; page++ {
		open, answer, err := client.PullRequests.List(ctx, repository, &scm.PullRequestListOptions{Open: true, Page: page, Size: 100})
		if err != nil {
			return "", fmt.Errorf("listing the pull requests of %s: %w", repository, explain(err, answer))
		}
		for _, p := range open {
			if p.Source == branch || p.Head.Ref == branch {
				return p.Link, nil
			}
		}
		if len(open) == 0 { // servers have limits of their own for a page
			break
		}
	}
	return "", nil
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

// provider returns a client of the server's pull requests, and what the server calls the repository: OWNER/NAME. The token is the Secret's password.
func (r Repository) provider() (*scm.Client, string, error) {
	server, repository, err := serverOf(r.URL)
	if err != nil {
		return nil, "", err
	}
	token, err := os.ReadFile(filepath.Join(r.Secrets, "password"))
	if err != nil {
		return nil, "", errors.New("the Secret of the environment repository has no password: put the token in it that may make pull requests (an SSH key cannot)")
	}
	if host := server[strings.LastIndex(server, "/")+1:]; host == "github.com" || host == "bitbucket.org" {
		server = "" // its API is elsewhere, which go-scm knows
	}
	user, _ := os.ReadFile(filepath.Join(r.Secrets, "username")) // which Bitbucket's cloud alone wants
	client, err := factory.NewClient(r.Provider, server, strings.TrimSpace(string(token)), factory.SetUsername(strings.TrimSpace(string(user))))
	if err != nil {
		return nil, "", fmt.Errorf("finding the server of pull requests: %w", err)
	}
	if client.Client != nil {
		retry := retryablehttp.NewClient()
		retry.Logger, retry.RetryMax, retry.HTTPClient.Transport = nil, 4, client.Client.Transport // which has the token
		client.Client = &http.Client{Transport: readsAgain{&retryablehttp.RoundTripper{Client: retry}, client.Client.Transport}}
	}
	return client, repository, nil
}

// readsAgain sends again what reads, and nothing else: a pull request is asked for once, as an answer that got lost would make it twice.
type readsAgain struct{ again, once http.RoundTripper }

// RoundTrip sends a request and returns its answer.
func (r readsAgain) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodGet {
		return r.again.RoundTrip(req)
	}
	if r.once == nil {
		return http.DefaultTransport.RoundTrip(req)
	}
	return r.once.RoundTrip(req)
}

// serverOf returns the address of a server's API and what it calls the repository.
func serverOf(address string) (server, repository string, err error) {
	name := func(path string) string {
		return strings.TrimPrefix(strings.TrimSuffix(strings.Trim(path, "/"), ".git"), "scm/") // Bitbucket Server clones from /scm
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
