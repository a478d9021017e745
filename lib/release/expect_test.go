package release

import (
	"strings"
	"testing"

	"github.com/canary-tasks/canary-tasks/lib/report"
)

func TestIsVersion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		what, expect string
		want         bool
	}{
		{"shop-1.2.3", "shop-1.2.3", true},
		{"shop-1.2.3", "1.2.3", true},
		{"shop-1.2.3_4", "1.2.3+4", true},
		{"shop-1.2.3", "2.3", false},
		{"shop-1.2.3", "3", false},
		{"reg:5000/shop:1.2.3", "1.2.3", true},
		{"reg:5000/shop:1.2.3@sha256:0a", "1.2.3", true},
		{"reg:5000/shop:1.2.3@sha256:0a", "reg:5000/shop:1.2.3", true},
		{"reg:5000/shop:11.2.3", "1.2.3", false},
		{"", "1.2.3", false},
		{"", "", false},
	} {
		if got := isVersion(c.what, c.expect); got != c.want {
			t.Errorf("%q, %q: %v", c.what, c.expect, got)
		}
	}
}

// A pipeline that is earlier than what applies the version waits for it, holds nothing meanwhile,
// and ends without a change where it does not come.
func TestExpect(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	before := a.versions()
	cfg := testConfig("run-2")
	cfg.Expect = "2"
	wantCode(t, a.initWith(cfg), report.Undecided, "Deployment shop.web has shop:1, and not 2, after")
	after := a.versions()
	for object, version := range before {
		if after[object] != version && !strings.Contains(object, "events") {
			t.Errorf("%s was changed", object)
		}
	}
	cfg.ProgressDeadline.Duration *= 50
	done := make(chan error)
	go func() { done <- a.initWith(cfg) }()
	a.apply(shop("2"))
	must(t, <-done, a.shift("run-2", 20))
}
