// Command analyze judges the candidate by what Prometheus counted since it got its weight, and
// takes its traffic away when it fails.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/canary-tasks/canary-tasks/lib/release"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := release.Run(ctx, "analyze", (*release.Release).Analyze)
	stop()
	os.Exit(code)
}
