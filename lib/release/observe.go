package release

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/routing"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

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
	o := &observation{Release: r, s: &snapshot{
		namespace: r.Client.Namespace, layout: workload.Layout{Target: r.Step.Target},
		contents: workload.Contents{}, copies: map[string]bool{}}}
	if err := o.readRecord(ctx); err != nil {
		return nil, err
	}
	if what.recordOnly {
		return o.end()
	}
	cfg := r.Config
	if cfg == nil { // every step but canary-init knows its configuration from the record
		if o.s.record == nil || o.s.record.Config.Target == "" {
			o.readLost(ctx)
			return o.end()
		}
		cfg = &o.s.record.Config
	}
	o.s.layout.Service, o.s.layout.VirtualService = cfg.Service, cfg.VirtualService
	o.readRoute(ctx, cfg.Route)
	if what.weight {
		return o.end()
	}
	o.s.target, o.s.primary = o.deployment(ctx, o.s.layout.Target), o.deployment(ctx, o.s.layout.Primary())
	o.readServices(ctx, what)
	o.readAutoscalers(ctx, what)
	if what.services {
		o.readOwned(ctx)
	}
	if o.s.target != nil {
		o.readContents(ctx)
		if what.copies {
			o.readCopies(ctx)
		}
	}
	o.readEnd(ctx, what)
	return o.end()
}

// observation reads a snapshot, one concern after the other, and collects what goes wrong.
type observation struct {
	*Release
	s    *snapshot
	errs []error
}

func (o *observation) end() (*snapshot, error) {
	o.s.now = time.Now()
	return o.s, errors.Join(o.errs...)
}

func (o *observation) failed(err error) { o.errs = append(o.errs, err) }

// get reads an object; nil where there is none.
func (o *observation) get(ctx context.Context, kind kube.Kind, name string) *kube.Object {
	object, err := o.Client.Get(ctx, kind, name, nil)
	o.failed(err)
	return object
}

// deployment reads a Deployment; nil where there is none.
func (o *observation) deployment(ctx context.Context, name string) *deployment {
	d := &deployment{Deployment: new(appsv1.Deployment)}
	object, err := o.Client.Get(ctx, kube.Deployment, name, d.Deployment)
	o.failed(err)
	if d.object = object; object == nil {
		return nil
	}
	return d
}

// readRecord reads the record, and whether the run that holds the target has ended. canary-init
// goes no further without a record that it can read.
func (o *observation) readRecord(ctx context.Context) error {
	s := o.s
	if s.recordObject = o.get(ctx, kube.ConfigMap, s.layout.Record()); s.recordObject == nil {
		return nil
	}
	record, err := readRecord(s.recordObject)
	if o.Config == nil {
		if s.record, s.unreadable = record, err; err == nil { // what cannot be read is as good as gone
			o.aboutRecorded(ctx, record.Config.Canary)
		}
		return nil
	}
	if err != nil {
		return err
	}
	s.record = record
	if !s.free() && record.RunNamespace != "" && !s.mine(o.Config.RunID) {
		s.holderEnded, err = o.hasEnded(ctx, record)
		o.failed(err)
	}
	return nil
}

// readRoute reads how the layout's VirtualService divides traffic, in its HTTP route of a name.
func (o *observation) readRoute(ctx context.Context, name string) {
	s := o.s
	s.route = routing.Route{
		Target: s.layout.Target, Name: name, Stable: s.layout.PrimaryService(), Candidate: s.layout.CanaryService()}
	object, err := o.Client.Get(ctx, kube.VirtualService, s.layout.VirtualService, nil)
	if o.Config != nil && errors.Is(err, kube.ErrNotServed) {
		s.noMesh, err = err, nil // one of canary-init's mistakes, named with all the others
	}
	o.failed(err)
	if s.virtualService = object; object == nil {
		return
	}
	split, err := routing.Find(object, s.route)
	if s.splitError = err; err == nil {
		s.split = &split
	}
}

// readLost reads what is left of a release without a record: stable says which route its releases
// have.
func (o *observation) readLost(ctx context.Context) {
	s := o.s
	if s.primary = o.deployment(ctx, s.layout.Primary()); !s.lost() {
		return
	}
	s.target = o.deployment(ctx, s.layout.Target)
	route := ""
	s.layout, route = s.layout.Routed(s.primary.Annotations[workload.RouteAnnotation])
	o.readRoute(ctx, route)
}

// readServices reads the Services, and the DestinationRules for those who make them.
func (o *observation) readServices(ctx context.Context, what scope) {
	s := o.s
	if what.services || what.service {
		s.service = o.get(ctx, kube.Service, s.layout.Service)
	}
	if !what.services {
		return
	}
	s.primaryService = o.get(ctx, kube.Service, s.layout.PrimaryService())
	s.canaryService = o.get(ctx, kube.Service, s.layout.CanaryService())
	// Only who makes them needs to know, or takes them over.
	if s.primaryService == nil || s.canaryService == nil || s.split == nil || s.flaggers() {
		var err error
		s.rules, err = o.Client.List(ctx, kube.DestinationRule)
		o.failed(err)
	}
}

// readAutoscalers finds the autoscalers of both versions. Steps that may not list them know their
// names from the record.
func (o *observation) readAutoscalers(ctx context.Context, what scope) {
	s := o.s
	switch {
	case what.services:
		found, err := o.Client.List(ctx, kube.HorizontalPodAutoscaler)
		o.failed(err)
		s.autoscaler = workload.AutoscalerOf(found, s.layout.Target)
		s.primaryAutoscaler = workload.AutoscalerOf(found, s.layout.Primary())
	case what.autoscalers && s.record != nil:
		target, stable := s.record.Autoscaler, s.record.PrimaryAutoscaler
		if target != "" {
			s.autoscaler = o.get(ctx, kube.HorizontalPodAutoscaler, target)
			stable = cmp.Or(stable, target+"-primary")
		}
		if stable != "" {
			s.primaryAutoscaler = o.get(ctx, kube.HorizontalPodAutoscaler, stable)
		}
	}
}

// kindOf is the kind of object that a mount is of.
func kindOf(m workload.Mount) kube.Kind {
	if m.Kind == "Secret" {
		return kube.Secret
	}
	return kube.ConfigMap
}

// readContents reads what the target mounts, and with it the target's revision.
func (o *observation) readContents(ctx context.Context) {
	s, template := o.s, workload.TemplateOf(o.s.target.object)
	for _, m := range template.Mounts() {
		object, err := o.Client.Get(ctx, kindOf(m), m.Name, nil)
		switch {
		case m.Kind == "Secret" && apierrors.IsForbidden(err):
			s.unread = append(s.unread, m)
		case err != nil:
			o.failed(err)
		case object != nil && object.Object["type"] == string(corev1.SecretTypeServiceAccountToken):
			s.tokens = append(s.tokens, m)
		case object != nil:
			s.contents[workload.Mount{Kind: m.Kind, Name: m.Name}] = mounted(object)
		case !m.Optional:
			s.missing = append(s.missing, m)
		}
	}
	s.revision = s.identify(template)
}

// readCopies finds the copies of what the target mounts that stable has.
func (o *observation) readCopies(ctx context.Context) {
	for m := range o.s.contents {
		name := workload.CopyName(m.Name, o.s.revision)
		o.s.copies[m.Kind+"/"+name] = o.get(ctx, kindOf(m), name) != nil
	}
}

// readEnd reads what only the end of a release needs, and the endpoints of stable's Service.
func (o *observation) readEnd(ctx context.Context, what scope) {
	s := o.s
	if what.history && s.ending() {
		var err error
		s.history, err = o.past(ctx, s)
		o.failed(err)
	}
	if what.endpoints && s.record != nil && s.primary != nil && s.record.Stable.Revision != "" ||
		what.history && s.closing() {
		o.readEndpoints(ctx)
	}
}

// readOwned lists what a Canary owns. What stable mounts is read as long as stable is among it,
// which is therefore the last; Secrets that this account may not read are left out.
func (o *observation) readOwned(ctx context.Context) {
	s := o.s
	var all []watched
	if s.flaggers() {
		for _, m := range workload.TemplateOf(s.primary.object).Mounts() {
			object, err := o.Client.Get(ctx, kindOf(m), m.Name, nil)
			if m.Kind == "Secret" && apierrors.IsForbidden(err) {
				continue
			}
			o.failed(err)
			all = append(all, watched{kindOf(m), object})
		}
	}
	for i := range s.rules {
		all = append(all, watched{kube.DestinationRule, &s.rules[i]})
	}
	all = append(all,
		watched{kube.HorizontalPodAutoscaler, s.primaryAutoscaler}, watched{kube.VirtualService, s.virtualService},
		watched{kube.Service, s.service}, watched{kube.Service, s.primaryService},
		watched{kube.Service, s.canaryService})
	if s.primary != nil {
		all = append(all, watched{kube.Deployment, s.primary.object})
	}
	s.ofCanary = slices.DeleteFunc(all,
		func(w watched) bool { return w.object == nil || !workload.OfCanary(w.object) })
}

// readEndpoints counts the endpoints of stable's Service that are ready. They stay unread for an
// account that may not list them.
func (o *observation) readEndpoints(ctx context.Context) {
	service := map[string]string{discoveryv1.LabelServiceName: o.s.layout.PrimaryService()}
	found, err := o.Client.Find(ctx, kube.EndpointSlice, service, 0)
	if apierrors.IsForbidden(err) {
		return
	}
	o.failed(err)
	ready := 0
	for i := range found {
		var slice discoveryv1.EndpointSlice
		o.failed(kube.Decode(found[i].Object, &slice))
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				ready++
			}
		}
	}
	o.s.endpoints = &ready
}

// hasEnded reports whether the PipelineRun that holds the target runs no more. Who may not look
// takes it for running.
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
