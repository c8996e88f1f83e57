package otherdrive

import (
	"errors"
	"slices"
	"strconv"
	"strings"
)

// The grammar of §6.4, as far as equality, prefixes, groups, AND and OR go.

type predicate func(*node) bool

var errFilter = errors.New("syntax")

type filterParser struct {
	s    *Server
	rest string
	err  error
	or   bool // an OR or a group was met
}

func (s *Server) parseFilter(expr string) (predicate, error) {
	if strings.TrimSpace(expr) == "" {
		return nil, nil
	}
	p := &filterParser{s: s, rest: expr}
	f := p.chain(func() predicate { return p.term() })
	if p.err == nil && strings.TrimSpace(p.rest) != "" {
		p.err = errFilter
	}
	if p.err != nil {
		s.complainLocked("filter %q", expr)
		return nil, p.err
	}
	if p.or {
		switch s.opt.Groups {
		case "none":
			return func(*node) bool { return false }, nil
		case "400":
			return nil, errFilter
		}
	}
	return f, nil
}

func (p *filterParser) skip() { p.rest = strings.TrimLeft(p.rest, " ") }

func (p *filterParser) word(w string) bool {
	p.skip()
	if len(p.rest) > len(w) && strings.EqualFold(p.rest[:len(w)], w) && p.rest[len(w)] == ' ' {
		p.rest = p.rest[len(w):]
		return true
	}
	return false
}

func (p *filterParser) chain(one func() predicate) predicate {
	f := one()
	for p.err == nil {
		switch {
		case p.word("AND"):
			a, b := f, one()
			f = func(n *node) bool { return a(n) && b(n) }
		case p.word("OR"):
			p.or = true
			a, b := f, one()
			f = func(n *node) bool { return a(n) || b(n) }
		default:
			return f
		}
	}
	return f
}

func (p *filterParser) group(one func() predicate) predicate {
	p.or = true
	p.rest = p.rest[1:]
	f := p.chain(one)
	p.skip()
	if !strings.HasPrefix(p.rest, ")") {
		p.err = errFilter
		return f
	}
	p.rest = p.rest[1:]
	return f
}

func (p *filterParser) term() predicate {
	never := func(*node) bool { return false }
	if p.err != nil {
		return never
	}
	p.skip()
	if strings.HasPrefix(p.rest, "(") {
		return p.group(p.term)
	}
	i := strings.IndexByte(p.rest, ':')
	if i < 0 {
		p.err = errFilter
		return never
	}
	field := strings.TrimSpace(p.rest[:i])
	p.rest = p.rest[i+1:]
	if strings.HasPrefix(p.rest, "(") {
		return p.group(func() predicate { return p.value(field) })
	}
	return p.value(field)
}

func (p *filterParser) value(field string) predicate {
	p.skip()
	quoted := strings.HasPrefix(p.rest, `"`)
	if quoted {
		p.rest = p.rest[1:]
	}
	var b strings.Builder
	prefix, i, closed := false, 0, !quoted
	for ; i < len(p.rest); i++ {
		c := p.rest[i]
		if c == '\\' && i+1 < len(p.rest) {
			i++
			b.WriteByte(p.rest[i])
			continue
		}
		if quoted && c == '"' {
			i, closed = i+1, true
			break
		}
		if !quoted && (c == ' ' || c == ')') {
			break
		}
		if !quoted && c == '*' {
			prefix = true
			continue
		}
		if strings.IndexByte(`+&|!(){}[]^'"~*?:`, c) >= 0 {
			p.err = errFilter
		}
		b.WriteByte(c)
	}
	if !closed {
		p.err = errFilter
	}
	p.rest = p.rest[i:]
	want := b.String()
	equal := func(have string) bool {
		if prefix {
			return strings.HasPrefix(have, want)
		}
		return have == want
	}
	switch field {
	case "isRoot":
		return func(n *node) bool { return n.isRoot == (want == "true") }
	case "name":
		if p.s.opt.NameExact {
			return func(n *node) bool { return n.name != "" && equal(n.name) }
		}
		want = p.s.fold(want)
		return func(n *node) bool { return n.name != "" && equal(p.s.fold(n.name)) }
	case "kind":
		return func(n *node) bool { return equal(n.kind) }
	case "status":
		return func(n *node) bool { return equal(n.status) }
	case "parents":
		return func(n *node) bool { return slices.Contains(n.parents, want) }
	case "labels":
		return func(n *node) bool { return slices.Contains(n.labels, want) }
	case "description":
		return func(n *node) bool { return equal(n.description) }
	case "contentProperties.md5":
		return func(n *node) bool { return n.content != nil && equal(n.content.md5) }
	case "contentProperties.size":
		return func(n *node) bool { return n.content != nil && equal(strconv.FormatInt(n.content.size, 10)) }
	}
	p.err = errFilter
	return func(*node) bool { return false }
}
