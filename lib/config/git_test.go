package config

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

func TestHostOf(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"https://github.com/acme/env.git":         "github.com",
		"https://git.example.com:8443/acme/env":   "git.example.com",
		"http://gitea.git.svc:3000/acme/env.git":  "gitea.git.svc",
		"https://[2001:db8::1]/env.git":           "2001:db8::1",
		"ssh://git@git.example.com:7999/acme/env": "git.example.com",
		"ssh://git.example.com/acme/env":          "git.example.com",
		"git@github.com:acme/env.git":             "github.com",
	} {
		if got, err := HostOf(address); err != nil || got != want {
			t.Errorf("%s: %s, %v", address, got, err)
		}
	}
	for address, says := range map[string]string{
		"": "git clone", "env": "git clone", "file:///srv/env.git": "git clone",
		"git://git.example.com/env": "git clone", "/srv/env.git": "git clone", "https://git.example.com": "git clone",
		"https:///env": "git clone", "git@github.com:": "git clone", "git@-x:env": "git clone",
		"-x@host:env": "git clone", "https://git.example.com/a b": "git clone",
		"https://git.example.com/a\nb":               "git clone",
		"https://jx:s3cret@git.example.com/env":      "leave the password out",
		"https://s3cret@git.example.com/env":         "leave the password out",
		"ssh://git:s3cret@git.example.com/env":       "leave the password out",
		"jx:s3cret@git.example.com:env":              "leave the password out",
		"https://jx:s3%cret@git.example.com/env":     "leave the password out",
		"https://git.example.com/env?token=s3cret":   "leave out what begins with ?",
		"https://git.example.com/env#s3cret":         "leave out what begins with ?",
		"ssh://git@git.example.com/env?token=s3cret": "leave out what begins with ?",
	} {
		if host, err := HostOf(address); err == nil || host != "" || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %s, %v", address, host, err)
		}
		_, err := LoadInit(t.Context(), environment(CanaryInit, "CANARY_GIT_REPOSITORY", address))
		var problems Problems
		if address != "" && (!errors.As(err, &problems) || !problems.Names("gitRepository")) || err != nil &&
			strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestIsVersion(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"1.2.3": true, "v1.2.3": true, "1.2.3-rc.1+build.5": true, "0.0.0-SNAPSHOT-PR-1-2": true, "latest": true,
		"20261126_1": true, "a1b2c3d": true, "_x": true,
		"": false, "1.2.3+": false, "1.2.3+a+b": false, "1.2.3+a_b": false, "v7+1": false, ".1": false, "-1": false,
		"1 2": false, "1\n": false, "1:2": false, "1/2": false, "é": false,
		strings.Repeat("1", 128): true, strings.Repeat("1", 129): false,
	} {
		if IsVersion(text) != want {
			t.Errorf("%q: %t", text, !want)
		}
	}
}

// No application's name can be more than a name to a shell, to YAML or to a path within it.
func TestIsApplication(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"shop": true, "shop-eu.v2": true, "Shop_1": true, "s": true,
		"": false, "-x": false, "x-": false, "a b": false, "a\n": false, "a]": false, "a=b": false, "../a": false,
		"$(id)": false, strings.Repeat("a", 64): false,
	} {
		if IsApplication(text) != want {
			t.Errorf("%q: %t", text, !want)
		}
	}
	_, err := LoadInit(t.Context(), environment(CanaryInit, "CANARY_GIT_APP", "shop; id"))
	if err == nil || !strings.Contains(err.Error(), "parameter gitApp") {
		t.Errorf("%v", err)
	}
}

// An address that is taken has no credentials in it, and one that is refused is not printed with
// them.
func FuzzHostOf(f *testing.F) {
	for _, seed := range []string{
		"https://git.example.com/env.git", "git@github.com:acme/env.git", "ssh://git@[::1]:22/env",
		"https://jx:s3cret@git.example.com/env", "jx:s3cret@h:env", "https://h/e?t=s", "a@b@c:d", "%"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		host, err := HostOf(address)
		if (host == "") != (err != nil) || strings.ContainsAny(host, " @/\n?#%") || strings.HasPrefix(host, "-") {
			t.Errorf("%q: host %q, %v", address, host, err)
		}
		u, wrong := url.Parse(address)
		if err == nil && wrong == nil && u.User != nil {
			if _, has := u.User.Password(); has || u.Scheme != "ssh" {
				t.Errorf("%q has credentials", address)
			}
		}
		if wrong == nil && u.User != nil {
			if password, _ := u.User.Password(); len(password) > 8 && !strings.Contains(u.Host+u.Path, password) &&
				strings.Contains(shownAddress(address), password) {
				t.Errorf("%q is printed as %q", address, shownAddress(address))
			}
		}
	})
}

// A version cannot be more than one word, of YAML as of a shell.
func FuzzIsVersion(f *testing.F) {
	for _, seed := range []string{"1.2.3", "v1.2.3-rc.1+5", "latest", "1.2.3\nx", "{{ x }}", "&x", "é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !IsVersion(text) {
			return
		}
		if len(text) > 128 || strings.ContainsFunc(text, func(c rune) bool {
			return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-", c)
		}) || strings.HasPrefix(text, "-") || strings.HasPrefix(text, ".") {
			t.Errorf("%q is a version", text)
		}
	})
}
