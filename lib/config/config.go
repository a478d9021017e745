// Package config reads the configuration of a step from its environment.
//
// Parameters lists every parameter once. A value is text until this package has checked it: an empty one was not given (Tekton passes
// those as empty variables), and every mistake is reported, all in one report, with what would be right.
package config

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/sethvargo/go-envconfig"
	"k8s.io/apimachinery/pkg/util/validation"
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

// Config is the whole configuration of a release. canary-init reads it and leaves it in the release record, where the later steps find it.
type Config struct {
	Namespace        string    `json:"namespace"`
	Target           string    `json:"target"`
	Service          string    `json:"service"`
	Port             string    `json:"port,omitempty"` // name or number; "": whatever the Service has
	Hosts            []string  `json:"hosts"`
	Gateways         []string  `json:"gateways"`
	VirtualService   string    `json:"virtualService"`
	Route            string    `json:"route,omitempty"`
	Interval         Duration  `json:"interval"`
	Threshold        int       `json:"threshold"`
	Weights          []Percent `json:"weights"` // rising
	ProgressDeadline Duration  `json:"progressDeadline"`
	ReadyThreshold   Percent   `json:"readyThreshold"`
	SuccessRate      float64   `json:"successRate"`     // percent; 0: not checked
	RequestDuration  Duration  `json:"requestDuration"` // of 99 % of the requests; 0: not checked
	Prometheus       string    `json:"prometheus"`
	Drain            Duration  `json:"drain"`
	Deadline         Duration  `json:"deadline"`
	OnBusy           string    `json:"onBusy"` // wait or fail
	Takeover         bool      `json:"takeover"`
	RetryRejected    bool      `json:"retryRejected"`
	AcceptUncovered  []string  `json:"acceptUncovered,omitempty"` // Kind/name
	RunID            string    `json:"runId"`
	RunName          string    `json:"runName"`
}

// Step is what the steps after canary-init take; the rest is in the release record.
type Step struct {
	Namespace, Target, RunID, RunName string
	Weight                            Percent // of shift-weight
	Mode                              string  // of rollback
}

// Problem is a mistake in the configuration, with what would be right.
type Problem struct{ Parameter, Value, Remedy string }

func (p Problem) String() string {
	if p.Value == "" {
		return fmt.Sprintf("parameter %s is missing: %s", p.Parameter, p.Remedy)
	}
	return fmt.Sprintf("parameter %s is %q: %s", p.Parameter, p.Value, p.Remedy)
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

// reader reads values and collects mistakes.
type reader struct {
	ctx      context.Context
	lookup   envconfig.Lookuper
	step     string
	problems Problems
	given    map[string]bool
}

func (r *reader) add(parameter, value, remedy string, args ...any) {
	r.problems = append(r.problems, Problem{parameter, value, fmt.Sprintf(remedy, args...)})
}

// text returns a value, or its default.
func (r *reader) text(name string) string {
	for _, p := range Of(r.step) {
		if p.Name != name {
			continue
		}
		// One variable at a time, so that each mistake is seen.
		var v struct {
			Text string `env:"TEXT"`
		}
		if err := envconfig.ProcessWith(r.ctx, &envconfig.Config{Target: &v, Lookuper: renamed{r.lookup, p.Env()}}); err != nil {
			r.add(name, "", "%v", err)
		}
		if text := strings.TrimSpace(v.Text); text != "" {
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

// renamed lets envconfig find any variable under one name.
type renamed struct {
	envconfig.Lookuper
	name string
}

func (l renamed) Lookup(string) (string, bool) { return l.Lookuper.Lookup(l.name) }

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

func (r *reader) names(parameter string, otherwise ...string) []string {
	v := r.text(parameter)
	if v == "" {
		return otherwise
	}
	var names []string
	for part := range strings.SplitSeq(v, ",") {
		names = append(names, strings.TrimSpace(part))
	}
	return names
}

// whole reads a whole number in a range. 010 is ten to some readers and eight to others, so it is neither.
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

func (r *reader) duration(parameter string, least time.Duration) Duration {
	v := r.text(parameter)
	d, err := model.ParseDuration(v) // 1m, 1h30m, 500ms
	if err != nil || time.Duration(d) < least {
		r.add(parameter, v, "give a duration with its unit, at least %s: 10s, 1m, 1h30m", least)
	}
	return Duration{time.Duration(d)}
}

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
	if err != nil || math.IsNaN(f) || f <= 0 || f > 100 || strings.ContainsAny(v, "xXpP_") {
		r.add(parameter, v, "give a percentage above 0 and up to 100, or off")
		return 0
	}
	return f
}

// LoadInit reads the configuration of canary-init. The error is of type Problems when something is wrong with a value: then Config has what
// could be read, so that what the cluster says can be added to the same report.
func LoadInit(ctx context.Context, lookup envconfig.Lookuper) (Config, error) {
	r := &reader{ctx: ctx, lookup: lookup, step: CanaryInit, given: map[string]bool{}}
	s := r.common()
	c := Config{
		Namespace: s.Namespace, Target: s.Target, RunID: s.RunID, RunName: s.RunName,
		Service: r.name("service", s.Target), Port: r.text("port"), Route: r.text("route"),
		Interval: r.duration("interval", time.Second), Threshold: int(r.whole("threshold", 1, 1000, "checks")),
		ProgressDeadline: Duration{time.Duration(r.whole("progressDeadlineSeconds", 1, 86400, "seconds")) * time.Second},
		ReadyThreshold:   Percent(r.whole("readyThreshold", 1, 100, "percent")),
		SuccessRate:      r.percentOrOff("requestSuccessRate"),
		Prometheus:       r.text("prometheus"), Drain: r.duration("drain", 0), Deadline: r.duration("deadline", time.Second),
		OnBusy: r.text("onBusy"), Takeover: r.truth("takeover"), RetryRejected: r.truth("retryRejected"), AcceptUncovered: r.names("acceptUncovered"),
	}
	c.Hosts, c.Gateways = r.names("hosts", c.Service), r.names("gateways", "mesh")
	c.VirtualService = r.name("virtualService", c.Service)
	if r.text("requestDuration") != "off" {
		c.RequestDuration = r.duration("requestDuration", time.Millisecond)
	}
	if c.OnBusy != "wait" && c.OnBusy != "fail" {
		r.add("onBusy", c.OnBusy, "give wait or fail")
	}
	if u, err := url.Parse(c.Prometheus); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		r.add("prometheus", c.Prometheus, "give an address with its scheme: http://prometheus.istio-system:9090")
	} else if u.User != nil {
		r.add("prometheus", u.Redacted(), "leave the password out of the address")
	}
	if len(c.Target)+len("-primary") > validation.DNS1123LabelMaxLength {
		r.add("target", c.Target, "give a name of at most 55 characters, so that %s-primary is one of at most 63", c.Target)
	}
	if len(c.Service)+len("-primary") > validation.DNS1123LabelMaxLength && c.Service != c.Target {
		r.add("service", c.Service, "give a name of at most 55 characters, so that %s-primary is one of at most 63", c.Service)
	}
	if c.RunID == "" {
		r.add("runId", "", "give every step of a release the same one: the uid of the PipelineRun")
	}
	c.Weights = r.weights()
	if longest := c.Longest(); len(r.problems) == 0 && longest > c.Deadline.Duration {
		minutes := int(longest.Minutes()) + 1
		r.add("deadline", c.Deadline.String(), "the release can take %s (%d weights, up to %d checks of %s each, and twice progressDeadlineSeconds): give deadline=%dm and start it with --pipeline-timeout %dm --tasks-timeout %dm --finally-timeout 20m, or let it take less",
			longest, len(c.Weights), c.Threshold, c.Interval, minutes, minutes+25, minutes+2)
	}
	if len(r.problems) > 0 {
		return c, r.problems
	}
	return c, nil
}

// Longest is how long a release can take at most: the candidate and stable come up within the progress deadline each, every weight is judged
// by the threshold-th check at the latest, and proxies get their time after each move.
func (c Config) Longest() time.Duration {
	perWeight := time.Duration(c.Threshold) * c.Interval.Duration
	return 2*c.ProgressDeadline.Duration + time.Duration(len(c.Weights))*perWeight + 2*c.Drain.Duration
}

// weights resolves stepWeight and maxWeight as Flagger does: 20 and 50 are 20, 40, 60, and never over 100. stepWeights are as they are.
func (r *reader) weights() []Percent {
	var weights []Percent
	if list := r.text("stepWeights"); list != "" {
		for _, other := range []string{"stepWeight", "maxWeight"} {
			if v := r.text(other); v != "" {
				r.add(other, v, "leave it out where stepWeights is given, or leave stepWeights out")
			}
		}
		for part := range strings.SplitSeq(list, ",") {
			part = strings.TrimSpace(part)
			n, err := strconv.ParseInt(part, 10, 32)
			if err != nil || strconv.FormatInt(n, 10) != part || n < 1 || n > 100 || len(weights) > 0 && Percent(n) <= weights[len(weights)-1] {
				r.add("stepWeights", list, "give rising whole numbers from 1 to 100, by comma: 10,25,50")
				return nil
			}
			weights = append(weights, Percent(n))
		}
	} else {
		step, most := r.whole("stepWeight", 1, 100, "percent"), r.whole("maxWeight", 1, 100, "percent")
		if !r.given["stepWeight"] {
			step = 20
		}
		if !r.given["maxWeight"] {
			most = max(60, min(step, 100))
		}
		if step < 1 || step > 100 || most < 1 || most > 100 {
			return nil // named already
		}
		for w := step; ; w += step {
			weights = append(weights, Percent(min(w, 100)))
			if w >= most {
				break
			}
		}
	}
	if most := r.whole("maxSteps", 1, 1000, "steps"); int64(len(weights)) > most {
		r.add("stepWeights", fmt.Sprint(weights), "the Pipeline has tasks for %d weights and this makes %d: let the weights be fewer, or make a longer Pipeline with make pipeline STEPS=%d", most, len(weights), len(weights))
	}
	return weights
}

// LoadStep reads what a step after canary-init takes. The error is of type Problems when something is wrong with a value.
func LoadStep(ctx context.Context, step string, lookup envconfig.Lookuper) (Step, error) {
	r := &reader{ctx: ctx, lookup: lookup, step: step, given: map[string]bool{}}
	s := r.common()
	if step == ShiftWeight {
		if r.text("weight") == "" {
			r.add("weight", "", "give the candidate's share of the traffic in percent")
		}
		s.Weight = Percent(r.whole("weight", 0, 100, "percent"))
	}
	if step == Rollback {
		if s.Mode = r.text("mode"); s.Mode != "rollback" {
			r.add("mode", s.Mode, "give rollback")
		}
	}
	if len(r.problems) > 0 {
		return s, r.problems
	}
	return s, nil
}

func (r *reader) common() Step {
	s := Step{Namespace: r.name("namespace", ""), Target: r.name("target", ""), RunID: r.text("runId"), RunName: r.text("runName")}
	if s.Target == "" {
		r.add("target", "", "give the name of the Deployment to release")
	}
	if s.Namespace == "" {
		r.add("namespace", "", "give the namespace of the target")
	}
	return s
}

// AsProblems returns the mistakes that an error is made of; nil when it is something else.
func AsProblems(err error) Problems {
	var problems Problems
	errors.As(err, &problems)
	return problems
}
