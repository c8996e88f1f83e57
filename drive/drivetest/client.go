package drivetest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
)

// Client is somebody else working in the same drive: the web site, another
// machine. It acts at once, past faults, latency and tokens, and what it does
// appears in the changes feed like everything else. Paths are those of the
// drive, with or without a leading slash, and need not match in case.
type Client struct{ s *Server }

const elseOwner = "CloudDriveWeb"

// Else is the second client.
func (s *Server) Else() *Client { return &Client{s} }

// ErrNotFound: no such node or path.
var ErrNotFound = errors.New("no such node")

func result(n *node, e *apiError) (Node, error) {
	if e != nil {
		if e.status == 404 {
			return Node{}, fmt.Errorf("%w: %s", ErrNotFound, e.message)
		}
		return Node{}, e
	}
	return n.export(), nil
}

// Root is the id of the root.
func (c *Client) Root() string { return c.s.st.root.id }

// Mkdir makes a folder; parentID "" is the root.
func (c *Client) Mkdir(parentID, name string) (Node, error) {
	return result(c.s.st.createNode(newNode{Name: name, Kind: KindFolder, Parents: c.parents(parentID), createdBy: elseOwner}, nil))
}

func (c *Client) parents(id string) []string {
	if id == "" {
		id = c.Root()
	}
	return []string{id}
}

// MkdirAll makes a folder and those above it that are missing.
func (c *Client) MkdirAll(p string) (Node, error) {
	n, err := c.Get(c.Root())
	for name := range pathSteps(p) {
		if name == "" || err != nil {
			continue
		}
		child, ok := c.child(n.ID, name)
		if !ok {
			child, err = c.Mkdir(n.ID, name)
		} else if child.Kind != KindFolder {
			err = fmt.Errorf("%s is not a folder", name)
		}
		n = child
	}
	return n, err
}

// pathSteps are the names on the way, "" alone for the root.
func pathSteps(p string) iter.Seq[string] {
	return strings.SplitSeq(path.Clean("/" + p)[1:], "/")
}

func (c *Client) child(parent, name string) (Node, bool) {
	st := c.s.st
	st.mu.RLock()
	defer st.mu.RUnlock()
	n := st.names[nameKey{parent, fold(name)}]
	if n == nil {
		return Node{}, false
	}
	return n.export(), true
}

func (c *Client) receive(name string, r io.Reader) (*content, error) {
	in, err := c.s.st.blobs.create()
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(in, r); err != nil {
		in.drop()
		return nil, err
	}
	return in.keep(typeByName(name), name, c.s.st.stamp())
}

// Put makes a file; parentID "" is the root. A taken name is an error.
func (c *Client) Put(parentID, name string, r io.Reader) (Node, error) {
	ct, err := c.receive(name, r)
	if err != nil {
		return Node{}, err
	}
	n, e := c.s.st.createNode(newNode{Name: name, Kind: KindFile, Parents: c.parents(parentID), createdBy: elseOwner}, ct)
	if e != nil {
		c.s.st.blobs.remove(ct.blob)
	}
	return result(n, e)
}

// PutPath writes a file, makes the folders above it, and overwrites what is there.
func (c *Client) PutPath(p string, b []byte) (Node, error) {
	if n, err := c.Lookup(p); err == nil {
		return c.Overwrite(n.ID, bytes.NewReader(b))
	}
	dir, err := c.MkdirAll(path.Dir("/" + p))
	if err != nil {
		return Node{}, err
	}
	return c.Put(dir.ID, path.Base(p), bytes.NewReader(b))
}

// Overwrite replaces the content of a file.
func (c *Client) Overwrite(id string, r io.Reader) (Node, error) {
	n := c.s.st.get(id)
	if n == nil {
		return result(nil, notFound(id))
	}
	ct, err := c.receive(n.name, r)
	if err != nil {
		return Node{}, err
	}
	out, e := c.s.st.setContent(id, ct, "")
	if e != nil {
		c.s.st.blobs.remove(ct.blob)
	}
	return result(out, e)
}

// Rename gives a node another name.
func (c *Client) Rename(id, name string) (Node, error) {
	return result(c.s.st.update(id, patch{Name: &name}, ""))
}

// Move replaces one parent by another.
func (c *Client) Move(id, from, to string) (Node, error) { return result(c.s.st.move(id, from, to)) }

// AddParent shows a node in one more folder.
func (c *Client) AddParent(id, parent string) (Node, error) {
	return result(c.s.st.addParent(id, parent))
}

// RemoveParent takes a node out of a folder.
func (c *Client) RemoveParent(id, parent string) (Node, error) {
	return result(c.s.st.removeParent(id, parent))
}

// Trash puts a node and what is below it into the trash.
func (c *Client) Trash(id string) (Node, error) { return result(c.s.st.trash(id)) }

// Restore takes a node out of the trash.
func (c *Client) Restore(id string) (Node, error) { return result(c.s.st.restore(id)) }

// Purge removes a node and what is below it for good, as only the web site
// and the thirty days could (§8.4).
func (c *Client) Purge(id string) error {
	_, err := result(c.s.st.purge(id))
	return err
}

// EmptyTrash purges what is in the trash, as the customer can on the web site.
func (c *Client) EmptyTrash() error {
	for {
		n := c.someTrash()
		if n == "" {
			return nil
		}
		if err := c.Purge(n); err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
	}
}

func (c *Client) someTrash() string {
	c.s.st.mu.RLock()
	defer c.s.st.mu.RUnlock()
	for id, n := range c.s.st.byID {
		if n.status == StatusTrash {
			return id
		}
	}
	return ""
}

// Touch changes a node's version, date and tag and nothing else, as the
// service's own media detection did (§5.2).
func (c *Client) Touch(id string) (Node, error) { return result(c.s.st.touch(id, nil)) }

// SetProperty sets a property of any owner; nil deletes it.
func (c *Client) SetProperty(id, owner, key string, value *string) (Node, error) {
	return result(c.s.st.setProperty(id, owner, key, value))
}

// PutRaw makes a node the service's own calls would not: nameless, PENDING or
// without content, of unknown kind, an ASSET below a file, without parents,
// with the name of a sibling, with members no client knows. It checks
// nothing; only the content is the server's (n.Content says which properties
// it has, its bytes are n.Content.Size zeros when Size is positive). Zero ID,
// Status, Kind, Version and dates are filled in; nil Parents are the root,
// empty ones are none.
func (c *Client) PutRaw(n Node) (Node, error) {
	raw := &node{
		id: n.ID, name: n.Name, kind: n.Kind, status: n.Status, version: n.Version, parents: slices.Clone(n.Parents), createdBy: n.CreatedBy,
		description: n.Description, labels: n.Labels, props: n.Properties, exclTrashed: n.ExclusivelyTrashed, recTrashed: n.RecursivelyTrashed,
	}
	if raw.kind == "" {
		raw.kind = KindFile
	}
	if raw.createdBy == "" {
		raw.createdBy = elseOwner
	}
	if n.Parents == nil {
		raw.parents = c.parents("")
	}
	if !n.Created.IsZero() {
		raw.created = n.Created.UnixMilli()
	}
	if !n.Modified.IsZero() {
		raw.modified = n.Modified.UnixMilli()
	}
	for k, v := range n.Extra {
		b, err := json.Marshal(map[string]any{k: v})
		if err != nil {
			return Node{}, err
		}
		raw.extra += "," + string(b[1:len(b)-1])
	}
	if n.Content != nil {
		ct, err := c.receive(n.Name, io.LimitReader(zeros{}, n.Content.Size))
		if err != nil {
			return Node{}, err
		}
		if n.Content.ContentType != "" {
			ct.contentType = n.Content.ContentType
		}
		ct.version = max(1, n.Content.Version)
		raw.content = ct
	}
	t, e := c.s.st.begin()
	if e != nil {
		return Node{}, e
	}
	if t.byID[raw.id] != nil {
		t.abort()
		return Node{}, fmt.Errorf("node %s exists", raw.id)
	}
	return result(t.finish(t.create(raw)))
}

// Get returns a node that is not purged.
func (c *Client) Get(id string) (Node, error) {
	n := c.s.st.get(id)
	if n == nil {
		return result(nil, notFound(id))
	}
	return n.export(), nil
}

// Lookup finds a live node by its path, in any case.
func (c *Client) Lookup(p string) (Node, error) {
	n, err := c.Get(c.Root())
	for name := range pathSteps(p) {
		if name == "" || err != nil {
			continue
		}
		var ok bool
		if n, ok = c.child(n.ID, name); !ok {
			return Node{}, fmt.Errorf("%w: %s", ErrNotFound, p)
		}
	}
	return n, err
}

// Children are the live nodes of a folder in the order they were made.
func (c *Client) Children(id string) []Node {
	st := c.s.st
	st.mu.RLock()
	defer st.mu.RUnlock()
	var out []Node
	for _, n := range st.kids(id) {
		if n.live() {
			out = append(out, n.export())
		}
	}
	return out
}

// Tree is every live node by its path ("a/b", the root is ""). A node with
// several parents is there several times; of twins the younger is missing.
func (c *Client) Tree() map[string]Node {
	st := c.s.st
	st.mu.RLock()
	defer st.mu.RUnlock()
	out := map[string]Node{"": st.root.export()}
	var walk func(id, prefix string)
	walk = func(id, prefix string) {
		for _, n := range st.kids(id) {
			p := prefix + n.name
			if _, twin := out[p]; !n.live() || n.name == "" || n.kind == KindAsset || twin {
				continue
			}
			out[p] = n.export()
			walk(n.id, p+"/")
		}
	}
	walk(st.root.id, "")
	return out
}

// TrashList are the nodes that were trashed by themselves.
func (c *Client) TrashList() []Node {
	st := c.s.st
	st.mu.RLock()
	defer st.mu.RUnlock()
	var out []Node
	for _, n := range st.byID {
		if n.status == StatusTrash && n.exclTrashed {
			out = append(out, n.export())
		}
	}
	slices.SortFunc(out, func(a, b Node) int { return strings.Compare(a.Name+a.ID, b.Name+b.ID) })
	return out
}

// Open reads the content of a file.
func (c *Client) Open(id string) (io.ReadCloser, error) {
	n := c.s.st.get(id)
	if n == nil {
		_, err := result(nil, notFound(id))
		return nil, err
	}
	if n.content == nil {
		return nil, fmt.Errorf("node %s has no content", id)
	}
	f, err := c.s.st.blobs.open(n.content.blob)
	if errors.Is(err, os.ErrNotExist) { // overwritten meanwhile
		if n = c.s.st.get(id); n != nil && n.content != nil {
			f, err = c.s.st.blobs.open(n.content.blob)
		}
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// ReadFile reads a whole file by its path.
func (c *Client) ReadFile(p string) ([]byte, error) {
	n, err := c.Lookup(p)
	if err != nil {
		return nil, err
	}
	r, err := c.Open(n.ID)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
