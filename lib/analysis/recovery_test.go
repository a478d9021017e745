package analysis

import (
	"testing"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis/counts"
)

// Stable fails until some seconds after the candidate's traffic was taken away; it is scraped every
// 5 s, looked at every second.
func TestRecovery(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc             string
		until            int // seconds
		perSecond        float64
		recovered, known bool
		at               int
	}{
		{"at once", 0, 40, true, true, 15},
		{"with what was under way", 4, 40, true, true, 15},
		{"not at once, by itself", 14, 40, false, true, 15},
		{"not at all", 100, 40, false, true, 15},
		{"too few requests to tell", 0, 20, false, true, 15},
		{"nobody asks", 0, 0, false, false, 0},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			r := Recovery{Limits: Limits{SuccessRate: 99}}
			begin := time.Unix(1000, 0)
			for looked := 0; looked <= 60; looked++ {
				s := looked / 5 * 5 // the last scrape
				w := counts.Window{
					From: begin, To: begin.Add(time.Duration(s) * time.Second), Interval: 5 * time.Second,
					Stable: counts.Counts{
						Requests: float64(s) * c.perSecond, Errors: .3 * c.perSecond * float64(min(s, c.until))}}
				recovered, known := r.Look(w)
				if known || looked == 60 {
					if recovered != c.recovered || known != c.known || known && s != c.at {
						t.Errorf("after %d s: recovered %v, known %v", s, recovered, known)
					}
					return
				}
			}
		})
	}
}
