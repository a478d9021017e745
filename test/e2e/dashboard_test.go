//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// dashboard asks Prometheus all that the panels of the dashboard do, of the last ten minutes: none
// is empty.
func (s *shop) dashboard() {
	s.t.Helper()
	text, err := os.ReadFile("../../examples/grafana/canary.json")
	if err != nil {
		s.t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &d); err != nil || len(d.Panels) == 0 {
		s.t.Fatalf("%d panels, %v", len(d.Panels), err)
	}
	chosen := strings.NewReplacer(
		"$__rate_interval", "20s", "$namespace", s.ns, "$primary", "shop-primary", "$canary", "shop")
	now := time.Now().Unix()
	for _, panel := range d.Panels {
		for _, target := range panel.Targets {
			query := chosen.Replace(target.Expr)
			var answer struct {
				Data struct {
					Result []struct{ Values [][2]any }
				}
			}
			send(s.t, http.MethodGet,
				fmt.Sprintf("http://%s/api/v1/query_range?start=%d&end=%d&step=5&query=%s", s.prometheus, now-600, now,
					url.QueryEscape(query)), &answer)
			numbers := 0
			for _, series := range answer.Data.Result {
				for _, point := range series.Values {
					if point[1] != "NaN" {
						numbers++
					}
				}
			}
			s.t.Logf("%s: %d series, %d numbers", panel.Title, len(answer.Data.Result), numbers)
			if numbers == 0 {
				s.t.Errorf("panel %q is empty: %s", panel.Title, query)
			}
		}
	}
}
