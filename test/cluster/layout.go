package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// The addresses of the cluster. Nearly all of them are on a bridge of its own, so that the parts
// collide with nothing that the machine already runs.
const (
	bridge       = "ctasks0"
	nodeName     = "canary-tasks"
	nodeIP       = "10.88.0.1"
	nodePrefix   = "10.88.0.1/16" // nodeIP with the length of podCIDR
	podCIDR      = "10.88.0.0/16"
	podFirst     = "10.88.0.10"
	podLast      = "10.88.255.254"
	serviceCIDR  = "10.89.0.0/16"
	apiServiceIP = "10.89.0.1"
	dnsServiceIP = "10.89.0.10"
	gatewayIP    = "10.89.0.80"

	etcdAddr     = "127.0.0.1:23790"
	etcdPeerAddr = "127.0.0.1:23800"
	registryAddr = "127.0.0.1:5588"
	prometheus   = nodeIP + ":9090"
	apiServer    = "https://" + nodeIP + ":6443"
)

// layout says where things are on disk. One cluster a machine: the folder is fixed, whichever
// checkout starts it.
type layout struct {
	cache    string // survives: built binaries under a hash of their inputs
	run      string // of the running cluster; made anew at each start
	checkout string // the project this program was built from
}

// newLayout finds the checkout that this folder is in.
func newLayout() (layout, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return layout{}, fmt.Errorf("finding the user's cache folder: %w", err)
	}
	checkout, err := filepath.Abs(".")
	if err != nil {
		return layout{}, err
	}
	for ; ; checkout = filepath.Dir(checkout) {
		if _, err := os.Stat(filepath.Join(checkout, "ko.yaml")); err == nil {
			break
		}
		if checkout == "/" {
			return layout{}, fmt.Errorf("run it inside a checkout of canary-tasks (no ko.yaml in this folder or above)")
		}
	}
	root := filepath.Join(cache, "canary-tasks")
	return layout{cache: root, run: filepath.Join(root, "cluster"), checkout: checkout}, nil
}

func (l layout) kubeconfig() string       { return filepath.Join(l.run, "kubeconfig") }
func (l layout) logs() string             { return filepath.Join(l.run, "logs") }
func (l layout) log(part string) string   { return filepath.Join(l.logs(), part+".log") }
func (l layout) pki(file string) string   { return filepath.Join(l.run, "pki", file) }
func (l layout) conf(file string) string  { return filepath.Join(l.run, "conf", file) }
func (l layout) data(part string) string  { return filepath.Join(l.run, "data", part) }
func (l layout) tool(name string) string  { return filepath.Join(l.run, "bin", name) }
func (l layout) containerdSocket() string { return filepath.Join(l.run, "containerd.sock") }
