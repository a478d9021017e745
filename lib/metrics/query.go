package metrics

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/canary-tasks/canary-tasks/lib/show"
)

// Values are what a query of people's own may ask for, by Flagger's names of them: name and target, namespace, service, ingress, route, interval,
// and variables of their own. name is the Canary's with Flagger; here both are the target's.
type Values struct {
	Namespace, Target, Service, Ingress, Route string
	Interval                                   time.Duration
	Variables                                  map[string]string
}

// Render fills a query's template in. Values are escaped for PromQL's double quoted text. It is an error to ask for what is not there.
func Render(query string, v Values) (string, error) {
	escaped := func(value string) func() string {
		return func() string {
			quoted := strconv.Quote(value)
			return quoted[1 : len(quoted)-1]
		}
	}
	variables := map[string]string{}
	for k, value := range v.Variables {
		variables[k] = escaped(value)()
	}
	t, err := template.New("query").Option("missingkey=error").Funcs(template.FuncMap{
		"name": escaped(v.Target), "target": escaped(v.Target), "namespace": escaped(v.Namespace), "service": escaped(v.Service),
		"ingress": escaped(v.Ingress), "route": escaped(v.Route), "interval": escaped(model.Duration(v.Interval).String()),
		"variables": func() map[string]string { return variables },
	}).Parse(query)
	if err != nil {
		return "", fmt.Errorf("its template cannot be read, known are name, namespace, target, service, ingress, route, interval and variables: %w", err)
	}
	var text strings.Builder
	if err := t.Execute(&text, nil); err != nil {
		return "", fmt.Errorf("its template cannot be filled in: %w", err)
	}
	return strings.TrimSpace(text.String()), nil
}

// Reach parses a query and returns how far before its evaluation it looks. It is an error if it is no PromQL, gives no number, or looks at a fixed time.
func Reach(query string) (time.Duration, error) {
	if query == "" {
		return 0, errors.New("it is empty: give PromQL that gives one number; request-success-rate and request-duration alone are built in")
	}
	expression, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return 0, fmt.Errorf("it is no PromQL: %w", err)
	}
	if kind := expression.Type(); kind != parser.ValueTypeVector && kind != parser.ValueTypeScalar {
		return 0, fmt.Errorf("it gives a %s: let it give one number, as sum(rate(...)) does", kind)
	}
	var reach time.Duration
	fixed := false
	parser.Inspect(expression, func(node parser.Node, path []parser.Node) error {
		if subquery, ok := node.(*parser.SubqueryExpr); ok {
			fixed = fixed || subquery.Timestamp != nil || subquery.StartOrEnd != 0
		}
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		fixed = fixed || selector.Timestamp != nil || selector.StartOrEnd != 0
		total := selector.OriginalOffset
		for _, above := range path {
			switch above := above.(type) {
			case *parser.MatrixSelector:
				total += above.Range
			case *parser.SubqueryExpr:
				total += above.Range + above.OriginalOffset
			}
		}
		reach = max(reach, total)
		return nil
	})
	if fixed {
		return 0, errors.New("it looks at a fixed time, which is not the candidate's: leave the @ modifier out")
	}
	return reach, nil
}

// What a query of people's own can lack beside an answer.
var (
	ErrNoValues      = errors.New("no values")
	ErrSeveralSeries = errors.New("several series")
)

// Value evaluates a query that gives one number. The error is ErrQuery, ErrWarning, ErrNoValues or ErrSeveralSeries.
func (c *Client) Value(ctx context.Context, query string) (float64, error) {
	v, err := c.query(ctx, query, time.Time{})
	if errors.Is(err, ErrTooLarge) {
		return 0, fmt.Errorf("%w: it has to give one: %w", ErrSeveralSeries, err)
	}
	if err != nil {
		return 0, err
	}
	value := math.NaN()
	switch v := v.(type) {
	case *model.Scalar:
		value = float64(v.Value)
	case model.Vector:
		if len(v) > 1 {
			return 0, fmt.Errorf("%w: it gives %d and has to give one: %s, %s", ErrSeveralSeries, len(v), show.Short(v[0].Metric.String()), show.Short(v[1].Metric.String()))
		}
		if len(v) == 1 && v[0].Histogram == nil {
			value = float64(v[0].Value)
		}
	default:
		return 0, fmt.Errorf("%w: Prometheus at %s answered with a %s", ErrQuery, c.address, v.Type())
	}
	if math.IsNaN(value) || math.IsInf(value, 0) { // as a division by nothing gives
		return 0, fmt.Errorf("%w: it gives %v, which is no number", ErrNoValues, value)
	}
	return value, nil
}
