// Package gitops puts an environment repository back to the version that serves, after a release was rolled back.
//
// edit.go plans the edit of one file: it is pure.
package gitops

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// Version is an application's version in a file: the line to edit.
type Version struct {
	App     string   // what its chart is called, as requirements and most helmfiles call it
	Release string   // what Helm calls it: a helmfile may have a chart more than once; "" where that is not known
	Path    []string // to the version within the YAML: [spec releases [name=shop] version]; nil: as Jenkins X has it
}

// Files are where Jenkins X keeps the versions of a namespace's applications, in the order in which they are looked for: version 2, then version 3.
func Files(namespace string) []string {
	return []string{"env/requirements.yaml", "helmfiles/" + namespace + "/helmfile.yaml", "helmfile.yaml"}
}

// What there is to do with a file.
var (
	ErrNotThere = errors.New("the application is not in the file")
	ErrAlready  = errors.New("the file says that version already")
	ErrMovedOn  = errors.New("the file says another version by now")
)

// Edit is a change of one line.
type Edit struct {
	File          string
	Line          int // from 1
	Before, After string
}

// String shows the edit as a patch does.
func (e Edit) String() string {
	return fmt.Sprintf("%s:%d\n-%s\n+%s", e.File, e.Line, e.Before, e.After)
}

// Find returns the version that a file says. The error is ErrNotThere, or says that the file is no YAML.
func (v Version) Find(content []byte) (string, error) {
	node, err := v.node(content)
	if err != nil {
		return "", err
	}
	return node.Value, nil
}

// Set replaces one version by another, and leaves everything else as it is, byte for byte. The error is ErrNotThere, ErrAlready, ErrMovedOn where the
// file says neither of both, or says that the file is no YAML.
func (v Version) Set(file string, content []byte, from, to string) ([]byte, Edit, error) {
	node, err := v.node(content)
	switch {
	case err != nil:
		return nil, Edit{}, err
	case node.Value == to:
		return nil, Edit{}, fmt.Errorf("%w: %s of %s in %s", ErrAlready, to, v.App, file)
	case node.Value != from:
		return nil, Edit{}, fmt.Errorf("%w: %s of %s in %s, and not %s", ErrMovedOn, node.Value, v.App, file, from)
	}
	lines := bytes.SplitAfter(content, []byte("\n"))
	line := lines[node.Line-1]
	start := node.Column - 1
	if node.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		start++
	}
	if !bytes.HasPrefix(line[min(start, len(line)):], []byte(from)) { // written over several lines, or with escapes
		return nil, Edit{}, fmt.Errorf("%s: the version of %s in line %d is not written plainly: write it on one line, as %s", file, v.App, node.Line, from)
	}
	if node.Style == 0 && !plain(to) {
		to = `"` + to + `"`
	}
	after := append(append(append([]byte{}, line[:start]...), to...), line[start+len(from):]...)
	edit := Edit{File: file, Line: node.Line, Before: strings.TrimRight(string(line), "\r\n"), After: strings.TrimRight(string(after), "\r\n")}
	lines[node.Line-1] = after
	return bytes.Join(lines, nil), edit, nil
}

// plain says that a version needs no quotes to be text: 1.10 is a number.
func plain(version string) bool {
	node, err := yaml.Parse(version)
	return err == nil && node.YNode().Kind == yaml.ScalarNode && node.YNode().Tag == yaml.NodeTagString && node.YNode().Value == version
}

// alike is how many entries of a list a path leads to: LIST [KEY=VALUE] version.
func alike(root *yaml.RNode, path []string) (n int) {
	entries, err := root.Pipe(yaml.Lookup(path[0]))
	if err != nil || entries == nil {
		return 0
	}
	key, value, _ := strings.Cut(strings.Trim(path[1], "[]"), "=")
	_ = entries.VisitElements(func(entry *yaml.RNode) error {
		if field := entry.Field(key); field != nil && field.Value.YNode().Value == value {
			n++
		}
		return nil
	})
	return n
}

// node is where the version stands.
func (v Version) node(content []byte) (*yaml.Node, error) {
	var documents []*yaml.RNode // helmfiles have their environments in one of their own
	for decoder := yaml.NewDecoder(bytes.NewReader(content)); ; {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("it is no YAML (a template is not edited: keep versions in a file that is none): %w", err)
		}
		documents = append(documents, yaml.NewRNode(&document))
	}
	paths := [][]string{v.Path}
	if v.Path == nil {
		for _, key := range []string{"alias", "name"} {
			paths = append(paths, []string{"dependencies", "[" + key + "=" + v.App + "]", "version"})
		}
		paths = paths[1:]
		for _, name := range []string{v.Release, v.App} {
			if name != "" {
				paths = append(paths, []string{"releases", "[name=" + name + "]", "version"})
			}
		}
	}
	for _, path := range paths {
		for _, root := range documents {
			found, err := root.Pipe(yaml.Lookup(path...))
			if err != nil {
				return nil, fmt.Errorf("looking for %s: %w", strings.Join(path, "."), err)
			}
			if found == nil || found.YNode().Kind != yaml.ScalarNode {
				continue
			}
			if v.Path != nil {
				return found.YNode(), nil
			}
			if n := alike(root, path); n > 1 {
				return nil, fmt.Errorf("%d of its %s are alike (%s): say by gitPath which is meant, by its place: %s 0 version is the first", n, path[0], path[1], path[0])
			}
			return found.YNode(), nil
		}
	}
	return nil, fmt.Errorf("%w: %s", ErrNotThere, v.App)
}
