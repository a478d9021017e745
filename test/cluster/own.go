package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cgroupName distinguishes the cluster's processes from all others: the supervisor joins this
// cgroup before it starts anything, children inherit it, and the kubelet keeps the pods below it.
// The kernel keeps that record, so it holds after a SIGKILL at any moment and is not fooled by a
// process id used again.
const cgroupName = "canary-tasks.cluster"

// cgroupMounts lists where cgroup hierarchies are mounted: one for each controller (v1), one for
// all (v2), or both.
func cgroupMounts() ([]string, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	var mounts []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && (f[2] == "cgroup" || f[2] == "cgroup2") {
			mounts = append(mounts, f[1])
		}
	}
	if len(mounts) == 0 {
		return nil, fmt.Errorf("no cgroup hierarchy is mounted below /sys/fs/cgroup")
	}
	return mounts, nil
}

// joinCgroup makes the cluster's cgroup in every hierarchy and moves this process into it.
// Processes go into a leaf of their own, because in v2 a cgroup with processes cannot have
// controllers for its children.
func joinCgroup() error {
	mounts, err := cgroupMounts()
	if err != nil {
		return err
	}
	joined := false
	for _, m := range mounts {
		unified := false
		if available, err := os.ReadFile(filepath.Join(m, "cgroup.controllers")); err == nil {
			unified = true
			for _, c := range strings.Fields(string(available)) { // the kubelet wants them all for its pods
				_ = os.WriteFile(filepath.Join(m, "cgroup.subtree_control"), []byte("+"+c), 0o644)
			}
		}
		leaf := filepath.Join(m, cgroupName, "parts")
		if err := os.MkdirAll(leaf, 0o755); err != nil {
			return fmt.Errorf("making cgroup %s: %w", leaf, err)
		}
		if !unified && filepath.Base(m) != "pids" {
			continue // one v1 hierarchy is enough to be known by; cpuset would need cores first
		}
		if err := os.WriteFile(
			filepath.Join(leaf, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
			return fmt.Errorf("joining cgroup %s: %w", leaf, err)
		}
		joined = true
	}
	if !joined {
		return fmt.Errorf(
			"none of the cgroup hierarchies %v keeps track of processes: want cgroup v2, or v1 with pids", mounts)
	}
	return nil
}

// ownProcesses lists the ids of the cluster's processes, this one left out.
func ownProcesses() []int {
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	var pids []int
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(b, []byte("/"+cgroupName+"/")) {
			continue
		}
		// Who has ended and was not waited for is still listed, in state Z after the name in
		// parentheses.
		if stat, err := os.ReadFile(filepath.Join(filepath.Dir(f), "stat")); err != nil ||
			bytes.Contains(stat, []byte(") Z ")) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(f, "/")[2]); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// endAll ends what an earlier start left, however it ended, and returns how many processes that
// were. Mounts and network namespaces go with them: they were made in a mount namespace of the
// supervisor's. What is in run is of no use afterwards and is removed.
func endAll(l layout) (int, error) {
	ended := 0
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		pids := ownProcesses()
		if len(pids) == 0 {
			break
		}
		if ended == 0 {
			ended = len(pids)
		}
		if time.Now().After(deadline) {
			return ended, fmt.Errorf("processes %v of the cluster do not end", pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	mounts, err := cgroupMounts()
	if err != nil {
		return ended, err
	}
	for _, m := range mounts {
		removeCgroup(filepath.Join(m, cgroupName))
	}
	if err := removeRun(l); err != nil {
		return ended, err
	}
	return ended, nil
}

// removeCgroup removes a cgroup and all below it, the deepest first. One that is still busy stays.
func removeCgroup(dir string) {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		_ = os.Remove(dirs[i])
	}
}

// removeRun removes the folder of the running cluster, but never follows a mount out of it.
func removeRun(l layout) error {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], l.run+"/") {
			return fmt.Errorf("%s is still mounted: unmount it, then try again", f[1])
		}
	}
	if err := os.RemoveAll(l.run); err != nil {
		return fmt.Errorf("removing the folder of the cluster that ran before: %w", err)
	}
	return nil
}

// removeNetwork removes the bridge and kube-proxy's rules.
func removeNetwork(kubeProxy string) error {
	if _, err := os.Stat("/sys/class/net/" + bridge); err == nil {
		if out, err := exec.Command("ip", "link", "delete", bridge).CombinedOutput(); err != nil {
			return fmt.Errorf("removing the bridge %s: %w: %s", bridge, err, bytes.TrimSpace(out))
		}
	}
	if kubeProxy != "" {
		if out, err := exec.Command(kubeProxy, "--cleanup").CombinedOutput(); err != nil {
			return fmt.Errorf("removing kube-proxy's rules: %w: %s", err, bytes.TrimSpace(out))
		}
	}
	return nil
}
