// Command app is what the examples and tests release: it answers every request with its version as plain text, like the
// application of the Jenkins X walk-through, and can be told to misbehave.
//
// Environment: VERSION, and FAULTS with the same words as the address below.
//
//	PUT /faults?fail=0.2     a fifth of the answers are 500 (0 to 1)
//	PUT /faults?slow=300ms   each answer takes that long
//	PUT /faults?hang=0.5     half of the requests get no answer while the client waits
//	PUT /faults?grpc=14      gRPC calls are answered with that status
//	PUT /faults?ready=false  the readiness check fails
//	PUT /faults?fail=1&pods=shop-primary-  only pods whose names begin so misbehave
//
// Each call replaces all faults; one without words ends them. They are served on another port than the application.
package main

import (
	"context"
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
	// lameDuck is how long the app still serves after it was told to end: callers learn of it a moment later.
	lameDuck = 5 * time.Second
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
	a := &app{version: os.Getenv("VERSION")}
	words, err := url.ParseQuery(os.Getenv("FAULTS"))
	if err != nil {
		return fmt.Errorf("reading FAULTS: %w", err)
	}
	f, err := parseFaults(words)
	if err != nil {
		return fmt.Errorf("reading FAULTS: %w", err)
	}
	a.faults.Store(f)
	server := &http.Server{Addr: appAddr, Handler: a, ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
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
	shutdown, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(server.Shutdown(shutdown), admin.Close())
}

// faults is how the app misbehaves.
type faults struct {
	fail, hang float64 // shares of requests, 0 to 1
	slow       time.Duration
	grpc       int
	unready    bool
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
	for word := range words {
		switch word {
		case "fail", "hang", "slow", "grpc", "ready", "pods":
		default:
			return nil, fmt.Errorf("%q is not one of fail, hang, slow, grpc, ready, pods", word)
		}
	}
	if host, err := os.Hostname(); err != nil || !strings.HasPrefix(host, words.Get("pods")) {
		return &faults{}, errors.Join(append(errs[:], err)...)
	}
	return &f, errors.Join(errs[:]...)
}

type app struct {
	version string
	faults  atomic.Pointer[faults]
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
	w.Header().Set("Content-Type", "text/plain")
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") { // enough of gRPC to be counted as it is
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", strconv.Itoa(f.grpc))
	}
	if f.fail > 0 && rand.Float64() < f.fail {
		w.WriteHeader(http.StatusInternalServerError)
	}
	_, _ = io.WriteString(w, a.version)
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
