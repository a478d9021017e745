// Command generate writes the Tasks, the Pipeline, their Roles and their READMEs out of what the
// code knows: config.Parameters, release.Permissions and report.Codes. Run it from the project's
// folder: make generate, or make pipeline STEPS=20 for a longer Pipeline.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	steps := flag.Int("steps", maxSteps, "how many weights the Pipeline has tasks for")
	flag.Parse()
	if *steps < 1 || *steps > 100 {
		fmt.Fprintln(os.Stderr, "generate: give -steps from 1 to 100")
		os.Exit(2)
	}
	if err := write(".", *steps); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

// write writes everything that is generated into the project's folder.
func write(folder string, steps int) error {
	all, err := files(steps)
	if err != nil {
		return err
	}
	for name, content := range all {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
