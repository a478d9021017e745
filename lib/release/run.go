package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/sethvargo/go-envconfig"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// Run is the whole of a step: it reads the configuration out of the environment, does what the step is for, and returns the exit code.
func Run(ctx context.Context, step string, do func(*Release, context.Context) error) int {
	begin := time.Now()
	r, err := fromEnvironment(ctx, step, os.Stdout)
	if err != nil {
		fmt.Println(err)
		return int(codeOf(err))
	}
	err = do(r, ctx)
	r.Report.Say("%s took %.1f s and %d requests to the API server", step, time.Since(begin).Seconds(), r.Client.Calls())
	code := codeOf(err)
	if err != nil {
		r.verdict = fmt.Sprintf("%v (exit code %d, %s)", err, code, report.Codes[code].Name)
	}
	r.Report.Say("%s", r.verdict)
	return int(code)
}

// RunInit is Run for canary-init, which takes the whole configuration.
func RunInit(ctx context.Context) int {
	return Run(ctx, "canary-init", func(r *Release, ctx context.Context) error {
		cfg, err := config.LoadInit(ctx, envconfig.OsLookuper())
		var problems config.Problems
		if err != nil && !errors.As(err, &problems) {
			return err
		}
		r.Config = &cfg
		return r.Init(ctx, problems)
	})
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

func fromEnvironment(ctx context.Context, step string, out io.Writer) (*Release, error) {
	s, err := config.LoadStep(ctx, step, envconfig.OsLookuper())
	if step == config.CanaryInit && (s.Target == "" || s.Namespace == "") {
		_, err = config.LoadInit(ctx, envconfig.OsLookuper()) // all mistakes at once
	}
	if err != nil && (step != config.CanaryInit || s.Target == "" || s.Namespace == "") {
		return nil, err
	}
	rc, err := restConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the cluster: %w", err)
	}
	client, err := kube.New(rc, s.Namespace)
	if err != nil {
		return nil, err
	}
	return &Release{
		Client: client, Step: s, Results: os.Getenv("CANARY_RESULTS"),
		Report: &report.Reporter{Out: out, Client: client, Step: step, About: map[string]any{
			"apiVersion": "apps/v1", "kind": "Deployment", "namespace": s.Namespace, "name": s.Target,
		}},
	}, nil
}

// restConfig is that of the pod, or, outside of a cluster, of KUBECONFIG.
func restConfig() (*rest.Config, error) {
	if path := os.Getenv(clientcmd.RecommendedConfigPathEnvVar); path != "" {
		return clientcmd.BuildConfigFromFlags("", path)
	}
	return rest.InClusterConfig()
}
