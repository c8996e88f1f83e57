package sample

import (
	"bytes"
	"image/jpeg"
	"runtime"

	"golang.org/x/sync/errgroup"
)

const fps = 25

// video is an AVI of Motion JPEG and PCM with an index, which players seek by.
// Source: the AVI RIFF file reference of DirectShow.
func video(w, h, seconds int) ([]byte, error) {
	frames := make([][]byte, seconds*fps)
	back := stage(w, h)
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range frames {
		g.Go(func() error {
			var b bytes.Buffer
			err := jpeg.Encode(&b, frame(back, float64(i)/fps), &jpeg.Options{Quality: 80})
			frames[i] = b.Bytes()
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	sound := little(tune(seconds))
	const perFrame = rate / fps * 2 // bytes
	var movi, index [][]byte
	at, most := uint32(4), 0 // offsets count from the list's kind
	add := func(name string, data []byte) {
		c := chunk(name, data)
		movi = append(movi, c)
		const keyFrame = 0x10
		index = append(index, fields(name, uint32(keyFrame), at, uint32(len(data))))
		at += uint32(len(c))
		most = max(most, len(data))
	}
	for i, f := range frames {
		add("00dc", f)
		add("01wb", sound[i*perFrame:(i+1)*perFrame])
	}
	n := uint32(len(frames))
	const hasIndex, interleaved = 0x10, 0x100
	header := fields(uint32(1e6/fps), uint32((most+perFrame)*fps), uint32(0), uint32(hasIndex|interleaved),
		n, uint32(0), uint32(2), uint32(most), uint32(w), uint32(h), uint32(0), uint32(0), uint32(0), uint32(0))
	picture := list("strl",
		chunk("strh", fields("vids", "MJPG", uint32(0), uint32(0), uint32(0), uint32(1), uint32(fps), uint32(0), n,
			uint32(most), ^uint32(0), uint32(0), uint16(0), uint16(0), uint16(w), uint16(h))),
		chunk("strf", fields(uint32(40), uint32(w), uint32(h), uint16(1), uint16(24), "MJPG", uint32(w*h*3), uint32(0), uint32(0), uint32(0), uint32(0))))
	audio := list("strl",
		chunk("strh", fields("auds", uint32(0), uint32(0), uint32(0), uint32(0), uint32(1), uint32(rate), uint32(0), uint32(len(sound)/2),
			uint32(perFrame), ^uint32(0), uint32(2), uint16(0), uint16(0), uint16(0), uint16(0))),
		chunk("strf", pcm()))
	return chunk("RIFF", []byte("AVI "),
		list("hdrl", chunk("avih", header), picture, audio),
		list("movi", movi...), chunk("idx1", index...)), nil
}
