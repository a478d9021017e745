package release

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// question is whether an account may do something; account "" is the one that asks.
type question struct{ account, group, resource, verb string }

// need is why a question is asked.
type need struct{ steps, whys []string }

// questions returns all that has to be answered with yes before a release begins. Steps that
// stepAccounts does not name have the account that asks.
func questions(cfg *config.Config) map[question]*need {
	all := map[question]*need{}
	for _, p := range Permissions {
		switch p.Role {
		case "":
		case withCanary:
			if cfg.Canary == "" {
				continue
			}
		case ofReviews:
			if len(cfg.StepAccounts) == 0 {
				continue
			}
		default: // may be left out
			continue
		}
		for _, step := range p.Steps {
			for _, verb := range p.Verbs {
				q := question{cfg.StepAccounts[step], p.Group, p.Resource, verb}
				if all[q] == nil {
					all[q] = &need{}
				}
				all[q].add(step, p.Why)
			}
		}
	}
	return all
}

func (n *need) add(step, why string) {
	if !slices.Contains(n.steps, step) {
		n.steps = append(n.steps, step)
	}
	if !slices.Contains(n.whys, why) {
		n.whys = append(n.whys, why)
	}
}

// checkPermissions asks the API server whether the accounts of the steps may do all that a release
// needs: this step's account for itself, and for every step that has no account of its own by
// stepAccounts.
func (r *Release) checkPermissions(ctx context.Context) config.Problems {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var problems config.Problems
	for q, n := range questions(r.Config) {
		wg.Go(func() {
			if remedy := r.ask(ctx, q, n); remedy != "" {
				mu.Lock()
				defer mu.Unlock()
				problems = append(problems,
					config.Problem{Parameter: "namespace", Value: r.Client.Namespace, Remedy: remedy})
			}
		})
	}
	wg.Wait()
	slices.SortFunc(problems, func(a, b config.Problem) int { return cmp.Compare(a.Remedy, b.Remedy) })
	return slices.Compact(problems)
}

// ask asks one question, and returns what to do where the answer is no.
func (r *Release) ask(ctx context.Context, q question, n *need) (remedy string) {
	resource, part, _ := strings.Cut(q.resource, "/")
	namespace := r.Client.Namespace
	if q.resource == kube.PipelineRun.Resource.Resource { // runs are where they are, and not where the target is
		namespace = cmp.Or(r.Config.RunNamespace, namespace)
	}
	spec := map[string]any{"resourceAttributes": map[string]any{
		"namespace": namespace, "verb": q.verb, "group": q.group, "resource": resource, "subresource": part,
	}}
	kind, who, bind := kube.AccessReview, "the ServiceAccount of this run", "bind the Role canary-tasks to it"
	switch {
	case q.account != "": // it is in the namespace of the run
		home := cmp.Or(r.Config.RunNamespace, r.Client.Namespace)
		spec["user"] = "system:serviceaccount:" + home + ":" + q.account
		spec["groups"] = []any{"system:serviceaccounts", "system:serviceaccounts:" + home, "system:authenticated"}
		kind, who = kube.LocalAccessReview, "ServiceAccount "+home+"/"+q.account
		bind = "bind a Role that allows it, as examples/account-per-step has"
	case q.resource == kube.LocalAccessReview.Resource.Resource:
		bind = "bind the Role canary-init-reviews of examples/account-per-step to it"
	case !slices.Contains(n.steps, config.CanaryInit):
		bind += ", or, where that step has an account of its own, name it in stepAccounts"
	}
	body := map[string]any{"spec": spec}
	if q.account != "" { // which the review has to name as well
		body["metadata"] = map[string]any{"namespace": r.Client.Namespace}
	}
	answer, err := r.Client.Create(ctx, kind, q.account != "", body)
	if err != nil && q.account != "" { // the same for each of its rights, and said once
		return fmt.Sprintf("what ServiceAccount %s may do could not be asked: %v", q.account, err)
	}
	if err != nil {
		return fmt.Sprintf("asking whether this run may %s %s: %v", q.verb, q.resource, err)
	}
	if allowed, _, _ := unstructured.NestedBool(answer.Object, "status", "allowed"); allowed {
		return ""
	}
	if namespace != r.Client.Namespace {
		bind = "bind a Role that allows it, there"
	}
	return fmt.Sprintf("%s may not %s %s in namespace %s, which %s needs for %s: %s", who, q.verb,
		strings.TrimSuffix(q.resource+"."+q.group, "."), namespace, strings.Join(n.steps, ", "),
		strings.Join(n.whys, "; "), bind)
}
