package gitops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/memory"

	ours "github.com/canary-tasks/canary-tasks/lib/config"
)

// Repository is an environment repository on a Git server.
type Repository struct {
	URL    string // https://..., ssh://... or git@host:path; a password in it is refused
	Branch string // "": the server's default
	// Secrets is the folder of a mounted Secret, "" for none: username and password, or
	// ssh-privatekey and known_hosts; ca.crt where the server's certificate is of a private
	// authority; insecure, which is "true", where the password may be sent to http://.
	Secrets string
	Author  string // NAME <ADDRESS> of commits
	// Provider is whose server it is, for pull requests, as go-scm calls it: github, gitlab, ...
	Provider string
}

// Change is what to put right.
type Change struct {
	Version
	Files   []string // that may have the version: the first that exists and has it
	From    string   // the version that was rolled back
	To      string   // the version that serves; "": the one that the file said before
	Message string   // of the commit
}

// Done is what was changed.
type Done struct {
	Edit
	To          string
	Branch      string // that the change is on
	Commit      string // "" where nothing was changed
	PullRequest string // its address
}

// ErrNoHistory says that no earlier version was found.
var ErrNoHistory = errors.New("the file's history has no earlier version")

// Limits of a change.
const (
	attempts     = 8   // while others push, too
	historyDepth = 500 // commits in which an earlier version is looked for
)

// errMoved is the error for a branch that somebody else pushed to in the meantime.
var errMoved = errors.New("somebody else pushed meanwhile")

// Show plans a change, and makes none. The error is that of Commit.
func (r Repository) Show(ctx context.Context, c Change) (Done, error) {
	return r.with(func(a access) (Done, error) {
		e, err := r.edit(ctx, c, a)
		return Done{Edit: e.Edit, To: e.to}, err
	})
}

// Commit makes a change on the branch: it edits the one line on the newest commit, and does so
// again where somebody pushed in between. It never forces a push. The error is ErrNotThere,
// ErrAlready, ErrMovedOn or ErrNoHistory, where there is nothing to change, or says what the server
// refused.
func (r Repository) Commit(ctx context.Context, c Change) (Done, error) {
	return r.with(func(a access) (Done, error) { return r.commit(ctx, c, a) })
}

// commit is Commit with the credentials.
func (r Repository) commit(ctx context.Context, c Change, a access) (Done, error) {
	for attempt := 1; ; attempt++ {
		e, err := r.edit(ctx, c, a)
		done := Done{Edit: e.Edit, To: e.to}
		if err != nil {
			return done, err
		}
		err = e.push(ctx, a)
		switch {
		case err == nil:
			done.Branch, done.Commit = e.branch.Short(), e.after.String()
			return done, nil
		case !errors.Is(err, errMoved) || attempt == attempts || ctx.Err() != nil:
			return done, err
		}
		select {
		case <-time.After(time.Duration(attempt) * (100*time.Millisecond + rand.N(400*time.Millisecond))):
		case <-ctx.Done():
		}
	}
}

// edited is a change that was made in memory: a commit on top of a branch.
type edited struct {
	Edit
	to            string
	repository    *git.Repository
	branch        plumbing.ReferenceName
	before, after plumbing.Hash
}

// push sends the branch. What the server says of a push that lost a race differs between servers,
// so where one failed, the branch is looked at: it may have moved, or have arrived although the
// answer did not.
func (e edited) push(ctx context.Context, a access) error {
	err := e.repository.PushContext(ctx, &git.PushOptions{Auth: a.git, CABundle: a.ca,
		RefSpecs: []config.RefSpec{config.RefSpec(e.branch + ":" + e.branch)}})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("pushing to %s: %w", e.branch.Short(), err)
	switch now, failed := e.remote(ctx, a, e.branch); {
	case failed != nil, now == e.before:
		return err
	case now == e.after:
		return nil
	}
	return fmt.Errorf("%w: %w", errMoved, err)
}

// remote returns what a branch is on the server; zero where there is none.
func (e edited) remote(ctx context.Context, a access, branch plumbing.ReferenceName) (plumbing.Hash, error) {
	remote, err := e.repository.Remote(git.DefaultRemoteName)
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("finding the server: %w", err)
	}
	refs, err := remote.ListContext(ctx, &git.ListOptions{Auth: a.git, CABundle: a.ca})
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("listing the branches: %w", err)
	}
	for _, ref := range refs {
		if ref.Name() == branch {
			return ref.Hash(), nil
		}
	}
	return plumbing.ZeroHash, nil
}

// edit clones the repository and commits the change, in memory.
func (r Repository) edit(ctx context.Context, c Change, a access) (edited, error) {
	depth := 1
	if c.To == "" {
		depth = historyDepth
	}
	repository, branch, commit, err := r.clone(ctx, a, depth)
	if err != nil {
		return edited{}, err
	}
	file, content, err := c.find(commit)
	if err != nil {
		return edited{}, err
	}
	if c.To == "" {
		if now, err := c.Find(content); err == nil && now != c.From {
			return edited{}, movedOn(now, c.From, c.App, file)
		}
		if c.To, err = c.earlier(commit, file); err != nil {
			return edited{}, err
		}
	}
	next, edit, err := c.Set(file, content, c.From, c.To)
	if err != nil {
		return edited{to: c.To}, err
	}
	hash, err := r.commitFile(repository, branch, commit, file, next, c.Message)
	if err != nil {
		return edited{}, err
	}
	return edited{Edit: edit, to: c.To, repository: repository, branch: branch, before: commit.Hash, after: hash}, nil
}

// clone fetches so many commits of the branch into memory. It returns the branch and its newest
// commit, too.
func (r Repository) clone(ctx context.Context, a access, depth int) (
	repository *git.Repository, branch plumbing.ReferenceName, newest *object.Commit, err error) {
	options := &git.CloneOptions{URL: r.URL, Auth: a.git, CABundle: a.ca,
		Depth: depth, SingleBranch: true, NoCheckout: true, Tags: git.NoTags}
	if r.Branch != "" {
		options.ReferenceName = plumbing.NewBranchReferenceName(r.Branch)
	}
	repository, err = git.CloneContext(ctx, memory.NewStorage(), nil, options)
	if err != nil {
		return nil, "", nil, fmt.Errorf("cloning the environment repository: %w", err)
	}
	head, err := repository.Head()
	if err != nil {
		return nil, "", nil, fmt.Errorf("reading the branch: %w", err)
	}
	newest, err = repository.CommitObject(head.Hash())
	if err != nil {
		return nil, "", nil, fmt.Errorf("reading the newest commit: %w", err)
	}
	return repository, head.Name(), newest, nil
}

// commitFile puts a commit on top of a branch in which one file has another content. It returns the
// hash of the commit.
func (r Repository) commitFile(repository *git.Repository, branch plumbing.ReferenceName, parent *object.Commit,
	file string, content []byte, message string) (plumbing.Hash, error) {
	store := repository.Storer
	blob, err := put(store.NewEncodedObject(), plumbing.BlobObject,
		func(w io.Writer) error { _, err := w.Write(content); return err }, store.SetEncodedObject)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	tree, err := parent.Tree()
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("reading the newest commit: %w", err)
	}
	root, err := replace(repository, tree, strings.Split(file, "/"), blob)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	who := r.signature()
	o := store.NewEncodedObject()
	if err := (&object.Commit{
		Author: who, Committer: who, Message: message, TreeHash: root,
		ParentHashes: []plumbing.Hash{parent.Hash}}).Encode(o); err != nil {
		return plumbing.ZeroHash, fmt.Errorf("making the commit: %w", err)
	}
	hash, err := store.SetEncodedObject(o)
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("making the commit: %w", err)
	}
	if err := store.SetReference(plumbing.NewHashReference(branch, hash)); err != nil {
		return plumbing.ZeroHash, fmt.Errorf("making the commit: %w", err)
	}
	return hash, nil
}

// find returns the first of the files that has the version. With a Path that may be any
// application's, there must be exactly one.
func (c Change) find(commit *object.Commit) (file string, content []byte, err error) {
	for _, name := range c.Files {
		text, err := read(commit, name)
		if errors.Is(err, object.ErrFileNotFound) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		switch _, err := c.Find(text); {
		case errors.Is(err, ErrNotThere):
			continue
		case err != nil:
			return "", nil, fmt.Errorf("%s: %w", name, err)
		case c.Path == nil:
			return name, text, nil
		case file != "":
			return "", nil, fmt.Errorf(
				"both %s and %s have %s: name one in gitFile", file, name, strings.Join(c.Path, " "))
		}
		file, content = name, text
	}
	if file == "" {
		return "", nil, fmt.Errorf("%w: %s of namespace %s in %s",
			ErrNotThere, c.App, cmp.Or(c.Namespace, "any"), strings.Join(c.Files, ", "))
	}
	return file, content, nil
}

// read returns the content of a file of a commit.
func read(commit *object.Commit, name string) ([]byte, error) {
	f, err := commit.File(name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	text, err := f.Contents()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return []byte(text), nil
}

// earlier is the version that the file said before the one that was rolled back, along the first
// parents.
func (c Change) earlier(commit *object.Commit, file string) (string, error) {
	for {
		content, err := read(commit, file)
		if err != nil {
			break
		}
		if version, err := c.Find(content); err == nil && version != c.From {
			if !ours.IsVersion(version) {
				return "", fmt.Errorf("%w: of %s before %s, in %s, there is %q: set it by hand",
					ErrNoHistory, c.App, c.From, file, shorten(version))
			}
			return version, nil
		}
		if commit, err = commit.Parent(0); err != nil { // the beginning, or what was not fetched
			break
		}
	}
	return "", fmt.Errorf("%w: of %s before %s, in %s: give the version that serves", ErrNoHistory, c.App, c.From, file)
}

// replace returns the hash of a tree in which one file is another.
func replace(repository *git.Repository, tree *object.Tree, names []string, blob plumbing.Hash) (plumbing.Hash, error) {
	next := object.Tree{Entries: slices.Clone(tree.Entries)}
	i := slices.IndexFunc(next.Entries, func(e object.TreeEntry) bool { return e.Name == names[0] })
	if i < 0 {
		return plumbing.ZeroHash, fmt.Errorf("%w: %s", object.ErrFileNotFound, path.Join(names...))
	}
	if len(names) == 1 {
		next.Entries[i].Hash = blob
	} else {
		if next.Entries[i].Mode != filemode.Dir {
			return plumbing.ZeroHash, fmt.Errorf("%s is no folder", names[0])
		}
		child, err := repository.TreeObject(next.Entries[i].Hash)
		if err != nil {
			return plumbing.ZeroHash, fmt.Errorf("reading folder %s: %w", names[0], err)
		}
		if next.Entries[i].Hash, err = replace(repository, child, names[1:], blob); err != nil {
			return plumbing.ZeroHash, err
		}
	}
	o := repository.Storer.NewEncodedObject()
	if err := next.Encode(o); err != nil {
		return plumbing.ZeroHash, fmt.Errorf("writing a folder: %w", err)
	}
	hash, err := repository.Storer.SetEncodedObject(o)
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("writing a folder: %w", err)
	}
	return hash, nil
}

// put stores an object that is written as it is.
func put(o plumbing.EncodedObject, kind plumbing.ObjectType, write func(io.Writer) error,
	store func(plumbing.EncodedObject) (plumbing.Hash, error)) (plumbing.Hash, error) {
	o.SetType(kind)
	w, err := o.Writer()
	if err == nil {
		err = errors.Join(write(w), w.Close())
	}
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("writing the file: %w", err)
	}
	hash, err := store(o)
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("writing the file: %w", err)
	}
	return hash, nil
}

// signature is the author of commits, now.
func (r Repository) signature() object.Signature {
	name, address, _ := strings.Cut(r.Author, "<")
	return object.Signature{Name: strings.TrimSpace(name), Email: strings.Trim(address, "<> "), When: time.Now()}
}
