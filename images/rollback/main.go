// Command rollback sends all traffic to stable, brings stable back to the revision it had and scales the candidate to zero.
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
	code := release.Run(ctx, "rollback", (*release.Release).Rollback)
	stop()
	os.Exit(code)
}
