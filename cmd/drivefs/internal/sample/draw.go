package sample

import (
	"image"
	"image/color"
	"math"
	"slices"
)

// palette of one landscape: sky at the top and at the horizon, sun or moon,
// nearest mountains.
type palette struct{ top, low, disc, near [3]float64 }

var palettes = []palette{
	{[3]float64{96, 140, 200}, [3]float64{255, 214, 170}, [3]float64{255, 244, 214}, [3]float64{38, 52, 66}},
	{[3]float64{40, 110, 200}, [3]float64{190, 225, 250}, [3]float64{255, 255, 240}, [3]float64{30, 70, 50}},
	{[3]float64{60, 40, 110}, [3]float64{255, 120, 60}, [3]float64{255, 220, 120}, [3]float64{30, 18, 40}},
	{[3]float64{6, 10, 34}, [3]float64{40, 60, 110}, [3]float64{230, 235, 250}, [3]float64{4, 6, 14}},
}

// landscape draws a sky, a disc and five ridges that fade with distance.
func landscape(w, h, scene int) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	p := palettes[scene%len(palettes)]
	dx, dy, r := float64(w)*(0.2+0.18*float64(scene)), float64(h)*0.3, float64(h)*0.07
	const ridges = 5
	heights := make([][]float64, ridges)
	for i := range heights {
		heights[i] = make([]float64, w)
		for x := range heights[i] {
			heights[i][x] = ridge(float64(x)/float64(w), i, scene) * float64(h)
		}
	}
	for y := range h {
		t := float64(y) / float64(h)
		sky := mix(p.top, p.low, math.Min(1, t*1.6))
		for x := range w {
			c := sky
			if d := math.Hypot(float64(x)-dx, float64(y)-dy); d < r {
				c = p.disc
			} else if d < 4*r {
				c = mix(p.disc, c, math.Sqrt((d-r)/(3*r)))
			}
			for i := range ridges {
				if float64(y) > heights[i][x] {
					c = mix(p.low, p.near, 0.25+0.75*float64(i)/(ridges-1))
				}
			}
			set(img, x, y, c)
		}
	}
	return img
}

// ridge is where mountains of one distance begin, as a part of the height.
func ridge(x float64, distance, scene int) float64 {
	base := 0.48 + 0.11*float64(distance)
	s := float64(distance*7 + scene*13)
	y := 0.0
	for octave := range 5 {
		f := math.Pow(2, float64(octave))
		y += math.Abs(math.Sin(x*f*(2.1+0.3*float64(distance))+s*1.7+f)) / f
	}
	return base - 0.1*(y-0.7)
}

// fractal is the Mandelbrot set.
func fractal(w, h int) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	const most = 120
	for y := range h {
		for x := range w {
			c := complex(3*float64(x)/float64(w)-2.2, 2*float64(y)/float64(h)-1)
			z, n := c, 0
			for ; n < most && real(z)*real(z)+imag(z)*imag(z) < 16; n++ {
				z = z*z + c
			}
			if n == most {
				set(img, x, y, [3]float64{})
				continue
			}
			t := (float64(n) + 1 - math.Log2(math.Log(math.Hypot(real(z), imag(z))))) / 14
			set(img, x, y, [3]float64{127 + 127*math.Sin(t*6.3), 127 + 127*math.Sin(t*6.3+2), 127 + 127*math.Sin(t*6.3+4)})
		}
	}
	return img
}

// stage is what the ball bounces in: sky and ground.
func stage(w, h int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		c := mix([3]float64{30, 50, 100}, [3]float64{200, 220, 245}, float64(y)/float64(h)/0.8)
		if float64(y) > float64(h)*0.8 {
			c = [3]float64{70, 110, 70}
		}
		for x := range w {
			set(img, x, y, c)
		}
	}
	return img
}

// frame is a copy of the stage with the ball and its shadow as they are at a
// time in seconds.
func frame(stage *image.RGBA, at float64) image.Image {
	img := &image.RGBA{Pix: slices.Clone(stage.Pix), Stride: stage.Stride, Rect: stage.Rect}
	w, h := float64(stage.Rect.Dx()), float64(stage.Rect.Dy())
	r := h / 9
	cx := bounce(at*0.23)*(w-2*r) + r
	top := (1 - math.Abs(math.Sin(at*math.Pi))) * (h*0.8 - 2*r)
	disc(img, cx, h*0.83, r*(0.6+0.4*top/h), 4, func(float64, float64) [3]float64 { return [3]float64{45, 75, 45} })
	disc(img, cx, top+r, r, 1, func(x, y float64) [3]float64 {
		light := 1 - math.Hypot(x+0.3*r, y+0.4*r)/(1.9*r)
		return mix([3]float64{90, 10, 10}, [3]float64{255, 150, 110}, light)
	})
	return img
}

// disc fills a disc, flat times lower than wide, with the colour at each
// distance from its centre.
func disc(img *image.RGBA, cx, cy, r, flat float64, colour func(x, y float64) [3]float64) {
	for y := math.Floor(cy - r); y <= cy+r; y++ {
		for x := math.Floor(cx - r); x <= cx+r; x++ {
			if p := image.Pt(int(x), int(y)); math.Hypot(x-cx, flat*(y-cy)) < r && p.In(img.Rect) {
				set(img, p.X, p.Y, colour(x-cx, y-cy))
			}
		}
	}
}

// bounce goes from 0 to 1 and back.
func bounce(t float64) float64 { return 1 - math.Abs(math.Mod(t, 2)-1) }

func mix(a, b [3]float64, t float64) [3]float64 {
	t = math.Max(0, math.Min(1, t))
	for i := range a {
		a[i] += (b[i] - a[i]) * t
	}
	return a
}

func set(img *image.RGBA, x, y int, c [3]float64) {
	img.SetRGBA(x, y, color.RGBA{uint8(c[0]), uint8(c[1]), uint8(c[2]), 255})
}
