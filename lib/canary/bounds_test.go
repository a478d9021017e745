package canary

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// A text that would become much more in memory is refused before it does.
func TestBounded(t *testing.T) {
	t.Parallel()
	lists := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		lists += fmt.Sprintf(
			"%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", c-1), 10), ","))
	}
	for desc, c := range map[string]struct{ text, want string }{
		"what people have": {string(testdata(t, "v1beta1")), ""},
		"an alias":         {"a: &a {b: c}\nd: *a\ne: {<<: *a}\n", ""},
		"no YAML":          {"a: [", ""},
		"too long":         {strings.Repeat("#", MaxText+1), "it has 262145 bytes, and may have 262144"},
		"lists of lists":   {lists, "with its aliases replaced it is too long"},
		"a long text many times": {
			"a: &a " + strings.Repeat("x", 50<<10) + "\nb: [" + strings.Repeat("*a,y,", 20<<10) + "]",
			"with its aliases replaced it is too long"},
		"merged many times": {
			"a: &a {k: " + strings.Repeat("x", 50<<10) + "}\nb: [" + strings.Repeat("{<<: *a},", 10<<10) + "]",
			"with its aliases replaced it is too long"},
		"an alias of itself": {"a: &a [*a]", "it contains itself"},
		"deep": {
			strings.Repeat("{a: ", 9000) + strings.Repeat("}", 9000), "it is nested deeper than 100 levels"},
		"not so deep": {strings.Repeat("[", 90) + strings.Repeat("]", 90), ""},
	} {
		if err := Bounded([]byte(c.text)); c.want == "" && err != nil || c.want != "" &&
			(err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", desc, err, c.want)
		}
		if _, err := Read([]byte("canary: {enabled: true}\n---\n" + c.text)); c.want != "" && c.want[:6] != "it has" &&
			(err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s is read: %v", desc, err)
		}
	}
}

// What reading takes is bounded, whatever is read.
func TestReadTakesLittleMemory(t *testing.T) { // not parallel: allocations of other tests would be counted
	fields := func(key string) string {
		var b strings.Builder
		b.WriteString("canary:\n")
		for i := 0; b.Len() < MaxText-100; i++ {
			fmt.Fprintf(&b, "  "+key+": 1\n", i)
		}
		return b.String()
	}
	for desc, c := range map[string]struct {
		text   string
		errors int // bytes
	}{
		"fields that there are not": {fields("k%d"), 2000},
		"a long field":              {"canary:\n  ? " + strings.Repeat("k", MaxText-100) + "\n  : 1\n", 1000},
		"long values":               {"canary:\n  enabled: [" + strings.Repeat("v,", MaxText/8) + "]\n", 1000},
		"a list": {
			"canary:\n  analysis:\n    metrics: [" + strings.Repeat("0,", MaxText/8) + "]\n", 2000},
		"a text many times": {
			"canary: {enabled: true}\na: &a " + strings.Repeat("x", 50<<10) + "\nb: [" +
				strings.Repeat("*a,y,", 20<<10) + "]", 1000},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Read([]byte(c.text))
		runtime.ReadMemStats(&after)
		if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 120 {
			t.Errorf("%s: %d MiB were allocated", desc, took)
		}
		if err == nil || len(err.Error()) > c.errors {
			t.Errorf("%s: %.200v", desc, err)
		}
	}
}

// Queries that are put in do not make a specification longer than one may be.
func TestInlineIsBounded(t *testing.T) {
	t.Parallel()
	text := "kind: Canary\nspec:\n  metrics:\n" + strings.Repeat("  - {name: a, templateRef: {name: long}}\n", 100)
	if _, err := Inline([]byte(text), map[Reference]string{{Name: "long"}: strings.Repeat("a", 10<<10)}); err == nil ||
		!strings.Contains(err.Error(), "with the queries of its templates it has") {
		t.Error(err)
	}
}

// What is read has no more than parameters have: values on one line, and mistakes that can be told.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"v1beta1", "v1alpha3", "jenkins-x-v2", "jenkins-x-2019", "jenkins-x-v3"} {
		f.Add(testdata(f, name))
	}
	f.Add([]byte("canary:\n  canaryAnalysis:\n    metrics: {0}")) // nothing is known of what is there
	f.Add([]byte("a: &a [*a]\ncanary: {<<: *a, enabled: 010}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		spec, err := Read(text)
		if err != nil {
			if len(err.Error()) > 64<<10 {
				t.Errorf("%d bytes of mistakes", len(err.Error()))
			}
			return
		}
		for name, value := range spec.Values {
			if value == "" {
				t.Errorf("%s is set and empty", name)
			}
		}
	})
}

// Once queries are put in the place of all references, none is left, and what is not about them is
// as it was.
func FuzzInline(f *testing.F) {
	f.Add([]byte("apiVersion: flagger.app/v1beta1\nkind: Canary\nspec:\n  targetRef: {name: shop}\n  analysis:\n    " +
		"metrics:\n    - {name: a, templateRef: {name: a, namespace: b}, thresholdRange: {max: 1}}\n    - {name: b, " +
		"templateRef: {name: b}}\n"))
	f.Add([]byte("kind: Canary\nspec: {metrics: [{templateRef: {name: a, templateRef: {name: b}}, query: ''}]}"))
	f.Add(testdata(f, "v1beta1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		queries := map[Reference]string{}
		for _, r := range References(text) {
			if queries[r] != "" {
				t.Errorf("%v is listed twice", r)
			}
			queries[r] = "up"
		}
		out, err := Inline(text, queries)
		if err != nil {
			return
		}
		if left := References(out); len(left) > 0 {
			t.Errorf("%v are left of %v in\n%s", left, queries, out)
		}
		if len(queries) > 0 {
			return
		}
		was, err := Read(text)
		is, err2 := Read(out)
		if (err == nil) != (err2 == nil) || err == nil &&
			(was.Target != is.Target || fmt.Sprint(was.Values) != fmt.Sprint(is.Values)) {
			t.Errorf("%v, %v\n%v, %v", was, err, is, err2)
		}
	})
}
