package otherdrive

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
)

// Entry is a live file or folder by its path.
type Entry struct {
	ID, Kind, Name string
	Version        int
	Size           int64
	MD5            string
	file           string
}

// Data is a file's whole content.
func (e Entry) Data() ([]byte, error) { return os.ReadFile(e.file) }

// Tree is what is live, by path without leading slash. Two nodes of one name
// are told with the id added.
func (s *Server) Tree() map[string]Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]Entry{}
	var walk func(id, prefix string)
	walk = func(id, prefix string) {
		for _, c := range s.order {
			n := s.nodes[c]
			if n.status != "AVAILABLE" || n.name == "" || (n.kind != "FILE" && n.kind != "FOLDER") || !slices.Contains(n.parents, id) {
				continue
			}
			p := prefix + n.name
			if _, ok := out[p]; ok {
				p += " (twice: " + n.id + ")"
			}
			e := Entry{ID: n.id, Kind: n.kind, Name: n.name, Version: n.version}
			if n.content != nil {
				e.Size, e.MD5, e.file = n.content.size, n.content.md5, n.content.path
			}
			out[p] = e
			if n.kind == "FOLDER" {
				walk(n.id, p+"/")
			}
		}
	}
	walk(s.root, "")
	return out
}

// Trashed are the names of what was trashed by itself.
func (s *Server) Trashed() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, id := range s.order {
		if n := s.nodes[id]; n.status == "TRASH" && n.alone {
			out = append(out, n.name)
		}
	}
	return out
}

// Check looks for what must never be on a drive.
func (s *Server) Check() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]string{}
	for _, id := range s.order {
		n := s.nodes[id]
		if !s.alive(n) || n.isRoot || n.name == "" || (n.kind != "FILE" && n.kind != "FOLDER") {
			continue
		}
		for _, p := range n.parents {
			key := p + "/" + s.fold(n.name)
			if other, ok := seen[key]; ok {
				return fmt.Errorf("%s and %s are both %q", other, n.id, n.name)
			}
			seen[key] = n.id
		}
	}
	return nil
}

func (s *Server) lookup(p string) (*node, error) {
	n := s.nodes[s.root]
	for part := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if part == "" || part == "." {
			continue
		}
		c := s.clash(n.id, part, "")
		if c == nil {
			return nil, fmt.Errorf("%s: %w", p, os.ErrNotExist)
		}
		n = c
	}
	return n, nil
}

// Mkdir, Put, Move and Trash are another program's doings.
func (s *Server) Mkdir(p string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	parent, err := s.lookup(path.Dir(p))
	if err != nil {
		return err
	}
	s.add(&node{id: s.newID(), name: path.Base(p), kind: "FOLDER", status: "AVAILABLE", parents: []string{parent.id}, createdBy: "CloudDriveWeb"})
	return nil
}

func (s *Server) Put(p string, data []byte) error {
	file := s.newFile()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return err
	}
	sum := md5.Sum(data)
	s.mu.Lock()
	defer s.mu.Unlock()
	parent, err := s.lookup(path.Dir(p))
	if err != nil {
		return err
	}
	c := &content{path: file, size: int64(len(data)), md5: hex.EncodeToString(sum[:]), version: 1}
	if n := s.clash(parent.id, path.Base(p), ""); n != nil {
		c.version = n.content.version + 1
		n.content = c
		s.touch(n)
		return nil
	}
	s.add(&node{id: s.newID(), name: path.Base(p), kind: "FILE", status: "AVAILABLE", parents: []string{parent.id}, createdBy: "CloudDriveWeb", content: c})
	return nil
}

func (s *Server) Move(from, to string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.lookup(from)
	if err != nil {
		return err
	}
	parent, err := s.lookup(path.Dir(to))
	if err != nil {
		return err
	}
	n.name, n.parents = path.Base(to), []string{parent.id}
	s.touch(n)
	return nil
}

// EmptyTrash purges what is in the trash: the feed tells of it only to who
// asks for that (§8.4, §9.1).
func (s *Server) EmptyTrash() {
	s.mu.Lock()
	defer s.mu.Unlock()
	purge := func(n *node) {
		n.status, n.content, n.parents, n.alone, n.with = "PURGED", nil, nil, false, false
		s.touch(n)
	}
	for _, id := range s.order {
		if n := s.nodes[id]; n.status == "TRASH" {
			s.descend(n, func(c *node) {
				if !s.alive(c) {
					purge(c)
				}
			})
			purge(n)
		}
	}
}

func (s *Server) Trash(p string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.lookup(p)
	if err == nil {
		s.trashLocked(n)
	}
	return err
}
