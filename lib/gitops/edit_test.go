package gitops

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const requirements = `# what runs in production
dependencies:
  - name: cart   # ours
    version: 2.0.1
    repository: http://charts/
- x
`

const v2 = `# what runs in production
dependencies:
- name: cart   # ours
  repository:   "http://charts/"
  version: 2.0.1

- version: "1.3.0"   # by jx promote
  name: shop
  alias:  front
`

const v3 = "releases:\r\n- chart: dev/cart\r\n  version: 2.0.1\r\n  name: cart\r\n- {chart: dev/shop, name: shop, version: 1.3.0, values: [values.yaml]}\r\n"

// Only the version changes: comments, order, quotes and the ends of lines stay.
func TestSet(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc, content string
		version       Version
		from, to      string
		line          int
		before, after string
	}{
		{"Jenkins X 2", v2, Version{App: "cart"}, "2.0.1", "2.0.0", 5, "  version: 2.0.1", "  version: 2.0.0"},
		{"in quotes", v2, Version{App: "shop"}, "1.3.0", "1.2.9", 7, `- version: "1.3.0"   # by jx promote`, `- version: "1.2.9"   # by jx promote`},
		{"by its alias", v2, Version{App: "front"}, "1.3.0", "1.2.9", 7, `- version: "1.3.0"   # by jx promote`, `- version: "1.2.9"   # by jx promote`},
		{"Jenkins X 3, in one line", v3, Version{App: "shop"}, "1.3.0", "1.2.9", 5, "- {chart: dev/shop, name: shop, version: 1.3.0, values: [values.yaml]}", "- {chart: dev/shop, name: shop, version: 1.2.9, values: [values.yaml]}"},
		{"of several documents", "environments:\n  default: {}\n---\n" + strings.ReplaceAll(v3, "\r", ""), Version{App: "cart"}, "2.0.1", "2.0.0", 6, "  version: 2.0.1", "  version: 2.0.0"},
		{"a chart that is there twice", "releases:\n- {name: shop, version: 1.3.0}\n- {name: shop-eu, version: 1.3.0}\n", Version{App: "shop", Release: "shop-eu"}, "1.3.0", "1.2.9", 3, "- {name: shop-eu, version: 1.3.0}", "- {name: shop-eu, version: 1.2.9}"},
		{"a helmfile that calls it by its chart", v3, Version{App: "shop", Release: "another"}, "1.3.0", "1.2.9", 5, "- {chart: dev/shop, name: shop, version: 1.3.0, values: [values.yaml]}", "- {chart: dev/shop, name: shop, version: 1.2.9, values: [values.yaml]}"},
		{"by its place", "releases:\n- {name: shop, version: 1.3.0, namespace: a}\n- {name: shop, version: 1.3.0}\n", Version{App: "shop", Path: []string{"releases", "1", "version"}}, "1.3.0", "1.2.9", 3, "- {name: shop, version: 1.3.0}", "- {name: shop, version: 1.2.9}"},
		{"what would be read as a number", v3, Version{App: "cart"}, "2.0.1", "1.10", 3, "  version: 2.0.1", `  version: "1.10"`},
		{"by a path", "apps:\n- id: shop\n  image: {tag: v7}\n", Version{App: "shop", Path: []string{"apps", "[id=shop]", "image", "tag"}}, "v7", "v6", 3, "  image: {tag: v7}", "  image: {tag: v6}"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			got, edit, err := c.version.Set("file", []byte(c.content), c.from, c.to)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(Edit{"file", c.line, c.before, c.after}, edit); diff != "" {
				t.Errorf("(-want, +got)\n%s", diff)
			}
			if want := strings.Replace(c.content, c.before, c.after, 1); string(got) != want {
				t.Errorf("the rest changed\n%s", cmp.Diff(want, string(got)))
			}
			if now, err := c.version.Find(got); err != nil || now != c.to {
				t.Errorf("it says %q afterwards: %v", now, err)
			}
			if _, _, err := c.version.Set("file", got, c.from, c.to); !errors.Is(err, ErrAlready) {
				t.Errorf("twice: %v", err)
			}
		})
	}
}

func TestSetRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc, content, app string
		want               error
		says               string
	}{
		{"somebody moved on", v2, "cart", ErrMovedOn, "2.0.1 of cart in file, and not 1.3.0"},
		{"another application's file", v2, "other", ErrNotThere, "other"},
		{"an application without a version", "releases:\n- name: shop\n", "shop", ErrNotThere, ""},
		{"a template", "releases:\n{{ range .x }}\n- name: shop\n{{ end }}\n", "shop", nil, "a template is not edited"},
		{"two of that name", "releases:\n- {name: shop, version: 1.3.0, namespace: a}\n- {name: shop, version: 1.3.0}\n", "shop", nil, "2 of its releases are alike ([name=shop]): say by gitPath which is meant, by its place: releases 0 version is the first"},
		{"no list of maps", requirements, "shop", nil, ""},
		{"with escapes", "releases:\n- name: shop\n  version: \"1.\\u0033.0\"\n", "shop", nil, "is not written plainly"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			_, _, err := (Version{App: c.app}).Set("file", []byte(c.content), "1.3.0", "1.2.9")
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
		})
	}
}
