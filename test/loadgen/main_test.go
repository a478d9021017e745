package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/canary-tasks/canary-tasks/test/load"
)

func TestSend(t *testing.T) {
	t.Parallel()
	for status, wantFailed := range map[int]bool{200: false, 500: true} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			asked := new(atomic.Int64)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-Version", "1.0.0")
				w.WriteHeader(status)
				if asked.Add(1) == 15 { // in the second second
					cancel() // as SIGTERM does
				}
			}))
			t.Cleanup(server.Close)
			var out bytes.Buffer
			failed, err := send(ctx, &out, load.Plan{URL: server.URL, Rate: 10, For: time.Minute})
			if err != nil || failed != wantFailed {
				t.Errorf("failed %t, %v", failed, err)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			n := len(lines) - 1
			if want := fmt.Sprintf("%d requests: %[1]d x %d by 1.0.0", asked.Load(), status); lines[n] != want {
				t.Errorf("it ends with %q, want %q", lines[n], want)
			}
			second := regexp.MustCompile(fmt.Sprintf(`^\d\d:\d\d:\d\d  \d+ x %d by 1\.0\.0$`, status))
			for _, line := range lines[:n] {
				if !second.MatchString(line) {
					t.Errorf("line %q", line)
				}
			}
			if n < 2 {
				t.Errorf("it prints\n%s", &out)
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	if _, err := run(t.Context(), "", load.Plan{}); err == nil {
		t.Error("it sends nothing, and says nothing")
	}
	if _, err := run(t.Context(), "nowhere", load.Plan{}); err == nil {
		t.Error("it listens nowhere, and says nothing")
	}
}
