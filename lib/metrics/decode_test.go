package metrics

import (
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// An answer is read whichever way it is written and however it comes; one that breaks off is an
// error, and no half of one.
func TestAnswer(t *testing.T) {
	t.Parallel()
	const series = `[{"metric":{"__name__":"istio_requests_total","le":"\u0031"},"values":[[1.5,"2"],[6.5,"3"]]},` +
		`{"values":[],"metric":{"pod":"a"}}]`
	for _, c := range []struct {
		desc, body, rest, wrong string
		series                  int
	}{
		{"as Prometheus writes it",
			`{"status":"success","data":{"resultType":"matrix","result":` + series + `},"warnings":["w"]}` + "\n",
			`{"status":"success","data":{"resultType":"matrix","result":[]},"warnings":["w"]}`, "", 2},
		{"the result before its type",
			` { "data" : {"result":` + series + `,"stats":{},"resultType":"matrix"}, "status":"success"}`,
			`{"data":{"resultType":"matrix","result":[]},"status":"success"}`, "", 2},
		{"a vector", `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"2"]}]}}`,
			`{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"2"]}]}}`, "", 0},
		{"an error", `{"status":"error","errorType":"bad_data","error":"no"}`,
			`{"status":"error","errorType":"bad_data","error":"no"}`, "", 0},
		{"it breaks off", `{"status":"success","data":{"resultType":"matrix","result":` + series[:len(series)-20], "",
			"reading Prometheus' answer", 0},
		{"it breaks off before its type", `{"data":{"result":[{"metric":{}},{]`, "", "reading Prometheus' answer", 0},
		{"a value that is no number", `{"data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"many"]]}]}}`,
			"", "parsing \"many\"", 0},
		{"a series without labels", `{"data":{"resultType":"matrix","result":[{"values":[[1,"1"]]}]}}`, "",
			"it has no labels", 0},
		{"something else", "<html>", "", "reading Prometheus' answer", 0},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			a := answer{decoder: &decoder{}}
			rest, err := a.read(iotest.OneByteReader(strings.NewReader(c.body)))
			if c.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), c.wrong) {
					t.Errorf("%v, want %s", err, c.wrong)
				}
				return
			}
			if err != nil || string(rest) != c.rest || len(a.series) != c.series {
				t.Fatalf("%d series, %v, the rest is\n%s, want\n%s", len(a.series), err, rest, c.rest)
			}
			if c.series > 0 {
				if one := a.series[0]; len(one.values) != 2 || one.values[1].Value != 3 ||
					one.values[0].Timestamp != 1500 || one.within != "1" {
					t.Errorf("%+v of %+v", one.values, one.labels)
				}
			}
		})
	}
}

// What is read quickly is what is read otherwise.
func TestAnswerOfKnownSeries(t *testing.T) {
	t.Parallel()
	series := func(pod string, values ...string) string {
		return `{"metric":{"__name__":"istio_requests_total","pod":"` + pod + `"},"values":[` +
			strings.Join(values, ",") + `]}`
	}
	body := func(all ...string) string {
		return `{"status":"success","data":{"resultType":"matrix","result":[` + strings.Join(all, ",") + `]}}` + "\n"
	}
	a, b := series("a", `[1764000000,"1"]`), series("b", `[1764000000.125,"1.5"],[1764000005.1,"123456789012345"]`)
	for _, c := range []struct {
		desc, body string
		quick      bool
	}{
		{"the same series", body(a, b), true},
		{"other values", body(
			series("a", `[1.001,"0"],[2,"0.00000000000001"]`), series("b", `[0.1,"999999999999999"]`)), true},
		{"with warnings", strings.Replace(body(a, b), `]}}`, `]},"warnings":["w"]}`, 1), true},
		{"the last is gone", body(a), true},
		{"the first is gone", body(b), false},
		{"one is new", body(a, b, series("c", `[1,"1"]`)), false},
		{"in another order", body(b, a), false},
		{"none", body(), false},
		{"sixteen digits", body(series("a", `[1,"1234567890123456"]`)), false},
		{"no number", body(series("a", `[1,"NaN"]`)), false},
		{"negative", body(series("a", `[-1,"1"]`)), false},
		{"with an exponent", body(series("a", `[1.5e3,"1e+06"]`)), false},
		{"four decimals", body(series("a", `[1.0001,"1"]`)), false},
		{"no values", body(series("a")), false},
		{"with spaces", strings.ReplaceAll(body(a, b), ",", ", "), false},
		{"a histogram", body(
			strings.TrimSuffix(a, "}") + `,"histograms":[[1,{"count":"1","sum":"1","buckets":[[0,"1","2","1"]]}]]}`),
			false},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			d := &decoder{}
			if _, err := (&answer{decoder: d}).read(strings.NewReader(body(a, b))); err != nil {
				t.Fatal(err)
			}
			_, quick := (&answer{decoder: d}).readQuickly([]byte(c.body))
			if quick != c.quick {
				t.Errorf("it is read quickly: %t, want %t", quick, c.quick)
			}
			known, unknown := answer{decoder: d}, answer{decoder: &decoder{}}
			rest, err := known.read(strings.NewReader(c.body))
			want, err2 := unknown.read(strings.NewReader(c.body))
			if err != nil || err2 != nil || strings.TrimSpace(string(rest)) != string(want) {
				t.Errorf("%v, %v, the rest is\n%s, want\n%s", err, err2, rest, want)
			}
			less := cmpopts.SortSlices(func(a, b rawSeries) bool { return a.within < b.within })
			if diff := cmp.Diff(
				unknown.series, known.series, cmp.AllowUnexported(rawSeries{}, labels{}), cmpopts.EquateNaNs(),
				cmpopts.EquateEmpty(), less); diff != "" {
				t.Errorf("-want, +got\n%s", diff)
			}
		})
	}
}
