package main

import (
	_ "embed" // for the introduction
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// write writes the page analysis.md and its plots.
func write(dir string, m measured) error {
	files := map[string]string{
		"analysis.md": m.page(), "analysis-detection.svg": m.detectionChart().String(),
		"analysis-rejections.svg": m.rejectionChart().String()}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("writing the page: %w", err)
		}
	}
	return nil
}

// introduction is what the page says before the measurements.
//
//go:embed introduction.txt
var introduction string

// page returns the page.
func (m measured) page() string {
	b := &strings.Builder{}
	say := func(format string, args ...any) { fmt.Fprintf(b, format, args...) }
	say("%s\n## Healthy releases that are rejected\n\n", introduction)
	say("%d releases in each row, 100 requests a second, threshold 5, alpha 5 %%. The goal of the sequential test "+
		"is an estimate plus 2.33 standard errors of at most alpha. The check\n"+
		"must equal its formula, which is for failures that do not come in bursts. *No history* is the sequential "+
		"test where stable was not seen before\n"+
		"the release: a dispersion of .05 is assumed then.\n\n", m.Runs)
	say("![healthy releases that are rejected](analysis-rejections.svg)\n\nWeights 5, 10, 25 and 50 %%, intervals "+
		"of 5 minutes, scrapes of 15 s: 80 looks, more where checks fail. "+
		"The limit is where the failures are (99.99, 99.9 and 99 %%), which is the worst case.\n\n%s\n",
		healthyTable(m.Long))
	say("Weights 20, 40 and 60 %%, intervals of 60 s, scrapes of 5 s, limit 99 %%.\n\n%s\n", healthyTable(m.Usual))
	say("%s", m.healthyMisses())

	say("\n## An outage of both versions\n\nHealthy releases (.1 %% fail, limit 99 %%) in which, for 30 s, 10 %% "+
		"more of the requests to both versions fail. %d releases in each row.\nThe goal is that at most %.0f %% are "+
		"rejected by the sequential test.\n\n"+
		"| counted by | scrapes | sequential | check | seen as environment | goal |\n|---|---|---|---|---|---|\n",
		m.Runs/outageRuns, 100*outageLimit)
	for _, o := range m.Outages {
		say("| %s | %s | %s | %s | %s | %s |\n", o.Reporter, o.Scrape, o.Sequential, o.Check, o.Environment,
			met(o.SequentialWithinLimit))
	}

	say("\n## How fast a failing candidate is found\n\nThe same rule with the same alpha, seed and traffic, %d "+
		"releases in each row: 100 requests a second, scrapes of 5 s, intervals of 60 s, threshold 5, from the "+
		"moment it begins to fail; the weight is held until it is found. "+
		"*Least* is the number of requests of the candidate\nthat the best test needs on average that knows both "+
		"rates: for worse than stable, and in brackets for that and beyond the limit. "+
		"*One process* is evidence for worse than stable alone, from the onset on.\nGoals: at most 1.8 times the "+
		"least for one process (2.1 where stable never fails), at most 3.2 times for the rule.\n\n"+
		"![time until a failing candidate is rejected](analysis-detection.svg)\n\n"+
		"| failures | limit | weight | least | one process | its requests | of least | rule | rule, requests | of "+
		"least | Flagger | Flagger, requests | goals |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
		m.Runs/detectionRuns)
	for _, d := range m.Detection {
		say("| %v → %v | %v %% | %.0f %% (no. %d) | %.0f (%.0f) | %s | %.0f | %.2f | %s | %.0f | "+
			"%.2f | %s | %.0f | %s |\n", d.Stable, d.Candidate, d.SuccessRate, 100*d.Weight, d.Onset, d.Oracle,
			d.OracleBoth,
			seconds(d.Single.At), d.Single.Requests, d.singleRatio(), seconds(d.Sequential.At), d.Sequential.Requests,
			d.sequentialRatio(), seconds(d.Flagger.At), d.Flagger.Requests, met(d.met()))
	}
	say("\n%s", m.detectionMisses())

	say("\n## Few requests\n\nHealthy releases that are not promoted, weights 20, 40 and 60 %%, intervals of 60 s, "+
		"limit 99 %%; requests come at random. With less than 100 requests one failure is more "+
		"than 1 %%, so the check\n"+
		"waits for more once there was one, and after 5 intervals the release is inconclusive: it is not promoted, "+
		"and not held against the candidate. Flagger judges what there is, and an interval without requests is a "+
		"failed check.\n%d releases in each row.\n\n"+
		"| requests per second | failures | not promoted | of these rejected | Flagger, rejected "+
		"|\n|---|---|---|---|---|\n", m.Runs)
	for _, q := range m.Quiet {
		say("| %v | %v | %s | %s | %s |\n", q.Requests, q.Rate, q.Ours, q.Rejected, q.Flagger)
	}
	return b.String()
}

// healthyTable returns a table of healthy releases.
func healthyTable(rows []healthy) string {
	b := &strings.Builder{}
	b.WriteString("| failures | dispersion | looks | sequential | goal | no history | goal | check | formula | " +
		"equal | either |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, h := range rows {
		formula, equal := "–", "–"
		if !math.IsNaN(h.Formula) {
			formula, equal = fmt.Sprintf("%.2f %%", 100*h.Formula), met(h.FormulaHold)
		}
		fmt.Fprintf(b, "| %v | %v | %.0f | %s | %s | %s | %s | %s | %s | %s | %s |\n", h.Rate, h.Phi, h.Looks,
			h.Sequential, met(h.WithinAlpha), h.Untrained, met(h.UntrainedOK), h.Check, formula, equal, h.Either)
	}
	return b.String()
}

// healthyMisses says which goals are missed for healthy releases.
func (m measured) healthyMisses() string {
	trained, untrained, formula := 0, 0, 0
	for _, rows := range [][]healthy{m.Usual, m.Long} {
		for _, h := range rows {
			for missed, n := range map[*int]bool{
				&trained: h.WithinAlpha, &untrained: h.UntrainedOK, &formula: h.FormulaHold} {
				if !n {
					*missed++
				}
			}
		}
	}
	text := fmt.Sprintf(
		"Goals missed: %d with history, %d without, %d by the check's formula.", trained, untrained, formula)
	if untrained > 0 {
		text += " Without history the assumed dispersion of .05 is too small where it is much larger: that is why " +
			"stable should have been\nobserved for 120 scrapes before a release."
	}
	return text + " With a dispersion estimated, tempering is a repair that these simulations show " +
		"to work, not a theorem.\n"
}

// detectionMisses says which goals are missed for failing candidates, and why.
func (m measured) detectionMisses() string {
	var rule, single, scrapes []string
	for _, d := range m.Detection {
		name := fmt.Sprintf("%v → %v at %.0f %%", d.Stable, d.Candidate, 100*d.Weight)
		if d.sequentialRatio() > d.SequentialGoal || d.Sequential.Share < 1 {
			rule = append(rule,
				fmt.Sprintf("%s (%.2f; found after the onset in %.1f %%)", name, d.sequentialRatio(),
					100*d.Sequential.Share))
		}
		if d.singleRatio() <= d.SingleGoal && d.Single.Share == 1 {
			continue
		}
		text := fmt.Sprintf("%s (%.2f; with scrapes of 1 s %.2f)", name, d.singleRatio(), d.Fine.Requests/d.Oracle)
		if d.Fine.Requests/d.Oracle <= d.SingleGoal {
			scrapes = append(scrapes, text)
		} else {
			single = append(single, text)
		}
	}
	list := func(what string, missed []string, cause string) string {
		if len(missed) == 0 {
			return fmt.Sprintf("* %s: none missed.\n", what)
		}
		return fmt.Sprintf("* %s: missed by %s. %s\n", what, strings.Join(missed, ", "), cause)
	}
	return "Goals:\n\n" +
		list("the rule", rule, "It pays for the starts, for tempering and for having to show two things.") +
		list("one process, for lack of scrapes", scrapes,
			"A candidate can only be found at a scrape, which brings more requests than are needed; "+
				"scrapes of a second would do.") +
		list("one process, for other causes", single,
			"Of the 33 factors, which are mixed with equal weights because the true one is not known, only those "+
				"near it help; the oracle knows it.")
}

// detectionChart returns the chart of detection times.
func (m measured) detectionChart() chart {
	c := chart{title: "seconds until a failing candidate is rejected (mean)", ticks: []float64{1, 10, 100, 1000},
		log: true, format: func(v float64) string { return fmt.Sprintf("%.0f", v) }}
	one, rule, flagger := series{name: "one process", color: "#9ecae1"}, series{
		name: "the rule", color: "#3182bd"}, series{name: "Flagger's rule", color: "#e6a15c"}
	for _, d := range m.Detection {
		c.labels = append(c.labels, fmt.Sprintf("%v → %v at %.0f %%", d.Stable, d.Candidate, 100*d.Weight))
		one.values = append(one.values, d.Single.At.Seconds())
		rule.values = append(rule.values, d.Sequential.At.Seconds())
		flagger.values = append(flagger.values, d.Flagger.At.Seconds())
	}
	c.series = []series{one, rule, flagger}
	return c
}

// rejectionChart returns the chart of healthy releases that are rejected.
func (m measured) rejectionChart() chart {
	c := chart{title: "healthy releases that are rejected, just at the limit, 80 looks (dashed: alpha)",
		ticks: []float64{0, .05, .1, .2, .3, .4}, limit: usual.Alpha,
		format: func(v float64) string { return fmt.Sprintf("%.2g %%", 100*v) }}
	s, u, k := series{name: "sequential test", color: "#3182bd"}, series{
		name: "without history of stable", color: "#9ecae1"}, series{name: "check", color: "#e6a15c"}
	for _, h := range m.Long {
		c.labels = append(c.labels, fmt.Sprintf("%v fail, dispersion %v", h.Rate, h.Phi))
		s.values, u.values, k.values = append(s.values, h.Sequential.P), append(u.values, h.Untrained.P),
			append(k.values, h.Check.P)
	}
	c.series = []series{s, u, k}
	return c
}

// String formats a share in percent, with its standard error.
func (s share) String() string { return fmt.Sprintf("%.2f ± %.2f %%", 100*s.P, 100*s.SE) }

// seconds formats a duration in whole seconds.
func seconds(d time.Duration) string { return fmt.Sprintf("%.0f s", d.Seconds()) }

// met says whether a goal is met.
func met(ok bool) string {
	if ok {
		return "met"
	}
	return "**missed**"
}
