// Command mesh stands in for Envoy where none can be had. It follows istiod by xDS on behalf of callers (sidecars and
// ingress gateways), sends each request to a pod by the routes that istiod made, and exports istio_requests_total and
// istio_request_duration_milliseconds as the proxies of the callers and of the pods would.
//
// Callers are made and taken away at run time:
//
//	PUT    /callers/NAMESPACE/NAME?kind=sidecar&listen=127.0.0.1:0   answers where it listens
//	DELETE /callers/NAMESPACE/NAME
//	PUT    /reporters/source?off=true                                stops counting that side
//	GET    /targets, /metrics/…                                      for Prometheus
//
// Not done: mutual TLS, TCP, mirrors, injected faults, redirects, regex rewrites, consistent hashing, outlier detection.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

func main() {
	istiod := flag.String("istiod", "127.0.0.1:15010", "istiod's plaintext xDS `address`")
	admin := flag.String("admin", "127.0.0.1:15099", "`address` to serve callers' administration and Prometheus on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *istiod, *admin)
	stop()
	if err != nil {
		slog.Error("mesh ended", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, istiod, admin string) error {
	m := &mesh{ctx: ctx, istiod: istiod, callers: map[string]*caller{}, meters: newMeters()}
	go m.watchPods(ctx)
	// Two callers that are always there, for people: curl -x http://127.0.0.1:15001 http://web.shop/
	for _, c := range []struct{ kind, namespace, name, listen string }{
		{"sidecar", "default", "client", "127.0.0.1:15001"},
		{"gateway", "istio-system", "istio-ingressgateway", "127.0.0.1:15080"},
	} {
		if _, err := m.add(c.kind, c.namespace, c.name, c.listen); err != nil {
			return err
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) { m.ready(w) })
	mux.HandleFunc("GET /targets", func(w http.ResponseWriter, _ *http.Request) { reply(w, m.meters.discover(admin)) })
	mux.Handle("GET /metrics/", m.meters)
	mux.HandleFunc("PUT /callers/{namespace}/{name}", func(w http.ResponseWriter, r *http.Request) {
		c, err := m.add(cmp.Or(r.FormValue("kind"), "sidecar"), r.PathValue("namespace"), r.PathValue("name"),
			cmp.Or(r.FormValue("listen"), "127.0.0.1:0"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if !c.started(r.Context()) {
			http.Error(w, "there is no configuration from istiod yet; ask again", http.StatusServiceUnavailable)
			return
		}
		reply(w, map[string]string{"address": c.address})
	})
	mux.HandleFunc("DELETE /callers/{namespace}/{name}", func(_ http.ResponseWriter, r *http.Request) {
		m.remove(r.PathValue("namespace"), r.PathValue("name"))
	})
	mux.HandleFunc("PUT /reporters/{side}", func(w http.ResponseWriter, r *http.Request) {
		if !m.meters.switchSide(r.PathValue("side"), r.FormValue("off") == "true") {
			http.Error(w, "the sides are source and destination", http.StatusBadRequest)
		}
	})
	server := &http.Server{Addr: admin, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// mesh is all callers and what they export.
type mesh struct {
	ctx     context.Context // of the process: callers outlive the request that makes them
	istiod  string
	meters  *meters
	mu      sync.Mutex
	callers map[string]*caller
	made    int
}

// add starts a caller, or returns the one that is there.
func (m *mesh) add(kind, namespace, name, listen string) (*caller, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := "callers/" + namespace + "/" + name
	if c := m.callers[key]; c != nil {
		return c, nil
	}
	role, labels := "sidecar", map[string]string{"app": name}
	switch kind {
	case "sidecar":
	case "gateway":
		role, labels["istio"] = "router", "ingressgateway" // what the charts' Gateways select
	default:
		return nil, fmt.Errorf("kind %q is not one of sidecar, gateway", kind)
	}
	m.made++
	w := workload{name: name, namespace: namespace, canonicalService: name, canonicalRevision: "latest", cluster: "Kubernetes"}
	n, err := node(role, w, fmt.Sprintf("10.88.%d.%d", 128+m.made/250, 1+m.made%250), labels)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("listening for %s: %w", key, err)
	}
	ctx, stop := context.WithCancel(m.ctx)
	c := &caller{
		follower: follower{istiod: m.istiod, node: n, log: slog.With("caller", key)},
		gateway:  kind == "gateway", workload: w, target: m.meters.at(key, namespace, name), meters: m.meters,
		address: listener.Addr().String(), stop: stop,
	}
	server := &http.Server{Handler: c.handler(), ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	context.AfterFunc(ctx, func() { server.Close() })
	go c.run(ctx)
	go func() { _ = server.Serve(listener) }()
	m.callers[key] = c
	return c, nil
}

func (m *mesh) remove(namespace, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := "callers/" + namespace + "/" + name
	if c := m.callers[key]; c != nil {
		c.stop()
		delete(m.callers, key)
		m.meters.drop(key)
	}
}

// ready is the case when every caller has its first configuration.
func (m *mesh) ready(w http.ResponseWriter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, c := range m.callers {
		if c.current.Load() == nil {
			http.Error(w, key+" has no configuration from istiod yet", http.StatusServiceUnavailable)
			return
		}
	}
}

// watchPods keeps a scrape target for every pod that a caller can reach.
func (m *mesh) watchPods(ctx context.Context) {
	for ticker := time.NewTicker(500 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			ticker.Stop()
			return
		case <-ticker.C:
		}
		present := map[string]workload{}
		m.mu.Lock()
		for _, c := range m.callers {
			if config := c.current.Load(); config != nil {
				for _, pods := range config.endpoints {
					for _, p := range pods {
						if p.workload.name != "" {
							present[podKey(p.address)] = p.workload
						}
					}
				}
			}
		}
		m.mu.Unlock()
		m.meters.keepPods(present)
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}
