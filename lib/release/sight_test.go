package release

import (
	"strings"
	"testing"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/metrics"
)

// An interval needs two scrapes, and is better with four; that a scrape is a little late is no matter.
func TestScrapesOfAnInterval(t *testing.T) {
	t.Parallel()
	cfg := testConfig("run") // 10 s
	for scrape, want := range map[time.Duration]string{
		time.Second: "", 2500 * time.Millisecond: "better is 12s", 5 * time.Second: "better is 20s", 5300 * time.Millisecond: "better is 20s", 0: "",
		6 * time.Second: "give at least two scrapes, 12s", 30 * time.Second: "give at least two scrapes, 1m0s", 15002 * time.Millisecond: "give at least two scrapes, 30s, and better four",
	} {
		_, lines, problems := Sight(cfg, metrics.Window{Interval: scrape}, time.Minute)
		got := strings.Join(lines, "\n")
		if len(problems) > 0 {
			got += problems.Error()
		}
		if !strings.Contains(got, want) || want == "" && strings.Contains(got, "scrapes") || strings.Contains(want, "give") != (len(problems) > 0) {
			t.Errorf("scraped every %s: %q, not %q", scrape, got, want)
		}
	}
}
