package chunk

import (
	"path"
	"strings"
)

// What a name tells about how the bytes will be read. Only habits depend on
// it, never correctness.

var images = extensions("jpg jpeg jpe png gif webp heic heif avif bmp tif tiff svg ico dng cr2 cr3 nef arw orf raf rw2")

var (
	films  = extensions("mp4 m4v mov mkv webm avi ts m2ts mts wmv flv mpg mpeg vob ogv 3gp divx")
	sounds = extensions("mp3 flac m4a m4b aac ogg oga opus wav aif aiff wma ape mka ac3 dts")
)

func extensions(list string) map[string]bool {
	m := make(map[string]bool)
	for _, e := range strings.Fields(list) {
		m["."+e] = true
	}
	return m
}

func isImage(name string) bool { return images[strings.ToLower(path.Ext(name))] }

// isMedia covers pictures too: their heads are read by every scan.
func isMedia(name string) bool {
	return isFilm(name) || isImage(name) || sounds[strings.ToLower(path.Ext(name))]
}

func isFilm(name string) bool { return films[strings.ToLower(path.Ext(name))] }

// lookSize is how much is fetched where reading begins. Whatever looks into a
// film reads a MiB of its head in steps, and often a bit of its end after the
// first of them; and where a player jumps to, it reads on, from the whole
// picture before that place: a second request would be a second round trip.
func lookSize(name string) int64 {
	if isFilm(name) {
		return 1 << 20
	}
	return firstFetch
}

// wholeSize is up to what size a file is fetched by one request at its first
// read. Pictures and documents are read whole; of sound and film a scan wants
// the head only.
func wholeSize(name string) int64 {
	switch {
	case isImage(name):
		return chunkSize
	case isMedia(name):
		return 512 << 10
	default:
		return 2 << 20
	}
}

// isEdge reports whether chunk index holds the head or the tail of v, where
// media keep what a library scan reads. A short last chunk leaves part of the
// tail in the one before.
func (v *Version) isEdge(index int64) bool {
	last := (v.Size - 1) / chunkSize
	return index == 0 || index == last || index == last-1 && v.Size-last*chunkSize < 1<<20
}
