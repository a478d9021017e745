package release

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/canary-tasks/canary-tasks/lib/config"
	"github.com/canary-tasks/canary-tasks/lib/kube/client"
)

// right is one verb that one step may use on one kind of object.
type right struct{ step, verb, resource, role string }

// rights are those that the steps of all tests together have used.
var rights = struct {
	sync.Mutex
	used map[right]bool
}{used: map[right]bool{}}

// withRights returns a client of the server for a step that has an account of its own, with the
// rights that Permissions gives it and no others, as in examples/account-per-step.
func (a *apiserver) withRights(r *Release) *client.Client {
	c, err := client.New(&rest.Config{Host: "http://api", Transport: account{a, r}}, "web")
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// account sends a step's requests to the server, without a network.
type account struct {
	api *apiserver
	r   *Release
}

// RoundTrip answers a request that the step may send. An answer is lost where the step's context
// has ended by then.
func (a account) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx := request.Context()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	verb, resource := asked(request)
	rows := allows(a.r.Report.Step, verb, resource, a.r.Step.Mode == config.Detach)
	rights.Lock()
	for _, row := range rows {
		rights.used[row] = true
	}
	rights.Unlock()
	if len(rows) == 0 && slices.Contains(config.StepNames, a.r.Report.Step) &&
		!strings.HasPrefix(resource, "selfsubject") {
		a.api.t.Errorf("%s uses a right that it does not have: %s %s", a.r.Report.Step, verb, resource)
	}
	response, err := a.api.RoundTrip(request)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return response, err
}

// asked is the verb and the resource of a request, as RBAC names them: services,
// virtualservices.networking.istio.io.
func asked(r *http.Request) (verb, resource string) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	group := ""
	if parts[0] == "apis" {
		group, parts = "."+parts[1], parts[3:]
	} else {
		parts = parts[2:]
	}
	if parts[0] == "namespaces" && len(parts) > 2 { // else it is the Namespace itself
		parts = parts[2:]
	}
	resource = parts[0]
	if len(parts) > 2 {
		resource += "/" + parts[2]
	}
	verb = map[string]string{
		http.MethodGet: "get", http.MethodPost: "create", http.MethodPatch: "patch",
		http.MethodDelete: "delete"}[r.Method]
	if verb == "get" && len(parts) == 1 {
		verb = "list"
	}
	return verb, resource + group
}

// allows are the rows of Permissions by which a step may do something.
func allows(step, verb, resource string, detaching bool) (rows []right) {
	for _, p := range Permissions {
		if p.Role == ofDetach && !detaching || strings.TrimSuffix(p.Resource+"."+p.Group, ".") != resource {
			continue
		}
		if slices.Contains(p.Steps, step) && slices.Contains(p.Verbs, verb) {
			rows = append(rows, right{step, verb, resource, p.Role})
		}
	}
	return rows
}

// A right that no step uses in any test is one too many. It is known once all of them have run.
func TestMain(m *testing.M) {
	code := m.Run()
	all := true
	for _, name := range []string{"test.run", "test.skip", "test.fuzz", "test.list", "test.bench"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			all = false
		}
	}
	if code == 0 && all {
		for _, unused := range unusedRights() {
			code = 1
			fmt.Println("FAIL: a right that no test uses:", unused)
		}
	}
	os.Exit(code)
}

func unusedRights() (unused []string) {
	for _, p := range Permissions {
		for _, step := range p.Steps {
			for _, verb := range p.Verbs {
				r := right{step, verb, strings.TrimSuffix(p.Resource+"."+p.Group, "."), p.Role}
				if !rights.used[r] {
					unused = append(unused, fmt.Sprint(r.step, " may ", r.verb, " ", r.resource, " ", r.role))
				}
			}
		}
	}
	return unused
}
