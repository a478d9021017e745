package release

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis"
	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/show"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// Phase is how far a release is. Within an epoch it only goes forward.
type Phase string

// The phases of a release.
const (
	Initializing Phase = "Initializing" // stable, the Services and the route are made
	Progressing  Phase = "Progressing"  // the candidate gets weight and is judged
	Promoting    Phase = "Promoting"    // stable becomes what was judged
	RollingBack  Phase = "RollingBack"  // stable becomes, or stays, what it was
	Detaching    Phase = "Detaching"    // the target takes over from stable, for good
	Succeeded    Phase = "Succeeded"
	Failed       Phase = "Failed"
)

func (p Phase) ended() bool { return p == Succeeded || p == Failed || p == "" }

// Version is one revision of a workload: what stable was, or what is being released.
type Version struct {
	Revision string            `json:"revision,omitempty"`
	Template workload.Template `json:"template,omitempty"`
	Replicas int32             `json:"replicas,omitempty"`
	Chart    string            `json:"chart,omitempty"`   // NAME-VERSION, as the target's label says
	Release  string            `json:"release,omitempty"` // of Helm
	Copied   []workload.Mount  `json:"copied,omitempty"`  // what it mounts and stable has copies of
	// Secrets that did not count in the revision: the account could not read them
	Unread []workload.Mount `json:"unread,omitempty"`
	// the revision without any Secret, for accounts that may not read them
	Open string `json:"open,omitempty"`
}

func (v Version) contents() workload.Contents {
	contents := workload.Contents{}
	for _, m := range v.Copied {
		contents[workload.Mount{Kind: m.Kind, Name: m.Name}] = nil
	}
	return contents
}

// Shift is a weight that the candidate was given.
type Shift struct {
	Weight int32     `json:"weight"`
	At     time.Time `json:"at"`
	Passed bool      `json:"passed,omitempty"`
	// Checks are the judgements at this weight, the newest last.
	Checks []analysis.Result `json:"checks,omitempty"`
}

// Rejection remembers a revision that was judged and rejected.
type Rejection struct {
	Revision string    `json:"revision"`
	Reason   string    `json:"reason"`
	Run      string    `json:"run"`
	At       time.Time `json:"at"`
}

// Record is the release record: the lock of a target, and all that is known of its release. It is
// kept in the ConfigMap TARGET-canary-release. The weights are not in it: they are only in the
// VirtualService.
type Record struct {
	Holder       string   `json:"holder"`                 // uid of the run
	Before       []string `json:"before,omitempty"`       // uids of the runs that held it before, the newest last
	Run          string   `json:"run"`                    // name of the run
	RunNamespace string   `json:"runNamespace,omitempty"` // of the PipelineRun; empty where the run is none
	// that PipelineRun was there: only what was seen can be gone
	RunSeen     bool          `json:"runSeen,omitempty"`
	Epoch       int64         `json:"epoch"` // raised whenever the lock changes hands
	Phase       Phase         `json:"phase"`
	Expires     time.Time     `json:"expires"`
	Interrupted bool          `json:"interrupted,omitempty"` // a step was told to end: whoever comes next need not wait
	Outcome     Outcome       `json:"outcome,omitempty"`
	Reason      string        `json:"reason,omitempty"`
	Config      config.Config `json:"config"`
	Stable      Version       `json:"stable"`
	Candidate   Version       `json:"candidate"`
	Promoted    Version       `json:"promoted"` // what stable runs, as the target had it
	Former      Version       `json:"former"`   // what it ran before, as the target had it
	Shifts      []Shift       `json:"shifts,omitempty"`
	Autoscaler  string        `json:"autoscaler,omitempty"` // of the target
	// PrimaryAutoscaler is stable's: NAME-primary where a release made it.
	PrimaryAutoscaler string `json:"primaryAutoscaler,omitempty"`
	FailedChecks      int    `json:"failedChecks"`
	// StableFails says that stable was shown to fail as it became the candidate's version. Its pods
	// of that version are not safe.
	StableFails bool `json:"stableFails,omitempty"`
	// What the sequential test took from stable's past, and what it has come to at the end of the
	// last interval.
	Objectives []analysis.Objective        `json:"objectives,omitempty"`
	Evidence   analysis.Evidence           `json:"evidence,omitzero"`
	Acceptance analysis.AcceptanceEvidence `json:"acceptance,omitempty"`
	Rejected   []Rejection                 `json:"rejected,omitempty"`
}

// How much is remembered at most: rejected revisions, and runs that held the record.
const (
	maxRejected = 20
	maxBefore   = 20
)

// former are the runs that held a record, for one that takes it.
func (r *Record) former(taker string) []string {
	before := r.Before
	if r.Holder != "" && r.Holder != taker {
		before = append(slices.Clone(before), r.Holder)
	}
	return before[max(0, len(before)-maxBefore):]
}

// reject ends a release and remembers its revision.
func (r *Record) reject(reason string, at time.Time) {
	r.Outcome, r.Reason = Rejected, reason
	r.Rejected = append(
		r.Rejected, Rejection{
			Revision: r.Candidate.Revision, Reason: show.Cut(reason, maxReason), Run: r.Run, At: at.UTC()})
	r.Rejected = r.Rejected[max(0, len(r.Rejected)-maxRejected):]
}

func (r *Record) rejection(revision string) *Rejection {
	for i := range r.Rejected {
		if r.Rejected[i].Revision == revision {
			return &r.Rejected[i]
		}
	}
	return nil
}

// shift returns the last weight that was given, or nil.
func (r *Record) shift() *Shift {
	if len(r.Shifts) == 0 {
		return nil
	}
	return &r.Shifts[len(r.Shifts)-1]
}

// clone copies a record deeply, so that a plan changes nothing of what was observed.
func (r *Record) clone() *Record {
	var c Record
	if err := json.Unmarshal(marshal(r), &c); err != nil {
		panic(err) // as in marshal
	}
	c.Interrupted = false // who writes goes on
	return &c
}

// marshal writes a record, or a part of it, as JSON.
func marshal(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // what was read from JSON can be written
	}
	return b
}

// recordKey and previousKey are where the ConfigMap has the record, and the one before it.
const (
	recordKey   = "release.json"
	previousKey = "previous.json"
)

// readRecord decodes the record out of its ConfigMap.
func readRecord(o *kube.Object) (*Record, error) {
	data, _ := o.Object["data"].(map[string]any)
	text, _ := data[recordKey].(string)
	var r Record
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return nil, fmt.Errorf(
			"the release record, ConfigMap %s, cannot be read: delete it if nothing is being released: %w", o.GetName(),
			err)
	}
	return &r, nil
}

// maxRecord is how many bytes a record may have: with the one before it half of what a ConfigMap
// can hold.
const maxRecord = 256 << 10

// text is a record as it is kept. Where it would be too large the oldest judgements are left out:
// they were said in the log.
func (r *Record) text() string {
	for {
		b := marshal(r)
		excess := len(b) - maxRecord
		if oldest := slices.IndexFunc(r.Shifts, func(s Shift) bool { return len(s.Checks) > 0 }); excess <= 0 ||
			oldest < 0 {
			return string(b)
		}
		for i := range r.Shifts {
			for s := &r.Shifts[i]; excess > 0 && len(s.Checks) > 0; s.Checks = s.Checks[1:] {
				excess -= len(marshal(s.Checks[0])) + len(",")
			}
		}
	}
}

// What a release is refused for before it begins: a record that could come to more than the record
// before it leaves room for, as a ConfigMap has 1 MiB at most.
const (
	mostRecord = 480 << 10
	startSize  = 800 // bytes at most of the evidence since one interval began
	maxReason  = 1024
)

// tooLarge adds a mistake where the record of this release could come to more than mostRecord.
// Judgements are not counted, as text leaves them out.
func (r Request) tooLarge(s *snapshot, add found) {
	if s.target == nil {
		return
	}
	next := r.begin(s)
	template, configuration := len(marshal(next.Candidate)), len(marshal(next.Config))
	evidence := len(next.Objectives) * analysis.Intervals(len(r.Config.Weights), r.Config.Threshold) * startSize
	if r.Config.Baseline == "primary" {
		evidence *= 2
	}
	most := len(marshal(next)) + template + evidence // what is released now is what serves later, once more
	if most <= mostRecord {
		return
	}
	const remedy = "the release record, a ConfigMap, could come to %d KiB, and has room for %d: the pod template " +
		"has %d KiB and is kept up to four times, " +
		"the configuration with its queries has %d KiB, and the evidence of all checks up to %d KiB. Put what is " +
		"long in the template into a ConfigMap " +
		"that the pods mount, shorten queries, or lower threshold"
	parameter, value := "target", r.Config.Target
	switch max(4*template, configuration, evidence) {
	case configuration:
		parameter, value = "metrics", fmt.Sprintf("%d metrics", len(r.Config.Metrics))
	case evidence:
		parameter, value = "threshold", fmt.Sprint(r.Config.Threshold)
	}
	add(parameter, value, remedy, most>>10, mostRecord>>10, template>>10, configuration>>10, evidence>>10)
}

// write plans the write of a record. It is refused when somebody else wrote since it was read.
func (s *snapshot) write(r *Record, say string) kube.Write {
	text := r.text()
	name := s.layout.Record()
	if s.recordObject == nil {
		return kube.Write{Kind: kube.ConfigMap, Name: name, Say: say, Create: map[string]any{
			"metadata": map[string]any{"labels": map[string]any{workload.TargetLabel: s.layout.Target}},
			"data":     map[string]any{recordKey: text},
		}}
	}
	patch := []kube.Operation{kube.Unchanged(s.recordObject), {Op: "add", Path: "/data/" + recordKey, Value: text}}
	if s.record != nil && s.record.Holder != r.Holder {
		data, _ := s.recordObject.Object["data"].(map[string]any)
		patch = append(patch, kube.Operation{Op: "add", Path: "/data/" + previousKey, Value: data[recordKey]})
	}
	return kube.Write{Kind: kube.ConfigMap, Name: name, Say: say, Patch: patch}
}
