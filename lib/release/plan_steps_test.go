package release

import (
	"testing"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/routing"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// judged lets the release pass at all its weights.
func judged(s *snapshot, r *Request) {
	weight(40, 2)(s, r)
	s.record.Shifts = []Shift{{Weight: 20, Passed: true}, {Weight: 40, Passed: true}}
}

func TestMayGoOn(t *testing.T) {
	next := func(r Request, s *snapshot) plan { return r.mayGoOn(s, Progressing) }
	checkPlans(t, func(*snapshot, *Request) {}, next, []planned{
		{"it may", nil, nil},
		{"no record", func(s *snapshot, _ *Request) { s.record, s.primary = nil, nil },
			[]string{"end as undecided: shop.web: there is no release record (ConfigMap shop-canary-release): " +
				"canary-init has not run"}},
		{"the record was deleted", func(s *snapshot, _ *Request) { s.record = nil },
			[]string{"end as undecided: shop.web: the release record, ConfigMap shop-canary-release, is gone in " +
				"mid-release: somebody deleted it"}},
		{"another run holds it", func(_ *snapshot, r *Request) { r.Step.RunID = "run-1" },
			[]string{"end as undecided: shop.web: superseded: run run-2 holds the target now (revision B)"}},
		{"there was nothing to release", func(s *snapshot, r *Request) {
			between(s, r)
			s.revision = "A"
		}, []string{"end as done: shop.web: nothing to do: stable runs revision A already"}},
		{"it was rejected", func(s *snapshot, _ *Request) {
			s.record.Outcome, s.record.Reason = Rejected, "failing"
		}, []string{"end as rejected: shop.web: this release was rejected: failing"}},
		{"it ended", func(s *snapshot, _ *Request) { s.record.Phase, s.record.Outcome = Succeeded, Initialized },
			[]string{"end as done: shop.web: nothing to do: the release ended as initialized"}},
		{"it rolls back", func(s *snapshot, _ *Request) { s.record.Phase = RollingBack },
			[]string{"end as undecided: shop.web: the release is RollingBack (), not Progressing: " +
				"nothing was changed"}},
		{"it could not be judged", func(s *snapshot, _ *Request) { s.record.Outcome = Inconclusive },
			[]string{"end as undecided: shop.web: the release is Progressing (inconclusive), not Progressing: " +
				"nothing was changed"}},
		{"the target is gone", func(s *snapshot, _ *Request) { s.target = nil },
			[]string{"end as undecided: shop.web: Deployment shop or shop-primary is gone"}},
		{"the route is gone", func(s *snapshot, _ *Request) { s.virtualService, s.split = nil, nil },
			[]string{"end as undecided: shop.web: VirtualService shop is gone: somebody deleted it"}},
		{"the route has lost its fence", func(s *snapshot, _ *Request) { s.split.Fence = "" },
			[]string{"end as undecided: shop.web: VirtualService shop was replaced: it lost the annotation " +
				"shop.canary-tasks.dev/fence. somebody wrote it"}},
		{"another release fenced it off", weight(20, 3),
			[]string{"end as undecided: shop.web: VirtualService shop was fenced off by another release"}},
		{"the target has another revision", func(s *snapshot, _ *Request) { s.revision = "C" },
			[]string{"end as undecided: shop.web: superseded: the target has revision C now, this release is of B"}},
		{"its time is over", func(s *snapshot, _ *Request) { s.record.Expires = noon },
			[]string{"end as undecided: shop.web: the release did not end within deadline=1m0s: give a longer one, " +
				"or fewer weights"}},
		{"somebody else set the weight", weight(60, 2),
			[]string{"end as undecided: shop.web: the candidate's weight is 60, this release set 20: somebody wrote " +
				"VirtualService shop"}},
		{"a process ended before it noted the weight", func(s *snapshot, r *Request) {
			weight(40, 2)(s, r)
			r.Step.Weight = 40
		}, nil},
	})
}

func TestPlanShift(t *testing.T) {
	passed := func(s *snapshot, r *Request) { s.record.Shifts[0].Passed, r.Step.Weight = true, 40 }
	checkPlans(t, passed, Request.planShift, []planned{
		{"the next weight", nil,
			[]string{"patch VirtualService/shop [fence 2 host shop-primary host shop-canary] weight 60, weight 40: " +
				"Advance shop.web canary weight 40"}},
		{"the weight that it has", func(_ *snapshot, r *Request) { r.Step.Weight = 20 },
			[]string{"end as done: weight=20 shop.web has 20 % of the traffic, stable 80 %"}},
		{"a weight that is not next", func(_ *snapshot, r *Request) { r.Step.Weight = 60 },
			[]string{"end as undecided: shop.web: parameter weight is 60: the next weight of this release is 40, of " +
				"[20 40]: set weight=40, or run rollback to end the release"}},
		{"it was not judged", func(s *snapshot, _ *Request) { s.record.Shifts[0].Passed = false },
			[]string{"end as undecided: shop.web: parameter weight is 40: weight 20 is not judged yet: run " +
				"analyze first"}},
		{"it was given, and not noted", weight(40, 2),
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Progressing  of B by run-2, epoch 2, " +
				"stable A, promoted A, weight 40",
				"end as done: weight=40 shop.web has 40 % of the traffic, stable 60 %"}},
		{"a pod of the candidate is gone", func(s *snapshot, _ *Request) { s.target = pods("shop", "B", 2, 1) },
			[]string{"wait for rollout of shop at most 1m0s, then",
				"  end as rejected: shop.web (for 40 %) not ready within progressDeadlineSeconds=60: waiting for " +
					"rollout to finish: 1 of 2 (readyThreshold 100%) updated replicas are available"}},
		{"a pod of stable is gone", func(s *snapshot, _ *Request) {
			s.primary = pods("shop-primary", "A", 2, 1)
		}, []string{"wait for rollout of shop-primary at most 1m0s, then",
			"  end as rejected: shop-primary.web (for 40 %) not ready within progressDeadlineSeconds=60: waiting " +
				"for rollout to finish: 1 of 2 (readyThreshold 100%) updated replicas are available"}},
		{"stable has grown", func(s *snapshot, _ *Request) {
			s.primary = pods("shop-primary", "A", 10, 10)
		}, []string{"patch Deployment/shop [resourceVersion 5] replicas 4: Scaling up shop.web to 4 pods for 40 % " +
			"of the traffic"}},
		{"it may not go on", func(s *snapshot, _ *Request) { s.revision = "C" },
			[]string{"end as undecided: shop.web: superseded: the target has revision C now, this release is of B"}},
	})
}

// floors are those that a release gives the autoscalers of both versions.
func floors(s *snapshot, r *Request) {
	scaled(2, 10)(s, r)
	for _, autoscaler := range []*kube.Object{s.autoscaler, s.primaryAutoscaler} {
		autoscaler.SetAnnotations(map[string]string{workload.FloorAnnotation: "1/2"})
	}
}

func TestPlanPromote(t *testing.T) {
	promoting := func(s *snapshot, r *Request) {
		judged(s, r)
		s.record.Phase = Promoting
	}
	rolled := func(s *snapshot, r *Request) {
		promoting(s, r)
		s.primary = pods("shop-primary", "B", 2, 2)
	}
	moved := func(s *snapshot, r *Request) {
		rolled(s, r)
		weight(0, 2)(s, r)
	}
	alone := func(s *snapshot, r *Request) {
		moved(s, r)
		s.target = pods("shop", "B", 0, 0)
	}
	checkPlans(t, judged, Request.planPromote, []planned{
		{"it was judged", nil,
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Promoting  of B by run-2, epoch 2, " +
				"stable A, promoted A, weight 40"}},
		{"a weight was not judged", func(s *snapshot, _ *Request) { s.record.Shifts[1].Passed = false },
			[]string{"end as undecided: shop.web: not promoted: weight 40 was not judged"}},
		{"it may not go on", func(s *snapshot, _ *Request) { s.revision = "C" },
			[]string{"end as undecided: shop.web: superseded: the target has revision C now, this release is of B"}},
		{"another run holds it", func(_ *snapshot, r *Request) { r.Step.RunID = "run-1" },
			[]string{"end as undecided: shop.web: superseded: run run-2 holds the target now (revision B)"}},
		{"stable is to become it", promoting,
			[]string{"patch Deployment/shop-primary [fence 2] images [shop:B], replicas 2: Copying shop.web " +
				"template spec to shop-primary.web"}},
		{"the target has another revision by now", func(s *snapshot, r *Request) {
			promoting(s, r)
			s.revision = "C"
		}, []string{"patch VirtualService/shop [fence 2 host shop-primary host shop-canary] weight 100, weight 0: " +
			"Routing all traffic to primary: shop.web has revision C by now, which was not judged"}},
		{"the target has another revision, and no pod of stable serves", func(s *snapshot, r *Request) {
			promoting(s, r)
			s.revision, s.target, s.primary = "C", pods("shop", "C", 2, 2), pods("shop-primary", "A", 2, 0)
		}, []string{"patch Deployment/shop-primary [fence 2] images [shop:B], replicas 2: Copying shop.web template " +
			"spec to shop-primary.web"}},
		{"stable's pods start", func(s *snapshot, r *Request) {
			promoting(s, r)
			s.primary = pods("shop-primary", "B", 2, 1)
		}, []string{"wait for rollout of shop-primary at most 1m0s, then",
			"  end as rejected: shop-primary.web (stable) not ready within progressDeadlineSeconds=60: waiting for " +
				"rollout to finish: 1 of 2 (readyThreshold 100%) updated replicas are available"}},
		{"stable is up", rolled,
			[]string{"patch VirtualService/shop [fence 2 host shop-primary host shop-canary] weight 100, weight 0: " +
				"Routing all traffic to primary: shop.web"}},
		{"stable has all the traffic", moved,
			[]string{"wait for drain at most 3s, then",
				"  patch Deployment/shop [resourceVersion 5] replicas 0: Promotion completed! Scaling down shop.web"}},
		{"somebody set the Service back", func(s *snapshot, r *Request) {
			moved(s, r)
			s.service = service("shop", "shop")
		}, []string{"patch Service/shop [resourceVersion 6] selector {app:shop-primary}: Service shop.web leads to " +
			"shop-primary again: its selector was set back by somebody"}},
		{"the candidate is scaled down", alone,
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Succeeded promoted of B by run-2, " +
				"epoch 2, stable A, promoted B, weight 40",
				"end as done: outcome=promoted shop.web: promoted: stable runs revision B and has all the traffic"}},
		{"the autoscalers have floors", func(s *snapshot, r *Request) {
			alone(s, r)
			floors(s, r)
		}, []string{"patch HorizontalPodAutoscaler/scale [resourceVersion 9] remove floor, keeps 1 to 10",
			"patch HorizontalPodAutoscaler/scale-primary [resourceVersion 9] remove floor, keeps 1 to 10"}},
		{"stable's autoscaler has other limits", func(s *snapshot, r *Request) {
			alone(s, r)
			scaled(1, 10)(s, r)
			field(s.primaryAutoscaler.Object, "spec")["maxReplicas"] = int64(5)
		}, []string{"patch HorizontalPodAutoscaler/scale-primary [resourceVersion 9] keeps 1 to 10"}},
		{"stable's autoscaler does as the target's", func(s *snapshot, r *Request) {
			alone(s, r)
			scaled(1, 10)(s, r)
		}, []string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Succeeded promoted of B by run-2, " +
			"epoch 2, stable A, promoted B, weight 40",
			"end as done: outcome=promoted shop.web: promoted: stable runs revision B and has all the traffic"}},
		{"stable's Service has no endpoint", func(s *snapshot, r *Request) {
			alone(s, r)
			s.endpoints = new(int)
		}, []string{"wait for endpoints at most 1m0s, then",
			"  end as undecided: shop.web: not promoted: Service shop-primary has no ready endpoint; VirtualService " +
				"shop leads to shop-primary, which has no ready endpoint. Look whether the Service is there, and at " +
				"its selector"}},
		{"it was promoted", func(s *snapshot, r *Request) {
			alone(s, r)
			s.record.Phase, s.record.Outcome = Succeeded, Promoted
		}, []string{"end as done: outcome=promoted shop.web: promoted: " +
			"stable runs revision B and has all the traffic"}},
		{"there was nothing to judge", func(s *snapshot, _ *Request) {
			s.record.Phase, s.record.Outcome = Succeeded, Initialized
		}, []string{"end as done: outcome=initialized shop.web: nothing to promote: initialized"}},
		{"there was nothing to release", func(s *snapshot, r *Request) {
			between(s, r)
			s.revision = "A"
		}, []string{"end as done: outcome=unchanged shop.web: nothing to promote: unchanged"}},
	})
}

func TestPlanRollback(t *testing.T) {
	back := func(s *snapshot, _ *Request) { s.record.Phase, s.record.Outcome = RollingBack, Rejected }
	safe := func(s *snapshot, r *Request) {
		back(s, r)
		weight(0, 2)(s, r)
	}
	alone := func(s *snapshot, r *Request) {
		safe(s, r)
		s.target = pods("shop", "B", 0, 0)
	}
	by := func(hand edit) edit {
		return func(s *snapshot, r *Request) {
			r.Step.RunID = ""
			hand(s, r)
		}
	}
	checkPlans(t, func(*snapshot, *Request) {}, Request.planRollback, []planned{
		{"a release under way", nil,
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] RollingBack aborted of B by run-2, " +
				"epoch 3, stable A, promoted A, weight 20: Rolling back shop.web aborted"}},
		{"no record", func(s *snapshot, _ *Request) { s.record, s.primary = nil, nil },
			[]string{"end as done: outcome=refused shop.web: nothing to roll back: there is no release record"}},
		{"the record was deleted", func(s *snapshot, _ *Request) { s.record = nil },
			[]string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] weight 100, " +
				"weight 0: Routing all traffic to primary: shop.web"}},
		{"the record was deleted, and traffic is safe", func(s *snapshot, r *Request) {
			s.record = nil
			weight(0, 2)(s, r)
		}, []string{"end as undecided: shop.web: the release record, ConfigMap shop-canary-release, is gone in " +
			"mid-release: somebody deleted it. stable runs revision A and has all the traffic; shop still has pods. " +
			"Run canary-init again, or scale it to 0"}},
		{"another run holds it", func(_ *snapshot, r *Request) { r.Step.RunID = "run-9" },
			[]string{"end as done: outcome=refused shop.web: nothing to roll back: run run-2 was the last to " +
				"hold the target"}},
		{"another run took it over, and has not fenced the route", func(s *snapshot, r *Request) {
			r.Step.RunID, s.record.Phase = "run-1", Initializing
			weight(20, 1)(s, r)
		}, []string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] weight 100, " +
			"weight 0: Routing all traffic to primary: shop.web"}},
		{"another run took it over", func(_ *snapshot, r *Request) { r.Step.RunID = "run-1" },
			[]string{"end as done: outcome=superseded shop.web: nothing to roll back: run run-2 was the last " +
				"to hold the target"}},
		{"it was promoted", func(s *snapshot, _ *Request) { s.record.Phase, s.record.Outcome = Succeeded, Promoted },
			[]string{"end as done: outcome=refused shop.web: nothing to roll back: the release ended as " +
				"promoted"}},
		{"it was promoted, and somebody wants it back", by(func(s *snapshot, _ *Request) {
			s.record.Phase, s.record.Outcome = Succeeded, Promoted
		}), []string{"patch ConfigMap/shop-canary-release [resourceVersion 7] RollingBack aborted of B by run-2, " +
			"epoch 3, stable A, promoted , weight 20: Rolling back shop.web aborted"}},
		{"there was nothing to release, and somebody wants it back", by(func(s *snapshot, _ *Request) {
			s.record.Phase, s.record.Outcome = Succeeded, Unchanged
		}), []string{"end as done: outcome=refused shop.web: nothing to roll back: the release ended as " +
			"unchanged"}},
		{"it was rolled back", func(s *snapshot, r *Request) {
			alone(s, r)
			s.record.Phase = Failed
		}, []string{"end as done: outcome=rejected shop.web: rolled back (rejected): stable runs revision A and has " +
			"all the traffic"}},
		{"it rolls back", back,
			[]string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] fence 2, " +
				"weight 100, weight 0: Routing all traffic to primary: shop.web"}},
		{"stable fails as the candidate's version", func(s *snapshot, r *Request) {
			judged(s, r)
			back(s, r)
			s.record.StableFails, s.primary = true, pods("shop-primary", "B", 2, 2)
		}, []string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] fence 2, " +
			"weight 0, weight 100: Routing all traffic to canary: shop.web: shop passed at every weight, and " +
			"shop-primary fails"}},
		{"stable is gone", func(s *snapshot, r *Request) {
			safe(s, r)
			s.primary = nil
		}, []string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] fence 2, " +
			"weight 0, weight 100: Routing all traffic to canary: shop.web: shop-primary has no pod that serves"}},
		{"stable is gone, and the candidate has all the traffic", func(s *snapshot, r *Request) {
			back(s, r)
			weight(100, 2)(s, r)
			s.primary = nil
		}, []string{"end as undecided: shop.web: not rolled back: Deployment shop-primary, which ran revision A, is " +
			"gone; shop has all the traffic. Restore it and run rollback again, or delete the ConfigMap " +
			"shop-canary-release to begin anew"}},
		{"stable is not fenced", func(s *snapshot, r *Request) {
			safe(s, r)
			s.primary.Annotations[workload.FenceAnnotation] = "1"
		}, []string{"patch Deployment/shop-primary [resourceVersion 5] fence 2, route " +
			"{\\service\\:\\shop\\,\\virtualService\\:\\shop\\}"}},
		{"stable runs the candidate's version", func(s *snapshot, r *Request) {
			safe(s, r)
			s.primary = pods("shop-primary", "B", 2, 2)
		}, []string{"patch Deployment/shop-primary [fence 2] images [shop:A], replicas 2: Bringing shop-primary.web " +
			"back to revision A"}},
		{"somebody else gave stable another version", func(s *snapshot, r *Request) {
			safe(s, r)
			s.primary = pods("shop-primary", "C", 2, 2)
		}, []string{"wait for drain at most 3s, then",
			"  patch Deployment/shop [resourceVersion 5] replicas 0: Canary failed! Scaling down shop.web"}},
		{"stable's pods start", func(s *snapshot, r *Request) {
			safe(s, r)
			s.primary = pods("shop-primary", "A", 2, 1)
		}, []string{"wait for stable at most 1m0s, then",
			"  end as undecided: shop.web: stable does not come back to revision A: waiting for rollout to finish: " +
				"1 of 2 (readyThreshold 100%) updated replicas are available; stable runs revision A and has all " +
				"the traffic"}},
		{"stable's Service has no endpoint", func(s *snapshot, r *Request) {
			alone(s, r)
			s.endpoints = new(int)
		}, []string{"wait for endpoints at most 1m0s, then",
			"  end as undecided: shop.web: not rolled back: Service shop-primary has no ready endpoint; " +
				"VirtualService shop leads to shop-primary, which has no ready endpoint. Look whether the Service " +
				"is there, and at its selector"}},
		{"somebody set the Service back", func(s *snapshot, r *Request) {
			safe(s, r)
			s.service = service("shop", "shop")
		}, []string{"patch Service/shop [resourceVersion 6] selector {app:shop-primary}: Service shop.web leads to " +
			"shop-primary again: its selector was set back by somebody"}},
		{"traffic is safe", safe,
			[]string{"wait for drain at most 3s, then",
				"  patch Deployment/shop [resourceVersion 5] replicas 0: Canary failed! Scaling down shop.web"}},
		{"the candidate is scaled down", alone,
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Failed rejected of B by run-2, epoch " +
				"2, stable A, promoted A, weight 20",
				"end as done: outcome=rejected shop.web: rolled back (rejected): stable runs revision A and has all " +
					"the traffic"}},
		{"the autoscalers have floors", func(s *snapshot, r *Request) {
			alone(s, r)
			floors(s, r)
		}, []string{"patch HorizontalPodAutoscaler/scale [resourceVersion 9] remove floor, keeps 1 to 10",
			"patch HorizontalPodAutoscaler/scale-primary [resourceVersion 9] remove floor, keeps 1 to 10"}},
		{"a first release", func(s *snapshot, r *Request) {
			safe(s, r)
			s.record.Stable = Version{}
		}, []string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Failed rejected of B by run-2, epoch " +
			"2, stable , promoted A, weight 20",
			"end as done: outcome=rejected shop.web: rejected in its first release: stable runs revision A and has " +
				"all the traffic"}},
		{"the route is gone", func(s *snapshot, r *Request) {
			alone(s, r)
			s.virtualService, s.split = nil, nil
		}, []string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Failed rejected of B by run-2, epoch " +
			"2, stable A, promoted A, weight 20",
			"end as undecided: outcome=rejected shop.web: rolled back (rejected): VirtualService shop is gone: " +
				"callers in the mesh reach Service shop, which leads to shop-primary"}},
	})
}

func TestPlanBack(t *testing.T) {
	checkPlans(t, func(*snapshot, *Request) {}, Request.planBack, []planned{
		{"the candidate has traffic", nil,
			[]string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] fence 2, " +
				"weight 100, weight 0: Routing all traffic to primary: shop.web"}},
		{"it has none", weight(0, 2), []string{"end as done: "}},
		{"the record was deleted", func(s *snapshot, _ *Request) { s.record = nil },
			[]string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] weight 100, " +
				"weight 0: Routing all traffic to primary: shop.web"}},
		{"there never was one", func(s *snapshot, _ *Request) { s.record, s.primary = nil, nil },
			[]string{"end as done: "}},
		{"another run holds it", func(_ *snapshot, r *Request) { r.Step.RunID = "run-1" }, []string{"end as done: "}},
		{"another run holds it, and has not fenced the route", func(s *snapshot, r *Request) {
			r.Step.RunID, s.record.Phase = "run-1", Initializing
			weight(20, 1)(s, r)
		}, []string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] weight 100, " +
			"weight 0: Routing all traffic to primary: shop.web"}},
		{"another release fenced it off", weight(20, 3),
			[]string{"end as undecided: VirtualService shop was fenced off by another release"}},
		{"no pod of stable serves", func(s *snapshot, _ *Request) {
			s.primary = pods("shop-primary", "A", 2, 0)
		}, []string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] fence 2, " +
			"weight 0, weight 100: Routing all traffic to canary: shop.web: shop-primary has no pod that serves"}},
		{"no pod serves", func(s *snapshot, _ *Request) {
			s.primary, s.target = pods("shop-primary", "A", 2, 0), pods("shop", "B", 2, 0)
		}, []string{"end as undecided: it keeps 20 % of the traffic: neither shop-primary nor shop has a pod " +
			"that serves"}},
		{"somebody replaced the route", func(s *snapshot, _ *Request) {
			route := s.virtualService.Object["spec"].(map[string]any)["http"].([]any)[0].(map[string]any)
			route["route"] = append(route["route"].([]any), map[string]any{
				"destination": map[string]any{"host": "other"}, "weight": int64(0)})
			_, s.splitError = routing.Find(s.virtualService, s.route)
			s.split = nil
		}, []string{"patch VirtualService/shop [resourceVersion 8] weight 100, weight 0: Routing all traffic to " +
			"primary: VirtualService shop is not as this release left it; the candidate's traffic is taken away " +
			"at http[0]"}},
	})
}

func TestPlanDetach(t *testing.T) {
	detaching := func(s *snapshot, r *Request) {
		between(s, r)
		r.Config = nil
		s.revision, s.target, s.record.Phase, s.record.Holder = "A", pods("shop", "A", 2, 2), Detaching, "run-2"
	}
	led := func(s *snapshot, r *Request) {
		detaching(s, r)
		s.service = service("shop", "shop")
		s.service.SetLabels(nil) // it is the chart's
	}
	moved := func(s *snapshot, r *Request) {
		led(s, r)
		weight(100, 1)(s, r)
	}
	left := func(s *snapshot, r *Request) {
		moved(s, r)
		s.virtualService, s.split = nil, nil
	}
	checkPlans(t, detaching, Request.planDetach, []planned{
		{"no record", func(s *snapshot, _ *Request) { s.record = nil },
			[]string{"end as done: outcome=detached shop.web: detached: it serves by itself, and nothing of its " +
				"releases is left"}},
		{"the target is gone", func(s *snapshot, _ *Request) { s.target = nil },
			[]string{"end as undecided: shop: Deployment shop is gone: it cannot take over from shop-primary"}},
		{"a release is under way", func(s *snapshot, _ *Request) { s.record.Phase = Progressing },
			[]string{"end as busy: shop.web: run run-1 releases it (Progressing): end that first"}},
		{"it begins", func(s *snapshot, _ *Request) { s.record.Phase = Succeeded },
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Detaching promoted of A by run-2, " +
				"epoch 2, stable A, promoted A: Detaching shop.web"}},
		{"the target has another revision", func(s *snapshot, _ *Request) {
			s.revision, s.target = "C", pods("shop", "C", 0, 0)
			s.record.Promoted.Template = workload.TemplateOf(pods("shop", "A", 0, 0).object)
		}, []string{"patch Deployment/shop [resourceVersion 5] images [shop:A]: Bringing shop.web back to revision A"}},
		{"nobody knows what stable runs", func(s *snapshot, _ *Request) {
			s.revision, s.record.Promoted = "C", Version{}
		}, []string{"end as undecided: shop.web: stable runs revision A, and how the target would run it is not " +
			"known: set the target to that version first"}},
		{"the target has no pods", func(s *snapshot, _ *Request) { s.target = pods("shop", "A", 0, 0) },
			[]string{"patch Deployment/shop [resourceVersion 5] replicas 2: Scaling up shop.web"}},
		{"its pods start", func(s *snapshot, _ *Request) { s.target = pods("shop", "A", 2, 1) },
			[]string{"wait for rollout of shop at most 1m0s, then",
				"  end as rejected: shop.web (the target) not ready within progressDeadlineSeconds=60: waiting for " +
					"rollout to finish: 1 of 2 (readyThreshold 100%) updated replicas are available"}},
		{"the target is up", nil, []string{"patch Service/shop [resourceVersion 6] selector {app:shop}, labels {}"}},
		{"the Service leads to it", led,
			[]string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] fence 1, " +
				"weight 0, weight 100: Routing all traffic to shop"}},
		{"it has all the traffic", moved, []string{"wait for route at most 3s, then", "  delete VirtualService/shop"}},
		{"the route is the chart's", func(s *snapshot, r *Request) {
			moved(s, r)
			s.virtualService.SetLabels(nil)
		}, []string{"wait for route at most 3s, then",
			"  patch VirtualService/shop [resourceVersion 8] route [{destination:{host:shop}}], remove fence"}},
		{"the route is gone", left,
			[]string{"wait for leftovers at most 3s, then", "  delete Service/shop-primary",
				"  delete Service/shop-canary", "  delete Deployment/shop-primary"}},
		{"the target's autoscaler has a floor", func(s *snapshot, r *Request) {
			left(s, r)
			floors(s, r)
		}, []string{"wait for leftovers at most 3s, then",
			"  patch HorizontalPodAutoscaler/scale [resourceVersion 9] remove floor, keeps 1 to 10",
			"  delete Service/shop-primary", "  delete Service/shop-canary",
			"  delete HorizontalPodAutoscaler/scale-primary", "  delete Deployment/shop-primary"}},
		{"the route is of releases, and leads elsewhere", func(s *snapshot, r *Request) {
			left(s, r)
			routed(s, "other")
			s.virtualService.SetLabels(map[string]string{workload.TargetLabel: "shop"})
		}, []string{"wait for leftovers at most 3s, then", "  delete VirtualService/shop",
			"  delete Service/shop-primary", "  delete Service/shop-canary", "  delete Deployment/shop-primary"}},
		{"the route is the chart's, and leads elsewhere", func(s *snapshot, r *Request) {
			left(s, r)
			routed(s, "other")
		}, []string{"wait for leftovers at most 3s, then", "  delete Service/shop-primary",
			"  delete Service/shop-canary", "  delete Deployment/shop-primary"}},
		{"nothing is left", func(s *snapshot, r *Request) {
			left(s, r)
			s.primary, s.primaryService, s.canaryService = nil, nil, nil
		}, []string{"delete ConfigMap/shop-canary-release",
			"end as done: outcome=detached shop.web: detached: it serves by itself, and nothing of its " +
				"releases is left"}},
	})
}

// The last line of a step says no more than what was read.
func TestTraffic(t *testing.T) {
	checkPlans(t, weight(0, 2), func(_ Request, s *snapshot) plan {
		now := s.traffic()
		return ended(report.Done, "%s; to stable %t, understood %t", now.text, now.stable, now.understood)
	}, []planned{
		{"stable has all", nil,
			[]string{"end as done: stable runs revision A and has all the traffic; to stable true, understood true"}},
		{"both have some", weight(20, 2),
			[]string{"end as done: stable has 80 % of the traffic and shop 20 %; to stable false, understood true"}},
		{"the candidate has all", weight(100, 2),
			[]string{"end as done: shop has all the traffic; to stable false, understood true"}},
		{"stable has no pod", func(s *snapshot, _ *Request) { s.primary = pods("shop-primary", "A", 2, 0) },
			[]string{"end as done: VirtualService shop leads to shop-primary, and shop-primary has no pod that " +
				"serves; to stable false, understood true"}},
		{"stable is gone", func(s *snapshot, _ *Request) { s.primary = nil },
			[]string{"end as done: VirtualService shop leads to shop-primary, and shop-primary has no pod that " +
				"serves; to stable false, understood true"}},
		{"stable's Service has no endpoint", func(s *snapshot, _ *Request) { s.endpoints = new(int) },
			[]string{"end as done: VirtualService shop leads to shop-primary, which has no ready endpoint; to " +
				"stable false, understood true"}},
		{"the route is gone", func(s *snapshot, _ *Request) { s.virtualService, s.split = nil, nil },
			[]string{"end as done: VirtualService shop is gone: callers in the mesh reach Service shop, which leads " +
				"to shop-primary; to stable true, understood false"}},
		{"the route is gone, and the Service leads to the target", func(s *snapshot, _ *Request) {
			s.virtualService, s.split, s.service = nil, nil, service("shop", "shop")
		}, []string{"end as done: VirtualService shop is gone: callers in the mesh reach Service shop, which leads " +
			"to shop; to stable false, understood false"}},
		{"the route is gone, and the Service leads elsewhere", func(s *snapshot, _ *Request) {
			s.virtualService, s.split, s.service = nil, nil, service("shop", "other")
		}, []string{"end as done: VirtualService shop is gone: callers in the mesh reach Service shop, which leads " +
			"elsewhere; to stable false, understood false"}},
		{"the route is not there yet", func(s *snapshot, _ *Request) {
			s.virtualService, s.split, s.record.Stable = nil, nil, Version{}
		}, []string{"end as done: VirtualService shop is not there yet: callers in the mesh reach Service shop, " +
			"which leads to shop-primary; to stable true, understood false"}},
		{"the route leads to the Service", func(s *snapshot, _ *Request) { routed(s, "shop") },
			[]string{"end as done: VirtualService shop leads to Service shop, which leads to shop-primary; to " +
				"stable true, understood true"}},
		{"the route leads to the candidate", func(s *snapshot, _ *Request) { routed(s, "shop-canary") },
			[]string{"end as done: shop has up to 100 % of the traffic: VirtualService shop is not as this release " +
				"left it: no HTTP route leads to exactly the destinations shop-primary and shop-canary; it has " +
				"http[0] \"\" -> shop-canary=100. somebody wrote it; to stable false, understood false"}},
		{"the route leads elsewhere", func(s *snapshot, _ *Request) { routed(s, "other") },
			[]string{"end as done: shop has no traffic; where the rest goes is not known: VirtualService shop is " +
				"not as this release left it: no HTTP route leads to exactly the destinations shop-primary and " +
				"shop-canary; it has http[0] \"\" -> other=100. somebody wrote it; to stable false, understood false"}},
	})
}
