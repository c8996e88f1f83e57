package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// mount(8)'s own words, which fstab may carry. Of these only noexec asks for
// something that is not so anyway.
var mountWords = []string{
	"defaults", "rw", "dev", "nodev", "suid", "nosuid", "atime", "noatime", "relatime", "norelatime", "strictatime",
	"_netdev", "auto", "noauto", "nofail", "user", "nouser", "users", "owner", "group", "async",
}

// Options takes the lists given by -o: the names of settings, with _ for - too,
// and mount(8)'s words. Unknown ones are refused.
func (f *Flags) Options(lists []string) error {
	for _, list := range lists {
		for word := range strings.SplitSeq(list, ",") {
			if err := f.option(strings.TrimSpace(word)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *Flags) option(word string) error {
	name, text, valued := strings.Cut(word, "=")
	switch {
	case word == "noexec" || word == "exec":
		f.noExec = word == "noexec"
		return nil
	case word == "" || slices.Contains(mountWords, name), strings.HasPrefix(word, "x-"), name == "comment":
		return nil
	case word == "ro":
		f.options["read-only"] = "true"
		return nil
	}
	name = strings.ReplaceAll(name, "_", "-")
	if name == "config" && valued {
		if f.file == "" {
			f.file = text
		}
		return nil
	}
	s := find(name)
	if s == nil || f.set.Lookup(name) == nil {
		err := errors.New("unknown mount option")
		if near := Nearest(name); near != "" {
			err = fmt.Errorf("unknown mount option, did you mean %q?", near)
		}
		return &Error{Where: "-o " + name, Err: err}
	}
	if !valued {
		if s.Meta != "" {
			return &Error{Where: "-o " + name, Err: fmt.Errorf("needs a value: %s=%s", name, s.Meta)}
		}
		text = "true"
	}
	if err := s.assign(new(Config), "-o "+name, text); err != nil {
		return err
	}
	f.options[name] = text
	return nil
}
