package release

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sethvargo/go-envconfig"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// accounts are those of the steps where each has its own.
var accounts = map[string]string{
	config.ShiftWeight: "canary-shift-weight", config.Analyze: "canary-analyze", config.Promote: "canary-promote",
	config.Rollback: "canary-rollback"}

// Where the steps have accounts of their own, each is asked for what its step needs and no more, in
// one report with what else is wrong.
func TestAccountsOfOtherSteps(t *testing.T) {
	t.Parallel()
	const runs = "pipelines"
	for _, c := range []struct {
		desc     string
		accounts map[string]string
		denied   []string
		want     []string // in the report; none: it begins
		not      string
	}{
		{"all have what they need", accounts, nil, nil, ""},
		{"canary-init may not do what the others may", accounts,
			[]string{"list configmaps", "delete configmaps", "list replicasets", "get horizontalpodautoscalers"}, nil,
			""},
		{"they may not do what canary-init may", accounts,
			[]string{"pipelines:canary-promote create deployments", "pipelines:canary-analyze patch services"}, nil,
			""},
		{"one may not do what its step needs", accounts,
			[]string{"pipelines:canary-promote patch services", "pipelines:canary-rollback delete configmaps",
				"create services"}, []string{
				"3 mistakes", "ServiceAccount pipelines/canary-promote may not patch services in namespace web, " +
					"which promote needs for where the Service leads",
				"ServiceAccount pipelines/canary-rollback may not delete configmaps in namespace web",
				"the ServiceAccount of this run may not create services in namespace web, which canary-init needs"},
			""},
		{"one has the account of this step", map[string]string{config.Promote: "canary-promote"},
			[]string{"list configmaps", "pipelines:canary-promote list replicasets"}, []string{
				"2 mistakes", "the ServiceAccount of this run may not list configmaps in namespace " +
					"web, which rollback needs", "name it in stepAccounts",
				"ServiceAccount pipelines/canary-promote may not list replicasets"}, ""},
		{"all have one account", nil, []string{"delete configmaps"}, []string{
			"a mistake;", "the ServiceAccount of this run may not delete configmaps in namespace web, which " +
				"promote, rollback needs"}, ""},
		{"this step may not ask for them", accounts, []string{"create localsubjectaccessreviews"}, []string{
			"5 mistakes", "may not create localsubjectaccessreviews.authorization.k8s.io in namespace web",
			"bind the Role canary-init-reviews",
			"what ServiceAccount canary-promote may do could not be asked"}, "patch services"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			a := newAPIServer(t, settings, shopService, shop("1"))
			for _, denied := range c.denied {
				a.denied[denied] = true
			}
			cfg := testConfig("run-1")
			cfg.StepAccounts, cfg.RunNamespace = c.accounts, runs
			err := a.initWith(cfg)
			if c.want == nil {
				must(t, err)
			}
			for _, want := range c.want {
				wantCode(t, err, report.Misconfig, want)
			}
			if err != nil && c.not != "" && strings.Contains(err.Error(), c.not) {
				t.Errorf("%v\nsays %s", err, c.not)
			}
			asked, want := map[string]bool{}, map[string]bool{}
			for _, review := range a.reviews() {
				asked[review] = true
			}
			for _, account := range c.accounts {
				want["system:serviceaccount:pipelines:"+account+
					" [system:serviceaccounts system:serviceaccounts:pipelines system:authenticated] web"] = true
			}
			if diff := cmp.Diff(want, asked); diff != "" && !a.denied["create localsubjectaccessreviews"] {
				t.Errorf("asked for (-want, +got)\n%s", diff)
			}
		})
	}
}

// Copies of Secrets go with their revisions, as those of ConfigMaps do, and by the accounts of the
// steps that have to.
func TestCopiesOfSecrets(t *testing.T) {
	t.Parallel()
	of := func(version string) string {
		return strings.Replace(shop(version), "[{configMapRef", "[{secretRef: {name: keys}}, {configMapRef", 1)
	}
	a := newAPIServer(
		t, settings, shopService, of("1"), "{kind: Secret, metadata: {name: keys}, data: {key: c2VjcmV0}}")
	must(t, a.init("run-1"))
	first := a.revision("shop-primary")
	copies := func(desc string, want ...string) {
		t.Helper()
		got := 0
		for key := range a.objects {
			if strings.HasPrefix(key, "secrets/keys-primary-") {
				got++
			}
		}
		for _, revision := range want {
			if a.objects["secrets/keys-primary-"+revision] == nil {
				t.Errorf("%s: there is no copy for revision %s", desc, revision)
			}
		}
		if got != len(want) {
			t.Errorf("%s: %d copies, want %d", desc, got, len(want))
		}
	}
	release := func(version string, end func(string) error) {
		t.Helper()
		run := "run-" + version
		a.apply(of(version))
		// which was judged already
		must(t, a.init(run), a.shift(run, 20), a.judge(run), a.step("analyze", run).Analyze(t.Context()),
			a.shift(run, 40), a.judge(run), end(run))
	}
	copies("first", first)
	release("2", a.rollback)
	copies("a candidate's is removed with it", first)
	release("3", a.promote)
	third := a.revision("shop-primary")
	copies("stable can go back", first, third)
	for key := range a.objects { // the history is over its limit
		if strings.HasPrefix(key, "replicasets/") && strings.HasSuffix(key, "-"+first) {
			delete(a.objects, key)
		}
	}
	release("4", a.promote)
	copies("what no revision mounts is removed", third, a.revision("shop-primary"))
}

// Stable has grown since the candidate came up: its autoscaler keeps the pods that its weight
// needs.
func TestPodsForTheWeightWithAutoscaler(t *testing.T) {
	t.Parallel()
	a := newAPIServer(t, settings, shopService, shop("1"), autoscaler)
	must(t, a.init("run-1"))
	a.apply(shop("2"))
	must(t, a.init("run-2"))
	a.mu.Lock()
	stable := a.objects["deployments/shop-primary"]
	stable["spec"].(map[string]any)["replicas"] = 9
	a.put("deployments/shop-primary", stable)
	a.mu.Unlock()
	must(t, a.shift("run-2", 20), a.judge("run-2"), a.shift("run-2", 40))
	if got := fmt.Sprint(
		a.objects["horizontalpodautoscalers/scale"]["spec"].(map[string]any)["minReplicas"]); got != "4" {
		t.Errorf("the candidate's autoscaler keeps %s pods", got)
	}
	must(t, a.rollback("run-2"))
	a.wantNoFloors("rolled back", "scale", "scale-primary")
}

// The query of a MetricTemplate takes the place of a reference to it.
func TestFollowsMetricTemplates(t *testing.T) {
	t.Parallel()
	const metrics = "analysis: {metrics: [{name: queue, thresholdRange: {max: 1}, templateRef: {name: queue}}]}"
	a := newAPIServer(t, strings.Replace(shopCanary, "analysis: {stepWeight: 20}", metrics, 1),
		"{apiVersion: flagger.app/v1beta1, kind: MetricTemplate, metadata: {name: queue}, spec: {provider: {type: "+
			"prometheus}, query: max(queue)}}")
	lookup, problems := a.step("canary-init", "run-1").specification(
		t.Context(), envconfig.MapLookuper(map[string]string{"CANARY_CANARY": "shop"}))
	if text, _ := lookup.Lookup("CANARY_SPEC"); len(problems) > 0 || !strings.Contains(text, "query: max(queue)") {
		t.Errorf("%s\n%v", text, problems)
	}
}
