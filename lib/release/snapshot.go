package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/routing"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// deployment is a Deployment, whole and decoded.
type deployment struct {
	*appsv1.Deployment
	object *kube.Object
}

// snapshot is what a step sees of the cluster at one moment.
type snapshot struct {
	now       time.Time
	namespace string
	waitedFor string // run that held the target before: this step has waited for it
	layout    workload.Layout
	route     routing.Route
	target    *deployment
	primary   *deployment

	service, primaryService, canaryService *kube.Object

	virtualService *kube.Object
	split          *routing.Split // nil when there is no route to both versions; then splitError says why
	splitError     error
	noMesh         error // why there is no VirtualService at all: the cluster does not know them

	contents workload.Contents // what the target mounts
	missing  []workload.Mount  // what it mounts and is not there
	tokens   []workload.Mount  // tokens of service accounts, which cannot be copied; they do not count
	unread   []workload.Mount  // Secrets that this account may not read; they do not count
	copies   map[string]bool   // names of copies for stable that are there, as Kind/name
	revision string            // of the target

	rules []kube.Object // DestinationRules of the namespace

	autoscaler, primaryAutoscaler *kube.Object

	ofCanary []watched // what the cluster removes with a Canary of Flagger's, the Deployment last

	history   history // at the end of a release only
	endpoints *int    // of stable's Service that are ready; nil: not read

	record       *Record
	unreadable   error // why there is none although its ConfigMap is there
	holderEnded  bool  // the PipelineRun that holds the target has ended, or is gone
	recordObject *kube.Object
}

// scope says what a snapshot has to hold beside the record, the target and stable, and the route.
type scope struct {
	recordOnly  bool // nothing but the record
	weight      bool // nothing but the record and the route
	services    bool // all of them, and autoscalers
	service     bool // that people call
	autoscalers bool
	copies      bool
	history     bool // at the end of a release
	endpoints   bool // of stable's Service
}

// observe reads a snapshot.
func (r *Release) observe(ctx context.Context, what scope) (*snapshot, error) {
	s := &snapshot{namespace: r.Client.Namespace, contents: workload.Contents{}, copies: map[string]bool{}}
	var errs []error
	get := func(kind kube.Kind, name string) *kube.Object {
		o, err := r.Client.Get(ctx, kind, name, nil)
		errs = append(errs, err)
		return o
	}
	s.layout = workload.Layout{Target: r.Step.Target}
	if s.recordObject = get(kube.ConfigMap, s.layout.Record()); s.recordObject != nil {
		record, err := readRecord(s.recordObject)
		switch {
		case err == nil:
			s.record = record
		case r.Config != nil:
			return nil, err
		default: // as good as gone: traffic goes back without it
			s.unreadable = err
		}
		if r.Config == nil && s.record != nil { // canary-init has asked
			r.aboutRecorded(ctx, record.Config.Canary)
		}
	}
	cfg := r.Config
	if r.Config != nil && s.record != nil && !s.record.Phase.ended() && s.record.RunNamespace != "" &&
		!s.mine(r.Config.RunID) {
		ended, err := r.hasEnded(ctx, s.record)
		s.holderEnded, errs = ended, append(errs, err)
	}
	if what.recordOnly {
		return s, errors.Join(errs...)
	}
	if cfg == nil { // every step but canary-init knows its configuration from the record
		if s.record == nil || s.record.Config.Target == "" {
			return s, errors.Join(append(errs, r.observeLost(ctx, s))...)
		}
		cfg = &s.record.Config
	}
	s.layout.Service, s.layout.VirtualService = cfg.Service, cfg.VirtualService
	errs = append(errs, r.readRoute(ctx, s, cfg.Route))
	if what.weight {
		return s, errors.Join(errs...)
	}
	var err error
	s.target, err = r.readDeployment(ctx, s.layout.Target)
	errs = append(errs, err)
	s.primary, err = r.readDeployment(ctx, s.layout.Primary())
	errs = append(errs, err)
	if what.services || what.service {
		s.service = get(kube.Service, s.layout.Service)
	}
	if what.services {
		s.primaryService = get(kube.Service, s.layout.PrimaryService())
		s.canaryService = get(kube.Service, s.layout.CanaryService())
		// only who makes them needs to know, or takes them over
		if s.primaryService == nil || s.canaryService == nil || s.split == nil || s.flaggers() {
			rules, err := r.Client.List(ctx, kube.DestinationRule)
			s.rules, errs = rules, append(errs, err)
		}
	}
	switch {
	case what.services:
		found, err := r.Client.List(ctx, kube.HorizontalPodAutoscaler)
		errs = append(errs, err)
		s.autoscaler, s.primaryAutoscaler = workload.AutoscalerOf(found, s.layout.Target),
			workload.AutoscalerOf(found, s.layout.Primary())
	case what.autoscalers && s.record != nil:
		target, stable := s.record.Autoscaler, s.record.PrimaryAutoscaler
		if target != "" {
			s.autoscaler = get(kube.HorizontalPodAutoscaler, target)
			stable = cmp.Or(stable, target+"-primary")
		}
		if stable != "" {
			s.primaryAutoscaler = get(kube.HorizontalPodAutoscaler, stable)
		}
	}
	if what.services {
		owned, err := r.owned(ctx, s)
		s.ofCanary, errs = owned, append(errs, err)
	}
	if s.target != nil {
		template := workload.TemplateOf(s.target.object)
		for _, m := range template.Mounts() {
			kind := kube.ConfigMap
			if m.Kind == "Secret" {
				kind = kube.Secret
			}
			o, err := r.Client.Get(ctx, kind, m.Name, nil)
			switch {
			case m.Kind == "Secret" && apierrors.IsForbidden(err):
				s.unread = append(s.unread, m)
			case err != nil:
				errs = append(errs, err)
			case o != nil && o.Object["type"] == string(corev1.SecretTypeServiceAccountToken):
				s.tokens = append(s.tokens, m)
			case o != nil:
				s.contents[workload.Mount{Kind: m.Kind, Name: m.Name}] = mounted(o)
			case !m.Optional:
				s.missing = append(s.missing, m)
			}
		}
		s.revision = s.identify(template)
		if what.copies {
			for m := range s.contents {
				kind := kube.ConfigMap
				if m.Kind == "Secret" {
					kind = kube.Secret
				}
				name := workload.CopyName(m.Name, s.revision)
				s.copies[m.Kind+"/"+name] = get(kind, name) != nil
			}
		}
	}
	if what.history && s.ending() {
		h, err := r.past(ctx, s)
		s.history, errs = h, append(errs, err)
	}
	if what.endpoints && s.record != nil && s.primary != nil && s.record.Stable.Revision != "" || what.history &&
		s.closing() {
		ready, err := r.readEndpoints(ctx, s)
		s.endpoints, errs = ready, append(errs, err)
	}
	s.now = time.Now()
	return s, errors.Join(errs...)
}

// observeLost reads what is left of a release without a record: stable says which route its
// releases have.
func (r *Release) observeLost(ctx context.Context, s *snapshot) error {
	var err error
	if s.primary, err = r.readDeployment(ctx, s.layout.Primary()); err != nil || !s.lost() {
		return err
	}
	if s.target, err = r.readDeployment(ctx, s.layout.Target); err != nil {
		return err
	}
	route := ""
	s.layout, route = s.layout.Routed(s.primary.Annotations[workload.RouteAnnotation])
	s.now = time.Now()
	return r.readRoute(ctx, s, route)
}

// readDeployment reads a Deployment; nil where there is none.
func (r *Release) readDeployment(ctx context.Context, name string) (*deployment, error) {
	d := &deployment{Deployment: new(appsv1.Deployment)}
	var err error
	if d.object, err = r.Client.Get(ctx, kube.Deployment, name, d.Deployment); d.object == nil {
		return nil, err
	}
	return d, err
}

// readRoute reads how the layout's VirtualService divides traffic, in its HTTP route of a name.
func (r *Release) readRoute(ctx context.Context, s *snapshot, name string) (err error) {
	s.route = routing.Route{
		Target: s.layout.Target, Name: name, Stable: s.layout.PrimaryService(), Candidate: s.layout.CanaryService()}
	s.virtualService, err = r.Client.Get(ctx, kube.VirtualService, s.layout.VirtualService, nil)
	if r.Config != nil && errors.Is(err, kube.ErrNotServed) {
		s.noMesh, err = err, nil // one of canary-init's mistakes, named with all the others
	}
	if s.virtualService != nil {
		split, find := routing.Find(s.virtualService, s.route)
		if s.splitError = find; find == nil {
			s.split = &split
		}
	}
	return err
}

// identify returns the revision of the target. Where one that the record knows is the same but for
// Secrets that one of two accounts may not read, it is that one: what counted then counts now.
func (s *snapshot) identify(template workload.Template) string {
	if s.record != nil {
		for _, v := range []Version{s.record.Candidate, s.record.Promoted} {
			if v.Revision != "" && s.sameBut(template, v) {
				return v.Revision
			}
		}
	}
	return template.Revision(s.contents)
}

// sameBut reports whether the target is a version, as far as both it and this account could read
// Secrets.
func (s *snapshot) sameBut(template workload.Template, v Version) bool {
	hidden := slices.ContainsFunc(v.Copied, func(m workload.Mount) bool { return slices.Contains(s.unread, m) })
	if hidden {
		return v.Open != "" && template.Revision(s.contents.WithoutSecrets()) == v.Open
	}
	return len(v.Unread) > 0 && template.Revision(s.contents.Without(v.Unread)) == v.Revision
}

// edited says that stable's pods are not made of what was promoted, because somebody edited it; ""
// when nobody did. A restart is no edit.
func (s *snapshot) edited() string {
	if s.record == nil || s.primary == nil || !s.fresh() || s.record.Promoted.Revision != s.revision {
		return ""
	}
	selector, err := s.selector()
	if err != nil {
		return ""
	}
	was := s.record.Promoted.Template.ForStable(selector, s.revision, s.record.Promoted.contents())
	if is := workload.TemplateOf(s.primary.object).WithoutRestart(); is.Equal(was.WithoutRestart()) {
		return ""
	}
	return fmt.Sprintf(
		"; warning: the pod template of %s was edited since, by %s: its pods are not what was judged. Release "+
			"another revision, or put it back",
		s.layout.Primary(), kube.LastManager(s.primary.object))
}

// flaggers tells whether stable is one that a Flagger made, and that its Canary still owns.
func (s *snapshot) flaggers() bool { return s.primary != nil && workload.OfCanary(s.primary.object) }

// owned lists what a Canary owns. What stable mounts is read as long as stable is among it, which
// is therefore the last; Secrets that this account may not read are left out.
func (r *Release) owned(ctx context.Context, s *snapshot) ([]watched, error) {
	var all []watched
	if s.flaggers() {
		for _, m := range workload.TemplateOf(s.primary.object).Mounts() {
			kind := kube.ConfigMap
			if m.Kind == "Secret" {
				kind = kube.Secret
			}
			switch o, err := r.Client.Get(ctx, kind, m.Name, nil); {
			case m.Kind == "Secret" && apierrors.IsForbidden(err):
			case err != nil:
				return nil, err
			default:
				all = append(all, watched{kind, o})
			}
		}
	}
	for i := range s.rules {
		all = append(all, watched{kube.DestinationRule, &s.rules[i]})
	}
	all = append(all, watched{kube.HorizontalPodAutoscaler, s.primaryAutoscaler},
		watched{kube.VirtualService, s.virtualService},
		watched{kube.Service, s.service}, watched{kube.Service, s.primaryService},
		watched{kube.Service, s.canaryService})
	if s.primary != nil {
		all = append(all, watched{kube.Deployment, s.primary.object})
	}
	return slices.DeleteFunc(all, func(w watched) bool { return w.object == nil || !workload.OfCanary(w.object) }), nil
}

// hasEnded tells whether the PipelineRun that holds the target runs no more. Who may not look takes
// it for running.
func (r *Release) hasEnded(ctx context.Context, record *Record) (bool, error) {
	var run struct {
		Metadata struct{ UID string }
		Status   struct {
			Conditions []struct{ Type, Status string }
		}
	}
	if record.Run == "" { // a step that was run by itself
		return false, nil
	}
	o, err := r.Client.In(record.RunNamespace).Get(ctx, kube.PipelineRun, record.Run, &run)
	switch {
	case apierrors.IsForbidden(err) || errors.Is(err, kube.ErrNotServed):
		return false, nil
	case err != nil:
		return false, err
	case o == nil || run.Metadata.UID != record.Holder: // gone, if it was ever there; a run may also be no PipelineRun
		return record.RunSeen, nil
	}
	for _, c := range run.Status.Conditions {
		if c.Type == "Succeeded" && c.Status != "Unknown" {
			return true, nil
		}
	}
	return false, nil
}

// sees reports whether the run of canary-init is a PipelineRun that this account may see.
func (r *Release) sees(ctx context.Context) (bool, error) {
	cfg := r.Config
	if cfg.RunNamespace == "" || cfg.RunName == "" {
		return false, nil
	}
	o, err := r.Client.In(cfg.RunNamespace).Get(ctx, kube.PipelineRun, cfg.RunName, nil)
	if apierrors.IsForbidden(err) || errors.Is(err, kube.ErrNotServed) {
		return false, nil
	}
	return err == nil && o != nil && string(o.GetUID()) == cfg.RunID, err
}

// mounted is what a pod sees of a ConfigMap or a Secret.
func mounted(o *kube.Object) map[string]any {
	content := map[string]any{}
	for _, field := range []string{"data", "binaryData", "type"} {
		if v, ok := o.Object[field]; ok {
			content[field] = v
		}
	}
	return content
}

// free reports whether no release is under way.
func (s *snapshot) free() bool { return s.record == nil || s.record.Phase.ended() }

// selector returns the labels by which Services select the pods of each version. The selector of a
// Deployment cannot be changed: stable's is as it was made, and one of Flagger's has a label alone.
func (s *snapshot) selector() (workload.Selector, error) {
	selector, err := workload.SelectorOf(s.target.Deployment)
	if s.primary != nil {
		selector.Stable = s.primary.Spec.Selector.MatchLabels
	}
	return selector, err
}

// mine tells whether the run of this step holds the target.
func (s *snapshot) mine(uid string) bool { return s.record != nil && s.record.Holder == uid }

// scale plans the write of a Deployment's replicas.
func (d *deployment) scale(replicas int32, say string) kube.Write {
	return kube.Write{Kind: kube.Deployment, Name: d.Name, Say: say, Patch: []kube.Operation{
		kube.Unchanged(d.object), {Op: "add", Path: "/spec/replicas", Value: replicas},
	}}
}

// id is how a target is called in sentences, as Flagger does.
func (s *snapshot) id() string {
	return fmt.Sprintf("%s.%s", s.layout.Target, s.namespace)
}
