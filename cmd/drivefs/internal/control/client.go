package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
)

// Client speaks to the mount behind one socket.
type Client struct {
	path string
	uid  int // whose mount it is
	http *http.Client
}

// NewClient makes a client of this user's mount, without connecting.
func NewClient(path string) *Client { return NewClientOf(path, os.Geteuid()) }

// NewClientOf makes a client of the mount of the user uid.
func NewClientOf(path string, uid int) *Client {
	c := &Client{path: path, uid: uid}
	c.http = &http.Client{Transport: &http.Transport{DialContext: c.dial, DisableKeepAlives: true}}
	return c
}

func (c *Client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	addr := c.path
	if len(addr) > longest {
		dir, err := os.Open(filepath.Dir(c.path))
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		addr = short(dir, c.path)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", addr)
	if err != nil {
		return nil, err
	}
	if err := checkPeer(conn, c.uid); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Call asks for one verb and decodes its result into out, which may be nil.
// watch, which may be nil, gets the events that come before. Errors of the
// mount are *Fault; ErrNoMount when nothing listens there.
func (c *Client) Call(ctx context.Context, verb string, in, out any, watch func(Event)) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://mount/v1/"+verb, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return fmt.Errorf("%w at %s", ErrNoMount, c.path)
		}
		return fmt.Errorf("speaking to the mount at %s: %w", c.path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the mount does not know %q: it runs another version of drivefs", verb)
	}
	for dec := json.NewDecoder(bufio.NewReader(resp.Body)); ; {
		var e Event
		if err := dec.Decode(&e); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("the mount stopped answering: %w", err)
		}
		switch {
		case e.Fault != nil:
			return e.Fault
		case e.Result != nil:
			if out == nil {
				return nil
			}
			return json.Unmarshal(e.Result, out)
		case watch != nil:
			watch(e)
		}
	}
}
