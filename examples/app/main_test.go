package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestFaults(t *testing.T) {
	t.Parallel()
	const nothing = 0 // no answer while the client waits
	for _, c := range []struct {
		faults        string
		answer, ready int
	}{
		{"", 200, 200},
		{"fail=0&hang=0", 200, 200},
		{"fail=1", 500, 200},
		{"hang=1", nothing, 200},
		{"slow=1h", nothing, 200},
		{"slow=1ms", 200, 200},
		{"ready=false", 200, 503},
	} {
		t.Run(c.faults, func(t *testing.T) {
			t.Parallel()
			a := &app{version: "1.0.0"}
			a.faults.Store(&faults{fail: 1, unready: true}) // what was before is replaced
			told := httptest.NewRecorder()
			a.admin().ServeHTTP(told, httptest.NewRequest(http.MethodPut, "/faults?"+c.faults, nil))
			if told.Code != http.StatusOK {
				t.Fatalf("%d %s", told.Code, told.Body)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			answer, ready := httptest.NewRecorder(), httptest.NewRecorder()
			a.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx))
			if c.answer == nothing {
				if answer.Body.Len() != 0 {
					t.Errorf("answered %d %q", answer.Code, answer.Body)
				}
			} else if answer.Code != c.answer || answer.Body.String() != "1.0.0" {
				t.Errorf("answered %d %q, want %d and the version", answer.Code, answer.Body, c.answer)
			}
			if a.admin().ServeHTTP(ready, httptest.NewRequest(http.MethodGet, "/ready", nil)); ready.Code != c.ready {
				t.Errorf("ready: %d, want %d", ready.Code, c.ready)
			}
		})
	}
}

func TestWrongFaults(t *testing.T) {
	t.Parallel()
	for _, words := range []string{"fail=2", "fail=NaN", "hang=-1", "slow=5", "fall=1"} {
		t.Run(words, func(t *testing.T) {
			t.Parallel()
			a := &app{}
			told := httptest.NewRecorder()
			a.admin().ServeHTTP(told, httptest.NewRequest(http.MethodPut, "/faults?"+words, nil))
			if told.Code != http.StatusBadRequest || a.faults.Load() != nil {
				t.Errorf("%d %s", told.Code, told.Body)
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	message := "\x00\x00\x00\x00\x051.0.0" // gRPC's: not compressed, four bytes of length, the version
	for _, c := range []struct {
		desc, path, contentType, faults string
		status                          int
		body, answerType, grpc          string
	}{
		{desc: "HTTP", path: "/", status: 200, body: "1.0.0", answerType: "text/plain"},
		{desc: "HTTP that fails", path: "/", faults: "fail=1", status: 500, body: "1.0.0", answerType: "text/plain"},
		{
			desc: "gRPC", path: "/canary.Version/Get", contentType: "application/grpc",
			status: 200, body: message, answerType: "application/grpc", grpc: "0",
		},
		{
			desc: "gRPC that fails by share", path: "/canary.Version/Get", contentType: "application/grpc",
			faults: "fail=1",
			status: 200, body: message, answerType: "application/grpc", grpc: "13",
		},
		{
			desc: "gRPC that fails", path: "/canary.Version/Get", contentType: "application/grpc", faults: "grpc=14",
			status: 200, body: message, answerType: "application/grpc", grpc: "14",
		},
		{desc: "a stream", path: "/stream?for=10ms", status: 200, body: "1.0.0\n", answerType: "text/plain"},
		{
			desc: "a stream that fails", path: "/stream?for=10ms", faults: "fail=1",
			status: 500, body: "1.0.0", answerType: "text/plain",
		},
		{
			desc: "a stream without a time", path: "/stream", status: 400, body: "for=\"\" is not a time up to 5m0s\n",
			answerType: "text/plain; charset=utf-8",
		},
		{
			desc: "a stream that is too long", path: "/stream?for=5m1s", status: 400,
			body: "for=\"5m1s\" is not a time up to 5m0s\n", answerType: "text/plain; charset=utf-8",
		},
	} {
		t.Run(c.desc, func(t *testing.T) {
			t.Parallel()
			address, client, _ := serve(t, c.faults)
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address+c.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.contentType != "" {
				request.Header.Set("Content-Type", c.contentType)
			}
			answer, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			if err != nil || answer.StatusCode != c.status || string(body) != c.body {
				t.Errorf("%d %q, %v; want %d %q", answer.StatusCode, body, err, c.status, c.body)
			}
			version, pod := answer.Header.Get("X-Version"), answer.Header.Get("X-Pod")
			if version != "1.0.0" || pod != "shop-1" {
				t.Errorf("X-Version %q, X-Pod %q", version, pod)
			}
			answerType, grpc := answer.Header.Get("Content-Type"), answer.Trailer.Get("Grpc-Status")
			if answerType != c.answerType || grpc != c.grpc {
				t.Errorf("Content-Type %q, gRPC status %q; want %q and %q", answerType, grpc, c.answerType, c.grpc)
			}
		})
	}
}

func TestStreamWritesOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := &app{version: "1.0.0"}
		a.faults.Store(&faults{})
		answer, begin := httptest.NewRecorder(), time.Now()
		a.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/stream?for=12s", nil))
		if took := time.Since(begin); took != 12*time.Second {
			t.Errorf("it took %s", took)
		}
		if want := strings.Repeat("1.0.0\n", 12); answer.Body.String() != want || !answer.Flushed {
			t.Errorf("flushed %t: %q, want %q", answer.Flushed, answer.Body, want)
		}
	})
}

// A stream that is under way when the app is told to end comes to its regular end.
func TestShutdownWaitsForStreams(t *testing.T) {
	t.Parallel()
	address, client, server := serve(t, "")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address+"/stream?for=300ms", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.ProtoMajor != 2 {
		t.Fatalf("it speaks %s", answer.Proto)
	}
	ended := make(chan error, 1)
	go func() {
		all, err := io.ReadAll(answer.Body)
		if err == nil && !bytes.Equal(all, []byte("1.0.0\n")) {
			t.Errorf("the stream was %q", all)
		}
		ended <- err
	}()
	if err := server.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the stream broke: %v", err)
	}
}

// serve starts the app with faults, and returns where it listens and a client that speaks HTTP/2 to
// it.
func serve(t *testing.T, words string) (address string, client *http.Client, server *http.Server) {
	t.Helper()
	query, err := url.ParseQuery(words)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseFaults(query)
	if err != nil {
		t.Fatal(err)
	}
	a := &app{version: "1.0.0", pod: "shop-1"}
	a.faults.Store(f)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server = newServer(a)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return "http://" + listener.Addr().String(), &http.Client{Transport: transport}, server
}
