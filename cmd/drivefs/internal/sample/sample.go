package sample

import (
	"bytes"
	"fmt"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// file is one sample; made is called when its turn comes.
type file struct {
	name string
	date time.Time
	made func() ([]byte, error)
}

func text(s string) func() ([]byte, error) {
	return func() ([]byte, error) { return []byte(s), nil }
}

func photo(scene int) func() ([]byte, error) {
	return func() ([]byte, error) {
		var b bytes.Buffer
		err := jpeg.Encode(&b, landscape(960, 640, scene), &jpeg.Options{Quality: 88})
		return b.Bytes(), err
	}
}

func diagram() ([]byte, error) {
	var b bytes.Buffer
	err := png.Encode(&b, fractal(720, 480))
	return b.Bytes(), err
}

func day(y int, m time.Month, d int) time.Time { return time.Date(y, m, d, 12, 0, 0, 0, time.UTC) }

func files() []file {
	fs := []file{
		{"Read me first.txt", day(2024, 3, 1), text(readMe)},
		{"Documents/Reading list.md", day(2024, 2, 11), text(readingList)},
		{"Documents/Household/Budget 2024.csv", day(2024, 1, 7), text(budget())},
		{"Documents/Household/Grüße aus München.txt", day(2023, 12, 20), text("Names keep their letters: ü, ß, 日本, émoji 🏔.\n")},
		{"Pictures/Fractal.png", day(2023, 5, 4), diagram},
		{"Music/Scale.wav", day(2022, 8, 15), func() ([]byte, error) { return wav(tune(8)), nil }},
		{"Videos/Bouncing ball.avi", day(2024, 2, 29), func() ([]byte, error) { return video(640, 360, 10) }},
	}
	for i, name := range []string{"Morning", "Noon", "Evening", "Night"} {
		fs = append(fs, file{fmt.Sprintf("Pictures/Mountains/%d %s.jpg", i+1, name), day(2023, 7, 10+i), photo(i)})
	}
	return fs
}

// Write makes the samples below dir.
func Write(dir string) error {
	for _, f := range files() {
		data, err := f.made()
		if err != nil {
			return fmt.Errorf("drawing %s: %w", f.name, err)
		}
		path := filepath.Join(dir, filepath.FromSlash(f.name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
		if err := os.Chtimes(path, f.date, f.date); err != nil {
			return err
		}
	}
	return nil
}

const readMe = `This is a drive that lives in a folder of your machine and speaks the
Amazon Drive API. What you change here is kept for the next demo.

  Open the pictures, play the video, seek in it.
  Copy something in:        cp -r /usr/share/doc/bash .
  Edit this file with any editor, or rename a folder.
  Delete something:         rm "Documents/Reading list.md"
  See it in the trash:      drivefs trash list --profile demo
  and put it back:          drivefs trash restore --profile demo "/Documents/Reading list.md"
  Watch what happens:       drivefs status --watch --profile demo
`

const readingList = `# Reading list

- [x] The Design and Implementation of a Log-Structured File System
- [ ] End-to-End Arguments in System Design
- [ ] A Fast File System for UNIX
`

func budget() string {
	var b strings.Builder
	b.WriteString("Month,Rent,Food,Travel,Books\n")
	for m := time.January; m <= time.December; m++ {
		n := int(m)
		fmt.Fprintf(&b, "%s,900,%d,%d,%d\n", m, 300+n*7%41, n*53%190, n*17%45)
	}
	return b.String()
}
