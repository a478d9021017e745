package config

import (
	"net/url"
	"slices"
	"strings"
)

// Git says how the environment repository is put right after a rollback.
type Git struct {
	Mode        string   // off, commit or pull-request
	Repository  string   // address of the environment repository; "": there is none
	Branch      string   // "": the server's default
	Files       []string // where versions stand; nil: where Jenkins X keeps them
	Path        []string // to the version within the YAML; nil: as Jenkins X has it
	App         string   // as the file calls the application; "": by the name of its chart
	Environment string   // as jx promote calls it
	Provider    string   // whose pull requests they are, as go-scm calls it: github, gitlab, ...
}

// Providers are the servers that pull requests can be made on, as go-scm calls them.
var Providers = []string{"github", "gitlab", "gitea", "bitbucketcloud", "bitbucketserver"}

// git reads how Git is put right. canary-init checks it before anything is changed; rollback acts on it, and only once traffic is safe.
func (r *reader) git() Git {
	g := Git{Mode: r.text("git"), Repository: r.text("gitRepository"), Branch: r.text("gitBranch"), App: r.name("gitApp", ""),
		Environment: r.name("gitEnvironment", ""), Provider: r.text("gitProvider")}
	if !slices.Contains([]string{"off", "commit", "pull-request"}, g.Mode) {
		r.add("git", g.Mode, "give off, commit or pull-request")
	}
	for _, file := range r.names("gitFile", isPath, "give paths of files in the repository, by comma: helmfiles/jx-production/helmfile.yaml") {
		g.Files = append(g.Files, strings.TrimPrefix(file, "./"))
	}
	if path := r.text("gitPath"); path != "" {
		if g.Path = strings.Fields(path); len(g.Files) == 0 {
			r.add("gitPath", path, "give gitFile, too: the file that it is a path in")
		}
	}
	if g.Provider != "" && !slices.Contains(Providers, g.Provider) {
		r.add("gitProvider", g.Provider, "give one of %s", strings.Join(Providers, ", "))
	}
	if g.Repository == "" {
		return g
	}
	host, credentials := hostOf(g.Repository)
	switch {
	case credentials:
		r.add("gitRepository", "..."+g.Repository[strings.LastIndex(g.Repository, "@"):], "leave the password out of the address, and mount it as the Secret of gitSecret")
		g.Repository = ""
	case host == "":
		r.add("gitRepository", g.Repository, "give the address that git clone takes: https://..., ssh://... or git@host:path")
	case g.Mode == "pull-request" && g.Provider == "":
		for _, known := range [][2]string{{"github", "github"}, {"gitlab", "gitlab"}, {"bitbucket.org", "bitbucketcloud"}} {
			if strings.Contains(host, known[0]) {
				g.Provider = known[1]
			}
		}
		if g.Provider == "" {
			r.add("gitProvider", "", "whose server %s is cannot be told from its name: give one of %s, or git=commit", host, strings.Join(Providers, ", "))
		}
	}
	return g
}

// hostOf returns the host of an address as git clone takes it, "" where it is none, and whether there are credentials in it.
func hostOf(address string) (host string, credentials bool) {
	if user, rest, found := strings.Cut(address, "@"); found && !strings.Contains(address, "://") {
		host, path, _ := strings.Cut(rest, ":")
		if path == "" {
			host = ""
		}
		return host, strings.Contains(user, ":")
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", strings.Contains(address, "@")
	}
	if u.User != nil {
		_, has := u.User.Password()
		credentials = has || u.Scheme != "ssh"
	}
	if !slices.Contains([]string{"https", "http", "ssh"}, u.Scheme) || strings.Trim(u.Path, "/") == "" {
		return "", credentials
	}
	return u.Hostname(), credentials
}

// isPath knows the path of a file within a repository.
func isPath(path string) bool {
	return path != "" && !strings.HasPrefix(path, "/") && !slices.Contains(strings.Split(path, "/"), "..")
}
