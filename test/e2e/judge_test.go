//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"knative.dev/pkg/apis"

	"github.com/canary-tasks/canary-tasks/test/load"
)

// scrapeInterval is the cluster's.
const scrapeInterval = 5 * time.Second

// judgement is what the record keeps of the last look of a release.
type judgement struct {
	Verdict, Reason, Text string
	Early                 bool
	From, To              time.Time
}

func (s *shop) judged() judgement {
	s.t.Helper()
	record, err := s.kube.CoreV1().ConfigMaps(s.ns).Get(s.t.Context(), "shop-canary-release", metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	var r struct {
		Shifts []struct{ Checks []judgement }
	}
	if err := json.Unmarshal([]byte(record.Data["release.json"]), &r); err != nil {
		s.t.Fatal(err)
	}
	if len(r.Shifts) == 0 || len(r.Shifts[len(r.Shifts)-1].Checks) == 0 {
		s.t.Fatalf("nothing was judged: %s", record.Data["release.json"])
	}
	checks := r.Shifts[len(r.Shifts)-1].Checks
	return checks[len(checks)-1]
}

// faults are set in all pods of Deployments of ours, at the same time: a second in which one
// version alone fails would be its fault.
func (s *shop) faults(faults string, deployments ...string) {
	s.t.Helper()
	var pods []string
	for _, name := range deployments {
		selector := run(s.t, "", "kubectl", "get", "deployment", name, "-n", s.ns, "-o",
			"jsonpath={.spec.selector.matchLabels.app}")
		pods = append(pods, s.pods(s.t, s.ns, selector)...)
	}
	for _, ip := range pods {
		send(s.t, http.MethodPut, "http://"+ip+":8081/faults?"+faults, nil)
	}
}

// atWeight waits until the candidate has some of the traffic.
func (s *shop) atWeight(weights string) {
	s.t.Helper()
	eventually(s.t, 2*time.Minute, func() string {
		if got := s.now().Weights; got != weights {
			return "weights " + got
		}
		return ""
	})
}

// ended waits for a PipelineRun and returns its log, and how it ended.
func (s *shop) ended(name string) (string, *apis.Condition) {
	s.t.Helper()
	var condition *apis.Condition
	eventually(s.t, 5*time.Minute, func() string {
		pr, err := s.tekton.TektonV1().PipelineRuns(s.ns).Get(s.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
		if condition = pr.Status.GetCondition(apis.ConditionSucceeded); !pr.IsDone() {
			return name + " runs"
		}
		return ""
	})
	out := run(s.t, "", "tkn", "pipelinerun", "logs", "-n", s.ns, name)
	s.t.Logf("the log of the PipelineRun:\n%s", out)
	return out, condition
}

// speaksHTTP2 gives the Service's port the name by which proxies speak HTTP/2 to the pods, which
// gRPC needs.
func (s *shop) speaksHTTP2() {
	s.t.Helper()
	run(s.t, "", "kubectl", "patch", "service", "shop", "-n", s.ns, "--type=json", "-p",
		`[{"op":"replace","path":"/spec/ports/0/name","value":"http2"}]`)
}

// Each way in which a candidate can be bad, or unknown, ends by its own name, with all traffic on
// stable.
func TestJudge(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	from := s.caller(t, s.ns)
	s.speaksHTTP2()
	s.must(0, "is initialized", "canary-init", "first")
	for i, c := range []struct {
		desc     string
		faults   string // of the candidate
		params   []string
		protocol load.Protocol
		quiet    bool
		then     func() // at 20 %
		outcome  string
		reason   string // or several, by |
		says     string
	}{
		{desc: "a fifth of the answers fail", faults: "fail=0.2", outcome: "rejected", reason: "failing",
			says: "failing: request-success-rate: the candidate is beyond the limit and worse than stable"},
		{desc: "all answers fail", faults: "fail=1", outcome: "rejected", reason: "all failing",
			says: "rejected: all failing"},
		{desc: "it is slow", faults: "slow=700ms", params: []string{"requestDuration=500ms"}, outcome: "rejected",
			reason: "slow", says: "rejected: slow: request-duration"},
		{desc: "it hangs", faults: "hang=1", params: []string{"requestDuration=1s"}, outcome: "rejected",
			reason: "none answered", says: "rejected: none answered: the callers of"},
		{desc: "it answers gRPC with status 14", faults: "grpc=14", protocol: "grpc", outcome: "rejected",
			reason: "failing|all failing", says: "; its answers: 200 gRPC 14 (Unavailable)"},
		{desc: "its endpoints are gone", then: func() { s.faults("ready=false", "shop") }, outcome: "rejected",
			reason: "failing|all failing", says: "503 UH (no healthy upstream)"},
		{desc: "nobody sends requests", quiet: true, outcome: "inconclusive", reason: "no requests",
			says: "inconclusive: no requests: neither stable nor the candidate got any"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			s := *s
			s.t = t
			s.version(strconv.Itoa(i+2)+".0.0", c.faults)
			var traffic *load.Run
			if !c.quiet {
				traffic = start(t, from,
					load.Plan{URL: "http://shop." + s.ns + "/", Rate: rate, For: 5 * time.Minute,
						Timeout: 2 * time.Second, Protocol: c.protocol})
				defer traffic.Stop()
			}
			name := s.begin(nil, append(c.params, "threshold=3")...)
			if c.then != nil {
				s.atWeight("80/20")
				c.then()
			}
			out, condition := s.ended(name)
			if !condition.IsFalse() {
				t.Errorf("the PipelineRun is not red: %+v", condition)
			}
			s.want(serves{"100/0", "1.0.0 x2", strconv.Itoa(i+2) + ".0.0 x0", c.outcome})
			got := s.judged()
			if !slices.Contains(strings.Split(c.reason, "|"), got.Reason) || !strings.Contains(out, c.says) {
				t.Errorf("judged %+v; the log does not say %q", got, c.says)
			}
			if !strings.HasPrefix(c.faults, "fail=") {
				return
			}
			traffic.Stop()
			bad, last := served(traffic.Samples())
			scrapes := got.To.Sub(bad).Seconds() / scrapeInterval.Seconds()
			t.Logf("%.1f scrapes from the end of the first bad answer to the verdict's last; the candidate's last "+
				"answer was asked for %s after it", scrapes, last.Sub(bad).Round(100*time.Millisecond))
			if !got.Early || scrapes > 2.1 { // they are not quite regular
				t.Errorf("it took %.1f scrapes, early %v", scrapes, got.Early)
			}
		})
	}
}

// processOf is the process of a part of this machine's cluster.
func processOf(t *testing.T, part string) int {
	t.Helper()
	for line := range strings.Lines(run(t, "", ".bin/cluster", "status")) {
		if f := strings.Fields(line); len(f) > 3 && f[0] == part {
			if pid, err := strconv.Atoi(f[3]); err == nil && pid > 1 {
				return pid
			}
		}
	}
	t.Fatalf("this cluster has no process of %s", part)
	return 0
}

func signal(t *testing.T, pid int, signal syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, signal); err != nil {
		t.Fatal(err)
	}
}

// served says when the candidate's first bad answer came, and when the last request was sent that
// it answered.
func served(samples []load.Sample) (bad, last time.Time) {
	for _, one := range samples {
		if one.Version == v1 || one.Version == "" {
			continue
		}
		if came := one.Sent.Add(one.Latency); one.Status != http.StatusOK && (bad.IsZero() || came.Before(bad)) {
			bad = came
		}
		last = one.Sent
	}
	return bad, last
}

// What fails on both sides is not the candidate's fault; Prometheus that is away is nobody's.
func TestNotItsFault(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	from := s.caller(t, s.ns)
	s.must(0, "is initialized", "canary-init", "first")
	s.traffic(from)

	t.Run("a dependency of both fails for 30 s", func(t *testing.T) {
		s := *s
		s.t = t
		s.version(v2, "")
		name := s.begin(nil, "stepWeights=20")
		s.atWeight("80/20")
		s.faults("fail=0.5", "shop", "shop-primary")
		time.Sleep(30 * time.Second)
		s.faults("", "shop", "shop-primary")
		if out, _ := s.ended(name); !strings.Contains(out, "environment: both versions are beyond the limit") ||
			strings.Contains(out, ": rejected:") {
			t.Errorf("judged %+v", s.judged())
		}
		s.want(serves{"100/0", "1.0.0 x2", v2 + " x0", "inconclusive"})
		if out, err := s.release("stepWeights=20"); err != nil || !strings.Contains(out, "promoted") {
			t.Errorf("the same revision, once the dependency is back: %v", err)
		}
	})
	t.Run("the candidate makes both fail", func(t *testing.T) {
		s := *s
		s.t = t
		s.version("2.1.0", "")
		name := s.begin(nil, "stepWeights=20")
		s.atWeight("80/20")
		s.faults("fail=0.5", "shop", "shop-primary")
		s.atWeight("100/0")
		s.faults("", "shop-primary") // as it is when what the candidate did to both ends with its traffic
		if out, condition := s.ended(name); !condition.IsFalse() ||
			!strings.Contains(out, "stable recovered at once when the candidate was taken away") {
			t.Errorf("judged %+v", s.judged())
		}
		s.want(serves{"100/0", v2 + " x2", "2.1.0 x0", "rejected"})
	})
	prometheus := func(t *testing.T) (pid int, data string) {
		t.Helper()
		pid = processOf(t, "prometheus")
		cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err != nil {
			t.Fatal(err)
		}
		args := strings.Split(string(cmdline), "\x00")
		if i := slices.Index(args, "--storage.tsdb.path"); i >= 0 && i+1 < len(args) {
			data = args[i+1]
		}
		return pid, data
	}
	for _, c := range []struct {
		desc, version string
		away          func(t *testing.T)
	}{
		{"Prometheus does not answer for 30 s", v3, func(t *testing.T) {
			pid, _ := prometheus(t)
			signal(t, pid, syscall.SIGSTOP)
			defer signal(t, pid, syscall.SIGCONT)
			time.Sleep(30 * time.Second)
		}},
		{"Prometheus starts again without its data", "4.0.0", func(t *testing.T) {
			pid, data := prometheus(t)
			entries, err := os.ReadDir(data)
			if err != nil || data == "" {
				t.Fatalf("%q: %v", data, err)
			}
			signal(t, pid, syscall.SIGSTOP) // it writes nothing anew
			defer signal(t, pid, syscall.SIGKILL)
			for _, e := range entries {
				if err := os.RemoveAll(filepath.Join(data, e.Name())); err != nil {
					t.Fatal(err)
				}
			}
		}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			s := *s
			s.t = t
			s.version(c.version, "")
			name := s.begin(nil, "stepWeights=20", "interval=20s", "threshold=5")
			s.atWeight("80/20")
			time.Sleep(8 * time.Second)
			c.away(t)
			out, _ := s.ended(name)
			if !strings.Contains(out, "promoted: stable runs") || strings.Contains(out, "Halt") {
				t.Errorf("judged %+v", s.judged())
			}
			t.Logf("Prometheus' absence was said: %v", strings.Contains(out, "not counted as a failed check"))
			s.want(serves{"100/0", c.version + " x2", c.version + " x0", "promoted"})
		})
	}
}
