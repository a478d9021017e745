package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// ko builds an image that ko.yaml does not name in the folder of any other one, with the
// dependencies of that one.
func TestKoKnowsEachImage(t *testing.T) {
	t.Parallel()
	config, err := os.ReadFile("../../ko.yaml")
	if err != nil {
		t.Fatal(err)
	}
	reference := regexp.MustCompile(`ko://github\.com/canary-tasks/canary-tasks/([\w/-]+)`)
	images := map[string]string{} // where each is named
	for _, folder := range []string{"tasks", "pipelines", "examples", "test"} {
		err := filepath.WalkDir("../../"+folder, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".yaml" {
				return err
			}
			text, err := os.ReadFile(path)
			for _, found := range reference.FindAllStringSubmatch(string(text), -1) {
				images[found[1]] = path
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for image, path := range images {
		want := ", main: ./" + image + "}"
		if rest, ok := strings.CutPrefix(image, "test/"); ok {
			want = ", dir: ./test, main: ./" + rest + "}"
		}
		if !strings.Contains(string(config), want) {
			t.Errorf("%s of %s is not in ko.yaml", image, path)
		}
	}
	if len(images) < 7 {
		t.Errorf("only these images are named: %v", images)
	}
}
