package release

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/show"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// Init is the step canary-init: it checks everything, takes the lock, makes or repairs the layout,
// finds the revision and brings the candidate up. problems are the mistakes that were found without
// a cluster; nothing is changed when there are any.
func (r *Release) Init(ctx context.Context, problems config.Problems) error {
	problems = append(problems, r.checkPermissions(ctx)...)
	if r.Config.Expect != "" && len(problems) == 0 {
		if err := r.awaitExpected(ctx); err != nil {
			return err
		}
	}
	what := scope{services: true, copies: true}
	s, err := r.observe(ctx, what)
	if err == nil {
		problems = append(problems, r.check(ctx, s)...)
		problems = append(problems, r.render(ctx)...)
	}
	var lines []string
	if err == nil && s.primary != nil && !s.fresh() && !r.preparing() && !problems.Names(judging...) {
		var wrong config.Problems
		lines, wrong = r.sight(ctx, s)
		problems = append(problems, wrong...)
	}
	if len(problems) > 0 {
		return r.finish(ctx, result{code: report.Misconfig, text: problems.Error()})
	}
	if err != nil {
		return err
	}
	for _, line := range append(lines, s.shared()...) {
		r.Report.Say("%s", line)
	}
	r.runSeen, err = r.sees(ctx)
	if err != nil {
		return err
	}
	return r.orToStable(ctx, func() error { return r.drive(ctx, what, r.planInit) })
}

// shared says which Secrets both versions mount as they are, as no revision can have its own.
func (s *snapshot) shared() (lines []string) {
	for _, m := range s.unread {
		lines = append(lines, fmt.Sprintf("%s may not be read (Role canary-tasks-secrets): it belongs to no revision, "+
			"and stable mounts the same as the candidate", m))
	}
	for _, m := range s.tokens {
		lines = append(lines,
			fmt.Sprintf("%s is the token of a service account, which cannot be copied: it belongs to "+
				"no revision, and stable mounts the same as the candidate", m))
	}
	return lines
}

// planInit is what canary-init does next.
func (r Request) planInit(s *snapshot) plan {
	if s.target == nil {
		return ended(report.Undecided, "%s: Deployment %s is gone: apply it again, and then run this once more",
			s.id(), s.layout.Target)
	}
	return first(s, r.initHeld, r.initOwn, r.initRefused, r.initIdle, r.initLock, r.initFence, r.planLayout, r.initEnd)
}

// initHeld is for a release of another run that has not ended.
func (r Request) initHeld(s *snapshot) plan {
	if s.free() || s.mine(r.Config.RunID) {
		return plan{}
	}
	record := s.record
	if s.now.Before(record.Expires) && !record.Interrupted && !s.holderEnded {
		return r.planBusy(s)
	}
	if record.Phase != Promoting && record.Phase != RollingBack {
		return plan{}
	}
	// It left stable between two versions.
	next := record.clone()
	next.Before = record.former(r.Config.RunID)
	next.Holder, next.Run, next.RunNamespace = r.Config.RunID, r.Config.RunName, r.Config.RunNamespace
	next.RunSeen, next.Expires, next.Epoch = r.runSeen, r.expires(s), s.lastEpoch()+1
	next.Phase, next.Outcome = RollingBack, cmp.Or(record.Outcome, Aborted)
	return r.take(s, next,
		fmt.Sprintf("Rolling back %s first: run %s was interrupted while %s", s.id(), record.Run, record.Phase))
}

// initOwn is for a run that comes back to its own release, or whose wait for another one is over.
func (r Request) initOwn(s *snapshot) plan {
	record, mine := s.record, s.mine(r.Config.RunID)
	switch {
	case record == nil:
		return plan{}
	case mine && record.Phase == RollingBack:
		p := r.planRollback(s)
		// The candidate has no traffic. What is missing is made in later phases.
		if p.done != nil && (p.done.code == report.Done || p.done.undone) {
			p = plan{writes: []kube.Write{s.write(r.begin(s), "")}}
		}
		return p
	case s.free() && s.waitedFor == record.Holder && record.Outcome == Inconclusive &&
		record.Candidate.Revision == s.revision:
		return ended(report.Undecided,
			"%s: run %s, which was waited for, could not judge revision %s: %s; nothing was changed", s.id(),
			record.Run, s.revision, record.Reason)
	case s.free() && mine && record.Outcome != "": // this step ran before
		return plan{done: &result{
			code:    codeAfter(record.Outcome),
			text:    fmt.Sprintf("%s: this run ended as %s already", s.id(), record.Outcome),
			results: r.initResults(record.Outcome, s.revision, nil)}}
	}
	return plan{}
}

// initRefused is for a revision, or a stable, that no release may begin with.
func (r Request) initRefused(s *snapshot) plan {
	record := s.record
	if record == nil {
		return plan{}
	}
	if s.primary == nil && record.Stable.Revision != "" && record.Phase != Detaching {
		return ended(report.Misconfig,
			"%s was made by a release (revision %s) and is gone: it is not made again out of a candidate that "+
				"nobody judged. Restore the Deployment, or delete the ConfigMap %s to begin anew",
			s.layout.Primary(), record.Stable.Revision, s.layout.Record())
	}
	if s.primary == nil || s.fresh() || r.Config.RetryRejected || r.preparing() {
		return plan{}
	}
	if was := record.rejection(s.revision); was != nil {
		return ended(report.Rejected,
			"%s: revision %s was rejected at %s by run %s: %s; nothing was changed. Release another revision, "+
				"or run again with retryRejected=true",
			s.id(), s.revision, was.At.UTC().Format("2006-01-02 15:04"), was.Run, was.Reason)
	}
	return plan{}
}

// initIdle is for a target that has nothing to release. It needs no lock.
func (r Request) initIdle(s *snapshot) plan {
	switch {
	case !s.fresh() || !s.settled():
		return plan{}
	case r.preparing() && s.known() && !r.unprotected(s):
		if writes := s.autoscale(); len(writes) > 0 {
			return plan{writes: writes}
		}
		return plan{done: r.prepared(s)}
	case !r.preparing() && s.free():
		return r.planEnd(s, Unchanged)
	}
	return plan{}
}

// initLock takes the lock.
func (r Request) initLock(s *snapshot) plan {
	if !s.free() && s.mine(r.Config.RunID) {
		return plan{}
	}
	say := ""
	if s.primary != nil && !s.fresh() { // whoever applied it may have scaled it up already
		say = fmt.Sprintf("New revision detected! Scaling up %s", s.id())
	}
	return r.take(s, r.begin(s), say)
}

// initFence plans the first writes to the mesh and to stable: nobody who came before may move
// traffic.
func (r Request) initFence(s *snapshot) plan {
	var fences []kube.Write
	if s.split != nil && (!s.split.Fenced(s.record.Epoch) || s.record.Phase == Initializing) {
		weight := s.split.Candidate // until something better is known
		if to := s.safe(); to.known {
			weight = to.weight
		}
		if w := s.split.Raise(weight, s.record.Epoch); w != nil {
			fences = append(fences, *w)
		}
	}
	if s.primary != nil && s.primary.Annotations[workload.FenceAnnotation] != epochText(s.record.Epoch) {
		fences = append(fences, s.primary.fence(s.record.Epoch, s.layout, s.route.Name))
	}
	return plan{writes: fences}
}

// initEnd is what is left to do once the layout is complete.
func (r Request) initEnd(s *snapshot) plan {
	switch {
	case r.preparing():
		if writes := s.autoscale(); len(writes) > 0 {
			return plan{writes: writes}
		}
		return r.planPrepared(s)
	case s.record.Stable.Revision == "": // there was nothing to compare with
		return r.planInitialized(s)
	case s.fresh():
		return r.planEnd(s, Unchanged)
	}
	return r.planCandidate(s)
}

// planBusy is what to do while another run holds the target.
func (r Request) planBusy(s *snapshot) plan {
	cfg, record := r.Config, s.record
	same := record.Candidate.Revision == s.revision
	if !same && cfg.Takeover && (record.Phase == Progressing || record.Phase == Initializing) &&
		record.Stable.Revision != "" {
		return r.take(s, r.begin(s),
			fmt.Sprintf("New revision detected! Restarting analysis for %s: run %s, which released "+
				"revision %s, is superseded",
				s.id(), record.Run, record.Candidate.Revision))
	}
	busy := fmt.Sprintf(
		"%s is held by run %s (phase %s, revision %s, until %s at the latest)", s.id(), record.Run,
		record.Phase,
		record.Candidate.Revision, record.Expires.UTC().Format("15:04:05"))
	if cfg.OnBusy == "fail" {
		return ended(report.Busy, "%s; nothing was changed", busy)
	}
	return plan{wait: &pause{
		key: "busy", run: record.Holder, watch: &watched{kube.ConfigMap, s.recordObject}, text: "Waiting: " + busy,
		limit: cfg.Deadline.Duration, then: ended(report.Busy, "%s; nothing was changed", busy)}}
}

// take plans taking the lock, or handing it from one run to another. Authority passes only when the
// mesh is safe: a step that dies in between leaves no traffic that nobody answers for.
func (r Request) take(s *snapshot, next *Record, say string) plan {
	if s.share() > 0 {
		if w := s.toSafety(0); w != nil {
			return plan{writes: []kube.Write{*w}}
		}
	}
	return plan{writes: []kube.Write{s.write(next, say)}}
}

// begin is the record of a release that takes the lock.
func (r Request) begin(s *snapshot) *Record {
	next := &Record{Holder: r.Config.RunID, Run: r.Config.RunName, RunNamespace: r.Config.RunNamespace,
		RunSeen: r.runSeen, Epoch: s.lastEpoch() + 1, Phase: Initializing, Config: *r.Config,
		Expires:   r.expires(s),
		Candidate: s.candidate(), Objectives: r.objectives}
	next.Config.Prometheus = show.Address(r.Config.Prometheus) // the steps have a query string of their own
	if s.record != nil {
		next.Rejected, next.Promoted = s.record.Rejected, s.record.Promoted
		next.Before = s.record.former(next.Holder)
	}
	if s.primary != nil && !s.halfMade() {
		next.Stable = s.stable()
		if next.Objectives == nil { // there was no stable to look at when this run began, or it was another one
			next.Objectives, _ = limitsOf(r.Config).Objectives(nil) // canary-init has checked them
		}
	}
	next.scaledBy(s)
	return next
}

// scaledBy notes the autoscalers, for the steps that may not list them. It reports whether that is
// news.
func (record *Record) scaledBy(s *snapshot) bool {
	target, stable := "", ""
	if s.autoscaler != nil {
		target = s.autoscaler.GetName()
		stable = target + "-primary"
	}
	if s.primaryAutoscaler != nil {
		stable = s.primaryAutoscaler.GetName()
	}
	news := record.Autoscaler != target || record.PrimaryAutoscaler != stable
	record.Autoscaler, record.PrimaryAutoscaler = target, stable
	return news
}

// toEnd is what a release has after its deadline to go back in.
const toEnd = 5 * time.Minute

// expires is when a release that takes the lock now has ended.
func (r Request) expires(s *snapshot) time.Time {
	return s.now.Add(r.Config.Deadline.Duration + toEnd).UTC()
}

func (s *snapshot) candidate() Version {
	v := Version{Revision: s.revision, Template: workload.TemplateOf(s.target.object),
		Replicas: workload.Replicas(s.target.Deployment),
		Chart:    chartOf(s.target.Labels), Release: s.target.Annotations["meta.helm.sh/release-name"]}
	for _, m := range v.Template.Mounts() {
		if _, ok := s.contents[workload.Mount{Kind: m.Kind, Name: m.Name}]; ok {
			v.Copied = append(v.Copied, m)
		}
	}
	v.Unread = s.unread
	if slices.ContainsFunc(v.Copied, func(m workload.Mount) bool { return m.Kind == "Secret" }) {
		v.Open = v.Template.Revision(s.contents.WithoutSecrets())
	}
	return v
}

func (s *snapshot) stable() Version {
	return Version{Revision: cmp.Or(workload.RevisionOf(s.primary.Deployment), unknownRevision),
		Template: workload.TemplateOf(s.primary.object), Replicas: workload.Replicas(s.primary.Deployment)}
}

// fresh reports whether stable runs what the target has.
func (s *snapshot) fresh() bool {
	return s.primary != nil && workload.RevisionOf(s.primary.Deployment) == s.revision
}

// known reports whether the record is free and says what stable runs, as the target has it: then a
// run that finds nothing to release has nothing to write.
func (s *snapshot) known() bool {
	if s.record == nil || !s.record.Phase.ended() || s.target == nil {
		return false
	}
	was, is := s.record.Promoted, s.candidate()
	return was.Revision == is.Revision && was.Chart == is.Chart
}

// unchanged reports whether canary-init has left the record alone because there is nothing to
// release for a run. Who held it and was superseded is another one.
func (s *snapshot) unchanged(uid string) bool {
	return !s.mine(uid) && s.known() && s.fresh() && s.split != nil && s.split.Candidate == 0 &&
		!slices.Contains(s.record.Before, uid)
}

// settled reports whether the layout is as it is between releases, and stable has all the traffic.
func (s *snapshot) settled() bool {
	return len(s.ofCanary) == 0 && s.service != nil &&
		workload.Selects(s.service, s.primary.Spec.Selector.MatchLabels) && s.primaryService != nil &&
		s.canaryService != nil && s.split != nil && s.split.Candidate == 0 && s.split.Stable == 100
}

func epochText(epoch int64) string { return strconv.FormatInt(epoch, 10) }

// unknownRevision is that of a stable that no release made: Flagger did, or somebody by hand.
const unknownRevision = "unknown"

// fence plans the write that lets only this epoch change a Deployment. It notes the route, too, for
// a release whose record is lost.
func (d *deployment) fence(epoch int64, layout workload.Layout, route string) kube.Write {
	patch := []kube.Operation{kube.Unchanged(d.object)}
	if len(d.Annotations) == 0 {
		patch = append(patch, kube.Operation{Op: "add", Path: "/metadata/annotations", Value: map[string]string{}})
	}
	for _, note := range [][2]string{
		{workload.FenceAnnotation, epochText(epoch)}, {workload.RouteAnnotation, layout.RouteNote(route)}} {
		patch = append(patch, kube.Operation{Op: "add", Path: kube.AnnotationPath(note[0]), Value: note[1]})
	}
	return kube.Write{Kind: kube.Deployment, Name: d.Name, Patch: patch}
}

// serving reports whether the mesh or the Service leads to stable, and it answers.
// halfMade reports whether stable is what a first release left that did not get as far as giving it
// traffic.
// serves are the labels by which Services select stable's pods: the selector of a Deployment cannot
// be changed, and one of Flagger's has a label alone.
// disown plans the writes that let what a Flagger made outlive its Canary.
// settle waits so that proxies have what was written before.
func settle(key string, d time.Duration, then plan) plan {
	if d <= 0 {
		return then
	}
	return plan{wait: &pause{key: key, limit: d, then: then}}
}

// copyMounts makes copies of what the target mounts, under the revision's name.
// planRollout waits until a Deployment serves with all its replicas, at most as long as
// progressDeadlineSeconds says.
func (r Request) planRollout(s *snapshot, d *deployment, who string) plan {
	cfg := r.config(s)
	state := workload.RolloutOf(d.Deployment, int32(cfg.ReadyThreshold))
	if state.Done {
		return plan{}
	}
	fail := ended(report.Rejected, "%s.%s (%s) not ready within progressDeadlineSeconds=%.0f: %s", d.Name,
		s.namespace, who,
		cfg.ProgressDeadline.Seconds(), state.Text)
	if state.Failed {
		return fail
	}
	return plan{wait: &pause{
		key: "rollout of " + d.Name, watch: &watched{kube.Deployment, d.object},
		text:  fmt.Sprintf("%s.%s not ready: %s", d.Name, s.namespace, state.Text),
		limit: cfg.ProgressDeadline.Duration, then: fail}}
}

// newAutoscaler plans stable's, where the target has one and stable has none.
// autoscale plans what makes the autoscalers as they are between releases. It needs no lock: a
// release that has begun meanwhile has changed them, or did not have to.
func (s *snapshot) autoscale() []kube.Write { return append(s.newAutoscaler(), s.endFloors()...) }

// planInitialized ends a first release: stable serves, so the target may go.
func (r Request) planInitialized(s *snapshot) plan {
	if workload.Replicas(s.target.Deployment) > 0 && s.fresh() {
		return settle("stable takes over", r.Config.Drain.Duration, plan{writes: []kube.Write{s.target.scale(0, "")}})
	}
	return r.planEnd(s, Initialized)
}

// planEnd ends a release that has nothing to judge.
func (r Request) planEnd(s *snapshot, outcome Outcome) plan {
	// somebody applied the manifests again, or went back to what stable runs in mid-release
	if outcome == Unchanged && workload.Replicas(s.target.Deployment) > 0 {
		return settle("drain", r.Config.Drain.Duration,
			plan{writes: []kube.Write{s.target.scale(0, "")}})
	}
	if writes := s.autoscale(); len(writes) > 0 && outcome == Unchanged {
		return plan{writes: writes}
	}
	text := fmt.Sprintf(
		"%s is unchanged: stable runs revision %s already%s", s.id(), s.revision, s.edited())
	say := ""
	if outcome == Initialized {
		say = fmt.Sprintf("Initialization done! %s", s.id())
		text = fmt.Sprintf(
			"%s is initialized: stable runs revision %s and has all the traffic; the next revision "+
				"will be a canary release", s.id(), s.stable().Revision)
	}
	done := &result{text: text, results: r.initResults(outcome, s.revision, nil)}
	if outcome == Unchanged && s.known() {
		return plan{done: done}
	}
	record := r.begin(s)
	if s.mine(r.Config.RunID) {
		record = s.record.clone()
	}
	record.Phase, record.Outcome, record.Stable, record.Promoted = Succeeded, outcome, s.stable(), Version{}
	if s.fresh() { // else it was changed while stable took over
		record.Promoted = s.candidate()
	}
	return plan{writes: []kube.Write{s.write(record, say)}, done: done}
}

// planCandidate brings the candidate up.
func (r Request) planCandidate(s *snapshot) plan {
	cfg, record := r.Config, s.record
	if record.Candidate.Revision != s.revision { // changed since the lock was taken
		next := record.clone()
		next.Candidate, next.Phase = s.candidate(), Initializing
		if record.Phase != Initializing {
			return r.superseded(s)
		}
		return plan{writes: []kube.Write{s.write(next, "")}}
	}
	if next := record.clone(); next.scaledBy(s) { // before their floors are raised
		return plan{writes: []kube.Write{s.write(next, "")}}
	}
	need := max(record.Candidate.Replicas, record.Stable.Replicas)
	if s.autoscaler != nil {
		need = min(max(need, workload.MinReplicas(s.autoscaler)), workload.MaxReplicas(s.autoscaler))
	}
	if writes := s.hold(need, record.Stable.Replicas); len(writes) > 0 { // going back has to find the room there was
		return plan{writes: writes}
	}
	if workload.Replicas(s.target.Deployment) < need {
		return plan{writes: []kube.Write{s.target.scale(need, "")}}
	}
	if p := r.planRollout(s, s.target, "candidate"); p.decided() {
		return p
	}
	done := &result{
		text: fmt.Sprintf(
			"%s: revision %s is up beside stable (revision %s); it will get %v %% of the traffic",
			s.id(), s.revision, record.Stable.Revision, cfg.Weights),
		results: r.initResults("", s.revision, cfg.Weights),
	}
	if record.Phase != Initializing {
		return plan{done: done}
	}
	next := record.clone()
	next.Phase = Progressing
	return plan{writes: []kube.Write{
		s.write(next, fmt.Sprintf("Starting canary analysis for %s", s.id()))}, done: done}
}

// hold plans the writes that let the autoscalers of both versions keep so many pods. Those that
// another controller makes (KEDA's) are its own: it would put them back at once.
func (s *snapshot) hold(candidate, stable int32) (writes []kube.Write) {
	for _, one := range []struct {
		autoscaler *kube.Object
		least      int32
	}{{s.autoscaler, candidate}, {s.primaryAutoscaler, stable}} {
		if one.autoscaler == nil || metav1.GetControllerOf(one.autoscaler) != nil {
			continue
		}
		if w := workload.Hold(one.autoscaler, one.least); w != nil {
			writes = append(writes, *w)
		}
	}
	return writes
}

// superseded ends a step because the target is no longer what is being released.
func (r Request) superseded(s *snapshot) plan {
	return ended(report.Undecided, "%s: superseded: the target has revision %s now, this release is of %s",
		s.id(), s.revision, s.record.Candidate.Revision)
}

// MaxWeights is how many weights canary-init has Tekton results for in the shipped Task.
const MaxWeights = 10

// initResults are the Tekton results of canary-init: weights that are not used are empty, which
// skips their tasks.
func (r Request) initResults(outcome Outcome, revision string, weights []config.Percent) map[string]string {
	results := map[string]string{"outcome": string(outcome), "revision": revision}
	for i := range max(MaxWeights, r.Config.MaxSteps) {
		name, value := "weight-"+strconv.Itoa(i+1), ""
		if i < len(weights) {
			value = strconv.Itoa(int(weights[i]))
		}
		results[name] = value
	}
	return results
}
