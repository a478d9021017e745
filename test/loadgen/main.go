// Command loadgen sends requests at a steady rate and prints, second by second, which version
// answered what, and at the end the totals. It ends with 1 when an attempt was not answered with
// 200.
//
// With -listen it also sends what is asked for there (see load.Handler), until it is stopped;
// then -url may be left out.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/canary-tasks/canary-tasks/test/load"
)

func main() {
	plan := load.Plan{Header: http.Header{}}
	listen := flag.String("listen", "", "`address` of the control port: :8081")
	flag.StringVar(&plan.URL, "url", "", "what to ask for, as an application would: http://shop/")
	flag.IntVar(&plan.Rate, "rate", 100, "requests per second")
	flag.DurationVar(&plan.For, "for", 30*time.Second, "how long, at most 30m")
	flag.DurationVar(&plan.Timeout, "timeout", 0, "of one request; 0 is 10s")
	flag.StringVar((*string)(&plan.Protocol), "protocol", "http1", "http1, keepalive, http2, grpc or stream")
	flag.Func("header", "`name=value` of each request; may be repeated", func(s string) error {
		return load.AddHeader(plan.Header, s)
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	failed, err := run(ctx, *listen, plan)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(2)
	}
	if failed {
		os.Exit(1)
	}
}

func run(ctx context.Context, listen string, plan load.Plan) (failed bool, err error) {
	if listen != "" {
		listener, err := net.Listen("tcp", listen)
		if err != nil {
			return false, err
		}
		server := &http.Server{Handler: load.Handler(ctx), ReadHeaderTimeout: 10 * time.Second}
		defer server.Close()
		go func() { _ = server.Serve(listener) }()
	}
	if listen == "" || plan.URL != "" {
		if failed, err = send(ctx, os.Stdout, plan); err != nil {
			return false, err
		}
	}
	if listen != "" {
		<-ctx.Done()
	}
	return failed, nil
}

// send prints what came back in each second, and at the end in all.
func send(ctx context.Context, out io.Writer, plan load.Plan) (failed bool, err error) {
	r, err := load.Start(ctx, plan)
	if err != nil {
		return false, err
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	total, seen := load.Counts{}, 0
	for ended := false; !ended; {
		select {
		case <-second.C:
		case <-r.Done():
			ended = true
		}
		if samples := r.Since(seen); len(samples) > 0 {
			seen += len(samples)
			counts := load.Count(samples)
			for answer, n := range counts {
				total[answer] += n
			}
			fmt.Fprintf(out, "%s  %s\n", time.Now().Format(time.TimeOnly), counts)
		}
	}
	fmt.Fprintf(out, "%d requests: %s\n", total.Total(), total)
	return total.Failed() > 0, nil
}
