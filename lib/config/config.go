// Package config reads the configuration of a step from its environment.
//
// Every variable begins with CANARY_, so that it collides with nothing that Jenkins X or Tekton set. Tekton
// passes a parameter that was not given as an empty variable, so empty counts as not given. All mistakes are
// reported at once.
package config

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/sethvargo/go-envconfig"

	"github.com/canary-tasks/canary-tasks/lib/routing"
)

// ShiftWeight is the configuration of the step shift-weight.
type ShiftWeight struct {
	Route  routing.Route
	Weight routing.Percent
}

// variables are those of shift-weight, as text: what they mean is checked here, so that all mistakes are found.
type variables struct {
	Namespace      string `env:"CANARY_NAMESPACE"`
	VirtualService string `env:"CANARY_VIRTUAL_SERVICE"`
	Route          string `env:"CANARY_ROUTE"`
	Stable         string `env:"CANARY_STABLE"`
	Candidate      string `env:"CANARY_CANDIDATE"`
	Weight         string `env:"CANARY_WEIGHT"`
}

// Load reads the configuration from the environment that lookup gives.
func Load(ctx context.Context, lookup envconfig.Lookuper) (ShiftWeight, error) {
	var v variables
	if err := envconfig.ProcessWith(ctx, &envconfig.Config{Target: &v, Lookuper: lookup}); err != nil {
		return ShiftWeight{}, err
	}
	var errs []error
	for _, required := range []struct{ parameter, value, meaning string }{
		{"namespace", v.Namespace, "the namespace of the VirtualService"},
		{"virtualService", v.VirtualService, "the name of the VirtualService"},
		{"stable", v.Stable, "the host of the stable version's Service"},
		{"candidate", v.Candidate, "the host of the candidate's Service"},
		{"weight", v.Weight, "the candidate's share of the traffic, in percent"},
	} {
		if required.value == "" {
			errs = append(errs, fmt.Errorf("parameter %s is missing: give %s", required.parameter, required.meaning))
		}
	}
	weight, err := strconv.ParseInt(v.Weight, 10, 32)
	// 010 is ten to some readers and eight to others.
	if v.Weight != "" && (err != nil || weight < 0 || weight > 100 || strconv.FormatInt(weight, 10) != v.Weight) {
		errs = append(errs, fmt.Errorf("parameter weight is %q: give a whole number from 0 to 100, without leading zeros", v.Weight))
	}
	return ShiftWeight{
		Route: routing.Route{
			Namespace: v.Namespace, VirtualService: v.VirtualService, Name: v.Route, Stable: v.Stable, Candidate: v.Candidate,
		},
		Weight: routing.Percent(weight),
	}, errors.Join(errs...)
}
