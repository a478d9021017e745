// Command calibrate measures the judge by simulation and writes what it finds to docs/analysis.md,
// with its plots.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

func main() {
	dir := flag.String("dir", "docs", "folder of the page and its plots")
	runs := flag.Int("runs", 20000,
		"how many healthy releases are simulated in each case; a tenth as many failing ones")
	flag.Parse()
	begin := time.Now()
	if err := write(*dir, measure(*runs)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("written to %s after %s\n", *dir, time.Since(begin).Round(time.Second))
}

type measured struct {
	Runs        int
	Usual, Long []healthy
	Outages     []outage
	Detection   []detection
	Quiet       []quiet
}

// What takes long is simulated less often: one release in so many.
const (
	outageRuns    = 4
	detectionRuns = 10
)

// measure runs all simulations.
func measure(runs int) measured {
	return measured{Runs: runs, Usual: measureHealthy(usual, false, runs), Long: measureHealthy(long, true, runs),
		Outages:   measureOutages(runs / outageRuns),
		Detection: measureDetection(runs / detectionRuns), Quiet: measureQuiet(runs)}
}
