package main

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
)

// The programs that iptables and its relatives are links to.
const nft, legacy = "/usr/sbin/xtables-nft-multi", "/usr/sbin/xtables-legacy-multi"

// makeProxy makes the image of sidecars and gateways, in the layout of Istio's proxyv2: Envoy,
// pilot-agent, and this machine's iptables, which istio-init uses to redirect a pod's traffic to
// Envoy.
func makeProxy(ctx context.Context, l layout, bins built, arch string) (v1.Image, error) {
	istio, err := moduleFolder(ctx, l, "istio.io/istio")
	if err != nil {
		return nil, err
	}
	sources, err := proxySources(istio, bins)
	if err != nil {
		return nil, err
	}
	files := slices.Concat(proxyBase, iptablesLinks())
	for to, from := range sources {
		content, err := os.ReadFile(from)
		if err != nil {
			return nil, fmt.Errorf("making the proxy's image: %w", err)
		}
		files = append(files, file{tar.Header{Name: strings.TrimPrefix(to, "/"), Mode: 0o755}, content})
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.Name, b.Name) })
	return addLayer(empty.Image, func(c *v1.ConfigFile) {
		c.OS, c.Architecture = "linux", arch
		c.Config.Entrypoint = []string{"/usr/local/bin/pilot-agent"}
		c.Config.Env = []string{
			"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"ISTIO_META_ISTIO_PROXY_SHA=envoy:" + envoyVersion}
	}, files...)
}

// proxyBase are the folders and users that the programs of a sidecar expect.
var proxyBase = []file{
	{tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil},
	{tar.Header{Name: "run/", Typeflag: tar.TypeDir, Mode: 0o755}, nil},
	{tar.Header{Name: "etc/istio/proxy/", Typeflag: tar.TypeDir, Mode: 0o755, Uid: 1337, Gid: 1337}, nil},
	{tar.Header{Name: "var/lib/istio/data/", Typeflag: tar.TypeDir, Mode: 0o755, Uid: 1337, Gid: 1337}, nil},
	{tar.Header{Name: "etc/passwd", Mode: 0o644},
		[]byte("root:x:0:0::/root:/sbin/nologin\nistio-proxy:x:1337:1337::/:/sbin/nologin\n")},
	{tar.Header{Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nistio-proxy:x:1337:\n")},
}

// proxySources returns, for each file of the image, the file of this machine that it is a copy of.
func proxySources(istio string, bins built) (map[string]string, error) {
	extensions, err := filepath.Glob("/usr/lib*/*/xtables/*.so")
	if err != nil || len(extensions) == 0 {
		return nil, errors.New(
			"iptables' extensions are not in /usr/lib/*/xtables: install iptables as Debian packages it")
	}
	sources := map[string]string{
		"/usr/local/bin/envoy": bins["envoy"], "/usr/local/bin/pilot-agent": bins["pilot-agent"],
		"/var/lib/istio/envoy/envoy_bootstrap_tmpl.json": filepath.Join(
			istio, "tools/packaging/common/envoy_bootstrap.json"),
		"/etc/ssl/certs/ca-certificates.crt": "/etc/ssl/certs/ca-certificates.crt"}
	paths := slices.Concat([]string{nft, legacy}, extensions)
	for _, program := range append([]string{bins["envoy"]}, paths...) {
		loads, err := loadedBy(program)
		if err != nil {
			return nil, err
		}
		for _, path := range loads {
			sources[path] = path
		}
	}
	for _, path := range paths {
		sources[path] = path
	}
	return sources, nil
}

// iptablesLinks are the names by which iptables is called.
func iptablesLinks() []file {
	var links []file
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, verb := range []string{"", "-save", "-restore"} {
			for name, to := range map[string]string{
				family + verb: nft, family + "-nft" + verb: nft, family + "-legacy" + verb: legacy} {
				links = append(links,
					file{tar.Header{Name: "usr/sbin/" + name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777},
						nil})
			}
		}
	}
	return links
}

// loadedBy returns the files that a program of this machine needs to start: its loader and, however
// indirectly, its libraries. A program that is linked statically has none.
func loadedBy(program string) ([]string, error) {
	loader, err := loaderOf(program)
	if err != nil {
		return nil, err
	}
	var paths, folders []string
	if loader != "" {
		paths = append(paths, loader)
		real, err := filepath.EvalSymlinks(loader)
		if err != nil {
			return nil, err
		}
		folders = append(folders, filepath.Dir(real), filepath.Dir(loader)) // of the program's own architecture
	}
	needs, err := importedLibraries(program)
	for len(needs) > 0 && err == nil {
		name := needs[0]
		needs = needs[1:]
		i := slices.IndexFunc(
			folders, func(folder string) bool { _, err := os.Stat(filepath.Join(folder, name)); return err == nil })
		if i < 0 {
			return nil, fmt.Errorf("%s needs %s, which is in none of %v", program, name, folders)
		}
		path := filepath.Join(folders[i], name)
		if slices.Contains(paths, path) {
			continue
		}
		paths = append(paths, path)
		var more []string
		more, err = importedLibraries(path)
		needs = append(needs, more...)
	}
	return paths, err
}

// loaderOf returns the program that starts a program; of a library, that of this machine's
// programs.
func loaderOf(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("%s is no program: %w", path, err)
	}
	defer f.Close()
	section := f.Section(".interp")
	if section == nil {
		if f.Type == elf.ET_DYN && path != shell {
			return loaderOf(shell)
		}
		return "", nil
	}
	loader, err := section.Data()
	return string(bytes.TrimRight(loader, "\x00")), err
}

// importedLibraries returns the libraries that a program or library names.
func importedLibraries(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s is no program or library: %w", path, err)
	}
	defer f.Close()
	return f.ImportedLibraries()
}
