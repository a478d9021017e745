package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// Undo is what the environment repository has to say after a rollback.
type Undo struct {
	Namespace string
	App       string // as the repository calls it: the target's name, or gitApp
	// as Helm calls it, by the Deployment's annotation; "" where that is unknown, or gitApp names
	// the application
	Release string
	From    string // the version that was rolled back
	To      string // the version that serves; "": the one before, by the repository's history
	Message string // of the commit; its first line is a title
}

// Righted is what was done.
type Righted struct {
	Text      string // in a sentence
	Edit      string // as a patch; "" where nothing had to be changed
	To        string // the version that it says now
	Reference string // the commit, or the address of the pull request; "" where none was made
}

// PutRight changes the environment repository, so that it says what serves. It does what it has to,
// and no more: where it is right already, or somebody has moved on to another version, it says so
// in Righted and changes nothing.
type PutRight func(ctx context.Context, git config.Git, u Undo) (Righted, error)

// gitTime is how long the environment repository may take.
const gitTime = 2 * time.Minute

// putGitRight does what is left to do after a rollback: Git still says the version that was rolled
// back. Traffic is safe by now.
func (r *Release) putGitRight(ctx context.Context, record *Record) error {
	git := r.Step.Git
	u, unclear := undo(record, git, r.Step.Target, r.Client.Namespace)
	asked := (git.Repository != "" || len(r.Step.GitProblems) > 0) && git.Mode != "off" && r.PutRight != nil
	say, pending := u.unknown(unclear, git, inline(record.Candidate.Revision))
	switch {
	case pending != nil && asked:
		return r.gitPending(*pending)
	case pending != nil:
		r.Report.Say("%s", say)
		return nil
	case len(r.Step.GitProblems) > 0:
		return r.gitPending(undone{fmt.Sprint(r.Step.GitProblems), u.command(git, u.To)})
	}
	r.Report.Say("Git: %s has to say %s, not %s: %s", u.App, cmp.Or(u.To, "the version before"), u.From,
		u.command(git, u.To))
	if git.Repository == "" || r.PutRight == nil {
		return nil
	}
	return r.edit(ctx, git, u)
}

// edit changes the environment repository, or shows how.
func (r *Release) edit(ctx context.Context, git config.Git, u Undo) error {
	ctx, cancel := context.WithTimeout(ctx, gitTime)
	defer cancel()
	done, err := r.PutRight(ctx, git, u)
	for line := range strings.Lines(done.Edit) {
		r.Report.Say("  %s", strings.TrimRight(line, "\n"))
	}
	switch {
	case err != nil && git.Mode == "off": // nobody asked for more than the edit, which cannot be shown
		r.Report.Say("Git: the edit cannot be shown: %v", err)
	case err != nil && ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		return r.gitPending(undone{fmt.Sprintf("%v: %v", err, ctx.Err()), u.command(git, cmp.Or(u.To, done.To))})
	case err != nil:
		return r.gitPending(undone{err.Error(), u.command(git, cmp.Or(u.To, done.To))})
	default:
		r.Report.Event(ctx, false, "Git: %s", done.Text)
	}
	return report.Results(r.Results, map[string]string{"git": done.Reference})
}

// undone is why Git was not put right, and what is left to do.
type undone struct{ why, left string }

func (r *Release) gitPending(u undone) error {
	return report.Errorf(report.GitPending, "%s; Git was not put right: %s. What is left to do: %s", r.verdict, u.why,
		u.left)
}

// command is what puts Git right by hand.
func (u Undo) command(git config.Git, to string) string {
	return fmt.Sprintf("jx promote -b --app %s --version %s --env %s --no-poll", u.App, cmp.Or(to, "VERSION"),
		cmp.Or(git.Environment, "production"))
}

// unknown says what is left to do where no edit of the repository is known, to who asked for one
// and to who did not; nil where one is. unclear is why the application is not known.
func (u Undo) unknown(unclear error, git config.Git, revision string) (say string, pending *undone) {
	const ask = "Git: if an environment repository says what was rolled back, "
	byHand := ask + "put it right: revert the commit, or " + u.command(git, u.To)
	switch {
	case unclear != nil:
		return ask + "revert the commit that promoted it. The command for it is not known: " + unclear.Error(),
			&undone{unclear.Error(), "set gitApp and run rollback again"}
	case u.From == "":
		return byHand, &undone{fmt.Sprintf("the version of revision %s is unknown: neither a label helm.sh/chart or "+
			"chart, nor the tag of an image has one", revision), u.command(git, u.To)}
	case u.From == u.To:
		return byHand, &undone{fmt.Sprintf("both revisions are version %s, and what differs is something else: "+
			"revert the commit that changed it", u.From), u.command(git, u.To)}
	}
	return "", nil
}

// undo plans what the repository has to say. Which application that is, the pipeline decides: the
// target, or gitApp. What the application's objects and the record say only gives its versions. The
// error says that they speak of another application.
func undo(record *Record, git config.Git, target, namespace string) (Undo, error) {
	u := Undo{Namespace: namespace, App: cmp.Or(git.App, target)}
	if err := sameApplication(record.Candidate.Chart, git, target); err != nil {
		return u, err
	}
	var name, was string
	name, u.From = nameAndVersion(record.Candidate)
	// of another chart, or of the image and not of the chart
	if was, u.To = nameAndVersion(record.Promoted); was != name {
		u.To = ""
	}
	if git.App == "" && config.IsApplication(record.Candidate.Release) {
		u.Release = record.Candidate.Release
	}
	serves := cmp.Or(u.To, "the version before")
	u.Message = fmt.Sprintf("fix: %s back to %s\n\nThe canary release of %s ended as %s, and was rolled back: %s\n"+
		"has all the traffic in namespace %s.\n\nReason: %s\nRun: %s\nRevision: %s\n",
		u.App, serves, u.From, inline(string(cmp.Or(record.Outcome, Aborted))), serves, namespace,
		inline(cmp.Or(record.Reason, "it was ended before a verdict")),
		inline(strings.Trim(record.RunNamespace+"/"+record.Run, "/")), inline(record.Candidate.Revision))
	return u, nil
}

// sameApplication returns an error where a chart is called otherwise than the application, and no
// parameter says that this is meant: then its version may be another application's.
func sameApplication(chart string, git config.Git, target string) error {
	name := nameOf(chart)
	if name == "" || name == target || git.App != "" || git.Path != nil {
		return nil
	}
	return fmt.Errorf(
		"the chart of Deployment %s is called %s, by its label helm.sh/chart or chart: set "+
			"gitApp to the name by which "+
			"the environment repository has the application (gitApp=%s if it is the Deployment's)", target, name,
		target)
}

// checkGit finds, before anything is changed, what rollback would refuse.
func (r Request) checkGit(s *snapshot, add found) {
	git := r.Config.Git
	if git.Repository == "" || git.Mode == "off" {
		return
	}
	if err := sameApplication(chartOf(s.target.Labels), git, r.Config.Target); err != nil {
		add("gitApp", git.App, "%v", err)
	}
}

// maxInline is how many characters of a text go into a message.
const maxInline = 400

// inline returns a text for a line of a message that Git servers show and act on: it cannot begin a
// line, and has no links, mentions or commands.
func inline(text string) string {
	text = strings.NewReplacer("`", "'", "[", "(", "]", ")", "<", "(", ">", ")", "@", " at ", "#", " no. ").Replace(
		text)
	text = strings.Join(strings.FieldsFunc(text, func(c rune) bool { return c == ' ' || !unicode.IsPrint(c) }), " ")
	if characters := []rune(text); len(characters) > maxInline {
		return string(characters[:maxInline]) + "..."
	}
	return text
}

// chartLabel is NAME-VERSION. A label has no +, and Helm writes _ for it.
var chartLabel = regexp.MustCompile(
	`^([A-Za-z0-9](?:[A-Za-z0-9._-]*?[A-Za-z0-9])?)-(v?\d+\.\d+\.\d+(?:[-+_][0-9A-Za-z.+_-]*)?)$`)

// nameAndVersion is what a chart is called and its version; without a chart's label there is only
// the tag of the first image that has one. A version that could not be one is none.
func nameAndVersion(v Version) (name, version string) {
	if m := chartLabel.FindStringSubmatch(v.Chart); m != nil {
		if version := strings.Replace(m[2], "_", "+", 1); config.IsVersion(version) {
			return m[1], version
		}
	}
	for _, image := range v.Template.Images() {
		image, _, _ = strings.Cut(image, "@")
		i := strings.LastIndex(image, ":")
		if tag := image[i+1:]; i > strings.LastIndex(image, "/") && tag != "latest" && config.IsVersion(tag) {
			return "", tag
		}
	}
	return "", ""
}
