// Command demo shows a release on the cluster of `make cluster`, as people run one: six releases,
// each started with tkn and followed in its log, under 100 requests a second. A promotion is a
// commit in an environment repository on a real Git server of this machine, as Jenkins X makes it;
// what applies it, Jenkins X' boot job, is played by this program. Every cell of the table at its
// end is what the generator counted, what the PipelineRun says or what the API server has. It ends
// with 1 when a release ended otherwise than it should.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	istio "istio.io/client-go/pkg/clientset/versioned"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/canary-tasks/canary-tasks/lib/gitops"
	"github.com/canary-tasks/canary-tasks/lib/gitops/gittest"
	"github.com/canary-tasks/canary-tasks/test/load"
	"github.com/canary-tasks/canary-tasks/test/route"
)

const (
	namespace = "canary-demo"
	target    = "shop"
	rate      = 100
	address   = "http://" + target + "." + namespace + "/"
)

// story is one of the demo's releases.
type story struct {
	title   string
	version string
	faults  string
	traffic bool
	again   bool // the same revision once more: nothing is committed or applied
	// threshold is how many failed checks end the release, and bounds how long it waits for
	// requests; "" is 2.
	threshold string
	merged    bool // nothing is committed: what the last release left in the repository is applied

	wantGreen   bool
	wantOutcome string
	wantServes  string
	wantGit     string // the version that the environment repository says in the end
	wantReason  string // part of why it ended so
}

var stories = []story{
	{title: "first version", version: "1.0.0", traffic: true, wantGreen: true, wantOutcome: "initialized",
		wantServes: "1.0.0", wantGit: "1.0.0"},
	{title: "healthy", version: "2.0.0", traffic: true, wantGreen: true, wantOutcome: "promoted", wantServes: "2.0.0",
		wantGit: "2.0.0"},
	{title: "fails 20 % of its requests", version: "3.0.0", faults: "fail=0.2", traffic: true, wantOutcome: "rejected",
		wantServes: "2.0.0", wantGit: "2.0.0"},
	{title: "the same once more", version: "3.0.0", again: true, traffic: true, wantOutcome: "rejected",
		wantServes: "2.0.0", wantGit: "2.0.0"},
	{title: "what Git was put back to", merged: true, traffic: true, wantGreen: true, wantOutcome: "unchanged",
		wantServes: "2.0.0", wantGit: "2.0.0"},
	{title: "healthy, no traffic", version: "4.0.0", threshold: "1", wantOutcome: "inconclusive", wantServes: "2.0.0",
		wantGit: "2.0.0", wantReason: "no requests"},
}

// row is how a release ended.
type row struct {
	run, status, outcome, reason, weights, serves, git string
	took                                               time.Duration
	shares                                             []string
	answers                                            string
	failed                                             int         // requests that the candidate did not answer itself
	last                                               load.Counts // of the last requests, sent after it ended
	changed                                            []string    // objects whose spec is not as it was before
	wrong                                              []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	wrong, err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(2)
	}
	if wrong {
		os.Exit(1)
	}
}

// run plays the stories, one after another, and reports whether one ended otherwise than it should.
func run(ctx context.Context) (wrong bool, err error) {
	app, err := install(ctx)
	if err != nil {
		return false, err
	}
	d, end, err := environment(ctx)
	if err != nil {
		return false, err
	}
	defer end()
	d.app = app
	if d.caller, err = startCaller(ctx); err != nil {
		return false, err
	}
	if d.splits, err = follow(ctx); err != nil {
		return false, err
	}
	var rows []row
	for i, s := range stories {
		say("")
		say("=== release %d: %s (version %s)", i+1, s.title, s.version)
		r, err := d.release(ctx, s)
		if err != nil {
			return false, fmt.Errorf("release %d, %s: %w", i+1, s.title, err)
		}
		rows = append(rows, r)
		wrong = wrong || len(r.wrong) > 0
	}
	table(rows)
	return wrong, nil
}

// install makes the namespace anew, with the Tasks and the Pipeline. It returns the application's
// manifest.
func install(ctx context.Context) (app string, err error) {
	if _, err := command(
		ctx, "", "kubectl", "delete", "namespace", namespace, "--ignore-not-found", "--wait"); err != nil {
		return "", err
	}
	if err := apply(ctx, meshNamespace); err != nil {
		return "", err
	}
	say("building the images and applying the Tasks, the Pipeline and its Role")
	resolved, err := command(
		ctx, "", "ko", "resolve", "--base-import-paths", "--sbom=none", "-R", "-f", "tasks", "-f", "pipelines")
	if err != nil {
		return "", err
	}
	if err := apply(ctx, resolved); err != nil {
		return "", err
	}
	app, err = command(
		ctx, "", "ko", "resolve", "--base-import-paths", "--sbom=none", "-f", "examples/release/deployment.yaml")
	if err != nil {
		return "", err
	}
	_, err = command(ctx, "", "kubectl", "apply", "-n", namespace, "-f", "examples/release/service.yaml")
	return app, err
}

// release applies a version, starts the Pipeline as a person does, and looks how it ended.
func (d *demo) release(ctx context.Context, s story) (r row, err error) {
	if err := d.deploy(ctx, s); err != nil {
		return r, err
	}
	var traffic *load.Run
	if s.traffic {
		traffic, err = d.caller.Start(ctx, load.Plan{URL: address, Rate: rate, For: load.MaxTime})
		if err != nil {
			return r, err
		}
		defer traffic.Stop()
	}
	before, err := specs(ctx)
	if err != nil {
		return r, err
	}
	begin := time.Now()
	if err := d.runPipeline(ctx, s); err != nil {
		return r, err
	}
	r.took = time.Since(begin)
	after, err := specs(ctx)
	if err != nil {
		return r, err
	}
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if before[name] != after[name] {
			r.changed = append(r.changed, name)
		}
	}
	if traffic != nil {
		if err := r.count(d, s, traffic); err != nil {
			return r, err
		}
	}
	if err := r.look(ctx); err != nil {
		return r, err
	}
	if r.git, err = d.version(ctx); err != nil {
		return r, err
	}
	r.compare(s)
	return r, nil
}

// deploy promotes the version of a story in Git and applies it. The first version it waits for:
// there is nothing to send requests to before.
func (d *demo) deploy(ctx context.Context, s story) error {
	if !s.again && !s.merged {
		say("Git: %s has version %s", helmfile, s.version)
		if err := d.git.Commit(
			ctx, helmfile, fmt.Sprintf(releases, s.version), "chore: promote shop to version "+s.version); err != nil {
			return err
		}
	}
	if !s.again {
		if err := d.boot(ctx); err != nil {
			return err
		}
	}
	if s.wantOutcome != "initialized" {
		return nil
	}
	if _, err := command(
		ctx, "", "kubectl", "rollout", "status", "deployment", target, "-n", namespace, "--timeout=120s"); err != nil {
		return err
	}
	return d.answers(ctx)
}

// runPipeline starts the Pipeline and follows its log until it has ended, however it did.
func (d *demo) runPipeline(ctx context.Context, s story) error {
	cmd := exec.CommandContext(
		ctx, "tkn", "pipeline", "start", "canary-release", "-n", namespace, "-s", "canary-tasks",
		"--use-param-defaults", "--showlog",
		"--prefix-name", "release-"+strings.ReplaceAll(cmp.Or(s.version, "merged"), ".", "-"),
		"--pipeline-timeout", "60m", "--tasks-timeout", "50m", "--finally-timeout", "10m",
		"-p", "target="+target, "-p", "interval=10s", "-p", "threshold="+cmp.Or(s.threshold, "2"), "-p", "drain=1s",
		"-p", "git=commit", "-p", "gitRepository="+d.git.URL)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return err
	}
	return nil
}

// count sends the last requests, ends the traffic, and notes who answered it.
func (r *row) count(d *demo, s story, traffic *load.Run) error {
	time.Sleep(lastRequests / rate * time.Second)
	traffic.Stop()
	if err := traffic.Err(); err != nil {
		return err
	}
	samples := traffic.Samples()
	r.last = load.Count(samples[max(len(samples)-lastRequests, 0):])
	counts := load.Count(samples)
	r.answers, r.failed = counts.String(),
		counts.Failed()-counts[load.Answer{Version: s.version, Status: http.StatusInternalServerError}]
	r.shares = d.shares(samples)
	for _, line := range r.shares {
		say("  %s", line)
	}
	return nil
}

// The environment repository, as Jenkins X 3 has it.
const (
	helmfile = "helmfiles/" + namespace + "/helmfile.yaml"
	releases = `# what runs in production
releases:
- chart: dev/shop
  version: %s
  name: shop
  namespace: ` + namespace + "\n"
)

var says = gitops.Version{App: target}

// demo is what its releases have in common.
type demo struct {
	git    *gittest.Server
	app    string // the application's manifest, with its image
	caller load.Caller
	splits *route.History
}

// meshNamespace is the application's namespace: its pods get sidecars, and take nothing but mutual
// TLS.
const meshNamespace = `{apiVersion: v1, kind: Namespace, metadata: {name: ` + namespace +
	`, labels: {istio-injection: enabled}}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default}, spec: {mtls: {mode: STRICT}}}
`

// startCaller starts a pod that sends the demo's requests, with a sidecar of its own.
func startCaller(ctx context.Context) (load.Caller, error) {
	client, err := command(
		ctx, "", "ko", "resolve", "--base-import-paths", "--sbom=none", "-f", "test/e2e/testdata/client.yaml")
	if err != nil {
		return load.Caller{}, err
	}
	if err := apply(ctx, client); err != nil {
		return load.Caller{}, err
	}
	if _, err := command(
		ctx, "", "kubectl", "rollout", "status", "deployment/client", "-n", namespace, "--timeout=120s"); err != nil {
		return load.Caller{}, err
	}
	ip, err := command(
		ctx, "", "kubectl", "get", "pods", "-n", namespace, "-l", "app=client", "-o",
		"jsonpath={.items[0].status.podIP}")
	return load.Caller{Address: net.JoinHostPort(strings.TrimSpace(ip), "8081")}, err
}

// follow records how the traffic is divided.
func follow(ctx context.Context) (*route.History, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, err
	}
	client, err := istio.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return route.Follow(ctx, client, namespace, target)
}

// environment serves the environment repository, and gives the pipeline a Secret to write to it.
func environment(ctx context.Context) (*demo, func(), error) {
	folder, err := os.MkdirTemp("", "canary-demo")
	if err != nil {
		return nil, nil, err
	}
	host, _, err := net.SplitHostPort(os.Getenv("CANARY_TEST_PROMETHEUS")) // which pods reach
	if err != nil {
		return nil, nil, fmt.Errorf("the demo runs on the cluster of make cluster: %w", err)
	}
	git, err := gittest.Start(ctx, folder, net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, nil, err
	}
	_, err = command(ctx, "", "kubectl", "create", "secret", "generic", "canary-tasks-git", "-n", namespace,
		"--type=kubernetes.io/basic-auth",
		"--from-literal=username="+gittest.User, "--from-literal=password="+gittest.Password,
		"--from-literal=insecure=true")
	return &demo{git: git}, func() { git.Close(); _ = os.RemoveAll(folder) }, err
}

// version is the one that the repository says.
func (d *demo) version(ctx context.Context) (string, error) {
	file, err := d.git.File(ctx, helmfile)
	if err != nil {
		return "", err
	}
	return says.Find([]byte(file))
}

// boot applies what the repository says, as Jenkins X' boot job does after a merge.
func (d *demo) boot(ctx context.Context) error {
	version, err := d.version(ctx)
	if err != nil {
		return err
	}
	faults := ""
	for _, s := range stories {
		if s.version == version && s.faults != "" {
			faults = s.faults
		}
	}
	app := strings.ReplaceAll(d.app, "1.0.0", version)
	return apply(ctx, strings.Replace(
		app, `name: FAULTS, value: ""`, fmt.Sprintf("name: FAULTS, value: %q", faults), 1))
}

// answers waits until a caller in the mesh reaches the application, which it does a moment after
// its pods are ready.
func (d *demo) answers(ctx context.Context) error {
	return wait.PollUntilContextTimeout(
		ctx, 200*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			status, _ := d.caller.Ask(ctx, address)
			return status == http.StatusOK, nil
		})
}

// shares says, for each split that requests were divided by, how many each version answered.
func (d *demo) shares(samples []load.Sample) []string {
	var lines []string
	said := map[string]bool{}
	for _, split := range d.splits.Splits() {
		at := d.splits.During(split.Weights, samples)
		if !said[split.Weights] && len(at) > 0 {
			said[split.Weights] = true
			lines = append(lines, fmt.Sprintf("at %s: %s", split.Weights, load.Count(at)))
		}
	}
	return lines
}

// look reads how the release ended from live objects.
func (r *row) look(ctx context.Context) error {
	if err := r.lookAtRun(ctx); err != nil {
		return err
	}
	if err := r.lookAtOutcome(ctx); err != nil {
		return err
	}
	if err := r.lookAtWeights(ctx); err != nil {
		return err
	}
	serves, err := command(
		ctx, "", "kubectl", "get", "-n", namespace, "deployment", target+"-primary", "-o",
		`jsonpath={.spec.template.spec.containers[0].env[?(@.name=="VERSION")].value}`)
	r.serves = strings.TrimSpace(serves)
	return err
}

// lookAtRun reads the status of the newest PipelineRun.
func (r *row) lookAtRun(ctx context.Context) error {
	var runs struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Conditions []struct{ Status, Reason string }
			}
		}
	}
	if err := get(ctx, &runs, "pipelineruns", "--sort-by=.metadata.creationTimestamp"); err != nil {
		return err
	}
	if len(runs.Items) == 0 {
		return errors.New("there is no PipelineRun")
	}
	last := runs.Items[len(runs.Items)-1]
	r.run = last.Metadata.Name
	if len(last.Status.Conditions) > 0 {
		r.status = last.Status.Conditions[0].Status + "/" + last.Status.Conditions[0].Reason
	}
	return nil
}

// lookAtOutcome reads the outcome out of the release record. Where canary-init found nothing to
// release, which the record does not say, it is canary-init's result.
func (r *row) lookAtOutcome(ctx context.Context) error {
	var record struct{ Data map[string]string }
	if err := get(ctx, &record, "configmap", target+"-canary-release"); err != nil {
		return err
	}
	var release struct{ Outcome, Reason string }
	if err := json.Unmarshal([]byte(record.Data["release.json"]), &release); err != nil {
		return err
	}
	r.outcome, r.reason = release.Outcome, release.Reason
	nothing, err := command(
		ctx, "", "kubectl", "get", "-n", namespace, "taskruns", "-l",
		"tekton.dev/pipelineRun="+r.run+",tekton.dev/pipelineTask=canary-init",
		"-o", `jsonpath={.items[*].status.results[?(@.name=="outcome")].value}`)
	if err != nil {
		return err
	}
	if nothing = strings.TrimSpace(nothing); nothing != "" {
		r.outcome, r.reason = nothing, ""
	}
	return nil
}

// lookAtWeights reads how the VirtualService divides the traffic.
func (r *row) lookAtWeights(ctx context.Context) error {
	var route struct {
		Spec struct {
			HTTP []struct {
				Route []struct {
					Destination struct{ Host string }
					Weight      int
				}
			}
		}
	}
	if err := get(ctx, &route, "virtualservice", target); err != nil {
		return err
	}
	var weights []string
	for _, d := range route.Spec.HTTP[0].Route {
		weights = append(weights, fmt.Sprint(d.Weight))
	}
	r.weights = strings.Join(weights, "/")
	return nil
}

// compare notes what is not as it should be.
func (r *row) compare(s story) {
	check := func(what string, got, want any) {
		if got != want {
			r.wrong = append(r.wrong, fmt.Sprintf("%s is %v, not %v", what, got, want))
		}
	}
	check("green", strings.HasPrefix(r.status, "True"), s.wantGreen)
	check("outcome", r.outcome, s.wantOutcome)
	check("weights", r.weights, "100/0")
	check("what stable serves", r.serves, s.wantServes)
	check("what Git says", r.git, s.wantGit)
	if s.again {
		check("what changed", strings.Join(r.changed, ", "), "")
	}
	if s.traffic {
		check("the number of the last requests that stable's version answered", r.last.Of(s.wantServes), lastRequests)
	}
	if !strings.Contains(r.reason, s.wantReason) {
		r.wrong = append(r.wrong, fmt.Sprintf("the reason is %q and does not say %q", r.reason, s.wantReason))
	}
	check("the number of requests that failed and the candidate did not answer", r.failed, 0)
}

// lastRequests are looked at once a release has ended.
const lastRequests = 200

// specs are what a release may write, but for the record.
func specs(ctx context.Context) (map[string]string, error) {
	out, err := command(ctx, "", "kubectl", "get", "deployments,services,virtualservices", "-n", namespace, "-o",
		`jsonpath={range .items[*]}{.kind}/{.metadata.name} {.spec}{"\n"}{end}`)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for line := range strings.Lines(out) {
		name, spec, _ := strings.Cut(line, " ")
		all[name] = spec
	}
	return all, nil
}

// table prints how the releases ended.
func table(rows []row) {
	say("")
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "release\tPipelineRun\toutcome\tweights\tstable\tGit\tseconds\tanswers\tas it should be")
	for i, r := range rows {
		verdict := "yes"
		if len(r.wrong) > 0 {
			verdict = "NO: " + strings.Join(r.wrong, "; ")
		}
		fmt.Fprintf(w, "%d %s\t%s\t%s\t%s\t%s\t%s\t%.0f\t%s\t%s\n", i+1, stories[i].title, r.status, r.outcome,
			r.weights, r.serves, r.git, r.took.Seconds(), r.answers, verdict)
	}
	_ = w.Flush()
	for i, r := range rows {
		if r.reason != "" {
			say("release %d: %s", i+1, r.reason)
		}
	}
}

// apply applies manifests in the demo's namespace.
func apply(ctx context.Context, manifests string) error {
	_, err := command(ctx, manifests, "kubectl", "apply", "-n", namespace, "-f", "-")
	return err
}

// get reads objects of the demo's namespace.
func get(ctx context.Context, into any, args ...string) error {
	out, err := command(ctx, "", "kubectl", append([]string{"get", "-n", namespace, "-o", "json"}, args...)...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

// command runs a command as a person would and returns what it prints.
func command(ctx context.Context, stdin, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }
