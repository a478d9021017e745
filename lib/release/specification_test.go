package release

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sethvargo/go-envconfig"

	"github.com/canary-tasks/canary-tasks/lib/canary"
)

func TestSpecFile(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	write := func(path, text string) {
		path = filepath.Join(folder, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("source/..data/values.yaml", "canary: {enabled: true}")
	write("source/empty.yaml", "\n")
	write("source/long.yaml", strings.Repeat("#", canary.MaxText+1))
	write("outside.yaml", "canary: {enabled: true}")
	// as the files of a ConfigMap are
	for link, to := range map[string]string{"values.yaml": "..data/values.yaml", "escape.yaml": "../outside.yaml"} {
		if err := os.Symlink(to, filepath.Join(folder, "source", link)); err != nil {
			t.Fatal(err)
		}
	}
	source := filepath.Join(folder, "source")
	for _, c := range []struct {
		desc, source string
		env          map[string]string
		wrong        string
	}{
		{"a file", source, map[string]string{"CANARY_SPEC_FILE": "values.yaml"}, ""},
		{"nothing is bound", "", map[string]string{"CANARY_SPEC_FILE": "values.yaml"},
			`parameter specFile is "values.yaml": bind the workspace source`},
		{"no such file", source, map[string]string{"CANARY_SPEC_FILE": "other.yaml"},
			"no such file in the workspace source"},
		{"a folder", source, map[string]string{"CANARY_SPEC_FILE": "."}, "give the path of a file"},
		{"outside", source, map[string]string{"CANARY_SPEC_FILE": "../outside.yaml"}, "give the path of a file"},
		{"a link that leads outside", source, map[string]string{"CANARY_SPEC_FILE": "escape.yaml"},
			"give the path of a file"},
		{"empty", source, map[string]string{"CANARY_SPEC_FILE": "empty.yaml"}, "the file is empty"},
		{"too long", source, map[string]string{"CANARY_SPEC_FILE": "long.yaml"}, "longer than 262144 bytes"},
		{"two places", source, map[string]string{"CANARY_SPEC_FILE": "values.yaml", "CANARY_SPEC": "a"},
			`parameter specFile is "values.yaml": set only one of spec, specFile`},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			r := &Release{Source: c.source}
			lookup, problems := r.specification(t.Context(), envconfig.MapLookuper(c.env))
			if c.wrong != "" {
				if len(problems) != 1 || !strings.Contains(problems[0].String(), c.wrong) {
					t.Errorf("%v, want %s", problems, c.wrong)
				}
				return
			}
			if text, _ := lookup.Lookup("CANARY_SPEC"); len(problems) > 0 || text != "canary: {enabled: true}" {
				t.Errorf("%q, %v", text, problems)
			}
		})
	}
}
