package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"

	jsoniter "github.com/json-iterator/go"
	"github.com/prometheus/client_golang/api"
	"github.com/prometheus/common/model"
)

// rawSeries are the samples of one series.
type rawSeries struct {
	id     model.Fingerprint // of all its labels
	metric model.Metric      // those of its labels that matter here
	values []model.SamplePair
	native bool // a bucket of a native histogram, which is not written while it is empty: its first value is no increase
}

// decoder reads range vectors. It remembers the labels that it has read: from one look to the next they are the same, and they are most of an answer.
type decoder struct {
	known   map[model.Fingerprint]*knownLabels
	answers int // read so far
}

type knownLabels struct {
	metric model.Metric
	answer int // the last one that had them
}

// forget drops the labels that an answer of so many series did not have, once they are most of what is known: pods come and go.
func (d *decoder) forget(series int) {
	if len(d.known) <= 2*series {
		return
	}
	maps.DeleteFunc(d.known, func(_ model.Fingerprint, k *knownLabels) bool { return k.answer != d.answers })
}

// kept are the labels that matter here.
var kept = []string{model.MetricNameLabel, model.JobLabel, model.InstanceLabel, "pod", model.BucketLabel, "response_code", "grpc_response_status", "destination_service", "destination_workload"}

// answer is what a query is to be read into: see reading.
type answer struct {
	decoder *decoder
	series  []rawSeries
}

type answerKey struct{}

// into makes a query's range vector be read into an answer.
func into(ctx context.Context, a *answer) context.Context {
	return context.WithValue(ctx, answerKey{}, a)
}

// reading is an api.Client that takes range vectors out of answers where it is asked to, by into: the client above it spends several times as long
// on them. It leaves all else to that client: errors, warnings and other kinds of answers.
type reading struct{ api.Client }

// Do sends a request and returns its answer.
func (r reading) Do(ctx context.Context, req *http.Request) (*http.Response, []byte, error) {
	resp, body, err := r.Client.Do(ctx, req)
	a, ok := ctx.Value(answerKey{}).(*answer)
	if err != nil || !ok || resp.StatusCode != http.StatusOK {
		return resp, body, err
	}
	rest, err := a.read(body)
	return resp, rest, err
}

// read takes the range vector out of a body and returns the rest.
func (a *answer) read(body []byte) (rest []byte, err error) {
	it := jsoniter.ParseBytes(jsoniter.ConfigFastest, body)
	rest = []byte{'{'}
	add := func(key string, value []byte) {
		if len(rest) > 1 {
			rest = append(rest, ',')
		}
		rest = strconv.AppendQuote(rest, key)
		rest = append(append(rest, ':'), value...)
	}
	it.ReadObjectCB(func(it *jsoniter.Iterator, key string) bool {
		value := it.SkipAndReturnBytes()
		if key == "data" && isMatrix(value) {
			if err = a.readData(value); err != nil {
				return false
			}
			value = []byte(`{"resultType":"matrix","result":[]}`)
		}
		add(key, value)
		return true
	})
	if err == nil && it.Error != nil {
		err = fmt.Errorf("reading Prometheus' answer: %w", it.Error)
	}
	return append(rest, '}'), err
}

// isMatrix tells by the type, which servers write before the result.
func isMatrix(data []byte) (is bool) {
	jsoniter.ParseBytes(jsoniter.ConfigFastest, data).ReadObjectCB(func(it *jsoniter.Iterator, key string) bool {
		if key != "resultType" {
			it.Skip()
			return true
		}
		is = it.ReadString() == model.ValMatrix.String()
		return false
	})
	return is
}

func (a *answer) readData(data []byte) error {
	a.decoder.answers++
	it := jsoniter.ParseBytes(jsoniter.ConfigFastest, data)
	it.ReadObjectCB(func(it *jsoniter.Iterator, key string) bool {
		if key != "result" {
			it.Skip()
			return true
		}
		return it.ReadArrayCB(func(it *jsoniter.Iterator) bool {
			var one rawSeries
			var histograms []histogram
			it.ReadObjectCB(func(it *jsoniter.Iterator, key string) bool {
				switch key {
				case "metric":
					one.id, one.metric = a.decoder.labels(it.SkipAndReturnBytes())
				case "values":
					one.values = values(it)
				case "histograms":
					histograms = readHistograms(it)
				default:
					it.Skip()
				}
				return true
			})
			if len(histograms) > 0 {
				a.series = append(a.series, one.buckets(histograms)...)
				return true
			}
			a.series = append(a.series, one)
			return true
		})
	})
	if it.Error != nil {
		return fmt.Errorf("reading Prometheus' answer: %w", it.Error)
	}
	a.decoder.forget(len(a.series))
	return nil
}

// labels are those of a series, which Prometheus writes in the same order at each look.
func (d *decoder) labels(text []byte) (model.Fingerprint, model.Metric) {
	hash := fnv.New64a()
	_, _ = hash.Write(text)
	id := model.Fingerprint(hash.Sum64())
	if k, ok := d.known[id]; ok {
		k.answer = d.answers
		return id, k.metric
	}
	m := model.Metric{}
	jsoniter.ParseBytes(jsoniter.ConfigFastest, text).ReadObjectCB(func(it *jsoniter.Iterator, name string) bool {
		if value := it.ReadString(); slices.Contains(kept, name) {
			m[model.LabelName(name)] = model.LabelValue(value)
		}
		return true
	})
	if d.known == nil {
		d.known = map[model.Fingerprint]*knownLabels{}
	}
	d.known[id] = &knownLabels{m, d.answers}
	return id, m
}

// values are [seconds, "value"] each.
func values(it *jsoniter.Iterator) []model.SamplePair {
	all := make([]model.SamplePair, 0, 4)
	it.ReadArrayCB(func(it *jsoniter.Iterator) bool {
		var pair model.SamplePair
		i := 0
		it.ReadArrayCB(func(it *jsoniter.Iterator) bool {
			switch i++; i {
			case 1:
				pair.Timestamp = model.TimeFromUnixNano(int64(it.ReadFloat64()*1000+0.5) * 1e6)
			case 2:
				text := it.ReadString()
				value, err := strconv.ParseFloat(text, 64)
				if err != nil {
					it.ReportError("values", err.Error())
				}
				pair.Value = model.SampleValue(value)
			default:
				it.Skip()
			}
			return true
		})
		all = append(all, pair)
		return it.Error == nil
	})
	return all
}

// histogram is a sample of a native histogram: how many observations each bucket has, by its upper bound.
type histogram struct {
	at      model.Time
	buckets []model.HistogramBucket
}

// readHistograms reads [seconds, {count, sum, buckets: [[rule, lower, upper, count]]}] each.
func readHistograms(it *jsoniter.Iterator) []histogram {
	var pairs []model.SampleHistogramPair
	if text := it.SkipAndReturnBytes(); it.Error == nil {
		if err := json.Unmarshal(text, &pairs); err != nil {
			it.ReportError("histograms", err.Error())
		}
	}
	all := make([]histogram, 0, len(pairs))
	for _, p := range pairs {
		h := histogram{at: p.Timestamp}
		for _, b := range p.Histogram.Buckets {
			h.buckets = append(h.buckets, *b)
		}
		all = append(all, h)
	}
	return all
}

// buckets makes of a native histogram the cumulative buckets that a classic one has, with all bounds that any of its samples has.
func (r rawSeries) buckets(samples []histogram) []rawSeries {
	bounds := map[float64]bool{math.Inf(1): true}
	for _, h := range samples {
		for _, b := range h.buckets {
			bounds[float64(b.Upper)] = true
		}
	}
	var all []rawSeries
	for bound := range bounds {
		le := strconv.FormatFloat(bound, 'f', -1, 64)
		hash := fnv.New64a()
		_, _ = fmt.Fprint(hash, r.id, le)
		one := rawSeries{id: model.Fingerprint(hash.Sum64()), metric: r.metric.Clone(), native: true}
		one.metric[model.MetricNameLabel], one.metric[model.BucketLabel] = durationsMetric, model.LabelValue(le)
		for _, h := range samples {
			n := 0.0
			for _, b := range h.buckets {
				if float64(b.Upper) <= bound {
					n += float64(b.Count)
				}
			}
			one.values = append(one.values, model.SamplePair{Timestamp: h.at, Value: model.SampleValue(n)})
		}
		all = append(all, one)
	}
	return all
}
