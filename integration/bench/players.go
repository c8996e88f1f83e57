package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// media are the files a scanner meets, made on the spot: name, and what
// ffmpeg is told.
var media = []struct {
	name string
	args []string
}{
	// Without +faststart the index comes last.
	{"film.mp4", []string{"-f", "lavfi", "-i", "testsrc2=s=640x360:r=25", "-f", "lavfi", "-i", "sine", "-t", "20", "-vf", "noise=alls=40:allf=t", "-c:v", "mpeg4", "-b:v", "12M", "-c:a", "aac"}},
	{"film.mkv", []string{"-f", "lavfi", "-i", "testsrc2=s=640x360:r=25", "-f", "lavfi", "-i", "sine", "-t", "20", "-vf", "noise=alls=40:allf=t", "-c:v", "mpeg4", "-b:v", "12M", "-c:a", "aac"}},
	{"song.mp3", []string{"-f", "lavfi", "-i", "anoisesrc", "-t", "120", "-c:a", "libmp3lame", "-b:a", "192k", "-metadata", "title=noise"}},
}

func runPlayers(ctx context.Context, b *bench, t *table) error {
	for _, p := range []string{"ffmpeg", "ffprobe"} {
		if _, err := exec.LookPath(p); err != nil {
			t.note("%s is not installed", p)
			return nil
		}
	}
	d, err := b.startDrive(line())
	if err != nil {
		return err
	}
	at := b.dir("media")
	if err := os.MkdirAll(at, 0o700); err != nil {
		return err
	}
	copies := pick(b, 20, 67) // of each: the library
	contents := map[string][]byte{}
	for _, m := range media {
		path := filepath.Join(at, m.name)
		args := append(append([]string{"ffmpeg", "-nostdin", "-v", "error"}, m.args...), path)
		if _, err := b.command(ctx, nil, args...); err != nil {
			return err
		}
		if contents[m.name], err = os.ReadFile(path); err != nil {
			return err
		}
		for i := range copies {
			name := fmt.Sprintf("library/%02d-%s", i, m.name)
			if err := d.ask(ctx, "put", values("path", name), bytes.NewReader(contents[m.name]), nil); err != nil {
				return err
			}
		}
		if err := d.ask(ctx, "put", values("path", "one/"+m.name), bytes.NewReader(contents[m.name]), nil); err != nil {
			return err
		}
	}
	s, err := b.mount(d)
	if err != nil {
		return err
	}
	defer func() { s.drop() }()
	if err := s.complete(ctx); err != nil {
		return err
	}
	probe := func(path string) (time.Duration, error) {
		return b.command(ctx, nil, "ffprobe", "-v", "error", "-show_format", "-show_streams", path)
	}
	for _, m := range media {
		path := s.path("one", m.name)
		if err := stat(path); err != nil {
			return err
		}
		if _, err := d.take(ctx); err != nil {
			return err
		}
		cold, err := probe(path)
		if err != nil {
			return err
		}
		warm, err := probe(path) // the program's own time
		if err != nil {
			return err
		}
		seen, err := d.take(ctx)
		if err != nil {
			return err
		}
		wait := max(0, cold-warm)
		t.row(row{fmt.Sprintf("ffprobe %s (%s): round trips waited", m.name, bytesText(float64(len(contents[m.name])))), trips,
			float64(wait) / float64(lineLatency), none, none, fmt.Sprintf("%d requests", seen.calls("content.")), []target{{"", "≤", 3}}})
		t.row(row{"… downloaded", size, float64(seen.Out), none, none, "", []target{{"", "≤", 2 * mib}}})
	}
	// A scanner over everything, and again after a restart.
	scan := func() (time.Duration, float64, error) {
		if _, err := d.take(ctx); err != nil {
			return 0, 0, err
		}
		began := time.Now()
		for i := range copies {
			for _, m := range media {
				if _, err := probe(s.path("library", fmt.Sprintf("%02d-%s", i, m.name))); err != nil {
					return 0, 0, err
				}
			}
		}
		took := time.Since(began)
		seen, err := d.take(ctx)
		return took, float64(seen.Out), err
	}
	took, out, err := scan()
	if err != nil {
		return err
	}
	t.row(row{fmt.Sprintf("ffprobe of %d files: downloaded", copies*len(media)), size, out, none, none, fmt.Sprintf("%.1f s", took.Seconds()), nil})
	if err := s.again(ctx); err != nil {
		return err
	}
	took, out, err = scan()
	if err != nil {
		return err
	}
	t.row(row{"… again after a restart: downloaded", size, out, none, none, fmt.Sprintf("%.1f s", took.Seconds()), []target{{"", "≤", 0}}})

	// Into the middle of a film that nobody read yet.
	if err := s.stop(ctx); err != nil {
		return err
	}
	if s, err = b.mount(d); err != nil {
		return err
	}
	if err := s.complete(ctx); err != nil {
		return err
	}
	middle := func() (time.Duration, error) {
		return b.command(ctx, nil, "ffmpeg", "-nostdin", "-v", "error", "-ss", "10", "-i", s.path("one/film.mp4"), "-frames:v", "1", "-f", "null", "-")
	}
	if _, err := d.take(ctx); err != nil {
		return err
	}
	cold, err := middle()
	if err != nil {
		return err
	}
	warm, err := middle()
	if err != nil {
		return err
	}
	seen, err := d.take(ctx)
	if err != nil {
		return err
	}
	t.row(row{"ffmpeg -ss to the middle of film.mp4: round trips waited", trips, float64(max(0, cold-warm)) / float64(lineLatency), none, none,
		fmt.Sprintf("%d requests, %s", seen.calls("content."), bytesText(float64(seen.Out))), []target{{"", "≤", 4}}})
	return b.playFilm(ctx, t)
}

// playFilm plays at 80 ms and counts what a viewer would notice.
func (b *bench) playFilm(ctx context.Context, t *table) error {
	if _, err := exec.LookPath("mpv"); err != nil {
		t.note("mpv is not installed")
		return nil
	}
	c := line()
	c.Latency = 80 * time.Millisecond
	d, err := b.startDrive(c)
	if err != nil {
		return err
	}
	length := pick(b, 10, 60)
	path := filepath.Join(b.dir("film"), "film.mkv")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// MPEG-4 at a fixed 20 Mbit/s: small pictures with much noise.
	if _, err := b.command(ctx, nil, "ffmpeg", "-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc2=s=640x360:r=25", "-t", fmt.Sprint(length+10),
		"-vf", "noise=alls=60:allf=t", "-c:v", "mpeg2video", "-b:v", "20M", "-minrate", "20M", "-maxrate", "20M", "-bufsize", "8M", path); err != nil {
		return err
	}
	film, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := d.ask(ctx, "put", values("path", "film.mkv"), bytes.NewReader(film), nil); err != nil {
		return err
	}
	s, err := b.mount(d)
	if err != nil {
		return err
	}
	defer s.drop()
	if err := s.complete(ctx); err != nil {
		return err
	}
	play := func(path string) (time.Duration, error) {
		return b.command(ctx, nil, "mpv", "--no-config", "--vo=null", "--ao=null", "--cache=no", "--really-quiet", "--untimed=no",
			"--start=5", fmt.Sprintf("--length=%d", length), path)
	}
	local, err := play(path)
	if err != nil {
		return err
	}
	took, err := play(s.path("film.mkv"))
	if err != nil {
		return err
	}
	t.row(row{fmt.Sprintf("mpv plays %d s of 20 Mbit/s from 0:05 at 80 ms: longer than local", length), seconds, max(0, (took - local).Seconds()), none, none,
		"the start's own round trips included", []target{{"", "≤", 0.5}}})
	return nil
}
