package canary

import (
	"errors"
	"fmt"

	yamlv3 "go.yaml.in/yaml/v3"
)

// MaxText is how many bytes a specification may have: it takes some hundred times as much memory to
// read one.
const MaxText = 256 << 10

// How deep YAML may be nested, and how many mistakes are named.
const (
	maxDepth  = 100
	maxErrors = 20
)

// Bounded reports what is wrong with the size of a YAML text, before it is decoded: its length, how
// deep it is nested, and its length with all aliases replaced, by which a small text can become
// gigabytes. Text that is no YAML is nil: what decodes it says so.
func Bounded(text []byte) error {
	if len(text) > MaxText {
		return fmt.Errorf(
			"it has %d bytes, and may have %d: give what the specification needs alone", len(text), MaxText)
	}
	var document yamlv3.Node
	if err := yamlv3.Unmarshal(text, &document); err != nil {
		return nil
	}
	_, err := (&expansion{anchors: map[*yamlv3.Node]int{}}).size(&document, 0)
	return err
}

// expansion adds up what a document is with its aliases replaced.
type expansion struct {
	anchors map[*yamlv3.Node]int // size; -1 while it is being added up
}

// size is the size of a node with its aliases replaced.
func (e *expansion) size(n *yamlv3.Node, depth int) (int, error) {
	if depth > maxDepth {
		return 0, fmt.Errorf("line %d: it is nested deeper than %d levels: flatten it", n.Line, maxDepth)
	}
	if n.Kind == yamlv3.AliasNode {
		n = n.Alias
	}
	if size, known := e.anchors[n]; known {
		if size < 0 {
			return 0, fmt.Errorf("line %d: it contains itself: take the alias out", n.Line)
		}
		return size, nil
	}
	if n.Anchor != "" {
		e.anchors[n] = -1
	}
	size := len(n.Value) + 1
	for _, c := range n.Content {
		part, err := e.size(c, depth+1)
		if err != nil {
			return 0, err
		}
		if size += part; size > MaxText {
			return 0, errors.New(
				"with its aliases replaced it is too long: write out what they stand for, or take some out")
		}
	}
	if n.Anchor != "" {
		e.anchors[n] = size
	}
	return size, nil
}
