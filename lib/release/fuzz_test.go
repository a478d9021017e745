package release

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube"
)

// recordObject is the ConfigMap that holds a record, as text.
func recordObject(text string) *kube.Object {
	return &kube.Object{
		Object: map[string]any{
			"metadata": map[string]any{"name": "shop-canary-release"}, "data": map[string]any{recordKey: text}}}
}

// Whatever is in the ConfigMap, which others may write: what can be read can be written and reads
// as the same, and all that is said of it can be.
func FuzzReadRecord(f *testing.F) {
	full := &Record{Holder: "uid", Before: []string{"a"}, Run: "run-1", Epoch: 7, Phase: Progressing,
		Expires: time.Unix(1764000000, 0).UTC(),
		Config: config.Config{
			Namespace: "web", Target: "shop", Interval: config.Duration{Duration: time.Minute},
			Weights: []config.Percent{20}},
		Candidate: Version{
			Revision: "1234567890",
			Template: map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"image": "shop:2"}}}},
			Chart:    "shop-1.2.3"},
		Promoted: Version{Chart: "shop-1.2.2"}, Shifts: []Shift{{Weight: 20}},
		Rejected: []Rejection{{Revision: "0", Reason: "failing"}}}
	f.Add(full.text())
	f.Add("")
	f.Add(`{"epoch":-1,"phase":"?","candidate":{"template":{"spec":{"containers":[0,{"image":"a@b:c"}]}}},"shifts":[{"weight":-1}]}`)
	f.Add(`{"config":{"interval":"1000000h","threshold":-1},"evidence":{"terms":[[{"relative":[]}]]},"expires":"9999-12-31T23:59:59Z"}`)
	f.Fuzz(func(t *testing.T, text string) {
		record, err := readRecord(recordObject(text))
		if err != nil {
			if record != nil {
				t.Error("a record and an error")
			}
			return
		}
		written := record.text()
		again, err := readRecord(recordObject(written))
		if err != nil {
			t.Fatalf("%s cannot be read: %v", written, err)
		}
		if diff := cmp.Diff(json.RawMessage(written), json.RawMessage(again.text())); diff != "" &&
			len(written) < maxRecord {
			t.Errorf("(-written, +read and written again)\n%s", diff)
		}
		record.clone()
		record.former("uid")
		record.rejection("0")
		record.Candidate.contents()
		statusOf(record, 20).onto(map[string]any{}, time.Now())
		for _, v := range []Version{record.Candidate, record.Promoted} {
			if name, version := nameAndVersion(v); strings.Contains(name, ":") && v.Chart == "" || version == "latest" {
				t.Errorf("%q, %q", name, version)
			}
		}
		_, _ = undo(record, config.Git{}, "shop", "web")
	})
}
