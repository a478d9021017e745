package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The same seed plays the same releases, and what fails more is not promoted.
func TestPlay(t *testing.T) {
	t.Parallel()
	spec := filepath.Join(t.TempDir(), "spec.yaml")
	if err := os.WriteFile(spec, []byte("interval: 30s\nthreshold: 2\nstepWeights: 20,50\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := rehearsal{spec: spec, rate: 50, errors: .001, scrape: 5 * time.Second, runs: 50, seed: 1}
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := r.play(t.Context(), out); err != nil {
			t.Fatal(err)
		}
	}
	if first.String() != second.String() {
		t.Errorf("%s\nthen\n%s", first.String(), second.String())
	}
	for _, want := range []string{
		"20 %: 300 requests in 30s", "50 %: 750 requests in 30s", "healthy: 0.1 % fail  20 %         0.0 %",
		"100 % fail           50 %         100.0 %       5s"} {
		if !strings.Contains(first.String(), want) {
			t.Errorf("does not say %q:\n%s", want, first.String())
		}
	}
}

func TestPlayRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"intervall: 1m": "there is no parameter intervall",
		"interval: 20s": `parameter interval is "20s": Prometheus scrapes every 15s: give at least two scrapes, 30s`,
		"[a]":           "give a YAML map", "alpha: 2": "parameter alpha"} {
		spec := filepath.Join(t.TempDir(), "spec.yaml")
		if err := os.WriteFile(spec, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := rehearsal{spec: spec, rate: 50, errors: .001, scrape: 15 * time.Second, runs: 1}
		if err := r.play(t.Context(), &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if err := (rehearsal{rate: 0, scrape: time.Minute, runs: 1}).play(t.Context(), &bytes.Buffer{}); err == nil {
		t.Error("a rate of zero")
	}
}
