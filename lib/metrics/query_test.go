package metrics

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
)

var ownValues = Values{
	Namespace: "web", Target: "shop", Service: "shop-front", Ingress: "in", Route: "way", Interval: 90 * time.Second,
	Variables: map[string]string{
		"pod": "shop-1", "odd": `a"} or vector(1) #` + "\n", "with-dash": "dash",
		"long": strings.Repeat("a", maxQuery)}}

func TestRender(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{
		{` up{namespace="{{ namespace }}",pod=~"{{target}}-.*"} `, `up{namespace="web",pod=~"shop-.*"}`},
		{`{{name}} {{- service -}} {{ingress}} {{route}}[{{ interval }}]`, `shopshop-frontin way[1m30s]`},
		{`{{ variables.pod }}, {{ index variables "pod" }}, {{ index variables "with-dash" }}`, `shop-1, shop-1, dash`},
		{`up{a="{{ variables.odd }}"}`, `up{a="a\"} or vector(1) #\n"}`},
		{`{{/* why it is so */}}up`, `up`},
		{strings.Repeat("a", maxQuery), strings.Repeat("a", maxQuery)},
	} {
		if got, err := Render(c[0], ownValues); err != nil || got != c[1] {
			t.Errorf("%s is %q, want %q: %v", c[0], got, c[1], err)
		}
	}
}

// Templates have values and nothing that repeats, defines, decides or computes. The error says
// where and what to write.
func TestRenderRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{
		{"up +\n  {{range 50000000}}up{{end}}",
			"at query:2:10, {{range 50000000}}up{{end}}: a query takes values, and nothing else: {{ name }}"},
		{`{{range variables}}{{.}}{{end}}`, "at query:1:8"},
		{`{{with namespace}}{{.}}{{end}}`, "a query takes values"},
		{`{{if namespace}}up{{else}}down{{end}}`, "a query takes values"},
		{`{{define "a"}}up{{template "a"}}{{end}}{{template "a"}}`, "its template defines another one at query:1:"},
		{`{{block "a" .}}up{{end}}`, "its template defines another one"},
		{`{{template "query"}}`, "a query takes values"},
		{`{{ $x := namespace }}up`, "a query takes values"},
		{`{{ printf "%999999d" 1 }}`, `function "printf" not defined; a query takes values`},
		{`{{ namespace | print }}`, "cannot be read"},
		{`{{ namespace | index }}`, "a query takes values"},
		{`{{ index variables namespace }}`, "a query takes values"},
		{`{{ index namespace "a" }}`, "a query takes values"},
		{`{{ index }}`, "a query takes values"},
		{`{{ namespace "a" }}`, "a query takes values"},
		{`{{ variables }}`, "a query takes values"},
		{`{{ variables.pod.more }}`, "a query takes values"},
		{`{{ (namespace) }}`, "a query takes values"},
		{`{{ .Namespace }}`, "a query takes values"},
		{`{{ "text" }}`, "a query takes values"},
		{`{{ nothing }}`, "its template cannot be read"},
		{`{{ variables.other }}`,
			`its template cannot be filled in at query:1:3, {{variables.other}}: ` +
				`there is no variable "other" among its templateVariables`},
		{`{{ variables.long }}{{ variables.long }}`, "with its values it has more than 16384 bytes"},
		{strings.Repeat("a", maxQuery+1), "it has 16385 bytes, and may have 16384"},
		{strings.Repeat("(", maxQuery) + strings.Repeat("{{", 1000), "may have 16384"},
	} {
		if got, err := Render(c[0], ownValues); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%.100s is %.100q: %v, want %s", c[0], got, err, c[1])
		}
	}
}

// A query whose template would make gigabytes takes no memory.
func TestRenderTakesNoMemory(t *testing.T) { // not parallel: allocations of other tests would be counted
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Render(
		"{{range 50000000}}sum(rate(a_metric_with_a_long_name[1m])) or {{end}}vector(1)", ownValues); err == nil {
		t.Error("it is rendered")
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
		t.Errorf("%d bytes", took)
	}
}

func TestReach(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]time.Duration{
		`sum(up)`: 0, `sum(rate(a[5m]))`: 5 * time.Minute, `sum(rate(a[5m] offset 1m))`: 6 * time.Minute,
		`max_over_time(sum(rate(a[5m]))[1h:1m])`: 65 * time.Minute,
		`sum(a offset -5m)`:                      0, `sum(rate(a[200y] offset 200y))`: math.MaxInt64,
		strings.Repeat("(", 2000) + "1" + strings.Repeat(")", 2000): 0,
	} {
		if got, err := Reach(query); err != nil || got != want {
			t.Errorf("%.100s reaches %s, want %s: %v", query, got, want, err)
		}
	}
	if _, err := Reach(strings.Repeat("(", maxQuery+1)); err == nil ||
		!strings.Contains(err.Error(), "may have 16384") {
		t.Error(err)
	}
}

// What is not a finite number is no value: +Inf is at least any min.
func TestValueIsFinite(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"+Inf", "-Inf", "NaN"} {
		for kind, result := range map[string]string{"vector": `[{"metric":{},"value":[1,%q]}]`, "scalar": `[1,%q]`} {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = fmt.Fprintf(w, `{"status":"success","data":{"resultType":%q,"result":`+result+`}}`, kind, value)
			}))
			client, err := New(server.URL, "")
			if err != nil {
				t.Fatal(err)
			}
			if got, err := client.Value(t.Context(), "sum(up)"); !errors.Is(err, ErrNoValues) ||
				!strings.Contains(err.Error(), "it gives "+value+", which is no number") {
				t.Errorf("%s of %s is %v: %v", kind, value, got, err)
			}
			server.Close()
		}
	}
}

// Whatever is rendered: it is short, has no more than values in it, and a value stays within the
// quotes it stands in.
func FuzzRender(f *testing.F) {
	for _, query := range []string{
		`up{a="{{ variables.odd }}"}`, "{{range 5}}up{{end}}", `{{define "query"}}up{{end}}`,
		`{{ index variables "odd" }}`, "{{- name -}}", "{{", `{{block "a" .}}{{end}}`} {
		f.Add(query, `a"}`+"\n")
	}
	f.Fuzz(func(t *testing.T, query, value string) {
		text, err := Render(query, Values{Namespace: value, Target: value, Variables: map[string]string{"odd": value}})
		if err != nil {
			return
		}
		if len(text) > maxQuery {
			t.Errorf("%d bytes", len(text))
		}
		for _, word := range []string{"{{range", "{{if", "{{with", "{{template", "{{block", "{{printf", "{{$"} {
			if !strings.Contains(query, "/*") && strings.Contains(query, word) {
				t.Errorf("%q is rendered as %q", query, text)
			}
		}
		if text, err := Render(`"{{ namespace }}"`, Values{Namespace: value}); err == nil {
			if back, err := strconv.Unquote(text); err != nil || back != value &&
				strings.ToValidUTF8(value, "\ufffd") == value {
				t.Errorf("%q is %s: %v", value, text, err)
			}
		}
		_, _ = Reach(text)
	})
}

// How far a query looks back is never negative, and does not depend on how it is written.
func FuzzReach(f *testing.F) {
	for _, query := range []string{
		"sum(rate(a[5m]))", "sum(a offset -5m)", "max_over_time(sum(rate(a[5m] offset 200y))[200y:1m])",
		`sum(a{b=~"c"} @ 5)`, "((1))", "a[", "sum(a[1m])"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		reach, err := Reach(query)
		if err != nil {
			return
		}
		if reach < 0 {
			t.Errorf("%s reaches %s", query, reach)
		}
		if again, err := Reach("sum(" + query + ")"); len(query) < maxQuery-5 && !strings.ContainsAny(query, "#") &&
			err == nil && again != reach {
			t.Errorf("%s reaches %s, and %s within sum()", query, reach, model.Duration(again))
		}
	})
}
