package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// components makes the parts of a cluster, out of the built programs.
type components struct {
	layout
	bins built
}

// kubectl runs kubectl as the administrator of the cluster.
func (c components) kubectl(ctx context.Context, stdin string, args ...string) error {
	cmd := exec.CommandContext(
		ctx, c.bins["kubectl"], append([]string{"--kubeconfig", c.kubeconfig()}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// succeeds is ready when kubectl succeeds.
func (c components) succeeds(stdin string, args ...string) func(context.Context) error {
	return func(ctx context.Context) error { return c.kubectl(ctx, stdin, args...) }
}

// apply applies objects, again and again until it succeeds: the second time finds the namespaces
// and kinds that the first one made.
func (c components) apply(ctx context.Context, yaml string) error {
	return poll(ctx, partTimeout, c.succeeds(yaml, "apply", "--server-side", "--force-conflicts", "-f", "-"))
}

// process starts a program under a kubeconfig, as the service account it has in a cluster.
func (c components) process(env []string, name string, args ...string) func() *exec.Cmd {
	return func() *exec.Cmd {
		path, known := c.bins[name]
		if !known {
			path = name
		}
		cmd := exec.Command(path, args...)
		cmd.Dir = c.run
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + c.run}, env...)
		return cmd
	}
}

// knative is the environment of a program of Tekton, which has three ports from this one on.
func (c components) knative(
	kubeconfig, namespace, electionConfig, component string, port int, more ...string) []string {
	return append([]string{
		"KUBECONFIG=" + c.conf(kubeconfig), "SYSTEM_NAMESPACE=" + namespace, "KUBERNETES_MIN_VERSION=v1.28.0",
		"CONFIG_DEFAULTS_NAME=config-defaults", "CONFIG_LOGGING_NAME=config-logging",
		"CONFIG_OBSERVABILITY_NAME=config-observability", "CONFIG_FEATURE_FLAGS_NAME=feature-flags",
		"CONFIG_SPIRE=config-spire", "CONFIG_LEADERELECTION_NAME=" + electionConfig,
		"METRICS_DOMAIN=tekton.dev/" + component,
		fmt.Sprintf("PROBES_PORT=%d", port), fmt.Sprintf("PROFILING_PORT=%d", port+1),
		fmt.Sprintf("METRICS_PROMETHEUS_PORT=%d", port+2),
		"METRICS_PROMETHEUS_HOST=" + nodeIP, "POD_NAME=" + component,
	}, more...)
}

// files makes what the other parts read: certificates, configuration, and links to the tools.
func (c components) files() part {
	return part{name: "files", do: func(context.Context) error {
		return errors.Join(makePKI(c.layout), writeConf(c.layout), linkTools(c.layout, c.bins))
	}}
}

// etcd is where the API server keeps its objects.
func (c components) etcd() part {
	return part{name: "etcd", after: []string{"files"},
		command: c.process(nil, "etcd", "--data-dir", c.data("etcd"), "--unsafe-no-fsync",
			"--listen-client-urls", "http://"+etcdAddr, "--advertise-client-urls", "http://"+etcdAddr,
			"--listen-peer-urls", "http://"+etcdPeerAddr, "--initial-advertise-peer-urls", "http://"+etcdPeerAddr,
			"--initial-cluster", "default=http://"+etcdPeerAddr,
			// The API server's cache learns from it how new it is: without, a watch of a quiet
			// resource fails with "Too large resource version".
			"--experimental-watch-progress-notify-interval", "500ms"),
		ready: answers("http://" + etcdAddr + "/health")}
}

// registry is where containerd pulls images from.
func (c components) registry() part {
	return part{name: "registry", after: []string{"files"},
		do: func(ctx context.Context) error { return serveRegistry(ctx, c.layout) }}
}

// images pushes the images that the cluster itself needs.
func (c components) images() part {
	return part{name: "images", after: []string{"registry"},
		do: func(ctx context.Context) error { return pushImages(ctx, c.layout, c.bins) }}
}

// containerd runs the containers of pods.
func (c components) containerd() part {
	return part{name: "containerd", after: []string{"files"},
		command: c.process(nil, "containerd", "--config", c.conf("containerd.toml")),
		ready:   exists(c.containerdSocket())}
}

// apiServer is the API server.
func (c components) apiServer() part {
	return part{name: "kube-apiserver", after: []string{"etcd", "network"},
		command: c.process(nil, "kube-apiserver",
			"--etcd-servers", "http://"+etcdAddr, "--bind-address", nodeIP, "--advertise-address", nodeIP,
			"--secure-port", "6443",
			"--service-cluster-ip-range", serviceCIDR, "--authorization-mode", "Node,RBAC",
			"--enable-admission-plugins", "NodeRestriction", "--allow-privileged", "--profiling=false",
			"--kubelet-preferred-address-types", "InternalIP",
			"--client-ca-file", c.pki("ca.crt"), "--tls-cert-file", c.pki("apiserver.crt"),
			"--tls-private-key-file", c.pki("apiserver.key"),
			"--kubelet-client-certificate", c.pki("apiserver-kubelet.crt"), "--kubelet-client-key",
			c.pki("apiserver-kubelet.key"),
			"--kubelet-certificate-authority", c.pki("ca.crt"),
			"--requestheader-client-ca-file", c.pki("ca.crt"), "--requestheader-allowed-names", frontProxy,
			"--requestheader-username-headers", "X-Remote-User", "--requestheader-group-headers", "X-Remote-Group",
			"--requestheader-extra-headers-prefix", "X-Remote-Extra-",
			"--proxy-client-cert-file", c.pki(frontProxy+".crt"), "--proxy-client-key-file",
			c.pki(frontProxy+".key"),
			"--service-account-issuer", "https://kubernetes.default.svc.cluster.local",
			"--service-account-key-file", c.pki("service-accounts.crt"), "--service-account-signing-key-file",
			c.pki("service-accounts.key")),
		ready: c.succeeds("", "get", "--raw", "/readyz")}
}

// controllerManager is ready when namespaces get their default service account, without which they
// have no pods.
func (c components) controllerManager() part {
	return part{name: "kube-controller-manager", after: []string{"kube-apiserver"},
		command: c.process(nil, "kube-controller-manager", "--kubeconfig", c.conf("controllers.yaml"),
			"--bind-address", nodeIP,
			"--leader-elect=false", "--use-service-account-credentials", "--root-ca-file", c.pki("ca.crt"),
			"--service-account-private-key-file", c.pki("service-accounts.key"), "--cluster-cidr", podCIDR,
			"--horizontal-pod-autoscaler-sync-period", "2s"),
		ready: c.succeeds("", "get", "serviceaccount", "default")}
}

// scheduler gives pods their node.
func (c components) scheduler() part {
	return part{name: "kube-scheduler", after: []string{"kube-apiserver"},
		command: c.process(nil, "kube-scheduler", "--kubeconfig", c.conf("scheduler.yaml"), "--bind-address", nodeIP,
			"--leader-elect=false")}
}

// proxy makes the addresses of Services.
func (c components) proxy() part {
	return part{name: "kube-proxy", after: []string{"kube-apiserver"},
		// masquerade-all: without the kernel's br_netfilter, an answer between two pods of one
		// bridge would go around the translation.
		command: c.process(nil, "kube-proxy", "--kubeconfig", c.conf("proxy.yaml"), "--proxy-mode", "iptables",
			"--masquerade-all",
			"--cluster-cidr", podCIDR, "--hostname-override", nodeName, "--conntrack-max-per-core", "0",
			"--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0",
			"--healthz-bind-address", nodeIP+":10256", "--metrics-bind-address", nodeIP+":10249"),
		ready: answers("http://" + nodeIP + ":10256/livez")}
}

// kubelet is the one node.
func (c components) kubelet() part {
	return part{name: "kubelet", after: []string{"kube-apiserver", "containerd", "images"},
		command: c.process(nil, "kubelet", "--config", c.conf("kubelet.yaml"), "--kubeconfig",
			c.conf("kubelet-api.yaml"),
			"--root-dir", c.data("kubelet"), "--hostname-override", nodeName, "--node-ip", nodeIP,
			"--containerd", c.containerdSocket()), // for cAdvisor, by which usage is a container's
		ready: c.succeeds("", "wait", "--for=condition=Ready", "node/"+nodeName, "--timeout=2s")}
}

// dns resolves the names of Services.
func (c components) dns() part {
	return part{name: "dns", after: []string{"objects"},
		command: c.process(nil, "coredns", "-conf", c.conf("Corefile")),
		ready:   answers("http://" + nodeIP + ":8181/ready")}
}

// objects applies what Tekton and istiod find when they start.
func (c components) objects() part {
	return part{name: "objects", after: []string{"kube-apiserver"}, do: func(ctx context.Context) error {
		yaml, err := clusterObjects(ctx, c.layout)
		if err != nil {
			return err
		}
		return c.apply(ctx, yaml)
	}}
}

// metricsServer measures pods, for autoscalers.
func (c components) metricsServer() part {
	return part{name: "metrics-server", after: []string{"objects", "kubelet", "kube-proxy"},
		command: c.process(nil, "metrics-server", "--kubeconfig", c.conf("metrics.yaml"),
			"--authentication-kubeconfig", c.conf("metrics.yaml"),
			"--authorization-kubeconfig", c.conf("metrics.yaml"), "--bind-address", nodeIP, "--secure-port", "4443",
			"--tls-cert-file", c.pki("metrics-server.crt"), "--tls-private-key-file", c.pki("metrics-server.key"),
			"--kubelet-certificate-authority", c.pki("ca.crt"), "--kubelet-preferred-address-types", "InternalIP",
			"--metric-resolution", "10s", "--kubelet-request-timeout", "5s"),
		ready: c.succeeds("", "wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io",
			"--timeout=2s")}
}

// istiod is Istio's control plane.
func (c components) istiod() part {
	return part{name: "istiod", after: []string{"objects", "kube-proxy"},
		command: c.process([]string{
			"POD_NAME=istiod-0", "POD_NAMESPACE=istio-system", "SERVICE_ACCOUNT=istiod", "REVISION=default",
			"CLUSTER_ID=Kubernetes",
			"PILOT_CERT_PROVIDER=istiod", "ISTIOD_CUSTOM_HOST=istiod.istio-system.svc",
			"INJECTION_WEBHOOK_CONFIG_NAME=istio-sidecar-injector",
			// Upstream's Envoy has none of istio-proxy's own filters and would refuse a listener
			// with one.
			"PILOT_ENABLE_METADATA_EXCHANGE=false", "PILOT_ENABLE_ALPN_FILTER=false", "PILOT_DISABLE_MX_ALPN=true",
		}, "istiod", "discovery", "--kubeconfig", c.conf("istiod.yaml"), "--namespace", "istio-system",
			"--httpAddr", nodeIP+":15080", "--grpcAddr", nodeIP+":15010", "--secureGRPCAddr", nodeIP+":15012",
			"--httpsAddr", nodeIP+":15017", "--monitoringAddr", nodeIP+":15014", "--ctrlz_address", nodeIP,
			"--keepaliveMaxServerConnectionAge", "24h"),
		ready: answers("http://" + nodeIP + ":15080/ready")}
}

// istiodWebhook is ready when istiod refuses an invalid VirtualService.
func (c components) istiodWebhook() part {
	return part{name: "istiod-webhook", after: []string{"istiod"}, ready: func(ctx context.Context) error {
		err := c.kubectl(ctx, invalidVirtualService, "create", "--dry-run=server", "-f", "-")
		switch {
		case err == nil:
			return errors.New("istiod's webhook does not refuse an invalid VirtualService yet")
		case strings.Contains(err.Error(), "denied the request"):
			return nil
		default:
			return err
		}
	}}
}

// ingressGateway is the gateway for callers from outside of the mesh.
func (c components) ingressGateway() part {
	return part{name: "ingress-gateway",
		after: []string{"istiod-webhook", "kubelet", "dns", "kube-controller-manager", "kube-scheduler"},
		do: func(ctx context.Context) error {
			yaml, err := ingressGateway(ctx, c.layout)
			if err != nil {
				return err
			}
			return c.apply(ctx, yaml)
		},
		ready: c.succeeds("", "rollout", "status", "-n", "istio-system", "deployment/istio-ingressgateway",
			"--timeout=2s")}
}

// tektonWebhook is ready when a valid Task is accepted.
func (c components) tektonWebhook() part {
	return part{name: "tekton-webhook", after: []string{"objects", "kube-proxy"},
		command: c.process(c.knative(
			"webhook.yaml", "tekton-pipelines", "config-leader-election-webhook", "pipeline", 18080,
			"WEBHOOK_SERVICE_NAME=tekton-pipelines-webhook", "WEBHOOK_SECRET_NAME=webhook-certs",
			"WEBHOOK_PORT=8443",
			"WEBHOOK_ADMISSION_CONTROLLER_NAME=webhook.pipeline.tekton.dev"), "tekton-webhook"),
		ready: c.succeeds(validTask, "create", "--dry-run=server", "-f", "-")}
}

// tektonController runs Pipelines.
func (c components) tektonController() part {
	return part{name: "tekton-controller", after: []string{"tekton-webhook"},
		command: c.process(c.knative(
			"controller.yaml", "tekton-pipelines", "config-leader-election-controller", "pipeline", 18090),
			"tekton-controller",
			"-entrypoint-image", tektonImages["entrypoint"], "-nop-image", tektonImages["nop"],
			"-workingdirinit-image", tektonImages["workingdirinit"], "-sidecarlogresults-image",
			tektonImages["nop"],
			"-shell-image", tektonImages["nop"], "-shell-image-win", tektonImages["nop"]),
		ready: answers("http://127.0.0.1:18090/readiness")}
}

// tektonResolvers fetches Pipelines from elsewhere, such as Git. It serves no probes.
func (c components) tektonResolvers() part {
	return part{name: "tekton-resolvers", after: []string{"tekton-webhook"},
		command: c.process(c.knative(
			"resolvers.yaml", "tekton-pipelines-resolvers", "config-leader-election-resolvers", "resolution", 18100,
			"ARTIFACT_HUB_API=https://artifacthub.io/"), "tekton-resolvers"),
		ready: answers("http://" + nodeIP + ":18102/metrics")}
}

// prometheus scrapes the sidecars.
func (c components) prometheus() part {
	return part{name: "prometheus", after: []string{"objects"},
		command: c.process(nil, "prometheus", "--config.file", c.conf("prometheus.yaml"), "--storage.tsdb.path",
			c.data("prometheus"),
			"--web.listen-address", prometheus, "--log.level", "warn"),
		ready: answers("http://" + prometheus + "/-/ready")}
}

const invalidVirtualService = `{"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
"metadata": {"generateName": "invalid-", "namespace": "default"},
"spec": {"hosts": ["invalid"], "http": [{"route": [{"destination": {"host": "invalid"}, "weight": -1}]}]}}`

const validTask = `{"apiVersion": "tekton.dev/v1", "kind": "Task",
"metadata": {"generateName": "valid-", "namespace": "default"},
"spec": {"steps": [{"name": "nothing", "image": "nothing", "command": ["nothing"]}]}}`
