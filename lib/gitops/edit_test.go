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

const v3 = "releases:\r\n- chart: dev/cart\r\n  version: 2.0.1\r\n  name: cart\r\n- {chart: dev/shop, name: shop, " +
	"version: 1.3.0, values: [values.yaml]}\r\n"

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
		{"in quotes", v2, Version{App: "shop"}, "1.3.0", "1.2.9", 7, `- version: "1.3.0"   # by jx promote`,
			`- version: "1.2.9"   # by jx promote`},
		{"by its alias", v2, Version{App: "front"}, "1.3.0", "1.2.9", 7, `- version: "1.3.0"   # by jx promote`,
			`- version: "1.2.9"   # by jx promote`},
		{"Jenkins X 3, in one line", v3, Version{App: "shop"}, "1.3.0", "1.2.9", 5,
			"- {chart: dev/shop, name: shop, version: 1.3.0, values: [values.yaml]}",
			"- {chart: dev/shop, name: shop, version: 1.2.9, values: [values.yaml]}"},
		{"of several documents", "environments:\n  default: {}\n---\n" + strings.ReplaceAll(v3, "\r", ""),
			Version{App: "cart"}, "2.0.1", "2.0.0", 6, "  version: 2.0.1", "  version: 2.0.0"},
		{"a release that is called otherwise than its chart",
			"releases:\n- {name: cart, chart: dev/cart, version: 1.3.0}\n- {name: shop-eu, chart: " +
				"dev/shop, version: 1.3.0}\n",
			Version{App: "shop", Release: "shop-eu"}, "1.3.0", "1.2.9", 3,
			"- {name: shop-eu, chart: dev/shop, version: 1.3.0}", "- {name: shop-eu, chart: dev/shop, version: 1.2.9}"},
		{"an alias that is another's name",
			"dependencies:\n- {name: shop, alias: front, version: 1.3.0}\n- {name: shop, version: 1.3.0}\n",
			Version{App: "shop"}, "1.3.0", "1.2.9", 3, "- {name: shop, version: 1.3.0}",
			"- {name: shop, version: 1.2.9}"},
		{"of several namespaces",
			"releases:\n- {name: shop, version: 1.3.0, namespace: staging}\n- {name: shop, version: 1.3.0, " +
				"namespace: production}\n",
			Version{App: "shop", Namespace: "production"}, "1.3.0", "1.2.9", 3,
			"- {name: shop, version: 1.3.0, namespace: production}",
			"- {name: shop, version: 1.2.9, namespace: production}"},
		{"of the file's namespace", "namespace: production\nreleases:\n- {name: shop, version: 1.3.0}\n",
			Version{App: "shop", Namespace: "production"}, "1.3.0", "1.2.9", 3, "- {name: shop, version: 1.3.0}",
			"- {name: shop, version: 1.2.9}"},
		{"a namespace that a template says",
			"releases:\n- {name: shop, version: 1.3.0, namespace: '{{ .Environment.Name }}'}\n",
			Version{App: "shop", Namespace: "production"}, "1.3.0", "1.2.9",
			2, "- {name: shop, version: 1.3.0, namespace: '{{ .Environment.Name }}'}",
			"- {name: shop, version: 1.2.9, namespace: '{{ .Environment.Name }}'}"},
		{"templates beside it", "releases:\n- name: shop\n  version: 1.3.0\n  installed: {{ .Values.shop }}\n",
			Version{App: "shop"}, "1.3.0", "1.2.9", 3, "  version: 1.3.0", "  version: 1.2.9"},
		{"other alphabets before it", "releases:\n- {note: \"für ä\", name: shop, version: 1.3.0}\n",
			Version{App: "shop"}, "1.3.0", "1.2.9",
			2, "- {note: \"für ä\", name: shop, version: 1.3.0}",
			"- {note: \"für ä\", name: shop, version: 1.2.9}"},
		{"by a path, in the application's document",
			"kind: App\nmetadata: {name: cart}\nspec: {version: 1.3.0}\n---\nkind: App\nmetadata: {name: " +
				"shop}\nspec: {version: 1.3.0}\n",
			Version{App: "shop", Path: []string{"spec", "version"}}, "1.3.0", "1.2.9", 7, "spec: {version: 1.3.0}",
			"spec: {version: 1.2.9}"},
		{"what is true to some", "apps: {shop: v7}\n", Version{App: "shop", Path: []string{"apps", "shop"}}, "v7", "on",
			1, "apps: {shop: v7}", `apps: {shop: "on"}`},
		{"a helmfile that calls it by its chart", v3, Version{App: "shop", Release: "another"}, "1.3.0", "1.2.9", 5,
			"- {chart: dev/shop, name: shop, version: 1.3.0, values: [values.yaml]}",
			"- {chart: dev/shop, name: shop, version: 1.2.9, values: [values.yaml]}"},
		{"by its place", "releases:\n- {name: shop, version: 1.3.0, namespace: a}\n- {name: shop, version: 1.3.0}\n",
			Version{App: "shop", Path: []string{"releases", "1", "version"}}, "1.3.0", "1.2.9", 3,
			"- {name: shop, version: 1.3.0}", "- {name: shop, version: 1.2.9}"},
		{"what would be read as a number", v3, Version{App: "cart"}, "2.0.1", "1.10", 3, "  version: 2.0.1",
			`  version: "1.10"`},
		{"by a path", "apps:\n- id: shop\n  image: {tag: v7}\n",
			Version{App: "shop", Path: []string{"apps", "[id=shop]", "image", "tag"}}, "v7", "v6", 3,
			"  image: {tag: v7}", "  image: {tag: v6}"},
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
			last := strings.LastIndex(c.content, c.before)
			if want := c.content[:last] + c.after + c.content[last+len(c.before):]; string(got) != want {
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
	two := "releases:\n- {name: shop, chart: dev/shop, version: 1.3.0}\n- {name: payments, chart: " +
		"dev/payments, version: 1.3.0}\n"
	documents := "metadata: {name: cart}\nspec: {version: 1.3.0}\n---\nmetadata: {name: pay}\nspec: {version: 1.3.0}\n"
	shop, spec := Version{App: "shop"}, []string{"spec", "version"}
	for _, c := range []struct {
		desc, content string
		version       Version
		want          error
		says          string
	}{
		{"somebody moved on", v2, Version{App: "cart"}, ErrMovedOn, "2.0.1 of cart in file, and not 1.3.0"},
		{"another application's file", v2, Version{App: "other"}, ErrNotThere, "other"},
		{"an application without a version", "releases:\n- name: shop\n", shop, ErrNotThere, ""},
		{"a template", "releases:\n{{ range .x }}\n- name: shop\n{{ end }}\n", shop, nil, "templates are not edited"},
		{"two of that name",
			"releases:\n- {name: shop, version: 1.3.0, namespace: a}\n- {name: shop, version: 1.3.0}\n", shop, nil,
			"2 of its releases can be shop: set gitPath"},
		{"two of that name in two documents",
			"releases:\n- {name: shop, version: 1.3.0}\n---\nreleases:\n- {name: shop, version: 1.3.0}\n", shop, nil,
			"2 of its releases can be shop"},
		{"no list of maps", requirements, shop, nil, ""},
		{"with escapes", "releases:\n- name: shop\n  version: \"1.\\u0033.0\"\n", shop, nil, "is not written plainly"},
		{"another namespace's", "releases:\n- {name: shop, version: 1.3.0, namespace: staging}\n",
			Version{App: "shop", Namespace: "production"}, ErrNotThere, ""},
		{"another namespace's file", "namespace: staging\nreleases:\n- {name: shop, version: 1.3.0}\n",
			Version{App: "shop", Namespace: "production"}, ErrNotThere, ""},
		{"an annotation of another release", two, Version{App: "shop", Release: "payments"}, nil,
			"annotated as one of release payments: set gitApp"},
		{"an annotation of another chart's release", two, Version{App: "store", Release: "payments"}, ErrNotThere, ""},
		{"an annotation of none of the chart's releases",
			"releases:\n- {name: shop-eu, chart: dev/shop, version: 1.3.0}\n",
			Version{App: "shop", Release: "payments"}, nil, "set gitApp"},
		{"two releases of the chart",
			"releases:\n- {name: shop-eu, chart: dev/shop, version: 1.3.0}\n- {name: shop-us, chart: " +
				"dev/shop, version: 1.3.0}\n",
			Version{App: "shop", Release: "shop-us"}, nil, "2 of its releases can be shop"},
		{"two versions", "releases:\n- {name: shop, version: 1.3.0, version: 1.3.0}\n", shop, nil, "2 versions"},
		{"an anchor", "releases:\n- {name: shop, version: &v 1.3.0}\n- {name: payments, version: *v}\n", shop, nil,
			"not written plainly"},
		{"an alias", "v: &v\n  1.3.0\nreleases:\n- {name: shop, version: *v}\n- {name: payments, version: *v}\n", shop,
			nil, "not written plainly"},
		{"an anchor around it", "releases:\n- &shop {name: shop, version: 1.3.0}\n- {<<: *shop, name: payments}\n",
			shop, nil, "2 values are it"},
		{"what contains itself", "releases:\n- &shop {name: shop, version: 1.3.0, self: *shop}\n", shop, nil,
			"not edited"},
		{"other documents' path", documents, Version{App: "shop", Path: spec}, nil,
			"2 of its documents have spec version, and 0 of these are called shop: set gitApp"},
		{"two documents of that name", documents + "---\nname: cart\nspec: {version: 1.3.0}\n",
			Version{App: "cart", Path: spec}, nil,
			"3 of its documents have spec version, and 2 of these are called cart"},
		{"a path to two places", "releases:\n- {name: shop, version: 1.3.0}\n- {name: shop, version: 1.3.0}\n",
			Version{App: "shop", Path: []string{"releases", "[name=shop]", "version"}}, nil,
			"2 places in it are releases [name=shop] version"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			next, _, err := c.version.Set("file", []byte(c.content), "1.3.0", "1.2.9")
			if err == nil || c.want != nil && !errors.Is(err, c.want) || c.want == nil && errors.Is(err, ErrNotThere) &&
				c.says != "" || !strings.Contains(err.Error(), c.says) || next != nil {
				t.Errorf("%v", err)
			}
		})
	}
}

// An edit is shown in three lines, whatever the file has beside the version.
func TestEditString(t *testing.T) {
	t.Parallel()
	line := "  version: 1.3.0 # \x1b[31m\u2028" + strings.Repeat("x", 10000)
	text := Edit{"file", 3, line, line}.String()
	if len(text) > 2000 || strings.Count(text, "\n") != 2 || !strings.HasPrefix(text, "file:3\n-  version: 1.3.0 #") ||
		strings.ContainsAny(text, "\x1b\u2028") {
		t.Errorf("%q", text)
	}
}

// What is no version never gets into a file.
func TestSetRefusesVersions(t *testing.T) {
	t.Parallel()
	content := "releases:\n- name: shop\n  version: 1.3.0\n"
	for _, version := range []string{
		"", " ", "1.2.9 ", "1.2.9\n  hooks:\n  - events: [presync]\n    command: sh", "1.2.9\"", "1.2.9'", "1.2.9 # x",
		"1.2.9: x", "*v", "&v", "!!str 1", "{{ .V }}", "[1]", "-1", ".1",
		">=1.0.0", "1.2.9+a_b", "1.2.9+", "1.2.9+a+b", "1.2.9\x00", "1.2.9\u2028x", "$(id)", "1.2.9;id",
		strings.Repeat("1", 129),
	} {
		if next, _, err := (Version{App: "shop"}).Set("file", []byte(content), "1.3.0", version); err == nil ||
			next != nil || !strings.Contains(err.Error(), "not a version") || strings.Contains(err.Error(), "\n") {
			t.Errorf("to %q: %v\n%s", version, err, next)
		}
		if next, _, err := (Version{App: "shop"}).Set("file", []byte(content), version, "1.2.9"); err == nil ||
			next != nil {
			t.Errorf("from %q: %v\n%s", version, err, next)
		}
	}
	for _, app := range []string{"", "sh op", "shop\n", "shop]", "-shop"} {
		if next, _, err := (Version{App: app}).Set("file", []byte(content), "1.3.0", "1.2.9"); err == nil ||
			next != nil || !strings.Contains(err.Error(), "not the name of an application") {
			t.Errorf("%q: %v\n%s", app, err, next)
		}
	}
}
