// Package report is how a step says what it does: lines of its log, Kubernetes events, Tekton
// results and its exit code.
package report

// Code is the exit code of a step.
type Code int

// The exit codes of every step. They are an interface: pipelines and people act on them.
const (
	Done       Code = 0 // the step did what it is for, or there was nothing to do
	Rejected   Code = 1 // the release was judged and rejected
	Misconfig  Code = 2 // the configuration is wrong; nothing was changed
	Undecided  Code = 3 // it could not decide or act in time, or a newer release took over
	Busy       Code = 4 // somebody else holds the target
	GitPending Code = 5 // traffic is safe, but Git was not put right
)

// Codes lists the exit codes with what they mean, for people.
var Codes = []struct {
	Code    Code
	Name    string
	Meaning string
}{
	{Done, "done", "the step did what it is for, or there was nothing to do"},
	{Rejected, "rejected",
		"the release was judged and rejected, or its pods did not get ready; all traffic goes to stable, or the " +
			"log says why it could not"},
	{Misconfig, "configuration", "the configuration is wrong; nothing was changed"},
	{Undecided, "undecided",
		"it could not decide or act in time, or a newer release took over; all traffic goes to stable, or the " +
			"log says why it could not"},
	{Busy, "busy", "somebody else holds the target; nothing was changed"},
	{GitPending, "git", "traffic goes to stable, but Git was not put right"},
}
