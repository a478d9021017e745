package engine

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/prometheus/promql"
)

// dashboard is the part of examples/grafana/canary.json that Prometheus has to do with.
type dashboard struct {
	Templating struct {
		List []struct {
			Name, Type, Regex string
			Query             any // of a datasource its type, else a query
		}
	}
	Panels []panel
}

type panel struct {
	Type, Title, Description string
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct{ Expr, LegendFormat string }
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	text, err := os.ReadFile("../../examples/grafana/canary.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// chosen are the variables as somebody chose them who watches shop in web.
var chosen = strings.NewReplacer(
	"$__rate_interval", "1m", "$namespace", "web", "$primary", "shop-primary", "$canary", "shop")

func (p *prometheus) vector(query string) promql.Vector {
	p.t.Helper()
	q, err := p.engine.NewInstantQuery(p.t.Context(), p.store, nil, query, p.now)
	if err != nil {
		p.t.Fatalf("%s: %v", query, err)
	}
	p.t.Cleanup(q.Close)
	result := q.Exec(p.t.Context())
	vector, err := result.Vector()
	if err != nil || len(result.Warnings) > 0 {
		p.t.Fatalf("%s: %v, warnings %v", query, err, result.Warnings)
	}
	return vector
}

var label = regexp.MustCompile(`{{(\w+)}}`)

// shown is what a panel shows: its values by their names in the legend.
func (p *prometheus) shown(of panel) map[string]float64 {
	p.t.Helper()
	all := map[string]float64{}
	for _, target := range of.Targets {
		for _, sample := range p.vector(chosen.Replace(target.Expr)) {
			name := label.ReplaceAllStringFunc(chosen.Replace(target.LegendFormat), func(s string) string {
				if !sample.Metric.Has(strings.Trim(s, "{}")) {
					p.t.Errorf("%s: the legend asks for %s, and there is only %s", of.Title, s, sample.Metric)
				}
				return sample.Metric.Get(strings.Trim(s, "{}"))
			})
			if _, twice := all[name]; twice {
				p.t.Errorf("%s has two series named %s", of.Title, name)
			}
			all[name] = sample.F
		}
	}
	return all
}

// each is a scrape every 5 s for five minutes, in each of which a counter grew by so much.
func each(growth float64) []float64 {
	var points []float64
	for i := range 60 {
		points = append(points, 297-5*float64(i), growth*float64(i))
	}
	return points
}

// elsewhere is the same in another namespace.
func elsewhere(s series) series {
	l := slices.Clone(s.labels)
	for i := range l {
		if l[i] == "web" {
			l[i] = "other"
		}
	}
	return series{l, s.points}
}

// usage is what cAdvisor exports of a pod with a proxy, the pod's cgroup with the sum of both
// included.
func usage(pod string, cores, bytes float64) []series {
	var all []series
	for container, share := range map[string]float64{"app": .75, "istio-proxy": .25, "": 1} {
		l := []string{"namespace", "web", "pod", pod, "container", container}
		all = append(all, series{
			append([]string{"__name__", "container_cpu_usage_seconds_total"}, l...), each(5 * cores * share)},
			series{append([]string{"__name__", "container_memory_working_set_bytes"}, l...),
				[]float64{2, bytes * share}})
	}
	return all
}

// release is what Prometheus has in the middle of one: of 100 requests/s a fifth goes to the
// candidate, which fails a tenth of its own and is slower; beside it there are others that nothing
// is to be shown of.
func release() []series {
	cart := []string{"source_workload", "cart", "source_workload_namespace", "web", "grpc_response_status", ""}
	stable, good, bad := got("p", "shop-primary", "200", each(400), cart...), got(
		"q", "shop", "200", each(90), cart...), got("q", "shop", "503", each(10), cart...)
	all := []series{
		stable, good, bad, sent("cart", "shop-primary", "200", each(400)), sent("cart", "shop-canary", "200", each(90)),
		sent("cart", "shop-canary", "503", each(10)),
		sent("shop-primary", "db", "200", each(800)), sent("shop", "db", "200", each(100)),
		sent("shop", "db", "404", each(50)),
		got("q", "shop", "0", each(5), "source_workload", "impatient", "source_workload_namespace", "web"),
		got("r", "cart", "500", each(70), "source_workload", "shop-primary-cart", "source_workload_namespace", "web"),
		sent("web", "cart", "500", each(70)),
		elsewhere(stable), elsewhere(bad), elsewhere(sent("shop", "db", "500", each(30))),
		elsewhere(sent("cart", "shop-canary", "200", each(900))),
	}
	for le, share := range map[string]float64{"50": 0, "100": .5, "250": .9, "500": .99, "1000": 1, "+Inf": 1} {
		all = append(all, took(stable, milliseconds, le, each(400*share)),
			took(elsewhere(bad), milliseconds, le, each(400*share)))
	}
	for le, share := range map[string]float64{
		"50": 0, "100": 0, "250": .5, "500": .9, "1000": .99, "2500": 1, "+Inf": 1} {
		all = append(all, took(good, milliseconds, le, each(100*share)))
	}
	for pod, cores := range map[string]float64{
		"shop-primary-6d4f8b5c9-x7k2p": .4, "shop-primary-6d4f8b5c9-bq9zd": .2, "shop-7c9d5f6b84-m4w8s": .5,
		"shop-admin-5f6d7c8b9-aaaaa": 7} {
		all = append(all, usage(pod, cores, cores*1e9)...)
	}
	return all
}

// Every panel shows both versions of a release, with the right values, and nothing of others.
func TestDashboard(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.put(release()...)
	both := func(stable, candidate float64) map[string]float64 {
		return map[string]float64{"shop-primary": stable, "shop": candidate}
	}
	want := map[string]map[string]float64{
		"Weight of the candidate": {"callers": .2, "pods": 21. / 101},
		"Failures and the limit": {
			"shop-primary, callers": 0, "shop, callers": .1, "shop-primary, pods": 0, "shop, pods": .1},
		"Request volume":        both(80, 21),
		"Success rate":          both(1, .9),
		"Request duration, P50": both(100, 250),
		"Request duration, P90": both(250, 500),
		"Request duration, P99": both(500, 1000),
		"CPU of a pod":          both(.3, .5),
		"Memory of a pod":       both(3e8, 5e8),
		"Incoming requests": {
			"cart to shop-primary: 200": 80, "cart to shop: 200": 18, "cart to shop: 503": 2,
			"impatient to shop: 0": 1},
		"Outgoing requests": {
			"shop-primary to db.web.svc.cluster.local: 200": 160, "shop to db.web.svc.cluster.local: 200": 20,
			"shop to db.web.svc.cluster.local: 404": 10},
	}
	shown := map[string]map[string]float64{}
	for _, panel := range readDashboard(t).Panels {
		if panel.Title == "" || panel.Type != "row" && panel.Description == "" || panel.Targets != nil &&
			panel.FieldConfig.Defaults.Unit == "" {
			t.Errorf("a panel has no title, description or unit: %+v", panel)
		}
		if panel.Targets != nil {
			shown[panel.Title] = p.shown(panel)
		}
	}
	if diff := cmp.Diff(want, shown, cmpopts.EquateApprox(1e-9, 1e-9)); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
}

// A version that answers nothing but errors has a success rate of 0, not none.
func TestDashboardAllFailing(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.put(got("q", "shop", "503", each(10)), sent("cart", "shop-canary", "200", each(10), "grpc_response_status", "14"))
	want := map[string]map[string]float64{
		"Success rate": {"shop": 0}, "Failures and the limit": {"shop, callers": 1, "shop, pods": 1}}
	shown := map[string]map[string]float64{}
	for _, panel := range readDashboard(t).Panels {
		if want[panel.Title] != nil {
			shown[panel.Title] = p.shown(panel)
		}
	}
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
}

// The variables are those of Flagger's dashboard, and each offers what there is.
func TestDashboardVariables(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.put(release()...)
	values := regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)
	want := [][]string{
		{"datasource", "prometheus"}, {"namespace", "other", "web"}, {"primary", "shop-primary"}, {"canary", "shop"}}
	var offered [][]string
	for _, v := range readDashboard(t).Templating.List {
		if v.Type == "datasource" {
			offered = append(offered, []string{v.Name, v.Query.(string)})
			continue
		}
		query, _ := v.Query.(map[string]any)["query"].(string)
		parts := values.FindStringSubmatch(query)
		if parts == nil {
			t.Fatalf("%s: %s", v.Name, query)
		}
		filter := regexp.MustCompile(strings.Trim(v.Regex, "/"))
		var names []string
		for _, sample := range p.vector("group by (" + parts[2] + ") (" + chosen.Replace(parts[1]) + ")") {
			if m := filter.FindStringSubmatch(sample.Metric.Get(parts[2])); v.Regex == "" {
				names = append(names, sample.Metric.Get(parts[2]))
			} else if m != nil {
				names = append(names, m[len(m)-1]) // Grafana takes the group
			}
		}
		slices.Sort(names)
		offered = append(offered, append([]string{v.Name}, names...))
	}
	if diff := cmp.Diff(want, offered); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
}
