package release

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// The words are those of Flagger 1.44, pkg/canary/status.go.
func TestStatusOf(t *testing.T) {
	t.Parallel()
	record := func(phase Phase, outcome Outcome, stable string) *Record {
		return &Record{Phase: phase, Outcome: outcome, Stable: Version{Revision: stable},
			Candidate: Version{Revision: "b"}, Promoted: Version{Revision: "a"}, FailedChecks: 2}
	}
	for _, c := range []struct {
		desc   string
		record *Record
		weight int32
		want   canaryStatus
	}{
		{"first", record(Initializing, "", ""), 0,
			canaryStatus{"Initializing", "Unknown", "New Deployment detected, starting initialization.", 0, 2, "b",
				"a"}},
		{"the first one was ended", record(Failed, Aborted, ""), 0,
			canaryStatus{"Initializing", "Unknown", "New Deployment detected, starting initialization.", 0, 2, "b",
				"a"}},
		{"initialized", record(Succeeded, Initialized, "a"), 0,
			canaryStatus{"Initialized", "True", "Deployment initialization completed.", 0, 2, "b", "a"}},
		{"coming up", record(Initializing, "", "a"), 0,
			canaryStatus{"Progressing", "Unknown", "New revision detected, progressing canary analysis.", 0, 2, "b",
				"a"}},
		{"at a weight", record(Progressing, "", "a"), 20,
			canaryStatus{"Progressing", "Unknown", "New revision detected, progressing canary analysis.", 20, 2, "b",
				"a"}},
		{"rejected, and still there", record(Progressing, Rejected, "a"), 0,
			canaryStatus{"Progressing", "Unknown", "New revision detected, progressing canary analysis.", 0, 2, "b",
				"a"}},
		{"promoting", record(Promoting, "", "a"), 60,
			canaryStatus{"Promoting", "Unknown", "Canary analysis completed, starting primary rolling update.", 60, 2,
				"b", "a"}},
		{"promoted, and still there", record(Promoting, "", "a"), 0,
			canaryStatus{"Finalising", "Unknown", "Canary analysis completed, routing all traffic to primary.", 0, 2,
				"b", "a"}},
		{"promoted", record(Succeeded, Promoted, "a"), 0,
			canaryStatus{"Succeeded", "True", "Canary analysis completed successfully, promotion finished.", 0, 2, "b",
				"a"}},
		{"unchanged", record(Succeeded, Unchanged, "a"), 0,
			canaryStatus{"Succeeded", "True", "Canary analysis completed successfully, promotion finished.", 0, 2, "b",
				"a"}},
		{"rolling back", record(RollingBack, Rejected, "a"), 0,
			canaryStatus{"Progressing", "Unknown", "New revision detected, progressing canary analysis.", 0, 2, "b",
				"a"}},
		{"rolled back", record(Failed, Rejected, "a"), 0,
			canaryStatus{"Failed", "False", "Canary analysis failed, Deployment scaled to zero.", 0, 0, "b", "a"}},
		{"detaching", record(Detaching, Promoted, "a"), 100,
			canaryStatus{"Terminating", "Unknown", "Canary releases are ending, routing all traffic to Deployment.", 0,
				2, "b", "a"}},
		{"detached", nil, 0,
			canaryStatus{"Terminated", "Unknown", "Canary releases have ended, Deployment serves by itself.", 0, 0, "",
				""}},
	} {
		if diff := cmp.Diff(c.want, statusOf(c.record, c.weight)); diff != "" {
			t.Errorf("%s (-want, +got)\n%s", c.desc, diff)
		}
	}
}

// What is there already is not written again, what Flagger keeps beside it stays, and the
// condition's times say when it changed.
func TestStatusOnto(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	at := func(minute int) string { return begin.Add(time.Duration(minute) * time.Minute).Format(time.RFC3339) }
	of := func(s canaryStatus, live map[string]any, minute int) map[string]any {
		return s.onto(live, begin.Add(time.Duration(minute)*time.Minute))
	}
	progressing := canaryStatus{
		Phase: "Progressing", Promoted: "Unknown", Message: "m", Weight: 20, Applied: "b", Stable: "a"}
	flagger := map[string]any{
		"phase": "Succeeded", "canaryWeight": int64(0), "lastAppliedSpec": "66d4f5",
		"trackedConfigs": map[string]any{"configmap/x": "1"},
		"conditions": []any{
			map[string]any{"type": "Promoted", "status": "True", "reason": "Succeeded", "lastTransitionTime": at(-9)},
			map[string]any{"type": "Other"}}}
	first := of(progressing, flagger, 0)
	want := map[string]any{
		"phase": "Progressing", "canaryWeight": int64(20), "failedChecks": int64(0), "iterations": int64(0),
		"lastAppliedSpec": "canary-tasks/b", "lastPromotedSpec": "canary-tasks/a",
		"lastTransitionTime": at(0), "trackedConfigs": map[string]any{"configmap/x": "1"}, "conditions": []any{
			map[string]any{"type": "Promoted", "status": "Unknown", "reason": "Progressing", "message": "m",
				"lastUpdateTime": at(0), "lastTransitionTime": at(0)}, map[string]any{"type": "Other"}}}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
	if again := of(progressing, first, 1); again != nil {
		t.Errorf("written again: %v", again)
	}
	progressing.Weight = 40
	second := of(progressing, first, 2)
	want["canaryWeight"], want["lastTransitionTime"] = int64(40), at(2)
	if diff := cmp.Diff(want, second); diff != "" {
		t.Errorf("another weight (-want, +got)\n%s", diff)
	}
	third := of(canaryStatus{Phase: "Promoting", Promoted: "Unknown", Message: "n", Applied: "b"}, second, 3)
	if diff := cmp.Diff(
		map[string]any{"type": "Promoted", "status": "Unknown", "reason": "Promoting", "message": "n",
			"lastUpdateTime": at(3), "lastTransitionTime": at(0)}, third["conditions"].([]any)[0]); diff != "" {
		t.Errorf("the same status for another reason (-want, +got)\n%s", diff)
	}
	if third["lastPromotedSpec"] != nil {
		t.Errorf("promoted was %v", third["lastPromotedSpec"])
	}
}

const shopCanary = "{apiVersion: flagger.app/v1beta1, kind: Canary, metadata: {name: shop, uid: c-1}, spec: " +
	"{targetRef: {kind: Deployment, name: shop}, analysis: {stepWeight: 20}}}"

// shows are the phases, weights and conditions that the Canary has had, in order.
func (a *apiserver) shows() *[]string {
	var shows []string
	a.mu.Lock()
	defer a.mu.Unlock()
	a.onWrite = func(did string) {
		if did != "patch canaries/shop/status" {
			return
		}
		s := a.objects["canaries/shop"]["status"].(map[string]any)
		promoted := s["conditions"].([]any)[0].(map[string]any)
		shows = append(shows, fmt.Sprint(s["phase"], " ", s["canaryWeight"], " ", promoted["status"]))
	}
	return &shows
}

// begin is canary-init with the configuration of the Canary.
func (a *apiserver) begin(run string) error {
	r := a.step("canary-init", run)
	if _, err := r.canary(a.t.Context(), "shop"); err != nil {
		return err
	}
	cfg := testConfig(run)
	cfg.Canary = "shop"
	r.Config = cfg
	return r.Init(a.t.Context(), nil)
}

// The Canary shows how far a release is, its events are the Canary's, and its spec is left alone. A
// run that finds nothing to release writes nothing.
func TestCanaryShowsTheRelease(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t, settings, shopService, shop("1"), shopCanary)
	shows := a.shows()
	want := func(desc string, want ...string) {
		t.Helper()
		*shows = slices.Compact(*shows)
		if diff := cmp.Diff(want, *shows); diff != "" {
			t.Errorf("%s (-want, +got)\n%s", desc, diff)
		}
		*shows = nil
	}
	must(t, a.begin("run-1"))
	want("first", "Initializing 0 Unknown", "Initialized 0 True")
	before := len(a.Writes)
	must(t, a.begin("run-1b"))
	if len(a.Writes) != before {
		t.Errorf("unchanged wrote %v", a.Writes[before:])
	}
	a.apply(shop("2"))
	must(t, a.begin("run-2"), a.shift("run-2", 20), a.judge("run-2"), a.shift("run-2", 40), a.judge("run-2"),
		a.promote("run-2"))
	want("promoted", "Progressing 0 Unknown", "Progressing 20 Unknown", "Progressing 40 Unknown",
		"Promoting 40 Unknown", "Finalising 0 Unknown", "Succeeded 0 True")
	a.apply(shop("3"))
	must(t, a.begin("run-3"), a.shift("run-3", 20),
		a.step("analyze", "run-3").update(t.Context(), func(record *Record) { record.FailedChecks++ }))
	if got := fmt.Sprint(a.objects["canaries/shop"]["status"].(map[string]any)["failedChecks"]); got != "1" {
		t.Errorf("failed checks: %s", got)
	}
	must(t, a.rollback("run-3"))
	want("rolled back", "Progressing 0 Unknown", "Progressing 20 Unknown", "Progressing 0 Unknown", "Failed 0 False")
	if got := slices.Compact(slices.Sorted(slices.Values(a.about()))); !slices.Equal(got, []string{"Canary/shop"}) {
		t.Errorf("events of %v", got)
	}
	if got := fmt.Sprint(
		a.objects["canaries/shop"]["spec"]); got != "map[analysis:map[stepWeight:20] "+
		"targetRef:map[kind:Deployment name:shop]]" {
		t.Errorf("its spec is %s", got)
	}
	r := a.step("rollback", "")
	r.Step.Mode = config.Detach
	must(t, r.Rollback(t.Context()))
	want("detached", "Terminating 0 Unknown", "Terminated 0 Unknown")
}

// A status that a release wrote is no sign of a Flagger; once a Flagger has written over it, it is.
func TestOwnStatusIsNoFlagger(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t, settings, shopService, shop("1"), shopCanary)
	must(t, a.begin("run-1"), a.begin("run-2"))
	a.mu.Lock()
	a.objects["canaries/shop"]["status"].(map[string]any)["lastAppliedSpec"] = "66d4f5"
	a.mu.Unlock()
	wantCode(t, a.begin("run-3"), report.Misconfig, "Flagger manages it, by Canary shop")
}

// A status that cannot be written is said once, and ends no release; who uses no Canary does not
// need the permission.
func TestStatusThatMayNotBeWritten(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t, settings, shopService, shop("1"), shopCanary)
	a.denied["patch canaries/status"] = true
	wantCode(t, a.begin("run-1"), report.Misconfig, "may not patch canaries/status.flagger.app")
	must(t, a.init("run-1"))
	clear(a.denied)
	a.apply(shop("2"))
	must(t, a.begin("run-2"))
	a.denied["patch canaries/status"] = true // it was taken away since
	must(t, a.shift("run-2", 20), a.judge("run-2"), a.shift("run-2", 40), a.judge("run-2"))
	r := a.step("promote", "run-2")
	must(t, r.Promote(t.Context()))
	a.want(promoted)
	if log := fmt.Sprint(r.Report.Out); strings.Count(log, "the status of Canary shop is not up to date: ") != 1 {
		t.Errorf("it says so not once:\n%s", log)
	}
	delete(a.objects, "canaries/shop") // in mid-release
	a.apply(shop("3"))
	must(t, a.init("run-3"))
}
