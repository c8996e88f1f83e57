package main

import (
	"bytes"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRow(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    row
		want []string
		miss int
	}{
		{"a rate below its limit", row{"read", rate, 80 * mib, 100 * mib, 10 * mib, "", []target{{"limit", "≥", 0.9}, {"rclone", "≥", 8}}},
			[]string{"80 MiB/s", "limit ×0.80 (≥ 0.90) MISSED", "rclone ×8.00 (≥ 8.00) ok"}, 1},
		{"a time is better when shorter", row{"rm", seconds, 2, 1, 40, "", []target{{"", "≤", 3}, {"rclone", "≥", 10}}},
			[]string{"2 s", "(≤ 3 s) ok", "rclone ×20.00 (≥ 10.00) ok", "limit ×0.50"}, 0},
		{"what was not measured misses nothing", row{"x", seconds, 2, none, none, "a note", []target{{"rclone", "≥", 10}}},
			[]string{" - ", "a note"}, 0},
		{"a figure of its own", row{"downloaded", trips, 1.2, 1, none, "", []target{{"", "≤", 1.05}}}, []string{"1.20", "(≤ 1.05) MISSED"}, 1},
	} {
		var out bytes.Buffer
		tab := &table{out: &out}
		tab.row(tt.r)
		for _, w := range tt.want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: %q lacks %q", tt.name, out.String(), w)
			}
		}
		if tab.missed != tt.miss {
			t.Errorf("%s: %d missed, want %d", tt.name, tab.missed, tt.miss)
		}
	}
}

func TestUnits(t *testing.T) {
	for _, tt := range []struct {
		got, want string
	}{
		{bytesText(0), "0 B"}, {bytesText(1536), "1.5 KiB"}, {bytesText(3 * gib), "3 GiB"}, {bytesText(1023 * mib), "1023 MiB"},
		{secondsText(12e-6), "12 µs"}, {secondsText(0.0505), "50.5 ms"}, {secondsText(12.344), "12.3 s"},
		{number(3.14159), "3.14"}, {number(123456), "123456"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestFormulas(t *testing.T) {
	if v := shared(4, 4); v != 2 {
		t.Errorf("two equal stages: %v", v)
	}
	if v := waves(2000, 16, 50*time.Millisecond); v != 6250*time.Millisecond {
		t.Errorf("2000 calls: %v", v)
	}
	if v := perSecond(10, 2*time.Second); v != 5 {
		t.Errorf("perSecond: %v", v)
	}
	if !math.IsNaN(perSecond(10, 0)) {
		t.Error("nothing took no time")
	}
	ds := make([]time.Duration, 50)
	for i := range ds {
		ds[i] = time.Duration(50-i) * time.Millisecond
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 25, 0.99: 50, 1: 50} {
		if v := quantile(ds, q); v != want*time.Millisecond {
			t.Errorf("quantile %v: %v, want %v ms", q, v, int64(want))
		}
	}
	if ds[0] != 50*time.Millisecond {
		t.Error("quantile sorted its argument")
	}
}

func TestProcParsing(t *testing.T) {
	if v, err := cpuOf("12 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20"); err != nil || v != 2*time.Second {
		t.Errorf("cpuOf: %v %v", v, err)
	}
	for _, bad := range []string{"", "12 (x) S 1 2", "12 x S 1 2 3 4 5 6 7 8 9 10 a b"} {
		if _, err := cpuOf(bad); err == nil {
			t.Errorf("cpuOf(%q) succeeded", bad)
		}
	}
	text := "Name:\tx\nRssAnon:\t    1234 kB\nRssShmem:\t   0 kB\nEmpty:\n"
	if v, ok := field(text, "RssAnon"); !ok || v != 1234 {
		t.Errorf("RssAnon: %d %v", v, ok)
	}
	for _, name := range []string{"Rss", "Empty", "None"} {
		if _, ok := field(text, name); ok {
			t.Errorf("field %s was found", name)
		}
	}
	if c := (stats{Requests: map[string]int{"content.upload": 2, "content.download": 3, "nodes.get": 1}}); c.calls() != 6 || c.calls("content.") != 5 || c.calls("trash.", "nodes.") != 1 {
		t.Errorf("calls: %d %d %d", c.calls(), c.calls("content."), c.calls("trash.", "nodes."))
	}
}

func TestNoise(t *testing.T) {
	a, _ := io.ReadAll(noise(1, 200_001))
	again, _ := io.ReadAll(noise(1, 200_001))
	other, _ := io.ReadAll(noise(2, 200_001))
	if len(a) != 200_001 || !bytes.Equal(a, again) || bytes.Equal(a, other) {
		t.Error("noise is not what its seed says")
	}
	if bytes.Equal(a[:65536], a[65536:131072]) {
		t.Error("blocks are alike")
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if _, _, err := writeFile(t.Context(), path, 3*mib+5, mib); err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(t.Context(), path, 3*mib+5, 4096); err != nil {
		t.Error(err)
	}
	if _, err := readAll(t.Context(), path, 3*mib, 4096); err == nil {
		t.Error("a wrong size went unnoticed")
	}
	if ds, err := seeks(t.Context(), path, 3*mib, 4096, 10, 1); err != nil || len(ds) != 10 {
		t.Errorf("seeks: %v %v", ds, err)
	}
	if err := readPart(t.Context(), path, mib, 2*mib, 100_000); err != nil {
		t.Error(err)
	}
	if err := localTree(filepath.Join(dir, "tree"), 101, 10); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "tree/d001/f00100.bin")); err != nil || fi.Size() != 10 {
		t.Errorf("%v %v", fi, err)
	}
	if n, err := sizeOf(filepath.Join(dir, "tree")); err != nil || n < 101 {
		t.Errorf("sizeOf: %d %v", n, err)
	}
	if wait, where, err := walk(t.Context(), dir); err != nil || wait <= 0 || where == "" {
		t.Errorf("walk: %v %q %v", wait, where, err)
	}
}
