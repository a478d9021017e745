package metrics

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
)

// Caller is how many requests one workload sent to each version.
type Caller struct {
	Name              string // NAMESPACE/WORKLOAD
	Stable, Candidate float64
}

// String says which share went to the candidate.
func (c Caller) String() string {
	return fmt.Sprintf("%s %.1f %% of %.0f", c.Name, 100*c.Candidate/(c.Candidate+c.Stable), c.Candidate+c.Stable)
}

// Callers returns who sent the observed requests, the most frequent caller first. It is for people,
// where the mesh does not give the candidate its share. The error is ErrQuery.
func (o *Observer) Callers(ctx context.Context) ([]Caller, error) {
	s, vector, err := o.increases(ctx, "source_workload_namespace", "source_workload")
	if err != nil {
		return nil, err
	}
	byName := map[string]*Caller{}
	for _, one := range vector {
		name := strings.Trim(string(one.Metric["source_workload_namespace"]+"/"+one.Metric["source_workload"]), "/")
		if byName[name] == nil {
			byName[name] = &Caller{Name: cmp.Or(name, "unknown")}
		}
		if s.stables(string(one.Metric[model.LabelName(s.label)])) {
			byName[name].Stable += float64(one.Value)
		} else {
			byName[name].Candidate += float64(one.Value)
		}
	}
	var all []Caller
	for _, c := range byName {
		if c.Stable+c.Candidate > 0 {
			all = append(all, *c)
		}
	}
	slices.SortFunc(all, func(a, b Caller) int {
		return cmp.Or(cmp.Compare(b.Stable+b.Candidate, a.Stable+a.Candidate), cmp.Compare(a.Name, b.Name))
	})
	return all, nil
}

// increases returns the increases of the observed requests, by version and other labels; none as
// long as it is not known who counts. Unlike Prometheus' increase they include the first value of a
// series, which is often all that there is of errors; what was counted before a reset is lost.
func (o *Observer) increases(ctx context.Context, by ...string) (side, model.Vector, error) {
	i := slices.IndexFunc(o.sides(), func(s side) bool { return s.reporters == o.state.Reporter })
	if i < 0 {
		return side{}, nil, nil
	}
	s, now := o.sides()[i], o.clock()
	selector := s.selector(requestsMetric)
	v, err := o.client.query(
		ctx, fmt.Sprintf("sum by (%[1]s) (clamp_min(last_over_time(%[2]s[%[3]s]) - (%[2]s offset %[3]s or 0 * "+
			"last_over_time(%[2]s[%[3]s])), 0))",
			strings.Join(append(by, s.label), ","), selector, span(o.state.Since, now)), now)
	if err != nil {
		return s, nil, err
	}
	vector, ok := v.(model.Vector)
	if !ok {
		return s, nil, fmt.Errorf("%w: Prometheus at %s answered with a %s", ErrQuery, o.client.address, v.Type())
	}
	return s, vector, nil
}
