package release

import (
	"context"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// history is what is left of stable's revisions: the copies of what they mount, and which of them
// the cluster keeps.
type history struct {
	copies []copied
	kept   []string // revisions of stable and of its ReplicaSets
}

// copied is a copy of a ConfigMap or a Secret, for one revision.
type copied struct {
	kind     kube.Kind
	name     string
	revision string
}

// past reads what is left of stable's revisions. Secrets that this account may not list are left
// out: it has made no copies of them either.
func (r *Release) past(ctx context.Context, s *snapshot) (h history, err error) {
	for _, kind := range []kube.Kind{kube.ConfigMap, kube.Secret} {
		found, err := r.Client.Find(ctx, kind, map[string]string{workload.TargetLabel: s.layout.Target}, 0)
		if kind == kube.Secret && apierrors.IsForbidden(err) {
			continue
		}
		if err != nil {
			return h, err
		}
		for i := range found {
			if revision := workload.CopiedFor(found[i].GetName()); revision != "" {
				h.copies = append(h.copies, copied{kind, found[i].GetName(), revision})
			}
		}
	}
	if len(h.copies) == 0 || s.primary == nil {
		return h, nil
	}
	// whose ReplicaSet the controller may still have to make
	h.kept = append(h.kept, workload.RevisionOf(s.primary.Deployment))
	sets, err := r.Client.Find(ctx, kube.ReplicaSet, s.primary.Spec.Selector.MatchLabels, 0)
	if err != nil {
		return h, err
	}
	for i := range sets {
		var set appsv1.ReplicaSet
		if err := kube.Decode(sets[i].Object, &set); err != nil {
			return h, err
		}
		h.kept = append(h.kept, set.Spec.Template.Annotations[workload.RevisionAnnotation])
	}
	return h, nil
}

// unused plans the removal of the copies that belong to none of these revisions, nor to one that
// the cluster keeps.
func (h history) unused(revisions ...string) []kube.Write {
	var writes []kube.Write
	for _, c := range h.copies {
		if !slices.Contains(revisions, c.revision) && !slices.Contains(h.kept, c.revision) {
			writes = append(writes, kube.Write{Kind: c.kind, Name: c.name, Delete: true})
		}
	}
	return writes
}

// ending reports whether nothing is left to do for traffic: then what a release leaves behind is
// looked at.
func (s *snapshot) ending() bool {
	switch {
	case s.record == nil:
		return false
	case s.record.Phase == Detaching:
		return s.split == nil
	case s.record.Phase == Promoting || s.record.Phase == RollingBack:
		return s.primary != nil && s.share() == 0 && workload.Replicas(s.deploymentOfTarget()) == 0
	}
	return false
}

// closing reports whether traffic is where the end of a release leaves it, or an earlier one left
// it: then it is read who answers.
func (s *snapshot) closing() bool {
	return s.ending() || s.record != nil && (s.record.Phase == Failed || s.record.Phase == Succeeded) &&
		s.primary != nil && s.share() == 0
}
