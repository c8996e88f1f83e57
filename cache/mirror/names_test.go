package mirror

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/drivefs/drivefs/drive"
)

func TestFold(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		one  bool
	}{
		{"README.txt", "readme.TXT", true},
		{"ÄÖÜ", "äöü", true},
		{"Привет", "пРИВЕТ", true},
		{"ΑΣ", "ας", false},          // final sigma is another letter
		{"ΑΣ", "ασ", true},           //
		{"straße", "STRASSE", false}, // no full folding
		{"straße", "STRAẞE", true},   // capital sharp s
		{"I", "ı", false},            // dotless i is a letter of its own
		{"I", "i", true},             //
		{"İ", "i", true},             // as the service does, rune by rune
		{"é", "e\u0301", false},      // no normalisation
		{"E\u0301", "e\u0301", true}, //
		{"𐐀", "𐐨", true},             // four bytes, Deseret
		{"😀", "😀", true},             //
		{"K", "k", true},             // Kelvin sign
		{"a／b", "a/b", false},        //
		{"", "", true},               //
		{"\xff", "\xfe", false},      // never equal by being wrong
	} {
		if got := Fold(tt.a) == Fold(tt.b); got != tt.one {
			t.Errorf("%q and %q are one name: %v", tt.a, tt.b, got)
		}
		for _, s := range []string{tt.a, tt.b} {
			if got := string(appendFold(nil, s)); got != Fold(s) || got != drive.Fold(s) {
				t.Errorf("%q folds to %q in a key, to %q elsewhere", s, got, Fold(s))
			}
			if Fold(Fold(s)) != Fold(s) {
				t.Errorf("%q folds twice", s)
			}
		}
	}
}

func TestShown(t *testing.T) {
	const id = "AbCdEfGhIjKlMnOpQrStUv"
	a255 := strings.Repeat("a", 251) + ".txt"
	for _, tt := range []struct {
		name, plain, taken string
	}{
		{"plain.txt", "plain.txt", "plain (AbCdEfGh).txt"},
		{"no extension", "no extension", "no extension (AbCdEfGh)"},
		{".bashrc", ".bashrc", ".bashrc (AbCdEfGh)"},
		{"a.tar.gz", "a.tar.gz", "a.tar (AbCdEfGh).gz"},
		{"trailing dot.", "trailing dot.", "trailing dot. (AbCdEfGh)"},
		{" blanks ", " blanks ", " blanks  (AbCdEfGh)"},
		{"-leading", "-leading", "-leading (AbCdEfGh)"},
		{"v1. final version", "v1. final version", "v1. final version (AbCdEfGh)"},
		{"a/b", "a／b", "a／b (AbCdEfGh)"},
		{"a／b", "a／b", "a／b (AbCdEfGh)"},
		{"a\x00b", "a␀b", "a␀b (AbCdEfGh)"},
		{".", "．", "． (AbCdEfGh)"},
		{"..", "．．", "．． (AbCdEfGh)"},
		{"...", "...", "... (AbCdEfGh)"},
		{a255, a255, strings.Repeat("a", 240) + " (AbCdEfGh).txt"},
		{"a" + a255, strings.Repeat("a", 240) + " (AbCdEfGh).txt", strings.Repeat("a", 240) + " (AbCdEfGh).txt"},
		{strings.Repeat("q", 256), strings.Repeat("q", 244) + " (AbCdEfGh)", strings.Repeat("q", 244) + " (AbCdEfGh)"},
		{strings.Repeat("q", 280), strings.Repeat("q", 244) + " (AbCdEfGh)", strings.Repeat("q", 244) + " (AbCdEfGh)"},
		{strings.Repeat("😀", 64), strings.Repeat("😀", 61) + " (AbCdEfGh)", strings.Repeat("😀", 61) + " (AbCdEfGh)"},
		{strings.Repeat("/", 86), strings.Repeat("／", 81) + " (AbCdEfGh)", strings.Repeat("／", 81) + " (AbCdEfGh)"},
	} {
		if got := Shown(tt.name, id, false); got != tt.plain {
			t.Errorf("%q shows as %q, want %q", tt.name, got, tt.plain)
		}
		if got := Shown(tt.name, id, true); got != tt.taken {
			t.Errorf("%q, taken, shows as %q, want %q", tt.name, got, tt.taken)
		}
		for level := range uint8(levelMax + 1) {
			got := shownAt(tt.name, id, level)
			if len(got) > NameMax || !utf8.ValidString(got) || needsMapping(got) || got == "" {
				t.Errorf("%q shows as %q (%d bytes) at level %d", tt.name, got, len(got), level)
			}
			for other := range level {
				if got == shownAt(tt.name, id, other) && !(other == 0 && isCut(tt.name)) {
					t.Errorf("%q shows alike at levels %d and %d", tt.name, level, other)
				}
			}
			// A name once shown stays what it is.
			if again := Shown(got, id, false); again != got {
				t.Errorf("%q shows as %q", got, again)
			}
		}
	}
	for _, odd := range []string{"", "/", "..", "\xff\xfe", strings.Repeat("i", 300)} {
		for level := range uint8(4) {
			if got := shownAt("name", odd, level); len(got) > NameMax || strings.ContainsAny(got, "/\x00") || !utf8.ValidString(got) {
				t.Errorf("with id %q: %q", odd, got)
			}
		}
	}
}

// TestTyped: what a user types is what the drive gets and what is shown again.
func TestTyped(t *testing.T) {
	for _, name := range []string{
		"a", "README", "a／b", "␀", "．", "．．", "...", " a ", "a.", "-rf", "a\\b", "a:b?*\"<>|'", "é", "e\u0301", "İı",
		strings.Repeat("x", 255), strings.Repeat("ä", 127), strings.Repeat("😀", 63), "name (id8).txt", "\n", "\x01",
	} {
		if err := ValidName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		if got := Shown(DriveName(name), "AbCdEfGhIjKlMnOpQrStUv", false); got != name {
			t.Errorf("%q was typed and shows as %q", name, got)
		}
	}
	for name, want := range map[string]error{
		"": ErrNameInvalid, ".": ErrNameInvalid, "..": ErrNameInvalid, "a/b": ErrNameInvalid, "a\x00b": ErrNameInvalid, "\xff": ErrNameInvalid,
		strings.Repeat("x", 256): drive.ErrNameTooLong, strings.Repeat("ä", 128): drive.ErrNameTooLong, strings.Repeat("x", 281): drive.ErrNameTooLong,
	} {
		if err := ValidName(name); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
	}
}
