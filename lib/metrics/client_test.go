package metrics

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// clientCertificate is one that signs itself, with its key, both as PEM.
func clientCertificate(t *testing.T) (certificate *x509.Certificate, certificatePEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "canary-tasks"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if certificate, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
}

// A server that asks for a client's certificate gets the one in the Secret, and answers nobody who
// has none.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	certificate, certificatePEM, keyPEM := clientCertificate(t)
	server := httptest.NewUnstartedServer(&prometheus{})
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
	server.TLS.ClientCAs.AddCert(certificate)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that fail
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	for text, want := range map[string]bool{
		"tls_config: {ca_file: ca.pem, cert_file: tls.crt, key_file: tls.key}": true,
		"tls_config: {ca_file: ca.pem}":                                        false,
	} {
		client, err := New(
			server.URL, folder(
				t, map[string]string{"http.yaml": text, "ca.pem": ca, "tls.crt": certificatePEM, "tls.key": keyPEM}))
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Ready(t.Context()); (err == nil) != want || err != nil && !errors.Is(err, ErrQuery) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// What the address of a Thanos or a Mimir has behind its path goes with every query.
func TestQueryStringIsKept(t *testing.T) {
	t.Parallel()
	p := &prometheus{series: []series{requests("shop-canary", "200", "a", at(17, 0, 7, 10))}}
	var without atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("partial_response") != "false" || r.URL.Path != "/prometheus/api/v1/query" {
			without.Add(1)
		}
		p.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	client, err := New(server.URL+"/prometheus/?partial_response=false", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if w, err := client.Observe(target, time.Now().Add(-20*time.Second)).Look(t.Context()); err != nil ||
		w.Candidate.Requests != 10 {
		t.Errorf("%v requests: %v", w.Candidate.Requests, err)
	}
	if n := without.Load(); n > 0 || len(p.queries) != 2 {
		t.Errorf("%d of %d queries are without", n, len(p.queries))
	}
}

// Who is asked again and again and says no is quoted.
func TestLastWords(t *testing.T) {
	t.Parallel()
	p := &prometheus{fail: func(w http.ResponseWriter) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprint(
			w, `{"status":"error","errorType":"timeout","error":"query timed out in expression evaluation"}`)
		return true
	}}
	err := start(t, p).Ready(t.Context())
	if !errors.Is(err, ErrQuery) || !strings.Contains(err.Error(), "query timed out in expression evaluation") ||
		strings.Contains(err.Error(), "giving up") {
		t.Errorf("%v", err)
	}
	if len(p.queries) != 1+retries {
		t.Errorf("asked %d times", len(p.queries))
	}
}

// What is no answer of Prometheus may be anybody's: not more than its beginning is told, in quotes
// and on one line.
func TestForeignAnswers(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("s3cret ", 100)
	for _, c := range []struct {
		desc       string
		code       int
		body, says string
	}{
		{"a page", http.StatusForbidden, "<h1>\n no entry\n</h1>",
			`client_error client error: 403: "<h1> no entry </h1>"`},
		{"a line of a log", http.StatusNotFound, "not here\n17:00:00 shop.web: promoted",
			`404: "not here 17:00:00 shop.web: promoted"`},
		{"what moves the cursor", http.StatusUnauthorized, "\x1b[2J\x1b[1;1Hwho are you?",
			`401: "\x1b[2J\x1b[1;1Hwho are you?"`},
		{"a long page", http.StatusNotFound, long, `404: "` + long[:mostQuoted] + `"`},
		{"JSON of something else", http.StatusNotFound, `{"token": "` + long + `"}`, `404: "{\"token\": \"`},
		{"a value of something else", http.StatusOK,
			`{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"` + long +
				`"},"value":[1,"1"]},{"metric":{},"value":[1,"1"]}]}}`, `vector(1) is "{a=\"s3cret`},
		{"no JSON", http.StatusOK, long, "bad_response"},
		{"Prometheus, which says much", http.StatusServiceUnavailable,
			`{"status":"error","errorType":"timeout","error":"` + long + `"}`,
			"server_error server error: 503: s3cret s3cret"},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			err := start(t, &prometheus{fail: func(w http.ResponseWriter) bool {
				w.WriteHeader(c.code)
				_, _ = fmt.Fprint(w, c.body)
				return true
			}}).Ready(t.Context())
			if !errors.Is(err, ErrQuery) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v does not say %s", err, c.says)
			}
			if strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > mostSaid+200 {
				t.Errorf("%q", err.Error())
			}
		})
	}
}

// A server may ask for patience, up to a limit, and not all clients come back at the same moment.
func TestBackoff(t *testing.T) {
	t.Parallel()
	hour := &http.Response{StatusCode: http.StatusServiceUnavailable, Header: http.Header{"Retry-After": {"3600"}}}
	for desc, c := range map[string]struct {
		resp        *http.Response
		attempt     int
		least, most time.Duration
	}{
		"the first": {nil, 0, leastWait / 2, leastWait}, "the third": {nil, 2, 2 * leastWait, 4 * leastWait},
		"the tenth": {nil, 9, mostWait / 2, mostWait}, "an hour was asked for": {hour, 0, mostWait / 2, mostWait},
	} {
		waits := map[time.Duration]bool{}
		for range 20 {
			wait := backoff(time.Nanosecond, 24*time.Hour, c.attempt, c.resp)
			if wait < c.least || wait > c.most {
				t.Errorf("%s: %s, want %s to %s", desc, wait, c.least, c.most)
			}
			waits[wait] = true
		}
		if len(waits) < 2 {
			t.Errorf("%s: always the same, %v", desc, waits)
		}
	}
}
