package config

import (
	"cmp"
	"slices"
	"strings"
)

// stepAccounts reads which ServiceAccounts the other steps have, where they have their own.
func (r *reader) stepAccounts() map[string]string {
	v := r.text("stepAccounts")
	if v == "" {
		return nil
	}
	accounts := map[string]string{}
	for part := range strings.SplitSeq(v, ",") {
		step, account, _ := strings.Cut(strings.TrimSpace(part), "=")
		if !slices.Contains(StepNames, step) || step == CanaryInit || !isDomain(account) || accounts[step] != "" {
			r.add("stepAccounts", cmp.Or(strings.TrimSpace(part), v),
				"give STEP=ACCOUNT once for each step with an account of its own, by comma, of "+
					"%s: promote=canary-promote",
				strings.Join(StepNames[1:], ", "))
			continue
		}
		accounts[step] = account
	}
	return accounts
}
