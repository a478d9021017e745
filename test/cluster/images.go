package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The images that the cluster itself needs; the project's own are pushed beside them by ko.
const (
	baseImage  = registryAddr + "/base:latest"
	pauseImage = registryAddr + "/pause:latest"
	shellImage = registryAddr + "/base-shell:latest"
	proxyImage = registryAddr + "/proxyv2:" + envoyVersion
)

// tektonImages are named on the Tekton controller's command line.
var tektonImages = map[string]string{
	"entrypoint":     registryAddr + "/entrypoint:latest",
	"nop":            registryAddr + "/nop:latest",
	"workingdirinit": registryAddr + "/workingdirinit:latest",
}

// serveRegistry serves an image registry on loopback until ctx ends; blobs are on disk, manifests
// in memory.
func serveRegistry(ctx context.Context, l layout) error {
	if err := os.MkdirAll(l.data("registry"), 0o755); err != nil {
		return err
	}
	logFile, err := os.Create(l.log("registry"))
	if err != nil {
		return err
	}
	handler := registry.New(
		registry.WithBlobHandler(registry.NewDiskBlobHandler(l.data("registry"))),
		registry.Logger(log.New(logFile, "", log.LstdFlags)))
	listener, err := net.Listen("tcp", registryAddr)
	if err != nil {
		return fmt.Errorf("the image registry: %w", err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Printf("the image registry: %v", err)
		}
	}()
	context.AfterFunc(ctx, func() { server.Close() })
	return nil
}

// pushImages makes and pushes the images of the cluster itself.
func pushImages(ctx context.Context, l layout, bins built) error {
	var base v1.Image
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} { // for releases; the cluster itself runs one of them
		img, err := makeBase(arch)
		if err != nil {
			return fmt.Errorf("making the base image: %w", err)
		}
		if arch == runtime.GOARCH {
			base = img
		}
		index = mutate.AppendManifests(
			index, mutate.IndexAddendum{
				Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	tag, err := name.ParseReference(baseImage)
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(tag, index, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("pushing %s: %w", baseImage, err)
	}
	for program, ref := range tektonImages {
		if err := pushProgram(ctx, ref, base, bins[program], program); err != nil {
			return err
		}
	}
	shell, err := makeShell(base)
	if err != nil {
		return fmt.Errorf("making the base image with a shell: %w", err)
	}
	if err := push(ctx, shellImage, shell); err != nil {
		return err
	}
	proxy, err := makeProxy(ctx, l, bins, runtime.GOARCH)
	if err != nil {
		return err
	}
	if err := push(ctx, proxyImage, proxy); err != nil {
		return err
	}
	return pushProgram(ctx, pauseImage, base, bins["pause"], "pause")
}

// file is one entry of an image's layer.
type file struct {
	tar.Header
	content []byte
}

// makeBase makes what a distroless base has that our images use: CA certificates, /tmp, and user
// 65532.
func makeBase(arch string) (v1.Image, error) {
	certs, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		return nil, err
	}
	return addLayer(empty.Image,
		func(c *v1.ConfigFile) { c.OS, c.Architecture, c.Config.User = "linux", arch, "65532" },
		file{tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil},
		file{tar.Header{Name: "home/nonroot/", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 65532, Gid: 65532}, nil},
		file{tar.Header{Name: "etc/passwd", Mode: 0o644},
			[]byte("root:x:0:0::/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n")},
		file{tar.Header{Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\nnonroot:x:65532:\n")},
		file{tar.Header{Name: "etc/ssl/certs/ca-certificates.crt", Mode: 0o644}, certs},
	)
}

const shell = "/bin/sh"

// makeShell makes what a base with a shell has beyond that: the /bin/sh of this machine, with the
// libraries that it loads. It takes the place of the public image that ko-shell.yaml names.
func makeShell(base v1.Image) (v1.Image, error) {
	paths, err := loadedBy(shell)
	if err != nil {
		return nil, err
	}
	var files []file
	for _, path := range append(paths, shell) {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		files = append(files, file{tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: 0o755}, content})
	}
	return addLayer(base, func(*v1.ConfigFile) {}, files...)
}

// pushProgram pushes an image with one program where ko would put it.
func pushProgram(ctx context.Context, ref string, base v1.Image, binary, program string) error {
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	img, err := addLayer(base,
		func(c *v1.ConfigFile) { c.Config.Entrypoint = []string{"/ko-app/" + program} },
		file{tar.Header{Name: "ko-app/" + program, Mode: 0o755}, content})
	if err != nil {
		return fmt.Errorf("making the image of %s: %w", program, err)
	}
	return push(ctx, ref, img)
}

// push pushes an image.
func push(ctx context.Context, ref string, img v1.Image) error {
	tag, err := name.ParseReference(ref)
	if err != nil {
		return err
	}
	if err := remote.Write(tag, img, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("pushing %s: %w", ref, err)
	}
	return nil
}

// addLayer puts a layer with these files on top of an image and changes its configuration.
func addLayer(img v1.Image, configure func(*v1.ConfigFile), files ...file) (v1.Image, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		f.Size = int64(len(f.content))
		if err := w.WriteHeader(&f.Header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	// It goes no farther than this machine: to compress it would take longer than to copy it.
	layer := static.NewLayer(buf.Bytes(), types.OCIUncompressedLayer)
	img, err := mutate.AppendLayers(img, layer)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	configure(config)
	return mutate.ConfigFile(img, config)
}
