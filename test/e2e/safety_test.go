//go:build e2e

package e2e

import (
	"bufio"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/canary-tasks/canary-tasks/test/load"
)

// Somebody takes apart what is being released, or a newer revision takes over and dies. The
// candidate loses its traffic, the run is red, no request fails, and the next run goes on from
// there.
func TestTakenApart(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	traffic := s.traffic(s.caller(t, s.ns))
	patch := func(route string) {
		t.Helper()
		run(t, "", "kubectl", "patch", "virtualservice", "shop", "-n", s.ns, "--type=json", "-p",
			"[{op: replace, path: /spec/http/0/route, value: "+route+"}]")
		time.Sleep(time.Second) // proxies have it
	}
	route := func() string {
		t.Helper()
		return run(t, "", "kubectl", "get", "virtualservice", "shop", "-n", s.ns, "-o",
			"jsonpath={range .spec.http[0].route[*]}{.destination.host}={.weight} {end}")
	}
	// The candidate answers none of the last requests.
	isStables := func(desc string) {
		t.Helper()
		time.Sleep(2 * time.Second)
		samples := traffic.Samples()
		if last := load.Count(samples[len(samples)-100:]); last.Of(v1) != 100 {
			t.Errorf("%s: the last 100 requests: %s", desc, last)
		}
	}
	s.must(0, "is initialized", "canary-init", "one")
	begin := func(runID, version string) {
		t.Helper()
		s.version(version, "")
		s.must(0, "is up beside stable", "canary-init", runID)
		s.must(0, "has 40 %", "shift-weight", runID, "CANARY_WEIGHT=40")
	}

	begin("third", v2)
	patch("[{destination: {host: shop-primary}, weight: 50}, {destination: {host: shop-canary}, weight: 40}, " +
		"{destination: {host: shop}, weight: 10}]")
	s.must(3, "VirtualService shop is not as this release left it", "analyze", "third")
	if got, want := route(), "shop-primary=90 shop-canary=0 shop=10 "; got != want &&
		got != strings.Replace(want, "=0 ", "= ", 1) {
		t.Errorf("the route is %s, want %s", got, want)
	}
	isStables("a third destination")
	s.must(3, "shop has no traffic; where the rest goes is not known", "rollback", "third")

	patch("[{destination: {host: shop}}]") // as its chart has it
	begin("alone", v2)
	patch("[{destination: {host: shop-canary}}]")
	s.must(3, "no HTTP route leads to exactly", "rollback", "alone")
	isStables("the candidate alone")

	patch("[{destination: {host: shop}}]")
	begin("deleted", v2)
	run(t, "", "kubectl", "delete", "virtualservice", "shop", "-n", s.ns)
	s.must(3, "VirtualService shop is gone: callers in the mesh reach Service shop, which leads to shop-primary",
		"rollback", "deleted")
	isStables("no route")

	begin("lost", v3) // which makes the route anew
	run(t, "", "kubectl", "delete", "configmap", "shop-canary-release", "-n", s.ns)
	s.must(3, "is gone in mid-release", "rollback", "lost")
	isStables("no record")

	s.must(0, "is up beside stable", "canary-init", "older")
	s.must(0, "has 40 %", "shift-weight", "older", "CANARY_WEIGHT=40")
	s.version("4.0.0", "")
	s.killedAfter("Routing all traffic to primary", "canary-init", "newer")
	if got := s.now().Weights; got != "100/0" {
		t.Errorf("a takeover that died leaves %s", got)
	}
	s.must(3, "superseded", "analyze", "older")
	s.step("rollback", "older")
	isStables("a takeover that died")
	s.must(0, "is up beside stable", "canary-init", "newer")
	s.must(0, "has 40 %", "shift-weight", "newer", "CANARY_WEIGHT=40")
	s.must(0, "is good at 40 %", "analyze", "newer")
	s.must(0, "promoted: stable runs revision", "promote", "newer")
	s.want(serves{"100/0", "4.0.0 x2", "4.0.0 x0", "promoted"})
	noneFailed(t, "taken apart five times", traffic)
}

// killedAfter kills the program of a step when its log says something.
func (s *shop) killedAfter(says, name, runID string) {
	s.t.Helper()
	cmd := s.command(name, runID)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	var lines []string
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		lines = append(lines, scanner.Text())
		if strings.Contains(scanner.Text(), says) {
			if err := cmd.Process.Kill(); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // killed
	if !slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, says) }) {
		s.t.Fatalf("%s of %s never says %q:\n%s", name, runID, says, strings.Join(lines, "\n"))
	}
}
