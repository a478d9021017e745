package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed manifests
var manifests embed.FS

// inputs is what a cluster is started from: the binaries, and one hash of them and of this program
// itself.
type inputs struct {
	Hash     string `json:"hash"`
	Binaries built  `json:"binaries"`
}

// currentInputs returns the binaries with the hash of them and of this program's source.
func currentInputs(l layout, bins built) (inputs, error) {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(bins)) {
		fmt.Fprintln(h, bins[name])
	}
	if named, err := os.Stat(bins["envoy"]); err == nil { // ENVOY may name another file by the same path
		fmt.Fprintln(h, named.Size(), named.ModTime())
	}
	err := filepath.WalkDir(
		filepath.Join(l.checkout, clusterModule), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			content, err := os.ReadFile(path)
			h.Write(content)
			return err
		})
	return inputs{hex.EncodeToString(h.Sum(nil))[:16], bins}, err
}

// clusterParts is the whole cluster: every part, what it needs first, how it is started and when it
// is ready.
func clusterParts(l layout, bins built) []part {
	c := components{l, bins}
	return []part{
		{name: "network", do: makeNetwork}, c.files(), c.etcd(), c.registry(), c.images(), c.containerd(),
		c.apiServer(), c.controllerManager(), c.scheduler(), c.proxy(), c.kubelet(), c.dns(),
		c.objects(), c.metricsServer(), c.istiod(), c.istiodWebhook(), c.ingressGateway(),
		c.tektonWebhook(), c.tektonController(), c.tektonResolvers(), c.prometheus(),
	}
}

// clusterObjects returns the YAML of everything that is applied before Tekton and istiod start:
// what their own modules ship, without the Deployments, and our Services that lead to them.
func clusterObjects(ctx context.Context, l layout) (string, error) {
	tekton, err := moduleFolder(ctx, l, "github.com/tektoncd/pipeline")
	if err != nil {
		return "", err
	}
	istio, err := moduleFolder(ctx, l, "istio.io/istio")
	if err != nil {
		return "", err
	}
	var files []string
	for _, pattern := range []string{
		"100-namespace/*.yaml", "resolvers/100-namespace.yaml", "300-crds/*.yaml", "20*.yaml", "500-webhooks.yaml",
		"config-*.yaml",
		"clusterrole-aggregate-*.yaml", "resolvers/20*.yaml", "resolvers/*config*.yaml",
	} {
		found, err := filepath.Glob(filepath.Join(tekton, "config", pattern))
		if err != nil || len(found) == 0 {
			return "", fmt.Errorf("the module of Tekton has no config/%s: %w", pattern, err)
		}
		files = append(files, found...)
	}
	files = append(files, filepath.Join(istio, "manifests/charts/base/files/crd-all.gen.yaml"))
	gateways, err := moduleFolder(ctx, l, "sigs.k8s.io/gateway-api")
	if err != nil {
		return "", err
	}
	kinds, err := filepath.Glob(filepath.Join(gateways, "config/crd/standard/gateway*.yaml"))
	if err != nil || len(kinds) == 0 {
		return "", errors.New("the module of the Gateway API has no config/crd/standard")
	}
	files = append(files, kinds...)
	var yaml strings.Builder
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		content = bytes.ReplaceAll(content, []byte(`"devel"`), []byte(`"v`+tektonVersion+`"`))
		fmt.Fprintf(&yaml, "%s\n---\n", content)
	}
	ca, err := os.ReadFile(l.pki("ca.crt"))
	if err != nil {
		return "", err
	}
	for _, name := range []string{"kube-system", "istio", "istio-metrics", "tekton"} {
		content, err := manifests.ReadFile("manifests/" + name + ".yaml")
		if err != nil {
			return "", err
		}
		yaml.WriteString(strings.NewReplacer(
			"${NODE_IP}", nodeIP, "${DNS_IP}", dnsServiceIP, "${CA}", base64.StdEncoding.EncodeToString(ca)).Replace(
			string(content)) + "\n---\n")
	}
	// istiod looks for its templates when it starts, and would inject nothing.
	templates, err := injection(ctx, l)
	if err != nil {
		return "", err
	}
	yaml.WriteString(templates)
	return yaml.String(), nil
}

// checkMachine reports what this machine lacks for Services and sidecars, before anything is
// started.
func checkMachine(ctx context.Context) error {
	if out, err := exec.CommandContext(ctx, "/usr/sbin/iptables", "-t", "nat", "-S").CombinedOutput(); err != nil {
		return fmt.Errorf(
			"iptables does not work here, which Services and sidecars need: load the kernel's NAT modules "+
				"(iptables -t nat -S: %w%s)", err, said(out))
	}
	return raiseInotify()
}

// maxInotify is how many instances the pods of the cluster may have together. Each sidecar takes
// some, and the kernel's default of 128 ends with about 45 of them.
const maxInotify = 8192

// raiseInotify raises the kernel's limit where it is lower.
func raiseInotify() error {
	const path = "/proc/sys/fs/inotify/max_user_instances"
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading how many files may be watched: %w", err)
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(content))); err == nil && n >= maxInotify {
		return nil
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(maxInotify)), 0o644); err != nil {
		return fmt.Errorf(
			"sidecars need more inotify instances than this machine allows: run sysctl "+
				"fs.inotify.max_user_instances=%d (%w)", maxInotify, err)
	}
	return nil
}

// makeNetwork makes the bridge that the pods and most parts are on.
func makeNetwork(ctx context.Context) error {
	if _, err := os.Stat("/sys/class/net/" + bridge); err != nil {
		for _, args := range [][]string{
			{"link", "add", bridge, "type", "bridge"},
			{"address", "add", nodePrefix, "dev", bridge},
			{"link", "set", bridge, "up"},
		} {
			if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
			}
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("letting pods reach services: %w", err)
	}
	return nil
}

// tools are the commands that a person uses.
var tools = []string{"kubectl", "tkn", "ko"}

// linkTools puts them into one folder.
func linkTools(l layout, bins built) error {
	for _, name := range tools {
		if err := os.Symlink(bins[name], l.tool(name)); err != nil {
			return err
		}
	}
	return nil
}

// answers is ready when a GET of the address is answered with 200.
func answers(url string) func(context.Context) error {
	client := &http.Client{Timeout: 2 * time.Second}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s answers %s", url, resp.Status)
		}
		return nil
	}
}

// exists is ready when a file is there.
func exists(path string) func(context.Context) error {
	return func(context.Context) error { _, err := os.Stat(path); return err }
}
