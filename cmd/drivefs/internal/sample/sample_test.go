package sample

import (
	"encoding/binary"
	"image"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	if err := Write(dir); err != nil {
		t.Fatal(err)
	}
	pictures, total := 0, int64(0)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		total += st.Size()
		switch filepath.Ext(path) {
		case ".jpg", ".png":
			pictures++
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			if img, _, err := image.Decode(f); err != nil || img.Bounds().Dx() < 640 {
				t.Errorf("%s: %v", path, err)
			}
		case ".wav", ".avi":
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			riff(t, path, data)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if pictures < 5 || total > 32<<20 {
		t.Errorf("%d pictures, %d bytes in all", pictures, total)
	}
	if ffprobe, err := exec.LookPath("ffprobe"); err == nil {
		play(t, ffprobe, filepath.Join(dir, "Videos/Bouncing ball.avi"), "mjpeg", "pcm_s16le")
		play(t, ffprobe, filepath.Join(dir, "Music/Scale.wav"), "pcm_s16le")
	} else {
		t.Log("ffprobe is not installed: players were not asked")
	}
}

// riff walks the chunks: their sizes must add up at every level.
func riff(t *testing.T, path string, b []byte) {
	t.Helper()
	for len(b) > 0 {
		if len(b) < 8 {
			t.Fatalf("%s: %d bytes are no chunk", path, len(b))
		}
		name, size := string(b[:4]), int(binary.LittleEndian.Uint32(b[4:]))
		if 8+size+size%2 > len(b) {
			t.Fatalf("%s: chunk %q of %d bytes reaches beyond its list", path, name, size)
		}
		if name == "RIFF" || name == "LIST" {
			riff(t, path, b[12:8+size])
		}
		b = b[8+size+size%2:]
	}
}

// play lets ffprobe decode everything and say what it saw.
func play(t *testing.T, ffprobe, path string, codecs ...string) {
	t.Helper()
	out, err := exec.Command(ffprobe, "-v", "error", "-count_frames", "-show_entries", "stream=codec_name,nb_read_frames,duration", "-of", "csv=p=0", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", path, err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(codecs) {
		t.Fatalf("%s: %s", path, out)
	}
	for i, codec := range codecs {
		if !strings.HasPrefix(lines[i], codec+",") {
			t.Errorf("%s: %s is not %s", path, lines[i], codec)
		}
	}
	t.Logf("%s: %s", filepath.Base(path), strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", " | "))
}
