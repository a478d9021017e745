package config

import (
	"slices"
	"strings"
)

// Parameter is one of a step's parameters: what people give, as a Task parameter, and what the step
// reads, as a variable of its environment.
type Parameter struct {
	Name        string
	Unit        string // what a value is, for people
	Default     string // "" where there is none
	Description string
	Steps       []string // that take it
	Hidden      bool     // no parameter of the Pipeline, which sets it itself or has no use for it
}

// Env is the variable of the environment that carries the parameter: CANARY_, so that it collides
// with nothing that Jenkins X or Tekton set.
func (p Parameter) Env() string {
	var b strings.Builder
	b.WriteString("CANARY_")
	for _, r := range p.Name {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String())
}

// The steps of a release, in order.
const (
	CanaryInit  = "canary-init"
	ShiftWeight = "shift-weight"
	Analyze     = "analyze"
	Promote     = "promote"
	Rollback    = "rollback"
)

// Detach is the other mode of the step rollback, Prepare that of canary-init.
const (
	Detach  = "detach"
	Prepare = "prepare"
)

// StepNames lists the steps of a release, in order.
var StepNames = []string{CanaryInit, ShiftWeight, Analyze, Promote, Rollback}

var (
	initOnly = []string{CanaryInit}
	git      = []string{CanaryInit, Rollback} // checked before anything is changed, and acted on after a rollback

	asksPrometheus = []string{CanaryInit, Analyze, Promote}
)

// DefaultPrometheus is the address of Prometheus where none is given.
const DefaultPrometheus = "http://prometheus.istio-system:9090"

// Parameters is every parameter of every step: the Tasks, the Pipeline, their READMEs and what is
// checked come from it.
var Parameters = []Parameter{
	{
		Name: "target", Unit: "name", Steps: StepNames,
		Description: "the Deployment to release: the one that Git and Helm write"},
	{
		Name: "namespace", Unit: "name", Default: "$(context.taskRun.namespace)", Steps: StepNames,
		Description: "the namespace of the target"},
	{
		Name: "expect", Unit: "version, chart or image", Steps: initOnly,
		Description: "what the target has to have before the release begins, waited for up to " +
			"progressDeadlineSeconds: 1.2.3, shop-1.2.3 (the chart's label), or an image; default: whatever it has"},
	{
		Name: "spec", Unit: "YAML", Steps: initOnly,
		Description: "a Flagger Canary, or the values of a Jenkins X chart with a canary block; parameters that are " +
			"given beside it are stronger"},
	{
		Name: "canary", Unit: "name", Steps: initOnly,
		Description: "a Flagger Canary in the namespace to take the specification from, instead of spec"},
	{
		Name: "specFile", Unit: "path", Steps: initOnly, Hidden: true,
		Description: "a file in the workspace source to take the specification from, instead of spec: env/values.yaml"},
	{
		Name: "service", Unit: "name", Steps: initOnly,
		Description: "the Service that people call; default: the target's name"},
	{
		Name: "port", Unit: "name or number", Steps: initOnly,
		Description: "a port of the Service; where there is no Service yet, the number it gets (80)"},
	{
		Name: "hosts", Unit: "names, by comma", Steps: initOnly,
		Description: "hosts of the VirtualService that is made where there is none; the Service's name is added " +
			"where mesh is among the gateways"},
	{
		Name: "gateways", Unit: "names, by comma", Steps: initOnly,
		Description: "gateways of the VirtualService that is made where there is none; default: mesh"},
	{
		Name: "virtualService", Unit: "name", Steps: initOnly,
		Description: "the VirtualService; default: the Service's name"},
	{
		Name: "route", Unit: "name", Steps: initOnly,
		Description: "the name of the HTTP route, needed where several lead to both versions"},
	{
		Name: "interval", Unit: "duration", Default: "1m", Steps: initOnly,
		Description: "how long each weight is observed before it is judged"},
	{
		Name: "threshold", Unit: "checks", Default: "5", Steps: initOnly,
		Description: "how many failed checks end the release"},
	{
		Name: "stepWeight", Unit: "percent", Steps: initOnly,
		Description: "by how much the candidate's weight grows; default 20"},
	{
		Name: "maxWeight", Unit: "percent", Steps: initOnly,
		Description: "the weight after which the candidate is promoted; default 60"},
	{
		Name: "stepWeights", Unit: "percents, by comma", Steps: initOnly,
		Description: "the weights one by one, instead of stepWeight and maxWeight"},
	{
		Name: "progressDeadlineSeconds", Unit: "seconds", Default: "600", Steps: initOnly,
		Description: "how long a Deployment may take until its pods serve"},
	{
		Name: "readyThreshold", Unit: "percent", Default: "100", Steps: initOnly,
		Description: "how many of a Deployment's pods must serve"},
	{
		Name: "requestSuccessRate", Unit: "percent, or off", Default: "99", Steps: initOnly,
		Description: "the least share of requests that must be answered without a 5xx"},
	{
		Name: "requestDuration", Unit: "duration, or off", Default: "500ms", Steps: initOnly,
		Description: "the most that 99 % of the requests may take"},
	{
		Name: "metrics", Unit: "YAML", Steps: initOnly,
		Description: "checks by PromQL of one's own, as Flagger's Canary has them: a list of at " +
			"most 50 of name, query, " +
			"thresholdRange (min, max), interval, templateVariables; a query takes {{ namespace }}, {{ target }}, " +
			"{{ interval }}, {{ variables.NAME }} and Flagger's other values, and nothing else of templates"},
	{
		Name: "alpha", Unit: "probability", Default: "0.05", Steps: initOnly,
		Description: "how often a healthy release may be rejected early, however often it is looked at"},
	{
		Name: "baseline", Unit: "limits or primary", Default: "limits", Steps: initOnly,
		Description: "primary: being clearly worse than stable is enough to be rejected early, even within the limits"},
	{
		Name: "earlyPass", Unit: "true or false", Default: "false", Steps: initOnly,
		Description: "whether a weight is passed as soon as the candidate is shown to be good, " +
			"before its interval is over"},
	{
		Name: "prometheus", Unit: "URL", Default: DefaultPrometheus, Steps: asksPrometheus,
		Description: "the Prometheus that scrapes Istio's metrics; credentials are sent to this address " +
			"and to no other; analyze " +
			"and promote ask what canary-init asked, where there are none and this is not given; a query string is " +
			"sent with every query and is not kept, so give it to each of them"},
	{
		Name: "prometheusSecret", Unit: "name", Default: "canary-tasks-prometheus", Steps: asksPrometheus,
		Description: "a Secret whose file http.yaml says how to get in to Prometheus: basic_auth, " +
			"authorization, tls_config, http_headers, as in Prometheus' own configuration; it need not exist"},
	{
		Name: "allow", Unit: "kind=value, by comma", Steps: asksPrometheus,
		Description: "what a specification may claim: host=*.shop.example.com, " +
			"gateway=istio-ingress/shared, and prometheus=URL, " +
			"to which credentials are sent as well; default: the Service's names in the mesh and gateway mesh, " +
			"where the pipeline runs in another namespace than the target's; else any host and gateway"},
	{
		Name: "drain", Unit: "duration", Default: "5s", Steps: initOnly,
		Description: "how long proxies and open connections are given after traffic was moved, before pods are ended"},
	{
		Name: "deadline", Unit: "duration", Default: "50m", Steps: initOnly,
		Description: "the longest that the release may take until it is promoted: it is refused " +
			"if it could take longer, promotion or rollback included, and goes back when this is over"},
	{
		Name: "onBusy", Unit: "wait or fail", Default: "wait", Steps: initOnly,
		Description: "what to do while another run releases the target"},
	{
		Name: "takeover", Unit: "true or false", Default: "true", Steps: initOnly,
		Description: "whether a newer revision ends a release of an older one"},
	{
		Name: "retryRejected", Unit: "true or false", Default: "false", Steps: initOnly,
		Description: "whether a revision that was rejected is released again"},
	{
		Name: "acceptUncovered", Unit: "Kind/name, by comma", Steps: initOnly,
		Description: "objects that select the target's pods and not stable's, and may stay so"},
	{
		Name: "stepAccounts", Unit: "step=account, by comma", Steps: initOnly,
		Description: "the ServiceAccounts of the other steps, where they have their own, so that their " +
			"permissions are checked as well: promote=canary-promote; default: all steps have this one's"},
	{
		Name: "git", Unit: "off, commit or pull-request", Default: "pull-request", Steps: git,
		Description: "how the environment repository is put back to the version that serves, after a rollback"},
	{
		Name: "gitRepository", Unit: "URL", Steps: git,
		Description: "the environment repository: https://..., ssh://... or git@host:path; without one the " +
			"log says what to change"},
	{
		Name: "gitBranch", Unit: "name", Steps: git,
		Description: "its branch; default: the server's default branch"},
	{
		Name: "gitFile", Unit: "paths, by comma", Steps: git,
		Description: "files that may have the version; default: where Jenkins X keeps it, env/requirements.yaml, " +
			"helmfiles/NAMESPACE/helmfile.yaml or helmfile.yaml"},
	{
		Name: "gitPath", Unit: "keys, by space", Steps: git,
		Description: "where the version stands in gitFile: spec releases [name=shop] version, in the " +
			"document that is called as the application if several have it; default: as Jenkins X has it"},
	{
		Name: "gitApp", Unit: "name", Steps: git,
		Description: "the name of the application's dependency or release in the file; required where its " +
			"chart has another name than the target; default: the target's"},
	{
		Name: "gitEnvironment", Unit: "name", Default: "production", Steps: git,
		Description: "the environment's name in the jx promote command that the log says"},
	{
		Name: "gitProvider", Unit: "name", Steps: git,
		Description: "whose server it is, for pull requests: github, gitlab, gitea, " +
			"bitbucketcloud or bitbucketserver; default: by the address"},
	{
		Name: "gitSecret", Unit: "name", Default: "canary-tasks-git", Steps: []string{Rollback},
		Description: "a Secret with username and password (a token), or ssh-privatekey and " +
			"known_hosts; ca.crt for a private " +
			"authority; insecure=true to send the password to http://; it need not exist"},
	{
		Name: "weight", Unit: "percent", Steps: []string{ShiftWeight},
		Description: "the candidate's weight"},
	{
		Name: "mode", Unit: "prepare, or nothing", Steps: initOnly, Hidden: true,
		Description: "prepare makes stable and the route and keeps the Service, before the apply that " +
			"turns the canary on for an application that serves: its chart has no Service from then on"},
	{
		Name: "mode", Unit: "rollback or detach", Default: "rollback", Steps: []string{Rollback}, Hidden: true,
		Description: "detach takes all that releases made away, and the target serves by itself again"},
	{
		Name: "maxSteps", Unit: "number", Default: "10", Steps: initOnly, Hidden: true,
		Description: "how many weights the Pipeline has tasks for"},
	{
		Name: "runNamespace", Unit: "name", Default: "$(context.taskRun.namespace)", Steps: initOnly, Hidden: true,
		Description: "the namespace of the PipelineRun, in which the next release looks whether it still runs"},
	{
		Name: "runId", Unit: "uid", Steps: StepNames, Hidden: true,
		Description: "the run that holds the target; rollback without one, which is by hand, undoes the last release"},
	{
		Name: "runName", Unit: "name", Steps: StepNames, Hidden: true,
		Description: "how the run is called in logs and in the record"},
}

// OnFailure makes a step that fails roll the release back before it exits. It is no parameter of a
// Task: Tekton runs rollback in finally, and this is for pipelines that have no such thing, such as
// jenkins-x.yml.
var OnFailure = Parameter{Name: "onFailure", Unit: "rollback, or nothing"}

// specified are the parameters that a specification may give. Tasks pass no default for them, which
// would be stronger.
var specified = []string{
	"service", "port", "hosts", "gateways", "interval", "threshold", "stepWeight", "maxWeight", "stepWeights",
	"progressDeadlineSeconds", "readyThreshold",
	"requestSuccessRate", "requestDuration", "metrics", "prometheus"}

// TaskDefault is the default that a Task has for the parameter.
func (p Parameter) TaskDefault() string {
	if slices.Contains(specified, p.Name) {
		return ""
	}
	return p.Default
}

// Of lists the parameters of a step.
func Of(step string) []Parameter {
	var of []Parameter
	for _, p := range Parameters {
		for _, s := range p.Steps {
			if s == step {
				of = append(of, p)
			}
		}
	}
	return of
}
