package exit

import (
	"errors"
	"testing"
)

func TestMessage(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"Basic training.pdf: no such file", "Basic training.pdf: no such file"},
		{"two\nlines", "two; lines"},
		{"trash restore a\x1b]52;c;aGk=\x07b: gone", `trash restore a\x1b]52;c;aGk=\ab: gone`},
		{"token Atza|IwEB-x_y refused", "token [secret] refused"},
	} {
		if got := Message(errors.New(test.text)); got != test.want {
			t.Errorf("%q became %q, want %q", test.text, got, test.want)
		}
	}
}
