package release

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/report"
)

// asksWith is a Prometheus that notes the credentials of each request.
type asksWith struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string
}

func newAsksWith(t *testing.T) *asksWith {
	t.Helper()
	p := &asksWith{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.seen = append(p.seen, r.Header.Get("Authorization"))
		p.mu.Unlock()
		result, kind := "[]", "matrix"
		if r.FormValue("query") == "vector(1)" {
			result, kind = `[{"metric":{},"value":[1,"1"]}]`, "vector"
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":%q,"result":%s}}`, kind, result)
	}))
	t.Cleanup(p.Close)
	return p
}

// was reports whether it was asked, and with the token.
func (p *asksWith) was() (asked, withToken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.seen) > 0, strings.Contains(strings.Join(p.seen, " "), "Bearer t0ken")
}

// awaitAsked waits until it was asked.
func (p *asksWith) awaitAsked(ctx context.Context) {
	for asked, _ := p.was(); !asked && ctx.Err() == nil; asked, _ = p.was() {
		sleep(ctx, leastPause/10)
	}
}

// credentials are a mounted Secret with a token.
func credentials(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for name, text := range map[string]string{
		"http.yaml": "authorization: {credentials_file: token}", "token": "t0ken"} {
		must(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))
	}
	return folder
}

// Whoever names another Prometheus, the application team in its specification or somebody in the
// release record: it does not get the platform's token. Without one it may be asked.
func TestCredentialsStayWithTheirAddress(t *testing.T) {
	t.Parallel()
	const theirs, platforms = "theirs", "platforms"
	const foreign = "the credentials of prometheusSecret are for another address: they are for "
	for _, c := range []struct {
		desc       string
		step       string
		credential bool
		given      string // to the step by the platform: theirs, platforms or nothing
		allowed    string
		chosen     string // by the specification, or in the record
		code       report.Code
		says       string
		asked      string // who was
	}{
		{"a specification", "canary-init", true, "", "", theirs, report.Misconfig,
			foreign + config.DefaultPrometheus + ", not for THEIRS, and nothing was sent", ""},
		{"a specification, and what to do", "canary-init", true, "", "", theirs, report.Misconfig,
			"gives prometheus=THEIRS, or has prometheus=THEIRS in allow", ""},
		{"a specification that is allowed", "canary-init", true, "", theirs, theirs, report.Done, "", theirs},
		{"a specification, without credentials", "canary-init", false, "", "", theirs, report.Done, "", theirs},
		{"the platform's", "canary-init", true, platforms, "", platforms, report.Done, "", platforms},

		{"a record", "analyze", true, platforms, "", theirs, report.Undecided,
			"ConfigMap shop-canary-release: " + foreign + "PLATFORMS, not for THEIRS, and nothing was sent", ""},
		{"a record, and no parameter", "analyze", true, "", "", theirs, report.Undecided,
			"they are for " + config.DefaultPrometheus + ", not for THEIRS", ""},
		{"a record that is allowed", "analyze", true, "", theirs, theirs, report.Undecided,
			"ended before it was judged", theirs},
		{"a record, without credentials", "analyze", false, "", "", theirs, report.Undecided,
			"ended before it was judged", theirs},
		{"a record, without credentials, and a parameter", "analyze", false, platforms, "", theirs, report.Undecided,
			"ended before it was judged", platforms},
		{"the record is as it was", "analyze", true, platforms, "", platforms, report.Undecided,
			"ended before it was judged", platforms},

		{"a record, at the promotion", "promote", true, platforms, "", theirs, report.Undecided,
			"they are for PLATFORMS, not for THEIRS", ""},
		{"the record is as it was, at the promotion", "promote", true, platforms, "", platforms, report.Done, "",
			platforms},
		{"a record, at the promotion, without credentials", "promote", false, "", "", theirs, report.Done, "", theirs},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			servers := map[string]*asksWith{theirs: newAsksWith(t), platforms: newAsksWith(t)}
			address := func(name string) string {
				if name == "" {
					return ""
				}
				return servers[name].URL
			}
			a := afterInit(t)
			a.apply(shop("2"))
			r := a.step(c.step, "run-2")
			r.Step.Prometheus = address(c.given)
			if c.allowed != "" {
				r.Step.Allow.Prometheus = []string{address(c.allowed)}
			}
			if c.credential {
				r.PrometheusConfig = credentials(t)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.step != "canary-init" {
				must(t, a.init("run-2"), a.shift("run-2", 20))
			}
			if c.step == "promote" {
				must(t, a.judge("run-2"), a.shift("run-2", 40), a.judge("run-2"))
			}
			change := func(record *Record) { record.Config.Prometheus, record.Config.Alpha = address(c.chosen), .05 }
			var err error
			switch c.step {
			case "canary-init":
				r.Config = testConfig("run-2")
				r.Config.Prometheus = address(c.chosen)
				err = r.Init(ctx, nil)
			case "analyze":
				must(t, a.step("anyone", "run-2").update(ctx, change))
				if c.asked != "" { // until then, and no longer
					go func() { servers[c.asked].awaitAsked(ctx); cancel() }()
				}
				err = r.Analyze(ctx)
			case "promote":
				must(t, a.step("anyone", "run-2").update(ctx, change))
				a.onWrite = func(did string) {
					// it takes as long as the guard needs to look
					if did == "patch deployments/shop-primary" && c.asked != "" {
						servers[c.asked].awaitAsked(ctx)
					}
				}
				err = r.Promote(ctx)
			}
			says := strings.NewReplacer("THEIRS", servers[theirs].URL, "PLATFORMS", servers[platforms].URL).Replace(
				c.says)
			if codeOf(err) != c.code || err != nil && !strings.Contains(err.Error(), says) {
				t.Errorf("code %d, want %d: %v\ndoes not say %s", codeOf(err), c.code, err, says)
			}
			for name, server := range servers {
				asked, withToken := server.was()
				if asked != (name == c.asked) || withToken != (asked && c.credential) {
					t.Errorf("%s was asked: %v, with the token: %v", name, asked, withToken)
				}
			}
			if got := a.state().Weights; got != "100/0" {
				t.Errorf("weights %s", got)
			}
		})
	}
}
