package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestFaults(t *testing.T) {
	t.Parallel()
	const nothing = 0 // no answer while the client waits
	for _, c := range []struct {
		faults        string
		answer, ready int
	}{
		{"", 200, 200},
		{"fail=0&hang=0", 200, 200},
		{"fail=1", 500, 200},
		{"hang=1", nothing, 200},
		{"slow=1h", nothing, 200},
		{"slow=1ms", 200, 200},
		{"ready=false", 200, 503},
	} {
		t.Run(c.faults, func(t *testing.T) {
			t.Parallel()
			a := &app{version: "1.0.0"}
			a.faults.Store(&faults{fail: 1, unready: true}) // what was before is replaced
			told := httptest.NewRecorder()
			a.admin().ServeHTTP(told, httptest.NewRequest(http.MethodPut, "/faults?"+c.faults, nil))
			if told.Code != http.StatusOK {
				t.Fatalf("%d %s", told.Code, told.Body)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			answer, ready := httptest.NewRecorder(), httptest.NewRecorder()
			a.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx))
			if c.answer == nothing {
				if answer.Body.Len() != 0 {
					t.Errorf("answered %d %q", answer.Code, answer.Body)
				}
			} else if answer.Code != c.answer || answer.Body.String() != "1.0.0" {
				t.Errorf("answered %d %q, want %d and the version", answer.Code, answer.Body, c.answer)
			}
			if a.admin().ServeHTTP(ready, httptest.NewRequest(http.MethodGet, "/ready", nil)); ready.Code != c.ready {
				t.Errorf("ready: %d, want %d", ready.Code, c.ready)
			}
		})
	}
}

func TestWrongFaults(t *testing.T) {
	t.Parallel()
	for _, words := range []string{"fail=2", "fail=NaN", "hang=-1", "slow=5", "fall=1"} {
		t.Run(words, func(t *testing.T) {
			t.Parallel()
			a := &app{}
			told := httptest.NewRecorder()
			a.admin().ServeHTTP(told, httptest.NewRequest(http.MethodPut, "/faults?"+words, nil))
			if told.Code != http.StatusBadRequest || a.faults.Load() != nil {
				t.Errorf("%d %s", told.Code, told.Body)
			}
		})
	}
}
