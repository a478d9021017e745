package release

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// ownSpec begins what a release writes into lastAppliedSpec, where Flagger has a hash: by it a
// status of ours is told from that of a Flagger. Flagger takes it for another spec, and overwrites
// it with the first thing it does.
const ownSpec = "canary-tasks/"

// canaryStatus is what kubectl shows of a Canary, in Flagger's words.
type canaryStatus struct {
	Phase        string
	Promoted     string // status of the condition Promoted: True, False or Unknown
	Message      string // of the condition
	Weight       int32  // the candidate's
	FailedChecks int
	Applied      string // revision that is, or was, released
	Stable       string // revision that was promoted last
}

// statusOf is the status for a record and the candidate's weight. There is no record any more once
// the target was detached.
func statusOf(record *Record, weight int32) canaryStatus {
	if record == nil {
		return canaryStatus{
			Phase: "Terminated", Promoted: "Unknown",
			Message: "Canary releases have ended, Deployment serves by itself."}
	}
	s := canaryStatus{
		Promoted: "Unknown", Weight: weight, FailedChecks: record.FailedChecks, Applied: record.Candidate.Revision,
		Stable: record.Promoted.Revision}
	first := record.Stable.Revision == ""
	switch {
	case record.Phase == Detaching:
		s.Phase, s.Weight, s.Message = "Terminating", 0,
			"Canary releases are ending, routing all traffic to Deployment."
	case first && record.Phase != Succeeded: // one that was ended goes on with the next run
		s.Phase, s.Message = "Initializing", "New Deployment detected, starting initialization."
	case record.Phase == Promoting && weight > 0:
		s.Phase, s.Message = "Promoting", "Canary analysis completed, starting primary rolling update."
	case record.Phase == Promoting:
		s.Phase, s.Message = "Finalising", "Canary analysis completed, routing all traffic to primary."
	case record.Phase == Succeeded && record.Outcome == Initialized:
		s.Phase, s.Promoted, s.Message = "Initialized", "True", "Deployment initialization completed."
	case record.Phase == Succeeded:
		s.Phase, s.Promoted, s.Message = "Succeeded", "True",
			"Canary analysis completed successfully, promotion finished."
	case record.Phase == Failed:
		s.Phase, s.Promoted, s.Message, s.FailedChecks = "Failed", "False",
			"Canary analysis failed, Deployment scaled to zero.", 0
	default: // the candidate is there until it is rolled back
		s.Phase, s.Message = "Progressing", "New revision detected, progressing canary analysis."
	}
	return s
}

// onto is a Canary's status with this one in it; nil where it is so already. What Flagger keeps
// there beside it stays.
func (s canaryStatus) onto(live map[string]any, now time.Time) map[string]any {
	at := now.UTC().Format(time.RFC3339)
	next := runtime.DeepCopyJSON(live)
	if next == nil {
		next = map[string]any{}
	}
	next["phase"], next["canaryWeight"], next["failedChecks"], next["iterations"] = s.Phase, int64(s.Weight), int64(
		s.FailedChecks), int64(0)
	next["lastAppliedSpec"] = ownSpec + s.Applied
	if delete(next, "lastPromotedSpec"); s.Stable != "" {
		next["lastPromotedSpec"] = ownSpec + s.Stable
	}
	conditions, _ := next["conditions"].([]any)
	condition := map[string]any{
		"type": "Promoted", "status": s.Promoted, "reason": s.Phase, "message": s.Message, "lastUpdateTime": at,
		"lastTransitionTime": at}
	i := slices.IndexFunc(conditions, func(c any) bool {
		of, _ := c.(map[string]any)
		return of["type"] == "Promoted"
	})
	if i < 0 {
		conditions, i = append(conditions, condition), len(conditions)
	}
	was, _ := conditions[i].(map[string]any)
	if was["status"] == s.Promoted && was["lastTransitionTime"] != nil {
		condition["lastTransitionTime"] = was["lastTransitionTime"]
	}
	if was["status"] != s.Promoted || was["reason"] != s.Phase || was["message"] != s.Message {
		conditions[i] = condition
	}
	next["conditions"] = conditions
	if reflect.DeepEqual(live, next) {
		return nil
	}
	next["lastTransitionTime"] = at
	return next
}

// ownStatus reports whether a release wrote the status of a Canary, and no Flagger since.
func ownStatus(canary *kube.Object) bool {
	applied, _, _ := unstructured.NestedString(canary.Object, "status", "lastAppliedSpec")
	return strings.HasPrefix(applied, ownSpec)
}

// canaryOf is the name of the Canary that a release takes its configuration from; "" where there is
// none.
func (r *Release) canaryOf(s *snapshot) string {
	switch {
	case r.Config != nil:
		return r.Config.Canary
	case s.record != nil:
		return s.record.Config.Canary
	}
	return ""
}

// tell brings the status of a Canary up to date. It is never worth a release: that it cannot be
// written is said once.
func (r *Release) tell(ctx context.Context, canary string) {
	if canary == "" {
		return
	}
	if err := r.writeStatus(ctx, canary); err != nil && ctx.Err() == nil && !r.untold {
		r.untold = true
		r.Report.Say("the status of Canary %s is not up to date: %v", canary, err)
	}
}

func (r *Release) writeStatus(ctx context.Context, name string) error {
	for conflicts := 0; ; conflicts++ {
		s, err := r.observe(ctx, scope{weight: true})
		if err != nil {
			return err
		}
		canary, err := r.Client.Get(ctx, kube.Canary, name, nil)
		if err != nil || canary == nil {
			return err
		}
		weight := int32(0)
		if s.split != nil {
			weight = s.split.Candidate
		}
		live, _, _ := unstructured.NestedMap(canary.Object, "status")
		next := statusOf(s.record, weight).onto(live, time.Now())
		if next == nil {
			return nil
		}
		err = r.Client.Do(ctx, kube.Write{Kind: kube.Canary, Name: name, Subresource: "status", Patch: []kube.Operation{
			kube.Unchanged(canary), {Op: "add", Path: "/status", Value: next}}})
		if !errors.Is(err, kube.ErrConflict) || conflicts == maxConflicts {
			return err
		}
	}
}

// shown reports whether a write is of what the status of a Canary is made of.
func (s *snapshot) shown(w kube.Write) bool {
	return w.Kind == kube.VirtualService || w.Kind == kube.ConfigMap && w.Name == s.layout.Record()
}

// about lets events be about a Canary, as Flagger's are.
func (r *Release) about(canary *kube.Object) {
	r.Report.About = map[string]any{
		"apiVersion": canary.GetAPIVersion(), "kind": canary.GetKind(), "namespace": canary.GetNamespace(),
		"name": canary.GetName(), "uid": string(canary.GetUID())}
}

// aboutRecorded is about for the Canary that canary-init took the configuration from. Where it is
// gone, events are about the target.
func (r *Release) aboutRecorded(ctx context.Context, name string) {
	if name == "" || r.asked {
		return
	}
	r.asked = true
	if canary, err := r.Client.Get(ctx, kube.Canary, name, nil); err == nil && canary != nil {
		r.about(canary)
	}
}
