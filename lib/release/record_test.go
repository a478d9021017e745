package release

import (
	"fmt"
	"strings"
	"testing"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// What a ConfigMap has no room for is refused before anything is changed, with the sizes of what is
// large.
func TestRecordTooLarge(t *testing.T) {
	t.Parallel()
	long := func(n int) string {
		return strings.Replace(
			shop("2"), "metadata: {labels: {app: shop}}\n    spec",
			"metadata: {labels: {app: shop}, annotations: {notes: "+strings.Repeat("a", n)+"}}\n    spec", 1)
	}
	most := 1.0
	for _, c := range []struct {
		desc   string
		target string
		change func(*config.Config)
		want   string // "": it is released
	}{
		{"a template", long(300 << 10), func(*config.Config) {},
			`parameter target is "shop": the release record, a ConfigMap, could come to 60`},
		{"a template that is twice too large", long(240 << 10), func(*config.Config) {},
			"the pod template has 240 KiB and is kept up to four times"},
		{"a long template", long(100 << 10), func(*config.Config) {}, ""},
		{"queries", shop("2"), func(c *config.Config) {
			for i := range 50 {
				c.Metrics = append(
					c.Metrics, config.Metric{
						Name: fmt.Sprint(i), Query: "vector(" + strings.Repeat(" ", 15<<10) + "1)",
						ThresholdRange: config.ThresholdRange{Max: &most}})
			}
		}, `parameter metrics is "50 metrics": the release record, a ConfigMap, could come to 75`},
		{"checks", shop("2"), func(c *config.Config) { c.Threshold = 1000 },
			`parameter threshold is "1000": the release record, a ConfigMap, could come to 78`},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			a := afterInit(t)
			a.apply(c.target)
			cfg := testConfig("run-2")
			c.change(cfg)
			before := a.versions()
			err := a.initWith(cfg)
			if c.want == "" {
				must(t, err)
				return
			}
			wantCode(t, err, report.Misconfig, c.want)
			if after := a.versions(); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("%v were %v", after, before)
			}
		})
	}
}

// What may be secret in the address of Prometheus is neither in the record nor in any other object,
// and is not said.
func TestRecordKeepsNoQueryString(t *testing.T) {
	t.Parallel()
	a := afterInit(t)
	a.apply(shop("2"))
	r := a.step("canary-init", "run-2")
	var log strings.Builder
	r.Report.Out = &log
	r.Config = testConfig("run-2")
	r.Config.Prometheus = newAsksWith(t).URL + "/?token=s3cret"
	must(t, r.Init(t.Context(), nil))
	if text := string(marshal(a.objects)); strings.Contains(text, "s3cret") ||
		!strings.Contains(text, strings.TrimSuffix(r.Config.Prometheus, "?token=s3cret")) {
		t.Errorf("the objects are %s", text)
	}
	if strings.Contains(log.String(), "s3cret") {
		t.Error(log.String())
	}
}
