// Command canary-init checks a release, takes the lock of its target, makes or repairs the two
// copies of the workload and brings the candidate up.
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
	code := release.RunInit(ctx)
	stop()
	os.Exit(code)
}
