package drivetest

import (
	"bytes"
	"image"
	_ "image/gif" // decoders of what viewBox takes
	"image/jpeg"
	_ "image/png"
	"net/http"
	"strconv"
	"strings"
)

// serveView answers viewBox=N: the picture, shrunk to fit N × N (§7.4).
func (c *call) serveView(n *node) (reply, *apiError) {
	box, err := strconv.Atoi(c.q.Get("viewBox"))
	if err != nil || box < 1 || !strings.HasPrefix(n.content.contentType, "image/") {
		return reply{}, badRequest("viewBox is not supported for this node")
	}
	f, _, err := c.openBlob(n)
	if err != nil {
		return reply{}, notFound(n.id)
	}
	defer f.Close()
	img, _, err := image.Decode(f)
	if err != nil {
		return reply{}, badRequest("viewBox is not supported for this node")
	}
	var out bytes.Buffer
	if err := jpeg.Encode(&out, shrink(img, box), nil); err != nil {
		return reply{}, broken(err)
	}
	c.served(int64(out.Len()))
	return reply{status: http.StatusOK, header: map[string]string{"Content-Type": "image/jpeg"}, body: out.Bytes()}, nil
}

// shrink takes the nearest pixel; it never enlarges.
func shrink(img image.Image, box int) image.Image {
	b := img.Bounds()
	longest := max(b.Dx(), b.Dy())
	if longest <= box {
		return img
	}
	w, h := max(1, b.Dx()*box/longest), max(1, b.Dy()*box/longest)
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			out.Set(x, y, img.At(b.Min.X+x*b.Dx()/w, b.Min.Y+y*b.Dy()/h))
		}
	}
	return out
}
