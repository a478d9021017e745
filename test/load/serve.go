package load

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Bounds of what Caller.Ask gets.
const (
	askTimeout = 10 * time.Second
	maxBody    = 1 << 20 // bytes
)

// What the control port and Caller say to each other, as JSON.
type (
	started struct{ ID string }
	// progress has the attempts from the one that was asked for on, and how many there are in all.
	progress struct {
		Samples  []Sample
		Attempts int
		Ended    bool
	}
	question struct {
		URL     string
		Headers []string // names and values in turn
	}
	reply struct {
		Status int // 0: no answer
		Body   string
	}
)

// Handler serves the control port of a pod that sends what a Caller elsewhere asks for. Its runs
// end with ctx.
//
//	POST   /runs            starts a Plan and answers its ID
//	GET    /runs/ID?from=N  answers the attempts from N on, how many there are, and if it ended
//	DELETE /runs/ID         stops it and waits for requests under way; GET still answers
//	POST   /ask             sends one request and answers what came back
//	GET    /ready           answers 200
func Handler(ctx context.Context) http.Handler {
	var runs sync.Map // *Run by ID
	run := func(w http.ResponseWriter, r *http.Request) (*Run, bool) {
		run, ok := runs.Load(r.PathValue("id"))
		if !ok {
			http.Error(w, fmt.Sprintf("no run %q was started by this process", r.PathValue("id")), http.StatusNotFound)
			return nil, false
		}
		return run.(*Run), true
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /runs", func(w http.ResponseWriter, r *http.Request) {
		var plan Plan
		if !read(w, r, &plan) {
			return
		}
		run, err := Start(ctx, plan)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		id := rand.Text() // so that no later process of this pod has it
		runs.Store(id, run)
		write(w, started{ID: id})
	})
	mux.HandleFunc("GET /runs/{id}", func(w http.ResponseWriter, r *http.Request) {
		run, ok := run(w, r)
		if !ok {
			return
		}
		from, err := strconv.Atoi(r.FormValue("from"))
		if err != nil || from < 0 {
			http.Error(w, fmt.Sprintf("from=%q is not a number of attempts", r.FormValue("from")),
				http.StatusBadRequest)
			return
		}
		var p progress
		select { // before the attempts are read, so that none is added after the last
		case <-run.Done():
			p.Ended = true
		default:
		}
		p.Samples = run.Since(from)
		p.Attempts = from + len(p.Samples)
		write(w, p)
	})
	mux.HandleFunc("DELETE /runs/{id}", func(w http.ResponseWriter, r *http.Request) {
		if run, ok := run(w, r); ok {
			run.Stop()
			write(w, struct{}{})
		}
	})
	mux.HandleFunc("POST /ask", func(w http.ResponseWriter, r *http.Request) {
		var q question
		if read(w, r, &q) {
			status, body := Ask(r.Context(), q.URL, q.Headers...)
			write(w, reply{status, body})
		}
	})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) { write(w, struct{}{}) })
	return mux
}

// Ask sends one GET from this process over a connection of its own, with headers as names and
// values in turn, and returns what came back: status 0 and the error's text where there was no
// answer. Redirects are not followed.
func Ask(ctx context.Context, url string, headers ...string) (status int, body string) {
	status, content, err := func() (int, []byte, error) {
		client, err := Plan{Timeout: askTimeout}.client()
		if err != nil {
			return 0, nil, err
		}
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return 0, nil, err
		}
		for i := 0; i+1 < len(headers); i += 2 {
			request.Header.Set(headers[i], headers[i+1])
		}
		request.Host = request.Header.Get("Host") // "": that of the URL
		answer, err := client.Do(request)
		if err != nil {
			return 0, nil, err
		}
		defer answer.Body.Close()
		content, err := io.ReadAll(io.LimitReader(answer.Body, maxBody))
		return answer.StatusCode, content, err
	}()
	if err != nil {
		return 0, err.Error()
	}
	return status, string(content)
}

func read(w http.ResponseWriter, r *http.Request, into any) bool {
	decoder := json.NewDecoder(io.LimitReader(r.Body, maxBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// AddHeader adds "name=value" to header.
func AddHeader(header http.Header, s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return fmt.Errorf("header %q is not name=value", s)
	}
	header.Add(name, value)
	return nil
}
