package release

import (
	"github.com/canary-tasks/canary-tasks/lib/analysis"
	"github.com/canary-tasks/canary-tasks/lib/config"
)

// Request is what a step was asked to do. Its plans are pure functions of it and of a snapshot:
// they read nothing else, and leave nothing behind.
type Request struct {
	Step config.Step
	// Config is what canary-init read; nil in the later steps, which take it from the record.
	Config *config.Config
	// runSeen reports whether this run is a PipelineRun that can be seen.
	runSeen bool
	// objectives are what the sequential test takes from stable's past, which canary-init looks at.
	objectives []analysis.Objective
}

// config returns the configuration of the release: canary-init's own, or the one that it left in
// the record.
func (r Request) config(s *snapshot) *config.Config {
	if r.Config != nil {
		return r.Config
	}
	return &s.record.Config
}
