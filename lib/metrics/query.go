package metrics

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"text/template/parse"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/canary-tasks/canary-tasks/lib/show"
)

// Values are what a custom query may ask for, by Flagger's names: name and target, namespace,
// service, ingress, route, interval, and variables. In Flagger name is the Canary's; here name and
// target are both the target's.
type Values struct {
	Namespace, Target, Service, Ingress, Route string
	Interval                                   time.Duration
	Variables                                  map[string]string
}

// maxQuery is how many bytes a query may have, before and after its template is filled in.
const maxQuery = 16 << 10

// onlyValues says what to do about a template that has more than values in it.
const onlyValues = "a query takes values, and nothing else: {{ name }}, {{ namespace }}, {{ target }}, {{ " +
	"service }}, {{ ingress }}, " +
	"{{ route }}, {{ interval }}, {{ variables.NAME }} or {{ index variables \"NAME\" }}; write the rest out"

// Render fills in the template of a query. Values are escaped for PromQL's double-quoted strings.
// Unknown values, control structures, variables and functions of templates, and more than 16 KiB
// are errors.
func Render(query string, v Values) (string, error) {
	if len(query) > maxQuery {
		return "", fmt.Errorf(
			"it has %d bytes, and may have %d: shorten it, or let a recording rule compute it", len(query), maxQuery)
	}
	values := map[string]any{
		"name": v.Target, "target": v.Target, "namespace": v.Namespace, "service": v.Service, "ingress": v.Ingress,
		"route":    v.Route,
		"interval": model.Duration(v.Interval).String(), "variables": v.Variables, "index": struct{}{}}
	trees, err := parse.Parse("query", query, "", "", values)
	if err != nil {
		return "", fmt.Errorf("its template cannot be read: %w; %s", err, onlyValues)
	}
	tree := trees["query"]
	for name, other := range trees {
		if name != "query" {
			at, _ := tree.ErrorContext(other.Root)
			return "", fmt.Errorf("its template defines another one at %s: %s", at, onlyValues)
		}
	}
	var text strings.Builder
	for _, node := range tree.Root.Nodes {
		part := ""
		if plain, ok := node.(*parse.TextNode); ok {
			part = string(plain.Text)
		} else if part, err = valueOf(node, values); err != nil {
			at, _ := tree.ErrorContext(node)
			return "", fmt.Errorf("its template cannot be filled in at %s, %s: %w", at, show.Short(node.String()), err)
		}
		if text.WriteString(part); text.Len() > maxQuery {
			return "", fmt.Errorf(
				"with its values it has more than %d bytes: shorten it, or let a recording rule compute it", maxQuery)
		}
	}
	return strings.TrimSpace(text.String()), nil
}

// valueOf returns the value that a node of a template stands for, escaped.
func valueOf(node parse.Node, values map[string]any) (string, error) {
	name, key := reference(node)
	value, ok := values[name].(string)
	if variables, isMap := values[name].(map[string]string); isMap && key != "" {
		if value, ok = variables[key]; !ok {
			return "", fmt.Errorf("there is no variable %q among its templateVariables", key)
		}
	}
	if !ok {
		return "", errors.New(onlyValues)
	}
	quoted := strconv.Quote(value)
	return quoted[1 : len(quoted)-1], nil
}

// reference returns the name of the value that a node refers to, and, for a variable, its key. The
// name is empty for all else that a template may have.
func reference(node parse.Node) (name, key string) {
	action, ok := node.(*parse.ActionNode)
	if !ok || len(action.Pipe.Decl) > 0 || len(action.Pipe.Cmds) != 1 {
		return "", ""
	}
	switch args := action.Pipe.Cmds[0].Args; first := args[0].(type) {
	case *parse.IdentifierNode: // namespace, index variables "pod"
		if len(args) == 1 {
			return first.Ident, ""
		}
		if first.Ident == "index" && len(args) == 3 {
			return indexReference(args[1], args[2])
		}
	case *parse.ChainNode: // variables.pod
		of, isName := first.Node.(*parse.IdentifierNode)
		if isName && len(args) == 1 && len(first.Field) == 1 && of.Ident == "variables" {
			return of.Ident, first.Field[0]
		}
	}
	return "", ""
}

// indexReference returns what the arguments of index refer to, which takes variables alone.
func indexReference(of, index parse.Node) (name, key string) {
	variables, isName := of.(*parse.IdentifierNode)
	text, isText := index.(*parse.StringNode)
	if !isName || !isText || variables.Ident != "variables" {
		return "", ""
	}
	return variables.Ident, text.Text
}

// Reach parses a query and returns how far before its evaluation it looks. It is an error if it is
// no PromQL, gives no number, or looks at a fixed time.
func Reach(query string) (time.Duration, error) {
	if query == "" {
		return 0, errors.New(
			"it is empty: give PromQL that gives one number; request-success-rate and " +
				"request-duration alone are built in")
	}
	if len(query) > maxQuery {
		return 0, fmt.Errorf("it has %d bytes, and may have %d", len(query), maxQuery)
	}
	expression, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return 0, fmt.Errorf("it is no PromQL: %w", err)
	}
	if kind := expression.Type(); kind != parser.ValueTypeVector && kind != parser.ValueTypeScalar {
		return 0, fmt.Errorf("it gives a %s: let it give one number, as sum(rate(...)) does", kind)
	}
	reach, fixed := lookback(expression)
	if fixed {
		return 0, errors.New("it looks at a fixed time, which is not the candidate's: leave the @ modifier out")
	}
	return reach, nil
}

// lookback returns how far an expression looks before its evaluation, and whether any part of it
// looks at a fixed time.
func lookback(expression parser.Expr) (reach time.Duration, fixed bool) {
	parser.Inspect(expression, func(node parser.Node, path []parser.Node) error {
		switch node := node.(type) {
		case *parser.SubqueryExpr:
			fixed = fixed || node.Timestamp != nil || node.StartOrEnd != 0
		case *parser.VectorSelector:
			fixed = fixed || node.Timestamp != nil || node.StartOrEnd != 0
			reach = max(reach, selectorLookback(node, path))
		}
		return nil
	})
	return reach, fixed
}

// selectorLookback returns how far a selector looks back within the ranges, offsets and subqueries
// above it.
func selectorLookback(selector *parser.VectorSelector, path []parser.Node) time.Duration {
	total := selector.OriginalOffset
	for _, above := range path {
		switch above := above.(type) {
		case *parser.MatrixSelector:
			total = later(total, above.Range)
		case *parser.SubqueryExpr:
			total = later(later(total, above.Range), above.OriginalOffset)
		}
	}
	return total
}

// later returns the sum of two durations, or the longest duration where that overflows.
func later(a, b time.Duration) time.Duration {
	if sum := a + b; (sum > a) == (b > 0) {
		return sum
	}
	return math.MaxInt64
}

// What the answer to a custom query can lack.
var (
	ErrNoValues      = errors.New("no values")
	ErrSeveralSeries = errors.New("several series")
)

// Value evaluates a query that gives one number. The error is ErrQuery, ErrWarning, ErrNoValues or
// ErrSeveralSeries.
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
			return 0, fmt.Errorf(
				"%w: it gives %d and has to give one: %s, %s", ErrSeveralSeries, len(v),
				show.Short(v[0].Metric.String()), show.Short(v[1].Metric.String()))
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
