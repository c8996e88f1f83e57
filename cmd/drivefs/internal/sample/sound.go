package sample

import (
	"encoding/binary"
	"math"
)

// rate of all sound: samples a second, 16 bits, one channel.
const rate = 22050

// tune is a scale up and down for so many seconds.
func tune(seconds int) []int16 {
	steps := []float64{0, 2, 4, 5, 7, 9, 11, 12, 11, 9, 7, 5, 4, 2}
	out := make([]int16, seconds*rate)
	const note = rate / 2
	for i := range out {
		in := float64(i%note) / rate
		f := 261.63 * math.Pow(2, steps[i/note%len(steps)]/12)
		fade := math.Min(1, in*200) * math.Exp(-4*in)
		wave := math.Sin(2*math.Pi*f*in) + 0.4*math.Sin(4*math.Pi*f*in) + 0.15*math.Sin(6*math.Pi*f*in)
		out[i] = int16(12000 * fade * wave)
	}
	return out
}

// chunk is one RIFF chunk: name, size, data, padded to an even length.
func chunk(name string, parts ...[]byte) []byte {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	b := make([]byte, 0, 8+size+size%2)
	b = append(b, name...)
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	for _, p := range parts {
		b = append(b, p...)
	}
	return b[:len(b)+size%2]
}

func list(kind string, parts ...[]byte) []byte {
	return chunk("LIST", append([][]byte{[]byte(kind)}, parts...)...)
}

// fields packs little-endian numbers; uint16 and uint32 only.
func fields(values ...any) []byte {
	var b []byte
	for _, v := range values {
		switch v := v.(type) {
		case uint16:
			b = binary.LittleEndian.AppendUint16(b, v)
		case uint32:
			b = binary.LittleEndian.AppendUint32(b, v)
		case string:
			b = append(b, v...)
		}
	}
	return b
}

// pcm describes our sound: WAVEFORMATEX without its extension.
func pcm() []byte {
	return fields(uint16(1), uint16(1), uint32(rate), uint32(rate*2), uint16(2), uint16(16))
}

func little(samples []int16) []byte {
	b := make([]byte, 0, 2*len(samples))
	for _, s := range samples {
		b = binary.LittleEndian.AppendUint16(b, uint16(s))
	}
	return b
}

func wav(samples []int16) []byte {
	return chunk("RIFF", []byte("WAVE"), chunk("fmt ", pcm()), chunk("data", little(samples)))
}
