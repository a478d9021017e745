// Command shift-weight gives the candidate of a release a share of the traffic.
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
	code := release.Run(ctx, "shift-weight", (*release.Release).Shift)
	stop()
	os.Exit(code)
}
