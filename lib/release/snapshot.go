package release

import (
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"

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

// flaggers reports whether stable is one that a Flagger made, and that its Canary still owns.
func (s *snapshot) flaggers() bool { return s.primary != nil && workload.OfCanary(s.primary.object) }

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

// mine reports whether the run of this step holds the target.
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
