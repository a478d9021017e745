package config

import "strings"

// Parameter is one of a step's parameters: what people give, as a Task parameter, and what the step reads, as a variable of its environment.
type Parameter struct {
	Name        string
	Unit        string // what a value is, for people
	Default     string // "" where there is none
	Description string
	Steps       []string // that take it
	Hidden      bool     // set by the Pipeline, not by people
}

// Env is the variable of the environment that carries the parameter: CANARY_, so that it collides with nothing that Jenkins X or Tekton set.
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

// Detach is the other mode of the step rollback.
const Detach = "detach"

// StepNames lists the steps of a release, in order.
var StepNames = []string{CanaryInit, ShiftWeight, Analyze, Promote, Rollback}

var initOnly = []string{CanaryInit}

// Parameters is every parameter of every step: the Tasks, the Pipeline, their READMEs and what is checked come from it.
var Parameters = []Parameter{
	{"target", "name", "", "the Deployment to release: the one that Git and Helm write", StepNames, false},
	{"namespace", "name", "$(context.taskRun.namespace)", "the namespace of the target", StepNames, false},
	{"service", "name", "", "the Service that people call; default: the target's name", initOnly, false},
	{"port", "name or number", "", "a port of the Service; where there is no Service yet, the number it gets (80)", initOnly, false},
	{"hosts", "names, by comma", "", "hosts of the VirtualService that is made where there is none; default: the Service's name", initOnly, false},
	{"gateways", "names, by comma", "", "gateways of the VirtualService that is made where there is none; default: mesh", initOnly, false},
	{"virtualService", "name", "", "the VirtualService; default: the Service's name", initOnly, false},
	{"route", "name", "", "the name of the HTTP route, needed where several lead to both versions", initOnly, false},
	{"interval", "duration", "1m", "how long each weight is observed before it is judged", initOnly, false},
	{"threshold", "checks", "5", "how many failed checks end the release", initOnly, false},
	{"stepWeight", "percent", "", "by how much the candidate's weight grows; default 20", initOnly, false},
	{"maxWeight", "percent", "", "the weight after which the candidate is promoted; default 60", initOnly, false},
	{"stepWeights", "percents, by comma", "", "the weights one by one, instead of stepWeight and maxWeight", initOnly, false},
	{"progressDeadlineSeconds", "seconds", "600", "how long a Deployment may take until its pods serve", initOnly, false},
	{"readyThreshold", "percent", "100", "how many of a Deployment's pods must serve", initOnly, false},
	{"requestSuccessRate", "percent, or off", "99", "the least share of requests that must be answered without a 5xx", initOnly, false},
	{"requestDuration", "duration, or off", "500ms", "the most that 99 % of the requests may take", initOnly, false},
	{"prometheus", "URL", "http://prometheus.istio-system:9090", "the Prometheus that scrapes Istio's metrics", initOnly, false},
	{"drain", "duration", "5s", "how long proxies and open connections are given after traffic was moved, before pods are ended", initOnly, false},
	{"deadline", "duration", "50m", "the longest that the release may take, promotion or rollback included", initOnly, false},
	{"onBusy", "wait or fail", "wait", "what to do while another run releases the target", initOnly, false},
	{"takeover", "true or false", "true", "whether a newer revision ends a release of an older one", initOnly, false},
	{"retryRejected", "true or false", "false", "whether a revision that was rejected is released again", initOnly, false},
	{"acceptUncovered", "Kind/name, by comma", "", "objects that select the target's pods and not stable's, and may stay so", initOnly, false},
	{"weight", "percent", "", "the candidate's weight", []string{ShiftWeight}, false},
	{"mode", "rollback or detach", "rollback", "detach takes all that releases made away, and the target serves by itself again", []string{Rollback}, true},
	{"maxSteps", "number", "10", "how many weights the Pipeline has tasks for", initOnly, true},
	{"runNamespace", "name", "$(context.taskRun.namespace)", "the namespace of the PipelineRun, in which the next release looks whether it still runs", initOnly, true},
	{"runId", "uid", "", "the run that holds the target; rollback without one, which is by hand, undoes the last release", StepNames, true},
	{"runName", "name", "", "how the run is called in logs and in the record", StepNames, true},
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
