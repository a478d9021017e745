package report

import (
	"errors"
	"regexp"
	"strings"
	"testing"
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
