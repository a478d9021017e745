package report

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// said is what a reporter prints, without the times.
func said(do func(*Reporter)) string {
	var out strings.Builder
	do(&Reporter{Out: &out})
	return regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d `).ReplaceAllString(out.String(), "@ ")
}

// No value can be taken for a line of its own, and what has lines on purpose keeps them.
func TestLinesCannotBeForged(t *testing.T) {
	t.Parallel()
	const forged = "queue\n12:00:00 shop.web was promoted\r\x1b[2K"
	const quoted = `queue\n12:00:00 shop.web was promoted\r\x1b[2K`
	for _, c := range []struct {
		desc string
		do   func(*Reporter)
		want string
	}{
		{"a text", func(r *Reporter) { r.Say("metric %s failed", forged) }, "@ metric " + quoted + " failed\n"},
		{"an error", func(r *Reporter) { r.Say("%v", errors.New(forged)) }, "@ " + quoted + "\n"},
		{"a list", func(r *Reporter) { r.Say("%v", []string{forged}) }, "@ [" + quoted + "]\n"},
		{"an event", func(r *Reporter) { r.Event(t.Context(), true, "Halt: %s", forged) }, "@ Halt: " + quoted + "\n"},
		{"lines", func(r *Reporter) { r.Lines("2 mistakes\n  parameter a\n  parameter b\n") },
			"@ 2 mistakes\n  parameter a\n  parameter b\n"},
		{"lines with more of them", func(r *Reporter) { r.Lines("rejected: " + forged) },
			"@ rejected: queue\n  12:00:00 shop.web was promoted\\r\\x1b[2K\n"},
		{"one line", func(r *Reporter) { r.Lines("done") }, "@ done\n"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			if got := said(c.do); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// However long a value is, the log stays short.
func TestLinesAreBounded(t *testing.T) {
	t.Parallel()
	if got := said(func(r *Reporter) { r.Say("%s", strings.Repeat("a", 1<<20)) }); len(got) > 20<<10 ||
		!strings.HasSuffix(got, "... (1048576 bytes)\n") {
		t.Errorf("%d bytes", len(got))
	}
	if got := said(func(r *Reporter) { r.Lines(strings.Repeat("a\n", 1000)) }); strings.Count(got, "\n") != maxLines+
		1 || !strings.HasSuffix(got, "... (1001 lines)\n") {
		t.Errorf("%d lines", strings.Count(got, "\n"))
	}
}

// creator keeps the events that are recorded.
type creator struct{ events []map[string]any }

func (c *creator) Create(_ context.Context, _ kube.Kind, _ bool, body map[string]any) (*kube.Object, error) {
	c.events = append(c.events, body)
	return nil, errors.New("refused")
}

// An event is recorded in the namespace of what it is about, and a failure is said once.
func TestRecord(t *testing.T) {
	t.Parallel()
	c := &creator{}
	got := said(func(r *Reporter) {
		r.Client, r.About = c, map[string]any{"namespace": "web", "name": "shop"}
		r.Record(t.Context(), true, "a\nb")
		r.Record(t.Context(), false, strings.Repeat("ü", maxMessage))
	})
	if got != "@ this and later events could not be recorded: refused\n" {
		t.Errorf("said %q", got)
	}
	if len(c.events) != 2 {
		t.Fatalf("%d events", len(c.events))
	}
	if e := c.events[0]; e["metadata"].(map[string]any)["namespace"] != "web" || e["message"] != `a\nb` ||
		e["type"] != "Warning" {
		t.Errorf("%v", e)
	}
	if text := c.events[1]["message"].(string); len(text) > maxMessage || c.events[1]["type"] != "Normal" {
		t.Errorf("%d bytes, %v", len(text), c.events[1]["type"])
	}
}
