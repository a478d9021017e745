// Package canary reads the specification of a canary release in the shapes that people have: a
// Flagger Canary of any version, or the values of a Jenkins X chart with a canary block. What comes
// out are values of parameters, by name, as lib/config has them.
//
// canary.go reads the shapes, fields.go finds fields that are misspelt. The package is pure.
package canary

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	"github.com/canary-tasks/canary-tasks/lib/show"
)

// Spec is what a specification says.
type Spec struct {
	Target   string            // the Deployment; "" where the specification does not say
	Disabled bool              // the chart has a canary block that is turned off
	Values   map[string]string // of parameters, by name
	Warnings []string          // fields that are known and not acted on
}

// Errors are all mistakes of a specification.
type Errors []string

func (e Errors) Error() string { return strings.Join(e, "; ") }

// metric is a check by a query, in the form of the parameter metrics.
type metric struct {
	Name              string         `json:"name"`
	Query             string         `json:"query"`
	Interval          string         `json:"interval,omitempty"`
	ThresholdRange    map[string]any `json:"thresholdRange"`
	TemplateVariables map[string]any `json:"templateVariables,omitempty"`
}

// Read reads a specification, whichever of the shapes it has: of several YAML documents the one
// that is a Canary. The error is Errors, which name each mistake with its path, or says that the
// text is no YAML.
func Read(text []byte) (Spec, error) {
	s := Spec{Values: map[string]string{}}
	document, text, err := find(text)
	if err != nil {
		return s, err
	}
	r := &reader{spec: &s}
	root := r.object("", document)
	switch block, isValues := document["canary"].(map[string]any); {
	case document["kind"] == "Canary":
		r.octals(text, "spec")
		r.canary(root)
	case isValues:
		r.octals(text, "canary")
		r.values(document, r.object("canary", block))
	default:
		return s, Errors{"it is neither a Canary of Flagger (kind: Canary) nor the values of a chart with a block " +
			"canary: give one of them"}
	}
	if len(r.errors) > 0 {
		return s, r.errors
	}
	return s, nil
}

// find returns the document to read, and its text.
func find(text []byte) (map[string]any, []byte, error) {
	if len(text) > MaxText {
		return nil, nil, Bounded(text)
	}
	var first map[string]any
	var firstText []byte
	for i, part := range strings.Split("\n"+string(text), "\n---") {
		if err := Bounded([]byte(part)); err != nil {
			return nil, nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		var document map[string]any
		if err := yaml.Unmarshal([]byte(part), &document); err != nil {
			return nil, nil, fmt.Errorf("document %d is no YAML map: %w", i+1, err)
		}
		if document["kind"] == "Canary" {
			return document, []byte(part), nil
		}
		if first == nil {
			first, firstText = document, []byte(part)
		}
	}
	if first == nil {
		return nil, nil, errors.New("it is empty")
	}
	return first, firstText, nil
}

// octalLooking are numbers that are eight times something to some readers of YAML, this package's
// among them, and ten times to others.
var octalLooking = regexp.MustCompile(`^[-+]?0[0-9_]+$`)

// octals names such numbers in the block of a document that is read.
func (r *reader) octals(text []byte, block string) {
	var walk func(path string, n *yamlv3.Node)
	walk = func(path string, n *yamlv3.Node) {
		if n.Kind == yamlv3.ScalarNode && n.Style == 0 && octalLooking.MatchString(n.Value) {
			r.wrong(path, "%s: write it without leading zeros", n.Value)
		}
		for i, c := range n.Content {
			switch {
			case n.Kind == yamlv3.MappingNode && i%2 == 1:
				walk(path+"."+n.Content[i-1].Value, c)
			case n.Kind == yamlv3.SequenceNode:
				walk(fmt.Sprintf("%s[%d]", path, i), c)
			}
		}
	}
	var document yamlv3.Node // which may have a key twice, as Helm allows
	if err := yamlv3.Unmarshal(text, &document); err != nil || len(document.Content) == 0 {
		return // what reads it says so
	}
	for root, i := document.Content[0], 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == block {
			walk(block, root.Content[i+1])
		}
	}
}

// reader collects mistakes, the first maxErrors of them.
type reader struct {
	spec   *Spec
	errors Errors
}

// wrong notes a mistake.
func (r *reader) wrong(path, format string, args ...any) {
	switch n := len(r.errors); {
	case n < maxErrors:
		r.errors = append(r.errors, show.Short(path)+": "+fmt.Sprintf(format, args...))
	case n == maxErrors:
		r.errors = append(r.errors, fmt.Sprintf("there are more than %d mistakes", maxErrors))
	}
}

// set sets a parameter, unless the value is empty.
func (r *reader) set(parameter, value string) {
	if value != "" {
		r.spec.Values[parameter] = value
	}
}

// canary reads a Flagger Canary: v1alpha2 and v1alpha3 call analysis canaryAnalysis.
func (r *reader) canary(root *object) {
	root.skip("kind", "metadata", "status")
	if v := root.text("apiVersion"); !strings.HasPrefix(v, "flagger.app/v1") {
		r.wrong("apiVersion", "%q is not flagger.app/v1alpha2, v1alpha3 or v1beta1", v)
	}
	spec := root.child("spec")
	if p := spec.text("provider"); p != "" && p != "istio" && !strings.HasPrefix(p, "istio:") {
		r.wrong("spec.provider", "%q: only istio is supported", p)
	}
	target := spec.child("targetRef")
	target.skip("apiVersion")
	if kind := target.text("kind"); kind != "" && kind != "Deployment" {
		r.wrong("spec.targetRef.kind", "%q: only a Deployment can be released", kind)
	}
	r.spec.Target = target.text("name")
	target.done()
	r.set("progressDeadlineSeconds", spec.text("progressDeadlineSeconds"))
	r.set("prometheus", spec.text("metricsServer"))
	autoscaler := spec.child("autoscalerRef") // which is found by what it scales
	autoscaler.skip("apiVersion", "kind", "name")
	autoscaler.ignore("primaryScalerQueries", "primaryScalerReplicas")
	autoscaler.done()
	spec.ignore("ingressRef", "routeRef", "upstreamRef", "skipAnalysis", "suspend", "revertOnDeletion")
	r.service(spec.child("service"))
	analysis := "analysis"
	if _, ok := spec.fields["canaryAnalysis"]; ok {
		analysis = "canaryAnalysis"
	}
	r.analysis(spec.child(analysis))
	if _, ok := r.spec.Values["threshold"]; !ok { // Flagger's own defaults, which are not those of the parameters
		r.set("threshold", "1")
	}
	if r.spec.Values["stepWeight"] != "" && r.spec.Values["maxWeight"] == "" {
		r.set("maxWeight", "100")
	}
	spec.done()
	root.done()
}

// service reads where people call.
func (r *reader) service(o *object) {
	r.set("service", o.text("name"))
	r.set("port", o.text("port"))
	r.set("hosts", strings.Join(o.texts("hosts"), ","))
	var gateways []string
	for _, g := range o.texts("gateways") {
		gateways = append(gateways, gateway(g))
	}
	r.set("gateways", strings.Join(gateways, ","))
	// the Service has them, or gets those of the containers
	o.skip("targetPort", "portName", "portDiscovery", "appProtocol")
	o.ignore("timeout", "retries", "headers", "match", "rewrite", "redirect", "mirror", "cors", "corsPolicy",
		"trafficPolicy", "apex", "primary", "canary", "backends", "gatewayRefs", "meshName", "delegation")
	o.done()
}

// gateway is a gateway as Istio names it: jx-gateway.istio-system.svc.cluster.local is
// istio-system/jx-gateway.
func gateway(name string) string {
	host, _, found := strings.Cut(name, ".svc")
	if labels := strings.Split(host, "."); found && len(labels) == 2 {
		return labels[1] + "/" + labels[0]
	}
	return name
}

// analysis reads weights and limits.
func (r *reader) analysis(o *object) {
	r.pace(o)
	r.set("stepWeights", strings.Join(o.texts("stepWeights"), ","))
	r.set("readyThreshold", o.text("primaryReadyThreshold"))
	for _, strategy := range []string{"iterations", "match"} {
		if _, ok := o.fields[strategy]; ok {
			r.wrong(o.path+"."+strategy, "releases by weight only: take it out, and give stepWeight or stepWeights")
		}
		o.skip(strategy)
	}
	o.ignore("canaryReadyThreshold", "stepWeightPromotion", "webhooks", "alerts", "mirror", "mirrorWeight",
		"sessionAffinity", "cookie")
	r.metrics(o)
	o.done()
}

// pace reads how fast the weight grows.
func (r *reader) pace(o *object) {
	for _, name := range []string{"interval", "threshold", "maxWeight", "stepWeight"} {
		r.set(name, o.text(name))
	}
}

// Names of the metrics that are built in: Flagger's, and those that its first versions asked for
// themselves.
const (
	successRate = "request-success-rate"
	duration    = "request-duration"
)

var builtIn = map[string]string{
	successRate: successRate, duration: duration, "istio_requests_total": successRate,
	"istio_request_duration_seconds_bucket": duration}

// metrics reads a list of checks. As with Flagger, a built-in metric that is not in the list is not
// checked.
func (r *reader) metrics(o *object) {
	list := o.list("metrics")
	r.set("requestSuccessRate", "off")
	r.set("requestDuration", "off")
	if len(list) == 0 {
		r.spec.Warnings = append(
			r.spec.Warnings, o.path+
				".metrics is empty: nothing is checked, and every candidate that serves is promoted")
	}
	var custom []metric
	for i, item := range list {
		path := fmt.Sprintf("%s.metrics[%d]", o.path, i)
		fields, ok := item.(map[string]any)
		if !ok {
			r.wrong(path, "give name, thresholdRange and query")
			continue
		}
		if m, isCustom := r.metric(r.object(path, fields)); isCustom {
			custom = append(custom, m)
		}
	}
	if len(custom) > 0 {
		text, err := yaml.Marshal(custom)
		if err != nil {
			r.wrong(o.path+".metrics", "%v", err)
			return
		}
		r.set("metrics", string(text))
	}
}

// metric reads one check. The limit of a built-in metric it sets; a custom one it returns.
func (r *reader) metric(o *object) (custom metric, isCustom bool) {
	name, interval, query := o.text("name"), o.text("interval"), o.text("query")
	limits := o.child("thresholdRange")
	least, most, threshold := limits.text("min"), limits.text("max"), o.text("threshold")
	limits.done()
	variables, _ := o.fields["templateVariables"].(map[string]any)
	_, referred := o.fields["templateRef"]
	o.skip("templateVariables", "templateRef")
	o.done()
	switch kind := builtIn[name]; {
	case name == "":
		r.wrong(o.path+".name", "is missing: give request-success-rate, request-duration or a name of your own")
	case kind == successRate && query == "":
		r.limit(o.path, "requestSuccessRate", cmp.Or(least, threshold), most, "max", "")
	case kind == duration && query == "":
		r.limit(o.path, "requestDuration", cmp.Or(most, threshold), least, "min", "ms")
	case query == "" && referred:
		r.wrong(o.path+".templateRef",
			"the MetricTemplate is in a cluster, and none was asked: give its query in its place")
	case query == "":
		r.wrong(o.path, "%q is not built in (request-success-rate, request-duration) and has no query", name)
	default:
		if least == "" && most == "" {
			most = threshold // Flagger takes the older threshold of a query as the maximum
		}
		return metric{
			Name: name, Query: query, Interval: interval, ThresholdRange: r.between(o.path, least, most),
			TemplateVariables: variables}, true
	}
	return metric{}, false
}

// limit sets the limit of a built-in metric, which has one end.
func (r *reader) limit(path, parameter, value, other, otherName, unit string) {
	switch _, err := strconv.ParseFloat(value, 64); {
	case other != "":
		r.wrong(path+".thresholdRange."+otherName, "%s has no such limit: take it out", parameter)
	case value == "":
		r.wrong(path, "it has no threshold: give thresholdRange")
	case err != nil:
		r.wrong(path, "its threshold %q is no number", value)
	default:
		r.set(parameter, value+unit)
	}
}

// between returns a thresholdRange with the ends that are given.
func (r *reader) between(path, least, most string) map[string]any {
	limits := map[string]any{}
	for _, limit := range [][2]string{{"min", least}, {"max", most}} {
		f, err := strconv.ParseFloat(limit[1], 64)
		switch {
		case err == nil:
			limits[limit[0]] = f
		case limit[1] != "":
			r.wrong(path+".thresholdRange."+limit[0], "%q is no number", limit[1])
		}
	}
	return limits
}

// values reads the block of a Jenkins X chart: that of v2 (canaryAnalysis with
// metrics.requestSuccessRate and requestDuration, host), that of 2019 (enable, service, a list of
// metrics) and that of v3 (analysis with metrics.latency). A limit that is not given keeps its
// default.
func (r *reader) values(document map[string]any, o *object) {
	enabled := cmp.Or(o.text("enabled"), o.text("enable"))
	r.spec.Disabled = enabled != "true"
	if enabled != "true" && enabled != "false" {
		r.wrong("canary.enabled", "%q is neither true nor false", enabled)
	}
	r.set("progressDeadlineSeconds", o.text("progressDeadlineSeconds"))
	host := o.text("host")
	r.set("hosts", host)
	o.skip("labels", "gatewayLabels") // of the objects that the chart makes
	if _, ok := o.fields["service"]; ok {
		r.service(o.child("service"))
	}
	if service, ok := document["service"].(map[string]any); ok {
		outer := r.object("service", service)
		r.set("port", outer.text("externalPort"))
	}
	for _, name := range []string{"canaryAnalysis", "analysis"} {
		if _, ok := o.fields[name]; ok {
			r.chartAnalysis(o.child(name))
		}
	}
	if host != "" && r.spec.Values["gateways"] == "" { // the chart's own template names one, which values do not say
		r.spec.Warnings = append(
			r.spec.Warnings, "canary.host is for callers inside of the mesh, unless parameter gateways "+
				"names a gateway as well")
	}
	o.done()
}

// chartAnalysis reads the analysis of a chart, whose metrics may be a list, as Flagger's, or a map.
func (r *reader) chartAnalysis(o *object) {
	if _, isList := o.fields["metrics"].([]any); isList {
		r.analysis(o)
		return
	}
	r.pace(o)
	metrics := o.child("metrics")
	metrics.skip("requestSuccessRate", "requestDuration", "latency")
	for _, m := range []struct{ name, parameter, unit string }{
		{"requestSuccessRate", "requestSuccessRate", ""}, {"requestDuration", "requestDuration", "ms"},
		{"latency", "requestDuration", "ms"}} {
		if _, ok := metrics.fields[m.name]; !ok {
			continue
		}
		one := metrics.child(m.name)
		one.skip("interval") // each check is of all that the interval of the analysis counted
		r.limit(one.path, m.parameter, one.text("threshold"), "", "", m.unit)
		one.done()
	}
	metrics.done()
	o.done()
}
