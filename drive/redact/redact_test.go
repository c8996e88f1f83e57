package redact

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestSecret(t *testing.T) {
	const value = "tops3cr3tvalue"
	type inside struct {
		Key Secret
		P   *Secret
	}
	s := Secret(value)
	v := inside{s, &s}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s, "v", v)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s, "v", v)
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	for _, said := range []string{fmt.Sprint(s, v), fmt.Sprintf("%s %q %v %+v %#v %x %d", s, s, v, v, v, s, any(s)), string(b), log.String(), fmt.Errorf("%v", v).Error()} {
		if strings.Contains(said, value) || strings.Contains(said, fmt.Sprintf("%x", value)) {
			t.Errorf("told: %s", said)
		}
	}
	if s.Reveal() != value || Secret("").String() != "" {
		t.Error("the value is lost")
	}
}

func TestText(t *testing.T) {
	Hide("known-value-of-a-token/with+signs", "short", "")
	for _, test := range []struct{ text, want string }{
		{"nothing secret here", "nothing secret here"},
		{"Basic training.pdf, Bearer of news.txt: short", "Basic training.pdf, Bearer of news.txt: short"},
		{`code":"NAME_ALREADY_EXISTS"`, `code":"NAME_ALREADY_EXISTS"`},
		{strings.Repeat("a", 100) + ".txt", strings.Repeat("a", 100) + ".txt"},
		{"signature=contract.pdf token=2.txt", "signature=contract.pdf token=2.txt"},
		{"header Bearer Atza|IwEB-x_y was refused", "header Bearer [secret] was refused"},
		{"tokeninfo?access_token=Atza%7CIwEB", "tokeninfo?access_token=[secret]"},
		{`got {"access_token":"abc","refresh_token": "def"}`, `got {"access_token":[secret],"refresh_token": [secret]}`},
		{"POST /token?client_secret=s3cr3t&grant_type=x", "POST /token?client_secret=[secret]&grant_type=x"},
		{"client_id=a&client_secret=b", "client_id=a&client_secret=[secret]"},
		{"HTTP status code=401, /?code=ANdNAVhyhqirUelHGEHA&state=1", "HTTP status code=401, /?code=[secret]&state=1"},
		{"https://s3.example/k?X-Amz-Signature=ff&X-Amz-Credential=aa", "https://s3.example/k?X-Amz-Signature=[secret]&X-Amz-Credential=[secret]"},
		{"https://content/cdproxy/templink/IwEB?viewBox=3", "https://content/cdproxy/templink/[secret]?viewBox=3"},
		{"you sent 'known-value-of-a-token/with+signs', known-value-of-a-tok…", "you sent '[secret]', [secret]…"},
		{"?x=known-value-of-a-token%2Fwith%2Bsigns&", "?x=[secret]&"},
		{"known-value of another kind", "known-value of another kind"},
	} {
		if got := Text(test.text); got != test.want {
			t.Errorf("%q became %q, want %q", test.text, got, test.want)
		}
	}
	for i := range 2 * kept {
		Hide(fmt.Sprintf("filler-value-%06d", i))
	}
	if len(known.values) > kept {
		t.Errorf("%d values are kept", len(known.values))
	}
	if got := Text(fmt.Sprintf("filler-value-%06d", 2*kept-1)); got != Removed {
		t.Errorf("the latest is told: %s", got)
	}
}

func TestPrintable(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"Grüße 你好 👩‍👩‍👧.txt", "Grüße 你好 👩‍👩‍👧.txt"},
		{"a\x1b]0;title\x07b", `a\x1b]0;title\ab`},
		{"\x1b[2J\x9b1m\u009b1m", `\x1b[2J\x9b1m\u009b1m`},
		{"two\r\nlines\tand a tab", "two  lines and a tab"},
		{"txt.\u202eexe\u2066\ufeff\u2028", `txt.\u202eexe\u2066\ufeff\u2028`},
		{"bad \xff utf", `bad \xff utf`},
		{"\x7f\x00", `\x7f\x00`},
	} {
		if got := Printable(test.text); got != test.want {
			t.Errorf("%q became %q, want %q", test.text, got, test.want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1bb\xff")
	f.Fuzz(func(t *testing.T, s string) {
		p := Printable(s)
		if strings.ContainsFunc(p, odd) || Printable(p) != p {
			t.Errorf("%q became %q", s, p)
		}
	})
}
