package main

import (
	"os"
	"path/filepath"
	"strings"
)

// writeConf writes the configuration files of the parts.
func writeConf(l layout) error {
	values := strings.NewReplacer(
		"${RUN}", l.run, "${NODE_IP}", nodeIP, "${NODE_NAME}", nodeName, "${DNS_IP}", dnsServiceIP, "${BRIDGE}", bridge,
		"${POD_CIDR}", podCIDR, "${POD_FIRST}", podFirst, "${POD_LAST}", podLast, "${CGROUP}", cgroupName,
		"${SOCKET}", l.containerdSocket(), "${PAUSE}", pauseImage,
		"${DNS_KUBECONFIG}", l.conf("dns.yaml"), "${PROMETHEUS_KUBECONFIG}", l.conf("scraper.yaml"))
	entries, err := manifests.ReadDir("manifests/conf")
	if err != nil {
		return err
	}
	for _, e := range entries {
		content, err := manifests.ReadFile("manifests/conf/" + e.Name())
		if err != nil {
			return err
		}
		path := l.conf(e.Name())
		if e.Name() == "bridge.conflist" { // containerd takes every file of its folder
			path = filepath.Join(l.run, "cni", e.Name())
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(path, []byte(values.Replace(string(content))), 0o600); err != nil {
			return err
		}
	}
	return nil
}
