package release

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/routing"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// first is a target before its first release.
func firstRelease(s *snapshot, r *Request) {
	r.Config = configured()
	s.record, s.recordObject, s.primary, s.primaryService, s.canaryService = nil, nil, nil, nil, nil
	s.virtualService, s.split, s.service = nil, nil, service("shop", "shop")
}

// between is a target between two releases: run-1 ended, and stable has all the traffic.
func between(s *snapshot, r *Request) {
	r.Config = configured()
	weight(0, 1)(s, r)
	s.record.Holder, s.record.Run, s.record.Before, s.record.Epoch = "run-1", "run-1", nil, 1
	s.record.Phase, s.record.Outcome, s.record.Shifts = Succeeded, Promoted, nil
	s.record.Promoted = Version{Revision: "A", Template: workload.TemplateOf(pods("shop", "A", 2, 2).object)}
	s.record.Candidate = s.record.Promoted
}

// held is the release of another run, which has not ended.
func held(_ *snapshot, r *Request) {
	r.Config = configured()
	r.Config.RunID, r.Config.RunName, r.Config.OnBusy = "run-3", "run-3", "wait"
}

// begun is a release that took the lock and did nothing else yet.
func begun(s *snapshot, r *Request) {
	r.Config = configured()
	weight(0, 1)(s, r)
	s.primary.Annotations[workload.FenceAnnotation] = "1"
	s.record.Phase, s.record.Shifts = Initializing, nil
}

// fenced is a release that nobody else can interfere with any more.
func fenced(s *snapshot, r *Request) {
	begun(s, r)
	weight(0, 2)(s, r)
	s.primary.Annotations[workload.FenceAnnotation] = "2"
}

// scaled are the autoscalers of both versions, and what they keep at least and at most.
func scaled(least, most int64) edit {
	return func(s *snapshot, _ *Request) {
		of := func(name, target string) *kube.Object {
			return &kube.Object{Object: map[string]any{
				"metadata": map[string]any{
					"name": name, "resourceVersion": "9", "labels": map[string]any{workload.TargetLabel: "shop"}},
				"spec": map[string]any{
					"minReplicas": least, "maxReplicas": most,
					"scaleTargetRef": map[string]any{"apiVersion": "apps/v1", "kind": "Deployment", "name": target}}}}
		}
		s.autoscaler, s.primaryAutoscaler = of("scale", "shop"), of("scale-primary", "shop-primary")
		if s.record != nil {
			s.record.Autoscaler, s.record.PrimaryAutoscaler = "scale", "scale-primary"
		}
	}
}

func TestPlanInit(t *testing.T) {
	checkPlans(t, func(*snapshot, *Request) {}, Request.planInit, []planned{
		{"the target is gone", func(s *snapshot, _ *Request) { s.target = nil },
			[]string{"end as undecided: shop.web: Deployment shop is gone: apply it again, and then run " +
				"this once more"}},
		{"a first release", firstRelease, []string{"create ConfigMap/shop-canary-release"}},
		{"a new revision", between,
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Initializing  of B by run-2, epoch 3, " +
				"stable A, promoted A: New revision detected! Scaling up shop.web"}},
		{"the lock is taken", begun,
			[]string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] fence 2, " +
				"weight 100, weight 0",
				"patch Deployment/shop-primary [resourceVersion 5] fence 2, route " +
					"{\\service\\:\\shop\\,\\virtualService\\:\\shop\\}"}},
		{"the candidate is up", fenced,
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Progressing  of B by run-2, epoch 2, " +
				"stable A, promoted A: Starting canary analysis for shop.web",
				"end as done: revision=B weight-1=20 weight-2=40 shop.web: revision B is up beside stable (revision " +
					"A); it will get [20 40] % of the traffic"}},
	})
}

func TestInitHeld(t *testing.T) {
	checkPlans(t, held, Request.initHeld, []planned{
		{"nobody holds it", func(s *snapshot, _ *Request) { s.record = nil }, nil},
		{"it ended", func(s *snapshot, _ *Request) { s.record.Phase = Failed }, nil},
		{"this run holds it", func(_ *snapshot, r *Request) { r.Config.RunID = "run-2" }, nil},
		{"of the same revision", nil,
			[]string{"wait for busy at most 1m0s, then",
				"  end as busy: shop.web is held by run run-2 (phase Progressing, revision B, until 13:00:00 at the " +
					"latest); nothing was changed"}},
		{"of the same revision, and this run does not wait",
			func(_ *snapshot, r *Request) { r.Config.OnBusy = "fail" },
			[]string{"end as busy: shop.web is held by run run-2 (phase Progressing, revision B, until 13:00:00 at " +
				"the latest); nothing was changed"}},
		{"a newer revision", func(s *snapshot, _ *Request) { s.revision = "C" },
			[]string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] weight 100, " +
				"weight 0: Routing all traffic to primary: shop.web"}},
		{"a newer revision, and traffic is safe",
			func(s *snapshot, r *Request) { s.revision = "C"; weight(0, 2)(s, r) },
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Initializing  of C by run-3, epoch 3, " +
				"stable A, promoted A: New revision detected! Restarting analysis for shop.web: run run-2, which " +
				"released revision B, is superseded"}},
		{"a newer revision that may not take over",
			func(s *snapshot, r *Request) { s.revision, r.Config.Takeover = "C", false },
			[]string{"wait for busy at most 1m0s, then",
				"  end as busy: shop.web is held by run run-2 (phase Progressing, revision B, until 13:00:00 at the " +
					"latest); nothing was changed"}},
		{"a newer revision, in its first release",
			func(s *snapshot, _ *Request) { s.revision, s.record.Stable = "C", Version{} },
			[]string{"wait for busy at most 1m0s, then",
				"  end as busy: shop.web is held by run run-2 (phase Progressing, revision B, until 13:00:00 at the " +
					"latest); nothing was changed"}},
		{"a newer revision, while it promotes",
			func(s *snapshot, _ *Request) { s.revision, s.record.Phase = "C", Promoting },
			[]string{"wait for busy at most 1m0s, then",
				"  end as busy: shop.web is held by run run-2 (phase Promoting, revision B, until 13:00:00 at the " +
					"latest); nothing was changed"}},
		{"its time is over", func(s *snapshot, _ *Request) { s.record.Expires = noon.Add(-time.Second) }, nil},
		{"it was interrupted", func(s *snapshot, _ *Request) { s.record.Interrupted = true }, nil},
		{"its run has ended", func(s *snapshot, _ *Request) { s.holderEnded = true }, nil},
		{"it was interrupted while it promoted",
			func(s *snapshot, _ *Request) { s.record.Phase, s.record.Interrupted = Promoting, true },
			[]string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] weight 100, " +
				"weight 0: Routing all traffic to primary: shop.web"}},
		{"it was interrupted while it promoted, and traffic is safe", func(s *snapshot, r *Request) {
			s.record.Phase, s.record.Interrupted = Promoting, true
			weight(0, 2)(s, r)
		}, []string{"patch ConfigMap/shop-canary-release [resourceVersion 7] RollingBack aborted of B by run-3, " +
			"epoch 3, stable A, promoted A, weight 20: Rolling back shop.web first: run run-2 was interrupted while " +
			"Promoting"}},
		{"it was interrupted while it rolled a rejected revision back", func(s *snapshot, r *Request) {
			s.record.Phase, s.record.Outcome, s.holderEnded = RollingBack, Rejected, true
			weight(0, 2)(s, r)
		}, []string{"patch ConfigMap/shop-canary-release [resourceVersion 7] RollingBack rejected of B by run-3, " +
			"epoch 3, stable A, promoted A, weight 20: Rolling back shop.web first: run run-2 was interrupted while " +
			"RollingBack"}},
	})
}

func TestInitOwn(t *testing.T) {
	checkPlans(t, held, Request.initOwn, []planned{
		{"no record", func(s *snapshot, _ *Request) { s.record = nil }, nil},
		{"of another run", nil, nil},
		{"a release of its own", func(_ *snapshot, r *Request) { r.Config.RunID = "run-2" }, nil},
		{"its release rolls back", func(s *snapshot, r *Request) {
			r.Config.RunID, s.record.Phase = "run-2", RollingBack
		}, []string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] fence 2, " +
			"weight 100, weight 0: Routing all traffic to primary: shop.web"}},
		{"its release was rolled back", func(s *snapshot, r *Request) {
			weight(0, 2)(s, r)
			r.Config.RunID, s.record.Phase, s.target = "run-2", RollingBack, pods("shop", "B", 0, 0)
		}, []string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Initializing  of B by run-2, epoch 3, " +
			"stable A, promoted A"}},
		{"its release ended", func(s *snapshot, r *Request) {
			r.Config.RunID, s.record.Phase, s.record.Outcome = "run-2", Failed, Rejected
		}, []string{"end as rejected: outcome=rejected revision=B shop.web: this run ended as rejected already"}},
		{"it was promoted", func(s *snapshot, r *Request) {
			r.Config.RunID, s.record.Phase, s.record.Outcome = "run-2", Succeeded, Promoted
		}, []string{"end as done: outcome=promoted revision=B shop.web: this run ended as promoted already"}},
		{"the run that was waited for could not judge this revision", func(s *snapshot, _ *Request) {
			s.waitedFor, s.record.Phase, s.record.Outcome, s.record.Reason = "run-2", Failed, Inconclusive, "too few"
		}, []string{"end as undecided: shop.web: run run-2, which was waited for, could not judge revision B: too " +
			"few; nothing was changed"}},
		{"it could not judge another revision", func(s *snapshot, _ *Request) {
			s.waitedFor, s.record.Phase, s.record.Outcome, s.revision = "run-2", Failed, Inconclusive, "C"
		}, nil},
		{"nobody waited for it", func(s *snapshot, _ *Request) {
			s.record.Phase, s.record.Outcome = Failed, Inconclusive
		}, nil},
	})
}

func TestInitRefused(t *testing.T) {
	rejected := func(s *snapshot, _ *Request) {
		s.record.Rejected = []Rejection{{Revision: "B", Reason: "failing", Run: "run-0", At: noon}}
	}
	checkPlans(t, between, Request.initRefused, []planned{
		{"no record", func(s *snapshot, _ *Request) { s.record = nil }, nil},
		{"a new revision", nil, nil},
		{"it was rejected before", rejected,
			[]string{"end as rejected: shop.web: revision B was rejected at 2026-01-02 12:00 by run run-0: failing; " +
				"nothing was changed. Release another revision, or run again with retryRejected=true"}},
		{"it is to be tried again", func(s *snapshot, r *Request) {
			rejected(s, r)
			r.Config.RetryRejected = true
		}, nil},
		{"another one was rejected", func(s *snapshot, r *Request) {
			rejected(s, r)
			s.revision = "C"
		}, nil},
		{"stable runs it", func(s *snapshot, r *Request) {
			rejected(s, r)
			s.primary = pods("shop-primary", "B", 2, 2)
		}, nil},
		{"mode prepare", func(s *snapshot, r *Request) {
			rejected(s, r)
			r.Config.Mode = config.Prepare
		}, nil},
		{"stable is gone", func(s *snapshot, _ *Request) { s.primary = nil },
			[]string{"end as configuration: shop-primary was made by a release (revision A) and is gone: it is not " +
				"made again out of a candidate that nobody judged. Restore the Deployment, or delete the ConfigMap " +
				"shop-canary-release to begin anew"}},
		{"stable is gone, as it should", func(s *snapshot, _ *Request) {
			s.primary, s.record.Phase = nil, Detaching
		}, nil},
	})
}

func TestInitIdle(t *testing.T) {
	unchanged := func(s *snapshot, _ *Request) { s.revision, s.target = "A", pods("shop", "A", 0, 0) }
	checkPlans(t, between, Request.initIdle, []planned{
		{"a new revision", nil, nil},
		{"stable runs it", unchanged,
			[]string{"end as done: outcome=unchanged revision=A shop.web is unchanged: " +
				"stable runs revision A already"}},
		{"somebody scaled the target up", func(s *snapshot, r *Request) {
			unchanged(s, r)
			s.target = pods("shop", "A", 2, 2)
		}, []string{"wait for drain at most 3s, then", "  patch Deployment/shop [resourceVersion 5] replicas 0"}},
		{"the route is gone", func(s *snapshot, r *Request) {
			unchanged(s, r)
			s.virtualService, s.split = nil, nil
		}, nil},
		{"the candidate has traffic", func(s *snapshot, r *Request) {
			unchanged(s, r)
			weight(20, 1)(s, r)
		}, nil},
		{"a Canary owns some of it", func(s *snapshot, r *Request) {
			unchanged(s, r)
			s.ofCanary = []watched{{kube.Service, s.service}}
		}, nil},
		{"the Service leads elsewhere", func(s *snapshot, r *Request) {
			unchanged(s, r)
			s.service = service("shop", "shop")
		}, nil},
		{"a release of its own is under way", func(s *snapshot, r *Request) {
			unchanged(s, r)
			s.record.Phase = Progressing
		}, nil},
		{"what stable runs is not noted", func(s *snapshot, r *Request) {
			unchanged(s, r)
			s.record.Promoted = Version{}
		}, []string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Succeeded unchanged of A by run-2, " +
			"epoch 3, stable A, promoted A",
			"end as done: outcome=unchanged revision=A shop.web is unchanged: stable runs revision A already"}},
		{"mode prepare", func(s *snapshot, r *Request) {
			unchanged(s, r)
			r.Config.Mode = config.Prepare
		}, []string{"end as done: outcome=initialized revision=A shop.web is prepared: stable runs revision A and " +
			"has all the traffic, and Service shop stays when its chart no longer has it. Apply the chart with its " +
			"canary turned on next, and then release it"}},
		{"mode prepare, and the Service is the chart's", func(s *snapshot, r *Request) {
			unchanged(s, r)
			r.Config.Mode = config.Prepare
			s.service.SetLabels(nil)
		}, nil},
	})
}

func TestInitLock(t *testing.T) {
	checkPlans(t, between, Request.initLock, []planned{
		{"a new revision", nil,
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Initializing  of B by run-2, epoch 3, " +
				"stable A, promoted A: New revision detected! Scaling up shop.web"}},
		{"a first release", firstRelease, []string{"create ConfigMap/shop-canary-release"}},
		{"the candidate still has traffic", weight(20, 1),
			[]string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] weight 100, " +
				"weight 0: Routing all traffic to primary: shop.web"}},
		{"this run holds it", func(s *snapshot, _ *Request) {
			s.record.Phase, s.record.Holder = Initializing, "run-2"
		}, nil},
		{"another run holds it, whose time is over", func(s *snapshot, _ *Request) { s.record.Phase = Initializing },
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Initializing  of B by run-2, epoch 3, " +
				"stable A, promoted A: New revision detected! Scaling up shop.web"}},
		{"stable runs it", func(s *snapshot, _ *Request) { s.revision = "A" },
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Initializing  of A by run-2, epoch 3, " +
				"stable A, promoted A"}},
	})
}

func TestInitFence(t *testing.T) {
	checkPlans(t, begun, Request.initFence, []planned{
		{"the run before could still write", nil,
			[]string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] fence 2, " +
				"weight 100, weight 0",
				"patch Deployment/shop-primary [resourceVersion 5] fence 2, route " +
					"{\\service\\:\\shop\\,\\virtualService\\:\\shop\\}"}},
		{"the route is fenced off", weight(0, 2),
			[]string{"patch Deployment/shop-primary [resourceVersion 5] fence 2, route " +
				"{\\service\\:\\shop\\,\\virtualService\\:\\shop\\}"}},
		{"stable is fenced off", func(s *snapshot, _ *Request) {
			s.primary.Annotations[workload.FenceAnnotation] = "2"
		}, []string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] fence 2, " +
			"weight 100, weight 0"}},
		{"both are", fenced, nil},
		{"the candidate has traffic", weight(40, 1),
			[]string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] fence 2, " +
				"weight 100, weight 0",
				"patch Deployment/shop-primary [resourceVersion 5] fence 2, route " +
					"{\\service\\:\\shop\\,\\virtualService\\:\\shop\\}"}},
		{"the candidate has traffic, under the fence", func(s *snapshot, r *Request) {
			fenced(s, r)
			weight(40, 2)(s, r)
		}, []string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] fence 2, " +
			"weight 100, weight 0"}},
		{"the candidate was given traffic already", func(s *snapshot, r *Request) {
			fenced(s, r)
			weight(40, 2)(s, r)
			s.record.Phase = Progressing
		}, nil},
		{"no stable yet", func(s *snapshot, _ *Request) { s.primary = nil },
			[]string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] fence 2, " +
				"weight 0, weight 100"}},
		{"no pod of stable serves", func(s *snapshot, r *Request) {
			weight(40, 1)(s, r)
			s.primary = pods("shop-primary", "A", 2, 0)
		}, []string{"patch VirtualService/shop [resourceVersion 8 host shop-primary host shop-canary] fence 2, " +
			"weight 0, weight 100"}},
	})
}

// routed is a VirtualService of somebody else's that leads to one host.
func routed(s *snapshot, host string) {
	s.virtualService = &kube.Object{Object: map[string]any{
		"metadata": map[string]any{"name": "shop", "resourceVersion": "8"},
		"spec": map[string]any{"hosts": []any{"shop"}, "http": []any{map[string]any{"route": []any{
			map[string]any{"destination": map[string]any{"host": host}}}}}}}}
	_, s.splitError = routing.Find(s.virtualService, s.route)
	s.split = nil
}

func TestPlanLayout(t *testing.T) {
	lock := func(s *snapshot, r *Request) {
		firstRelease(s, r)
		s.record = r.begin(s)
		s.recordObject = &kube.Object{}
	}
	made := func(s *snapshot, r *Request) {
		lock(s, r)
		s.primary = pods("shop-primary", "B", 2, 2)
		s.primary.Annotations[workload.FenceAnnotation] = "1"
	}
	services := func(s *snapshot, r *Request) {
		made(s, r)
		s.primaryService, s.canaryService = service("shop-primary", "shop-primary"), service("shop-canary", "shop")
	}
	checkPlans(t, lock, Request.planLayout, []planned{
		{"nothing is there", nil,
			[]string{"create Deployment/shop-primary: Creating shop-primary.web out of shop, revision B"}},
		{"the selector has expressions", func(s *snapshot, _ *Request) { s.target.Spec.Selector = nil },
			[]string{"end as configuration: Deployment shop: its spec.selector must have matchLabels only"}},
		{"it mounts a ConfigMap", func(s *snapshot, _ *Request) {
			spec := field(s.target.object.Object, "spec", "template", "spec")
			spec["volumes"] = []any{map[string]any{"name": "c", "configMap": map[string]any{"name": "settings"}}}
			s.contents[workload.Mount{Kind: "ConfigMap", Name: "settings"}] = map[string]any{"data": map[string]any{}}
		}, []string{"create ConfigMap/settings-primary-B"}},
		{"stable is not up", func(s *snapshot, r *Request) {
			made(s, r)
			s.primary = pods("shop-primary", "B", 2, 1)
		}, []string{"wait for rollout of shop-primary at most 1m0s, then",
			"  end as rejected: shop-primary.web (stable) not ready within progressDeadlineSeconds=60: waiting for " +
				"rollout to finish: 1 of 2 (readyThreshold 100%) updated replicas are available"}},
		{"stable was made of an older revision", func(s *snapshot, r *Request) {
			made(s, r)
			s.primary = pods("shop-primary", "A", 2, 2)
		}, []string{"patch Deployment/shop-primary [fence 1] images [shop:B], replicas 2: Bringing shop-primary.web " +
			"to revision B"}},
		{"stable is up", made, []string{"create Service/shop-primary", "create Service/shop-canary"}},
		{"there is no Service at all", func(s *snapshot, r *Request) {
			made(s, r)
			s.service = nil
		}, []string{"create Service/shop-primary", "create Service/shop-canary", "create Service/shop"}},
		{"the Services are there", services,
			[]string{"wait for services at most 3s, then", "  create VirtualService/shop"}},
		{"a Service has another port by now", func(s *snapshot, r *Request) {
			services(s, r)
			spec := s.service.Object["spec"].(map[string]any)
			spec["ports"] = []any{map[string]any{"port": int64(81), "targetPort": int64(8080)}}
		}, []string{"patch Service/shop-primary [resourceVersion 6] ports [{port:81,targetPort:8080}]",
			"patch Service/shop-canary [resourceVersion 6] ports [{port:81,targetPort:8080}]"}},
		{"the route divides traffic", func(s *snapshot, r *Request) {
			services(s, r)
			weight(0, 1)(s, r)
		}, []string{"patch Service/shop [resourceVersion 6] selector {app:shop-primary}"}},
		{"stable was made of an older revision, and serves", func(s *snapshot, r *Request) {
			services(s, r)
			weight(0, 1)(s, r)
			s.primary = pods("shop-primary", "A", 2, 2)
		}, []string{"patch Service/shop [resourceVersion 6] selector {app:shop-primary}"}},
		{"stable was made of an older revision, and none of its pods serves", func(s *snapshot, r *Request) {
			services(s, r)
			weight(0, 1)(s, r)
			s.primary = pods("shop-primary", "A", 2, 0)
		}, []string{"patch Deployment/shop-primary [fence 1] images [shop:B], replicas 2: Bringing shop-primary.web " +
			"to revision B"}},
		{"the route leads to the Service", func(s *snapshot, r *Request) {
			services(s, r)
			routed(s, "shop")
		}, []string{"wait for services at most 3s, then",
			"  patch VirtualService/shop [resourceVersion 8] route " +
				"[{destination:{host:shop-primary},weight:100},{destination:{host:shop-canary},weight:0}]"}},
		{"the route leads elsewhere", func(s *snapshot, r *Request) {
			services(s, r)
			routed(s, "other")
		}, []string{"end as configuration: VirtualService shop: no HTTP route leads to exactly the destinations " +
			"shop-primary and shop-canary; it has http[0] \"\" -> other=100"}},
		{"all is there", func(s *snapshot, r *Request) {
			services(s, r)
			weight(0, 1)(s, r)
			s.service = service("shop", "shop-primary")
		}, nil},
	})
}

func TestInitEnd(t *testing.T) {
	checkPlans(t, fenced, Request.initEnd, []planned{
		{"the candidate is up", nil,
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Progressing  of B by run-2, epoch 2, " +
				"stable A, promoted A: Starting canary analysis for shop.web",
				"end as done: revision=B weight-1=20 weight-2=40 shop.web: revision B is up beside stable (revision " +
					"A); it will get [20 40] % of the traffic"}},
		{"its pods start", func(s *snapshot, _ *Request) { s.target = pods("shop", "B", 2, 1) },
			[]string{"wait for rollout of shop at most 1m0s, then",
				"  end as rejected: shop.web (candidate) not ready within progressDeadlineSeconds=60: waiting for " +
					"rollout to finish: 1 of 2 (readyThreshold 100%) updated replicas are available"}},
		{"it has too few pods", func(s *snapshot, _ *Request) { s.target = pods("shop", "B", 1, 1) },
			[]string{"patch Deployment/shop [resourceVersion 5] replicas 2"}},
		{"an autoscaler may take pods away", scaled(1, 10),
			[]string{"patch HorizontalPodAutoscaler/scale [resourceVersion 9] minReplicas 2",
				"patch HorizontalPodAutoscaler/scale-primary [resourceVersion 9] minReplicas 2"}},
		{"an autoscaler allows fewer pods than stable has", scaled(1, 1),
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Progressing  of B by run-2, epoch 2, " +
				"stable A, promoted A: Starting canary analysis for shop.web",
				"end as done: revision=B weight-1=20 weight-2=40 shop.web: revision B is up beside stable (revision " +
					"A); it will get [20 40] % of the traffic"}},
		{"an autoscaler keeps enough pods", scaled(2, 10),
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Progressing  of B by run-2, epoch 2, " +
				"stable A, promoted A: Starting canary analysis for shop.web",
				"end as done: revision=B weight-1=20 weight-2=40 shop.web: revision B is up beside stable (revision " +
					"A); it will get [20 40] % of the traffic"}},
		{"an autoscaler is another controller's", func(s *snapshot, r *Request) {
			scaled(1, 10)(s, r)
			owner := []metav1.OwnerReference{{Kind: "ScaledObject", Name: "shop", Controller: new(true)}}
			s.autoscaler.SetOwnerReferences(owner)
			s.primaryAutoscaler.SetOwnerReferences(owner)
		}, []string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Progressing  of B by run-2, epoch 2, " +
			"stable A, promoted A: Starting canary analysis for shop.web",
			"end as done: revision=B weight-1=20 weight-2=40 shop.web: revision B is up beside stable (revision A); " +
				"it will get [20 40] % of the traffic"}},
		{"an autoscaler came since the lock was taken", func(s *snapshot, r *Request) {
			scaled(2, 10)(s, r)
			s.record.Autoscaler, s.record.PrimaryAutoscaler = "", ""
		}, []string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Initializing  of B by run-2, epoch 2, " +
			"stable A, promoted A"}},
		{"it changed since the lock was taken", func(s *snapshot, _ *Request) { s.revision = "C" },
			[]string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Initializing  of C by run-2, epoch 2, " +
				"stable A, promoted A"}},
		{"it changed since it got traffic", func(s *snapshot, _ *Request) {
			s.revision, s.record.Phase = "C", Progressing
		}, []string{"end as undecided: shop.web: superseded: the target has revision C now, this release is of B"}},
		{"this step ran before", func(s *snapshot, _ *Request) { s.record.Phase = Progressing },
			[]string{"end as done: revision=B weight-1=20 weight-2=40 shop.web: revision B is up beside stable " +
				"(revision A); it will get [20 40] % of the traffic"}},
		{"somebody went back to what stable runs", func(s *snapshot, _ *Request) {
			s.revision, s.target = "A", pods("shop", "A", 0, 0)
		}, []string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Succeeded unchanged of B by run-2, " +
			"epoch 2, stable A, promoted A",
			"end as done: outcome=unchanged revision=A shop.web is unchanged: stable runs revision A already; " +
				"warning: the pod template of shop-primary was edited since, by somebody: its pods are not what was " +
				"judged. Release another revision, or put it back"}},
		{"a first release", func(s *snapshot, _ *Request) {
			s.record.Stable, s.primary = Version{}, pods("shop-primary", "B", 2, 2)
		}, []string{"wait for stable takes over at most 3s, then",
			"  patch Deployment/shop [resourceVersion 5] replicas 0"}},
		{"a first release whose target is scaled down", func(s *snapshot, _ *Request) {
			s.record.Stable, s.primary, s.target = Version{}, pods("shop-primary", "B", 2, 2), pods("shop", "B", 0, 0)
		}, []string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Succeeded initialized of B by run-2, " +
			"epoch 2, stable B, promoted B: Initialization done! shop.web",
			"end as done: outcome=initialized revision=B shop.web is initialized: stable runs revision B and has " +
				"all the traffic; the next revision will be a canary release"}},
		{"mode prepare", func(s *snapshot, r *Request) {
			r.Config.Mode, s.primary = config.Prepare, pods("shop-primary", "B", 2, 2)
		}, []string{"patch ConfigMap/shop-canary-release [resourceVersion 7] Succeeded initialized of B by , epoch " +
			"2, stable B, promoted B: Initialization done! shop.web",
			"end as done: outcome=initialized revision=B shop.web is prepared: stable runs revision B and has all " +
				"the traffic, and Service shop stays when its chart no longer has it. Apply the chart with its " +
				"canary turned on next, and then release it"}},
	})
}
