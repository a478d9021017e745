// Command rehearse says without any cluster what a configuration could see of an application's
// traffic, and plays releases with it: how long a candidate that fails would serve, and how many
// healthy ones would not be promoted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/sethvargo/go-envconfig"
	"sigs.k8s.io/yaml"

	"github.com/canary-tasks/canary-tasks/lib/analysis"
	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
	"github.com/canary-tasks/canary-tasks/lib/analysis/simulate"
	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/release"
)

// rehearsal is what to play.
type rehearsal struct {
	spec   string        // path of a YAML file with parameters by name; "" for the defaults
	rate   float64       // requests per second, of both versions
	errors float64       // share of stable's requests that fail
	scrape time.Duration // how often Prometheus scrapes
	runs   int
	seed   uint64
}

func main() {
	var r rehearsal
	flag.StringVar(&r.spec, "spec", "",
		"a YAML file with parameters by name, as for tkn pipeline start; the others have their defaults")
	flag.Float64Var(&r.rate, "rate", 100, "requests per second")
	flag.Float64Var(&r.errors, "errors", 0.001, "share of stable's requests that fail, from 0 to 1")
	flag.DurationVar(&r.scrape, "scrape", 15*time.Second, "how often Prometheus scrapes")
	flag.IntVar(&r.runs, "runs", 2000, "how many releases are played of each kind")
	flag.Uint64Var(&r.seed, "seed", 1, "of the random numbers: the same seed plays the same releases")
	flag.Parse()
	if err := r.play(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
}

// config reads the parameters.
func (r rehearsal) config(ctx context.Context) (config.Config, error) {
	values := map[string]string{
		"target": "app", "namespace": "default", "runNamespace": "default", "runId": "rehearsal"}
	if r.spec != "" {
		text, err := os.ReadFile(r.spec)
		if err != nil {
			return config.Config{}, fmt.Errorf("reading the parameters: %w", err)
		}
		var given map[string]any
		if err := yaml.Unmarshal(text, &given); err != nil {
			return config.Config{}, fmt.Errorf("%s: give a YAML map of parameters: %w", r.spec, err)
		}
		for name, value := range given {
			values[name] = fmt.Sprint(value)
		}
	}
	known := map[string]bool{}
	env := map[string]string{}
	for _, p := range config.Of(config.CanaryInit) {
		known[p.Name] = true
		env[p.Env()] = values[p.Name]
	}
	for name := range values {
		if !known[name] {
			return config.Config{}, fmt.Errorf("%s: there is no parameter %s", r.spec, name)
		}
	}
	return config.LoadInit(ctx, envconfig.MapLookuper(env))
}

func (r rehearsal) play(ctx context.Context, out io.Writer) error {
	if !(r.rate > 0) || !(r.errors >= 0 && r.errors < 1) || r.scrape < time.Second || r.runs < 1 ||
		math.IsInf(r.rate, 0) {
		return errors.New(
			"give a rate above 0, errors from 0 to below 1, a scrape interval of at least 1s and at least one run")
	}
	cfg, err := r.config(ctx)
	if err != nil {
		return err
	}
	const span = 30 * time.Minute
	w := r.history(&cfg, span)
	h := &analysis.History{
		Limits: analysis.Limits{SuccessRate: cfg.SuccessRate, RequestDuration: cfg.RequestDuration.Duration}}
	h.Add(w.Strata)
	_, lines, problems := release.Sight(&cfg, w, h, span)
	if len(problems) > 0 {
		return problems
	}
	for _, line := range lines {
		fmt.Fprintln(out, line)
	}
	if cfg.SuccessRate == 0 {
		return errors.New("requestSuccessRate is off: there is nothing to play")
	}
	return r.table(&cfg, out)
}

// table plays releases of each kind, and prints how they end.
func (r rehearsal) table(cfg *config.Config, out io.Writer) error {
	fmt.Fprintf(out, "\n%d releases of each kind, seed %d; requests come at random, and the "+
		"success rate alone is judged\n", r.runs, r.seed)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "candidate\tfrom weight\tnot promoted\tfound after\tbad answers served")
	limit := 1 - cfg.SuccessRate/100
	row := func(what string, rate float64, onset int) { fmt.Fprintln(table, what+r.row(cfg, rate, onset)) }
	row(fmt.Sprintf("healthy: %.3g %% fail", 100*r.errors), r.errors, 0)
	last := len(cfg.Weights) - 1
	for _, rate := range []float64{1.5 * limit, 2 * limit, 5 * limit, .2, 1} {
		if rate <= r.errors || rate > 1 {
			continue
		}
		row(fmt.Sprintf("%.3g %% fail", 100*rate), rate, 0)
		if last > 0 {
			row(fmt.Sprintf("%.3g %% fail", 100*rate), rate, last)
		}
	}
	return table.Flush()
}

// row plays releases of a candidate that fails so often from one of the weights on.
func (r rehearsal) row(cfg *config.Config, rate float64, onset int) string {
	s := r.scenario(cfg)
	s.Candidate, s.Onset = rate, onset
	outcomes := simulate.Run(s, r.runs, r.seed)
	n, at, bad := 0, time.Duration(0), 0.0
	for _, o := range outcomes {
		found := o.Sequential
		if o.Check.Rejected && (!found.Rejected || o.Check.At < found.At) {
			found = o.Check
		}
		if found.Rejected {
			n, at, bad = n+1, at+found.At, bad+found.Requests*rate
		}
	}
	lost, _ := simulate.Share(outcomes, func(o simulate.Outcome) bool { return !o.Promoted || o.Sequential.Rejected })
	after, served := "-", "-"
	if n > 0 && rate > r.errors {
		after = (at / time.Duration(n)).Round(time.Second).String()
		served = strconv.FormatFloat(bad/float64(n), 'f', 0, 64)
	}
	return fmt.Sprintf("\t%d %%\t%.1f %%\t%s\t%s", cfg.Weights[onset], 100*lost, after, served)
}

// history is what stable would have answered, evenly.
func (r rehearsal) history(cfg *config.Config, span time.Duration) counts.Window {
	to := time.Now()
	w := counts.Window{From: to.Add(-span), To: to, Interval: r.scrape, Reporter: "source|waypoint"}
	bound := strconv.FormatFloat(float64(cfg.RequestDuration.Duration)/float64(time.Millisecond), 'f', -1, 64)
	for from := w.From; from.Before(to); from = from.Add(r.scrape) {
		n := r.rate * r.scrape.Seconds()
		c := counts.Counts{Requests: n, Errors: n * r.errors}
		if cfg.RequestDuration.Duration > 0 {
			c.Within = map[string]float64{bound: n, "+Inf": n}
		}
		w.Strata = append(w.Strata, counts.Stratum{From: from, To: from.Add(r.scrape), Stable: c})
		w.Stable.Requests, w.Stable.Errors = w.Stable.Requests+c.Requests, w.Stable.Errors+c.Errors
	}
	if cfg.RequestDuration.Duration > 0 {
		w.Stable.Within = map[string]float64{bound: w.Stable.Requests, "+Inf": w.Stable.Requests}
	}
	return w
}

func (r rehearsal) scenario(cfg *config.Config) simulate.Scenario {
	s := simulate.Scenario{
		Rate: r.rate, Poisson: true, Interval: cfg.Interval.Duration, Scrape: r.scrape, Threshold: cfg.Threshold,
		SuccessRate: cfg.SuccessRate, Alpha: cfg.Alpha, Stable: r.errors, History: 240}
	for _, w := range cfg.Weights {
		s.Weights = append(s.Weights, float64(w)/100)
	}
	return s
}
