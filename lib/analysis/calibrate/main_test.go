package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The goals of the page, in a run that is short: bounds have room for three standard errors of it.
func TestHealthy(t *testing.T) {
	t.Parallel()
	const runs = 150
	room := 3 * math.Sqrt(usual.Alpha*(1-usual.Alpha)/runs)
	for _, h := range measureHealthy(usual, true, runs) {
		if h.Sequential.P > usual.Alpha+room {
			t.Errorf("failures %v, dispersion %v: %s of the healthy releases are rejected", h.Rate, h.Phi, h.Sequential)
		}
		if h.Either.P < max(h.Sequential.P, h.Check.P) || h.Either.P > h.Sequential.P+h.Check.P+1e-9 {
			t.Errorf("failures %v, dispersion %v: either %s, sequential %s, check %s", h.Rate, h.Phi, h.Either,
				h.Sequential, h.Check)
		}
		if !math.IsNaN(h.Formula) && math.Abs(h.Check.P-h.Formula) > 3*math.Sqrt(h.Formula*(1-h.Formula)/runs) {
			t.Errorf("failures %v: the checks reject %s, by their formula %v", h.Rate, h.Check, h.Formula)
		}
		if h.Rate == .01 && h.Phi == 0 && math.IsNaN(h.Formula) {
			t.Error("the formula was not compared")
		}
	}
}

func TestOutages(t *testing.T) {
	t.Parallel()
	for _, o := range measureOutages(80) {
		if o.Sequential.P > .05 || o.Environment.P < .9 {
			t.Errorf("%s, scrapes of %s: %s rejected, %s seen as environment", o.Reporter, o.Scrape, o.Sequential,
				o.Environment)
		}
	}
}

func TestDetection(t *testing.T) {
	t.Parallel()
	for _, d := range measureDetection(40) {
		if r := d.singleRatio(); r < .8 || r > 3 {
			t.Errorf("%v -> %v at %v: one process needs %.2f times the least", d.Stable, d.Candidate, d.Weight, r)
		}
		if r := d.sequentialRatio(); r < 1 || r > 4 || d.Sequential.Share < .95 {
			t.Errorf("%v -> %v at %v: the rule needs %.2f times the least, and finds %v", d.Stable, d.Candidate,
				d.Weight, r, d.Sequential.Share)
		}
		if d.Weight > .05 && d.Sequential.At > d.Flagger.At*2/3 {
			t.Errorf("%v -> %v at %v: found after %s, by Flagger after %s", d.Stable, d.Candidate, d.Weight,
				d.Sequential.At, d.Flagger.At)
		}
	}
}

func TestQuiet(t *testing.T) {
	t.Parallel()
	for _, q := range measureQuiet(200) {
		if q.Rejected.P > .02 {
			t.Errorf("%v requests a second: %s rejected", q.Requests, q.Rejected)
		}
		if q.Requests == 5 && q.Ours.P > .03 {
			t.Errorf("%v requests a second, failures %v: %s not promoted", q.Requests, q.Rate, q.Ours)
		}
	}
}

// Every row is on the page, what is missed is said to be, and the plots are XML.
func TestWrite(t *testing.T) {
	t.Parallel()
	m := measured{Runs: 3,
		Usual:   []healthy{{Rate: .25, Formula: math.NaN(), WithinAlpha: true, UntrainedOK: true, FormulaHold: true}},
		Long:    []healthy{{Rate: .125, Formula: .5, Check: share{.5, .1}, UntrainedOK: true, FormulaHold: true}},
		Outages: []outage{{Reporter: "somebody"}},
		Detection: []detection{
			{Stable: .375, Candidate: .5, Oracle: 10, OracleBoth: 10, Single: mean{2e9, 30, 1}, Fine: mean{1e9, 20, 1},
				Sequential: mean{3e9, 15, 1}, Flagger: mean{4e9, 50, 1}, SingleGoal: 2.5, SequentialGoal: 2}},
		Quiet: []quiet{{Requests: .875}},
	}
	dir := t.TempDir()
	if err := write(dir, m); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "analysis.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| 0.25 | 0 |", "| 0.125 | 0 | 0 | 0.00 ± 0.00 % | **missed** | 0.00 ± 0.00 % | met | 50.00 ± " +
			"10.00 % | 50.00 % | met |", "Goals missed: 1 with history, 0 without, 0 by",
		"| somebody | 0s |", "| 0.375 → 0.5 |", "| 3.00 | 3 s | 15 | 1.50 | 4 s | 50 | **missed** |",
		"for lack of scrapes: missed by 0.375 → 0.5 at 0 % (3.00; with scrapes of 1 s 2.00)", "| 0.875 | 0 |"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	plots, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil || len(plots) != 2 {
		t.Fatal(plots, err)
	}
	for _, plot := range plots {
		if !strings.Contains(string(page), "("+filepath.Base(plot)+")") {
			t.Errorf("%s is not on the page", plot)
		}
		text, err := os.Open(plot)
		if err != nil {
			t.Fatal(err)
		}
		defer text.Close()
		for d := xml.NewDecoder(text); err == nil; {
			_, err = d.Token()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", plot, err)
		}
	}
	if err := write(filepath.Join(dir, "nowhere"), m); err == nil {
		t.Error("a folder that is not there is no error")
	}
}
