// Command shift-weight gives the candidate of a release a share of the traffic: it sets the two weights of one route of
// an Istio VirtualService.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sethvargo/go-envconfig"
	istio "istio.io/client-go/pkg/clientset/versioned/typed/networking/v1"
	"k8s.io/client-go/rest"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/routing"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "shift-weight:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	cfg, err := config.Load(ctx, envconfig.OsLookuper())
	if err != nil {
		return err
	}
	rc, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("finding the cluster: %w", err)
	}
	client, err := istio.NewForConfig(rc)
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	written, err := routing.SetWeight(ctx, client, cfg.Route, cfg.Weight)
	if err != nil {
		return err
	}
	how := "it was so already, nothing was written"
	if written {
		how = "written at " + time.Now().UTC().Format("15:04:05.000")
	}
	fmt.Printf("%s: %s has %d %%, %s %d %% (%s)\n", cfg.Route, cfg.Route.Candidate, cfg.Weight, cfg.Route.Stable, 100-cfg.Weight, how)
	return nil
}
