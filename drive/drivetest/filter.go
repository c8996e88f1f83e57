package drivetest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The filter language of listings (§6.4): a recursive-descent parser for the
// Lucene-like grammar, and the evaluation of its tree.

const maxTerms = 8

// filter is a node of the tree: all or any of subs, or one term.
type filter struct {
	all, any []*filter
	term     *term
}

type term struct {
	field   string
	value   string
	anyCase bool // value is folded, and what it is compared with must be
	prefix  bool
	isSpan  bool
	span    span
}

// span is a range; nil bound = open.
type span struct {
	lo, hi         *int64
	loOpen, hiOpen bool
}

type filterParser struct {
	s         string
	i         int
	terms     int
	caseNames bool
}

// parseFilter of "" is a filter that everything meets.
func parseFilter(s string, caseNames bool) (*filter, *apiError) {
	if strings.TrimSpace(s) == "" {
		return &filter{}, nil
	}
	p := &filterParser{s: s, caseNames: caseNames}
	f, err := p.expr("")
	if err == nil && p.i < len(p.s) {
		err = fmt.Errorf("unexpected %q", p.s[p.i:])
	}
	if err == nil && p.terms > maxTerms {
		err = fmt.Errorf("more than %d terms", maxTerms)
	}
	if err != nil {
		return nil, badRequest("Invalid filter: %s (%s)", s, err)
	}
	return f, nil
}

func (p *filterParser) blank() {
	for p.i < len(p.s) && p.s[p.i] == ' ' {
		p.i++
	}
}

// word takes a connective if it comes next, in either case.
func (p *filterParser) word(w string) bool {
	p.blank()
	if end := p.i + len(w); end < len(p.s) && strings.EqualFold(p.s[p.i:end], w) && (p.s[end] == ' ' || p.s[end] == '(') {
		p.i = end
		return true
	}
	return false
}

// expr is a chain of terms, or of values of field when that is set. AND binds
// closer than OR.
func (p *filterParser) expr(field string) (*filter, error) {
	var any []*filter
	for {
		var all []*filter
		for {
			f, err := p.unit(field)
			if err != nil {
				return nil, err
			}
			all = append(all, f)
			if !p.word("AND") {
				break
			}
		}
		any = append(any, &filter{all: all})
		if !p.word("OR") {
			break
		}
	}
	p.blank()
	if len(any) == 1 {
		return any[0], nil
	}
	return &filter{any: any}, nil
}

func (p *filterParser) unit(field string) (*filter, error) {
	p.blank()
	if p.i < len(p.s) && p.s[p.i] == '(' {
		p.i++
		f, err := p.expr(field)
		if err != nil {
			return nil, err
		}
		if p.i >= len(p.s) || p.s[p.i] != ')' {
			return nil, fmt.Errorf("missing )")
		}
		p.i++
		return f, nil
	}
	if field != "" {
		return p.value(field)
	}
	colon := strings.IndexByte(p.s[p.i:], ':')
	if colon < 0 {
		return nil, fmt.Errorf("missing colon")
	}
	name := strings.TrimSpace(p.s[p.i : p.i+colon])
	p.i += colon + 1
	if name == "parentIds" { // older text
		name = "parents"
	}
	if _, ok := fields[name]; !ok {
		return nil, fmt.Errorf("unknown field %q", name)
	}
	p.terms++
	if p.i < len(p.s) && p.s[p.i] == '(' {
		return p.unit(name)
	}
	return p.value(name)
}

// what a field permits.
type fieldRule struct{ prefix, span, date, sort bool }

var fields = map[string]fieldRule{
	"isRoot": {}, "name": {prefix: true, sort: true}, "kind": {prefix: true, sort: true}, "status": {sort: true}, "parents": {},
	"createdDate": {span: true, date: true, sort: true}, "modifiedDate": {span: true, date: true, sort: true},
	"labels": {}, "description": {},
	"contentProperties.size":        {span: true, sort: true},
	"contentProperties.contentType": {prefix: true, sort: true}, "contentProperties.md5": {},
	"contentProperties.contentDate": {span: true, date: true, sort: true}, "contentProperties.extension": {sort: true},
}

func (p *filterParser) value(field string) (*filter, error) {
	rule := fields[field]
	if p.i >= len(p.s) {
		return nil, fmt.Errorf("missing value of %s", field)
	}
	t := &term{field: field}
	switch c := p.s[p.i]; c {
	case '[', '{':
		if !rule.span {
			return nil, fmt.Errorf("%s takes no range", field)
		}
		sp, err := p.span(rule)
		if err != nil {
			return nil, err
		}
		t.isSpan, t.span = true, sp
		return &filter{term: t}, nil
	case '"':
		p.i++
		v, _, closed := p.text('"', rule)
		if !closed {
			return nil, fmt.Errorf("missing closing quote")
		}
		p.i++
		t.value = v
	default:
		v, star, _ := p.text(0, rule)
		t.value, t.prefix = v, star
		if v == "" {
			return nil, fmt.Errorf("missing value of %s", field)
		}
	}
	if t.prefix && !rule.prefix {
		return nil, fmt.Errorf("%s takes no prefix", field)
	}
	if rule.span { // equality of a date or number is a range of one
		v, err := scalar(t.value, rule)
		if err != nil {
			return nil, err
		}
		t.isSpan, t.span = true, span{lo: &v, hi: &v}
	}
	if field == "isRoot" && t.value != "true" && t.value != "false" {
		return nil, fmt.Errorf("isRoot is true or false")
	}
	if field == "name" && !p.caseNames {
		t.value, t.anyCase = fold(t.value), true
	}
	return &filter{term: t}, nil
}

// text reads up to an unescaped end: a closing quote, or (end 0) a blank, a
// parenthesis or the end. star = an unescaped * closed a bare word.
func (p *filterParser) text(end byte, rule fieldRule) (v string, star, closed bool) {
	var b strings.Builder
	for p.i < len(p.s) {
		c := p.s[p.i]
		switch {
		case c == '\\' && p.i+1 < len(p.s):
			p.i++
			b.WriteByte(p.s[p.i])
		case end != 0 && c == end:
			return b.String(), false, true
		case end == 0 && (c == ' ' || c == ')' || c == ']' && rule.span || c == '}' && rule.span):
			return b.String(), false, true
		case end == 0 && c == '*' && (p.i+1 == len(p.s) || p.s[p.i+1] == ' ' || p.s[p.i+1] == ')'):
			p.i++
			return b.String(), true, true
		default:
			b.WriteByte(c)
		}
		p.i++
	}
	return b.String(), false, end == 0
}

func (p *filterParser) span(rule fieldRule) (sp span, err error) {
	sp.loOpen = p.s[p.i] == '{'
	p.i++
	if sp.lo, err = p.bound(rule); err != nil {
		return sp, err
	}
	if !p.word("TO") {
		return sp, fmt.Errorf("missing TO")
	}
	if sp.hi, err = p.bound(rule); err != nil {
		return sp, err
	}
	p.blank()
	if p.i >= len(p.s) || p.s[p.i] != ']' && p.s[p.i] != '}' {
		return sp, fmt.Errorf("missing end of range")
	}
	sp.hiOpen = p.s[p.i] == '}'
	p.i++
	return sp, nil
}

func (p *filterParser) bound(rule fieldRule) (*int64, error) {
	p.blank()
	var raw string
	if p.i < len(p.s) && p.s[p.i] == '"' {
		p.i++
		v, _, closed := p.text('"', rule)
		if !closed {
			return nil, fmt.Errorf("missing closing quote")
		}
		p.i++
		raw = v
	} else {
		v, star, _ := p.text(0, rule)
		if star && v == "" || v == "*" {
			return nil, nil
		}
		raw = v
	}
	v, err := scalar(raw, rule)
	return &v, err
}

// scalar is a date in ms or a number.
func scalar(s string, rule fieldRule) (int64, error) {
	if !rule.date {
		return strconv.ParseInt(s, 10, 64)
	}
	t, err := time.Parse(time.RFC3339, s)
	return t.UnixMilli(), err
}

// match says whether n, as a listing sees it, meets the filter.
func (f *filter) match(n *node) bool {
	switch {
	case f.term != nil:
		return f.term.match(n)
	case f.any != nil:
		return slices.ContainsFunc(f.any, func(s *filter) bool { return s.match(n) })
	}
	return !slices.ContainsFunc(f.all, func(s *filter) bool { return !s.match(n) })
}

func (t *term) match(n *node) bool {
	if t.isSpan {
		v, ok := t.number(n)
		return ok && t.span.contains(v)
	}
	switch t.field {
	case "isRoot":
		return n.isRoot == (t.value == "true")
	case "name":
		if t.anyCase {
			return t.equal(fold(n.name))
		}
		return t.equal(n.name)
	case "kind":
		return t.equal(n.kind)
	case "status":
		return t.equal(n.status)
	case "parents":
		return slices.Contains(n.parents, t.value)
	case "labels":
		return slices.Contains(n.labels, t.value)
	case "description":
		return n.description == t.value
	}
	if n.content == nil {
		return false
	}
	switch t.field {
	case "contentProperties.contentType":
		return t.equal(n.content.contentType)
	case "contentProperties.md5":
		return hex.EncodeToString(n.content.md5[:]) == t.value
	case "contentProperties.extension":
		return n.content.ext == t.value
	}
	return false
}

func (t *term) equal(s string) bool {
	return s == t.value || t.prefix && strings.HasPrefix(s, t.value)
}

func (t *term) number(n *node) (int64, bool) { return numberOf(t.field, n) }

func numberOf(field string, n *node) (int64, bool) {
	switch field {
	case "createdDate":
		return n.created, true
	case "modifiedDate":
		return n.modified, true
	}
	if n.content == nil {
		return 0, false
	}
	switch field {
	case "contentProperties.size":
		return n.content.size, true
	case "contentProperties.contentDate":
		return n.content.date, true
	}
	return 0, false
}

func (s span) contains(v int64) bool {
	if s.lo != nil && (v < *s.lo || s.loOpen && v == *s.lo) {
		return false
	}
	return s.hi == nil || v < *s.hi || !s.hiOpen && v == *s.hi
}

// required is the value that every match has in this field, "" = none known.
// It lets a listing start at an index.
func (f *filter) required(field string) string {
	if t := f.term; t != nil {
		if t.field == field && !t.prefix && !t.isSpan {
			return t.value
		}
		return ""
	}
	for _, s := range f.all {
		if v := s.required(field); v != "" {
			return v
		}
	}
	return ""
}

// mentions reports whether the filter asks about a field at all.
func (f *filter) mentions(field string) bool {
	if f.term != nil {
		return f.term.field == field
	}
	is := func(s *filter) bool { return s.mentions(field) }
	return slices.ContainsFunc(f.all, is) || slices.ContainsFunc(f.any, is)
}

// order is one key of a sort parameter.
type order struct {
	field string
	desc  bool
}

// parseSort reads ["name ASC","contentProperties.size DESC"], quotes of either
// kind; a direction left out is DESC (§6.2).
func parseSort(s string) ([]order, *apiError) {
	if s == "" {
		return nil, nil
	}
	var keys []string
	if err := json.Unmarshal([]byte(strings.ReplaceAll(s, "'", `"`)), &keys); err != nil {
		return nil, badRequest("Invalid sort: %s", s)
	}
	var out []order
	for _, k := range keys {
		f, dir, _ := strings.Cut(strings.TrimSpace(k), " ")
		if !fields[f].sort || dir != "" && dir != "ASC" && dir != "DESC" {
			return nil, badRequest("Invalid sort: %s", s)
		}
		out = append(out, order{f, dir != "ASC"})
	}
	return out, nil
}

func compareBy(orders []order) func(a, b *node) int {
	return func(a, b *node) int {
		for _, o := range orders {
			c := compareField(o.field, a, b)
			if o.desc {
				c = -c
			}
			if c != 0 {
				return c
			}
		}
		return int(int64(a.num) - int64(b.num))
	}
}

func compareField(field string, a, b *node) int {
	if fields[field].span {
		x, _ := numberOf(field, a)
		y, _ := numberOf(field, b)
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	}
	text := func(n *node) string {
		switch field {
		case "name":
			return n.name
		case "kind":
			return n.kind
		case "status":
			return n.status
		}
		if n.content == nil {
			return ""
		}
		if field == "contentProperties.extension" {
			return n.content.ext
		}
		return n.content.contentType
	}
	return strings.Compare(text(a), text(b))
}
