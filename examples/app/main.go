// Command app is what the examples and tests release. It answers every request with its version as
// plain text, like the application of the Jenkins X walk-through, and can be told to misbehave.
//
// The headers X-Version and X-Pod of each answer name the version and the pod. A gRPC call gets the
// version as its message. GET /stream?for=12s writes the version once a second for that time, at
// most 5 minutes.
//
// Environment: VERSION, and FAULTS with the same words as the address below.
//
//	PUT /faults?fail=0.2     a fifth of the answers are 500, of gRPC calls INTERNAL (0 to 1)
//	PUT /faults?slow=300ms   each answer takes that long
//	PUT /faults?hang=0.5     half of the requests get no answer while the client waits
//	PUT /faults?grpc=14      gRPC calls are answered with that status
//	PUT /faults?ready=false  the readiness check fails
//	PUT /faults?ask=http://shop/  a twentieth of the requests ask there first: the app is a caller, too
//	PUT /faults?fail=1&pods=shop-primary-  only pods whose names begin so misbehave
//
// Faults apply to a stream when it begins. Each call replaces all faults; one without words ends
// them. They are served on another port than the application.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	appAddr   = ":8080"
	adminAddr = ":8081"
	// lameDuck is how long the app still serves after it was told to end: callers learn of it a
	// moment later.
	lameDuck = 5 * time.Second
	// drain is how long requests under way have after that. The streams of the tests last 12 s, and
	// one may begin just before. Together both are less than the 30 s that Kubernetes waits.
	drain = 15 * time.Second
	// maxStream bounds a stream.
	maxStream = 5 * time.Minute
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("naming this pod: %w", err)
	}
	a := &app{version: os.Getenv("VERSION"), pod: host}
	words, err := url.ParseQuery(os.Getenv("FAULTS"))
	if err != nil {
		return fmt.Errorf("reading FAULTS: %w", err)
	}
	f, err := parseFaults(words)
	if err != nil {
		return fmt.Errorf("reading FAULTS: %w", err)
	}
	a.faults.Store(f)
	server := newServer(a)
	admin := &http.Server{Addr: adminAddr, Handler: a.admin(), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 2)
	go func() { ended <- server.ListenAndServe() }()
	go func() { ended <- admin.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	time.Sleep(lameDuck)
	shutdown, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	return errors.Join(server.Shutdown(shutdown), admin.Close())
}

// newServer returns the server of the application's port, for HTTP/1.1 and unencrypted HTTP/2.
func newServer(a *app) *http.Server {
	server := &http.Server{
		Addr: appAddr, Handler: a, ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	return server
}

// faults is how the app misbehaves.
type faults struct {
	fail, hang float64 // shares of requests, 0 to 1
	slow       time.Duration
	grpc       int
	unready    bool
	ask        string // an address
}

func parseFaults(words url.Values) (*faults, error) {
	var f faults
	share := func(word string) (float64, error) {
		if !words.Has(word) {
			return 0, nil
		}
		v, err := strconv.ParseFloat(words.Get(word), 64)
		if err != nil || !(v >= 0 && v <= 1) {
			return 0, fmt.Errorf("%s=%q is not a share from 0 to 1", word, words.Get(word))
		}
		return v, nil
	}
	var errs [4]error
	f.fail, errs[0] = share("fail")
	f.hang, errs[1] = share("hang")
	if s := words.Get("slow"); s != "" {
		f.slow, errs[2] = time.ParseDuration(s)
	}
	if s := words.Get("grpc"); s != "" {
		f.grpc, errs[3] = strconv.Atoi(s)
	}
	f.unready = words.Get("ready") == "false"
	f.ask = words.Get("ask")
	for word := range words {
		switch word {
		case "fail", "hang", "slow", "grpc", "ready", "pods", "ask":
		default:
			return nil, fmt.Errorf("%q is not one of fail, hang, slow, grpc, ready, pods, ask", word)
		}
	}
	if host, err := os.Hostname(); err != nil || !strings.HasPrefix(host, words.Get("pods")) {
		return &faults{}, errors.Join(append(errs[:], err)...)
	}
	return &f, errors.Join(errs[:]...)
}

// asking is how the app is a caller itself.
var asking = http.Client{Timeout: 2 * time.Second}

type app struct {
	version, pod string
	faults       atomic.Pointer[faults]
}

// ServeHTTP answers the version, or misbehaves as it was told.
func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := a.faults.Load()
	if f.hang > 0 && rand.Float64() < f.hang {
		<-r.Context().Done()
		return
	}
	if f.slow > 0 {
		select {
		case <-time.After(f.slow):
		case <-r.Context().Done():
			return
		}
	}
	if f.ask != "" && rand.Float64() < 0.05 {
		if answer, err := asking.Get(f.ask); err == nil { // whatever it is
			answer.Body.Close()
		}
	}
	w.Header().Set("X-Version", a.version)
	w.Header().Set("X-Pod", a.pod)
	w.Header().Set("Content-Type", "text/plain")
	failed := f.fail > 0 && rand.Float64() < f.fail
	switch {
	case strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
		a.call(w, f.grpc, failed)
		return
	case failed:
		w.WriteHeader(http.StatusInternalServerError)
	case r.URL.Path == "/stream":
		a.stream(w, r)
		return
	}
	_, _ = io.WriteString(w, a.version)
}

// call answers a gRPC call with a message and a status. The message's frame says that it is not
// compressed and how long it is.
func (a *app) call(w http.ResponseWriter, status int, failed bool) {
	if failed {
		status = 13 // INTERNAL, as gRPC calls a 500
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", strconv.Itoa(status))
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(a.version)))
	_, _ = w.Write(append(frame, a.version...))
}

// stream writes the version once a second until the time that the caller named has passed.
func (a *app) stream(w http.ResponseWriter, r *http.Request) {
	word := r.URL.Query().Get("for")
	length, err := time.ParseDuration(word)
	if err != nil || length <= 0 || length > maxStream {
		http.Error(w, fmt.Sprintf("for=%q is not a time up to %s", word, maxStream), http.StatusBadRequest)
		return
	}
	flusher := http.NewResponseController(w)
	for end := time.Now().Add(length); time.Now().Before(end); {
		_, err := io.WriteString(w, a.version+"\n")
		if err := errors.Join(err, flusher.Flush()); err != nil {
			return
		}
		select {
		case <-time.After(min(time.Second, time.Until(end))):
		case <-r.Context().Done():
			return
		}
	}
}

func (a *app) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if a.faults.Load().unready {
			http.Error(w, "told not to be ready", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("PUT /faults", func(w http.ResponseWriter, r *http.Request) {
		f, err := parseFaults(r.URL.Query())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		a.faults.Store(f)
	})
	return mux
}
