package config

import (
	"errors"

	"github.com/canary-tasks/canary-tasks/lib/canary"
)

// readSpec reads the specification, whose values count where the environment gives none, and
// returns its warnings.
func (r *reader) readSpec() []string {
	text := r.text("spec")
	if text == "" {
		return nil
	}
	spec, err := canary.Read([]byte(text))
	var mistakes canary.Errors
	switch {
	case errors.As(err, &mistakes):
		for _, mistake := range mistakes {
			r.add("spec", "YAML", "%s", mistake)
		}
		return nil
	case err != nil:
		r.add("spec", "YAML", "%v", err)
		return nil
	case spec.Disabled:
		r.add("spec", "YAML",
			"its canary block is turned off: set canary.enabled to true, or do not run this "+
				"pipeline for the application")
		return nil
	}
	if target := r.text("target"); spec.Target != "" && target != spec.Target {
		r.add("target", target, "the specification is of Deployment %s: give that one, or another specification",
			spec.Target)
	}
	r.spec = spec.Values
	for _, p := range Of(r.step) { // who says how weights grow says it whole
		switch given := r.env(p) != ""; {
		case given && p.Name == "stepWeights":
			delete(r.spec, "stepWeight")
			delete(r.spec, "maxWeight")
		case given && (p.Name == "stepWeight" || p.Name == "maxWeight"):
			delete(r.spec, "stepWeights")
		}
	}
	return spec.Warnings
}
