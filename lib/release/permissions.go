package release

// Permission is a rule of the Roles that the steps need in the target's namespace, with what it is for. canary-init checks each before
// anything is changed; the shipped Roles are generated from this list.
type Permission struct {
	Group    string // "" is the core group
	Resource string
	Verbs    []string
	Steps    []string // the steps that need it; canary-init checks them all
	Why      string
	Role     string // "" is what every release needs; what has a name of its own may be left out, and then the steps do less; withCanary is between
}

// withCanary are rules of the Role that every release needs, which only those need that take their configuration from a Canary.
const withCanary = "canary"

// InRole is the name of the Role that has the rule; "" for the one that every release needs.
func (p Permission) InRole() string {
	if p.Role == withCanary {
		return ""
	}
	return p.Role
}

const (
	detach    = "mode detach: to take away what releases made"
	uncovered = "whether what applies to the target applies to stable, too"
)

// Permissions lists every rule.
var Permissions = []Permission{
	{"apps", "deployments", []string{"get", "create", "patch"}, []string{"canary-init", "promote", "rollback"}, "the target and its primary", ""},
	{"apps", "deployments", []string{"get"}, []string{"shift-weight", "analyze"}, "whether both versions are available, and the candidate still is the one being released", ""},
	{"apps", "deployments", []string{"patch"}, []string{"shift-weight"}, "the candidate's pods, where a weight needs more", ""},
	{"", "services", []string{"get", "create", "patch"}, []string{"canary-init", "rollback"}, "the Services of both versions", ""},
	{"", "configmaps", []string{"get", "create", "patch"}, []string{"canary-init", "shift-weight", "analyze", "promote", "rollback"}, "the release record, and configuration that the pods mount", ""},
	{"", "configmaps", []string{"list", "delete"}, []string{"promote", "rollback"}, "copies of configuration that no revision of stable mounts any more", ""},
	{"apps", "replicasets", []string{"list"}, []string{"promote", "rollback"}, "which revisions stable could go back to", ""},
	{"", "services", []string{"get", "patch"}, []string{"promote"}, "the Service's selector, which others may have set back", ""},
	{"discovery.k8s.io", "endpointslices", []string{"list"}, []string{"canary-init", "shift-weight", "analyze", "promote", "rollback"}, "whether stable answers, before it gets all the traffic", ""},
	{"", "namespaces", []string{"get"}, []string{"canary-init"}, "whether its pods are to have a sidecar", ""},
	{"", "pods", []string{"list"}, []string{"canary-init"}, "whether the target's pods have a sidecar", ""},
	{"", "persistentvolumeclaims", []string{"get"}, []string{"canary-init"}, "whether two versions can mount what the target mounts", ""},
	{"autoscaling", "horizontalpodautoscalers", []string{"list", "create", "patch"}, []string{"canary-init"}, "the autoscalers of both versions", ""},
	{"autoscaling", "horizontalpodautoscalers", []string{"get", "patch"}, []string{"shift-weight", "promote", "rollback"}, "the autoscalers of both versions", ""},
	{"tekton.dev", "pipelineruns", []string{"get"}, []string{"canary-init"}, "whether the run that holds the target still runs", ""},
	{"", "events", []string{"create"}, []string{"canary-init", "shift-weight", "analyze", "promote", "rollback"}, "what kubectl get events shows of a release", ""},
	{"", "secrets", []string{"get", "create"}, []string{"canary-init", "shift-weight", "analyze", "promote", "rollback"}, "Secrets that the pods mount, which belong to a revision", "secrets"},
	{"", "secrets", []string{"patch"}, []string{"canary-init"}, "copies of Secrets that Flagger made, which would be removed with its Canary", "secrets"},
	{"", "secrets", []string{"list", "delete"}, []string{"promote", "rollback"}, "copies of Secrets that no revision of stable mounts any more", "secrets"},
	{"networking.istio.io", "virtualservices", []string{"get", "list", "create", "patch"}, []string{"canary-init"}, "the route, and others that claim its host", ""},
	{"networking.istio.io", "destinationrules", []string{"list", "create", "patch"}, []string{"canary-init"}, "the Service's traffic policy, which both versions get, and what Flagger made of it", ""},
	{"networking.istio.io", "sidecars", []string{"list"}, []string{"canary-init"}, uncovered, ""},
	{"security.istio.io", "authorizationpolicies", []string{"list"}, []string{"canary-init"}, uncovered, ""},
	{"security.istio.io", "requestauthentications", []string{"list"}, []string{"canary-init"}, uncovered, ""},
	{"networking.k8s.io", "networkpolicies", []string{"list"}, []string{"canary-init"}, uncovered, ""},
	{"flagger.app", "canaries", []string{"get", "list"}, []string{"canary-init"}, "whether a Flagger manages the target, and what parameter canary names", ""},
	{"flagger.app", "canaries", []string{"get"}, []string{"shift-weight", "analyze", "promote", "rollback"}, "the Canary that parameter canary names, for events and its status", withCanary},
	{"flagger.app", "canaries/status", []string{"patch"}, []string{"canary-init", "shift-weight", "analyze", "promote", "rollback"}, "the status of the Canary that parameter canary names", withCanary},
	{"flagger.app", "metrictemplates", []string{"get"}, []string{"canary-init"}, "the queries that a specification refers to", ""},
	{"policy", "poddisruptionbudgets", []string{"list"}, []string{"canary-init"}, uncovered, ""},
	{"networking.istio.io", "virtualservices", []string{"get", "patch"}, []string{"shift-weight", "analyze", "promote", "rollback"}, "the weights of the route", ""},
	{"apps", "deployments", []string{"delete"}, []string{"rollback"}, detach, "detach"},
	{"", "services", []string{"get", "patch", "delete"}, []string{"rollback"}, detach, "detach"},
	{"autoscaling", "horizontalpodautoscalers", []string{"list", "delete"}, []string{"rollback"}, detach, "detach"},
	{"networking.istio.io", "virtualservices", []string{"delete"}, []string{"rollback"}, detach, "detach"},
	{"networking.istio.io", "destinationrules", []string{"list", "delete"}, []string{"rollback"}, detach, "detach"},
}
