package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/sethvargo/go-envconfig"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/canary-tasks/canary-tasks/lib/canary"
	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/kube/client"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/show"
)

// Run is the whole of a step: it reads the configuration out of the environment, does what the step
// is for, and returns the exit code.
func Run(ctx context.Context, step string, do func(*Release, context.Context) error) int {
	limitMemory()
	r, err := fromEnvironment(ctx, step, os.Stdout)
	if r == nil {
		(&report.Reporter{Out: os.Stdout}).Lines(err.Error())
		return int(codeOf(err))
	}
	return int(r.run(ctx, func(r *Release, ctx context.Context) error {
		if err != nil {
			return err
		}
		return do(r, ctx)
	}))
}

// run does what a step is for, and says how it ended, last of all. A step that failed rolls the
// release back first where onFailure says so.
func (r *Release) run(ctx context.Context, do func(*Release, context.Context) error) report.Code {
	begin := time.Now()
	err := attempt(func() error { return do(r, ctx) })
	code := codeOf(err)
	if code != report.Done && r.Step.OnFailure == config.Rollback && r.Report.Step != config.Rollback {
		r.Report.Lines(fmt.Sprintf(
			"rolling back before this step exits with code %d (onFailure=rollback): %v", code, err))
		r.rollbackOnFailure(ctx)
	}
	r.Report.Say("%s took %.1f s and %d requests to the API server", r.Report.Step, time.Since(begin).Seconds(),
		r.Client.Calls())
	if err != nil {
		r.verdict = fmt.Sprintf("%v (exit code %d, %s)", err, code, report.Codes[code].Name)
	}
	r.Report.Lines(r.verdict)
	return code
}

// attempt does something. A panic is an error like others: traffic has to go back also where this
// program is wrong.
func attempt(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(os.Stderr, "%s", debug.Stack())
			err = fmt.Errorf("internal error; please report it with the log above: %v", p)
		}
	}()
	return do()
}

// rollbackOnFailure does in this step what rollback does in a Pipeline's finally: this run's
// release is undone, and nothing else. What comes of it is said, and changes nothing of how the
// step ends.
func (r *Release) rollbackOnFailure(ctx context.Context) {
	if r.Step.RunID == "" { // which would undo the last release, whosever it is
		r.Report.Say("not rolled back: there is no runId to tell whose release it is")
		return
	}
	r.rollbackHere(ctx)
}

// rollbackHere runs rollback within another step. What comes of it is said.
func (r *Release) rollbackHere(ctx context.Context) {
	limited, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	// terminated, before or meanwhile: as far as the time allows
	context.AfterFunc(ctx, func() { time.AfterFunc(graceful, cancel) })
	undo := *r
	undo.Config, undo.Results, undo.verdict = nil, "", "" // as rollback has them; the step's results are not rollback's
	if err := undo.Rollback(limited); err != nil {
		r.Report.Say("not rolled back: %v", err)
		return
	}
	r.Report.Say("%s", undo.verdict)
}

// RunInit is Run for canary-init, which takes the whole configuration.
func RunInit(ctx context.Context) int {
	return Run(ctx, "canary-init", func(r *Release, ctx context.Context) error {
		lookup, wrong := r.specification(ctx, envconfig.OsLookuper())
		cfg, err := config.LoadInit(ctx, lookup)
		var problems config.Problems
		if err != nil && !errors.As(err, &problems) {
			return err
		}
		problems = append(problems, wrong...)
		for _, warning := range cfg.Warnings {
			r.Report.Say("warning: the specification's %s", warning)
		}
		r.Config = &cfg
		return r.Init(ctx, problems)
	})
}

// RunRollback is Run for rollback, which puts the environment repository right by a function of the
// caller's: the other steps need no Git.
func RunRollback(ctx context.Context, put PutRight) int {
	return Run(ctx, config.Rollback, func(r *Release, ctx context.Context) error {
		r.PutRight = put
		return r.Rollback(ctx)
	})
}

// specification puts what canary or specFile name in the place of the parameter spec, and queries
// in the place of MetricTemplates.
func (r *Release) specification(ctx context.Context, lookup envconfig.Lookuper) (envconfig.Lookuper, config.Problems) {
	value := func(name string) string {
		text, _ := lookup.Lookup((config.Parameter{Name: name}).Env())
		return strings.TrimSpace(text)
	}
	read := map[string]func(string) (string, error){
		"spec":     func(text string) (string, error) { return text, nil },
		"canary":   func(name string) (string, error) { return r.canary(ctx, name) },
		"specFile": r.specFile,
	}
	given := slices.DeleteFunc(
		[]string{"spec", "canary", "specFile"}, func(name string) bool { return value(name) == "" })
	if len(given) == 0 {
		return lookup, nil
	}
	from := given[0]
	if len(given) > 1 {
		return lookup, config.Problems{
			{Parameter: given[1], Value: value(given[1]),
				Remedy: fmt.Sprintf("set only one of %s", strings.Join(given, ", "))}}
	}
	text, err := read[from](value(from))
	if err != nil {
		return lookup, config.Problems{{Parameter: from, Value: value(from), Remedy: err.Error()}}
	}
	text, problems := r.follow(ctx, text)
	spec := map[string]string{(config.Parameter{Name: "spec"}).Env(): text}
	return envconfig.MultiLookuper(envconfig.MapLookuper(spec), lookup), problems
}

// specFile reads a file of the workspace. The error says what to do.
func (r *Release) specFile(path string) (string, error) {
	if r.Source == "" {
		return "", errors.New(
			"bind the workspace source, in which it is: -w name=source,claimName=NAME or -w name=source,config=NAME")
	}
	f, err := os.OpenInRoot(r.Source, path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("there is no such file in the workspace source: give its path from there")
	}
	if err != nil {
		return "", fmt.Errorf("give the path of a file in the workspace source: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, canary.MaxText+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("give the path of a file in the workspace source: %w", err)
	case len(text) > canary.MaxText:
		return "", fmt.Errorf(
			"it is longer than %d bytes: give a file that has the specification alone", canary.MaxText)
	case strings.TrimSpace(string(text)) == "":
		return "", errors.New(
			"the file is empty: give one with a Flagger Canary, or with values that have a canary block")
	}
	return string(text), nil
}

// canary reads a Canary of the cluster. The error says what to do.
func (r *Release) canary(ctx context.Context, name string) (string, error) {
	if len(validation.IsDNS1123Subdomain(name)) > 0 {
		return "", errors.New("give the name of a Canary")
	}
	o, err := r.Client.Get(ctx, kube.Canary, name, nil)
	switch {
	case errors.Is(err, kube.ErrNotServed):
		return "", errors.New(
			"the cluster has no Canary resource: install Flagger's custom resource definitions (its operator is " +
				"not needed), or give spec")
	case err != nil:
		return "", fmt.Errorf("it could not be read: %w", err)
	case o == nil:
		return "", fmt.Errorf(
			"there is no such Canary in namespace %s: give the name of one, or give spec", r.Client.Namespace)
	}
	r.about(o)
	text, err := yaml.Marshal(o.Object)
	return string(text), err
}

// follow puts the queries of MetricTemplates in the place of references to them.
func (r *Release) follow(ctx context.Context, text string) (string, config.Problems) {
	references := canary.References([]byte(text))
	if len(references) == 0 {
		return text, nil
	}
	if len(references) > config.MaxMetrics {
		return "", config.Problems{
			{Parameter: "spec", Value: fmt.Sprintf("%d MetricTemplates", len(references)),
				Remedy: fmt.Sprintf("refer to at most %d", config.MaxMetrics)}}
	}
	var problems config.Problems
	queries := map[canary.Reference]string{}
	for _, ref := range references {
		namespace := cmp.Or(ref.Namespace, r.Client.Namespace)
		wrong := func(remedy string, args ...any) {
			problems = append(
				problems, config.Problem{
					Parameter: "spec", Value: "templateRef " + namespace + "/" + ref.Name,
					Remedy: fmt.Sprintf(remedy, args...)})
		}
		var template struct {
			Spec struct {
				Provider struct{ Type, Address string }
				Query    string
			}
		}
		switch o, err := r.Client.In(namespace).Get(ctx, kube.MetricTemplate, ref.Name, &template); {
		case errors.Is(err, kube.ErrNotServed):
			wrong("the cluster has no MetricTemplate resource: install Flagger's custom resource definitions (its " +
				"operator is not needed), or give the query in its place")
		case err != nil:
			wrong("it could not be read: %v. Allow the account to get metrictemplates.flagger.app in namespace %s, "+
				"or give the query in its place", err, namespace)
		case o == nil:
			wrong("there is none: make it, or give the query in its place")
		case template.Spec.Provider.Type != "prometheus":
			wrong("it asks %q: only Prometheus is asked", template.Spec.Provider.Type)
		case strings.TrimSpace(template.Spec.Query) == "":
			wrong("it has no query")
		default:
			r.Report.Say("MetricTemplate %s/%s is followed; its query is asked of the Prometheus of "+
				"parameter prometheus, not of %s", namespace, ref.Name,
				cmp.Or(show.Address(template.Spec.Provider.Address), "its own"))
			queries[ref] = template.Spec.Query
		}
	}
	if len(problems) > 0 {
		return "", problems
	}
	inlined, err := canary.Inline([]byte(text), queries)
	if err != nil {
		return "", config.Problems{{Parameter: "spec", Value: "YAML", Remedy: err.Error()}}
	}
	return string(inlined), nil
}

func codeOf(err error) report.Code {
	var coded *report.Error
	var problems config.Problems
	switch {
	case err == nil:
		return report.Done
	case errors.As(err, &coded):
		return coded.Code
	case errors.As(err, &problems), errors.Is(err, kube.ErrNotServed):
		return report.Misconfig
	}
	return report.Undecided
}

// fromEnvironment makes a step. With mistakes in its configuration it returns them and, where they
// leave the target known, the step: what it has to roll back can be found.
func fromEnvironment(ctx context.Context, step string, out io.Writer) (*Release, error) {
	s, wrong := config.LoadStep(ctx, step, envconfig.OsLookuper())
	switch known := s.Target != "" && s.Namespace != ""; {
	case step == config.CanaryInit && !known:
		_, wrong = config.LoadInit(ctx, envconfig.OsLookuper()) // all mistakes at once
		return nil, wrong
	case step == config.CanaryInit: // which reads its configuration whole
		wrong = nil
	case wrong != nil && (!known || s.OnFailure != config.Rollback):
		return nil, wrong
	}
	rc, err := restConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the cluster: %w", err)
	}
	client, err := client.New(rc, s.Namespace)
	if err != nil {
		return nil, err
	}
	r := &Release{
		Client: client, Request: Request{Step: s}, Results: os.Getenv("CANARY_RESULTS"),
		PrometheusConfig: os.Getenv("CANARY_PROMETHEUS_CONFIG"),
		Source:           os.Getenv("CANARY_SOURCE"), Patience: patience, Outage: maxOutage,
		Report: &report.Reporter{Out: out, Client: client, Step: step, About: map[string]any{
			"apiVersion": "apps/v1", "kind": "Deployment", "namespace": s.Namespace, "name": s.Target,
		}},
	}
	client.Waiting = waiting(r.Report)
	return r, wrong
}

// restConfig is that of the pod, or, outside of a cluster, of KUBECONFIG.
func restConfig() (*rest.Config, error) {
	if path := os.Getenv(clientcmd.RecommendedConfigPathEnvVar); path != "" {
		return clientcmd.BuildConfigFromFlags("", path)
	}
	return rest.InClusterConfig()
}
