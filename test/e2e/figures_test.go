//go:build e2e && figures

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var stepNames = []string{"canary-init", "shift-weight", "analyze", "promote", "rollback"}

// TestFigures measures what a release costs and prints it as a table: `make figures`. It is no part
// of `make e2e`; nothing here fails for being slow.
func TestFigures(t *testing.T) {
	s := newShop(t)
	s.needsPods(t)
	s.traffic(s.caller(t, s.ns))
	if _, err := s.release(); err != nil {
		t.Fatal(err)
	}
	rows := [][2]string{}
	add := func(what, format string, args ...any) {
		rows = append(rows, [2]string{what, fmt.Sprintf(format, args...)})
	}
	calls := map[string]string{}
	for i, interval := range []time.Duration{10 * time.Second, time.Minute} {
		s.version(fmt.Sprintf("%d.0.0", i+2), "")
		out, err := s.release("interval=" + interval.String())
		if err != nil {
			t.Fatal(err)
		}
		wall := s.lastRun()
		add(fmt.Sprintf("healthy release, 3 x %s: wall by observation", interval), "%.0f s / %.0f s = %.2f",
			wall.Seconds(), 3*interval.Seconds(), wall.Seconds()/(3*interval.Seconds()))
		for _, m := range regexp.MustCompile(
			`\d (\S+) took [\d.]+ s and (\d+) requests to the API server`).FindAllStringSubmatch(out, -1) {
			calls[m[1]] = m[2]
		}
	}
	sidecar := func(promQL string) float64 {
		value, found := s.query(
			t, fmt.Sprintf("avg(%s)",
				fmt.Sprintf(promQL,
					fmt.Sprintf(`{namespace=%q,pod=~"shop-primary-.*",container="istio-proxy"}`, s.ns))), "")[""]
		if !found {
			t.Fatalf("Prometheus has no %s of sidecars", promQL)
		}
		return value
	}
	add(fmt.Sprintf("a sidecar of stable's two, at %d requests/s to both", rate), "%.0f MB of memory, %.0f m of CPU",
		sidecar("container_memory_working_set_bytes%s")/1e6,
		1000*sidecar("rate(container_cpu_usage_seconds_total%s[1m])"))
	s.version(v1, "fail=0.2")
	out, err := s.release()
	if err == nil {
		t.Fatal("a version that fails is green")
	}
	for _, m := range regexp.MustCompile(`\d (rollback) took [\d.]+ s and (\d+) requests`).FindAllStringSubmatch(
		out, -1) {
		calls[m[1]] = m[2]
	}
	if m := regexp.MustCompile(`taken away (\d+) ms after the verdict`).FindStringSubmatch(out); m != nil {
		add("from the rejecting verdict to the write", "%s ms", m[1])
	}
	memory := map[string]float64{}
	s.version("5.0.0", "")
	for _, step := range []struct{ name, run, value string }{
		{"canary-init", "a", ""}, {"shift-weight", "a", "CANARY_WEIGHT=40"}, {"analyze", "a", ""}, {"promote", "a", ""},
		{"rollback", "", ""}} {
		memory[step.name] = s.memory(step.name, step.run, step.value)
	}
	sizes := s.imageSizes()
	for _, step := range stepNames {
		add(step, "image %.1f MB; %s requests to the API server; first of them after %s; %.0f MB of memory at most",
			sizes[step]/1e6, calls[step], s.startsIn(step).Round(time.Millisecond), memory[step]/1e6)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
	}
	_ = w.Flush()
}

// lastRun is how long the newest PipelineRun took.
func (s *shop) lastRun() time.Duration {
	s.t.Helper()
	list, err := s.tekton.TektonV1().PipelineRuns(s.ns).List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	var start, end time.Time
	for _, pr := range list.Items {
		if pr.CreationTimestamp.After(start) && pr.Status.CompletionTime != nil {
			start, end = pr.CreationTimestamp.Time, pr.Status.CompletionTime.Time
		}
	}
	return end.Sub(start)
}

// imageSizes are the bytes of each step's image, compressed, with its base.
func (s *shop) imageSizes() map[string]float64 {
	s.t.Helper()
	sizes := map[string]float64{}
	for _, step := range stepNames {
		image := run(s.t, "", "kubectl", "get", "task", step, "-n", s.ns, "-o", "jsonpath={.spec.steps[0].image}")
		host, name, _ := strings.Cut(image, "/")
		name, digest, _ := strings.Cut(name, "@")
		name, _, _ = strings.Cut(name, ":")
		req, err := http.NewRequestWithContext(
			s.t.Context(), http.MethodGet, "http://"+host+"/v2/"+name+"/manifests/"+digest, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		req.Header.Set("Accept",
			"application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			s.t.Fatal(err)
		}
		var manifest struct{ Layers []struct{ Size float64 } }
		err = errors.Join(json.NewDecoder(resp.Body).Decode(&manifest), resp.Body.Close())
		if err != nil || len(manifest.Layers) == 0 {
			s.t.Fatalf("%s: %v, %s", image, err, resp.Status)
		}
		for _, layer := range manifest.Layers {
			sizes[step] += layer.Size
		}
	}
	return sizes
}

// startsIn is how long a step's program takes from its start to its first request: the median of
// eleven starts on this machine.
func (s *shop) startsIn(step string) time.Duration {
	s.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	defer listener.Close()
	nowhere := filepath.Join(s.t.TempDir(), "nowhere")
	for _, args := range [][]string{
		{"set-cluster", "none", "--server", "http://" + listener.Addr().String()},
		{"set-context", "none", "--cluster", "none"}, {"use-context", "none"}} {
		run(s.t, "", "kubectl", append([]string{"--kubeconfig", nowhere, "config"}, args...)...)
	}
	var delays []time.Duration
	for range 11 {
		cmd := s.command(step, "figures", "CANARY_WEIGHT=20", "KUBECONFIG="+nowhere)
		begin := time.Now()
		if err := cmd.Start(); err != nil {
			s.t.Fatal(err)
		}
		conn, err := listener.Accept()
		delays = append(delays, time.Since(begin))
		if err != nil {
			s.t.Fatal(err)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for err == nil { // others that it opened are not the next one's
			_ = conn.Close()
			_ = listener.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
			conn, err = listener.Accept()
		}
		_ = listener.(*net.TCPListener).SetDeadline(time.Time{})
	}
	slices.Sort(delays)
	return delays[len(delays)/2]
}

var peak = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// memory runs a step's program and returns how many bytes it had in memory at most, read every 20
// ms.
func (s *shop) memory(step, runID string, values ...string) float64 {
	s.t.Helper()
	cmd := s.command(step, runID, values...)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- cmd.Wait() }()
	most := 0.0
	for {
		select {
		case err := <-ended:
			if err != nil {
				s.t.Fatalf("%s: %v\n%s", step, err, out.String())
			}
			return most
		case <-time.After(20 * time.Millisecond):
		}
		status, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "status"))
		if m := peak.FindSubmatch(status); m != nil {
			kB, _ := strconv.ParseFloat(string(m[1]), 64)
			most = max(most, kB*1024)
		}
	}
}
