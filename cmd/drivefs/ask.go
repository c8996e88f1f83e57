package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/drivefs/drivefs/cmd/drivefs/internal/show"
)

// interactive reports whether a person can be asked something.
func (p *program) interactive() bool {
	in, ok := p.stdin.(*os.File)
	return ok && term.IsTerminal(int(in.Fd())) && show.IsTerminal(p.stderr)
}

// mostAnswer bounds a line that somebody types or pastes, in bytes.
const mostAnswer = 16 << 10

// ask puts a question and gives the line that answers it, without blanks
// around it.
func (p *program) ask(ctx context.Context, question string) (string, error) {
	fmt.Fprint(p.stderr, question)
	return readLine(ctx, p.stdin)
}

// readLine reads one line; its end may be missing. It takes what is read
// ahead with it, so that only a terminal can be asked twice.
func readLine(ctx context.Context, r io.Reader) (string, error) {
	type line struct {
		text string
		err  error
	}
	got := make(chan line, 1)
	go func() { // a terminal's read ends with the process at the latest
		text, err := bufio.NewReader(io.LimitReader(r, mostAnswer)).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		got <- line{strings.TrimSpace(text), err}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case l := <-got:
		return l.text, l.err
	}
}
