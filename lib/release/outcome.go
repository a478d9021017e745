package release

import "github.com/canary-tasks/canary-tasks/lib/report"

// Outcome is how a release ended.
type Outcome string

// The outcomes of a release: a closed list.
const (
	Initialized  Outcome = "initialized"
	Unchanged    Outcome = "unchanged"
	Promoted     Outcome = "promoted"
	Rejected     Outcome = "rejected"
	Inconclusive Outcome = "inconclusive"
	Superseded   Outcome = "superseded"
	Refused      Outcome = "refused"
	Aborted      Outcome = "aborted"
	Detached     Outcome = "detached"
)

// Outcomes is what each outcome means, and with which exit code the step that finds it ends. The
// READMEs come from it.
var Outcomes = []struct {
	Outcome Outcome
	Code    report.Code
	Meaning string
}{
	{Initialized, report.Done, "the first run: stable was created; there was nothing to compare with"},
	{Unchanged, report.Done, "stable runs this revision already"},
	{Promoted, report.Done, "stable runs the revision that passed"},
	{Rejected, report.Rejected, "the revision was analyzed and failed, or failed as stable"},
	{Inconclusive, report.Undecided, "the revision could not be judged in time"},
	{Superseded, report.Undecided, "a newer revision took over"},
	{Refused, report.Busy, "the release did not begin: another run holds the target, or the configuration is wrong " +
		"(exit code 2)"},
	{Aborted, report.Undecided, "the release ended before a verdict: cancelled, interrupted or failed"},
	{Detached, report.Done, "the target serves by itself again, without canary releases"},
}

// codeAfter returns how a step ends that finds the release of its run ended.
func codeAfter(outcome Outcome) report.Code {
	for _, o := range Outcomes {
		if o.Outcome == outcome {
			return o.Code
		}
	}
	return report.Undecided
}
