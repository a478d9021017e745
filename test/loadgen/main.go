// Command loadgen sends requests at a steady rate through a caller of the mesh stand-in and prints, second by second,
// which version answered what. It ends with 1 when any attempt was not answered with 200.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/canary-tasks/canary-tasks/test/load"
)

func main() {
	var plan load.Plan
	flag.StringVar(&plan.URL, "url", "", "what to ask for, as an application would: http://web.shop/")
	flag.StringVar(&plan.Proxy, "proxy", "127.0.0.1:15001", "`address` of the caller's proxy")
	flag.IntVar(&plan.Rate, "rate", 100, "requests per second")
	flag.DurationVar(&plan.For, "for", 30*time.Second, "how long")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	failed, err := run(ctx, plan)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(2)
	}
	if failed {
		os.Exit(1)
	}
}

func run(ctx context.Context, plan load.Plan) (failed bool, err error) {
	r, err := load.Start(ctx, plan)
	if err != nil {
		return false, err
	}
	r.Wait()
	samples := r.Samples()
	for i, counts := range load.PerSecond(samples) {
		fmt.Printf("%3d s  %s\n", i, counts)
	}
	counts := load.Count(samples)
	fmt.Printf("%d requests: %s\n", counts.Total(), counts)
	return counts.Failed() > 0, nil
}
