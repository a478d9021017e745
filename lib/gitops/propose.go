package gitops

import (
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

// Propose makes a change as a pull request on a branch of its own. There is one branch for each version that was rolled back, so that twice makes one
// pull request. The error is as of Commit.
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
	done.Branch = "canary-rollback-" + c.App + "-" + strings.NewReplacer("+", "-", "/", "-").Replace(c.From)
	own := plumbing.NewBranchReferenceName(done.Branch)
	switch there, err := e.remote(ctx, auth, own); {
	case err != nil:
		return done, err
	case there != plumbing.ZeroHash: // of an earlier attempt: whatever people added to it stays
		done.Commit = there.String()
	default:
		if err := e.repository.Storer.SetReference(plumbing.NewHashReference(own, e.after)); err != nil {
			return done, fmt.Errorf("making the branch: %w", err)
		}
		e.branch, e.before = own, plumbing.ZeroHash
		if err := e.push(ctx, auth); err != nil {
			return done, err
		}
		done.Commit = e.after.String()
	}
	title, text, _ := strings.Cut(c.Message, "\n")
	done.PullRequest, err = pullRequest(ctx, client, repository, &scm.PullRequestInput{Title: title, Body: strings.TrimSpace(text), Head: done.Branch, Base: base})
	return done, err
}

// pages is how many pages of open pull requests are looked through.
const pages = 10

// pullRequest returns the address of the open pull request of a branch, which it makes where there is none.
func pullRequest(ctx context.Context, client *scm.Client, repository string, input *scm.PullRequestInput) (string, error) {
	for page := 1; page <= pages; page++ {
		open, answer, err := client.PullRequests.List(ctx, repository, &scm.PullRequestListOptions{Open: true, Page: page, Size: 100})
		if err != nil {
			return "", fmt.Errorf("listing the pull requests of %s: %w", repository, explain(err, answer))
		}
		for _, p := range open {
			if p.Source == input.Head || p.Head.Ref == input.Head {
				return p.Link, nil
			}
		}
		if len(open) < 100 {
			break
		}
	}
	made, answer, err := client.PullRequests.Create(ctx, repository, input)
	if err != nil {
		return "", fmt.Errorf("branch %s is pushed, but its pull request could not be made on %s: %w", input.Head, repository, explain(err, answer))
	}
	return made.Link, nil
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
	retry := retryablehttp.NewClient()
	retry.Logger, retry.RetryMax = nil, 4
	// a pull request is asked for once: an answer that got lost would make it twice
	retry.CheckRetry = func(ctx context.Context, resp *http.Response, err error) (bool, error) {
		if resp != nil && resp.Request != nil && resp.Request.Method != http.MethodGet {
			return false, nil
		}
		return retryablehttp.DefaultRetryPolicy(ctx, resp, err)
	}
	if host := server[strings.LastIndex(server, "/")+1:]; host == "github.com" || host == "bitbucket.org" {
		server = "" // its API is elsewhere, which go-scm knows
	}
	var client *scm.Client
	if user, err := os.ReadFile(filepath.Join(r.Secrets, "username")); err == nil && r.Provider == "bitbucketcloud" {
		client, err = factory.NewClientWithBasicAuth(r.Provider, server, strings.TrimSpace(string(user)), strings.TrimSpace(string(token)))
		if err != nil {
			return nil, "", fmt.Errorf("finding the server of pull requests: %w", err)
		}
	} else if client, err = factory.NewClient(r.Provider, server, strings.TrimSpace(string(token))); err != nil {
		return nil, "", fmt.Errorf("finding the server of pull requests: %w", err)
	}
	if client.Client != nil {
		retry.HTTPClient.Transport = client.Client.Transport // which has the token
		client.Client = retry.StandardClient()
	}
	return client, repository, nil
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
