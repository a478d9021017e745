package metrics

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"strconv"

	"github.com/cespare/xxhash/v2"
	jsoniter "github.com/json-iterator/go"
	"github.com/prometheus/common/model"
)

// rawSeries are the samples of one series.
type rawSeries struct {
	id model.Fingerprint // of all its labels
	*labels
	values []model.SamplePair
	// native marks a bucket of a native histogram, which is not written while it is empty: its
	// first value is not an increase.
	native bool
}

// labels are the labels of a series that matter here.
type labels struct {
	proxy             string // what Prometheus scraped it from: job, instance and pod
	service, workload string // destination_service, destination_workload
	within            string // the bound of a bucket, in milliseconds; empty: it counts requests
	code, grpc        string // how the requests ended
}

// decoder reads range vectors. It remembers the labels that it has read: they are the same from one
// look to the next, and are most of an answer.
type decoder struct {
	known   map[model.Fingerprint]*knownLabels
	first   *knownLabels // of the last answer
	answers int          // read so far
	text    bytes.Buffer // the last answer, its series and their samples: their memory is reused
	series  []rawSeries
	samples []model.SamplePair
}

type knownLabels struct {
	labels
	id     model.Fingerprint // a hash of their text
	length int               // of their text
	next   *knownLabels      // those of the series that came after this one the last time
	answer int               // the last one that had them
}

// forget drops the labels that an answer with a number of series did not have, once they are most
// of what is known: pods come and go.
func (d *decoder) forget(series int) {
	if len(d.known) <= 2*series {
		return
	}
	maps.DeleteFunc(d.known, func(_ model.Fingerprint, k *knownLabels) bool { return k.answer != d.answers })
}

// answer is what a query is to be read into: see reading.
type answer struct {
	decoder *decoder
	series  []rawSeries
}

type answerKey struct{}

// into returns a context with which the range vector of a query is read into an answer.
func into(ctx context.Context, a *answer) context.Context {
	return context.WithValue(ctx, answerKey{}, a)
}

// reading is a transport that limits how much of an answer is read, and, where into asks for it,
// takes range vectors out of it: the client above would take many times as long. It leaves
// everything else to that client: errors, warnings and other kinds of answers.
type reading struct{ http.RoundTripper }

// RoundTrip sends a request and returns its answer.
func (r reading) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	a, ok := req.Context().Value(answerKey{}).(*answer)
	switch {
	case resp.StatusCode != http.StatusOK: // its beginning is enough
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxErrorBody), resp.Body}
		return resp, nil
	case !ok:
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxVectorBody)
		return resp, nil
	}
	rest, err := a.read(http.MaxBytesReader(nil, resp.Body, maxSamplesBody))
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(rest)), int64(len(rest))
	return resp, nil
}

// read takes the range vector out of a body and returns the rest.
func (a *answer) read(body io.Reader) (rest []byte, err error) {
	d := a.decoder
	d.text.Reset()
	if _, err := d.text.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("reading Prometheus' answer: %w", err)
	}
	d.answers++
	if rest, ok := a.readQuickly(d.text.Bytes()); ok {
		return rest, nil
	}
	a.series = nil
	it := jsoniter.ParseBytes(jsoniter.ConfigFastest, d.text.Bytes())
	rest = []byte{'{'}
	it.ReadObjectCB(func(it *jsoniter.Iterator, key string) bool {
		if len(rest) > 1 {
			rest = append(rest, ',')
		}
		rest = append(append(rest, asJSON(key)...), ':')
		if key == "data" && it.WhatIsNext() == jsoniter.ObjectValue {
			rest = append(rest, a.readData(it)...)
		} else {
			rest = append(rest, it.SkipAndReturnBytes()...)
		}
		return true
	})
	if it.Error != nil {
		return nil, fmt.Errorf("reading Prometheus' answer: %w", it.Error)
	}
	return append(rest, '}'), nil
}

// matrix is how Prometheus' answer with a range vector begins.
const matrix = `{"status":"success","data":{"resultType":"matrix","result":[`

// readQuickly reads an answer that is written as Prometheus writes it, with the series of the last
// one in the same order: the text of each is compared with the expected one by its hash, which is a
// fraction of the work of parsing it. ok is false for any other answer.
func (a *answer) readQuickly(text []byte) (rest []byte, ok bool) {
	d, c := a.decoder, &cursor{text}
	if !c.has(matrix) {
		return nil, false
	}
	a.series, d.samples = d.series[:0], d.samples[:0]
	for k := d.first; ; k = k.next {
		if k == nil || !c.has(`{"metric":`) || !c.hasLabels(k) || !c.has(`,"values":[`) {
			return nil, false
		}
		k.answer = d.answers
		from := len(d.samples)
		for again := true; again; again = c.has(",") {
			at, ok := c.sample()
			if !ok {
				return nil, false
			}
			d.samples = append(d.samples, at)
		}
		if !c.has("]}") {
			return nil, false
		}
		a.series = append(
			a.series, rawSeries{id: k.id, labels: &k.labels, values: d.samples[from:len(d.samples):len(d.samples)]})
		if !c.has(",") {
			break
		}
	}
	d.series = a.series
	return append([]byte(matrix), c.rest...), bytes.HasPrefix(c.rest, []byte("]"))
}

// cursor is a position in a text.
type cursor struct{ rest []byte }

// has reports whether a text is next, and moves behind it if it is.
func (c *cursor) has(next string) bool {
	if len(c.rest) < len(next) || string(c.rest[:len(next)]) != next {
		return false
	}
	c.rest = c.rest[len(next):]
	return true
}

// hasLabels reports whether the labels of a series are next, and moves behind them if they are.
func (c *cursor) hasLabels(k *knownLabels) bool {
	if len(c.rest) < k.length || model.Fingerprint(xxhash.Sum64(c.rest[:k.length])) != k.id {
		return false
	}
	c.rest = c.rest[k.length:]
	return true
}

// sample reads [seconds,"value"].
func (c *cursor) sample() (p model.SamplePair, ok bool) {
	if !c.has("[") {
		return p, false
	}
	seconds, decimals, ok := c.decimal()
	if !ok || decimals > 3 || !c.has(`,"`) {
		return p, false
	}
	p.Timestamp = model.Time(seconds * int64(powers[3-decimals]))
	value, decimals, ok := c.decimal()
	p.Value = model.SampleValue(float64(value) / powers[decimals])
	return p, ok && c.has(`"]`)
}

// mostDigits is how many digits of a number are exact in a float64, as is the power of 10 that it
// is divided by, so that the quotient is what a parser would return.
const mostDigits = 15

var powers = [mostDigits + 1]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15}

// decimal reads a number that is written without sign and exponent. It returns its digits without
// the point, and how many of them were behind the point.
func (c *cursor) decimal() (n int64, decimals int, ok bool) {
	digits, point := 0, -1
	for _, b := range c.rest {
		if b == '.' && point < 0 {
			point = digits
			continue
		}
		if b < '0' || b > '9' || digits == mostDigits {
			break
		}
		n = n*10 + int64(b-'0')
		digits++
	}
	c.rest = c.rest[digits:]
	if point >= 0 {
		c.rest, decimals = c.rest[1:], digits-point
	}
	return n, decimals, digits > 0
}

// readData takes the series of a range vector and returns the rest. Servers write the type before
// the result.
func (a *answer) readData(it *jsoniter.Iterator) (rest []byte) {
	kind, result := "", []byte("[]")
	it.ReadObjectCB(func(it *jsoniter.Iterator, key string) bool {
		switch {
		case key == "resultType":
			kind = it.ReadString()
		case key == "result" && kind == model.ValMatrix.String():
			a.readSeries(it)
		case key == "result":
			result = it.SkipAndReturnBytes()
		default:
			it.Skip()
		}
		return true
	})
	if kind == model.ValMatrix.String() && len(result) > len("[]") { // it came before its type
		late := jsoniter.ParseBytes(jsoniter.ConfigFastest, result)
		a.readSeries(late)
		if late.Error != nil && it.Error == nil {
			it.Error = late.Error
		}
		result = []byte("[]")
	}
	return fmt.Appendf(nil, `{"resultType":%s,"result":%s}`, asJSON(kind), result)
}

// asJSON returns a text as a JSON string.
func asJSON(text string) []byte {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err) // any string can be encoded
	}
	return quoted
}

// readSeries reads the series of a range vector.
func (a *answer) readSeries(it *jsoniter.Iterator) {
	next := &a.decoder.first
	for it.ReadArray() {
		var one rawSeries
		var histograms []histogram
		for key := it.ReadObject(); key != ""; key = it.ReadObject() {
			switch key {
			case "metric":
				k := a.decoder.read(it.SkipAndReturnBytes())
				one.id, one.labels = k.id, &k.labels
				*next, next = k, &k.next
			case "values":
				one.values = values(it)
			case "histograms":
				histograms = readHistograms(it)
			default:
				it.Skip()
			}
		}
		switch {
		case one.labels == nil:
			it.ReportError("series", "it has no labels")
		case len(histograms) > 0:
			a.series = append(a.series, one.buckets(histograms)...)
		default:
			a.series = append(a.series, one)
		}
	}
	*next = nil
	a.decoder.forget(len(a.series))
}

// read returns the labels of a series, which Prometheus writes in the same order every time.
func (d *decoder) read(text []byte) *knownLabels {
	id := model.Fingerprint(xxhash.Sum64(text))
	if k, ok := d.known[id]; ok {
		k.answer = d.answers
		return k
	}
	var l labels
	var name, le, job, instance, pod string
	into := map[string]*string{
		model.MetricNameLabel: &name, model.BucketLabel: &le, model.JobLabel: &job, model.InstanceLabel: &instance,
		"pod":                 &pod,
		"destination_service": &l.service, "destination_workload": &l.workload, "response_code": &l.code,
		"grpc_response_status": &l.grpc,
	}
	jsoniter.ParseBytes(jsoniter.ConfigFastest, text).ReadObjectCB(func(it *jsoniter.Iterator, name string) bool {
		if value := it.ReadString(); into[name] != nil {
			*into[name] = value
		}
		return true
	})
	l.proxy, l.within = job+" "+instance+" "+pod, milliseconds(name, le)
	if d.known == nil {
		d.known = map[model.Fingerprint]*knownLabels{}
	}
	d.known[id] = &knownLabels{labels: l, id: id, length: len(text), answer: d.answers}
	return d.known[id]
}

// milliseconds returns the bound of a bucket in milliseconds. Istio before 1.5 measured seconds.
func milliseconds(metric, le string) string {
	bound, err := strconv.ParseFloat(le, 64)
	if metric != oldDurationsMetric || err != nil || math.IsInf(bound, 1) {
		return le
	}
	return strconv.FormatFloat(bound*1000, 'f', -1, 64)
}

// values reads samples, each of which is [seconds, "value"].
func values(it *jsoniter.Iterator) []model.SamplePair {
	all := make([]model.SamplePair, 0, 4)
	for it.ReadArray() {
		var pair model.SamplePair
		for i := 0; it.ReadArray(); i++ {
			switch i {
			case 0:
				pair.Timestamp = model.Time(int64(it.ReadFloat64()*1000 + 0.5))
			case 1:
				value, err := strconv.ParseFloat(string(it.ReadStringAsSlice()), 64)
				if err != nil && it.Error == nil {
					it.ReportError("values", err.Error())
				}
				pair.Value = model.SampleValue(value)
			default:
				it.Skip()
			}
		}
		all = append(all, pair)
	}
	return all
}

// histogram is a sample of a native histogram: how many observations each bucket has, by its upper
// bound.
type histogram struct {
	at      model.Time
	buckets []model.HistogramBucket
}

// readHistograms reads samples, each of which is
// [seconds, {count, sum, buckets: [[rule, lower, upper, count]]}].
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

// buckets converts a native histogram to the cumulative buckets of a classic one, with all bounds
// that any of its samples has.
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
		of := *r.labels
		of.within = le
		one := rawSeries{id: model.Fingerprint(xxhash.Sum64(fmt.Append(nil, r.id, le))), labels: &of, native: true}
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
