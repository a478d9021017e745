package config

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sethvargo/go-envconfig"

	"github.com/canary-tasks/canary-tasks/lib/canary"
)

// environment is what a Task passes: every parameter of the step, those that were not given as
// empty variables.
func environment(step string, values ...string) envconfig.Lookuper {
	env := map[string]string{}
	for _, p := range Of(step) {
		env[p.Env()] = ""
		if !strings.HasPrefix(p.Default, "$(") {
			env[p.Env()] = p.Default
		}
	}
	env["CANARY_TARGET"], env["CANARY_NAMESPACE"] = "shop", "web"
	env["CANARY_RUN_ID"], env["CANARY_RUN_NAME"] = "4711", "run-1"
	for i := 0; i < len(values); i += 2 {
		env[values[i]] = values[i+1]
	}
	return envconfig.MapLookuper(env)
}

func TestLoadInit(t *testing.T) {
	t.Parallel()
	seconds := func(n int) Duration { return Duration{time.Duration(n) * time.Second} }
	want := Config{
		Namespace: "web", Target: "shop", Service: "shop", Hosts: []string{"shop"}, Gateways: []string{"mesh"},
		VirtualService: "shop",
		Interval:       seconds(60), Threshold: 5, Weights: []Percent{20, 40, 60}, MaxSteps: 10,
		ProgressDeadline: seconds(600), ReadyThreshold: 100,
		SuccessRate: 99, RequestDuration: Duration{500 * time.Millisecond}, Alpha: 0.05, Baseline: "limits",
		Prometheus: "http://prometheus.istio-system:9090", Drain: seconds(5),
		Deadline: seconds(3000), OnBusy: "wait", Takeover: true, RunID: "4711", RunName: "run-1",
		Git: Git{Mode: "pull-request", Environment: "production"},
	}
	got, err := LoadInit(t.Context(), environment(CanaryInit))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
	b, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var back Config
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	got.Git = Git{} // rollback has it from its own parameters
	if diff := cmp.Diff(got, back); diff != "" {
		t.Errorf("out of the record (-want, +got)\n%s", diff)
	}
}

func TestWeights(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc   string
		values []string
		want   []Percent
	}{
		{"as Flagger: the last one reaches maxWeight", []string{"CANARY_STEP_WEIGHT", "20", "CANARY_MAX_WEIGHT", "50"},
			[]Percent{20, 40, 60}},
		{"never over 100", []string{"CANARY_STEP_WEIGHT", "40", "CANARY_MAX_WEIGHT", "100"}, []Percent{40, 80, 100}},
		{"a step over the default maximum", []string{"CANARY_STEP_WEIGHT", "70"}, []Percent{70}},
		{"one by one", []string{"CANARY_STEP_WEIGHTS", "1, 5,50"}, []Percent{1, 5, 50}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			got, err := LoadInit(t.Context(), environment(CanaryInit, c.values...))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got.Weights); diff != "" {
				t.Errorf("(-want, +got)\n%s", diff)
			}
		})
	}
}

// What people may write, and what it is read as.
func TestLists(t *testing.T) {
	t.Parallel()
	got, err := LoadInit(
		t.Context(), environment(
			CanaryInit, "CANARY_HOSTS", "shop, *.example.com,*", "CANARY_GATEWAYS", "mesh,web/front",
			"CANARY_ACCEPT_UNCOVERED", "PodDisruptionBudget/keep", "CANARY_PORT", "http", "CANARY_REQUEST_SUCCESS_RATE",
			"99.5", "CANARY_REQUEST_DURATION", "off"))
	if err != nil {
		t.Fatal(err)
	}
	type read struct {
		Hosts, Gateways, Accept []string
		Port                    string
		Rate                    float64
		Duration                time.Duration
	}
	want := read{[]string{"shop", "*.example.com", "*"}, []string{"mesh", "web/front"},
		[]string{"PodDisruptionBudget/keep"}, "http", 99.5, 0}
	for hosts, want := range map[string][]string{
		"": {"shop"}, "shop.example.com": {"shop.example.com", "shop"},
		"shop.web.svc.cluster.local":   {"shop.web.svc.cluster.local"},
		"shop.web.svc.k8s.example.com": {"shop.web.svc.k8s.example.com"},
		"shop.website.com":             {"shop.website.com", "shop"}} {
		if c, err := LoadInit(t.Context(), environment(CanaryInit, "CANARY_HOSTS", hosts)); err != nil ||
			!slices.Equal(c.Hosts, want) {
			t.Errorf("hosts %q are %v, want %v: %v", hosts, c.Hosts, want, err)
		}
	}
	if c, err := LoadInit(
		t.Context(), environment(
			CanaryInit, "CANARY_HOSTS", "shop.example.com", "CANARY_GATEWAYS", "front")); err != nil ||
		len(c.Hosts) != 1 {
		t.Errorf("hosts of a gateway alone are %v: %v", c.Hosts, err)
	}
	if diff := cmp.Diff(
		want, read{got.Hosts, got.Gateways, got.AcceptUncovered, got.Port, got.SuccessRate,
			got.RequestDuration.Duration}); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
}

// A specification gives what the environment does not.
func TestSpecification(t *testing.T) {
	t.Parallel()
	spec := "{apiVersion: flagger.app/v1beta1, kind: Canary, spec: {targetRef: {kind: Deployment, name: shop}, " +
		"service: {port: 80, retries: {attempts: 2}}, " +
		"analysis: {interval: 30s, threshold: 3, stepWeight: 10, maxWeight: 30, metrics: [{name: " +
		"request-success-rate, thresholdRange: {min: 98}}, {name: queue, query: max(queue), " +
		"thresholdRange: {max: 5}}]}}}"
	type read struct {
		Interval  time.Duration
		Threshold int
		Weights   []Percent
		Rate      float64
		Duration  time.Duration
		Metrics   int
		Port      string
		Warnings  []string
	}
	for _, c := range []struct {
		desc   string
		values []string
		want   read
	}{
		{"alone", nil, read{
			30 * time.Second, 3, []Percent{10, 20, 30}, 98, 0, 1, "80",
			[]string{"spec.service.retries is not acted on"}}},
		{"parameters are stronger",
			[]string{"CANARY_INTERVAL", "20s", "CANARY_STEP_WEIGHTS", "5,50", "CANARY_REQUEST_DURATION", "1s"},
			read{20 * time.Second, 3, []Percent{5, 50}, 98, time.Second, 1, "80",
				[]string{"spec.service.retries is not acted on"}}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			defaults := []string{"CANARY_SPEC", spec} // a Task passes no default for what a specification may give
			for _, p := range Of(CanaryInit) {
				if !strings.HasPrefix(p.Default, "$(") && p.TaskDefault() != p.Default {
					defaults = append(defaults, p.Env(), "")
				}
			}
			got, err := LoadInit(t.Context(), environment(CanaryInit, append(defaults, c.values...)...))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(
				c.want, read{got.Interval.Duration, got.Threshold, got.Weights, got.SuccessRate,
					got.RequestDuration.Duration, len(got.Metrics), got.Port, got.Warnings}); diff != "" {
				t.Errorf("(-want, +got)\n%s", diff)
			}
		})
	}
}

// The longest that can be given still has a sum.
func TestLongest(t *testing.T) {
	t.Parallel()
	c := Config{Interval: Duration{day}, Threshold: 1000, Weights: make([]Percent, 100),
		ProgressDeadline: Duration{day}, Drain: Duration{day}}
	if got, want := c.Longest(), 100*1001*day+4*day; got != want {
		t.Errorf("%v, want %v", got, want)
	}
}

// A value is never more than its line of the report.
func TestAValueIsOneLine(t *testing.T) {
	t.Parallel()
	for _, p := range Of(CanaryInit) {
		if _, err := LoadInit(
			t.Context(), environment(CanaryInit, p.Env(), strings.Repeat("a", 60)+"\nforged")); err != nil &&
			strings.Contains(err.Error(), "\nforged") {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
}

// Every mistake is named with its parameter, its value and what would be right.
func TestLoadInitRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc   string
		values []string
		want   string
	}{
		{"no target", []string{"CANARY_TARGET", ""}, "parameter target is missing: give the name of the Deployment"},
		{"no DNS label", []string{"CANARY_TARGET", "Shop_1"},
			`parameter target is "Shop_1": give a name of at most 63`},
		{"too long with -primary", []string{"CANARY_TARGET", strings.Repeat("a", 56)},
			"give a name of at most 55 characters"},
		{"no run", []string{"CANARY_RUN_ID", ""}, "parameter runId is missing"},
		{"a duration without unit", []string{"CANARY_INTERVAL", "60"},
			`parameter interval is "60": give a duration with its unit`},
		{"a threshold of zero", []string{"CANARY_THRESHOLD", "0"},
			`parameter threshold is "0": give a whole number of checks from 1`},
		{"octal", []string{"CANARY_THRESHOLD", "010"},
			`parameter threshold is "010": give a whole number of checks from 1 to 1000, without leading zeros`},
		{"not a number", []string{"CANARY_REQUEST_SUCCESS_RATE", "NaN"},
			`parameter requestSuccessRate is "NaN": give a percentage above 0 and up to 100, or off`},
		{"a success rate of nothing", []string{"CANARY_REQUEST_SUCCESS_RATE", "0"},
			`parameter requestSuccessRate is "0": give a percentage above 0 and up to 100, or off`},
		{"more than all", []string{"CANARY_REQUEST_SUCCESS_RATE", "100.1"},
			`parameter requestSuccessRate is "100.1": give a percentage above 0 and up to 100, or off`},
		{"an octal percentage", []string{"CANARY_REQUEST_SUCCESS_RATE", "010"},
			`parameter requestSuccessRate is "010"`},
		{"a percentage with an exponent", []string{"CANARY_REQUEST_SUCCESS_RATE", "9e1"},
			`parameter requestSuccessRate is "9e1"`},
		{"infinite", []string{"CANARY_REQUEST_SUCCESS_RATE", "Inf"}, `parameter requestSuccessRate is "Inf"`},
		{"a specification of something else",
			[]string{"CANARY_SPEC",
				"{apiVersion: flagger.app/v1beta1, kind: Canary, spec: {targetRef: {name: cart}, " +
					"analysis: {metrics: []}}}"},
			`parameter target is "shop": the specification is of Deployment cart`},
		{"a specification that is misspelt",
			[]string{"CANARY_SPEC",
				"{apiVersion: flagger.app/v1beta1, kind: Canary, spec: {analysis: {intervall: 1m}}}"},
			"spec.analysis.intervall: there is no such field, the nearest is interval"},
		{"a specification that is turned off", []string{"CANARY_SPEC", "{canary: {enabled: false}}"},
			"its canary block is turned off"},
		{"an alpha of zero", []string{"CANARY_ALPHA", "0"},
			`parameter alpha is "0": give a probability above 0 and up to 0.5`},
		{"an alpha that lets most through", []string{"CANARY_ALPHA", "0.51"},
			`parameter alpha is "0.51": give a probability above 0 and up to 0.5`},
		{"an alpha below zero", []string{"CANARY_ALPHA", "-0.05"},
			`parameter alpha is "-0.05": give a probability above 0 and up to 0.5`},
		{"another baseline", []string{"CANARY_BASELINE", "stable"},
			`parameter baseline is "stable": give limits or primary`},
		{"metrics that are no list", []string{"CANARY_METRICS", "{name: a}"},
			"parameter metrics is \"{name: a}\": give a YAML list of name, query and thresholdRange"},
		{"a metric misspelt", []string{"CANARY_METRICS", "[{name: a, qurey: up, thresholdRange: {max: 1}}]"},
			`unknown field "qurey"`},
		{"a metric without a name", []string{"CANARY_METRICS", "[{query: up, thresholdRange: {max: 1}}]"},
			"give number 1 of the list a name"},
		{"a metric that is built in",
			[]string{"CANARY_METRICS", "[{name: request-duration, query: up, thresholdRange: {max: 1}}]"},
			`parameter metrics is "request-duration": give requestSuccessRate and requestDuration`},
		{"two metrics of one name",
			[]string{"CANARY_METRICS",
				"[{name: a, query: up, thresholdRange: {max: 1}}, {name: a, query: up, thresholdRange: {max: 1}}]"},
			`parameter metrics is "a": give each metric a name of its own`},
		{"a metric without a range", []string{"CANARY_METRICS", "[{name: a, query: up}]"},
			`parameter metrics is "a": give it a thresholdRange with min, max or both`},
		{"min above max", []string{"CANARY_METRICS", "[{name: a, query: up, thresholdRange: {min: 2, max: 1}}]"},
			`parameter metrics is "a": its thresholdRange has min 2 above max 1`},
		{"a metric that is no number",
			[]string{"CANARY_METRICS", "[{name: a, query: up, thresholdRange: {max: .nan}}]"},
			"unsupported value: NaN"},
		{"a metric's interval without unit",
			[]string{"CANARY_METRICS", "[{name: a, query: up, interval: '60', thresholdRange: {max: 1}}]"},
			`parameter metrics is "60": give the interval of a with its unit`},
		{"a metric's name on two lines",
			[]string{"CANARY_METRICS",
				`[{name: "a\n12:00:00 shop was promoted", query: up, thresholdRange: {max: 1}}]`},
			`parameter metrics is "a\n12:00:00 shop was promoted": give it a name of at most 100 ` +
				`bytes that can be printed, on one line`},
		{"a metric's name that is long",
			[]string{"CANARY_METRICS",
				"[{name: " + strings.Repeat("a", 101) + ", query: up, thresholdRange: {max: 1}}]"},
			`give it a name of at most 100 bytes`},
		{"too many metrics", []string{"CANARY_METRICS", "[" + strings.Repeat("{name: a},", 51) + "]"},
			`parameter metrics is "51 metrics": give at most 50`},
		{"metrics of aliases",
			[]string{"CANARY_METRICS",
				"[&a " + strings.Repeat("x", 50<<10) + "," + strings.Repeat("*a,y,", 5<<10) + "]"},
			"with its aliases replaced it is too long"},
		{"a limit that is not finite",
			[]string{"CANARY_METRICS", "[{name: a, query: up, thresholdRange: {max: .inf}}]"},
			"unsupported value: +Inf"},
		{"a value on two lines", []string{"CANARY_EXPECT", "1.2.3\n12:00:00 shop was promoted"},
			`parameter expect is "1.2.3\n12:00:00 shop was promoted": give one line`},
		{"a value that is long", []string{"CANARY_HOSTS", strings.Repeat("a", maxValue+1)},
			`give one line that can be printed, of at most 8192 bytes`},
		{"an address with a secret that is long",
			[]string{"CANARY_PROMETHEUS", "http://prometheus:9090/?token=secret" + strings.Repeat("a", maxValue)},
			`parameter prometheus is "http://prometheus:9090/": give one line`},
		{"an address with a secret, and no scheme", []string{"CANARY_PROMETHEUS", "prometheus:9090/?token=secret"},
			`parameter prometheus is "prometheus:9090/": give an address with its scheme`},
		{"a specification with a query string in its address",
			[]string{"CANARY_PROMETHEUS", "", "CANARY_SPEC",
				"apiVersion: flagger.app/v1beta1\nkind: Canary\nspec: {metricsServer: " +
					"'http://prometheus:9090/?token=secret', targetRef: {name: shop}, analysis: {interval: 1m, " +
					"stepWeight: 20, metrics: []}}"},
			`parameter prometheus is "http://prometheus:9090/": the specification's has a query ` +
				`string, which the later steps do not learn`},
		{"a specification that is long",
			[]string{"CANARY_SPEC", "canary: {enabled: true}\n" + strings.Repeat("#", canary.MaxText)},
			"and may have 262144: give what the specification needs alone"},
		{"a weight of zero", []string{"CANARY_STEP_WEIGHT", "0"},
			`parameter stepWeight is "0": give a whole number of percent from 1 to 100`},
		{"weights that do not rise", []string{"CANARY_STEP_WEIGHTS", "20,20"},
			`parameter stepWeights is "20,20": give rising whole numbers`},
		{"a weight over 100", []string{"CANARY_STEP_WEIGHTS", "20,120"}, `parameter stepWeights is "20,120"`},
		{"both ways to say it", []string{"CANARY_STEP_WEIGHTS", "20,40", "CANARY_STEP_WEIGHT", "20"},
			`parameter stepWeight is "20": leave it out where stepWeights is given`},
		{"more than the Pipeline has tasks for", []string{"CANARY_STEP_WEIGHT", "5"},
			`parameter stepWeight is "5": the Pipeline has tasks for 10 weights and this makes 12: let the weights ` +
				`be fewer, or make a longer Pipeline with make pipeline STEPS=12`},
		{"more one by one", []string{"CANARY_STEP_WEIGHTS", "1,2,3,4,5,6,7,8,9,10,11"},
			`parameter stepWeights is "1,2,3,4,5,6,7,8,9,10,11": the Pipeline has tasks for 10 weights ` +
				`and this makes 11`},
		{"no scheme", []string{"CANARY_PROMETHEUS", "prometheus:9090"},
			`parameter prometheus is "prometheus:9090": give an address with its scheme`},
		{"a password in an address", []string{"CANARY_PROMETHEUS", "http://me:secret@prometheus:9090"},
			"leave the password out"},
		{"a password without a scheme", []string{"CANARY_PROMETHEUS", "me:secret@prometheus:9090"},
			`parameter prometheus is "...@prometheus:9090": give an address with its scheme`},
		{"a password in what is no address", []string{"CANARY_PROMETHEUS", "http://me:secret@prometheus:90 90"},
			`parameter prometheus is "...@prometheus:90 90"`},
		{"an address without a host", []string{"CANARY_PROMETHEUS", "http://:9090"},
			`parameter prometheus is "http://:9090"`},
		{"so long that no sum can be told", []string{"CANARY_INTERVAL", "100y", "CANARY_THRESHOLD", "1000"},
			`parameter interval is "100y": give a duration with its unit, at least 1s and at most 24h`},
		{"an empty host", []string{"CANARY_HOSTS", "a,,b"}, `parameter hosts is "a,,b": give names of hosts`},
		{"no host", []string{"CANARY_HOSTS", "Not A Host"}, `parameter hosts is "Not A Host"`},
		{"no gateway", []string{"CANARY_GATEWAYS", "a/b/c"}, `parameter gateways is "a/b/c": give mesh or gateways`},
		{"an object without its kind", []string{"CANARY_ACCEPT_UNCOVERED", "keep"},
			`parameter acceptUncovered is "keep": give objects as Kind/name`},
		{"no port", []string{"CANARY_PORT", "99999"}, `parameter port is "99999": give a number from 1 to 65535`},
		{"an octal port", []string{"CANARY_PORT", "080"},
			`parameter port is "080": give a number from 1 to 65535, without leading zeros`},
		{"no deadline could be kept", []string{"CANARY_INTERVAL", "5m"}, "--pipeline-timeout"},
		{"a deadline beside another mistake", []string{"CANARY_INTERVAL", "5m", "CANARY_PORT", "080"},
			`parameter deadline is "`},
		{"another word", []string{"CANARY_ON_BUSY", "queue"}, `parameter onBusy is "queue": give wait or fail`},
		{"another mode", []string{"CANARY_MODE", "detach"},
			`parameter mode is "detach": give prepare, or leave it out`},
		{"a version before it is applied", []string{"CANARY_MODE", "prepare", "CANARY_EXPECT", "1.2.3"},
			`parameter expect is "1.2.3": leave it out with mode=prepare`},
		{"no such thing to do on failure", []string{"CANARY_ON_FAILURE", "retry"},
			`parameter onFailure is "retry": give rollback`},
		{"neither true nor false", []string{"CANARY_TAKEOVER", "yes"},
			`parameter takeover is "yes": give true or false`},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			_, err := LoadInit(t.Context(), environment(CanaryInit, c.values...))
			if AsProblems(err) == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\ndoes not say %s", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%v has the password in it", err)
			}
		})
	}
}

func TestAllMistakesAtOnce(t *testing.T) {
	t.Parallel()
	_, err := LoadInit(
		t.Context(), environment(
			CanaryInit, "CANARY_TARGET", "", "CANARY_INTERVAL", "x", "CANARY_THRESHOLD", "x", "CANARY_DRAIN", "x"))
	if got := len(AsProblems(err)); got != 4 {
		t.Errorf("%d mistakes, want 4: %v", got, err)
	}
}

func TestLoadStep(t *testing.T) {
	t.Parallel()
	got, err := LoadStep(t.Context(), ShiftWeight, environment(ShiftWeight, "CANARY_WEIGHT", "40"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(
		Step{Namespace: "web", Target: "shop", RunID: "4711", RunName: "run-1", Weight: 40}, got); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
	got, err = LoadStep(t.Context(), Analyze, environment(Analyze, "CANARY_ON_FAILURE", "rollback"))
	if err != nil || got.OnFailure != Rollback {
		t.Errorf("%+v: %v", got, err)
	}
	if _, err := LoadStep(t.Context(), Analyze, environment(Analyze, "CANARY_ON_FAILURE", "Rollback")); AsProblems(
		err) == nil || !strings.Contains(err.Error(), `parameter onFailure is "Rollback"`) {
		t.Errorf("on failure: %v", err)
	}
	for _, weight := range []string{"", "101", "-1", "4e1", "٤"} {
		if _, err := LoadStep(t.Context(), ShiftWeight, environment(ShiftWeight, "CANARY_WEIGHT", weight)); err == nil {
			t.Errorf("weight %q was accepted", weight)
		}
	}
}

func TestEnv(t *testing.T) {
	t.Parallel()
	if got := (Parameter{Name: "progressDeadlineSeconds"}).Env(); got != "CANARY_PROGRESS_DEADLINE_SECONDS" {
		t.Error(got)
	}
	seen := map[string]bool{}
	for _, p := range Parameters {
		for _, step := range p.Steps { // one may be something else to another step
			if seen[step+p.Env()] || p.Description == "" || p.Unit == "" {
				t.Errorf("%+v", p)
			}
			seen[step+p.Env()] = true
		}
	}
}
