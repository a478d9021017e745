package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// authority signs every certificate of one cluster. It lives as long as the start that made it.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	l    layout
}

func newAuthority(l layout) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "canary-tasks test cluster"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, l: l}, writePEM(l.pki("ca.crt"), "CERTIFICATE", der)
}

// issue writes NAME.crt and NAME.key for a server (with hosts) and client of that user and groups.
func (a *authority) issue(name, user string, groups []string, hosts ...string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: user, Organization: groups},
		NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("issuing a certificate for %s: %w", user, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(a.l.pki(name+".crt"), "CERTIFICATE", der); err != nil {
		return err
	}
	return writePEM(a.l.pki(name+".key"), "PRIVATE KEY", keyDER)
}

// kubeconfig issues a client certificate and writes a kubeconfig that uses it.
func (a *authority) kubeconfig(path, user string, groups ...string) error {
	name := "client-" + fmt.Sprintf("%x", user)
	if err := a.issue(name, user, groups); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: canary-tasks
  cluster: {server: %q, certificate-authority: %q}
users:
- name: %q
  user: {client-certificate: %q, client-key: %q}
contexts:
- name: canary-tasks
  context: {cluster: canary-tasks, user: %q}
current-context: canary-tasks
`, apiServer, a.l.pki("ca.crt"), user, a.l.pki(name+".crt"), a.l.pki(name+".key"), user)), 0o600)
}

// writePEM writes a file of one block.
func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// makePKI writes everything by which the parts know each other. Tekton and istiod run outside the
// cluster but as the service accounts they have inside it, so that the roles they ship with are
// what they work under.
func makePKI(l layout) error {
	ca, err := newAuthority(l)
	if err != nil {
		return err
	}
	if err := ca.issue("apiserver", "kube-apiserver", nil, nodeIP, apiServiceIP, "127.0.0.1", "localhost",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local"); err != nil {
		return err
	}
	if err := ca.issue("apiserver-kubelet", "kube-apiserver", []string{"system:masters"}); err != nil {
		return err
	}
	if err := ca.issue("kubelet", "system:node:"+nodeName, []string{"system:nodes"}, nodeName, nodeIP); err != nil {
		return err
	}
	if err := ca.issue(frontProxy, frontProxy, nil); err != nil {
		return err
	}
	if err := ca.issue("metrics-server", "metrics-server", nil, "metrics-server.kube-system.svc"); err != nil {
		return err
	}
	if err := ca.issue("service-accounts", "service-accounts", nil); err != nil {
		return err
	}
	for file, who := range map[string][]string{
		l.kubeconfig():             {"admin", "system:masters"},
		l.conf("controllers.yaml"): {"system:kube-controller-manager"},
		l.conf("scheduler.yaml"):   {"system:kube-scheduler"},
		l.conf("kubelet-api.yaml"): {"system:node:" + nodeName, "system:nodes"},
		l.conf("proxy.yaml"):       {"system:kube-proxy"},
		l.conf("dns.yaml"):         serviceAccount("kube-system", "coredns"),
		l.conf("metrics.yaml"):     serviceAccount("kube-system", "metrics-server"),
		l.conf("istiod.yaml"):      serviceAccount("istio-system", "istiod"),
		l.conf("scraper.yaml"):     serviceAccount("istio-system", "prometheus"),
		l.conf("controller.yaml"):  serviceAccount("tekton-pipelines", "tekton-pipelines-controller"),
		l.conf("webhook.yaml"):     serviceAccount("tekton-pipelines", "tekton-pipelines-webhook"),
		l.conf("resolvers.yaml"):   serviceAccount("tekton-pipelines-resolvers", "tekton-pipelines-resolvers"),
	} {
		if err := ca.kubeconfig(file, who[0], who[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// frontProxy is who the API server is to the servers behind it.
const frontProxy = "front-proxy-client"

func serviceAccount(namespace, name string) []string {
	return []string{
		"system:serviceaccount:" + namespace + ":" + name,
		"system:serviceaccounts", "system:serviceaccounts:" + namespace,
	}
}
