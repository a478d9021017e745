package config

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// claiming is a Canary that claims hosts and gateways.
func claiming(hosts, gateways string) string {
	return "{apiVersion: flagger.app/v1beta1, kind: Canary, spec: {targetRef: {name: shop}, service: {hosts: [" +
		hosts + "], gateways: [" + gateways + "]}, " +
		"analysis: {metrics: [{name: request-success-rate, thresholdRange: {min: 99}}]}}}"
}

// What a specification may claim is decided by where the pipeline runs, and by allow. A parameter
// is the platform's own word.
func TestClaims(t *testing.T) {
	t.Parallel()
	const elsewhere, here = "jx", "web"
	for _, c := range []struct {
		desc, from      string // the run's namespace
		hosts, gateways string // of the specification
		values          []string
		refused         string // by comma
	}{
		{"another application's host on a shared gateway", elsewhere, "payments.example.com", "istio-ingress/shared",
			nil,
			"hosts payments.example.com, gateways istio-ingress/shared"},
		{"the same in the old way to write it", elsewhere, "shop", "shared.istio-ingress.svc.cluster.local", nil,
			"gateways istio-ingress/shared"},
		{"the same, where the run is in the target's namespace", here, "payments.example.com", "istio-ingress/shared",
			nil, ""},
		{"nobody says where the run is", "", "payments.example.com", "mesh", nil, "hosts payments.example.com"},
		{"the Service's names in the mesh", elsewhere, "shop, shop.web, shop.web.svc, shop.web.svc.cluster.local",
			"mesh", nil, ""},
		{"another Service of its namespace", elsewhere, "shop, cart", "mesh", nil, "hosts cart"},
		{"the Service of that name elsewhere", elsewhere, "shop.pay, shop.pay.svc.cluster.local", "mesh", nil,
			"hosts shop.pay,shop.pay.svc.cluster.local"},
		{"what begins as a name of its own", elsewhere, "shop.website.com, shop.web.svc.evil.com", "mesh", nil,
			"hosts shop.website.com,shop.web.svc.evil.com"},
		{"all hosts", elsewhere, "'*'", "mesh", nil, "hosts *"},
		{"all names of its namespace", elsewhere, "'*.web.svc.cluster.local'", "mesh", nil,
			"hosts *.web.svc.cluster.local"},
		{"a gateway of its own namespace", elsewhere, "shop", "front", nil, "gateways front"},

		{"the platform names them", elsewhere, "payments.example.com", "istio-ingress/shared",
			[]string{"CANARY_HOSTS", "a.example.com", "CANARY_GATEWAYS", "b/c"}, ""},
		{"the platform names the gateway alone", elsewhere, "payments.example.com", "mesh",
			[]string{"CANARY_GATEWAYS", "istio-ingress/shared,mesh"}, "hosts payments.example.com"},
		{"the platform names the host alone", elsewhere, "payments.example.com", "istio-ingress/shared",
			[]string{"CANARY_HOSTS", "a.example.com"}, "gateways istio-ingress/shared"},

		{"it is allowed", elsewhere,
			"eu.shop.example.com, a.b.shop.example.com, '*.eu.shop.example.com', '*.shop.example.com', shop",
			"istio-ingress/shared, mesh",
			[]string{"CANARY_ALLOW", "host=*.shop.example.com,gateway=istio-ingress/shared"}, ""},
		{"what is allowed has more labels", elsewhere,
			"shop.example.com, evilshop.example.com, shop.example.com.evil.com, '*.example.com', '*'", "mesh",
			[]string{"CANARY_ALLOW", "host=*.shop.example.com"},
			"hosts shop.example.com,evilshop.example.com,shop.example.com.evil.com,*.example.com,*"},
		{"all is allowed", elsewhere, "payments.example.com, '*'", "mesh", []string{"CANARY_ALLOW", "host=*"}, ""},
		{"a gateway of its own namespace is allowed, however it is written", elsewhere, "shop",
			"front, web/front, front.web.svc.cluster.local",
			[]string{"CANARY_ALLOW", "gateway=front"}, ""},
		{"a gateway is allowed, in the old ways to write it", elsewhere, "shop", "shared.istio-ingress, pay/front",
			[]string{"CANARY_ALLOW", "gateway=istio-ingress/shared,gateway=front.pay.svc.cluster.local"}, ""},
		{"a gateway of that name elsewhere", elsewhere, "shop", "pay/front", []string{"CANARY_ALLOW", "gateway=front"},
			"gateways pay/front"},
		{"a gateway is allowed, hosts are not", elsewhere, "payments.example.com", "b/c",
			[]string{"CANARY_ALLOW", "gateway=b/c"}, "hosts payments.example.com"},
		{"in the target's namespace allow restricts what it lists", here, "payments.example.com", "b/c",
			[]string{"CANARY_ALLOW", "host=shop.example.com"}, "hosts payments.example.com"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			values := append([]string{"CANARY_SPEC", claiming(c.hosts, c.gateways), "CANARY_RUN_NAMESPACE", c.from},
				c.values...)
			_, err := LoadInit(t.Context(), environment(CanaryInit, values...))
			var refused []string
			for _, p := range AsProblems(err) {
				refused = append(refused, p.Parameter+" "+p.Value)
			}
			if got := strings.Join(refused, ", "); got != c.refused {
				t.Errorf("refused %q, want %q: %v", got, c.refused, err)
			}
		})
	}
}

// One report has all that is claimed, and the whole value of allow that lets it through.
func TestClaimsAreExplained(t *testing.T) {
	t.Parallel()
	values := []string{
		"CANARY_SPEC", claiming("shop, payments.example.com", "front, istio-ingress/shared"), "CANARY_RUN_NAMESPACE",
		"jx",
		"CANARY_ALLOW", "gateway=istio-ingress/shared"}
	_, err := LoadInit(t.Context(), environment(CanaryInit, append(values, "CANARY_THRESHOLD", "0")...))
	const remedy = "allow=gateway=istio-ingress/shared,host=payments.example.com,gateway=web/front"
	for _, want := range []string{
		"has 3 mistakes",
		`parameter hosts is "payments.example.com": the specification claims it, and in a run in namespace jx it ` +
			"may claim shop, shop.web, shop.web.svc, shop.web.svc.cluster.local and what allow lists: take it out " +
			"there; or whoever runs the pipeline gives hosts, or " + remedy,
		`parameter gateways is "front": the specification claims it`, "gives gateways, or " + remedy,
		`parameter threshold is "0"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %s", err, want)
		}
	}
	_, allow, _ := strings.Cut(remedy, "allow=")
	if _, err := LoadInit(t.Context(), environment(CanaryInit, append(values, "CANARY_ALLOW", allow)...)); err != nil {
		t.Errorf("with that: %v", err)
	}
}

func TestAllow(t *testing.T) {
	t.Parallel()
	s, err := LoadStep(
		t.Context(), Promote,
		environment(Promote, "CANARY_ALLOW", "host=*.a.com, gateway=b/c,prometheus=http://d:9090/e",
			"CANARY_PROMETHEUS", "https://f"))
	if err != nil {
		t.Fatal(err)
	}
	want := Allow{[]string{"*.a.com"}, []string{"b/c"}, []string{"http://d:9090/e"}}
	if diff := cmp.Diff(want, s.Allow); diff != "" || s.Prometheus != "https://f" {
		t.Errorf("%s (-want, +got)\n%s", s.Prometheus, diff)
	}
	spec := strings.Replace(claiming("", ""), "spec: {", "spec: {metricsServer: 'http://evil:9090', ", 1)
	s, err = LoadStep(t.Context(), CanaryInit, environment(CanaryInit, "CANARY_PROMETHEUS", "", "CANARY_SPEC", spec))
	if err != nil || s.Prometheus != "" {
		t.Errorf("the platform names %q, which a specification does: %v", s.Prometheus, err)
	}
	for _, wrong := range []string{
		"host", "host=", "hosts=a.com", "a.com", "host=.*", "host=a.*.com", "host=a*.com", "gateway=a/b/c", "gateway=*",
		"prometheus=d:9090", "prometheus=http://me:secret@d", "host=a.com,", ","} {
		_, err := LoadInit(t.Context(), environment(CanaryInit, "CANARY_ALLOW", wrong))
		if err == nil || !strings.Contains(err.Error(), "parameter allow is \"") ||
			!strings.Contains(err.Error(), allowed) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

// Credentials go to what the platform names, in its own spelling, and nowhere else.
func TestPrometheusAddress(t *testing.T) {
	t.Parallel()
	const named = "https://prometheus.example.com/team"
	for _, c := range []struct {
		desc           string
		step           Step
		chosen, secret string // with credentials; "": refused
		open           string // without
	}{
		{"nothing but the default", Step{}, DefaultPrometheus, DefaultPrometheus, DefaultPrometheus},
		{"the specification's", Step{}, "http://evil:9090", "", "http://evil:9090"},
		{"the platform's", Step{Prometheus: named}, named, named, named},
		{"the platform's, and another in the record", Step{Prometheus: named}, "http://evil:9090", "", named},
		{"the default is no other than what the platform gives", Step{Prometheus: named}, DefaultPrometheus, "", named},
		{"written in another way", Step{Prometheus: named}, "HTTPS://Prometheus.Example.com:443/a/../team/", named,
			named},
		{"another scheme", Step{Prometheus: named}, "http://prometheus.example.com/team", "", named},
		{"another port", Step{Prometheus: named}, "https://prometheus.example.com:8443/team", "", named},
		{"another path", Step{Prometheus: named}, "https://prometheus.example.com/other", "", named},
		{"a way out of the path", Step{Prometheus: named}, "https://prometheus.example.com/team/%2e%2e/other", "",
			named},
		{"the record's, which has no query string", Step{Prometheus: named + "?namespace=mine"}, named,
			named + "?namespace=mine", named + "?namespace=mine"},
		{"another query string", Step{Prometheus: named}, named + "?namespace=other", "", named},
		{"another host with the same beginning", Step{Prometheus: named},
			"https://prometheus.example.com.evil.com/team", "", named},
		{"the host as a user", Step{Prometheus: named}, "https://prometheus.example.com@evil.com/team", "", named},
		{"no address", Step{Prometheus: named}, "", "", named},
		{"allowed", Step{Allow: Allow{Prometheus: []string{"http://a:9090", "http://b:9090"}}}, "http://b:9090/",
			"http://b:9090", "http://b:9090/"},
		{"the default beside what is allowed", Step{Allow: Allow{Prometheus: []string{"http://a:9090"}}},
			DefaultPrometheus, DefaultPrometheus, DefaultPrometheus},
		{"allowed, but the platform names one",
			Step{Prometheus: named, Allow: Allow{Prometheus: []string{"http://a:9090"}}}, "http://a:9090", "", named},
	} {
		got, err := c.step.Address(c.chosen, true)
		if got != c.secret || errors.Is(err, ErrForeign) != (c.secret == "") {
			t.Errorf("%s: with credentials %q (%v), want %q", c.desc, got, err, c.secret)
		}
		if got, err := c.step.Address(c.chosen, false); got != c.open || err != nil {
			t.Errorf("%s: without %q (%v), want %q", c.desc, got, err, c.open)
		}
	}
	_, err := Step{Prometheus: named + "?token=s3cret"}.Address(named+"?token=0ther", true)
	if want := "they are for " + named + ", not for the same with another query string"; err == nil ||
		!strings.Contains(err.Error(), want) {
		t.Errorf("%v does not say %s", err, want)
	}
}
