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

// debianPackages lists a file of each package that the cluster runs.
var debianPackages = []struct{ name, file string }{
	{"containerd", "/usr/bin/containerd"},
	{"runc", "/usr/sbin/runc"},
	{"containernetworking-plugins", "/usr/lib/cni/bridge"},
	{"iptables", "/usr/sbin/iptables"},
	{"iproute2", "/sbin/ip"},
	{"etcd-server", "/usr/bin/etcd"},
	{"prometheus", "/usr/bin/prometheus"},
	{"ca-certificates", "/etc/ssl/certs/ca-certificates.crt"},
}

// installPackages installs what is missing, as root on Debian or Ubuntu; elsewhere it names it.
func installPackages(ctx context.Context, say func(format string, args ...any)) error {
	var missing []string
	for _, p := range debianPackages {
		if _, err := os.Stat(p.file); err != nil {
			missing = append(missing, p.name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	release, _ := os.ReadFile("/etc/os-release")
	if !bytes.Contains(release, []byte("debian")) || os.Geteuid() != 0 {
		return fmt.Errorf("packages are missing: install %s (on Debian: apt-get install --no-install-recommends %[1]s)", strings.Join(missing, " "))
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
