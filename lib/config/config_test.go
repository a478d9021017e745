package config_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/sethvargo/go-envconfig"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/routing"
)

func complete() map[string]string {
	return map[string]string{
		"CANARY_NAMESPACE": "shop", "CANARY_VIRTUAL_SERVICE": "web", "CANARY_ROUTE": "",
		"CANARY_STABLE": "web-primary", "CANARY_CANDIDATE": "web-canary", "CANARY_WEIGHT": "20",
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	got, err := config.Load(t.Context(), envconfig.MapLookuper(complete()))
	if err != nil {
		t.Fatal(err)
	}
	want := config.ShiftWeight{
		Route:  routing.Route{Namespace: "shop", VirtualService: "web", Stable: "web-primary", Candidate: "web-canary"},
		Weight: 20,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
}

func TestLoadNamesEveryMistake(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc   string
		change map[string]string
		want   []string
	}{
		{"all are missing, an empty one too", map[string]string{"CANARY_NAMESPACE": "", "CANARY_VIRTUAL_SERVICE": "",
			"CANARY_STABLE": "", "CANARY_CANDIDATE": "", "CANARY_WEIGHT": ""},
			[]string{"parameter namespace is missing", "parameter virtualService is missing", "parameter stable is missing",
				"parameter candidate is missing", "parameter weight is missing"}},
		{"a missing and a wrong one", map[string]string{"CANARY_STABLE": "", "CANARY_WEIGHT": "101"},
			[]string{"parameter stable is missing", `parameter weight is "101"`}},
		{"negative weight", map[string]string{"CANARY_WEIGHT": "-1"}, []string{`parameter weight is "-1"`}},
		{"octal-looking weight", map[string]string{"CANARY_WEIGHT": "010"}, []string{`parameter weight is "010"`}},
		{"no number", map[string]string{"CANARY_WEIGHT": "NaN"}, []string{`parameter weight is "NaN"`}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			env := complete()
			for k, v := range c.change {
				env[k] = v
			}
			_, err := config.Load(t.Context(), envconfig.MapLookuper(env))
			if err == nil {
				t.Fatal("no error")
			}
			if lines := strings.Split(err.Error(), "\n"); len(lines) != len(c.want) {
				t.Errorf("%d mistakes named, want %d: %v", len(lines), len(c.want), err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}
