package release

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/analysis"
	"github.com/canary-tasks/canary-tasks/lib/metrics"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// A Prometheus that does not answer, or warns, is asked until the deadline. Then the verdict is an error with its own reason, and never a failed check.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc   string
		code   int
		body   string
		reason analysis.Reason
	}{
		{"it cannot", http.StatusUnprocessableEntity, `{"status":"error","errorType":"execution","error":"too many samples"}`, analysis.QueryFails},
		{"it warns", http.StatusOK, `{"status":"success","warnings":["a store is away"],"data":{"resultType":"matrix","result":[]}}`, analysis.Warns},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			prometheus := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.code)
				fmt.Fprint(w, c.body)
			}))
			t.Cleanup(prometheus.Close)
			client, err := metrics.New(prometheus.URL, "")
			if err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			r := &Release{Report: &report.Reporter{Out: &log}}
			w := &watch{observer: client.Observe(metrics.Target{}, time.Now()), observed: time.Now().Add(time.Hour), judge: analysis.Judge{Deadline: time.Now().Add(1500 * time.Millisecond)}}
			got, err := r.await(t.Context(), w)
			if err != nil || got.Verdict != analysis.Error || got.Reason != c.reason || !w.judge.Deadline.Before(time.Now()) {
				t.Errorf("%s, %q: %v", got.Verdict, got.Reason, err)
			}
			if said := strings.Count(log.String(), "asking again, this is no failed check"); said != 1 {
				t.Errorf("it is said %d times:\n%s", said, log.String())
			}
		})
	}
}
