package config

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Git says how the environment repository is put right after a rollback.
type Git struct {
	Mode        string   // off, commit or pull-request
	Repository  string   // address of the environment repository; "": there is none
	Branch      string   // "": the server's default
	Files       []string // where versions stand; nil: where Jenkins X keeps them
	Path        []string // to the version within the YAML; nil: as Jenkins X has it
	App         string   // as the file calls the application; "": as the target is called
	Environment string   // as jx promote calls it
	Provider    string   // whose pull requests they are, as go-scm calls it: github, gitlab, ...
}

// Providers are the servers that pull requests can be made on, as go-scm calls them.
var Providers = []string{"github", "gitlab", "gitea", "bitbucketcloud", "bitbucketserver"}

// git reads how Git is put right. canary-init checks it before anything is changed; rollback acts
// on it, and only once traffic is safe.
func (r *reader) git() Git {
	g := Git{Mode: r.text("git"), Repository: r.text("gitRepository"), Branch: r.text("gitBranch"),
		App:         r.text("gitApp"),
		Environment: r.name("gitEnvironment", ""), Provider: r.text("gitProvider")}
	if !slices.Contains([]string{"off", "commit", "pull-request"}, g.Mode) {
		r.add("git", g.Mode, "give off, commit or pull-request")
	}
	for _, file := range r.names(
		"gitFile", isPath, "give paths of files in the repository, by comma: helmfiles/jx-production/helmfile.yaml") {
		g.Files = append(g.Files, strings.TrimPrefix(file, "./"))
	}
	if g.App != "" && !IsApplication(g.App) {
		r.add("gitApp", g.App,
			"give the application's name in the file: at most 63 letters, digits, dashes, dots and underscores")
		g.App = ""
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
	host, err := HostOf(g.Repository)
	switch {
	case err != nil:
		r.add("gitRepository", shownAddress(g.Repository), "%v", err)
		g.Repository = ""
	case g.Mode == "pull-request" && g.Provider == "":
		if g.Provider = providerOf(host); g.Provider == "" {
			r.add("gitProvider", "", "whose server %s is cannot be told from its name: give one of %s, or git=commit",
				host, strings.Join(Providers, ", "))
		}
	}
	return g
}

// providerOf guesses the provider from the name of a host; "" where it cannot.
func providerOf(host string) (provider string) {
	for _, known := range [][2]string{
		{"github", "github"}, {"gitlab", "gitlab"}, {"bitbucket.org", "bitbucketcloud"}} {
		if strings.Contains(host, known[0]) {
			provider = known[1]
		}
	}
	return provider
}

// Errors of an address of a repository. They say what to do, and do not contain the address.
var (
	errNoAddress = errors.New("give the address that git clone takes: https://..., ssh://... or git@host:path")
	errPassword  = errors.New("leave the password out of the address, and mount it as the Secret of gitSecret")
	errToken     = errors.New("leave out what begins with ? or #; a token belongs into the Secret of gitSecret")
)

// HostOf returns the host of an address that git clone takes: https://HOST/PATH, http://,
// ssh://[USER@]HOST/PATH or USER@HOST:PATH. The error says what to do, and does not contain the
// address.
func HostOf(address string) (string, error) {
	if strings.ContainsFunc(
		address, func(c rune) bool { return unicode.IsSpace(c) || !unicode.IsPrint(c) || c == '\\' }) {
		return "", errNoAddress // with a backslash an address may be that of a file
	}
	if user, rest, found := strings.Cut(address, "@"); found && !strings.Contains(address, "://") {
		return scpHost(user, rest)
	}
	return urlHost(address)
}

// scpHost returns the host of an address in the form of scp: USER@HOST:PATH.
func scpHost(user, rest string) (string, error) {
	host, path, _ := strings.Cut(rest, ":")
	switch {
	case strings.Contains(user, ":"):
		return "", errPassword
	case !hostname.MatchString(host) || strings.Trim(path, "/") == "" || !gitUser.MatchString(user):
		return "", errNoAddress
	}
	return host, nil
}

// urlHost returns the host of the URL of a repository.
func urlHost(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		if strings.Contains(address, "@") {
			return "", errPassword
		}
		return "", errNoAddress
	}
	_, password := u.User.Password()
	known := slices.Contains([]string{"https", "http", "ssh"}, u.Scheme)
	switch {
	case password, u.User != nil && u.Scheme != "ssh":
		return "", errPassword
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "": // a token, as some servers take it
		return "", errToken
	case !known || strings.Trim(u.Path, "/") == "" || !hostname.MatchString(u.Hostname()):
		return "", errNoAddress
	}
	return u.Hostname(), nil
}

// shownAddress is what may be printed of an address, however it is wrong.
func shownAddress(address string) string {
	if i := strings.LastIndex(address, "@"); i >= 0 {
		address = "..." + address[i:]
	}
	if i := strings.IndexAny(address, "?#"); i >= 0 {
		address = address[:i] + "..."
	}
	return address
}

var (
	hostname = regexp.MustCompile(`^[A-Za-z0-9_:]([A-Za-z0-9._:-]*[A-Za-z0-9_])?$`) // IPv6 has colons
	gitUser  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

	// identifiers are those of a pre-release or a build, by periods.
	identifiers = `[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*`
	semantic    = regexp.MustCompile(
		`^v?(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}(-` + identifiers + `)?(\+` + identifiers + `)?$`)
	tag         = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)
	application = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
)

// maxVersion is how long a tag of an image may be.
const maxVersion = 128

// IsVersion reports whether a text is a version that may be written to Git: a semantic version,
// with or without v, or the tag of an image (https://semver.org,
// https://github.com/opencontainers/distribution-spec/blob/main/spec.md#pulling-manifests).
func IsVersion(text string) bool {
	return len(text) <= maxVersion && (semantic.MatchString(text) || tag.MatchString(text))
}

// IsApplication reports whether a text can be what Git calls an application: the name of a chart,
// or of a release of Helm.
func IsApplication(text string) bool { return len(text) <= 63 && application.MatchString(text) }

// isPath reports whether a text is the path of a file within a repository.
func isPath(path string) bool {
	return path != "" && !strings.HasPrefix(path, "/") && !slices.Contains(strings.Split(path, "/"), "..")
}
