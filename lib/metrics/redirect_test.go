package metrics

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A redirect is followed within the Prometheus that is configured, with the query, and nowhere
// else: another host would get the credentials.
func TestRedirects(t *testing.T) {
	t.Parallel()
	const secret = "http_headers: {X-Tenant: {secrets: [s3cret]}}\nauthorization: {credentials: s3cret}\n"
	var stolen atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stolen.Add(1)
		(&prometheus{}).ServeHTTP(w, r)
	}))
	t.Cleanup(elsewhere.Close)
	for _, c := range []struct {
		desc, http string
		status     int
		to         func(own string) string
		want       string // "": it is followed
	}{
		{"the same host, method kept", secret, http.StatusPermanentRedirect,
			func(own string) string { return own + "/prometheus/api/v1/query" }, ""},
		{"a path alone", secret, http.StatusTemporaryRedirect,
			func(string) string { return "/prometheus/api/v1/query" }, ""},
		{"another host", secret, http.StatusPermanentRedirect,
			func(string) string { return elsewhere.URL + "/api/v1/query" }, elsewhere.URL + ", another address"},
		{"another host, as a GET", secret, http.StatusFound,
			func(string) string { return elsewhere.URL + "/login?next=s3cret" },
			elsewhere.URL + "/login, another address"},
		{"another scheme", "", http.StatusPermanentRedirect,
			func(own string) string { return strings.Replace(own, "http:", "https:", 1) + "/api/v1/query" },
			"it redirects to https://127.0.0.1"},
		{"without the query", secret, http.StatusMovedPermanently,
			func(own string) string { return own + "/prometheus/api/v1/query" },
			"/prometheus in a way that loses the query; set prometheus to that address"},
		{"turned off", secret + "follow_redirects: false\n", http.StatusPermanentRedirect,
			func(own string) string { return own + "/prometheus/api/v1/query" },
			"/prometheus, and http.yaml has follow_redirects: false"},
		{"in a circle", "", http.StatusPermanentRedirect, func(own string) string { return own + "/api/v1/query" },
			"it redirects more than 5 times, at last to http://127.0.0.1"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			var address string
			asked := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked++
				if r.URL.Path == "/prometheus/api/v1/query" {
					(&prometheus{}).ServeHTTP(w, r)
					return
				}
				http.Redirect(w, r, c.to(address), c.status)
			}))
			t.Cleanup(server.Close)
			address = server.URL
			client, err := New(address, folder(t, map[string]string{"http.yaml": c.http}))
			if err != nil {
				t.Fatal(err)
			}
			err = client.Ready(t.Context())
			if c.want == "" && err != nil || c.want != "" &&
				(!errors.Is(err, ErrQuery) || !strings.Contains(err.Error(), c.want)) || err != nil &&
				strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%v, want %s", err, c.want)
			}
			if asked > 2+maxRedirects {
				t.Errorf("asked %d times", asked)
			}
		})
	}
	t.Cleanup(func() { // after all of them
		if n := stolen.Load(); n > 0 {
			t.Errorf("%d requests went to another host", n)
		}
	})
}

// endless never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// Whatever answers, however much: no more than a limit is read.
func TestAnswersAreBounded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		desc   string
		status int
		begin  string
		ask    func(*testing.T, *Client) error
		limit  int64
		want   string
	}{
		{"raw samples", http.StatusOK, matrix, func(t *testing.T, c *Client) error {
			t.Helper()
			a := answer{decoder: &decoder{}}
			_, err := c.query(into(t.Context(), &a), "up[1m]", time.Time{})
			return err
		}, maxSamplesBody, "answered with more than 32 MiB"},
		{"a number for each series", http.StatusOK, `{"status":"success","data":`,
			func(t *testing.T, c *Client) error { t.Helper(); return c.Ready(t.Context()) }, maxVectorBody,
			"answered with more than 2 MiB"},
		{"a query of one's own", http.StatusOK, `{"status":"success","data":`,
			func(t *testing.T, c *Client) error { t.Helper(); _, err := c.Value(t.Context(), "up"); return err },
			maxVectorBody, "several series"},
		{"an error", http.StatusBadRequest, "<html>",
			func(t *testing.T, c *Client) error { t.Helper(); return c.Ready(t.Context()) }, maxErrorBody, "<html>"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			var sent atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.begin)
				n, _ := io.Copy(w, io.LimitReader(endless{}, 64<<20))
				sent.Add(n)
			}))
			t.Cleanup(server.Close)
			client, err := New(server.URL, "")
			if err != nil {
				t.Fatal(err)
			}
			if err := c.ask(t, client); err == nil || !strings.Contains(err.Error(), c.want) ||
				len(err.Error()) > 1000 {
				t.Errorf("%.1000v", err)
			}
			server.Close()                               // which waits for the handler
			if n := sent.Load(); n > 2*c.limit+(8<<20) { // what buffers of the connection take, beside
				t.Errorf("%d bytes were sent", n)
			}
		})
	}
}
