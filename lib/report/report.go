package report

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/show"
)

// Error is an error that decides the exit code of a step.
type Error struct {
	Code Code
	Text string
}

func (e *Error) Error() string { return e.Text }

// Errorf makes an error with an exit code.
func Errorf(code Code, format string, args ...any) error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

// Creator creates objects in one namespace: a client of the cluster.
type Creator interface {
	Create(ctx context.Context, kind kube.Kind, namespaced bool, body map[string]any) (*kube.Object, error)
}

// Reporter says what a step does.
type Reporter struct {
	Out    io.Writer
	Client Creator        // where events go; nil: nowhere
	About  map[string]any // the object that the events are about (an ObjectReference), in the same namespace
	Step   string
	failed bool
}

// Say prints a line of the log. What would end the line within it is escaped: no value can be taken
// for a line of its own.
func (r *Reporter) Say(format string, args ...any) {
	r.print(show.Line(fmt.Sprintf(format, args...)))
}

// maxLines is how many lines Lines prints at most of a text.
const maxLines = 200

// Lines prints a text of several lines. Those after the first are indented: each shows which text
// it belongs to.
func (r *Reporter) Lines(text string) {
	var lines []string
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		if len(lines) == maxLines {
			lines = append(lines, fmt.Sprintf("... (%d lines)", strings.Count(text, "\n")+1))
			break
		}
		lines = append(lines, show.Line(strings.TrimPrefix(line, "  ")))
	}
	r.print(strings.Join(lines, "\n  "))
}

// print prints a text with the time.
func (r *Reporter) print(text string) {
	_, _ = fmt.Fprintf(r.Out, "%s %s\n", time.Now().UTC().Format("15:04:05"), text)
}

// Event prints a line of the log and records it as a Kubernetes event, as Flagger does (reason
// Synced).
func (r *Reporter) Event(ctx context.Context, warning bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.Say("%s", text)
	r.Record(ctx, warning, text)
}

// maxMessage is how many bytes the message of an event may have.
const maxMessage = 1024

// Record records a Kubernetes event without a line of the log.
func (r *Reporter) Record(ctx context.Context, warning bool, text string) {
	if r.Client == nil || r.About == nil {
		return
	}
	kind := "Normal"
	if warning {
		kind = "Warning"
	}
	message := show.Line(text)
	message = strings.ToValidUTF8(message[:min(len(message), maxMessage)], "")
	now := time.Now().UTC().Format(time.RFC3339)
	_, err := r.Client.Create(ctx, kube.Event, true, map[string]any{
		"metadata":       map[string]any{"generateName": "canary-tasks-", "namespace": r.About["namespace"]},
		"involvedObject": r.About,
		"reason":         "Synced", "message": message, "type": kind,
		"source":         map[string]any{"component": "canary-tasks"},
		"firstTimestamp": now, "lastTimestamp": now, "count": int64(1),
		"reportingComponent": "canary-tasks", "reportingInstance": r.Step,
	})
	if err != nil && !r.failed {
		r.failed = true // once is enough: an event is never worth a release
		r.Say("this and later events could not be recorded: %v", err)
	}
}

// Results writes Tekton results: one file a result, beside the file of one of them. An empty path
// writes none.
func Results(path string, results map[string]string) error {
	if path == "" {
		return nil
	}
	for name, value := range results {
		if err := os.WriteFile(filepath.Join(filepath.Dir(path), name), []byte(value), 0o644); err != nil {
			return fmt.Errorf("writing the result %s: %w", name, err)
		}
	}
	return nil
}
