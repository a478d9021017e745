// Command promote makes stable what was judged and gives it all the traffic.
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
	code := release.Run(ctx, "promote", (*release.Release).Promote)
	stop()
	os.Exit(code)
}
