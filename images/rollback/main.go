// Command rollback sends all traffic to stable, brings stable back to the revision it had, scales
// the candidate to zero, and puts Git right.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/gitops"
	"github.com/canary-tasks/canary-tasks/lib/release"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := release.RunRollback(ctx, putRight)
	stop()
	os.Exit(code)
}

// putRight is the step's last part: the environment repository says again what serves. Where it
// does already, or says something newer, it is left alone.
func putRight(ctx context.Context, git config.Git, u release.Undo) (release.Righted, error) {
	repository := gitops.Repository{
		URL: git.Repository, Branch: git.Branch, Provider: git.Provider, Secrets: os.Getenv("CANARY_GIT_SECRETS"),
		Author: "canary-tasks <canary-tasks@users.noreply.github.com>"}
	change := gitops.Change{
		Version: gitops.Version{App: u.App, Release: u.Release, Namespace: u.Namespace, Path: git.Path},
		Files:   git.Files, From: u.From, To: u.To, Message: u.Message}
	if change.Files == nil {
		change.Files = gitops.Files(u.Namespace)
	}
	do := map[string]func(context.Context, gitops.Change) (gitops.Done, error){
		"off": repository.Show, "commit": repository.Commit, "pull-request": repository.Propose,
	}[git.Mode]
	done, err := do(ctx, change)
	righted := release.Righted{To: done.To, Reference: done.Commit}
	if done.Edit != (gitops.Edit{}) {
		righted.Edit = done.String()
	}
	switch {
	case errors.Is(err, gitops.ErrAlready), errors.Is(err, gitops.ErrMovedOn):
		righted.Text = fmt.Sprintf("nothing to change: %v", err)
		return righted, nil
	case err != nil:
		return righted, err
	case done.PullRequest != "":
		righted.Text, righted.Reference = fmt.Sprintf(
			"%s goes back to %s with pull request %s", u.App, done.To, done.PullRequest), done.PullRequest
	case done.Commit != "":
		righted.Text = fmt.Sprintf("%s is back to %s by commit %s on %s", u.App, done.To, done.Commit[:10], done.Branch)
	default:
		righted.Text = fmt.Sprintf("%s is to go back to %s; git is off, so nothing was changed", u.App, done.To)
	}
	return righted, nil
}
