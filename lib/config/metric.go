package config

import (
	"fmt"
	"time"

	"github.com/prometheus/common/model"
	"sigs.k8s.io/yaml"

	"github.com/canary-tasks/canary-tasks/lib/canary"
	"github.com/canary-tasks/canary-tasks/lib/show"
)

// Metric is a check by a custom query, in the form that Flagger's Canary has.
type Metric struct {
	Name              string            `json:"name"`
	Query             string            `json:"query"` // PromQL, a template with Flagger's functions
	Interval          string            `json:"interval,omitempty"`
	ThresholdRange    ThresholdRange    `json:"thresholdRange"`
	TemplateVariables map[string]string `json:"templateVariables,omitempty"`
}

// MaxMetrics is how many checks by queries a configuration may have: each is asked for at each
// judgement. maxName is how many bytes the name of one may have.
const (
	MaxMetrics = 50
	maxName    = 100
)

// ThresholdRange is the range that a value must be in, ends included; nil: no limit.
type ThresholdRange struct {
	Min *float64 `json:"min,omitempty"`
	Max *float64 `json:"max,omitempty"`
}

// Every is the metric's interval, which was checked.
func (m Metric) Every() time.Duration {
	d, err := model.ParseDuration(m.Interval)
	if err != nil {
		return time.Minute
	}
	return time.Duration(d)
}

// metrics reads the custom checks.
func (r *reader) metrics() []Metric {
	v := r.text("metrics")
	if v == "" {
		return nil
	}
	if err := canary.Bounded([]byte(v)); err != nil {
		r.add("metrics", v, "%v", err)
		return nil
	}
	var all []Metric
	if err := yaml.UnmarshalStrict([]byte(v), &all); err != nil {
		r.add("metrics", v, "give a YAML list of name, query and thresholdRange: %v", err)
		return nil
	}
	if len(all) > MaxMetrics {
		r.add("metrics", fmt.Sprintf("%d metrics", len(all)), "give at most %d", MaxMetrics)
		return nil
	}
	names := map[string]bool{}
	for i, m := range all {
		r.checkMetricName(m.Name, i+1, names[m.Name], v)
		names[m.Name] = true
		all[i].Interval = r.metricInterval(m)
		r.checkThresholdRange(m)
	}
	return all
}

// checkMetricName checks the name of the metric with this number in the list. Taken says that an
// earlier one has the same.
func (r *reader) checkMetricName(name string, number int, taken bool, list string) {
	switch {
	case name == "":
		r.add("metrics", list, "give number %d of the list a name", number)
	case name == "request-success-rate" || name == "request-duration":
		r.add("metrics", name,
			"give requestSuccessRate and requestDuration for what is built in, and other "+
				"names to queries of your own")
	case len(name) > maxName || show.Line(name) != name:
		r.add("metrics", name, "give it a name of at most %d bytes that can be printed, on one line", maxName)
	case taken:
		r.add("metrics", name, "give each metric a name of its own")
	}
}

// metricInterval checks and returns the interval of a metric. By default it is a minute, as with
// Flagger.
func (r *reader) metricInterval(m Metric) string {
	if m.Interval == "" {
		return "1m"
	}
	d, err := model.ParseDuration(m.Interval)
	if err != nil || time.Duration(d) < time.Second || time.Duration(d) > day {
		r.add("metrics", m.Interval, "give the interval of %s with its unit, at least 1s and at most 24h", m.Name)
	}
	return m.Interval
}

// checkThresholdRange checks that the range of a metric has an end, and that its ends are in order.
func (r *reader) checkThresholdRange(m Metric) {
	least, most := m.ThresholdRange.Min, m.ThresholdRange.Max
	switch {
	case least == nil && most == nil:
		r.add("metrics", m.Name, "give it a thresholdRange with min, max or both")
	case least != nil && most != nil && *least > *most:
		r.add("metrics", m.Name, "its thresholdRange has min %v above max %v: change them", *least, *most)
	}
}
