package canary

import (
	"fmt"

	"sigs.k8s.io/yaml"
)

// Reference names a MetricTemplate; Namespace is "" where it is that of the Canary.
type Reference struct{ Namespace, Name string }

// References lists the MetricTemplates whose queries a specification takes, each once. It is empty
// for a text that Read refuses.
func References(text []byte) []Reference {
	document, _, err := find(text)
	if err != nil {
		return nil
	}
	var all []Reference
	seen := map[Reference]bool{}
	eachReference(document, func(r Reference, _ map[string]any) {
		if !seen[r] {
			seen[r] = true
			all = append(all, r)
		}
	})
	return all
}

// Inline puts queries in the place of references. A reference without one stays.
func Inline(text []byte, queries map[Reference]string) ([]byte, error) {
	document, part, err := find(text)
	if err != nil {
		return nil, err
	}
	r := &reader{}
	if r.octals(part, "spec"); len(r.errors) > 0 { // which are read as numbers here, and written as others
		return nil, r.errors
	}
	size := len(part)
	eachReference(document, func(r Reference, metric map[string]any) {
		query := queries[r]
		if size += len(query); query != "" && size <= MaxText {
			delete(metric, "templateRef")
			metric["query"] = query
		}
	})
	if size > MaxText {
		return nil, fmt.Errorf(
			"with the queries of its templates it has %d bytes, and may have %d: let them be shorter, or fewer", size,
			MaxText)
	}
	out, err := yaml.Marshal(document)
	if err != nil {
		return nil, fmt.Errorf("writing the specification with its queries: %w", err)
	}
	return out, nil
}

// eachReference visits the metrics that have a reference and no query of their own.
func eachReference(v any, visit func(Reference, map[string]any)) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			eachReference(item, visit)
		}
	case map[string]any:
		ref, _ := v["templateRef"].(map[string]any)
		name, _ := ref["name"].(string)
		namespace, _ := ref["namespace"].(string)
		if query, _ := v["query"].(string); name != "" && query == "" {
			visit(Reference{Namespace: namespace, Name: name}, v)
			return
		}
		for _, item := range v {
			eachReference(item, visit)
		}
	}
}
