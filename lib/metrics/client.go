// Package metrics reads from Prometheus how many requests stable and the candidate answered, and
// how.
//
// It takes raw samples of Istio's counters and adds up their increases itself: rate() and
// increase() extrapolate, and do not see the first value of a series, which for a new version is
// its first burst of errors. A look is at the scrapes since a moment, which is when the candidate
// got its weight; times are Prometheus' own.
//
// client.go asks, query.go is for custom queries, decode.go reads large answers, observer.go
// chooses which series, missing.go says what is missing and why, state.go adds up. What comes out
// are the data types of package counts.
package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"

	"github.com/canary-tasks/canary-tasks/lib/show"
)

// ErrQuery means that Prometheus did not answer, or not with what was asked for. It says nothing
// about the release.
var ErrQuery = errors.New("query failed")

// ErrWarning is an ErrQuery: Prometheus answered and warned, so that the answer may be incomplete.
// It is not evaluated.
var ErrWarning = fmt.Errorf("%w: warning", ErrQuery)

// ErrTooLarge is an ErrQuery: the answer was longer than the limit.
var ErrTooLarge = fmt.Errorf("%w: too large", ErrQuery)

// Client asks one Prometheus.
type Client struct {
	api     v1.API
	address string // as it may be shown
}

// The limits of one query: an attempt's time, and the waits between attempts.
const (
	attemptTime = 10 * time.Second
	retries     = 3
	leastWait   = 200 * time.Millisecond
	mostWait    = 3 * time.Second

	maxRedirects = 5
)

// The most bytes that are read of an answer: of one with raw samples, of one with a number for each
// series, and of one that is an error. The first is decoded in place, the second takes some ten
// times as much in memory.
const (
	maxSamplesBody = 32 << 20
	maxVectorBody  = 2 << 20
	maxErrorBody   = 16 << 10
)

// httpConfig is the file that a directory for New has.
const httpConfig = "http.yaml"

// New returns a client of the Prometheus at an address: an absolute http or https URL, whose query
// string is sent with every query. In the directory secrets, "" for none, the file http.yaml, if it
// exists, says how to authenticate: basic_auth, authorization, tls_config, http_headers and so on,
// as in Prometheus' own configuration. Files that it names are relative to it, and are read again
// when they change.
func New(address, secrets string) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is not an address with http:// or https://", show.Address(address))
	}
	if u.User != nil {
		return nil, fmt.Errorf(
			"the address of Prometheus (host %s) has a password in it, which would be seen in logs: leave it out",
			u.Host)
	}
	rc := retryablehttp.NewClient()
	rc.Logger = nil
	rc.RetryMax = retries
	rc.Backoff = backoff
	rc.ErrorHandler = retryablehttp.PassthroughErrorHandler // the server's own message, not "giving up"
	cfg := &config.HTTPClientConfig{
		FollowRedirects: true, EnableHTTP2: true, ProxyConfig: config.ProxyConfig{ProxyFromEnvironment: true}}
	if secrets != "" {
		in, _, err := config.LoadHTTPConfigFile(filepath.Join(secrets, httpConfig))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading %s, which says how to get in to Prometheus: %w", httpConfig, err)
		}
		if err == nil && !reflect.ValueOf(*in).IsZero() { // an empty file leaves the defaults
			cfg = in
		}
	}
	// Prometheus' own transport does not ask for compressed answers, which would cost more here
	// than they save.
	if rc.HTTPClient.Transport, err = config.NewRoundTripperFromConfig(*cfg, "prometheus"); err != nil {
		return nil, fmt.Errorf("%s, which says how to get in to Prometheus: %w", httpConfig, err)
	}
	rc.HTTPClient.Timeout = attemptTime
	// The client below decides about redirects.
	rc.HTTPClient.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client, err := api.NewClient(api.Config{Address: address, Client: &http.Client{
		Transport: reading{&retryablehttp.RoundTripper{Client: rc}}, CheckRedirect: redirects(u, cfg.FollowRedirects)}})
	if err != nil {
		return nil, fmt.Errorf("making a client of Prometheus at %s: %w", show.Address(address), err)
	}
	return &Client{api: v1.NewAPI(client), address: show.Address(address)}, nil
}

// redirects returns a policy that follows redirects within the Prometheus that is configured only.
// Another host would get the credentials and headers that are for this one, and where a POST
// becomes a GET the query is lost.
func redirects(from *url.URL, follow bool) func(next *http.Request, via []*http.Request) error {
	return func(next *http.Request, via []*http.Request) error {
		at := *next.URL
		at.Path, at.RawPath = strings.TrimSuffix(at.Path, "/api/v1/query"), ""
		to := show.Address(at.String())
		switch {
		case !follow:
			return fmt.Errorf(
				"it redirects to %s, and %s has follow_redirects: false; if that is your "+
					"Prometheus, set prometheus to it", to, httpConfig)
		case origin(next.URL) != origin(from):
			return fmt.Errorf(
				"it redirects to %s, another address, which gets neither credentials nor queries; if that is your "+
					"Prometheus, set prometheus to it", to)
		case next.Method != via[0].Method:
			return fmt.Errorf("it redirects to %s in a way that loses the query; set prometheus to that address", to)
		case len(via) > maxRedirects:
			return fmt.Errorf("it redirects more than %d times, at last to %s", maxRedirects, to)
		}
		return nil
	}
}

// origin returns the scheme, host and port of an address.
func origin(u *url.URL) [3]string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return [3]string{u.Scheme, strings.ToLower(u.Hostname()), port}
}

// backoff returns the wait that the server asks for, but at most mostWait, with jitter.
func backoff(_, _ time.Duration, attempt int, resp *http.Response) time.Duration {
	wait := min(retryablehttp.DefaultBackoff(leastWait, mostWait, attempt, resp), mostWait)
	return wait/2 + rand.N(wait/2+1)
}

// Ready checks that a Prometheus answers.
func (c *Client) Ready(ctx context.Context) error {
	v, err := c.query(ctx, "vector(1)", time.Time{})
	if err != nil {
		return err
	}
	if vector, ok := v.(model.Vector); !ok || len(vector) != 1 || vector[0].Value != 1 {
		return fmt.Errorf(
			"%w: what answers at %s is no Prometheus: vector(1) is %q", ErrQuery, c.address,
			first(fmt.Sprint(v), mostQuoted))
	}
	return nil
}

// query asks for the value of an expression.
func (c *Client) query(ctx context.Context, expression string, at time.Time, options ...v1.Option) (
	model.Value, error) {
	v, warnings, err := c.api.Query(ctx, expression, at, options...)
	var apiErr *v1.Error
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		err = urlErr.Err // without the URL, whose query string may be secret
	}
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, fmt.Errorf(
			"%w: Prometheus at %s answered with more than %d MiB", ErrTooLarge, c.address, tooLarge.Limit>>20)
	case errors.As(err, &apiErr):
		return nil, fmt.Errorf("%w: Prometheus at %s: %s", ErrQuery, c.address, said(apiErr))
	case err != nil:
		return nil, fmt.Errorf("%w: Prometheus at %s: %w", ErrQuery, c.address, err)
	case len(warnings) > 0:
		return nil, fmt.Errorf(
			"%w: Prometheus at %s warns: %s", ErrWarning, c.address, show.Short(strings.Join(warnings, "; ")))
	}
	return v, nil
}

// The most bytes that are reported of what a server says: Prometheus, and anything else.
const (
	mostSaid   = 300
	mostQuoted = 80
)

// said returns what a server answered instead of a value. What is not JSON from Prometheus may come
// from anything: only its beginning is reported, in quotes.
func said(e *v1.Error) string {
	text := fmt.Sprintf("%s %s", first(string(e.Type), mostQuoted), first(e.Msg, mostSaid))
	var own struct{ Status, Error string }
	switch {
	case e.Detail == "":
		return text
	case json.Unmarshal([]byte(e.Detail), &own) == nil && own.Status == "error":
		return text + ": " + first(own.Error, mostSaid)
	}
	return fmt.Sprintf("%s: %q", text, first(e.Detail, mostQuoted))
}

// first returns the beginning of a text, on one line.
func first(text string, most int) string {
	text = strings.Join(strings.Fields(text[:min(len(text), 10*most)]), " ")
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}
