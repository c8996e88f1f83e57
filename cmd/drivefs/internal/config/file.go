package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// entry is one key of the file: its value as text, and FILE:LINE.
type entry struct{ text, where string }

// mostFile bounds what is read: a configuration is a page, not a book.
const mostFile = 1 << 20

// readFile gives the table of one profile. Every table is checked, so that a
// mistake in another profile does not wait for its day.
func readFile(path, profile string) (map[string]entry, error) {
	st, err := os.Stat(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		return nil, &Error{Where: path, Err: err}
	}
	if st.Size() > mostFile {
		return nil, &Error{Where: path, Err: errors.New("too large for a configuration file")}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, &Error{Where: path, Err: err}
	}
	tables, err := parseFile(path, data)
	return tables[profile], err
}

// parseFile reads tables of scalars: [profile] name = value.
func parseFile(path string, data []byte) (map[string]map[string]entry, error) {
	var whole map[string]any // for the grammar and for keys given twice
	if err := toml.Unmarshal(data, &whole); err != nil {
		where := path
		if d := (*toml.DecodeError)(nil); errors.As(err, &d) {
			row, _ := d.Position()
			where = fmt.Sprintf("%s:%d", path, row)
		}
		return nil, &Error{Where: where, Err: err}
	}
	tables := map[string]map[string]entry{}
	var p unstable.Parser
	p.Reset(data)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		keys, line := keyOf(&p, e)
		where := fmt.Sprintf("%s:%d", path, line)
		switch e.Kind {
		case unstable.Table:
			if len(keys) != 1 {
				return nil, &Error{Where: where, Text: join(keys), Err: errors.New("a profile's table has a name without dots")}
			}
			if err := profileValue(new(string)).set(keys[0]); err != nil {
				return nil, &Error{Where: where, Text: keys[0], Err: err}
			}
			table = keys[0]
			tables[table] = map[string]entry{}
		case unstable.KeyValue:
			key := join(keys)
			if table == "" {
				return nil, &Error{Where: where, Text: key, Err: errors.New("settings belong below a profile: [default]")}
			}
			if err := known(key); err != nil {
				return nil, &Error{Where: where, Text: key, Err: err}
			}
			text, err := scalar(e.Value())
			if err == nil {
				err = find(key).assign(new(Config), where+": "+key, text)
			} else {
				err = &Error{Where: where + ": " + key, Err: err}
			}
			if err != nil {
				return nil, err
			}
			tables[table][key] = entry{text: text, where: where}
		default:
			return nil, &Error{Where: where, Text: join(keys), Err: errors.New("only tables of the form [profile] are known here")}
		}
	}
	if err := p.Error(); err != nil {
		return nil, &Error{Where: path, Err: err}
	}
	return tables, nil
}

// Profiles are the tables of the configuration file, none when it cannot be
// read.
func Profiles(env Env) []string {
	path := filepath.Join(FindPlaces(env).Config, "config.toml")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	tables, err := parseFile(path, data)
	if err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(tables))
}

func known(key string) error {
	if key == "profile" {
		return errors.New("the table's name is the profile")
	}
	if find(key) == nil {
		if near := Nearest(key); near != "" {
			return fmt.Errorf("unknown key, did you mean %q?", near)
		}
		return errors.New("unknown key")
	}
	return nil
}

func keyOf(p *unstable.Parser, e *unstable.Node) (keys []string, line int) {
	for it := e.Key(); it.Next(); {
		n := it.Node()
		if line == 0 {
			line = p.Shape(n.Raw).Start.Line
		}
		keys = append(keys, string(n.Data))
	}
	return keys, line
}

func join(keys []string) string {
	s := ""
	for i, k := range keys {
		if i > 0 {
			s += "."
		}
		s += k
	}
	return s
}

func scalar(n *unstable.Node) (string, error) {
	switch n.Kind {
	case unstable.String, unstable.Integer, unstable.Float, unstable.Bool:
		return string(n.Data), nil
	}
	return "", errors.New("expected a string, a number or a boolean")
}

// Nearest is the setting whose name differs least from key, "" when none is near.
func Nearest(key string) string {
	best, least := "", 3
	for i := range Settings {
		if d := Distance(key, Settings[i].Name); d < least {
			best, least = Settings[i].Name, d
		}
	}
	return best
}

// Distance is Levenshtein's, between two words.
func Distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		prev := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := prev
			if a[i] != b[j] {
				cost++
			}
			prev, row[j+1] = row[j+1], min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
