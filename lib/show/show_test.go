package show

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// What may be secret in an address is not shown, however the address is wrong.
func TestAddress(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"http://prometheus.istio-system:9090":                "http://prometheus.istio-system:9090",
		"https://mimir:8080/prometheus/?token=s3cret#s3cret": "https://mimir:8080/prometheus/",
		"http://me:s3cret@prometheus:9090/api":               "http://prometheus:9090/api",
		"http://s3cret@prometheus":                           "http://prometheus",
		"https://h/a%2Fb?s3cret":                             "https://h/a%2Fb",
		"prometheus:9090":                                    "prometheus:9090",
		"me:s3cret@prometheus:9090":                          "...@prometheus:9090",
		"http://me:s3cret@prometheus:90 90":                  "...@prometheus:90 90",
		"http://me:s3cr?et@prometheus":                       "...",
		"http://me:s3cr#et@prometheus":                       "...",
		"http://me:80/s3cret@prometheus":                     "...@prometheus",
		"prometheus:9090/?token=s3cret":                      "prometheus:9090/",
		"prometheus:9090/?token=a@s3cret":                    "...",
		"git@github.com:acme/env.git":                        "...@github.com:acme/env.git",
		"http://prometheus:9090\n12:00:00 shop was promoted": `http://prometheus:9090\n12:00:00 shop was promoted`,
		"http://prometheus/\u202e":                           "http://prometheus/%E2%80%AE",
		"":                                                   "",
		"?s3cret":                                            "",
		"http://":                                            "http://",
		"http://prometheus:9090/" + strings.Repeat("a", 20000): "http://prometheus:9090/" +
			strings.Repeat("a", maxLine-len("http://prometheus:9090/")) + "... (20023 bytes)",
	} {
		if got := Address(address); got != want {
			t.Errorf("%q is shown as %q, want %q", address, got, want)
		}
	}
}

func TestLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain, größer, 世界 ✓":        "plain, größer, 世界 ✓",
		"a\nb\r\tc\x1b[2J\x7f":       `a\nb\r\tc\x1b[2J\x7f`,
		"a\u2028b\u0085c\u202ed\x00": `a\u2028b\u0085c\u202ed\x00`,
		"\xff\xfea\ufffd":            `\xff\xfea` + "\ufffd",
	} {
		if got := Line(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
	if got := Short(strings.Repeat("ä", 1000)); got != strings.Repeat("ä", 100)+"... (2000 bytes)" {
		t.Error(got)
	}
	if got := Short(strings.Repeat("a", maxShort)); got != strings.Repeat("a", maxShort) {
		t.Error(got)
	}
}

func FuzzLine(f *testing.F) {
	for _, text := range []string{"a\nb", "http://me:secret@h/?q#f", "\xff", strings.Repeat("\n", 300)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, got := range []string{Line(text), Short(text), Address(text)} {
			if strings.ContainsAny(got, "\n\r\x1b\u2028\u2029\u0085") || !utf8.ValidString(got) ||
				len(got) > 4*maxLine+100 {
				t.Errorf("%q is %q", text, got)
			}
			if Line(got) != got && len(got) <= maxLine {
				t.Errorf("%q is not shown as it is", got)
			}
		}
	})
}

// Whatever a secret is: it is not in what is shown of an address that has it before its host or
// behind its path.
func FuzzAddress(f *testing.F) {
	for _, secret := range []string{"s3cret", "a/b", "a?b", "a@b", "a#b", "a:b", "%41", " "} {
		f.Add(secret)
	}
	const mark = "\u00a4\u00a4" // which no other part has
	f.Fuzz(func(t *testing.T, secret string) {
		for _, address := range []string{
			"http://me:" + mark + secret + "@prometheus:9090", "http://prometheus:9090/?" + mark + secret,
			"https://h/p#" + mark + secret} {
			if got := Address(address); strings.Contains(got, mark) || strings.Contains(got, "%C2%A4%C2%A4") {
				t.Errorf("%q is shown as %q", address, got)
			}
		}
	})
}
