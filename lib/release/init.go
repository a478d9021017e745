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
	"github.com/canary-tasks/canary-tasks/lib/routing"
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
	for _, line := range lines {
		r.Report.Say("%s", line)
	}
	for _, m := range s.unread {
		r.Report.Say("%s may not be read (Role canary-tasks-secrets): it belongs to no revision, and stable mounts "+
			"the same as the candidate", m)
	}
	for _, m := range s.tokens {
		r.Report.Say("%s is the token of a service account, which cannot be copied: it belongs to no revision, and "+
			"stable mounts the same as the candidate", m)
	}
	r.runSeen, err = r.sees(ctx)
	if err != nil {
		return err
	}
	return r.orToStable(ctx, func() error { return r.drive(ctx, what, r.planInit) })
}

// planInit is what canary-init does next.
func (r *Release) planInit(s *snapshot) plan {
	cfg, record := r.Config, s.record
	ns := r.Client.Namespace
	free := record == nil || record.Phase.ended()
	switch {
	case s.target == nil:
		return ended(report.Undecided, "%s: Deployment %s is gone: apply it again, and then run this once more",
			s.id(ns), s.layout.Target)
	case !free && !s.mine(cfg.RunID) && s.now.Before(record.Expires) && !record.Interrupted && !s.holderEnded:
		return r.planBusy(s)
	case !free && !s.mine(cfg.RunID) && (record.Phase == Promoting || record.Phase == RollingBack):
		// it left stable between two versions
		next := record.clone()
		next.Before = record.former(cfg.RunID)
		next.Holder, next.Run, next.RunNamespace, next.Expires, next.Epoch = cfg.RunID, cfg.RunName, cfg.RunNamespace,
			r.expires(s), s.lastEpoch()+1
		next.RunSeen = r.runSeen
		next.Phase, next.Outcome = RollingBack, cmp.Or(record.Outcome, Aborted)
		return r.take(s, next,
			fmt.Sprintf("Rolling back %s first: run %s was interrupted while %s", s.id(ns), record.Run, record.Phase))
	case s.mine(cfg.RunID) && record.Phase == RollingBack:
		p := r.planRollback(s)
		// the candidate has no traffic: what is missing is made below
		if p.done != nil && (p.done.code == report.Done || p.done.undone) {
			p = plan{writes: []kube.Write{s.write(r.begin(s), "")}}
		}
		return p
	case free && record != nil && r.waitedFor == record.Holder && record.Outcome == Inconclusive &&
		record.Candidate.Revision == s.revision:
		return ended(report.Undecided,
			"%s: run %s, which was waited for, could not judge revision %s: %s; nothing was changed", s.id(ns),
			record.Run, s.revision, record.Reason)
	case free && s.mine(cfg.RunID) && record.Outcome != "": // this step ran before
		return plan{done: &result{
			code:    codeAfter(record.Outcome),
			text:    fmt.Sprintf("%s: this run ended as %s already", s.id(ns), record.Outcome),
			results: r.initResults(record.Outcome, s.revision, nil)}}
	}
	if record != nil && s.primary != nil && !cfg.RetryRejected && !r.preparing() && !s.fresh() {
		if was := record.rejection(s.revision); was != nil {
			return ended(report.Rejected,
				"%s: revision %s was rejected at %s by run %s: %s; nothing was changed. Release another revision, "+
					"or run again with retryRejected=true",
				s.id(ns), s.revision, was.At.UTC().Format("2006-01-02 15:04"), was.Run, was.Reason)
		}
	}
	if s.primary == nil && record != nil && record.Stable.Revision != "" && record.Phase != Detaching {
		return ended(report.Misconfig,
			"%s was made by a release (revision %s) and is gone: it is not made again out of a candidate that "+
				"nobody judged. Restore the Deployment, or delete the ConfigMap %s to begin anew",
			s.layout.Primary(), record.Stable.Revision, s.layout.Record())
	}
	fresh := s.fresh()
	if r.preparing() && fresh && s.known() && s.settled() && !r.unprotected(s) {
		if writes := s.autoscale(); len(writes) > 0 {
			return plan{writes: writes}
		}
		return plan{done: r.prepared(s)}
	}
	if !r.preparing() && fresh && free && s.settled() {
		return r.planEnd(s, Unchanged)
	}
	if free || !s.mine(cfg.RunID) {
		say := ""
		if s.primary != nil && !s.fresh() { // whoever applied it may have scaled it up already
			say = fmt.Sprintf("New revision detected! Scaling up %s", s.id(r.Client.Namespace))
		}
		return r.take(s, r.begin(s), say)
	}
	var fences []kube.Write // the first writes to the mesh and to stable: nobody who came before may move traffic
	if s.split != nil {
		weight := s.split.Candidate // until something better is known
		if to := s.safe(); to.known {
			weight = to.weight
		}
		if w := s.split.Raise(weight, record.Epoch); w != nil &&
			(!s.split.Fenced(record.Epoch) || record.Phase == Initializing) {
			fences = append(fences, *w)
		}
	}
	if s.primary != nil && s.primary.Annotations[workload.FenceAnnotation] != epochText(record.Epoch) {
		fences = append(fences, s.primary.fence(record.Epoch, s.layout, s.route.Name))
	}
	if len(fences) > 0 {
		return plan{writes: fences}
	}
	if p, done := r.planLayout(s); !done {
		return p
	}
	if r.preparing() {
		if writes := s.autoscale(); len(writes) > 0 {
			return plan{writes: writes}
		}
		return r.planPrepared(s)
	}
	if record.Stable.Revision == "" { // there was nothing to compare with
		return r.planInitialized(s)
	}
	if fresh {
		return r.planEnd(s, Unchanged)
	}
	return r.planCandidate(s)
}

// planBusy is what to do while another run holds the target.
func (r *Release) planBusy(s *snapshot) plan {
	cfg, record := r.Config, s.record
	same := record.Candidate.Revision == s.revision
	if !same && cfg.Takeover && (record.Phase == Progressing || record.Phase == Initializing) &&
		record.Stable.Revision != "" {
		return r.take(s, r.begin(s),
			fmt.Sprintf("New revision detected! Restarting analysis for %s: run %s, which released "+
				"revision %s, is superseded",
				s.id(r.Client.Namespace), record.Run, record.Candidate.Revision))
	}
	busy := fmt.Sprintf(
		"%s is held by run %s (phase %s, revision %s, until %s at the latest)", s.id(r.Client.Namespace), record.Run,
		record.Phase,
		record.Candidate.Revision, record.Expires.UTC().Format("15:04:05"))
	if cfg.OnBusy == "fail" {
		return ended(report.Busy, "%s; nothing was changed", busy)
	}
	r.waitedFor = record.Holder
	return plan{wait: &pause{
		key: "busy", watch: &watched{kube.ConfigMap, s.recordObject}, text: "Waiting: " + busy,
		limit: cfg.Deadline.Duration, then: func() plan {
			return ended(report.Busy, "%s; nothing was changed", busy)
		}}}
}

// take plans taking the lock, or handing it from one run to another. Authority passes only when the
// mesh is safe: a step that dies in between leaves no traffic that nobody answers for.
func (r *Release) take(s *snapshot, next *Record, say string) plan {
	if s.share() > 0 {
		if w := s.toSafety(0, r.Client.Namespace); w != nil {
			return plan{writes: []kube.Write{*w}}
		}
	}
	return plan{writes: []kube.Write{s.write(next, say)}}
}

// codeAfter is how a step ends that finds the release of its run ended.
func codeAfter(outcome Outcome) report.Code {
	switch outcome {
	case Initialized, Unchanged, Promoted:
		return report.Done
	case Rejected:
		return report.Rejected
	}
	return report.Undecided
}

// begin is the record of a release that takes the lock.
func (r *Release) begin(s *snapshot) *Record {
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

// scaledBy notes the autoscalers, for the steps that may not list them. It tells whether that is
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
func (r *Release) expires(s *snapshot) time.Time {
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

// fresh tells whether stable runs what the target has.
func (s *snapshot) fresh() bool {
	return s.primary != nil && workload.RevisionOf(s.primary.Deployment) == s.revision
}

// known tells whether the record is free and says what stable runs, as the target has it: then a
// run that finds nothing to release has nothing to write.
func (s *snapshot) known() bool {
	if s.record == nil || !s.record.Phase.ended() || s.target == nil {
		return false
	}
	was, is := s.record.Promoted, s.candidate()
	return was.Revision == is.Revision && was.Chart == is.Chart
}

// unchanged tells whether canary-init has left the record alone because there is nothing to release
// for a run. Who held it and was superseded is another one.
func (s *snapshot) unchanged(uid string) bool {
	return !s.mine(uid) && s.known() && s.fresh() && s.split != nil && s.split.Candidate == 0 &&
		!slices.Contains(s.record.Before, uid)
}

// settled tells whether the layout is as it is between releases, and stable has all the traffic.
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

// planLayout makes what is missing of the layout, in an order in which whatever has traffic serves.
// done is true when nothing is.
func (r *Release) planLayout(s *snapshot) (p plan, done bool) {
	cfg, record := r.Config, s.record
	selector, err := workload.SelectorOf(s.target.Deployment)
	if err != nil {
		return ended(report.Misconfig, "Deployment %s: %v", s.layout.Target, err), false
	}
	if writes := s.disown(r.Client.Namespace); len(writes) > 0 {
		return plan{writes: writes}, false
	}
	serves := s.serves(selector)
	if writes := s.copyMounts(); len(writes) > 0 {
		return plan{writes: writes}, false
	}
	if s.primary == nil {
		replicas := max(workload.Replicas(s.target.Deployment), 1)
		return plan{writes: []kube.Write{{Kind: kube.Deployment, Name: s.layout.Primary(),
			Say: fmt.Sprintf("Creating %s.%s out of %s, revision %s", s.layout.Primary(), r.Client.Namespace,
				s.layout.Target, s.revision),
			Create: workload.NewPrimary(s.target.object, selector, s.revision, s.contents, replicas, map[string]string{
				workload.FenceAnnotation: epochText(record.Epoch),
				workload.RouteAnnotation: s.layout.RouteNote(cfg.Route)}),
		}}}, false
	}
	// made out of a revision that is no longer the target's
	if record.Stable.Revision == "" && !s.fresh() && !s.serving(serves) {
		selector.Stable = serves
		return plan{writes: []kube.Write{
			s.primary.roll(workload.TemplateOf(s.target.object).ForStable(selector, s.revision, s.contents),
				max(workload.Replicas(s.target.Deployment), 1),
				record.Epoch, fmt.Sprintf(
					"Bringing %s.%s to revision %s", s.layout.Primary(), r.Client.Namespace, s.revision))}}, false
	}
	if p, ready := r.planRollout(s, s.primary, "stable"); !ready {
		return p, false
	}
	var writes []kube.Write
	writes = append(writes, s.newAutoscaler()...)
	service := func(name string, selects map[string]string, ports []any) {
		writes = append(writes,
			kube.Write{Kind: kube.Service, Name: name, Create: workload.NewService(s.layout.Target, selects, ports)})
	}
	ports := workload.ServicePorts(s.service, s.target.Deployment, cfg.Port)
	if s.primaryService == nil {
		service(s.layout.PrimaryService(), serves, ports)
	}
	if s.canaryService == nil {
		service(s.layout.CanaryService(), selector.Candidate, ports)
	}
	if s.service == nil {
		service(s.layout.Service, serves, ports)
	} else {
		for _, one := range []struct{ service, pods *kube.Object }{
			{s.primaryService, s.primary.object}, {s.canaryService, nil}} {
			if s.ours(one.service) {
				if w := workload.FollowPorts(one.service, s.service, one.pods); w != nil {
					writes = append(writes, *w)
				}
			}
		}
	}
	if rule := workload.ForService(s.rules, s.layout.Service, r.Client.Namespace); rule != nil {
		for _, host := range []string{s.layout.PrimaryService(), s.layout.CanaryService()} {
			if body := workload.CarryOver(rule, s.layout.Target, host); body != nil &&
				workload.ForService(s.rules, host, r.Client.Namespace) == nil {
				writes = append(writes, kube.Write{Kind: kube.DestinationRule, Name: host, Create: body})
			}
		}
	}
	if len(writes) > 0 {
		return plan{writes: writes}, false
	}
	if s.virtualService == nil {
		// Proxies learn of the Services before a route leads to them.
		return r.settle("services", cfg.Drain.Duration, func() plan {
			return plan{writes: []kube.Write{{Kind: kube.VirtualService, Name: s.layout.VirtualService,
				Create: routing.New(
					cfg.Hosts, cfg.Gateways, s.route, map[string]any{workload.TargetLabel: s.layout.Target},
					record.Epoch)}}}
		}), false
	}
	if s.split == nil {
		whole, err := routing.FindWhole(s.virtualService, cfg.Route, cfg.Service)
		if err != nil {
			return ended(report.Misconfig, "VirtualService %s: %v", s.layout.VirtualService, s.splitError), false
		}
		return r.settle("services", cfg.Drain.Duration, func() plan {
			return plan{writes: []kube.Write{*whole.Divide(s.route, record.Epoch)}}
		}), false
	}
	if r.unprotected(s) {
		return plan{writes: []kube.Write{workload.Protect(s.service, s.layout.Target, serves)}}, false
	}
	if !workload.Selects(s.service, serves) {
		return plan{writes: []kube.Write{workload.SelectStable(s.service, s.layout.Target, serves)}}, false
	}
	return plan{}, true
}

// serving tells whether the mesh or the Service leads to stable, and it answers.
func (s *snapshot) serving(stable map[string]string) bool {
	if !s.stableServes() {
		return false
	}
	return s.split != nil && s.split.Stable > 0 || s.service != nil && workload.Selects(s.service, stable)
}

// halfMade tells whether stable is what a first release left that did not get as far as giving it
// traffic.
func (s *snapshot) halfMade() bool {
	return s.record != nil && s.record.Stable.Revision == "" && s.record.Promoted.Revision == "" &&
		!s.serving(s.primary.Spec.Selector.MatchLabels)
}

// serves are the labels by which Services select stable's pods: the selector of a Deployment cannot
// be changed, and one of Flagger's has a label alone.
func (s *snapshot) serves(selector workload.Selector) map[string]string {
	if s.primary != nil {
		return s.primary.Spec.Selector.MatchLabels
	}
	return selector.Stable
}

// disown plans the writes that let what a Flagger made outlive its Canary.
func (s *snapshot) disown(namespace string) []kube.Write {
	var writes []kube.Write
	for _, o := range s.ofCanary {
		writes = append(writes, workload.Disown(o.kind, o.object, s.layout.Target))
	}
	if len(writes) > 0 {
		writes[len(writes)-1].Say = fmt.Sprintf(
			"%d objects of %s no longer belong to a Canary of Flagger's: deleting it leaves them", len(writes),
			s.id(namespace))
	}
	return writes
}

// settle waits so that proxies have what was written before.
func (r *Release) settle(key string, d time.Duration, then func() plan) plan {
	if d <= 0 {
		return then()
	}
	return plan{wait: &pause{key: key, limit: d, then: then}}
}

// copyMounts makes copies of what the target mounts, under the revision's name.
func (s *snapshot) copyMounts() []kube.Write {
	var writes []kube.Write
	if s.primary != nil && workload.RevisionOf(s.primary.Deployment) == s.revision {
		return nil
	}
	for _, m := range workload.TemplateOf(s.target.object).Mounts() {
		content, ok := s.contents[workload.Mount{Kind: m.Kind, Name: m.Name}]
		name := workload.CopyName(m.Name, s.revision)
		if !ok || s.copies[m.Kind+"/"+name] {
			continue
		}
		kind := kube.ConfigMap
		if m.Kind == "Secret" {
			kind = kube.Secret
		}
		body := map[string]any{
			"metadata":  map[string]any{"labels": map[string]any{workload.TargetLabel: s.layout.Target}},
			"immutable": true}
		for k, v := range content {
			body[k] = v
		}
		writes = append(writes, kube.Write{Kind: kind, Name: name, Create: body})
	}
	return writes
}

// planRollout waits until a Deployment serves with all its replicas, at most as long as
// progressDeadlineSeconds says.
func (r *Release) planRollout(s *snapshot, d *deployment, who string) (p plan, ready bool) {
	cfg := s.config(r)
	state := workload.RolloutOf(d.Deployment, int32(cfg.ReadyThreshold))
	if state.Done {
		return plan{}, true
	}
	fail := func() plan {
		return ended(report.Rejected, "%s.%s (%s) not ready within progressDeadlineSeconds=%.0f: %s", d.Name,
			r.Client.Namespace, who,
			cfg.ProgressDeadline.Seconds(), state.Text)
	}
	if state.Failed {
		return fail(), false
	}
	return plan{wait: &pause{
		key: "rollout of " + d.Name, watch: &watched{kube.Deployment, d.object},
		text:  fmt.Sprintf("%s.%s not ready: %s", d.Name, r.Client.Namespace, state.Text),
		limit: cfg.ProgressDeadline.Duration, then: fail}}, false
}

// config is that of canary-init, or the one it left in the record.
func (s *snapshot) config(r *Release) *config.Config {
	if r.Config != nil {
		return r.Config
	}
	return &s.record.Config
}

// newAutoscaler plans stable's, where the target has one and stable has none.
func (s *snapshot) newAutoscaler() []kube.Write {
	if s.autoscaler == nil || s.primaryAutoscaler != nil {
		return nil
	}
	return []kube.Write{
		{Kind: kube.HorizontalPodAutoscaler, Name: s.autoscaler.GetName() + "-primary",
			Create: workload.NewAutoscaler(s.autoscaler, s.layout.Target, s.layout.Primary())}}
}

// autoscale plans what makes the autoscalers as they are between releases. It needs no lock: a
// release that has begun meanwhile has changed them, or did not have to.
func (s *snapshot) autoscale() []kube.Write { return append(s.newAutoscaler(), s.endFloors()...) }

// planInitialized ends a first release: stable serves, so the target may go.
func (r *Release) planInitialized(s *snapshot) plan {
	if workload.Replicas(s.target.Deployment) > 0 && s.fresh() {
		return r.settle("stable takes over", r.Config.Drain.Duration, func() plan {
			return plan{writes: []kube.Write{s.target.scale(0, "")}}
		})
	}
	return r.planEnd(s, Initialized)
}

// planEnd ends a release that has nothing to judge.
func (r *Release) planEnd(s *snapshot, outcome Outcome) plan {
	// somebody applied the manifests again, or went back to what stable runs in mid-release
	if outcome == Unchanged && workload.Replicas(s.target.Deployment) > 0 {
		return r.settle("drain", r.Config.Drain.Duration,
			func() plan { return plan{writes: []kube.Write{s.target.scale(0, "")}} })
	}
	if writes := s.autoscale(); len(writes) > 0 && outcome == Unchanged {
		return plan{writes: writes}
	}
	text := fmt.Sprintf(
		"%s is unchanged: stable runs revision %s already%s", s.id(r.Client.Namespace), s.revision, s.edited())
	say := ""
	if outcome == Initialized {
		say = fmt.Sprintf("Initialization done! %s", s.id(r.Client.Namespace))
		text = fmt.Sprintf(
			"%s is initialized: stable runs revision %s and has all the traffic; the next revision "+
				"will be a canary release", s.id(r.Client.Namespace), s.stable().Revision)
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
func (r *Release) planCandidate(s *snapshot) plan {
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
	if p, ready := r.planRollout(s, s.target, "candidate"); !ready {
		return p
	}
	done := &result{
		text: fmt.Sprintf(
			"%s: revision %s is up beside stable (revision %s); it will get %v %% of the traffic",
			s.id(r.Client.Namespace), s.revision, record.Stable.Revision, cfg.Weights),
		results: r.initResults("", s.revision, cfg.Weights),
	}
	if record.Phase != Initializing {
		return plan{done: done}
	}
	next := record.clone()
	next.Phase = Progressing
	return plan{writes: []kube.Write{
		s.write(next, fmt.Sprintf("Starting canary analysis for %s", s.id(r.Client.Namespace)))}, done: done}
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
func (r *Release) superseded(s *snapshot) plan {
	return ended(report.Undecided, "%s: superseded: the target has revision %s now, this release is of %s",
		s.id(r.Client.Namespace), s.revision, s.record.Candidate.Revision)
}

// MaxWeights is how many weights canary-init has Tekton results for in the shipped Task.
const MaxWeights = 10

// initResults are the Tekton results of canary-init: weights that are not used are empty, which
// skips their tasks.
func (r *Release) initResults(outcome Outcome, revision string, weights []config.Percent) map[string]string {
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
