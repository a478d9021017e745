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
	kubectl := func(ctx context.Context, stdin string, args ...string) error {
		cmd := exec.CommandContext(ctx, bins["kubectl"], append([]string{"--kubeconfig", l.kubeconfig()}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
		return nil
	}
	apply := func(ctx context.Context, yaml string) error {
		return kubectl(ctx, yaml, "apply", "--server-side", "--force-conflicts", "-f", "-")
	}
	// process starts a program under a kubeconfig, as the service account it has in a cluster.
	process := func(env []string, name string, args ...string) func() *exec.Cmd {
		return func() *exec.Cmd {
			path, known := bins[name]
			if !known {
				path = name
			}
			cmd := exec.Command(path, args...)
			cmd.Dir = l.run
			cmd.Env = append([]string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + l.run}, env...)
			return cmd
		}
	}
	knative := func(kubeconfig, namespace, electionConfig, component string, port int, more ...string) []string {
		return append([]string{
			"KUBECONFIG=" + l.conf(kubeconfig), "SYSTEM_NAMESPACE=" + namespace, "KUBERNETES_MIN_VERSION=v1.28.0",
			"CONFIG_DEFAULTS_NAME=config-defaults", "CONFIG_LOGGING_NAME=config-logging",
			"CONFIG_OBSERVABILITY_NAME=config-observability", "CONFIG_FEATURE_FLAGS_NAME=feature-flags",
			"CONFIG_SPIRE=config-spire", "CONFIG_LEADERELECTION_NAME=" + electionConfig,
			"METRICS_DOMAIN=tekton.dev/" + component,
			fmt.Sprintf("PROBES_PORT=%d", port), fmt.Sprintf("PROFILING_PORT=%d", port+1),
			fmt.Sprintf("METRICS_PROMETHEUS_PORT=%d", port+2),
			"METRICS_PROMETHEUS_HOST=" + nodeIP, "POD_NAME=" + component,
		}, more...)
	}

	return []part{
		{name: "network", do: makeNetwork},
		{name: "files", do: func(context.Context) error {
			return errors.Join(makePKI(l), writeConf(l), linkTools(l, bins))
		}},
		{name: "etcd", after: []string{"files"},
			command: process(nil, "etcd", "--data-dir", l.data("etcd"), "--unsafe-no-fsync",
				"--listen-client-urls", "http://"+etcdAddr, "--advertise-client-urls", "http://"+etcdAddr,
				"--listen-peer-urls", "http://"+etcdPeerAddr, "--initial-advertise-peer-urls", "http://"+etcdPeerAddr,
				"--initial-cluster", "default=http://"+etcdPeerAddr,
				// The API server's cache learns from it how new it is: without, a watch of a quiet
				// resource fails with "Too large resource version".
				"--experimental-watch-progress-notify-interval", "500ms"),
			ready: answers("http://" + etcdAddr + "/health")},
		{name: "registry", after: []string{"files"},
			do: func(ctx context.Context) error { return serveRegistry(ctx, l) }},
		{name: "images", after: []string{"registry"},
			do: func(ctx context.Context) error { return pushImages(ctx, l, bins) }},
		{name: "containerd", after: []string{"files"},
			command: process(nil, "containerd", "--config", l.conf("containerd.toml")),
			ready:   exists(l.containerdSocket())},

		{name: "kube-apiserver", after: []string{"etcd", "network"},
			command: process(nil, "kube-apiserver",
				"--etcd-servers", "http://"+etcdAddr, "--bind-address", nodeIP, "--advertise-address", nodeIP,
				"--secure-port", "6443",
				"--service-cluster-ip-range", serviceCIDR, "--authorization-mode", "Node,RBAC",
				"--enable-admission-plugins", "NodeRestriction", "--allow-privileged", "--profiling=false",
				"--kubelet-preferred-address-types", "InternalIP",
				"--client-ca-file", l.pki("ca.crt"), "--tls-cert-file", l.pki("apiserver.crt"),
				"--tls-private-key-file", l.pki("apiserver.key"),
				"--kubelet-client-certificate", l.pki("apiserver-kubelet.crt"), "--kubelet-client-key",
				l.pki("apiserver-kubelet.key"),
				"--kubelet-certificate-authority", l.pki("ca.crt"),
				"--requestheader-client-ca-file", l.pki("ca.crt"), "--requestheader-allowed-names", frontProxy,
				"--requestheader-username-headers", "X-Remote-User", "--requestheader-group-headers", "X-Remote-Group",
				"--requestheader-extra-headers-prefix", "X-Remote-Extra-",
				"--proxy-client-cert-file", l.pki(frontProxy+".crt"), "--proxy-client-key-file",
				l.pki(frontProxy+".key"),
				"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
				"--service-account-key-file", l.pki("service-accounts.crt"), "--service-account-signing-key-file",
				l.pki("service-accounts.key")),
			ready: func(ctx context.Context) error { return kubectl(ctx, "", "get", "--raw", "/readyz") }},
		{name: "kube-controller-manager", after: []string{"kube-apiserver"},
			command: process(nil, "kube-controller-manager", "--kubeconfig", l.conf("controllers.yaml"),
				"--bind-address", nodeIP,
				"--leader-elect=false", "--use-service-account-credentials", "--root-ca-file", l.pki("ca.crt"),
				"--service-account-private-key-file", l.pki("service-accounts.key"), "--cluster-cidr", podCIDR,
				"--horizontal-pod-autoscaler-sync-period", "2s"),
			// Without its default service account a namespace has no pods.
			ready: func(ctx context.Context) error { return kubectl(ctx, "", "get", "serviceaccount", "default") }},
		{name: "kube-scheduler", after: []string{"kube-apiserver"},
			command: process(nil, "kube-scheduler", "--kubeconfig", l.conf("scheduler.yaml"), "--bind-address", nodeIP,
				"--leader-elect=false")},
		{name: "kube-proxy", after: []string{"kube-apiserver"},
			// masquerade-all: without the kernel's br_netfilter, an answer between two pods of one
			// bridge would go around the translation.
			command: process(nil, "kube-proxy", "--kubeconfig", l.conf("proxy.yaml"), "--proxy-mode", "iptables",
				"--masquerade-all",
				"--cluster-cidr", podCIDR, "--hostname-override", nodeName, "--conntrack-max-per-core", "0",
				"--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0",
				"--healthz-bind-address", nodeIP+":10256", "--metrics-bind-address", nodeIP+":10249"),
			ready: answers("http://" + nodeIP + ":10256/livez")},
		{name: "kubelet", after: []string{"kube-apiserver", "containerd", "images"},
			command: process(nil, "kubelet", "--config", l.conf("kubelet.yaml"), "--kubeconfig",
				l.conf("kubelet-api.yaml"),
				"--root-dir", l.data("kubelet"), "--hostname-override", nodeName, "--node-ip", nodeIP,
				"--containerd", l.containerdSocket()), // for cAdvisor, by which usage is a container's
			ready: func(ctx context.Context) error {
				return kubectl(ctx, "", "wait", "--for=condition=Ready", "node/"+nodeName, "--timeout=2s")
			}},
		{name: "dns", after: []string{"objects"},
			command: process(nil, "coredns", "-conf", l.conf("Corefile")),
			ready:   answers("http://" + nodeIP + ":8181/ready")},

		{name: "objects", after: []string{"kube-apiserver"}, do: func(ctx context.Context) error {
			yaml, err := clusterObjects(ctx, l)
			if err != nil {
				return err
			}
			// The second time finds the namespaces and kinds that the first one made.
			return poll(ctx, partTimeout, func(ctx context.Context) error { return apply(ctx, yaml) })
		}},
		{name: "metrics-server", after: []string{"objects", "kubelet", "kube-proxy"},
			command: process(nil, "metrics-server", "--kubeconfig", l.conf("metrics.yaml"),
				"--authentication-kubeconfig", l.conf("metrics.yaml"),
				"--authorization-kubeconfig", l.conf("metrics.yaml"), "--bind-address", nodeIP, "--secure-port", "4443",
				"--tls-cert-file", l.pki("metrics-server.crt"), "--tls-private-key-file", l.pki("metrics-server.key"),
				"--kubelet-certificate-authority", l.pki("ca.crt"), "--kubelet-preferred-address-types", "InternalIP",
				"--metric-resolution", "10s", "--kubelet-request-timeout", "5s"),
			ready: func(ctx context.Context) error {
				return kubectl(ctx, "", "wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io",
					"--timeout=2s")
			}},
		{name: "istiod", after: []string{"objects", "kube-proxy"},
			command: process([]string{
				"POD_NAME=istiod-0", "POD_NAMESPACE=istio-system", "SERVICE_ACCOUNT=istiod", "REVISION=default",
				"CLUSTER_ID=Kubernetes",
				"PILOT_CERT_PROVIDER=istiod", "ISTIOD_CUSTOM_HOST=istiod.istio-system.svc",
				"INJECTION_WEBHOOK_CONFIG_NAME=istio-sidecar-injector",
				// Upstream's Envoy has none of istio-proxy's own filters and would refuse a
				// listener with one.
				"PILOT_ENABLE_METADATA_EXCHANGE=false", "PILOT_ENABLE_ALPN_FILTER=false", "PILOT_DISABLE_MX_ALPN=true",
			}, "istiod", "discovery", "--kubeconfig", l.conf("istiod.yaml"), "--namespace", "istio-system",
				"--httpAddr", nodeIP+":15080", "--grpcAddr", nodeIP+":15010", "--secureGRPCAddr", nodeIP+":15012",
				"--httpsAddr", nodeIP+":15017", "--monitoringAddr", nodeIP+":15014", "--ctrlz_address", nodeIP,
				"--keepaliveMaxServerConnectionAge", "24h"),
			ready: answers("http://" + nodeIP + ":15080/ready")},
		{name: "istiod-webhook", after: []string{"istiod"}, ready: func(ctx context.Context) error {
			err := kubectl(ctx, invalidVirtualService, "create", "--dry-run=server", "-f", "-")
			switch {
			case err == nil:
				return errors.New("istiod's webhook does not refuse an invalid VirtualService yet")
			case strings.Contains(err.Error(), "denied the request"):
				return nil
			default:
				return err
			}
		}},
		{name: "ingress-gateway",
			after: []string{"istiod-webhook", "kubelet", "dns", "kube-controller-manager", "kube-scheduler"},
			do: func(ctx context.Context) error {
				yaml, err := ingressGateway(ctx, l)
				if err != nil {
					return err
				}
				return poll(ctx, partTimeout, func(ctx context.Context) error { return apply(ctx, yaml) })
			},
			ready: func(ctx context.Context) error {
				return kubectl(ctx, "", "rollout", "status", "-n", "istio-system", "deployment/istio-ingressgateway",
					"--timeout=2s")
			}},
		{name: "tekton-webhook", after: []string{"objects", "kube-proxy"},
			command: process(knative(
				"webhook.yaml", "tekton-pipelines", "config-leader-election-webhook", "pipeline", 18080,
				"WEBHOOK_SERVICE_NAME=tekton-pipelines-webhook", "WEBHOOK_SECRET_NAME=webhook-certs",
				"WEBHOOK_PORT=8443",
				"WEBHOOK_ADMISSION_CONTROLLER_NAME=webhook.pipeline.tekton.dev"), "tekton-webhook"),
			ready: func(ctx context.Context) error {
				return kubectl(ctx, validTask, "create", "--dry-run=server", "-f", "-")
			}},
		{name: "tekton-controller", after: []string{"tekton-webhook"},
			command: process(knative(
				"controller.yaml", "tekton-pipelines", "config-leader-election-controller", "pipeline", 18090),
				"tekton-controller",
				"-entrypoint-image", tektonImages["entrypoint"], "-nop-image", tektonImages["nop"],
				"-workingdirinit-image", tektonImages["workingdirinit"], "-sidecarlogresults-image",
				tektonImages["nop"],
				"-shell-image", tektonImages["nop"], "-shell-image-win", tektonImages["nop"]),
			ready: answers("http://127.0.0.1:18090/readiness")},
		{name: "tekton-resolvers", after: []string{"tekton-webhook"},
			command: process(knative(
				"resolvers.yaml", "tekton-pipelines-resolvers", "config-leader-election-resolvers", "resolution", 18100,
				"ARTIFACT_HUB_API=https://artifacthub.io/"), "tekton-resolvers"),
			ready: answers("http://" + nodeIP + ":18102/metrics")}, // it serves no probes
		{name: "prometheus", after: []string{"objects"},
			command: process(nil, "prometheus", "--config.file", l.conf("prometheus.yaml"), "--storage.tsdb.path",
				l.data("prometheus"),
				"--web.listen-address", prometheus, "--log.level", "warn"),
			ready: answers("http://" + prometheus + "/-/ready")},
	}
}

const invalidVirtualService = `{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
"metadata": {"generateName": "invalid-", "namespace": "default"},
"spec": {"hosts": ["invalid"], "http": [{"route": [{"destination": {"host": "invalid"}, "weight": -1}]}]}}`

const validTask = `{"apiVersion": "tekton.dev/v1", "kind": "Task",
"metadata": {"generateName": "valid-", "namespace": "default"},
"spec": {"steps": [{"name": "nothing", "image": "nothing", "command": ["nothing"]}]}}`

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

func exists(path string) func(context.Context) error {
	return func(context.Context) error { _, err := os.Stat(path); return err }
}
