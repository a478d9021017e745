package release

// Permission is a rule of the Roles that the steps need in the target's namespace, with what it is for. canary-init checks each before
// anything is changed; the shipped Roles are generated from this list.
type Permission struct {
	Group    string // "" is the core group
	Resource string
	Verbs    []string
	Steps    []string // the steps that need it; canary-init checks them all
	Why      string
	Optional bool // without it the steps do less, and say so
}

const uncovered = "whether what applies to the target applies to stable, too"

// Permissions lists every rule.
var Permissions = []Permission{
	{"apps", "deployments", []string{"get", "create", "patch"}, []string{"canary-init", "promote", "rollback"}, "the target and its primary", false},
	{"apps", "deployments", []string{"get"}, []string{"shift-weight", "analyze"}, "whether both versions are available, and the candidate still is the one being released", false},
	{"", "services", []string{"get", "create", "patch"}, []string{"canary-init", "rollback"}, "the Services of both versions", false},
	{"", "configmaps", []string{"get", "create", "patch"}, []string{"canary-init", "shift-weight", "analyze", "promote", "rollback"}, "the release record, and configuration that the pods mount", false},
	{"autoscaling", "horizontalpodautoscalers", []string{"list", "create", "patch"}, []string{"canary-init"}, "stable's autoscaler", false},
	{"autoscaling", "horizontalpodautoscalers", []string{"get", "patch"}, []string{"promote", "rollback"}, "stable's autoscaler", false},
	{"", "events", []string{"create"}, []string{"canary-init", "shift-weight", "analyze", "promote", "rollback"}, "what kubectl get events shows of a release", false},
	{"", "secrets", []string{"get", "create"}, []string{"canary-init", "shift-weight", "analyze", "promote"}, "Secrets that the pods mount, which belong to a revision", true},
	{"networking.istio.io", "virtualservices", []string{"get", "list", "create", "patch"}, []string{"canary-init"}, "the route, and others that claim its host", false},
	{"networking.istio.io", "destinationrules", []string{"list", "create"}, []string{"canary-init"}, "the Service's traffic policy, which both versions get", false},
	{"networking.istio.io", "sidecars", []string{"list"}, []string{"canary-init"}, uncovered, false},
	{"security.istio.io", "authorizationpolicies", []string{"list"}, []string{"canary-init"}, uncovered, false},
	{"security.istio.io", "requestauthentications", []string{"list"}, []string{"canary-init"}, uncovered, false},
	{"networking.k8s.io", "networkpolicies", []string{"list"}, []string{"canary-init"}, uncovered, false},
	{"policy", "poddisruptionbudgets", []string{"list"}, []string{"canary-init"}, uncovered, false},
	{"networking.istio.io", "virtualservices", []string{"get", "patch"}, []string{"shift-weight", "analyze", "promote", "rollback"}, "the weights of the route", false},
}
