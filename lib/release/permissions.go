package release

import "github.com/canary-tasks/canary-tasks/lib/config"

// Permission is a rule of the Roles that the steps need in the target's namespace, with what it is
// for. canary-init checks each before anything is changed; the shipped Roles are generated from
// this list. Every step needs every verb of its rules: the tests count what each step asks for, and
// fail where the list has more or less.
type Permission struct {
	Group    string // "" is the core group
	Resource string
	Verbs    []string
	Steps    []string // that need all of the verbs
	Why      string
	// Role is "" for what every release needs. What has a name of its own may be left out, and then
	// the steps do less; withCanary is between.
	Role string
}

// withCanary are rules of the Role that every release needs, which only those need that take their
// configuration from a Canary.
const withCanary = "canary"

// Roles that may be left out.
const (
	ofSecrets = "secrets"
	ofDetach  = "detach"
	ofReviews = "reviews" // needed where stepAccounts is given
)

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

var (
	everyStep = config.StepNames
	initAlone = []string{config.CanaryInit}
	later     = []string{config.ShiftWeight, config.Analyze, config.Promote, config.Rollback}
	atTheEnd  = []string{config.Promote, config.Rollback}
	services  = []string{config.CanaryInit, config.Promote, config.Rollback}
	scaling   = []string{config.CanaryInit, config.ShiftWeight, config.Promote, config.Rollback}
	byName    = []string{config.ShiftWeight, config.Promote, config.Rollback} // autoscalers that canary-init has noted
	backAlone = []string{config.Rollback}
)

// Permissions lists every rule.
var Permissions = []Permission{
	{"apps", "deployments", []string{"get"}, everyStep, "both versions: whether they are available, and what they run",
		""},
	{"apps", "deployments", []string{"patch"}, scaling, "pods and templates of both versions", ""},
	{"apps", "deployments", []string{"create"}, initAlone, "stable, the first time", ""},
	{"", "services", []string{"get", "patch"}, services, "where the Service leads, which others may have set back", ""},
	{"", "services", []string{"create"}, initAlone, "the Services of both versions", ""},
	{"", "configmaps", []string{"get", "patch"}, everyStep, "the release record, and configuration that the pods mount",
		""},
	{"", "configmaps", []string{"create"}, initAlone,
		"the release record, and copies of configuration that belong to a revision", ""},
	{"", "configmaps", []string{"list", "delete"}, atTheEnd,
		"copies of configuration that no revision of stable mounts any more", ""},
	{"apps", "replicasets", []string{"list"}, atTheEnd, "which revisions stable could go back to", ""},
	{"discovery.k8s.io", "endpointslices", []string{"list"}, everyStep,
		"whether stable answers, before it gets all the traffic", ""},
	{"", "namespaces", []string{"get"}, initAlone, "whether its pods are to have a sidecar", ""},
	{"", "pods", []string{"list"}, initAlone, "whether the target's pods have a sidecar", ""},
	{"", "persistentvolumeclaims", []string{"get"}, initAlone, "whether two versions can mount what the target mounts",
		""},
	{"autoscaling", "horizontalpodautoscalers", []string{"list", "create"}, initAlone,
		"the autoscalers of both versions", ""},
	{"autoscaling", "horizontalpodautoscalers", []string{"get"}, byName, "the autoscalers of both versions", ""},
	{"autoscaling", "horizontalpodautoscalers", []string{"patch"}, scaling,
		"how many pods autoscalers keep while a release runs", ""},
	{"tekton.dev", "pipelineruns", []string{"get"}, initAlone, "whether the run that holds the target still runs", ""},
	{"", "events", []string{"create"}, everyStep, "what kubectl get events shows of a release", ""},
	{"", "secrets", []string{"get"}, everyStep, "Secrets that the pods mount, which belong to a revision", ofSecrets},
	{"", "secrets", []string{"create"}, initAlone, "copies of Secrets that belong to a revision", ofSecrets},
	{"", "secrets", []string{"patch"}, initAlone,
		"copies of Secrets that Flagger made, which would be removed with its Canary", ofSecrets},
	{"", "secrets", []string{"list", "delete"}, atTheEnd,
		"copies of Secrets that no revision of stable mounts any more", ofSecrets},
	{"networking.istio.io", "virtualservices", []string{"get", "patch"}, everyStep, "the weights of the route", ""},
	{"networking.istio.io", "virtualservices", []string{"list", "create"}, initAlone,
		"the route, and others that claim its host", ""},
	{"networking.istio.io", "destinationrules", []string{"list", "create", "patch"}, initAlone,
		"the Service's traffic policy, which both versions get, and what Flagger made of it", ""},
	{"networking.istio.io", "sidecars", []string{"list"}, initAlone, uncovered, ""},
	{"security.istio.io", "authorizationpolicies", []string{"list"}, initAlone, uncovered, ""},
	{"security.istio.io", "requestauthentications", []string{"list"}, initAlone, uncovered, ""},
	{"networking.k8s.io", "networkpolicies", []string{"list"}, initAlone, uncovered, ""},
	{"policy", "poddisruptionbudgets", []string{"list"}, initAlone, uncovered, ""},
	{"flagger.app", "canaries", []string{"get", "list"}, initAlone,
		"whether a Flagger manages the target, and what parameter canary names", ""},
	{"flagger.app", "canaries", []string{"get"}, later,
		"the Canary that parameter canary names, for events and its status", withCanary},
	{"flagger.app", "canaries/status", []string{"patch"}, everyStep,
		"the status of the Canary that parameter canary names", withCanary},
	{"flagger.app", "metrictemplates", []string{"get"}, initAlone, "the queries that a specification refers to", ""},
	{"authorization.k8s.io", "localsubjectaccessreviews", []string{"create"}, initAlone,
		"whether the accounts of stepAccounts may do what their steps need", ofReviews},
	{"apps", "deployments", []string{"delete"}, backAlone, detach, ofDetach},
	{"", "services", []string{"delete"}, backAlone, detach, ofDetach},
	{"autoscaling", "horizontalpodautoscalers", []string{"list", "delete"}, backAlone, detach, ofDetach},
	{"networking.istio.io", "virtualservices", []string{"delete"}, backAlone, detach, ofDetach},
	{"networking.istio.io", "destinationrules", []string{"list", "delete"}, backAlone, detach, ofDetach},
}
