package release

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/routing"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// noon is when all snapshots are taken.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// edit changes a snapshot, or what the step was asked for.
type edit func(*snapshot, *Request)

// seen is a snapshot of a release of shop in namespace web, as data: run-2 releases revision B,
// stable runs A, both are up with two pods, and the candidate has 20 % of the traffic.
func seen() *snapshot {
	s := &snapshot{
		now: noon, namespace: "web", layout: workload.Layout{Target: "shop", Service: "shop", VirtualService: "shop"},
		route:    routing.Route{Target: "shop", Stable: "shop-primary", Candidate: "shop-canary"},
		revision: "B", contents: workload.Contents{}, copies: map[string]bool{},
		service: service("shop", "shop-primary"), primaryService: service("shop-primary", "shop-primary"),
		canaryService: service("shop-canary", "shop"),
		target:        pods("shop", "B", 2, 2), primary: pods("shop-primary", "A", 2, 2),
		recordObject: &kube.Object{Object: map[string]any{"metadata": map[string]any{"resourceVersion": "7"}}},
		record: &Record{
			Holder: "run-2", Run: "run-2", Before: []string{"run-1"}, Epoch: 2, Phase: Progressing,
			Expires: noon.Add(time.Hour), Config: *configured(),
			Shifts: []Shift{{Weight: 20, At: noon.Add(-time.Minute)}}},
	}
	s.record.Stable, s.record.Candidate = s.stable(), s.candidate()
	s.record.Promoted = Version{Revision: "A"}
	weight(20, 2)(s, nil)
	return s
}

// configured is the configuration of the release.
func configured() *config.Config {
	cfg := testConfig("run-2")
	cfg.Drain.Duration, cfg.ProgressDeadline.Duration = 3*time.Second, time.Minute
	return cfg
}

// pods are a Deployment that runs a revision, and how many of its pods serve.
func pods(name, revision string, replicas, available int) *deployment {
	d := &deployment{Deployment: &appsv1.Deployment{}, object: &kube.Object{Object: map[string]any{
		"metadata": map[string]any{"name": name, "resourceVersion": "5"},
		"spec": map[string]any{
			"replicas": int64(replicas), "selector": map[string]any{"matchLabels": map[string]any{"app": name}},
			"template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"app": name}},
				"spec": map[string]any{"containers": []any{map[string]any{
					"name": "app", "image": "shop:" + revision,
					"ports": []any{map[string]any{"containerPort": int64(8080)}}}}}}},
		"status": map[string]any{
			"replicas": int64(replicas), "updatedReplicas": int64(replicas), "availableReplicas": int64(available)}}}}
	if name != "shop" {
		d.object.SetAnnotations(map[string]string{workload.FenceAnnotation: "2"})
		d.object.SetLabels(map[string]string{workload.TargetLabel: "shop"})
		template := field(d.object.Object, "spec", "template")
		template["metadata"].(map[string]any)["annotations"] = map[string]any{workload.RevisionAnnotation: revision}
	}
	if err := kube.Decode(d.object.Object, d.Deployment); err != nil {
		panic(err)
	}
	return d
}

// service is a Service of releases that selects an application's pods.
func service(name, app string) *kube.Object {
	return &kube.Object{Object: map[string]any{
		"metadata": map[string]any{
			"name": name, "resourceVersion": "6", "labels": map[string]any{workload.TargetLabel: "shop"}},
		"spec": map[string]any{
			"selector": map[string]any{"app": app},
			"ports":    []any{map[string]any{"port": int64(80), "targetPort": int64(8080)}}}}}
}

// weight gives the candidate a share of the traffic, under the fence of an epoch.
func weight(candidate int32, epoch int64) edit {
	return func(s *snapshot, _ *Request) {
		body := routing.New([]string{"shop"}, []string{"mesh"}, s.route,
			map[string]any{workload.TargetLabel: "shop"}, epoch)
		metadata := body["metadata"].(map[string]any)
		metadata["name"], metadata["resourceVersion"] = "shop", "8"
		s.virtualService = &kube.Object{Object: body}
		var as map[string]any // with the types that JSON has
		if err := kube.Decode(body, &as); err != nil {
			panic(err)
		}
		s.virtualService.Object = as
		route := as["spec"].(map[string]any)["http"].([]any)[0].(map[string]any)["route"].([]any)
		route[0].(map[string]any)["weight"], route[1].(map[string]any)["weight"] = int64(100-candidate),
			int64(candidate)
		split, err := routing.Find(s.virtualService, s.route)
		if err != nil {
			panic(err)
		}
		s.split = &split
	}
}

// described is a plan as lines of text: a line a write, with its guards in brackets, and what it
// says once it is done. Of two weights stable's comes first.
func described(p plan) []string {
	var lines []string
	for _, w := range p.writes {
		lines = append(lines, describedWrite(w))
	}
	if p.wait != nil {
		lines = append(lines, fmt.Sprintf("wait for %s at most %s, then", p.wait.key, p.wait.limit))
		for _, line := range described(p.wait.then) {
			lines = append(lines, "  "+line)
		}
	}
	if p.done != nil {
		results := ""
		for _, name := range slices.Sorted(maps.Keys(p.done.results)) {
			if value := p.done.results[name]; value != "" {
				results += " " + name + "=" + value
			}
		}
		lines = append(lines, fmt.Sprintf("end as %s:%s %s", report.Codes[p.done.code].Name, results, p.done.text))
	}
	return lines
}

func describedWrite(w kube.Write) string {
	say := ""
	if w.Say != "" {
		say = ": " + w.Say
	}
	switch {
	case w.Delete:
		return "delete " + w.String() + say
	case w.Create != nil:
		return "create " + w.String() + say
	}
	var guards, changes []string
	for _, o := range w.Patch {
		guard, change := describedOperation(w.Kind, o)
		if guard != "" {
			guards = append(guards, guard)
		}
		if change != "" {
			changes = append(changes, change)
		}
	}
	return fmt.Sprintf("patch %s %v %s%s", w, guards, strings.Join(changes, ", "), say)
}

// describedOperation is what an operation tests, or what it changes.
func describedOperation(kind kube.Kind, o kube.Operation) (guard, change string) {
	name := o.Path[strings.LastIndex(o.Path, "/")+1:]
	if _, after, found := strings.Cut(name, "~1"); found {
		name = after
	}
	switch {
	case o.Op == "test":
		return fmt.Sprintf("%s %v", name, o.Value), ""
	case o.Op == "remove":
		return "", "remove " + name
	case name == recordKey:
		return "", describedRecord(o.Value.(string))
	case name == "template":
		return "", fmt.Sprint("images ", workload.Template(template(o.Value)).Images())
	case name == "annotations", name == previousKey, name == "strategy":
		return "", ""
	case kind == kube.HorizontalPodAutoscaler && name == "spec":
		spec := o.Value.(map[string]any)
		return "", fmt.Sprintf("keeps %v to %v", spec["minReplicas"], spec["maxReplicas"])
	}
	value, err := json.Marshal(o.Value)
	if err != nil {
		panic(err)
	}
	return "", name + " " + strings.ReplaceAll(string(value), `"`, "")
}

func template(value any) (t map[string]any) {
	b, err := json.Marshal(value)
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil {
		panic(err)
	}
	return t
}

// describedRecord is what a record says of how far its release is.
func describedRecord(text string) string {
	var r Record
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		panic(err)
	}
	said := fmt.Sprintf("%s %s of %s by %s, epoch %d, stable %s, promoted %s", r.Phase, r.Outcome, r.Candidate.Revision,
		r.Holder, r.Epoch, r.Stable.Revision, r.Promoted.Revision)
	if len(r.Shifts) > 0 {
		said += fmt.Sprintf(", weight %d", r.Shifts[len(r.Shifts)-1].Weight)
	}
	if r.Interrupted {
		said += ", interrupted"
	}
	return said
}

// planned is a case of a plan's table.
type planned struct {
	desc string
	edit edit
	want []string
}

// checkPlans compares what a step plans with what it should.
func checkPlans(t *testing.T, base edit, next func(Request, *snapshot) plan, cases []planned) {
	t.Helper()
	t.Parallel()
	for _, c := range cases {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			s, r := seen(), &Request{
				Step: config.Step{Target: "shop", Namespace: "web", RunID: "run-2", RunName: "run-2"}}
			base(s, r)
			if c.edit != nil {
				c.edit(s, r)
			}
			if diff := cmp.Diff(c.want, described(next(*r, s))); diff != "" {
				t.Errorf("(-want, +got)\n%s", diff)
			}
		})
	}
}
