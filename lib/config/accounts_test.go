package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStepAccounts(t *testing.T) {
	t.Parallel()
	c, err := LoadInit(
		t.Context(), environment(CanaryInit, "CANARY_STEP_ACCOUNTS", "promote=canary-promote, shift-weight=a.b"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{Promote: "canary-promote", ShiftWeight: "a.b"}, c.StepAccounts); diff != "" {
		t.Errorf("(-want, +got)\n%s", diff)
	}
	for _, wrong := range []string{
		"promote", "promote=", "promot=a", "canary-init=a", "promote=A", "promote=a,promote=b", "promote=web/a", ","} {
		_, err := LoadInit(t.Context(), environment(CanaryInit, "CANARY_STEP_ACCOUNTS", wrong))
		if err == nil || !strings.Contains(err.Error(), "parameter stepAccounts is \"") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}
