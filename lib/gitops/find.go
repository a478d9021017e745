package gitops

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// Version is an application's version in a file. App selects it; Release and Namespace, which come
// from objects of the application, only rule places out.
type Version struct {
	App       string   // name of its dependency (requirements.yaml) or of its release (helmfile)
	Release   string   // its Helm release, as the Deployment is annotated; "" if unknown
	Namespace string   // where it runs; "" if unknown
	Path      []string // to the version within the YAML: spec releases [name=shop] version; nil: as Jenkins X has it
}

// Files are where Jenkins X keeps the versions of a namespace's applications, in the order in which
// they are searched: version 2, then version 3.
func Files(namespace string) []string {
	return []string{"env/requirements.yaml", "helmfiles/" + namespace + "/helmfile.yaml", "helmfile.yaml"}
}

// ErrNotThere is the error for a file without the application.
var ErrNotThere = errors.New("the application is not in the file")

// Find returns the version that a file states. The error is ErrNotThere, or says why the version is
// not known: the file is not YAML, or has more than one that could be meant.
func (v Version) Find(content []byte) (string, error) {
	documents, err := parse(content)
	if err != nil {
		return "", err
	}
	node, err := v.find(documents)
	if err != nil {
		return "", err
	}
	return node.Value, nil
}

// parse decodes all documents of a file: helmfiles have their environments in one of their own.
func parse(content []byte) ([]*yaml.Node, error) {
	var documents []*yaml.Node
	for decoder := yaml.NewDecoder(bytes.NewReader(content)); ; {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, fmt.Errorf(
				"it is not YAML (templates are not edited: keep versions in a file without them): %w", err)
		}
		documents = append(documents, &document)
	}
}

// find returns the one scalar that is the version.
func (v Version) find(documents []*yaml.Node) (*yaml.Node, error) {
	if v.Path != nil {
		return v.findPath(documents)
	}
	for _, search := range []struct {
		list string
		is   func(entry *yaml.Node) bool
	}{
		{"dependencies", func(entry *yaml.Node) bool { // Helm calls a dependency by its alias where it has one
			alias := text(entry, "alias")
			return alias == v.App || alias == "" && text(entry, "name") == v.App
		}},
		{"dependencies", func(entry *yaml.Node) bool { return text(entry, "name") == v.App }},
		{"releases", func(entry *yaml.Node) bool { return text(entry, "name") == v.App }},
		{"releases", func(entry *yaml.Node) bool {
			return v.Release != "" && path.Base(text(entry, "chart")) == v.App
		}},
	} {
		entries := v.entries(documents, search.list, search.is)
		switch {
		case len(entries) == 0:
			continue
		case len(entries) > 1:
			return nil, fmt.Errorf(
				"%d of its %s can be %s: set gitPath to the version that is meant, as in: %s 0 version",
				len(entries), search.list, v.App, search.list)
		}
		if err := v.agrees(documents, search.list, entries[0]); err != nil {
			return nil, err
		}
		versions := follow(entries[0], []string{"version"})
		if len(versions) > 1 {
			return nil, fmt.Errorf("%s has %d versions there: leave one", v.App, len(versions))
		}
		return versions[0], nil
	}
	return nil, fmt.Errorf("%w: %s", ErrNotThere, v.App)
}

// entries returns the elements of a list that are what is searched for, have one version, and
// belong to the namespace.
func (v Version) entries(documents []*yaml.Node, list string, is func(entry *yaml.Node) bool) []*yaml.Node {
	var found []*yaml.Node
	for _, document := range documents {
		for _, all := range follow(document, []string{list}) {
			if all.Kind != yaml.SequenceNode {
				continue
			}
			for _, entry := range all.Content {
				if is(entry) && slices.ContainsFunc(follow(entry, []string{"version"}), isScalar) &&
					v.here(document, entry) {
					found = append(found, entry)
				}
			}
		}
	}
	return found
}

// isScalar reports whether a node is one value.
func isScalar(node *yaml.Node) bool { return node.Kind == yaml.ScalarNode }

// here reports whether an entry can be one of the namespace: it names that one or none, or leaves
// it to a template.
func (v Version) here(document, entry *yaml.Node) bool {
	namespace := text(entry, "namespace")
	if namespace == "" {
		namespace = text(document, "namespace") // helmfile's default for all releases
	}
	return namespace == "" || v.Namespace == "" || namespace == v.Namespace || strings.Contains(namespace, "{{")
}

// agrees returns an error where the Deployment's annotation names another release of the file than
// the one that was found: one of the two is wrong, and the annotation, which the application's own
// team writes, must not decide.
func (v Version) agrees(documents []*yaml.Node, list string, entry *yaml.Node) error {
	name := text(entry, "name")
	if list != "releases" || v.Release == "" || v.Release == name {
		return nil
	}
	other := v.entries(documents, list, func(entry *yaml.Node) bool { return text(entry, "name") == v.Release })
	if name == v.App && len(other) == 0 {
		return nil
	}
	return fmt.Errorf(
		"its release %s is %s, and the Deployment is annotated as one of release %s: set gitApp "+
			"to the one that is meant",
		name, v.App, v.Release)
}

// findPath returns the scalar at Path. Where several documents have one, it is the document's that
// is called as the application.
func (v Version) findPath(documents []*yaml.Node) (*yaml.Node, error) {
	type hit struct {
		name string
		at   []*yaml.Node
	}
	var hits []hit
	for _, document := range documents {
		if at := follow(document, v.Path); slices.ContainsFunc(at, isScalar) {
			hits = append(hits, hit{documentName(document), at})
		}
	}
	where := strings.Join(v.Path, " ")
	if n := len(hits); n > 1 {
		hits = slices.DeleteFunc(hits, func(h hit) bool { return h.name != v.App })
		if len(hits) != 1 {
			return nil, fmt.Errorf(
				"%d of its documents have %s, and %d of these are called %s: set gitApp to the name of one",
				n, where, len(hits), v.App)
		}
	}
	switch {
	case len(hits) == 0:
		return nil, fmt.Errorf("%w: %s (%s)", ErrNotThere, v.App, where)
	case len(hits[0].at) > 1:
		return nil, fmt.Errorf("%d places in it are %s: set gitPath to one of them, by its position in its list",
			len(hits[0].at), where)
	}
	return hits[0].at[0], nil
}

// documentName is what a document calls itself: metadata.name of a Kubernetes object, else name.
func documentName(document *yaml.Node) string {
	for _, metadata := range follow(document, []string{"metadata"}) {
		if name := text(metadata, "name"); name != "" {
			return name
		}
	}
	return text(document, "name")
}

// text returns the value of a mapping's key; "" where it is no scalar or the key is there more than
// once.
func text(mapping *yaml.Node, key string) string {
	if values := follow(mapping, []string{key}); len(values) == 1 && values[0].Kind == yaml.ScalarNode {
		return values[0].Value
	}
	return ""
}

// follow returns all nodes that a path selects. Its elements are keys of mappings, positions in
// lists, and [KEY=VALUE] for those elements of a list whose KEY is VALUE.
func follow(node *yaml.Node, path []string) []*yaml.Node {
	node = resolve(node)
	if node == nil {
		return nil
	}
	if len(path) == 0 {
		return []*yaml.Node{node}
	}
	var found []*yaml.Node
	step, rest := path[0], path[1:]
	for _, n := range children(node, step) {
		found = append(found, follow(n, rest)...)
	}
	return found
}

// children returns the nodes that one element of a path selects in a mapping or a list.
func children(node *yaml.Node, step string) []*yaml.Node {
	switch node.Kind {
	case yaml.MappingNode:
		return values(node, step)
	case yaml.SequenceNode:
		return elements(node, step)
	}
	return nil
}

// values returns the values of a mapping's key, which it may have more than once.
func values(mapping *yaml.Node, name string) []*yaml.Node {
	var found []*yaml.Node
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if key := resolve(mapping.Content[i]); key != nil && key.Kind == yaml.ScalarNode && key.Value == name {
			found = append(found, mapping.Content[i+1])
		}
	}
	return found
}

// elements returns the elements of a list that a position or [KEY=VALUE] selects.
func elements(list *yaml.Node, selector string) []*yaml.Node {
	key, value, byKey := strings.Cut(selector, "=")
	key, value = strings.TrimPrefix(key, "["), strings.TrimSuffix(value, "]")
	position, err := strconv.Atoi(selector)
	var found []*yaml.Node
	for i, element := range list.Content {
		if err == nil && i == position || byKey && value != "" && text(element, key) == value {
			found = append(found, element)
		}
	}
	return found
}

// resolve returns what a document contains and an alias stands for; nil for an empty document.
func resolve(node *yaml.Node) *yaml.Node {
	for node != nil {
		switch {
		case node.Kind == yaml.AliasNode:
			node = node.Alias
		case node.Kind == yaml.DocumentNode && len(node.Content) > 0:
			node = node.Content[0]
		case node.Kind == yaml.DocumentNode:
			return nil
		default:
			return node
		}
	}
	return nil
}
