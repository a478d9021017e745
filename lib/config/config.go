// Package config reads the configuration of a step from its environment.
//
// Parameters lists every parameter once. A value is text until this package has checked it: an
// empty one was not given (Tekton passes those as empty variables), and every mistake is reported,
// all in one report, with what would be right.
package config

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/sethvargo/go-envconfig"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/canary-tasks/canary-tasks/lib/show"
)

// Percent is a whole number from 0 to 100.
type Percent int32

// Duration is written with its unit: 90s, 1m, 1h30m.
type Duration struct{ time.Duration }

// MarshalText writes a duration as people do.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is the reverse of MarshalText.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	d.Duration, err = time.ParseDuration(string(text))
	return err
}

// Config is the whole configuration of a release. canary-init reads it and leaves it in the release
// record, where the later steps find it.
type Config struct {
	Namespace        string    `json:"namespace"`
	Target           string    `json:"target"`
	Expect           string    `json:"expect,omitempty"` // what the target must have
	Canary           string    `json:"canary,omitempty"` // that the configuration came from, and that shows the release
	Service          string    `json:"service"`
	Port             string    `json:"port,omitempty"` // name or number; "": whatever the Service has
	Hosts            []string  `json:"hosts"`
	Gateways         []string  `json:"gateways"`
	VirtualService   string    `json:"virtualService"`
	Route            string    `json:"route,omitempty"`
	Interval         Duration  `json:"interval"`
	Threshold        int       `json:"threshold"`
	Weights          []Percent `json:"weights"`  // rising
	MaxSteps         int       `json:"maxSteps"` // how many weights the Pipeline has tasks for
	ProgressDeadline Duration  `json:"progressDeadline"`
	ReadyThreshold   Percent   `json:"readyThreshold"`
	SuccessRate      float64   `json:"successRate"`     // percent; 0: not checked
	RequestDuration  Duration  `json:"requestDuration"` // of 99 % of the requests; 0: not checked
	Metrics          []Metric  `json:"metrics,omitempty"`
	Alpha            float64   `json:"alpha"`
	Baseline         string    `json:"baseline"` // limits or primary
	EarlyPass        bool      `json:"earlyPass"`
	Prometheus       string    `json:"prometheus"`
	Drain            Duration  `json:"drain"`
	Deadline         Duration  `json:"deadline"`
	OnBusy           string    `json:"onBusy"` // wait or fail
	Takeover         bool      `json:"takeover"`
	RetryRejected    bool      `json:"retryRejected"`
	AcceptUncovered  []string  `json:"acceptUncovered,omitempty"` // Kind/name
	RunID            string    `json:"runId"`
	RunName          string    `json:"runName"`
	Mode             string    `json:"-"`                      // prepare, or nothing
	Warnings         []string  `json:"-"`                      // of the specification: fields that are not acted on
	Git              Git       `json:"-"`                      // what rollback will be given
	RunNamespace     string    `json:"runNamespace,omitempty"` // of the PipelineRun; empty where the run is none

	StepAccounts map[string]string `json:"-"` // ServiceAccounts of other steps, by step, where they are not this one's
}

// Step is what the steps after canary-init take; the rest is in the release record.
type Step struct {
	Namespace, Target, RunID, RunName string
	OnFailure                         string  // rollback, or "": a step that fails leaves it to others
	Weight                            Percent // of shift-weight
	Mode                              string  // of rollback
	Git                               Git     // of rollback
	// GitProblems are what is wrong with Git: no mistake there keeps traffic from going back.
	GitProblems Problems
	// Prometheus is its address as the platform gives it, "" where it gives none. Of the steps that
	// ask Prometheus.
	Prometheus string
	Allow      Allow // of the same
}

// Problem is a mistake in the configuration, with what would be right.
type Problem struct{ Parameter, Value, Remedy string }

func (p Problem) String() string {
	if p.Value == "" {
		return fmt.Sprintf("parameter %s is missing: %s", p.Parameter, show.Line(p.Remedy))
	}
	return fmt.Sprintf("parameter %s is %s: %s", p.Parameter, show.Quoted(p.Value), show.Line(p.Remedy))
}

// Problems are all mistakes of a configuration, one a line.
type Problems []Problem

func (p Problems) Error() string {
	lines := []string{fmt.Sprintf("the configuration has %d mistakes; nothing was changed", len(p))}
	if len(p) == 1 {
		lines[0] = "the configuration has a mistake; nothing was changed"
	}
	for _, problem := range p {
		lines = append(lines, "  "+problem.String())
	}
	return strings.Join(lines, "\n")
}

// Names reports whether one of these parameters has a mistake.
func (p Problems) Names(parameters ...string) bool {
	return slices.ContainsFunc(p, func(problem Problem) bool { return slices.Contains(parameters, problem.Parameter) })
}

// reader reads values and collects mistakes.
type reader struct {
	ctx      context.Context
	lookup   envconfig.Lookuper
	step     string
	problems Problems
	given    map[string]bool
	spec     map[string]string // values of a specification, which are weaker than those of the environment
}

// add notes a mistake; the remedy may be a text of several lines.
func (r *reader) add(parameter, value, remedy string, args ...any) {
	r.problems = append(
		r.problems, Problem{parameter, value, strings.Join(strings.Fields(fmt.Sprintf(remedy, args...)), " ")})
}

// env returns what the environment gives; "" where it gives none.
func (r *reader) env(p Parameter) string {
	var v struct { // one variable at a time, so that each mistake is seen
		Text string `env:"TEXT"`
	}
	if err := envconfig.ProcessWith(
		r.ctx, &envconfig.Config{Target: &v, Lookuper: renamed{r.lookup, p.Env()}}); err != nil {
		r.add(p.Name, "", "%v", err)
	}
	return strings.TrimSpace(v.Text)
}

// text returns a value: what the environment gives, else the specification, else the default.
func (r *reader) text(name string) string {
	for _, p := range Of(r.step) {
		if p.Name != name {
			continue
		}
		if text := cmp.Or(r.env(p), r.spec[name]); text != "" && r.plain(p, text) {
			r.given[name] = true
			return text
		}
		if strings.HasPrefix(p.Default, "$(") {
			return ""
		}
		return p.Default
	}
	return ""
}

// maxValue is how many bytes a value may have that is no YAML.
const maxValue = 8 << 10

// plain reports whether a value is one that a parameter can have: on one line, and no longer than
// any is. The later steps, which must act however wrong a value is, print what they were given.
func (r *reader) plain(p Parameter, text string) bool {
	if p.Unit == "YAML" || r.step != CanaryInit || len(text) <= maxValue && show.Line(text) == text {
		return true
	}
	if !r.problems.Names(p.Name) {
		if p.Unit == "URL" {
			text = show.Address(text)
		}
		r.add(p.Name, text, "give one line that can be printed, of at most %d bytes", maxValue)
	}
	return false
}

// renamed lets envconfig find any variable under one name.
type renamed struct {
	envconfig.Lookuper
	name string
}

func (l renamed) Lookup(string) (string, bool) { return l.Lookuper.Lookup(l.name) }

// name reads the name of an object; otherwise is what it is by default.
func (r *reader) name(parameter, otherwise string) string {
	v := r.text(parameter)
	if v == "" {
		return otherwise
	}
	if len(validation.IsDNS1123Label(v)) > 0 {
		r.add(parameter, v, "give a name of at most 63 small letters, digits and dashes")
	}
	return v
}

// names reads a list, by comma, each element of which must be valid.
func (r *reader) names(parameter string, valid func(string) bool, remedy string, otherwise ...string) []string {
	v := r.text(parameter)
	if v == "" {
		return otherwise
	}
	var names []string
	for part := range strings.SplitSeq(v, ",") {
		names = append(names, strings.TrimSpace(part))
	}
	if slices.ContainsFunc(names, func(name string) bool { return !valid(name) }) {
		r.add(parameter, v, "%s", remedy)
	}
	return names
}

// isDomain reports whether a text is a DNS name.
func isDomain(name string) bool { return len(validation.IsDNS1123Subdomain(name)) == 0 }

// isHost reports whether a text is a host of a VirtualService: a name, or * for the first labels of
// one.
func isHost(host string) bool { return host == "*" || isDomain(strings.TrimPrefix(host, "*.")) }

// isGateway reports whether a text is mesh, name or namespace/name.
func isGateway(gateway string) bool {
	namespace, name, found := strings.Cut(gateway, "/")
	return isDomain(namespace) && (!found || isDomain(name))
}

// isKindAndName reports whether a text is Kind/name.
func isKindAndName(object string) bool {
	kind, name, _ := strings.Cut(object, "/")
	return kindName.MatchString(kind) && isDomain(name)
}

var (
	kindName = regexp.MustCompile(`^[A-Z][A-Za-z]*$`)
	digits   = regexp.MustCompile(`^[0-9]+$`)
	decimal  = regexp.MustCompile(`^(0|[1-9][0-9]*)(\.[0-9]+)?$`)
)

// port reads the name or the number of a port.
func (r *reader) port() string {
	v := r.text("port")
	n, err := strconv.Atoi(v)
	switch {
	case v == "":
	case digits.MatchString(v) && (err != nil || strconv.Itoa(n) != v || n < 1 || n > 65535):
		r.add("port", v, "give a number from 1 to 65535, without leading zeros, or the port's name")
	case len(validation.IsDNS1123Label(v)) > 0:
		r.add("port", v, "give the name or the number of a port of the Service")
	}
	return v
}

// address reads the address of Prometheus. What may be secret in it is not printed, however the
// address is wrong, nor is a password returned.
func (r *reader) address() string {
	v := r.text("prometheus")
	u, err := url.Parse(v)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		r.add("prometheus", show.Address(v), "give an address with its scheme: http://prometheus.istio-system:9090")
		return ""
	case u.User != nil:
		r.add("prometheus", show.Address(v), "leave the password out of the address")
		u.User = nil
		return u.String()
	case u.RawQuery != "" && r.specified("prometheus"):
		r.add("prometheus", show.Address(v),
			"the specification's has a query string, which the later steps do not learn: set it as the parameter")
	}
	return v
}

// whole reads a whole number in a range. 010 is ten to some readers and eight to others, so it is
// neither.
func (r *reader) whole(parameter string, least, most int64, unit string) int64 {
	v := r.text(parameter)
	if v == "" {
		return 0
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != v || n < least || n > most {
		r.add(parameter, v, "give a whole number of %s from %d to %d, without leading zeros", unit, least, most)
	}
	return n
}

// day is the most for a duration that Longest multiplies, so that it cannot overflow; year is the
// most for any other.
const (
	day  = 24 * time.Hour
	year = 365 * day
)

// duration reads a duration in a range.
func (r *reader) duration(parameter string, least, most time.Duration) Duration {
	v := r.text(parameter)
	d, err := model.ParseDuration(v) // 1m, 1h30m, 500ms
	if err != nil || time.Duration(d) < least || time.Duration(d) > most {
		r.add(parameter, v, "give a duration with its unit, at least %s and at most %.0fh: 10s, 1m, 1h30m", least,
			most.Hours())
		return Duration{}
	}
	return Duration{time.Duration(d)}
}

// truth reads true or false.
func (r *reader) truth(parameter string) bool {
	v := r.text(parameter)
	if v != "true" && v != "false" {
		r.add(parameter, v, "give true or false")
	}
	return v == "true"
}

// percentOrOff reads a percentage with a fraction; off is 0.
func (r *reader) percentOrOff(parameter string) float64 {
	v := r.text(parameter)
	if v == "off" {
		return 0
	}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || !decimal.MatchString(v) || f <= 0 || f > 100 {
		r.add(parameter, v, "give a percentage above 0 and up to 100, or off, without leading zeros")
		return 0
	}
	return f
}

// alpha reads the probability of a false alarm.
func (r *reader) alpha() float64 {
	v := r.text("alpha")
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || !decimal.MatchString(v) || f <= 0 || f > 0.5 {
		r.add("alpha", v, "give a probability above 0 and up to 0.5: 0.05 rejects at most one healthy "+
			"release in twenty early")
		return 0
	}
	return f
}

// LoadInit reads the configuration of canary-init. The error is of type Problems when something is
// wrong with a value: then Config has what could be read, so that what the cluster says can be
// added to the same report.
func LoadInit(ctx context.Context, lookup envconfig.Lookuper) (Config, error) {
	r := &reader{ctx: ctx, lookup: lookup, step: CanaryInit, given: map[string]bool{}}
	warnings := r.readSpec()
	c := r.release(r.common())
	c.Warnings = warnings
	c.StepAccounts = r.stepAccounts()
	r.reachability(&c)
	c.VirtualService = r.name("virtualService", c.Service)
	if r.text("requestDuration") != "off" {
		c.RequestDuration = r.duration("requestDuration", time.Millisecond, day)
	}
	r.choices(&c)
	r.checkNames(c)
	c.Git = r.git() // rollback takes it
	c.Weights = r.weights(c.MaxSteps)
	r.checkDeadline(c)
	if len(r.problems) > 0 {
		return c, r.problems
	}
	return c, nil
}

// release reads the parameters that stand alone, but for the Service, which has the target's name
// by default.
func (r *reader) release(s Step) Config {
	return Config{
		Namespace: s.Namespace, Target: s.Target, RunID: s.RunID, RunName: s.RunName,
		RunNamespace: r.name("runNamespace", ""),
		Expect:       r.text("expect"), Canary: r.text("canary"), Service: r.name("service", s.Target), Port: r.port(),
		Route:    r.text("route"),
		Interval: r.duration("interval", time.Second, day), Threshold: int(r.whole("threshold", 1, 1000, "checks")),
		ProgressDeadline: Duration{
			time.Duration(r.whole("progressDeadlineSeconds", 1, 86400, "seconds")) * time.Second},
		ReadyThreshold: Percent(r.whole("readyThreshold", 1, 100, "percent")),
		SuccessRate:    r.percentOrOff("requestSuccessRate"),
		Metrics:        r.metrics(), Alpha: r.alpha(), Baseline: r.text("baseline"), EarlyPass: r.truth("earlyPass"),
		Prometheus: r.address(), Drain: r.duration("drain", 0, day),
		Deadline: r.duration("deadline", time.Second, year),
		OnBusy:   r.text("onBusy"), Takeover: r.truth("takeover"), RetryRejected: r.truth("retryRejected"),
		AcceptUncovered: r.names(
			"acceptUncovered", isKindAndName, "give objects as Kind/name, by comma: PodDisruptionBudget/shop"),
		MaxSteps: int(r.whole("maxSteps", 1, 100, "steps")),
	}
}

// reachability reads the hosts and gateways by which callers reach the Service.
func (r *reader) reachability(c *Config) {
	c.Hosts = r.names(
		"hosts", isHost, "give names of hosts, by comma: shop, shop.example.com, *.example.com", c.Service)
	c.Gateways = r.names("gateways", isGateway, "give mesh or gateways as name or namespace/name, by comma", mesh)
	r.claims(c, r.allow())
	own := func(host string) bool {
		return host == "*" || slices.Contains(ownNames(c.Service, c.Namespace), host) ||
			strings.HasPrefix(host, c.Service+"."+c.Namespace+".svc.")
	}
	// callers within the mesh have no other name
	if slices.Contains(c.Gateways, mesh) && !slices.ContainsFunc(c.Hosts, own) {
		c.Hosts = append(c.Hosts, c.Service)
	}
}

// choices checks the parameters that have a few values only, and reads the mode, which is one.
func (r *reader) choices(c *Config) {
	if c.Baseline != "limits" && c.Baseline != "primary" {
		r.add("baseline", c.Baseline, "give limits or primary")
	}
	if c.Mode = r.text("mode"); c.Mode != "" && c.Mode != Prepare {
		r.add("mode", c.Mode, "give prepare, or leave it out")
	}
	if c.Mode == Prepare && c.Expect != "" {
		r.add("expect", c.Expect, "leave it out with mode=prepare, which comes before the apply")
	}
	if c.OnBusy != "wait" && c.OnBusy != "fail" {
		r.add("onBusy", c.OnBusy, "give wait or fail")
	}
}

// checkNames checks that the names leave room for what is added to them, and that the run has one.
func (r *reader) checkNames(c Config) {
	const remedy = "give a name of at most 55 characters, so that with -primary it is one of at most 63"
	if len(c.Target)+len("-primary") > validation.DNS1123LabelMaxLength {
		r.add("target", c.Target, remedy)
	}
	if len(c.Service)+len("-primary") > validation.DNS1123LabelMaxLength && c.Service != c.Target {
		r.add("service", c.Service, remedy)
	}
	if c.RunID == "" {
		r.add("runId", "", "give every step of a release the same one: the uid of the PipelineRun")
	}
}

// checkDeadline checks that the release cannot take longer than its deadline. It checks nothing
// where one of the parameters involved has a mistake.
func (r *reader) checkDeadline(c Config) {
	known := !r.problems.Names(
		"interval", "threshold", "stepWeight", "stepWeights", "maxWeight", "progressDeadlineSeconds", "drain",
		"deadline")
	if longest := c.Longest(); known && longest > c.Deadline.Duration {
		minutes := int(longest.Minutes()) + 1
		r.add("deadline", r.text("deadline"),
			"the release can take %s (%d weights, up to %d checks of %s each, and twice progressDeadlineSeconds): "+
				"give deadline=%dm and start it with --pipeline-timeout %dm --tasks-timeout %dm --finally-timeout "+
				"20m, or let it take less",
			longest, len(c.Weights), c.Threshold, c.Interval, minutes, minutes+25, minutes+2)
	}
}

// Longest is how long a release can take at most: the candidate and stable come up within the
// progress deadline each, every weight is judged by the threshold-th check at the latest, with one
// more interval for the first scrape and for requests to come, and proxies get their time after
// each move.
func (c Config) Longest() time.Duration {
	perWeight := time.Duration(c.Threshold+1) * c.Interval.Duration
	deadlines := time.Duration(2)
	if c.Expect != "" { // which is waited for before
		deadlines++
	}
	return deadlines*c.ProgressDeadline.Duration + time.Duration(len(c.Weights))*perWeight + 2*c.Drain.Duration
}

// weights reads the weights, either listed or evenly spaced. It refuses more than most of them,
// unless most is 0.
func (r *reader) weights(most int) []Percent {
	var weights []Percent
	parameter, value := "stepWeights", r.text("stepWeights")
	if value != "" {
		weights = r.listedWeights(value)
	} else {
		var step int64
		step, weights = r.evenWeights()
		parameter, value = "stepWeight", strconv.FormatInt(step, 10)
	}
	if most > 0 && len(weights) > most {
		r.add(parameter, value,
			"the Pipeline has tasks for %d weights and this makes %d: let the weights be fewer, or make a longer "+
				"Pipeline with make pipeline STEPS=%d", most, len(weights), len(weights))
	}
	return weights
}

// listedWeights reads stepWeights. It returns nil unless they rise.
func (r *reader) listedWeights(list string) []Percent {
	for _, other := range []string{"stepWeight", "maxWeight"} {
		if v := r.text(other); v != "" {
			r.add(other, v, "leave it out where stepWeights is given, or leave stepWeights out")
		}
	}
	var weights []Percent
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		n, err := strconv.ParseInt(part, 10, 32)
		if err != nil || strconv.FormatInt(n, 10) != part || n < 1 || n > 100 || len(weights) > 0 &&
			Percent(n) <= weights[len(weights)-1] {
			r.add("stepWeights", list, "give rising whole numbers from 1 to 100, by comma: 10,25,50")
			return nil
		}
		weights = append(weights, Percent(n))
	}
	return weights
}

// evenWeights resolves stepWeight and maxWeight as Flagger does: 20 and 50 are 20, 40, 60, and
// never over 100. It returns no weights where one of the two is wrong.
func (r *reader) evenWeights() (step int64, weights []Percent) {
	step, last := r.whole("stepWeight", 1, 100, "percent"), r.whole("maxWeight", 1, 100, "percent")
	if !r.given["stepWeight"] {
		step = 20
	}
	if !r.given["maxWeight"] {
		last = max(60, min(step, 100))
	}
	if step < 1 || step > 100 || last < 1 || last > 100 {
		return step, nil // named already
	}
	for w := step; ; w += step {
		weights = append(weights, Percent(min(w, 100)))
		if w >= last {
			return step, weights
		}
	}
}

// LoadStep reads what a step after canary-init takes. The error is of type Problems when something
// is wrong with a value.
func LoadStep(ctx context.Context, step string, lookup envconfig.Lookuper) (Step, error) {
	r := &reader{ctx: ctx, lookup: lookup, step: step, given: map[string]bool{}}
	s := r.common()
	if step == ShiftWeight {
		if r.text("weight") == "" {
			r.add("weight", "", "give the candidate's share of the traffic in percent")
		}
		s.Weight = Percent(r.whole("weight", 0, 100, "percent"))
	}
	s.Allow = r.allow()
	if r.fromEnv("prometheus") != "" {
		s.Prometheus = r.address()
	}
	if step == Rollback {
		if s.Mode = r.text("mode"); s.Mode != Rollback && s.Mode != Detach {
			r.add("mode", s.Mode, "give rollback or detach")
		}
		before := r.problems
		r.problems = nil
		s.Git = r.git()
		s.GitProblems, r.problems = r.problems, before
	}
	if len(r.problems) > 0 {
		return s, r.problems
	}
	return s, nil
}

// common reads what every step takes.
func (r *reader) common() Step {
	s := Step{Namespace: r.name("namespace", ""), Target: r.name("target", ""), RunID: r.text("runId"),
		RunName: r.text("runName")}
	if s.Target == "" {
		r.add("target", "", "give the name of the Deployment to release")
	}
	if s.Namespace == "" {
		r.add("namespace", "", "give the namespace of the target")
	}
	if s.OnFailure = r.env(OnFailure); s.OnFailure != "" && s.OnFailure != Rollback {
		r.add(OnFailure.Name, s.OnFailure,
			"give rollback, for pipelines that run nothing after a step that failed, or leave it out")
	}
	return s
}

// AsProblems returns the mistakes that an error is made of; nil when it is something else.
func AsProblems(err error) Problems {
	var problems Problems
	errors.As(err, &problems)
	return problems
}
