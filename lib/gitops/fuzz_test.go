package gitops

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode"

	"github.com/go-git/go-git/v5/plumbing/transport"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/canary-tasks/canary-tasks/lib/config"
)

// decoded is what a program reads in a file: its documents, with anchors and merges resolved.
func decoded(content []byte) ([]any, error) {
	var documents []any
	for decoder := yaml.NewDecoder(bytes.NewReader(content)); len(documents) < 100; {
		var document any
		if err := decoder.Decode(&document); err != nil {
			if err.Error() == "EOF" {
				err = nil
			}
			return documents, err
		}
		documents = append(documents, document)
	}
	return documents, errors.New("too many")
}

// differences lists the values in which two documents differ.
func differences(a, b any) []string {
	a, b = named(a), named(b)
	switch a := a.(type) {
	case map[string]any:
		if b, ok := b.(map[string]any); ok && len(a) == len(b) {
			var all []string
			for key := range a {
				if _, has := b[key]; !has {
					return []string{"other keys"}
				}
				all = append(all, differences(a[key], b[key])...)
			}
			return all
		}
	case []any:
		if b, ok := b.([]any); ok && len(a) == len(b) {
			var all []string
			for i := range a {
				all = append(all, differences(a[i], b[i])...)
			}
			return all
		}
	default:
		if fmt.Sprint(a) == fmt.Sprint(b) && reflect.TypeOf(a) == reflect.TypeOf(b) {
			return nil
		}
	}
	return []string{fmt.Sprintf("%v to %v", a, b)}
}

// named is a map whose keys are no text, such as null, with text for keys.
func named(value any) any {
	odd, ok := value.(map[any]any)
	if !ok {
		return value
	}
	m := map[string]any{}
	for key, value := range odd {
		m[fmt.Sprintf("%T %v", key, key)] = value
	}
	return m
}

// Whatever a file is, an edit replaces one version by another, in one value, and in nothing beside
// it.
func FuzzSet(f *testing.F) {
	for _, seed := range []string{
		requirements, v2, v3, says("1.3.0"),
		"releases:\n- {name: shop, version: &v 1.3.0}\n- {name: cart, version: *v}\n",
		"releases:\n- &s {name: shop, version: 1.3.0}\n- {<<: *s, name: cart}\n",
		"metadata: {name: cart}\nspec: {version: 1.3.0}\n---\nmetadata: {name: shop}\nspec: {version: \"1.3.0\"}\n",
		"releases:\n- {x: \"ü\", name: shop, version: '1.3.0'}\n",
		"\ufeffreleases: [{name: shop, version: 1.3.0}]", "a: b\rreleases: [{name: shop, version: 1.3.0}]\r",
		"releases:\n- name: shop\n  version: {{ .V }}\n", "releases:\n- &a [*a, {name: shop, version: 1.3.0}]\n",
		"releases:\n- name: shop\n  version: >-\n    1.3.0\n",
		"releases:\n- name: shop\n  version: \"1.3.0\\\n    \"\n",
		"? [a, b]\n: {version: 1.3.0}\nreleases: [{name: shop, version: 1.3.0}]\n",
		"releases:\n- {name: shop, version: 1.3.0,&values: [values.yaml]}\n",
		"releases: [{1: 2, .nan: x, name: shop, version: 1.3.0}]\n",
		"releases: [{name: shop, version: 1.3.0, version: 1.3.0}]\nreleases: []\n", "spec: {version: !!str 1.3.0}\n",
		"%YAML 1.1\n---\nspec: {version: 1.3.0}\n...\n",
	} {
		for _, path := range []string{"", "spec version", "releases 0 version"} {
			f.Add([]byte(seed), "shop", path, "1.3.0", "1.2.9")
		}
	}
	f.Add([]byte("spec: {version: v7}\n"), "shop", "spec version", "v7", "on")
	f.Add([]byte("spec: {version: '7'}\n"), "shop", "spec version", "7", "6")
	f.Fuzz(func(t *testing.T, content []byte, app, path, from, to string) {
		v := Version{App: app, Release: "shop", Namespace: "web", Path: strings.Fields(path)}
		if len(v.Path) == 0 {
			v.Path = nil
		}
		checkSet(t, v, content, from, to)
	})
}

// Whatever stands before and behind a version, the edit is of that version alone.
func FuzzSetBeside(f *testing.F) {
	for _, seed := range [][2]string{
		{"  ", "\n"}, {"  chart: dev/shop\n  ", " # ours\n"}, {"  ü: &a \"", "\"\n"}, {"  values: &v [", ", *v]\n"},
		{"  namespace: web\r\n  ", "\r\n- <<: *x\n"}, {"  x: |\n    ", "\n---\nreleases: []\n"},
		{"  set: {version: 1.3.0}\n  ", "\n- name: cart\n  version: 1.3.0\n"}, {"  {{ if .x }}: y\n  ", "\u2028"},
		{"  version: 1.3.0\n  ", ""}, {"- name: shop\n  ", "\nnamespace: web"},
	} {
		f.Add(seed[0], seed[1], "1.2.9")
	}
	f.Fuzz(func(t *testing.T, before, after, to string) {
		content := "releases:\n- name: shop\n" + before + "version: 1.3.0" + after
		checkSet(t, Version{App: "shop", Release: "shop", Namespace: "web"}, []byte(content), "1.3.0", to)
	})
}

// checkSet edits a file, and checks what came of it.
func checkSet(t *testing.T, v Version, content []byte, from, to string) {
	t.Helper()
	next, edit, err := v.Set("file", content, from, to)
	if err != nil {
		if next != nil {
			t.Error("an error and a file")
		}
		return
	}
	if !config.IsVersion(to) || !config.IsVersion(from) || from == to {
		t.Fatalf("from %q to %q", from, to)
	}
	checkBytes(t, content, next, to)
	if edit.Before == edit.After {
		t.Errorf("%+v", edit)
	}
	if now, err := v.Find(next); err != nil || now != to {
		t.Errorf("afterwards it says %q: %v", now, err)
	}
	checkValues(t, content, next, to)
}

// checkBytes checks that a file is the same, byte for byte, before and after one place, which has
// the version now.
func checkBytes(t *testing.T, content, next []byte, to string) {
	t.Helper()
	at := 0
	for at < min(len(content), len(next)) && content[at] == next[at] {
		at++
	}
	tail := 0
	for tail < min(len(content), len(next))-at && content[len(content)-1-tail] == next[len(next)-1-tail] {
		tail++
	}
	if new := string(next[at : len(next)-tail]); len(new) > len(to)+2 ||
		strings.ContainsAny(new, " \t\r\n:#{}[],&*!|>%@`$") {
		t.Errorf("%q was put in", new)
	}
}

// checkValues checks that one value of a file became the version, as programs read it.
func checkValues(t *testing.T, content, next []byte, to string) {
	t.Helper()
	before, err := decoded(content)
	if err != nil { // a template, or not what programs read
		return
	}
	after, err := decoded(next)
	if err != nil || len(before) != len(after) {
		t.Fatalf("%d documents became %d: %v", len(before), len(after), err)
	}
	var changed []string
	for i := range before {
		changed = append(changed, differences(before[i], after[i])...)
	}
	if len(changed) != 1 || !strings.HasSuffix(changed[0], " to "+to) {
		t.Errorf("%q differ:\n%s\n%s", changed, content, next)
	}
}

// Nothing that a server answers makes an error long, or more than a line, or has the password in
// it.
func FuzzErrors(f *testing.F) {
	f.Add("jx", "s3cret", "a s3cret\nb\x1b[0m")
	f.Add("a", "0 0 ", "0000\x01\x000\x0000")
	f.Add("", "pass word/+", "pass+word%2F%2B\u2028")
	f.Fuzz(func(t *testing.T, user, password, text string) {
		got := (access{user: user, password: password}).said(errors.New(text)).Error()
		if strings.ContainsFunc(got, func(c rune) bool { return !unicode.IsPrint(c) }) ||
			len([]rune(got)) > maxError+3 {
			t.Errorf("%q", got)
		}
		if len(password) > 3 && !strings.Contains(password, "*") && strings.Contains(got, password) {
			t.Errorf("%q has %q", got, password)
		}
	})
}

// What the configuration calls the server is what go-git connects to and what is asked for pull
// requests.
func FuzzAddress(f *testing.F) {
	for _, seed := range []string{
		"https://git.example.com/env.git", "http://h:1/a", "git@github.com:acme/env.git", "ssh://git@[::1]:22/env",
		"a@b:1:c", "HTTPS://H/p", "a@b@c:d", "git@h:22:/x", `a@b:\`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		host, err := config.HostOf(address)
		if err != nil {
			return
		}
		endpoint, err := transport.NewEndpoint(address)
		if err != nil {
			return
		}
		if strings.Trim(endpoint.Host, "[]") != host || endpoint.Password != "" || endpoint.Protocol == "file" ||
			endpoint.Protocol == "git" {
			t.Errorf("%q: host %s, but go-git's is %+v", address, host, endpoint)
		}
		server, _, err := serverOf(address)
		if err != nil || !strings.Contains(server, host) || strings.Contains(server, "@") {
			t.Errorf("%q: pull requests of %s: %v", address, server, err)
		}
	})
}
