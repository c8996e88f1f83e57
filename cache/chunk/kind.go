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

// isEdge reports whether chunk index holds the head or the tail of v, where
// media keep what a library scan reads. A short last chunk leaves part of the
// tail in the one before.
func (v *Version) isEdge(index int64) bool {
	last := (v.Size - 1) / chunkSize
	return index == 0 || index == last || index == last-1 && v.Size-last*chunkSize < 1<<20
}
