package release

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/canary-tasks/canary-tasks/lib/kube"
	"github.com/canary-tasks/canary-tasks/lib/report"
	"github.com/canary-tasks/canary-tasks/lib/workload"
)

// awaitExpected waits until the target has what is expected: a pipeline that begins when Git was
// merged is earlier than what applies it. It holds no lock meanwhile, and the target need not be
// there yet.
func (r *Release) awaitExpected(ctx context.Context) error {
	expect, limit := r.Config.Expect, r.Config.ProgressDeadline.Duration
	begin := time.Now()
	for said := false; ; said = true {
		target, err := r.Client.Get(ctx, kube.Deployment, r.Step.Target, nil)
		if err != nil {
			return err
		}
		has := "is not there"
		if target != nil {
			about := append(workload.TemplateOf(target).Images(), chartOf(target.GetLabels()))
			if slices.ContainsFunc(about, func(what string) bool { return isVersion(what, expect) }) {
				return nil
			}
			has = "has " + strings.Join(slices.DeleteFunc(about, func(s string) bool { return s == "" }), ", ")
		}
		if time.Since(begin) >= limit {
			return report.Errorf(
				report.Undecided, "Deployment %s.%s %s, and not %s, after %s; nothing was changed. Look whether "+
					"what applies the environment ended well, and run again",
				r.Step.Target, r.Client.Namespace, has, expect, limit)
		}
		if !said {
			r.Report.Say("Waiting up to %s for %s: Deployment %s.%s %s", limit, expect, r.Step.Target,
				r.Client.Namespace, has)
		}
		sleep(ctx, min(2*time.Second, limit/20+time.Millisecond))
		if err := context.Cause(ctx); err != nil {
			return report.Errorf(report.Undecided, "ended while it waited for %s: %v; nothing was changed", expect, err)
		}
	}
}

// isVersion reports whether an image or a chart is what is expected: wholly, or its version.
func isVersion(what, expect string) bool {
	if what == "" || what == expect {
		return what != ""
	}
	name, _, _ := strings.Cut(what, "@") // of an image with a digest
	return name == expect || strings.HasSuffix(name, ":"+expect) ||
		strings.TrimPrefix(what, nameOf(what)+"-") == strings.ReplaceAll(expect, "+", "_")
}

// nameOf is what a chart's label calls the chart; "" where it is none.
func nameOf(chart string) string {
	if m := chartLabel.FindStringSubmatch(chart); m != nil {
		return m[1]
	}
	return ""
}

// chartOf is NAME-VERSION, as Helm's label says, or the older one of Jenkins X.
func chartOf(labels map[string]string) string {
	if chart := labels["helm.sh/chart"]; chart != "" {
		return chart
	}
	return labels["chart"]
}
