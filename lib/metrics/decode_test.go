package metrics

import (
	"strings"
	"testing"
	"testing/iotest"
)

// An answer is read whichever way it is written and however it comes; one that breaks off is an error, and no half of one.
func TestAnswer(t *testing.T) {
	t.Parallel()
	const series = `[{"metric":{"__name__":"istio_requests_total","le":"\u0031"},"values":[[1.5,"2"],[6.5,"3"]]},{"values":[],"metric":{"pod":"a"}}]`
	for _, c := range []struct {
		desc, body, rest, wrong string
		series                  int
	}{
		{"as Prometheus writes it", `{"status":"success","data":{"resultType":"matrix","result":` + series + `},"warnings":["w"]}` + "\n", `{"status":"success","data":{"resultType":"matrix","result":[]},"warnings":["w"]}`, "", 2},
		{"the result before its type", ` { "data" : {"result":` + series + `,"stats":{},"resultType":"matrix"}, "status":"success"}`, `{"data":{"resultType":"matrix","result":[]},"status":"success"}`, "", 2},
		{"a vector", `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"2"]}]}}`, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"2"]}]}}`, "", 0},
		{"an error", `{"status":"error","errorType":"bad_data","error":"no"}`, `{"status":"error","errorType":"bad_data","error":"no"}`, "", 0},
		{"it breaks off", `{"status":"success","data":{"resultType":"matrix","result":` + series[:len(series)-20], "", "reading Prometheus' answer", 0},
		{"it breaks off before its type", `{"data":{"result":[{"metric":{}},{]`, "", "reading Prometheus' answer", 0},
		{"a value that is no number", `{"data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"many"]]}]}}`, "", "parsing \"many\"", 0},
		{"a series without labels", `{"data":{"resultType":"matrix","result":[{"values":[[1,"1"]]}]}}`, "", "it has no labels", 0},
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
				if one := a.series[0]; len(one.values) != 2 || one.values[1].Value != 3 || one.values[0].Timestamp != 1500 || one.within != "1" {
					t.Errorf("%+v of %+v", one.values, one.labels)
				}
			}
		})
	}
}
