// Package gitops reverts an environment repository to the version that serves, after a release was
// rolled back.
//
// find.go locates an application's version in a file and edit.go changes it; both are pure.
// repository.go commits and pushes, propose.go opens a pull request, and access.go has the
// credentials and whom they may be sent to.
package gitops

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/canary-tasks/canary-tasks/lib/config"
)

// Reasons not to edit a file.
var (
	ErrAlready = errors.New("the file says that version already")
	ErrMovedOn = errors.New("the file says another version by now")
)

// Edit is a change of one line.
type Edit struct {
	File          string
	Line          int // from 1
	Before, After string
}

// String shows the edit as a patch does, in lines of bounded length.
func (e Edit) String() string {
	return fmt.Sprintf("%s:%d\n-%s\n+%s", e.File, e.Line, printable(e.Before, maxError), printable(e.After, maxError))
}

// Set replaces one version by another, and leaves everything else as it is, byte for byte. Both
// versions are as config.IsVersion says. The error is ErrNotThere, ErrAlready, ErrMovedOn where the
// file has neither, or says why the file is not edited. An edit that would change anything but this
// version, as one of a YAML anchor would, is not made.
func (v Version) Set(file string, content []byte, from, to string) ([]byte, Edit, error) {
	if !config.IsApplication(v.App) {
		return nil, Edit{}, fmt.Errorf("%q is not the name of an application", shorten(v.App))
	}
	for _, version := range []string{from, to} {
		if !config.IsVersion(version) {
			return nil, Edit{}, fmt.Errorf("%q is not a version: neither a semantic version nor an image's tag",
				shorten(version))
		}
	}
	documents, err := parse(content)
	if err != nil {
		return nil, Edit{}, err
	}
	node, err := v.find(documents)
	switch {
	case err != nil:
		return nil, Edit{}, err
	case node.Value == to:
		return nil, Edit{}, fmt.Errorf("%w: %s of %s in %s", ErrAlready, to, v.App, file)
	case node.Value != from:
		return nil, Edit{}, movedOn(node.Value, from, v.App, file)
	}
	next, edit, err := replaceAt(file, content, node, from, to)
	if err != nil {
		return nil, Edit{}, err
	}
	changed, err := parse(next)
	if err != nil {
		return nil, Edit{}, fmt.Errorf("%s: not edited, as the result would not be YAML: %w", file, err)
	}
	if err := onlyVersion(documents, changed, from, to); err != nil {
		return nil, Edit{}, fmt.Errorf("%s: not edited, as more than the version of %s in line %d would change: %w",
			file, v.App, node.Line, err)
	}
	return next, edit, nil
}

// movedOn is the error for a file that says neither of the two versions.
func movedOn(now, from, app, file string) error {
	return fmt.Errorf("%w: %s of %s in %s, and not %s", ErrMovedOn, shorten(now), app, file, from)
}

// replaceAt replaces the text of a scalar.
func replaceAt(file string, content []byte, node *yaml.Node, from, to string) ([]byte, Edit, error) {
	lines := bytes.SplitAfter(content, []byte("\n"))
	var line []byte
	if node.Line <= len(lines) { // YAML has more line breaks than \n
		line = lines[node.Line-1]
	}
	start := offset(line, node.Column-1)
	if node.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		start = min(start+1, len(line))
	}
	if !bytes.HasPrefix(line[start:], []byte(from)) { // an anchor, a tag, several lines, escapes
		return nil, Edit{}, fmt.Errorf("%s: the version in line %d is not written plainly: write it on one line, as %s",
			file, node.Line, from)
	}
	if node.Style == 0 && !plain(to) {
		to = `"` + to + `"`
	}
	after := append(append(append([]byte{}, line[:start]...), to...), line[start+len(from):]...)
	edit := Edit{File: file, Line: node.Line,
		Before: strings.TrimRight(string(line), "\r\n"), After: strings.TrimRight(string(after), "\r\n")}
	lines[node.Line-1] = after
	return bytes.Join(lines, nil), edit, nil
}

// offset returns where a character of a line begins, in bytes.
func offset(line []byte, characters int) int {
	at := 0
	for range characters {
		_, size := utf8.DecodeRune(line[at:])
		at += size
	}
	return at
}

// plain reports whether a version needs no quotes to be text, by any version of YAML: 1.10 is a
// number, and on is true to some.
func plain(version string) bool {
	node, err := yaml.Parse(version)
	if err != nil {
		return false
	}
	y := node.YNode()
	return y.Kind == yaml.ScalarNode && y.Tag == yaml.NodeTagString && y.Value == version &&
		!yaml.IsValueNonString(version)
}

// Bounds of what a file is compared to.
const (
	maxNodes = 1 << 20 // with aliases followed
	maxDepth = 1000
)

// onlyVersion returns an error unless the documents differ in one scalar, which was one version and
// is the other.
func onlyVersion(before, after []*yaml.Node, from, to string) error {
	if len(before) != len(after) {
		return fmt.Errorf("%d documents became %d", len(before), len(after))
	}
	c := comparison{from: from, to: to, left: maxNodes}
	for i := range before {
		if err := c.compare(before[i], after[i], 0); err != nil {
			return err
		}
	}
	if c.changed != 1 {
		return fmt.Errorf("%d values are it: an anchor or a duplicate", c.changed)
	}
	return nil
}

// comparison counts the scalars that changed as they should.
type comparison struct {
	from, to      string
	changed, left int
}

// compare walks two nodes. It follows aliases, as what they stand for is what programs read.
func (c *comparison) compare(a, b *yaml.Node, depth int) error {
	if c.left--; c.left < 0 || depth > maxDepth {
		return errors.New("it is too large to compare, or contains itself")
	}
	if a.Kind != b.Kind || a.Anchor != b.Anchor || len(a.Content) != len(b.Content) {
		return fmt.Errorf("line %d would have another structure", a.Line)
	}
	if a.Kind == yaml.AliasNode {
		return c.compare(a.Alias, b.Alias, depth+1)
	}
	if a.Value != b.Value {
		if a.Value != c.from || b.Value != c.to || b.Tag != yaml.NodeTagString {
			return fmt.Errorf("line %d would change", a.Line)
		}
		c.changed++
	} else if a.Tag != b.Tag {
		return fmt.Errorf("line %d would have another type", a.Line)
	}
	for i := range a.Content {
		if err := c.compare(a.Content[i], b.Content[i], depth+1); err != nil {
			return err
		}
	}
	return nil
}

// Bounds of texts, in characters.
const (
	maxError = 600
	maxShort = 80
)

// oneLine returns a text on one line, with single spaces, and no longer than most.
func oneLine(text string, most int) string {
	return printable(strings.Join(strings.Fields(printable(text, len(text))), " "), most)
}

// shorten is oneLine for what should be a version.
func shorten(text string) string { return oneLine(text, maxShort) }

// printable returns a text with spaces for what cannot be printed, and no longer than most
// characters.
func printable(text string, most int) string {
	text = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, text)
	if characters := []rune(text); len(characters) > most {
		return string(characters[:most]) + "..."
	}
	return text
}
