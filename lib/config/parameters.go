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
	{"target", "name", "", "the Deployment to release: the one that Git and Helm write", StepNames, false},
	{"namespace", "name", "$(context.taskRun.namespace)", "the namespace of the target", StepNames, false},
	{"expect", "version, chart or image", "",
		"what the target has to have before the release begins, waited for up to progressDeadlineSeconds: 1.2.3, " +
			"shop-1.2.3 (the chart's label), or an image; default: whatever it has", initOnly, false},
	{"spec", "YAML", "",
		"a Flagger Canary, or the values of a Jenkins X chart with a canary block; parameters that are " +
			"given beside it are stronger", initOnly, false},
	{"canary", "name", "", "a Flagger Canary in the namespace to take the specification from, instead of spec",
		initOnly, false},
	{"specFile", "path", "",
		"a file in the workspace source to take the specification from, instead of spec: env/values.yaml", initOnly,
		true},
	{"service", "name", "", "the Service that people call; default: the target's name", initOnly, false},
	{"port", "name or number", "", "a port of the Service; where there is no Service yet, the number it gets (80)",
		initOnly, false},
	{"hosts", "names, by comma", "",
		"hosts of the VirtualService that is made where there is none; the Service's name is added where " +
			"mesh is among the gateways", initOnly, false},
	{"gateways", "names, by comma", "",
		"gateways of the VirtualService that is made where there is none; default: mesh", initOnly, false},
	{"virtualService", "name", "", "the VirtualService; default: the Service's name", initOnly, false},
	{"route", "name", "", "the name of the HTTP route, needed where several lead to both versions", initOnly, false},
	{"interval", "duration", "1m", "how long each weight is observed before it is judged", initOnly, false},
	{"threshold", "checks", "5", "how many failed checks end the release", initOnly, false},
	{"stepWeight", "percent", "", "by how much the candidate's weight grows; default 20", initOnly, false},
	{"maxWeight", "percent", "", "the weight after which the candidate is promoted; default 60", initOnly, false},
	{"stepWeights", "percents, by comma", "", "the weights one by one, instead of stepWeight and maxWeight", initOnly,
		false},
	{"progressDeadlineSeconds", "seconds", "600", "how long a Deployment may take until its pods serve", initOnly,
		false},
	{"readyThreshold", "percent", "100", "how many of a Deployment's pods must serve", initOnly, false},
	{"requestSuccessRate", "percent, or off", "99", "the least share of requests that must be answered without a 5xx",
		initOnly, false},
	{"requestDuration", "duration, or off", "500ms", "the most that 99 % of the requests may take", initOnly, false},
	{"metrics", "YAML", "",
		"checks by PromQL of one's own, as Flagger's Canary has them: a list of at most 50 of name, query, " +
			"thresholdRange (min, max), interval, templateVariables; a query takes {{ namespace }}, {{ target }}, " +
			"{{ interval }}, {{ variables.NAME }} and Flagger's other values, and nothing else of templates", initOnly,
		false},
	{"alpha", "probability", "0.05", "how often a healthy release may be rejected early, however often it is looked at",
		initOnly, false},
	{"baseline", "limits or primary", "limits",
		"primary: being clearly worse than stable is enough to be rejected early, even within the limits", initOnly,
		false},
	{"earlyPass", "true or false", "false",
		"whether a weight is passed as soon as the candidate is shown to be good, before its interval is over",
		initOnly, false},
	{"prometheus", "URL", DefaultPrometheus,
		"the Prometheus that scrapes Istio's metrics; credentials are sent to this address and to no other; analyze " +
			"and promote ask what canary-init asked, where there are none and this is not given; a query string is " +
			"sent with every query and is not kept, so give it to each of them", asksPrometheus, false},
	{"prometheusSecret", "name", "canary-tasks-prometheus",
		"a Secret whose file http.yaml says how to get in to Prometheus: basic_auth, authorization, tls_config, " +
			"http_headers, as in Prometheus' own configuration; it need not exist", asksPrometheus, false},
	{"allow", "kind=value, by comma", "",
		"what a specification may claim: host=*.shop.example.com, gateway=istio-ingress/shared, and prometheus=URL, " +
			"to which credentials are sent as well; default: the Service's names in the mesh and gateway mesh, " +
			"where the pipeline runs in another namespace than the target's; else any host and gateway", asksPrometheus,
		false},
	{"drain", "duration", "5s",
		"how long proxies and open connections are given after traffic was moved, before pods are ended", initOnly,
		false},
	{"deadline", "duration", "50m",
		"the longest that the release may take until it is promoted: it is refused if it could take longer, " +
			"promotion or rollback included, and goes back when this is over", initOnly, false},
	{"onBusy", "wait or fail", "wait", "what to do while another run releases the target", initOnly, false},
	{"takeover", "true or false", "true", "whether a newer revision ends a release of an older one", initOnly, false},
	{"retryRejected", "true or false", "false", "whether a revision that was rejected is released again", initOnly,
		false},
	{"acceptUncovered", "Kind/name, by comma", "",
		"objects that select the target's pods and not stable's, and may stay so", initOnly, false},
	{"stepAccounts", "step=account, by comma", "",
		"the ServiceAccounts of the other steps, where they have their own, so that their permissions are checked " +
			"as well: promote=canary-promote; default: all steps have this one's", initOnly, false},
	{"git", "off, commit or pull-request", "pull-request",
		"how the environment repository is put back to the version that serves, after a rollback", git, false},
	{"gitRepository", "URL", "",
		"the environment repository: https://..., ssh://... or git@host:path; without one the log says what to change",
		git, false},
	{"gitBranch", "name", "", "its branch; default: the server's default branch", git, false},
	{"gitFile", "paths, by comma", "",
		"files that may have the version; default: where Jenkins X keeps it, env/requirements.yaml, " +
			"helmfiles/NAMESPACE/helmfile.yaml or helmfile.yaml", git, false},
	{"gitPath", "keys, by space", "",
		"where the version stands in gitFile: spec releases [name=shop] version, in the document that is called as " +
			"the application if several have it; default: as Jenkins X has it", git, false},
	{"gitApp", "name", "",
		"the name of the application's dependency or release in the file; required where its chart has another name " +
			"than the target; default: the target's", git, false},
	{"gitEnvironment", "name", "production", "the environment's name in the jx promote command that the log says", git,
		false},
	{"gitProvider", "name", "",
		"whose server it is, for pull requests: github, gitlab, gitea, bitbucketcloud or bitbucketserver; " +
			"default: by the address", git, false},
	{"gitSecret", "name", "canary-tasks-git",
		"a Secret with username and password (a token), or ssh-privatekey and known_hosts; ca.crt for a private " +
			"authority; insecure=true to send the password to http://; it need not exist", []string{Rollback}, false},
	{"weight", "percent", "", "the candidate's weight", []string{ShiftWeight}, false},
	{"mode", "prepare, or nothing", "",
		"prepare makes stable and the route and keeps the Service, before the apply that turns the canary on for an " +
			"application that serves: its chart has no Service from then on", initOnly, true},
	{"mode", "rollback or detach", "rollback",
		"detach takes all that releases made away, and the target serves by itself again", []string{Rollback}, true},
	{"maxSteps", "number", "10", "how many weights the Pipeline has tasks for", initOnly, true},
	{"runNamespace", "name", "$(context.taskRun.namespace)",
		"the namespace of the PipelineRun, in which the next release looks whether it still runs", initOnly, true},
	{"runId", "uid", "",
		"the run that holds the target; rollback without one, which is by hand, undoes the last release", StepNames,
		true},
	{"runName", "name", "", "how the run is called in logs and in the record", StepNames, true},
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
