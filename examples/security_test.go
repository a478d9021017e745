package examples

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/canary-tasks/canary-tasks/lib/config"
)

// What docs/security.md says was tried is there: every test, and every parameter that decides
// something.
func TestSecurityPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllSubmatch(page, -1)
	missing := map[string]bool{}
	for _, m := range named {
		missing[string(m[1])] = true
	}
	if len(missing) < 10 {
		t.Errorf("it names %d tests", len(missing))
	}
	err = filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for name := range missing {
			if strings.Contains(string(text), "\nfunc "+name+"(") {
				delete(missing, name)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range missing {
		t.Errorf("there is no %s", name)
	}
	for _, name := range []string{
		"prometheus", "allow", "hosts", "gateways", "specFile", "stepAccounts", "gitRepository", "gitApp"} {
		known := false
		for _, p := range config.Parameters {
			known = known || p.Name == name
		}
		if !known || !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("%s is no parameter, or not on the page", name)
		}
	}
}
