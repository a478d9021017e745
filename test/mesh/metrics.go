package main

import (
	"cmp"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// workload is how Istio names one side of a request.
type workload struct {
	name, namespace, canonicalService, canonicalRevision, cluster string
}

// parseWorkload reads istiod's endpoint metadata "name;namespace;canonical-name;revision;cluster".
func parseWorkload(meta string) workload {
	f := append(strings.Split(meta, ";"), make([]string, 5)...)
	return workload{name: f[0], namespace: f[1], canonicalService: f[2], canonicalRevision: cmp.Or(f[3], "latest"), cluster: f[4]}
}

// envoyBuckets are Envoy's default histogram bounds, in milliseconds.
var envoyBuckets = []float64{
	0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000,
}

var labelNames = []string{
	"reporter",
	"source_workload", "source_workload_namespace", "source_principal", "source_app", "source_version", "source_cluster",
	"source_canonical_service", "source_canonical_revision",
	"destination_workload", "destination_workload_namespace", "destination_principal", "destination_app",
	"destination_version", "destination_cluster", "destination_canonical_service", "destination_canonical_revision",
	"destination_service", "destination_service_name", "destination_service_namespace",
	"request_protocol", "response_code", "grpc_response_status", "response_flags", "connection_security_policy",
}

// record is one request as one side saw it end.
type record struct {
	reporter            string // "source" or "destination"
	source, destination workload
	service             string // the host of the cluster, "web.shop.svc.cluster.local"
	grpc                bool
	outcome             outcome
	duration            time.Duration
}

// labels returns Istio's labels as Envoy sets them. With no endpoint chosen only destination_service is known.
func (r record) labels() prometheus.Labels {
	unknown := func(s string) string { return cmp.Or(s, "unknown") }
	protocol, security := "http", "unknown" // a source does not know how the connection is secured without mutual TLS
	if r.grpc {
		protocol = "grpc"
	}
	if r.reporter == "destination" {
		security = "none"
	}
	name, rest, _ := strings.Cut(r.service, ".")
	namespace, _, _ := strings.Cut(rest, ".")
	if r.destination.name == "" {
		name, namespace = "unknown", "unknown"
	}
	return prometheus.Labels{
		"reporter":        r.reporter,
		"source_workload": unknown(r.source.name), "source_workload_namespace": unknown(r.source.namespace),
		"source_principal": "unknown", "source_app": unknown(r.source.canonicalService),
		"source_version": unknown(r.source.canonicalRevision), "source_cluster": unknown(r.source.cluster),
		"source_canonical_service": unknown(r.source.canonicalService), "source_canonical_revision": unknown(r.source.canonicalRevision),
		"destination_workload": unknown(r.destination.name), "destination_workload_namespace": unknown(r.destination.namespace),
		"destination_principal": "unknown", "destination_app": unknown(r.destination.canonicalService),
		"destination_version": unknown(r.destination.canonicalRevision), "destination_cluster": unknown(r.destination.cluster),
		"destination_canonical_service":  unknown(r.destination.canonicalService),
		"destination_canonical_revision": unknown(r.destination.canonicalRevision),
		"destination_service":            unknown(r.service), "destination_service_name": unknown(name),
		"destination_service_namespace": unknown(namespace),
		"request_protocol":              protocol, "response_code": strconv.Itoa(r.outcome.status),
		"grpc_response_status": r.outcome.grpcStatus, "response_flags": cmp.Or(r.outcome.flag, "-"),
		"connection_security_policy": security,
	}
}

// target is what one proxy exports, as a scrape target of its own: a caller's or a pod's.
type target struct {
	namespace, name string
	registry        *prometheus.Registry
	requests        *prometheus.CounterVec
	durations       *prometheus.HistogramVec
	gone            time.Time // when its pod left the mesh; zero while it is there
}

func newTarget(namespace, name string) *target {
	t := &target{
		namespace: namespace, name: name, registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istio_requests_total", Help: "requests that ended"}, labelNames),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "istio_request_duration_milliseconds", Help: "their durations in milliseconds", Buckets: envoyBuckets}, labelNames),
	}
	t.registry.MustRegister(t.requests, t.durations)
	return t
}

func (t *target) count(r record) {
	labels := r.labels()
	t.requests.With(labels).Inc()
	t.durations.With(labels).Observe(float64(r.duration) / float64(time.Millisecond))
}

// meters holds the scrape targets: one for each caller and, on behalf of its sidecar, one for each pod.
type meters struct {
	mu      sync.Mutex
	targets map[string]*target // by name: "callers/NAMESPACE/NAME" or "pods/IP"
	off     map[string]bool    // by reporter: sides that do not count
}

func newMeters() *meters { return &meters{targets: map[string]*target{}, off: map[string]bool{}} }

// goneAfter is how long a pod's proxy can still be scraped after istiod no longer sends to it, as a terminating pod can.
const goneAfter = 10 * time.Second

// at returns the target of that name and makes it when it is new.
func (m *meters) at(key, namespace, name string) *target {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.targets[key]
	if t == nil {
		t = newTarget(namespace, name)
		m.targets[key] = t
	}
	t.gone = time.Time{}
	return t
}

// drop takes the target of a caller away.
func (m *meters) drop(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.targets, key)
}

func podKey(address string) string {
	ip, _, _ := strings.Cut(address, ":")
	return "pods/" + ip
}

// keepPods makes targets for new pods and removes those of pods that have been gone for a while.
func (m *meters) keepPods(present map[string]workload) {
	for key, w := range present {
		m.at(key, w.namespace, w.name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, t := range m.targets {
		if _, ok := present[key]; ok || !strings.HasPrefix(key, "pods/") {
			continue
		}
		if t.gone.IsZero() {
			t.gone = time.Now()
		} else if time.Since(t.gone) > goneAfter {
			delete(m.targets, key)
		}
	}
}

// switchSide lets one side count or not. It returns false when there is no such side.
func (m *meters) switchSide(reporter string, off bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if reporter != "source" && reporter != "destination" {
		return false
	}
	m.off[reporter] = off
	return true
}

func (m *meters) on(reporter string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.off[reporter]
}

// source counts what a caller's proxy saw, destination what a pod's proxy saw.
func (m *meters) source(caller *target, r record) {
	if m.on("source") {
		r.reporter = "source"
		caller.count(r)
	}
}

func (m *meters) destination(address string, r record) {
	if m.on("destination") {
		r.reporter = "destination"
		m.at(podKey(address), r.destination.namespace, r.destination.name).count(r)
	}
}

// discover answers Prometheus' HTTP service discovery.
func (m *meters) discover(self string) []map[string]any {
	m.mu.Lock()
	defer m.mu.Unlock()
	groups := []map[string]any{}
	for key, t := range m.targets {
		groups = append(groups, map[string]any{
			"targets": []string{self},
			"labels": map[string]string{
				"__metrics_path__": "/metrics/" + key, "instance": key, "namespace": t.namespace, "workload": t.name,
			},
		})
	}
	sort.Slice(groups, func(i, j int) bool {
		return groups[i]["labels"].(map[string]string)["instance"] < groups[j]["labels"].(map[string]string)["instance"]
	})
	return groups
}

// ServeHTTP serves /metrics/KEY.
func (m *meters) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	t := m.targets[strings.TrimPrefix(r.URL.Path, "/metrics/")]
	m.mu.Unlock()
	if t == nil {
		http.NotFound(w, r)
		return
	}
	promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}
