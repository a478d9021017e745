// Package jenkinsx2 reads a jenkins-x.yml as Jenkins X 2 does: into the containers that it runs. It
// is for tests of the examples.
package jenkinsx2

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// The types are as much of the format as the examples use; Jenkins X refuses a field that is not in
// its schema, as these do.
type (
	file struct {
		BuildPack      string `json:"buildPack"`
		PipelineConfig struct {
			Pipelines struct {
				PullRequest *lifecycle `json:"pullRequest"`
				Release     *lifecycle `json:"release"`
			} `json:"pipelines"`
		} `json:"pipelineConfig"`
	}
	lifecycle struct {
		Pipeline struct {
			Agent struct {
				Image string `json:"image"`
			} `json:"agent"`
			Env    []corev1.EnvVar `json:"env"`
			Stages []struct {
				Name  string `json:"name"`
				Steps []step `json:"steps"`
			} `json:"stages"`
		} `json:"pipeline"`
	}
	step struct {
		Name    string          `json:"name"`
		Dir     string          `json:"dir"`
		Image   string          `json:"image"`
		Command string          `json:"command"`
		Args    []string        `json:"args"`
		Env     []corev1.EnvVar `json:"env"`
		Loop    *struct {
			Variable string   `json:"variable"`
			Values   []string `json:"values"`
			Steps    []step   `json:"steps"`
		} `json:"loop"`
	}
)

// Container is a step as Jenkins X makes it: /bin/sh -c Line, with variables.
type Container struct {
	Name, Image, Line string
	Env               map[string]string
}

// Released returns the containers of a jenkins-x.yml that are run, one after the other, after a
// merge. An error names the first thing that Jenkins X or the examples do not have.
func Released(text []byte) ([]Container, error) {
	var got file
	if err := yaml.UnmarshalStrict(text, &got); err != nil {
		return nil, err
	}
	release := got.PipelineConfig.Pipelines.Release
	if got.BuildPack != "none" || release == nil || release.Pipeline.Agent.Image == "" ||
		len(release.Pipeline.Stages) != 1 {
		return nil, errors.New("it is not of buildPack none, with a release of one stage and an agent's image")
	}
	env := map[string]string{}
	for _, e := range release.Pipeline.Env {
		env[e.Name] = e.Value
	}
	all, err := unroll(release.Pipeline.Stages[0].Steps, release.Pipeline.Agent.Image, "", env)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, c := range all {
		if c.Name == "" || names[c.Name] {
			return nil, fmt.Errorf("there are two steps %q", c.Name)
		}
		names[c.Name] = true
	}
	return all, nil
}

// unroll makes containers of steps. A loop's variable is weaker than a step's own.
func unroll(steps []step, image, suffix string, env map[string]string) ([]Container, error) {
	var all []Container
	for _, s := range steps {
		if (s.Command == "") == (s.Loop == nil) {
			return nil, fmt.Errorf("step %q: give command or loop", s.Name)
		}
		scope := maps.Clone(env)
		if s.Loop != nil {
			for i, value := range s.Loop.Values {
				scope[s.Loop.Variable] = value
				inner, err := unroll(s.Loop.Steps, image, string(rune('1'+i)), scope)
				if err != nil {
					return nil, err
				}
				all = append(all, inner...)
			}
			continue
		}
		for _, e := range s.Env {
			scope[e.Name] = e.Value
		}
		c := Container{Name: s.Name + suffix, Image: s.Image,
			Line: strings.Join(append([]string{s.Command}, s.Args...), " "), Env: scope}
		if c.Image == "" {
			c.Image = image
		}
		all = append(all, c)
	}
	return all, nil
}
