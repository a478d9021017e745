package metrics

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/prometheus/common/model"
	"google.golang.org/grpc/codes"
)

// Answer is one way in which requests to the candidate ended, with its share of them.
type Answer struct {
	Code  string // of HTTP; 0 where the caller was gone before there was one
	GRPC  string // status; "" where it is not gRPC
	Flags string // Envoy's, which say what a proxy did instead of the application; "" where it did nothing
	Share float64
}

// meanings has the meanings of Envoy's most frequent response flags (Envoy's documentation, access
// logging).
var meanings = map[string]string{
	"UH": "no healthy upstream", "UF": "upstream connection failure", "UO": "upstream overflow",
	"UT": "upstream timeout", "UC": "upstream closed the connection",
	"URX": "no retry left", "NR": "no route", "DC": "the caller was gone", "RL": "rate limited", "UAEX": "denied",
}

// String formats an answer as people look it up: "503 UH (no healthy upstream) 80 %", "200 gRPC 14
// (Unavailable) 100 %".
func (a Answer) String() string {
	text := a.Code
	if n, err := strconv.ParseUint(a.GRPC, 10, 8); err == nil {
		text += fmt.Sprintf(" gRPC %d (%s)", n, codes.Code(n))
	}
	if a.Flags != "" {
		text += " " + a.Flags
		if meaning := meanings[a.Flags]; meaning != "" {
			text += " (" + meaning + ")"
		}
	}
	return fmt.Sprintf("%s %.3g %%", text, 100*a.Share)
}

// Answers returns how the observed requests to the candidate ended, the most frequent way first. It
// is for people, where a candidate is rejected. The error is ErrQuery.
func (o *Observer) Answers(ctx context.Context) ([]Answer, error) {
	s, vector, err := o.increases(ctx, "response_code", "grpc_response_status", "response_flags")
	if err != nil {
		return nil, err
	}
	var all []Answer
	total := 0.0
	for _, one := range vector {
		if n := float64(one.Value); n > 0 && !s.stables(string(one.Metric[model.LabelName(s.label)])) {
			a := Answer{Code: string(one.Metric["response_code"]), GRPC: string(one.Metric["grpc_response_status"]),
				Flags: string(one.Metric["response_flags"]), Share: n}
			if a.Flags == "-" {
				a.Flags = ""
			}
			all, total = append(all, a), total+n
		}
	}
	for i := range all {
		all[i].Share /= total
	}
	slices.SortFunc(all, func(a, b Answer) int {
		return cmp.Or(cmp.Compare(b.Share, a.Share), cmp.Compare(a.String(), b.String()))
	})
	return all, nil
}
