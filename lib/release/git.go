package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// Undo is what the environment repository has to say after a rollback.
type Undo struct {
	Namespace string
	App       string // as the repository calls it
	Release   string // as Helm calls it; "" where that is not known, or does not matter
	From      string // the version that was rolled back
	To        string // the version that serves; "": the one before, by the repository's history
	Message   string // of the commit; its first line is a title
}

// Righted is what was done.
type Righted struct {
	Text      string // in a sentence
	Edit      string // as a patch; "" where nothing had to be changed
	To        string // the version that it says now
	Reference string // the commit, or the address of the pull request; "" where none was made
}

// PutRight changes the environment repository, so that it says what serves. It does what it has to, and no more: where it is right already, or
// somebody has moved on to another version, it says so in Righted and changes nothing.
type PutRight func(ctx context.Context, git config.Git, u Undo) (Righted, error)

// gitTime is how long the environment repository may take.
const gitTime = 2 * time.Minute

// putGitRight does what is left to do after a rollback: Git still says the version that was rolled back. Traffic is safe by now.
func (r *Release) putGitRight(ctx context.Context, record *Record) error {
	git := r.Step.Git
	u := undo(record, git, r.Client.Namespace)
	left := func(to string) string {
		return fmt.Sprintf("jx promote -b --app %s --version %s --env %s --no-poll", u.App, cmp.Or(to, "VERSION"), cmp.Or(git.Environment, "production"))
	}
	pending := func(to, format string, args ...any) error {
		return report.Errorf(report.GitPending, "%s; Git was not put right: %s. What is left to do: %s", r.verdict, fmt.Sprintf(format, args...), left(to))
	}
	asked := (git.Repository != "" || len(r.Step.GitProblems) > 0) && git.Mode != "off" && r.PutRight != nil
	switch {
	case u.From == "" && asked:
		return pending(u.To, "it cannot be told which version %s was: neither a label helm.sh/chart or chart, nor the image's tag says it", record.Candidate.Revision)
	case u.From == u.To && asked:
		return pending(u.To, "both revisions are version %s, and what differs is something else: revert the commit that changed it", u.From)
	case u.From == "", u.From == u.To:
		r.Report.Say("Git: if an environment repository says what was rolled back, put it right: revert the commit, or %s", left(u.To))
		return nil
	case len(r.Step.GitProblems) > 0:
		return pending(u.To, "%v", r.Step.GitProblems)
	}
	r.Report.Say("Git: %s has to say %s, not %s: %s", u.App, cmp.Or(u.To, "the version before"), u.From, left(u.To))
	if git.Repository == "" || r.PutRight == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, gitTime)
	defer cancel()
	done, err := r.PutRight(ctx, git, u)
	if done.Edit != "" {
		for line := range strings.Lines(done.Edit) {
			r.Report.Say("  %s", strings.TrimRight(line, "\n"))
		}
	}
	switch {
	case err != nil && git.Mode == "off": // nobody asked for more than the edit, which cannot be shown
		r.Report.Say("Git: the edit cannot be shown: %v", err)
	case err != nil && ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		return pending(cmp.Or(u.To, done.To), "%v: %v", err, ctx.Err())
	case err != nil:
		return pending(cmp.Or(u.To, done.To), "%v", err)
	default:
		r.Report.Event(ctx, false, "Git: %s", done.Text)
	}
	return report.Results(r.Results, map[string]string{"git": done.Reference})
}

// undo plans what the repository has to say.
func undo(record *Record, git config.Git, namespace string) Undo {
	name, from := nameAndVersion(record.Candidate)
	_, to := nameAndVersion(record.Promoted)
	u := Undo{Namespace: namespace, App: cmp.Or(git.App, name, record.Config.Target), From: from, To: to}
	if git.App == "" {
		u.Release = record.Candidate.Release
	}
	serves := cmp.Or(to, "the version before")
	u.Message = fmt.Sprintf("fix: %s back to %s\n\nThe canary release of %s ended as %s, and was rolled back: %s\nhas all the traffic in namespace %s.\n\nReason: %s\nRun: %s\nRevision: %s\n",
		u.App, serves, from, cmp.Or(record.Outcome, Aborted), serves, namespace, cmp.Or(record.Reason, "it was ended before a verdict"),
		strings.Trim(record.RunNamespace+"/"+record.Run, "/"), record.Candidate.Revision)
	return u
}

// chartLabel is NAME-VERSION, where the version is a semantic one.
var chartLabel = regexp.MustCompile(`^(.+?)-(v?\d+\.\d+\.\d+(?:[-+_].*)?)$`)

// nameAndVersion is what a chart is called and its version; without a chart's label there is only the tag of the first image that has one.
func nameAndVersion(v Version) (name, version string) {
	if m := chartLabel.FindStringSubmatch(v.Chart); m != nil {
		return m[1], strings.ReplaceAll(m[2], "_", "+") // a label has no +, and Helm writes it so
	}
	for _, image := range v.Template.Images() {
		image, _, _ = strings.Cut(image, "@")
		if i := strings.LastIndex(image, ":"); i > strings.LastIndex(image, "/") && image[i+1:] != "latest" {
			return "", image[i+1:]
		}
	}
	return "", ""
}
